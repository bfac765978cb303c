//! Delta tables: at a location of their own, each commit of a run with its token as an application's transaction.

mod commit;
mod definition;
mod live_files;

use crate::candidate::{Audit, Candidate, Content};
use crate::changes::stage;
use crate::delta_files::{self, DeltaFile, of_add};
use crate::folder::folder_of;
use crate::iceberg_table::{OWNER, SORT_BY};
use crate::ledger;
use crate::parquet_provider::{DataObject, ParquetProvider};
use crate::table::StagedContent;
use crate::turn::Turn;
use crate::writer::{self, Check, FileLayout};
use crate::{
    BatchStream, Commit, Committed, IntervalCommit, PartitionField, Result, Staged, Table, TableError, TableFormat, lease, schema, segments,
};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::catalog::TableProvider;
use delta_commit::{Add, Decision, DeltaError, DeltaLog, Snapshot};
use iceberg::spec::{PartitionSpec, Schema};
use lakehouse_contract::TableRef;
use lakehouse_storage::{CatalogDb, LayerStore};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use uuid::Uuid;

pub(crate) use commit::{Stop, TXN, batches, stem_of};
use commit::{Unprepared, latest};
pub(crate) use live_files::DeltaFiles;

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
            io: writer::io([&self.layer]).file_io(),
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
                    offered.fetch_or(change.as_ref().is_some_and(|change| !change.add.is_empty()), Ordering::AcqRel);
                    Ok::<_, Stop>(change.map_or(Decision::Nothing, Decision::Commit))
                }
            })
            .await;
        turn.end().await;
        lease::release(&self.table, lease).await;
        let outcome = outcome.map_err(|stop| self.stopped(stop))?;
        // Another attempt committed this token, or the rows are outdated. Files that were offered once may be the ones that were committed.
        if !offered.load(Ordering::Acquire) {
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
