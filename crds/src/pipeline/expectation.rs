//! Quality rules of tables: over one row, over the rows of a run, over the table that a run would make, and between tables.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::HumanDuration;

/// A quality rule. Exactly one of `row`, `batch`, `table`, `unique`, `freshness`, `references`, `distribution`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.row), has(self.batch), has(self.table), has(self.unique), has(self.freshness), has(self.references), has(self.distribution)].filter(x, x).size() == 1").message("an expectation needs exactly one of row, batch, table, unique, freshness, references, distribution"))]
#[x_kube(validation = Rule::new("!has(self.batch) || self.otherwise == 'warn' || self.otherwise == 'fail'").message("a batch expectation can only warn or fail: a row is needed to quarantine or drop"))]
#[x_kube(validation = Rule::new("!(has(self.table) || has(self.unique) || has(self.freshness) || has(self.distribution)) || self.otherwise == 'warn' || self.otherwise == 'fail'").message("an expectation of table, unique, freshness or distribution can only warn or fail: it is not about one row"))]
#[x_kube(validation = Rule::new("!has(self.references) || self.otherwise != 'drop'").message("an expectation of references can warn, quarantine or fail: the partner of a row may come later, and a dropped row would be lost"))]
pub struct Expectation {
    /// Name that reports and quarantined rows carry.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z][a-z0-9_]*$"))]
    pub name: String,
    /// SQL condition over the columns of one row; false or null breaks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub row: Option<String>,
    /// SQL condition of aggregates over the rows that this run would write, such as `count(*) >= 10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub batch: Option<String>,
    /// SQL condition of aggregates over the whole table as it will be with the rows of this run, such as `count(*) >= 1000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub table: Option<String>,
    /// Columns whose values, together, stand in one row of the whole table at most. Rows with a null among them are not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    pub unique: Option<Vec<String>>,
    /// The newest value of a column is not too old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Freshness>,
    /// Every row has a partner in another silver table of the pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<References>,
    /// Statistics of a column over the rows that this run would write lie within bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution: Option<Distribution>,
    /// What happens when it is broken.
    pub otherwise: Otherwise,
}

/// The newest value of a column, among those before the end of the run's interval, is at most so much older than that end.
///
/// The clock of the wall has no part in it: an interval that is run again, or late, has the same verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Freshness {
    /// Column of type date, timestamp or timestamptz.
    #[schemars(length(min = 1, max = 128))]
    pub column: String,
    /// Longest time between the newest value and the end of the interval.
    pub max_age: HumanDuration,
}

/// Rows whose columns have no equal in the other table break the rule. A row with a null among them is not looked at.
///
/// The other table is taken as it will be with the rows of the same run; by a model as the run reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct References {
    /// Name of another silver table of the pipeline. In a rule of a model: `silver.NAME` or `gold.NAME`.
    #[schemars(length(min = 1, max = 70), regex(pattern = r"^((silver|gold)\.)?[a-z][a-z0-9_]*$"))]
    pub table: String,
    /// Column of this table → column of the other one, of the same type.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 8))]
    pub columns: BTreeMap<String, String>,
}

/// Bounds of statistics of one column over the rows that a run would write. Nulls count only in `nullRatio`; a statistic of no values breaks
/// its bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.mean) || has(self.standardDeviation) || has(self.nullRatio) || has(self.distinctRatio) || (has(self.quantiles) && self.quantiles.size() > 0)").message("distribution needs at least one of mean, standardDeviation, nullRatio, distinctRatio, quantiles"))]
pub struct Distribution {
    /// The column; of a number, but for `nullRatio` and `distinctRatio`.
    #[schemars(length(min = 1, max = 128))]
    pub column: String,
    /// The mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Bounds>,
    /// The standard deviation of a sample (n - 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_deviation: Option<Bounds>,
    /// The share of nulls among all rows, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null_ratio: Option<Bounds>,
    /// The number of distinct values over the number of values that are not null, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinct_ratio: Option<Bounds>,
    /// Quantiles, interpolated between the two nearest values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub quantiles: Vec<Quantile>,
    /// With how many earlier intervals `changeAtMost` compares, 7 unless said: the newest that end before this one begins and whose results are in
    /// `quality.results`. Where there are fewer, it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub against: Option<i32>,
}

/// [`Distribution::against`] where nothing is said.
pub const DEFAULT_AGAINST: i32 = 7;

impl Distribution {
    /// Whether a statistic is compared with those of earlier intervals.
    pub fn looks_back(&self) -> bool {
        let bounds = [self.mean, self.standard_deviation, self.null_ratio, self.distinct_ratio];
        let quantiles = self.quantiles.iter().map(|quantile| quantile.change_at_most);
        bounds.into_iter().map(|bounds| bounds?.change_at_most).chain(quantiles).any(|change| change.is_some())
    }

    /// With how many earlier intervals it compares.
    pub fn earlier_intervals(&self) -> usize {
        self.against.unwrap_or(DEFAULT_AGAINST).unsigned_abs() as usize
    }
}

/// Inclusive bounds of a statistic, at least one of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.min) || has(self.max) || has(self.changeAtMost)").message("bounds need at least one of min, max, changeAtMost"))]
pub struct Bounds {
    /// Smallest value that is in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Greatest value that is in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Greatest difference from the mean of the values of earlier intervals that is in order, as a share of that mean: 0.5 is half of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub change_at_most: Option<f64>,
}

/// A quantile and its inclusive bounds, at least one of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.min) || has(self.max) || has(self.changeAtMost)").message("bounds need at least one of min, max, changeAtMost"))]
pub struct Quantile {
    /// Which one, from 0 to 1: 0.5 is the median.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub at: f64,
    /// Smallest value that is in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Greatest value that is in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Greatest difference from the mean of the values of earlier intervals that is in order, as a share of that mean: 0.5 is half of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub change_at_most: Option<f64>,
}

impl Quantile {
    /// Its bounds.
    pub const fn bounds(&self) -> Bounds {
        Bounds { min: self.min, max: self.max, change_at_most: self.change_at_most }
    }
}

impl Expectation {
    /// Whether it is about the whole table as a run would make it, so that it can be checked only once the run's rows are staged.
    pub const fn is_of_table(&self) -> bool {
        self.table.is_some() || self.unique.is_some() || self.freshness.is_some()
    }
}

/// What happens when an expectation is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Otherwise {
    /// Count and report.
    Warn,
    /// Put the row into the quarantine table.
    Quarantine,
    /// Leave the row out and count it.
    Drop,
    /// Fail the stage; nothing is committed.
    Fail,
}
