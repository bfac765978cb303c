//! Pins: what a run's gold stage reads, fixed by its first attempt.

use std::collections::BTreeMap;

use lakehouse_contract::{Interval, Stage, StageFailure, StageSpec, TableRef, keys};
use lakehouse_shell::storage_failure;
use lakehouse_storage::{Layer, PutOutcome, Storage};
use lakehouse_tables::Tables;
use serde::{Deserialize, Serialize};

use crate::{
    SqlError,
    failure::{sql_failure, table_failure},
    freshness::Ledgers,
    models::Model,
};

/// The state of the tables that a run reads, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pins {
    /// Snapshot; none for a table that had no commit yet.
    snapshots: BTreeMap<String, Option<String>>,
    /// The commits that these snapshots have at least, and those of the models' own tables before the run.
    pub(crate) commits: Ledgers,
}

/// The object as it is now, and as it was before it had commits.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Pins(Pins),
    Snapshots(BTreeMap<String, Option<String>>),
}

impl Pins {
    /// `table@snapshot` of every table, for the report.
    pub(crate) fn inputs(&self) -> Vec<String> {
        self.snapshots.iter().map(|(table, snapshot)| format!("{table}@{}", snapshot.as_deref().unwrap_or("empty"))).collect()
    }

    /// The pinned snapshot of `table`.
    pub(crate) fn snapshot(&self, table: &TableRef) -> Option<&str> {
        self.snapshots.get(&table.to_string()).and_then(Option::as_deref)
    }
}

/// The pins of this run: those of an earlier attempt, or the present state of `read` = (table, first model that reads it) and of `models`.
/// Commits are those of intervals that begin in `span`, or all.
///
/// # Errors
/// `InvalidSql` for a table that does not exist, or the failure of store or catalog.
pub(crate) async fn pin(
    spec: &StageSpec,
    storage: &Storage,
    tables: &Tables,
    read: &BTreeMap<TableRef, TableRef>,
    models: &[Model],
    span: Option<&Interval>,
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
        // In this order: what is committed in between makes the run's rows look older than they are, and they are computed once more.
        pins.commits.read(tables, table, span).await?;
        pins.snapshots.insert(table.to_string(), open.snapshot().await.map_err(|error| table_failure(&error))?);
    }
    for model in models {
        pins.commits.read(tables, &model.table, span).await?;
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
    Ok(match serde_json::from_slice(bytes).map_err(|error| internal(key, &error))? {
        Stored::Pins(pins) => pins,
        Stored::Snapshots(snapshots) => Pins { snapshots, commits: Ledgers::default() },
    })
}

fn internal(key: &str, error: &serde_json::Error) -> StageFailure {
    StageFailure::new(lakehouse_contract::Reason::InputCorrupt, format!("pinned inputs {key}: {error}"))
}
