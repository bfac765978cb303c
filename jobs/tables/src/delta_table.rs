//! Delta tables: at a location of their own, each commit of a run with its token as an application's transaction.

mod definition;
mod live_files;

use crate::candidate::{Audit, Candidate, Content};
use crate::changes::{Changes, changes, stage};
use crate::delta_files::{self, DeltaFile, of_add, to_add};
use crate::folder::folder_of;
use crate::iceberg_table::{OWNER, SORT_BY};
use crate::ledger::{self, Entry};
use crate::parquet_provider::{DataObject, ParquetProvider};
use crate::table::StagedContent;
use crate::turn::Turn;
use crate::writer::{Check, FileLayout};
use crate::{
    BatchStream, Commit, Committed, IntervalCommit, PROCESSED_AT, PartitionField, Result, Staged, Table, TableError, TableFormat,
    WriteMode, lease, schema, segments,
};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::catalog::TableProvider;
use delta_commit::{Add, Change, Decision, DeltaError, DeltaLog, Snapshot, Txn};
use iceberg::spec::{PartitionSpec, PrimitiveLiteral, Schema};
use iceberg_commit::ObjectStoreIo;
use lakehouse_contract::TableRef;
use lakehouse_storage::{CatalogDb, LayerStore};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use uuid::Uuid;

pub(crate) use live_files::DeltaFiles;

/// Beginning of the identifiers of transactions; the start of the interval, a slash and the ledger's entry follow.
///
/// A transaction is in every checkpoint, so it outlives the cleaning of the log. Its version is that of the table.
pub(crate) const TXN: &str = "lakehouse/";
/// Version of rows of which is not known who wrote them.
const NOBODY: i64 = -1;
/// Beginning of the names of files with what is left of those of other programs.
pub(crate) const REWRITTEN: &str = "rewritten-";

/// The logs of the tables in use: writers of one process take turns, and read only what is new.
#[derive(Debug, Default)]
pub(crate) struct Logs(Mutex<HashMap<String, Arc<DeltaLog>>>);

impl Logs {
    fn of(&self, layer: &LayerStore, folder: &str) -> Result<Arc<DeltaLog>> {
        let location = layer.uri(folder);
        let root = layer.path(folder)?;
        let mut logs = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let log = logs.entry(location).or_insert_with_key(|location| Arc::new(DeltaLog::new(layer.object_store(), root, location)));
        Ok(log.clone())
    }
}

/// A Delta table.
#[derive(Clone, Debug)]
pub(crate) struct DeltaTable {
    pub(crate) table: TableRef,
    pub(crate) layer: LayerStore,
    pub(crate) folder: String,
    pub(crate) db: CatalogDb,
    pub(crate) log: Arc<DeltaLog>,
}

/// A state of the table with its schema.
pub(crate) struct State {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) schema: Arc<Schema>,
}

impl State {
    fn owner(&self) -> &str {
        self.snapshot.metadata().configuration.get(OWNER).map_or("another writer", String::as_str)
    }

    /// Whether a commit of an interval that the table remembers was made in a write mode of this name.
    pub(crate) fn has_mode(&self, mode: &str) -> bool {
        batches(&self.snapshot).any(|batch| batch.entry.mode == mode)
    }

    /// Tells the files that commits and compactions of ours wrote from those of other programs, which do not say whose their rows are.
    pub(crate) fn ours(&self) -> impl Fn(&DeltaFile) -> bool {
        let stems: HashSet<String> = batches(&self.snapshot).map(|batch| stem_of(&batch.entry.token)).collect();
        move |live| {
            let stem = live.path.match_indices('-').nth(1).map(|(end, _)| &live.path[..=end]);
            segments::is_compacted(&live.file) || stem.is_some_and(|stem| stems.contains(stem))
        }
    }

