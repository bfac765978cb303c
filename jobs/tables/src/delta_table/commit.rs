//! What a run's commit is in the log: files that come and go, and a transaction with the token, by which it is found again.

use super::{DeltaFiles, DeltaTable};
use crate::changes::{Changes, changes};
use crate::delta_files::{DeltaFile, to_add};
use crate::ledger::{self, Entry};
use crate::table::StagedContent;
use crate::writer::FileLayout;
use crate::{Commit, Committed, PROCESSED_AT, Result, Staged, TableError, WriteMode};
use chrono::Utc;
use datafusion::catalog::TableProvider;
use delta_commit::{Add, Change, DeltaError, Snapshot, Txn};
use iceberg::spec::{PrimitiveLiteral, Schema};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Beginning of the identifiers of transactions; the start of the interval, a slash and the ledger's entry follow.
///
/// A transaction is in every checkpoint, so it outlives the cleaning of the log. Its version is that of the table.
pub(crate) const TXN: &str = "lakehouse/";

impl DeltaTable {
    /// What this attempt commits, from the state that it will follow; none when the token is committed.
    pub(super) async fn plan(&self, snapshot: Arc<Snapshot>, staged: &Staged, commit: &Commit) -> Result<Option<Box<Change>>> {
        let known = latest(&snapshot);
        let latest = known.get(&ledger::interval_start(commit));
        if latest.is_some_and(|batch| batch.entry.token == commit.token) {
            return Ok(None);
        }
        let state = self.state(snapshot)?;
        if staged.onto.as_ref().is_some_and(|schema| *schema != state.snapshot.metadata().schema_string) {
            // The statistics of the staged files are those of columns by their places: they must be written again.
            return Err(TableError::Conflict { table: self.table.clone(), attempts: 1 });
        }
        let layout = self.layout(&state, commit)?;
        let files = DeltaFiles::new(self, &state)?;
        let all = known.iter().map(|(start, batch)| (start.as_str(), &batch.entry));
        let outdated = ledger::is_outdated(commit, all, Utc::now());
        let changes = changes(&files, layout.clone(), staged, commit, latest.map(|batch| &batch.entry), outdated).await?;
        let version = state.snapshot.version() + 1;
        let mut entry = changes.entry(commit, version.to_string());
        entry.processed_at = processed_at(staged, commit, &state.schema);
        Ok(Some(Box::new(self.publication(&layout, changes, &entry, commit)?)))
    }

    /// The commit of staged rows, decided on the newest version and not sent, and the table as it would be.
    pub(super) async fn prepare(&self, staged: &Staged, commit: &Commit) -> Result<(Arc<dyn TableProvider>, u64, Box<Change>), Unprepared> {
        let state = self.load().await?;
        let snapshot = state.snapshot.clone();
        match self.plan(snapshot.clone(), staged, commit).await? {
            None => {
                let found = self.outcome(&snapshot, &commit.token, true).await?;
                let missing = || TableError::Corrupt {
                    table: self.table.clone(),
                    what: "its ledger".to_owned(),
                    reason: format!("token {} was found and is not in it", commit.token),
                };
                Err(Unprepared::Already(Box::new(found.ok_or_else(missing)?)))
            }
            Some(change) => {
                let gone: HashSet<&str> = change.remove.iter().map(String::as_str).collect();
                let files = snapshot.files().filter(|add| !gone.contains(add.path.as_str())).chain(&change.add);
                let provider = self.provider_of(files, &state)?;
                Ok((provider, snapshot.version(), change))
            }
        }
    }

    /// The facts of a commit, as the log has them.
    pub(super) fn facts(&self, commit: &Commit) -> Result<String> {
        serde_json::to_string(&commit.summary).map_err(|error| TableError::Corrupt {
            table: self.table.clone(),
            what: "its ledger".to_owned(),
            reason: error.to_string(),
        })
    }

    /// Deletes files that no version refers to.
    pub(super) async fn delete(&self, keys: impl Iterator<Item = String>) {
        for key in keys {
            if let Err(error) = self.layer.delete(&key).await {
                tracing::debug!(%error, key, "left a file of a candidate");
            }
        }
    }

