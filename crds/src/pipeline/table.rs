//! How a table is stored and written: format, partitions, sort order, write mode. Shared by silver and gold.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a table is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.bloomFilters) || self.bloomFilters.size() == 0 || !has(self.format) || self.format == 'iceberg'").message("bloomFilters needs format iceberg: other formats have no property by which a table keeps them"))]
#[x_kube(validation = Rule::new("!has(self.format) || self.format != 'delta' || !has(self.partitionBy) || self.partitionBy.all(p, !p.contains('('))").message("partitionBy: delta tables are partitioned by columns as they are, not by transforms"))]
pub struct TableLayout {
    /// iceberg (the default), delta or parquet.
    #[serde(default)]
    pub format: TableFormat,
    /// Partition fields: `column`, `year(c)`, `month(c)`, `day(c)`, `hour(c)`, `bucket(16, c)`, `truncate(4, c)`. Delta: `column` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 160)))]
    pub partition_by: Vec<String>,
    /// Columns by which rows are sorted within a file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 128)))]
    pub sort_by: Vec<String>,
    /// Columns with a Bloom filter in every new file, for readers that look for single keys. Iceberg only, where they are properties of the table
    /// (`write.parquet.bloom-filter-enabled.column.…`), so that compaction and other writers go on with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 128)))]
    pub bloom_filters: Vec<String>,
    /// Columns that an existing table may lose with all their values. A column that is neither defined nor named here stops the run, so that a
    /// mistake in a name never costs a column. May stay once they are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 128)))]
    pub dropped_columns: Vec<String>,
}

/// A table format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TableFormat {
    /// Apache Iceberg, format version 2.
    #[default]
    Iceberg,
    /// Delta Lake, at `<bucket>/<table>`; partitioned by columns as they are.
    Delta,
    /// Plain Parquet files; no commit log, so no merge, and outside readers that list may see a mix during a commit.
    Parquet,
}

/// How rows enter the table. Exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.append), has(self.replaceInterval), has(self.merge), has(self.overwrite)].filter(x, x).size() == 1").message("write needs exactly one of append, replaceInterval, merge, overwrite"))]
pub struct WriteMode {
    /// Add rows, once per interval and input; a newer input for the interval replaces what the older one appended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append: Option<Append>,
    /// Replace the rows of the run's interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_interval: Option<ReplaceInterval>,
    /// One row per key; the highest sequence wins, in whatever order runs come. With `history` one row per key and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<Merge>,
    /// Replace the whole table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overwrite: Option<Overwrite>,
}

/// Add rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Append {}

/// Replace the whole table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Overwrite {}

/// Replace the rows of the run's interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplaceInterval {
    /// The column of type date, timestamp or timestamptz that places a row in time.
    #[schemars(length(min = 1, max = 128))]
    pub column: String,
    /// What happens to rows that lie outside the run's interval.
    #[serde(default)]
    pub outside: Outside,
}

/// What happens to rows that lie outside the run's interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Outside {
    /// They go to the quarantine table with reason.
    #[default]
    Quarantine,
    /// They are dropped and counted.
    Drop,
    /// The stage fails and commits nothing.
    Fail,
}

/// One row per key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Merge {
    /// Columns that identify a row.
    #[schemars(length(min = 1, max = 8))]
    pub key: Vec<String>,
    /// Columns that order the versions of a row, most significant first. Two different rows with the same key and sequence fail the stage.
    #[schemars(length(min = 1, max = 8), inner(length(min = 1, max = 128)))]
    pub sequence_by: Vec<String>,
    /// Keep every version instead of the last one (slowly changing dimension, type 2; silver tables only). Added columns say when a version is
    /// valid: `valid_from`, the first column of `sequenceBy`; `valid_to`, that of the next version and not included, null for the last one;
    /// `is_current`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub history: bool,
}
