//! What was erased where. No value of a key is in it: it is kept, and must not hold what was erased.

use chrono::{DateTime, Utc};
use lakehouse_contract::TableRef;
use lakehouse_tables::Erased;
use serde::Serialize;

use super::Order;

/// The report of one erasing.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Name of the object that keeps it.
    pub id: String,
    /// Pipeline name.
    pub pipeline: String,
    /// Columns of the keys.
    pub keys: Vec<ErasedKey>,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// What became of bronze.
    pub bronze: BronzeErased,
    /// What became of each table.
    pub tables: Vec<TableErased>,
    /// Places that still hold the key, and what to do.
    pub left: Vec<String>,
    /// Reports, manifests and pages with records of others in which the value stands as a word, which may be by chance.
    pub mentions: Vec<String>,
}

/// A key, without its value.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ErasedKey {
    /// The column.
    pub column: String,
    /// SHA-256 of `column=value`, hexadecimal: who has the value can prove that this is its erasing.
    pub digest: String,
}

/// What became of bronze.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BronzeErased {
    /// Objects searched.
    pub searched: u64,
    /// Records cut out, of all objects together.
    pub records: u64,
    /// Objects that held some; each was replaced, or is gone.
    pub objects: Vec<ErasedObject>,
    /// Manifests that name other objects now.
    pub manifests: Vec<String>,
    /// Pages that went as a whole, each with what went with it and why. Their other records stay in the tables until the interval is run again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub whole: Vec<String>,
}

/// An object that held the key.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ErasedObject {
    /// Its key within bronze.
    pub key: String,
    /// Its SHA-256, as the manifest had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The object in its place; absent: nothing of it was left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<String>,
    /// SHA-256 of that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_sha256: Option<String>,
    /// Records cut out.
    pub records: u64,
}

/// What was done to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Rows were removed, or would be.
    Erased,
    /// It had none of them.
    Clean,
    /// It has none of the columns.
    NoColumn,
    /// It does not exist.
    NoTable,
}

/// What became of a table.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TableErased {
    /// Its name.
    pub name: String,
    /// What was done.
    pub action: Action,
    /// Rows removed.
    pub rows: u64,
    /// Files that held them and were written anew.
    pub files: u64,
    /// Snapshot, version or generation that it has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Older states forgotten because they held such rows.
    pub snapshots_expired: u64,
    /// Files deleted with them.
    pub files_deleted: u64,
}

impl TableErased {
    pub(super) fn nothing(table: &TableRef, action: Action) -> Self {
        Self { name: table.to_string(), action, rows: 0, files: 0, snapshot: None, snapshots_expired: 0, files_deleted: 0 }
    }

    pub(super) fn of(table: &TableRef, erased: &Erased) -> Self {
        let any = erased.rows > 0 || erased.snapshots_expired > 0 || erased.files_deleted > 0;
        Self {
            name: table.to_string(),
            action: if any { Action::Erased } else { Action::Clean },
            rows: erased.rows,
            files: erased.files,
            snapshot: erased.snapshot.clone(),
            snapshots_expired: erased.snapshots_expired,
            files_deleted: erased.files_deleted,
        }
    }
}

impl Report {
    pub(super) fn new(order: &Order<'_>) -> Self {
        let now = Utc::now();
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let keys = order.keys.iter().map(|(column, value)| ErasedKey {
            column: column.clone(),
            digest: lakehouse_storage::sha256(format!("{column}={value}").as_bytes()),
        });
        Self {
            id: format!("{}-{}", now.format("%Y%m%dT%H%M%SZ"), &unique[..8]),
            pipeline: order.pipeline.to_owned(),
            keys: keys.collect(),
            dry_run: order.dry_run,
            started_at: now,
            finished_at: now,
            bronze: BronzeErased::default(),
            tables: Vec::new(),
            left: Vec::new(),
            mentions: Vec::new(),
        }
    }

    pub(super) fn finish(&mut self) {
        self.finished_at = Utc::now();
    }

    /// The report as a person reads it.
    pub fn text(&self) -> String {
        let would = if self.dry_run { " (dry run: nothing was written)" } else { "" };
        let columns = self.keys.iter().map(|key| key.column.as_str()).collect::<Vec<_>>().join(", ");
        let mut text = format!("pipeline {}, key {columns}{would}\n", self.pipeline);
        let bronze = &self.bronze;
        let (records, objects, searched) = (bronze.records, bronze.objects.len(), bronze.searched);
        text.push_str(&format!("  bronze: {records} records in {objects} of {searched} objects\n"));
        for table in &self.tables {
            let done = match table.action {
                Action::NoTable => continue,
                Action::NoColumn => "it has no such column".to_owned(),
                Action::Clean => "no row".to_owned(),
                Action::Erased => {
                    let TableErased { rows, files, snapshots_expired, files_deleted, .. } = table;
                    format!(
                        "{rows} rows in {files} files; {snapshots_expired} older states forgotten, {files_deleted} files deleted with them"
                    )
                }
            };
            text.push_str(&format!("  {}: {done}\n", table.name));
        }
        for (word, places) in [("gone as a whole", &bronze.whole), ("left", &self.left), ("mentioned in", &self.mentions)] {
            for place in places {
                text.push_str(&format!("  {word}: {place}\n"));
            }
        }
        text
    }
}
