//! Silver tables: explicit columns with types, deduplication, expectations.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    expectation::Expectation,
    table::{TableLayout, WriteMode},
};

/// A typed table made from one source. `processed_at` (the run's creation time) is added to every one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.table) && has(self.table.format) && self.table.format == 'parquet' && has(self.write.merge))").message("write.merge needs format iceberg or delta: parquet tables have no commit log"))]
#[x_kube(validation = Rule::new("!has(self.write.replaceInterval) || self.columns.exists(c, c.name == self.write.replaceInterval.column)").message("write.replaceInterval.column must name a column of the table"))]
#[x_kube(validation = Rule::new("!has(self.write.merge) || self.write.merge.key.all(k, self.columns.exists(c, c.name == k))").message("write.merge.key must name columns of the table"))]
#[x_kube(validation = Rule::new("!has(self.write.merge) || self.write.merge.sequenceBy.all(k, self.columns.exists(c, c.name == k))").message("write.merge.sequenceBy must name columns of the table"))]
#[x_kube(validation = Rule::new("!has(self.write.merge) || !has(self.write.merge.history) || !self.write.merge.history || !self.columns.exists(c, c.name in ['valid_from', 'valid_to', 'is_current'])").message("columns valid_from, valid_to and is_current are added by write.merge.history: choose other names"))]
#[x_kube(validation = Rule::new("!has(self.write.merge) || !has(self.write.merge.history) || !self.write.merge.history || !has(self.unknownFields) || !has(self.unknownFields.capture) || !(self.unknownFields.capture.column in ['valid_from', 'valid_to', 'is_current'])").message("columns valid_from, valid_to and is_current are added by write.merge.history: unknownFields.capture.column must be another"))]
#[x_kube(validation = Rule::new("!has(self.write.merge) || !has(self.write.merge.history) || !self.write.merge.history || self.write.merge.sequenceBy.size() == 0 || self.columns.exists(c, c.name == self.write.merge.sequenceBy[0] && has(c.required) && c.required && c.type in ['date', 'timestamp', 'timestamptz'])").message("write.merge.history: versions begin at the first column of sequenceBy, which must be required and a date, timestamp or timestamptz"))]
#[x_kube(validation = Rule::new("!has(self.unknownFields) || !has(self.unknownFields.capture) || !self.columns.exists(c, c.name == self.unknownFields.capture.column)").message("unknownFields.capture.column must not be one of columns: it is added to them"))]
#[x_kube(validation = Rule::new("!has(self.deduplicate) || self.deduplicate.key.all(k, self.columns.exists(c, c.name == k))").message("deduplicate.key must name columns of the table"))]
pub struct SilverTable {
    /// Table name within the namespace `silver`.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z][a-z0-9_]*$"))]
    pub name: String,
    /// The source whose records become rows.
    #[schemars(length(min = 1, max = 63))]
    pub from: String,
    /// How the table is stored.
    #[serde(default)]
    pub table: TableLayout,
    /// How rows enter the table.
    pub write: WriteMode,
    /// The columns, in the order of the table.
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub columns: Vec<Column>,
    /// Keep one row per key among the rows of one run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deduplicate: Option<Deduplicate>,
    /// What happens to fields of a record that no column takes; without it they are ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_fields: Option<UnknownFields>,
    /// Quality rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub expectations: Vec<Expectation>,
}

/// A column: where its value comes from and what type it must have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.name != 'processed_at'").message("column processed_at is added by the pipeline: choose another name"))]
pub struct Column {
    /// Column name.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[a-z_][a-z0-9_]*$"))]
    pub name: String,
    /// JSON Pointer into the record (`/id`), or one of `$intervalStart`, `$intervalEnd`, `$capturedAt` (when ingest fetched it),
    /// `$document/POINTER` (beside the records, in the document around them), `$object` (bronze key), `$position` (record's number in the object, from 0).
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^(/.*|\$(intervalStart|intervalEnd|capturedAt|object|position)|\$document/.*)$")
    )]
    pub from: String,
    /// string, boolean, int, long, float, double, decimal(P,S), date, timestamp, timestamptz, or json (the value's JSON text).
    #[serde(rename = "type")]
    #[schemars(
        length(max = 32),
        regex(
            pattern = r"^(string|boolean|int|long|float|double|date|timestamp|timestamptz|json|decimal\( ?[0-9]{1,2} ?, ?[0-9]{1,2} ?\))$"
        )
    )]
    pub type_: String,
    /// A missing or null value is a fault of the row.
    #[serde(default)]
    pub required: bool,
    /// What a number means in a date, timestamp or timestamptz column: units since 1970-01-01T00:00:00Z. Without it a number is a fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<TimeUnit>,
    /// What happens when the value is missing though required, cannot be cast, or would lose digits or overflow.
    #[serde(default)]
    pub on_error: CastError,
    /// The name that this column had until now. An existing table keeps its values under the new name. May stay once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub renamed_from: Option<String>,
}

/// What happens to fields of a record that no column takes. Exactly one.
///
/// A field is a member of the record itself, or a column of a CSV or Parquet file. One that a pointer goes through, such as `address` in
/// `/address/city`, is known with everything in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.ignore), has(self.capture), has(self.fail)].filter(x, x).size() == 1").message("unknownFields needs exactly one of ignore, capture, fail"))]
pub struct UnknownFields {
    /// They are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore: Option<IgnoreFields>,
    /// They are kept in a column of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<CaptureFields>,
    /// The stage fails at the first one and commits nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail: Option<FailOnFields>,
}

/// Fields that no column takes are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct IgnoreFields {}

/// Fields that no column takes are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.column != 'processed_at'").message("column processed_at is added by the pipeline: choose another name"))]
pub struct CaptureFields {
    /// Name of the column that is added to the table: a JSON object of these fields, null in rows without any.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[a-z_][a-z0-9_]*$"))]
    pub column: String,
}

/// The stage fails at a field that no column takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct FailOnFields {}

/// Unit of a number that stands for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TimeUnit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Nanoseconds.
    Nanoseconds,
}

/// What happens to a value that does not fit its column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CastError {
    /// The row goes to the quarantine table.
    #[default]
    Quarantine,
    /// The value becomes null (a required column still quarantines the row).
    Null,
    /// The stage fails and commits nothing.
    Fail,
}

/// Keep one row per key among the rows of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deduplicate {
    /// Columns that identify a row.
    #[schemars(length(min = 1, max = 8))]
    pub key: Vec<String>,
    /// Which one stays, in the order of objects and of records within them.
    #[serde(default)]
    pub keep: Keep,
}

/// Which of several rows stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Keep {
    /// The first.
    First,
    /// The last.
    #[default]
    Last,
}
