//! Gold models: SQL over registered tables.

use std::{borrow::Cow, collections::BTreeMap};

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{
    expectation::Expectation,
    table::{TableLayout, WriteMode},
};

/// A model: one SQL query whose rows are written to `gold.NAME`.
///
/// The query sees the tables of the Lakehouse as `silver.NAME` and `gold.NAME`, and the timestamptz parameters `$start`, `$end` and `$readStart`.
/// No DDL, no files, no URLs. The order of models comes from the tables they read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.table) && has(self.table.format) && self.table.format == 'parquet' && has(self.write.merge))").message("write.merge needs format iceberg or delta: parquet tables have no commit log"))]
#[x_kube(validation = Rule::new("!has(self.write.merge) || !has(self.write.merge.history) || !self.write.merge.history").message("write.merge.history is for silver tables: a model computes validity in SQL, with lead() over the key"))]
#[x_kube(validation = Rule::new("!has(self.expectations) || self.expectations.all(rule, rule.otherwise == 'warn' || rule.otherwise == 'fail')").message("expectations[].otherwise of a model can be warn or fail: a computed row has no record that quarantine could keep, and without it (drop) the table is not what the query says; leave rows out in sql"))]
pub struct GoldModel {
    /// Table name within the namespace `gold`.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z][a-z0-9_]*$"))]
    pub name: String,
    /// How the table is stored.
    #[serde(default)]
    pub table: TableLayout,
    /// How rows enter the table.
    pub write: WriteMode,
    /// How many intervals before the run's the query may read: `$readStart` is that many grains before `$start`.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10_000))]
    pub lookback: i32,
    /// One SELECT.
    #[schemars(length(min = 1, max = 65_536))]
    pub sql: String,
    /// Columns that an existing table had under another name: by the name that the query gives, the name until now. May stay once it is done.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    pub renamed_columns: BTreeMap<String, String>,
    /// Quality rules of the result; `otherwise` is `warn` or `fail`. A broken rule with `fail` keeps the result from being published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub expectations: Vec<Expectation>,
    /// Unit tests of the query, run by `lakehouse test`. They are not part of what a run executes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub tests: Vec<ModelTest>,
}

/// A unit test: what the query answers when its tables hold the given rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelTest {
    /// What it shows, such as `a_day_without_purchases`.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z][a-z0-9_]*$"))]
    pub name: String,
    /// Interval of the run, such as `2024-01-01` or `2024-01-01T05`.
    #[schemars(length(min = 7, max = 64))]
    pub interval: String,
    /// Rows of the tables that the query reads, by `silver.NAME` or `gold.NAME`. A table that is not named is empty, a column that a row does not
    /// name is null.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub given: BTreeMap<String, Vec<TestRow>>,
    /// The rows that the query answers, in any order, by the columns that any of them names; in a row that does not name one of these it is null.
    #[schemars(length(max = 1000))]
    pub expect: Vec<TestRow>,
}

/// A row: column names and values. Decimals and times are best written as text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TestRow(pub BTreeMap<String, serde_json::Value>);

impl JsonSchema for TestRow {
    fn schema_name() -> Cow<'static, str> {
        "TestRow".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // A value of any type but null, which API servers drop and kubectl may refuse: a column that is left out is null.
        json_schema!({
            "description": "A row: column names and values. Decimals and times are best written as text.",
            "type": "object",
            "additionalProperties": {"x-kubernetes-preserve-unknown-fields": true}
        })
    }
}