    /// The columns that rows of a file are sorted by.
    pub(crate) fn sort_by(&self) -> Vec<String> {
        let text = self.snapshot.metadata().configuration.get(SORT_BY).map(String::as_str).unwrap_or_default();
        text.split(',').filter(|column| !column.is_empty()).map(str::to_owned).collect()
    }
}

impl DeltaTable {
    pub(crate) fn open(logs: &Logs, db: &CatalogDb, layer: &LayerStore, table: &TableRef) -> Result<Self> {
        let folder = folder_of(table);
        let log = logs.of(layer, &folder)?;
        Ok(Self { table: table.clone(), layer: layer.clone(), folder, db: db.clone(), log })
    }

    pub(crate) async fn load(&self) -> Result<State> {
        self.state(self.log.load().await.map_err(self.failed())?)
    }

    pub(crate) fn state(&self, snapshot: Arc<Snapshot>) -> Result<State> {
        let corrupt = |reason| TableError::Corrupt { table: self.table.clone(), what: "its schema".to_owned(), reason };
        let arrow = delta_commit::from_schema_string(&snapshot.metadata().schema_string).map_err(corrupt)?;
        Ok(State { schema: Arc::new(schema::of_arrow(&self.table, &arrow)?), snapshot })
    }

    fn reader_schema(&self, schema: &Schema) -> Result<SchemaRef> {
        Ok(schema::reader_schema(schema::file_schema(&self.table, schema)?.as_ref()))
    }