    /// The files that come and go as one commit of the log, with the token.
    pub(super) fn publication(&self, layout: &FileLayout, changes: Changes<DeltaFile>, entry: &Entry, commit: &Commit) -> Result<Change> {
        let now = Utc::now().timestamp_millis();
        let corrupt = |error: serde_json::Error| TableError::Corrupt {
            table: self.table.clone(),
            what: "its ledger".to_owned(),
            reason: error.to_string(),
        };
        let mut add: Vec<Add> = Vec::with_capacity(changes.added.len());
        for file in &changes.added {
            add.push(to_add(&self.table, &self.relative(file.file_path())?, file, &layout.spec, &layout.schema, now)?);
        }
        let scratch: Result<Vec<String>> = changes.scratch.iter().map(|location| self.relative(location)).collect();
        let merge = matches!(commit.mode, WriteMode::Merge { .. } | WriteMode::History { .. });
        let parameters = BTreeMap::from([
            ("mode".to_owned(), ledger::mode_name(&commit.mode).to_owned()),
            ("interval".to_owned(), ledger::interval_start(commit)),
        ]);
        let metrics = BTreeMap::from([
            ("numFiles".to_owned(), add.len().to_string()),
            ("numRemovedFiles".to_owned(), changes.removed.len().to_string()),
            ("numOutputRows".to_owned(), changes.written.to_string()),
            ("numOutputBytes".to_owned(), entry.bytes.to_string()),
        ]);
        Ok(Change {
            operation: if merge { "MERGE" } else { "WRITE" }.to_owned(),
            parameters,
            metrics,
            user_metadata: Some(self.facts(commit)?),
            txns: vec![Txn {
                app_id: format!("{TXN}{}/{}", ledger::interval_start(commit), serde_json::to_string(entry).map_err(corrupt)?),
                version: entry.snapshot.parse().unwrap_or_default(),
                last_updated: Some(now),
            }],
            add,
            remove: changes.removed.into_iter().map(|file| file.path).collect(),
            data_change: true,
            scratch: scratch?,
            ..Change::default()
        })
    }

    /// The commit with a token, when it is the latest of its interval, with its facts as far as the log still has them.
    pub(super) async fn outcome(&self, snapshot: &Snapshot, token: &str, already: bool) -> Result<Option<Committed>> {
        let Some(batch) = latest(snapshot).into_values().find(|batch| batch.entry.token == token) else { return Ok(None) };
        let info = self.log.commit_info(batch.version).await.map_err(self.failed())?;
        let facts = info.as_ref().and_then(|info| info.get("userMetadata")?.as_str()).and_then(|text| serde_json::from_str(text).ok());
        Ok(Some(batch.entry.committed(facts.unwrap_or_default(), already)))
    }

    /// Deletes staged files that no attempt of this call ever offered to the log.
    pub(super) async fn discard(&self, staged: &Staged) {
        let StagedContent::Files(files) = &staged.content else { return };
        for file in files {
            let Some(key) = self.layer.key_of(file.file_path()) else { continue };
            if let Err(error) = self.layer.delete(key).await {
                tracing::debug!(%error, file = file.file_path(), "left a staged file");
            }
        }
    }
}

/// Why there is no candidate.
pub(super) enum Unprepared {
    Already(Box<Committed>),
    Failed(TableError),
}

impl From<TableError> for Unprepared {
    fn from(error: TableError) -> Self {
        Self::Failed(error)
    }
}

/// Why a commit of the log ended.
pub(crate) enum Stop {
    Table(TableError),
    Log(DeltaError),
}

impl From<TableError> for Stop {
    fn from(error: TableError) -> Self {
        Self::Table(error)
    }
}

impl From<DeltaError> for Stop {
    fn from(error: DeltaError) -> Self {
        Self::Log(error)
    }
}

/// A run's commit, from its transaction.
pub(crate) struct Batch {
    pub(crate) interval: String,
    pub(crate) version: u64,
    pub(crate) entry: Entry,
}

pub(crate) fn batches(snapshot: &Snapshot) -> impl Iterator<Item = Batch> + '_ {
    snapshot.txns().filter_map(|txn| {
        let (interval, entry) = txn.app_id.strip_prefix(TXN)?.split_once('/')?;
        let version = u64::try_from(txn.version).ok()?;
        Some(Batch { interval: interval.to_owned(), version, entry: serde_json::from_str(entry).ok()? })
    })
}

/// The latest commit of every interval, by its start as it stands in identifiers.
pub(super) fn latest(snapshot: &Snapshot) -> HashMap<String, Batch> {
    let mut latest: HashMap<String, Batch> = HashMap::new();
    for batch in batches(snapshot) {
        match latest.get(&batch.interval) {
            Some(known) if (known.version, known.entry.erased) >= (batch.version, batch.entry.erased) => {}
            _ => drop(latest.insert(batch.interval.clone(), batch)),
        }
    }
    latest
}

/// Beginning of the names of the files that a commit with this token writes.
pub(crate) fn stem_of(token: &str) -> String {
    let token: String = token.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    format!("part-{token}-")
}

/// The time of processing that all rows of an append have, when they have one.
fn processed_at(staged: &Staged, commit: &Commit, schema: &Schema) -> Option<i64> {
    let (WriteMode::Append, StagedContent::Files(files)) = (&commit.mode, &staged.content) else { return None };
    let id = schema.field_id_by_name(PROCESSED_AT)?;
    let mut times = files.iter().map(|file| {
        let bounds = (file.lower_bounds().get(&id)?.literal(), file.upper_bounds().get(&id)?.literal());
        match bounds {
            (PrimitiveLiteral::Long(lower), PrimitiveLiteral::Long(upper)) if lower == upper => Some(*lower),
            _ => None,
        }
        .filter(|_| file.null_value_counts().get(&id) == Some(&0))
    });
    let first = times.next()??;
    times.all(|time| time == Some(first)).then_some(first)
}
