//! Gold models: SQL over registered tables.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::table::{TableLayout, WriteMode};

/// A model: one SQL query whose rows are written to `gold.NAME`.
///
/// The query sees the tables of the Lakehouse as `silver.NAME` and `gold.NAME`, and the timestamptz parameters `$start`, `$end` and `$readStart`.
/// No DDL, no files, no URLs. The order of models comes from the tables they read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.table) && has(self.table.format) && self.table.format == 'parquet' && has(self.write.merge))").message("write.merge needs format iceberg: parquet tables have no commit log"))]
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
}
