//! The manifest of a plain Parquet table: one JSON object per generation, put conditionally, which is the commit point.

use crate::ledger::Entry;
use crate::{Committed, Result, TableError};
use chrono::{DateTime, Utc};
use iceberg::spec::Schema;
use lakehouse_contract::TableRef;
use lakehouse_storage::{LayerStore, PutOutcome};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the manifest's form.
const VERSION: u32 = 1;

/// The state of a table after one commit.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    pub(crate) generation: u64,
    pub(crate) table: TableRef,
    pub(crate) owner: String,
    pub(crate) schema: Schema,
    /// As in a definition.
    pub(crate) partition_by: Vec<String>,
    pub(crate) sort_by: Vec<String>,
    pub(crate) properties: BTreeMap<String, String>,
    /// The live files.
    pub(crate) files: Vec<File>,
    /// Files that this commit replaced, relative to the layer; they are deleted after it.
    pub(crate) replaced: Vec<String>,
    /// The latest commit of each interval, by its start.
    pub(crate) ledger: BTreeMap<String, Recorded>,
}

/// One live file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct File {
    /// Key relative to the layer.
    pub(crate) key: String,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// The interval whose rows it holds.
    pub(crate) start: DateTime<Utc>,
    pub(crate) end: DateTime<Utc>,
}

/// A commit with its facts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Recorded {
    pub(crate) entry: Entry,
    pub(crate) facts: BTreeMap<String, String>,
}

impl Recorded {
    pub(crate) fn committed(self, already: bool) -> Committed {
        self.entry.committed(self.facts, already)
    }
}

impl Manifest {
    pub(crate) fn new(table: &TableRef, owner: &str, schema: Schema) -> Self {
        Self {
            version: VERSION,
            generation: 0,
            table: table.clone(),
            owner: owner.to_owned(),
            schema,
            partition_by: Vec::new(),
            sort_by: Vec::new(),
            properties: BTreeMap::new(),
            files: Vec::new(),
            replaced: Vec::new(),
            ledger: BTreeMap::new(),
        }
    }
}

fn key(folder: &str, generation: u64) -> String {
    format!("{}/{generation:012}.json", folder_of_manifests(folder))
}

/// Generation of the manifest with this key; none when it is no manifest.
pub(crate) fn generation_of(key: &str) -> Option<u64> {
    key.rsplit_once('/')?.1.strip_suffix(".json")?.parse().ok()
}

/// Folder of the manifests of a table.
pub(crate) fn folder_of_manifests(folder: &str) -> String {
    format!("{folder}/_manifest")
}

/// The newest manifest; none when the table has none.
pub(crate) async fn newest(layer: &LayerStore, table: &TableRef, folder: &str) -> Result<Option<Manifest>> {
    let generations = layer.list(&folder_of_manifests(folder)).await?;
    match generations.iter().filter_map(|object| generation_of(&object.key)).max() {
        None => Ok(None),
        Some(generation) => read(layer, table, folder, generation).await,
    }
}

/// The manifest of one generation; none when there is no such generation.
pub(crate) async fn read(layer: &LayerStore, table: &TableRef, folder: &str, generation: u64) -> Result<Option<Manifest>> {
    let key = key(folder, generation);
    let Some(bytes) = layer.get_opt(&key).await? else { return Ok(None) };
    let corrupt = |reason: String| TableError::Corrupt { table: table.clone(), what: layer.uri(&key), reason };
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
    if manifest.version != VERSION {
        return Err(corrupt(format!("its version is {}, this program reads {VERSION}", manifest.version)));
    }
    Ok(Some(manifest))
}

/// Puts the manifest of its generation, if nobody did. False means that another writer was faster.
pub(crate) async fn put(layer: &LayerStore, folder: &str, manifest: &Manifest) -> Result<bool> {
    let key = key(folder, manifest.generation);
    let bytes = serde_json::to_vec(manifest).map_err(|error| TableError::Corrupt {
        table: manifest.table.clone(),
        what: layer.uri(&key),
        reason: error.to_string(),
    })?;
    Ok(layer.put_if_absent(&key, bytes).await? == PutOutcome::Created)
}
