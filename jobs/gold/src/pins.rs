//! Pins: the snapshots that a run's gold stage reads, fixed by its first attempt.

use std::collections::BTreeMap;

use lakehouse_contract::{Stage, StageFailure, StageSpec, TableRef, keys};
use lakehouse_shell::storage_failure;
use lakehouse_storage::{Layer, PutOutcome, Storage};
use lakehouse_tables::Tables;
use serde::{Deserialize, Serialize};

use crate::{
    SqlError,
    failure::{sql_failure, table_failure},
};

/// Snapshot of each table by its name; none for a table that had no commit yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Pins(pub(crate) BTreeMap<String, Option<String>>);

impl Pins {
    /// `table@snapshot` of every table, for the report.
    pub(crate) fn inputs(&self) -> Vec<String> {
        self.0.iter().map(|(table, snapshot)| format!("{table}@{}", snapshot.as_deref().unwrap_or("empty"))).collect()
    }

    /// The pinned snapshot of `table`.
    pub(crate) fn snapshot(&self, table: &TableRef) -> Option<&str> {
        self.0.get(&table.to_string()).and_then(Option::as_deref)
    }
}

/// The pins of this run: those of an earlier attempt, or the current snapshots of `read` = (table, first model that reads it).
///
/// # Errors
/// `InvalidSql` for a table that does not exist, or the failure of store or catalog.
pub(crate) async fn pin(
    spec: &StageSpec,
    storage: &Storage,
    tables: &Tables,
    read: &BTreeMap<TableRef, TableRef>,
) -> Result<Pins, StageFailure> {
    let layer = storage.layer(Layer::Gold).map_err(|error| storage_failure(&error))?;
    let key = keys::pins(&spec.pipeline, &spec.run.id, Stage::Gold);
    if let Some(bytes) = layer.get_opt(&key).await.map_err(|error| storage_failure(&error))? {
        return parse(&key, &bytes);
    }
    let mut pins = Pins::default();
    for (table, model) in read {
        let Some(open) = tables.open_table(table).await.map_err(|error| table_failure(&error))? else {
            return Err(unknown_table(tables, model, table).await);
        };
        pins.0.insert(table.to_string(), open.snapshot().await.map_err(|error| table_failure(&error))?);
    }
    let body = serde_json::to_vec_pretty(&pins).map_err(|error| internal(&key, &error))?;
    match layer.put_if_absent(&key, body).await.map_err(|error| storage_failure(&error))? {
        PutOutcome::Created => Ok(pins),
        // Another attempt was faster: its pins hold.
        PutOutcome::Exists => {
            let bytes = layer.get(&key).await.map_err(|error| storage_failure(&error))?;
            parse(&key, &bytes)
        }
    }
}

async fn unknown_table(tables: &Tables, model: &TableRef, table: &TableRef) -> StageFailure {
    let mut known = Vec::new();
    for namespace in crate::NAMESPACES {
        match tables.list(namespace).await {
            Ok(found) => known.extend(found),
            Err(error) => return table_failure(&error),
        }
    }
    sql_failure(model, &SqlError::UnknownTable { table: table.clone(), known })
}

fn parse(key: &str, bytes: &[u8]) -> Result<Pins, StageFailure> {
    serde_json::from_slice(bytes).map_err(|error| internal(key, &error))
}

fn internal(key: &str, error: &serde_json::Error) -> StageFailure {
    StageFailure::new(lakehouse_contract::Reason::InputCorrupt, format!("pinned inputs {key}: {error}"))
}