    pub(crate) fn failed(&self) -> impl Fn(DeltaError) -> TableError + '_ {
        TableError::delta(&self.table)
    }

    pub(crate) fn stopped(&self, stop: Stop) -> TableError {
        match stop {
            Stop::Table(error) => error,
            Stop::Log(error) => self.failed()(error),
        }
    }

    fn spec(&self, state: &State) -> Result<PartitionSpec> {
        let mut spec = PartitionSpec::builder(state.schema.clone());
        for column in &state.snapshot.metadata().partition_columns {
            let field = PartitionField { column: column.clone(), transform: crate::Transform::Identity };
            spec = spec.add_partition_field(column, column, field.iceberg_transform()).map_err(TableError::iceberg(&self.table))?;
        }
        spec.build().map_err(TableError::iceberg(&self.table))
    }

    fn layout(&self, state: &State, commit: &Commit) -> Result<Arc<FileLayout>> {
        self.layout_with(state, &stem_of(&commit.token)).map(Arc::new)
    }

    /// Of the files that compaction writes.
    pub(crate) fn compacted_layout(&self, state: &State) -> Result<Arc<FileLayout>> {
        self.layout_with(state, segments::PREFIX).map(Arc::new)
    }

    /// How files of the table are written, with a beginning of their names.
    pub(crate) fn layout_with(&self, state: &State, prefix: &str) -> Result<FileLayout> {
        Ok(FileLayout {
            table: self.table.clone(),
            arrow: schema::file_schema(&self.table, &state.schema)?,
            spec: Arc::new(self.spec(state)?),
            schema: state.schema.clone(),
            sort_by: state.sort_by(),
            io: ObjectStoreIo::new().with_store(self.layer.root_uri(), self.layer.object_store()).file_io(),
            // Flat: partition values stand in the log, so no reader has to agree on how to encode them in a path.
            folder: self.layer.uri(&self.folder),
            stem: format!("{prefix}{}", Uuid::new_v4().simple()),
            blooms: Vec::new(),
            hive: false,
        })
    }

    /// Readers take an empty partition value for null, so it would not come back as it went in.
    fn refuse_empty(&self, state: &State) -> Option<Check> {
        let columns = state.snapshot.metadata().partition_columns.clone();
        let table = self.table.clone();
        if columns.is_empty() {
            return None;
        }
        Some(Arc::new(move |batch| {
            for name in &columns {
                let Some(column) = batch.column_by_name(name).filter(|column| column.data_type() == &DataType::Utf8) else { continue };
                if column.as_string::<i32>().iter().any(|value| value == Some("")) {
                    let reason = "it is a partition column and empty in a row, which Delta readers take for null".to_owned();
                    return Err(TableError::Input { table: table.clone(), column: name.clone(), reason });
                }
            }
            Ok(())
        }))
    }

    /// Path of a data file within the table.
    pub(crate) fn relative(&self, location: &str) -> Result<String> {
        let key = location.strip_prefix(&self.layer.uri(&self.folder)).and_then(|rest| rest.strip_prefix('/'));
        key.map(str::to_owned).ok_or_else(|| TableError::Corrupt {
            table: self.table.clone(),
            what: location.to_owned(),
            reason: "it lies outside of the table".to_owned(),
        })
    }

    /// The live files of a state.
    pub(crate) fn files_of(&self, state: &State) -> Result<Vec<DeltaFile>> {
        let spec = self.spec(state)?;
        let files = state.snapshot.files();
        files.map(|add| of_add(&self.table, add, &self.layer.uri(&self.key(&add.path)), &state.schema, &spec)).collect()
    }

    /// Key of a path of the log, relative to the layer.
    pub(crate) fn key(&self, path: &str) -> String {
        format!("{}/{}", self.folder, percent_encoding::percent_decode_str(path).decode_utf8_lossy())
    }

    /// What this attempt commits, from the state that it will follow; none when the token is committed.
    async fn plan(&self, snapshot: Arc<Snapshot>, staged: &Staged, commit: &Commit) -> Result<Option<Box<Change>>> {
        let own = batches(&snapshot).filter(|batch| batch.interval == ledger::interval_start(commit));
        let latest = own.max_by_key(|batch| (batch.version, batch.entry.erased));
        if latest.as_ref().is_some_and(|batch| batch.entry.token == commit.token) {
            return Ok(None);
        }
        let state = self.state(snapshot)?;
        if staged.onto.as_ref().is_some_and(|schema| *schema != state.snapshot.metadata().schema_string) {
            // The statistics of the staged files are those of columns by their places: they must be written again.
            return Err(TableError::Conflict { table: self.table.clone(), attempts: 1 });
        }
        let layout = self.layout(&state, commit)?;
        let files = DeltaFiles::new(self, &state)?;
        let changes = changes(&files, layout.clone(), staged, commit, latest.as_ref().map(|batch| &batch.entry)).await?;
        let version = state.snapshot.version() + 1;
        let mut entry = changes.entry(commit, version.to_string());
        entry.processed_at = processed_at(staged, commit, &state.schema);
        Ok(Some(Box::new(self.publication(&layout, changes, &entry, commit)?)))
    }

    /// The commit of staged rows, decided on the newest version and not sent, and the table as it would be.
    async fn prepare(&self, staged: &Staged, commit: &Commit) -> Result<(Arc<dyn TableProvider>, u64, Box<Change>), Unprepared> {
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

    fn provider_of<'a>(&self, adds: impl Iterator<Item = &'a Add>, current: &State) -> Result<Arc<dyn TableProvider>> {
        let schema = &current.schema;
        let shown = self.reader_schema(schema)?;
        let spec = self.spec(current)?;
        let mut files = Vec::new();
        for add in adds {
            let key = self.key(&add.path);
            let file = of_add(&self.table, add, &self.layer.uri(&key), schema, &spec)?.file;
            let statistics = Some(Arc::new(delta_files::statistics(&file, schema, &shown)));
            let partition = delta_files::partition_scalars(&file, &spec, &shown);
            files.push(DataObject { key, bytes: add.size.unsigned_abs(), statistics, partition });
        }
        let partitions = &current.snapshot.metadata().partition_columns;
        Ok(Arc::new(ParquetProvider::new(self.layer.clone(), shown, partitions, files)?))
    }

    /// The facts of a commit, as the log has them.
    fn facts(&self, commit: &Commit) -> Result<String> {
        serde_json::to_string(&commit.summary).map_err(|error| TableError::Corrupt {
            table: self.table.clone(),
            what: "its ledger".to_owned(),
            reason: error.to_string(),
        })
    }

    /// Deletes files that no version refers to.
    async fn delete(&self, keys: impl Iterator<Item = String>) {
        for key in keys {
            if let Err(error) = self.layer.delete(&key).await {
                tracing::debug!(%error, key, "left a file of a candidate");
            }
        }
    }

    /// The files that come and go as one commit of the log, with the token.
    fn publication(&self, layout: &FileLayout, changes: Changes<DeltaFile>, entry: &Entry, commit: &Commit) -> Result<Change> {
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
    async fn outcome(&self, snapshot: &Snapshot, token: &str, already: bool) -> Result<Option<Committed>> {
        let Some(batch) = latest(snapshot).into_values().find(|batch| batch.entry.token == token) else { return Ok(None) };
        let info = self.log.commit_info(batch.version).await.map_err(self.failed())?;
        let facts = info.as_ref().and_then(|info| info.get("userMetadata")?.as_str()).and_then(|text| serde_json::from_str(text).ok());
        Ok(Some(batch.entry.committed(facts.unwrap_or_default(), already)))
    }

    /// Deletes staged files that no attempt of this call ever offered to the log.
    async fn discard(&self, staged: &Staged) {
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
enum Unprepared {
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
fn latest(snapshot: &Snapshot) -> HashMap<String, Batch> {
    let mut latest: HashMap<String, Batch> = HashMap::new();
    for batch in batches(snapshot) {
        match latest.get(&batch.interval) {
            Some(known) if known.version >= batch.version => {}
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

#[async_trait]
impl Table for DeltaTable {
    fn table(&self) -> &TableRef {
        &self.table
    }

    fn format(&self) -> TableFormat {
        TableFormat::Delta
    }

    async fn schema(&self) -> Result<SchemaRef> {
        self.reader_schema(&self.load().await?.schema)
    }

    async fn intervals(&self) -> Result<BTreeMap<DateTime<Utc>, IntervalCommit>> {
        let found = latest(self.load().await?.snapshot.as_ref()).into_iter();
        found.map(|(start, batch)| Ok((ledger::start_of(&self.table, &start)?, batch.entry.of_interval()))).collect()
    }

    async fn find_commit(&self, token: &str) -> Result<Option<Committed>> {
        self.outcome(self.load().await?.snapshot.as_ref(), token, true).await
    }

    async fn stage(&self, input: Vec<BatchStream>, commit: &Commit) -> Result<Staged> {
        let state = self.load().await?;
        let mut staged = stage(self.layout(&state, commit)?, input, commit, self.refuse_empty(&state)).await?;
        if matches!(staged.content, StagedContent::Files(_)) {
            staged.onto = Some(state.snapshot.metadata().schema_string.clone());
        }
        Ok(staged)
    }

    async fn commit(&self, staged: Staged, commit: &Commit) -> Result<Committed> {
        let lease = lease::of_commit(&self.db, &self.table, commit).await?;
        let turn = Turn::new(&self.db, &self.table);
        let offered = AtomicBool::new(false);
        let outcome = self
            .log
            .commit(|snapshot| {
                let (staged, lease, turn, offered) = (&staged, &lease, &turn, &offered);
                async move {
                    if turn.waited().await {
                        return Ok(Decision::Again);
                    }
                    if let Some(lease) = lease {
                        lease.ensure_held().map_err(TableError::from)?;
                    }
                    let change = self.plan(snapshot, staged, commit).await?;
                    if change.is_some() {
                        offered.store(true, Ordering::Release);
                    }
                    Ok::<_, Stop>(change.map_or(Decision::Nothing, Decision::Commit))
                }
            })
            .await;
        turn.end().await;
        lease::release(&self.table, lease).await;
        let outcome = outcome.map_err(|stop| self.stopped(stop))?;
        // Another attempt committed this token. Files that were offered once may be the ones it committed.
        if !outcome.committed && !offered.load(Ordering::Acquire) {
            self.discard(&staged).await;
        }
        let found = self.outcome(&outcome.snapshot, &commit.token, !outcome.committed).await?;
        found.ok_or_else(|| TableError::Corrupt {
            table: self.table.clone(),
            what: "its ledger".to_owned(),
            reason: format!("token {} was committed and is not in it", commit.token),
        })
    }

    async fn audit(&self, staged: &Staged, commit: &Commit) -> Result<Audit> {
        let lease = lease::acquire(&self.db, &self.table, &commit.token).await?;
        let outcome = self.prepare(staged, commit).await;
        match outcome {
            Ok((provider, version, change)) => {
                Ok(Audit::Candidate(Candidate { provider, content: Content::Delta { version, change }, lease: Some(lease) }))
            }
            Err(Unprepared::Already(committed)) => {
                lease::release(&self.table, Some(lease)).await;
                Ok(Audit::Already(*committed))
            }
            Err(Unprepared::Failed(error)) => {
                lease::release(&self.table, Some(lease)).await;
                Err(error)
            }
        }
    }

    async fn publish(&self, candidate: Candidate, commit: &Commit) -> Result<Option<Committed>> {
        let Candidate { content, lease, .. } = candidate;
        let Content::Delta { version, mut change } = content else {
            return Err(TableError::Task { table: self.table.clone(), reason: "a candidate of another format".to_owned() });
        };
        change.user_metadata = Some(self.facts(commit)?);
        let outcome = self
            .log
            .commit(|snapshot| {
                let (lease, change) = (&lease, &change);
                async move {
                    if let Some(lease) = lease {
                        lease.ensure_held().map_err(TableError::from)?;
                    }
                    // Its files are those of one version; on any other the rows would not be those that were looked at.
                    let same = snapshot.version() == version;
                    Ok::<_, Stop>(if same { Decision::Commit(change.clone()) } else { Decision::Nothing })
                }
            })
            .await;
        lease::release(&self.table, lease).await;
        let outcome = outcome.map_err(|stop| self.stopped(stop))?;
        if !outcome.committed {
            self.delete(change.scratch.iter().map(|path| self.key(path))).await;
        }
        self.outcome(&outcome.snapshot, &commit.token, !outcome.committed).await
    }

    async fn reject(&self, candidate: Candidate, staged: Staged) {
        self.discard(&staged).await;
        if let Content::Delta { change, .. } = &candidate.content {
            self.delete(change.scratch.iter().map(|path| self.key(path))).await;
            // A merge writes its rows when it is decided.
            self.delete(change.add.iter().filter(|_| matches!(staged.content, StagedContent::Merge { .. })).map(|add| self.key(&add.path)))
                .await;
        }
        lease::release(&self.table, candidate.lease).await;
    }

    async fn provider(&self, at: Option<&str>) -> Result<Arc<dyn TableProvider>> {
        let current = self.load().await?;
        let snapshot = match at {
            None => current.snapshot.clone(),
            Some(text) => {
                let missing = || TableError::NoSuchSnapshot { table: self.table.clone(), snapshot: text.to_owned() };
                match self.log.load_at(text.parse().map_err(|_| missing())?).await {
                    Err(DeltaError::NoSuchVersion { .. }) => return Err(missing()),
                    found => found.map_err(self.failed())?,
                }
            }
        };
        self.provider_of(snapshot.files(), &current)
    }

    async fn snapshot(&self) -> Result<Option<String>> {
        let snapshot = self.load().await?.snapshot;
        let has_data = batches(&snapshot).next().is_some();
        Ok(has_data.then(|| snapshot.version().to_string()))
    }
}
