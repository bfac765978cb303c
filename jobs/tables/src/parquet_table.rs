//! Plain Parquet tables: files below one folder, and a manifest object per generation that says which of them count.
//!
//! Readers through [`Table::provider`] see whole commits. Readers that list the folder may see a mix during a commit, since replaced files
//! are deleted right after it. Files carry the interval and the token in their names and lie in `name=value` folders of their partition.

use crate::candidate::{Audit, Candidate, Content};
use crate::definition::TableDef;
use crate::evolution::{self, Evolution, Planned};
use crate::folder::folder_of;
use crate::ledger::{self, Entry};
use crate::parquet_manifest::{self as manifest, File, Manifest, Recorded};
use crate::replace::IntervalRows;
use crate::table::StagedContent;
use crate::writer::{self, FileLayout, write_streams};
use crate::{
    BatchStream, Commit, Committed, IntervalCommit, PartitionField, Result, Staged, Table, TableError, TableFormat, WriteMode, lease,
    registry, schema,
};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use datafusion::catalog::TableProvider;
use iceberg::spec::{DataFile, PartitionSpec};
use lakehouse_contract::TableRef;
use lakehouse_storage::{CatalogDb, LayerStore};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

use crate::parquet_provider::{DataObject, ParquetProvider};

const FORMAT: &str = "parquet";
/// Attempts against other writers before a commit gives up.
pub(crate) const ATTEMPTS: u32 = 40;

/// A table of plain Parquet files.
#[derive(Clone, Debug)]
pub(crate) struct ParquetTable {
    pub(crate) table: TableRef,
    pub(crate) layer: LayerStore,
    pub(crate) folder: String,
    db: CatalogDb,
}

impl ParquetTable {
    pub(crate) async fn open(db: &CatalogDb, layer: &LayerStore, table: &TableRef) -> Result<Self> {
        Ok(Self { table: table.clone(), layer: layer.clone(), folder: folder_of(table), db: db.clone() })
    }

    pub(crate) async fn ensure(db: &CatalogDb, layer: &LayerStore, definition: &TableDef) -> Result<Self> {
        let this = Self::open(db, layer, &definition.table).await?;
        if manifest::newest(layer, &this.table, &this.folder).await?.is_none() {
            let mut first = Manifest::new(&this.table, &definition.owner, schema::to_iceberg(definition)?);
            first.partition_by = definition.partition_by.iter().map(ToString::to_string).collect();
            first.sort_by.clone_from(&definition.sort_by);
            first.properties.clone_from(&definition.properties);
            // Another writer may be faster; then its definition is the one to check against.
            manifest::put(layer, &this.folder, &first).await?;
        }
        for _ in 0..ATTEMPTS {
            let Some(next) = this.change(definition, this.load().await?)? else {
                registry::register(db, TableFormat::Parquet, &this.table).await?;
                return Ok(this);
            };
            manifest::put(layer, &this.folder, &next).await?;
        }
        Err(TableError::Conflict { table: this.table, attempts: ATTEMPTS })
    }

    /// What the definition makes of the table; nothing is written.
    pub(crate) async fn evolution(&self, definition: &TableDef) -> Result<Evolution> {
        let current = self.load().await?;
        Ok(self.planned(definition, &current)?.shown(&current.owner, definition))
    }

    pub(crate) async fn ensure_fits(&self, definition: &TableDef) -> Result<()> {
        self.change(definition, self.load().await?).map(drop)
    }

    fn planned(&self, definition: &TableDef, current: &Manifest) -> Result<Planned> {
        // Types that no table can hold are a fault of the definition, whatever the table is.
        schema::to_iceberg(definition)?;
        let spec = self.spec(current)?;
        let existing =
            schema::existing(TableFormat::Parquet, &self.table, &current.schema, spec.fields(), current.sort_by.clone(), Vec::new())?;
        Ok(evolution::plan(definition, &existing))
    }

    /// The manifest that the definition asks for after `current`; none when nothing is to change.
    fn change(&self, definition: &TableDef, current: Manifest) -> Result<Option<Manifest>> {
        self.check_owner(&current, &definition.owner)?;
        let Some(planned) = self.planned(definition, &current)?.accepted(&self.table)? else { return Ok(None) };
        let schema = schema::evolved(definition, &current.schema, current.schema.highest_field_id(), &planned.columns)?;
        let (generation, sort_by) = (current.generation + 1, definition.sort_by.clone());
        Ok(Some(Manifest { generation, schema, sort_by, replaced: Vec::new(), ..current }))
    }

    /// # Errors
    /// [`TableError::OwnedByOther`].
    pub(crate) fn check_owner(&self, current: &Manifest, asking: &str) -> Result<()> {
        if current.owner != asking {
            return Err(TableError::OwnedByOther { table: self.table.clone(), owner: current.owner.clone(), asking: asking.to_owned() });
        }
        Ok(())
    }

    pub(crate) async fn load(&self) -> Result<Manifest> {
        let found = manifest::newest(&self.layer, &self.table, &self.folder).await?;
        found.ok_or_else(|| self.corrupt("there is no manifest".to_owned()))
    }

    fn corrupt(&self, reason: String) -> TableError {
        TableError::Corrupt { table: self.table.clone(), what: self.layer.uri(&self.folder), reason }
    }

    fn spec(&self, current: &Manifest) -> Result<PartitionSpec> {
        let mut spec = PartitionSpec::builder(current.schema.clone());
        for text in &current.partition_by {
            let field: PartitionField = text.parse().map_err(|error: crate::InvalidPartitionField| self.corrupt(error.to_string()))?;
            let added = spec.add_partition_field(&field.column, field.name(), field.iceberg_transform());
            spec = added.map_err(TableError::iceberg(&self.table))?;
        }
        spec.build().map_err(TableError::iceberg(&self.table))
    }

    fn layout(&self, current: &Manifest, commit: &Commit) -> Result<Arc<FileLayout>> {
        let iceberg = Arc::new(current.schema.clone());
        let token: String = commit.token.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        // The name of an attempt's files is its own: two attempts that are alive at once never write over each other.
        let attempt = &Uuid::new_v4().simple().to_string()[..8];
        Ok(Arc::new(FileLayout {
            table: self.table.clone(),
            arrow: schema::file_schema(&self.table, &iceberg)?,
            spec: Arc::new(self.spec(current)?),
            schema: iceberg,
            sort_by: current.sort_by.clone(),
            io: writer::io([&self.layer]).file_io(),
            folder: self.layer.uri(&self.folder),
            stem: format!("{}{token}-{attempt}", stem_of(commit)),
            blooms: Vec::new(),
            hive: true,
        }))
    }

    /// The manifest after `commit`, or none when the commit is in `current`.
    fn next(&self, current: Manifest, files: &[DataFile], rows: u64, commit: &Commit) -> Result<Option<Manifest>> {
        let key = ledger::interval_start(commit);
        let latest = current.ledger.get(&key);
        if latest.is_some_and(|recorded| recorded.entry.token == commit.token) {
            return Ok(None);
        }
        let (start, end) = (commit.interval.start, commit.interval.end);
        let same = |file: &File| file.start == start && file.end == end;
        if !matches!(commit.mode, WriteMode::Overwrite)
            && let Some(other) = current.files.iter().find(|file| !same(file) && file.start < end && start < file.end)
        {
            return Err(TableError::Definition {
                table: self.table.clone(),
                reason: format!(
                    "the interval {key} … {} overlaps {} … {}, which was written as one; Parquet tables replace whole intervals",
                    show(end),
                    show(other.start),
                    show(other.end)
                ),
            });
        }
        let all = current.ledger.iter().map(|(start, recorded)| (start.as_str(), &recorded.entry));
        let outdated = ledger::is_outdated(commit, all, Utc::now());
        let replace_all = matches!(commit.mode, WriteMode::Overwrite) && !outdated;
        let (mut replaced, mut kept): (Vec<File>, Vec<File>) = current.files.into_iter().partition(|file| replace_all || same(file));
        let mut added = Vec::with_capacity(files.len());
        for file in files {
            let key = self.layer.key_of(file.file_path()).ok_or_else(|| TableError::Corrupt {
                table: self.table.clone(),
                what: file.file_path().to_owned(),
                reason: "it lies outside of the layer".to_owned(),
            })?;
            added.push(File { key: key.to_owned(), rows: file.record_count(), bytes: file.file_size_in_bytes(), start, end });
        }
        if outdated {
            replaced.append(&mut added);
        }
        let (rows, superseded) = if outdated { (0, rows) } else { (rows, 0) };
        let generation = current.generation + 1;
        let entry = Entry {
            token: commit.token.clone(),
            snapshot: generation.to_string(),
            mode: ledger::mode_name(&commit.mode).to_owned(),
            rows,
            superseded,
            files: added.len() as u64,
            bytes: added.iter().map(|file| file.bytes).sum(),
            origin: commit.origin.clone(),
            processed_at: None,
            erased: 0,
        };
        kept.extend(added);
        kept.sort_by(|a, b| a.key.cmp(&b.key));
        let mut ledger = current.ledger;
        ledger.insert(key, Recorded { entry, facts: commit.summary.clone() });
        let replaced = replaced.into_iter().map(|file| file.key).collect();
        Ok(Some(Manifest { generation, files: kept, replaced, ledger, ..current }))
    }

    /// Files of other attempts for the interval: dead ones, and those that the commit will replace.
    ///
    /// Asked before the commit: what others stage after it must stay, and what they staged before it they refuse to commit.
    async fn stale(&self, files: &[DataFile], commit: &Commit) -> Vec<String> {
        let own = self.keys(files);
        self.stale_but(|key| own.iter().any(|own| own == key), &stem_of(commit)).await
    }

    async fn stale_but(&self, own: impl Fn(&str) -> bool, stem: &str) -> Vec<String> {
        match self.layer.list(&self.folder).await {
            Err(error) => {
                tracing::warn!(table = %self.table, %error, "cannot look for files of dead attempts");
                Vec::new()
            }
            Ok(objects) => {
                let keys = objects.into_iter().map(|object| object.key);
                keys.filter(|key| {
                    let name = key.rsplit_once('/').map_or(key.as_str(), |(_, name)| name);
                    name.starts_with(stem) && name.ends_with(".parquet") && !own(key)
                })
                .collect()
            }
        }
    }

    /// Deletes what the manifest replaced, and `stale` files that it does not name.
    ///
    /// A failure is only logged: the commit stands, and the next commit cleans up.
    pub(crate) async fn clean(&self, current: &Manifest, stale: Vec<String>) {
        let live: HashSet<&str> = current.files.iter().map(|file| file.key.as_str()).collect();
        let garbage: HashSet<String> = current.replaced.iter().cloned().chain(stale).filter(|key| !live.contains(key.as_str())).collect();
        for key in garbage {
            if let Err(error) = self.layer.delete(&key).await {
                tracing::warn!(table = %self.table, %error, "a replaced file was not deleted");
            }
        }
    }

    /// What the ledger has of the commit's interval.
    fn recorded(&self, current: &Manifest, commit: &Commit) -> Result<Recorded> {
        let recorded = current.ledger.get(&ledger::interval_start(commit)).cloned();
        recorded.ok_or_else(|| self.corrupt("its ledger lost an entry".to_owned()))
    }

    fn provider_of(&self, shown: &Manifest) -> Result<Arc<dyn TableProvider>> {
        let schema = schema::reader_schema(schema::file_schema(&self.table, &shown.schema)?.as_ref());
        let files = shown.files.iter().map(|file| DataObject {
            key: file.key.clone(),
            bytes: file.bytes,
            statistics: None,
            partition: HashMap::new(),
        });
        Ok(Arc::new(ParquetProvider::new(self.layer.clone(), schema, &[], files.collect())?))
    }

    fn keys(&self, files: &[DataFile]) -> Vec<String> {
        files.iter().filter_map(|file| self.layer.key_of(file.file_path())).map(str::to_owned).collect()
    }
}

fn show(time: chrono::DateTime<chrono::Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// The generation that made the latest commit of the interval.
fn latest(current: &Manifest, commit: &Commit) -> Option<String> {
    current.ledger.get(&ledger::interval_start(commit)).map(|recorded| recorded.entry.snapshot.clone())
}

/// Beginning of the names of all files of an interval.
fn stem_of(commit: &Commit) -> String {
    let compact = |time: chrono::DateTime<chrono::Utc>| time.format("%Y%m%dT%H%M%SZ").to_string();
    format!("{}-{}-", compact(commit.interval.start), compact(commit.interval.end))
}

#[async_trait]
impl Table for ParquetTable {
    fn table(&self) -> &TableRef {
        &self.table
    }

    fn format(&self) -> TableFormat {
        TableFormat::Parquet
    }

    async fn schema(&self) -> Result<SchemaRef> {
        Ok(schema::reader_schema(schema::file_schema(&self.table, &self.load().await?.schema)?.as_ref()))
    }

    async fn intervals(&self) -> Result<BTreeMap<DateTime<Utc>, IntervalCommit>> {
        let entries = self.load().await?.ledger.into_iter();
        entries.map(|(start, recorded)| Ok((ledger::start_of(&self.table, &start)?, recorded.entry.of_interval()))).collect()
    }

    async fn find_commit(&self, token: &str) -> Result<Option<Committed>> {
        let current = self.load().await?;
        let found = current.ledger.into_values().find(|recorded| recorded.entry.token == token);
        Ok(found.map(|recorded| recorded.entry.committed(recorded.facts, true)))
    }

    async fn stage(&self, input: Vec<BatchStream>, commit: &Commit) -> Result<Staged> {
        let current = self.load().await?;
        let layout = self.layout(&current, commit)?;
        let check = match &commit.mode {
            WriteMode::Merge { .. } | WriteMode::History { .. } => {
                return Err(TableError::Unsupported { table: self.table.clone(), format: FORMAT, operation: "merge" });
            }
            WriteMode::ReplaceInterval { column } => Some(IntervalRows::new(&self.table, &layout.arrow, column, commit)?.check()),
            WriteMode::Append | WriteMode::Overwrite => None,
        };
        let (files, rows) = write_streams(layout, input, check).await?;
        Ok(Staged { content: StagedContent::Files(files), rows, onto: latest(&current, commit) })
    }

    async fn commit(&self, staged: Staged, commit: &Commit) -> Result<Committed> {
        let StagedContent::Files(files) = &staged.content else {
            return Err(TableError::Unsupported { table: self.table.clone(), format: FORMAT, operation: "merge" });
        };
        for attempt in 1..=ATTEMPTS {
            let current = self.load().await?;
            let Some(next) = self.next(current.clone(), files, staged.rows, commit)? else {
                self.clean(&current, self.keys(files)).await;
                // The token is there: put by another attempt, or by an earlier try of this one whose answer was lost.
                let ours = current.files.iter().any(|live| files.iter().any(|file| self.layer.key_of(file.file_path()) == Some(&live.key)));
                let found = current.ledger.get(&ledger::interval_start(commit)).cloned();
                let recorded = found.ok_or_else(|| self.corrupt("its ledger lost an entry".to_owned()))?;
                return Ok(recorded.entry.committed(recorded.facts, !ours));
            };
            if latest(&current, commit) != staged.onto {
                // Whoever was faster took the staged files for those of a dead attempt and deletes them: they must be written again.
                return Err(TableError::Conflict { table: self.table.clone(), attempts: attempt });
            }
            let stale = self.stale(files, commit).await;
            if manifest::put(&self.layer, &self.folder, &next).await? {
                self.clean(&next, stale).await;
                let recorded = next.ledger.get(&ledger::interval_start(commit)).cloned();
                let recorded = recorded.ok_or_else(|| self.corrupt("its ledger lost an entry".to_owned()))?;
                return Ok(recorded.entry.committed(recorded.facts, false));
            }
            tokio::time::sleep(Duration::from_millis(5 * u64::from(attempt) + Uuid::new_v4().as_u64_pair().0 % 20)).await;
        }
        Err(TableError::Conflict { table: self.table.clone(), attempts: ATTEMPTS })
    }

    async fn audit(&self, staged: &Staged, commit: &Commit) -> Result<Audit> {
        let StagedContent::Files(files) = &staged.content else {
            return Err(TableError::Unsupported { table: self.table.clone(), format: FORMAT, operation: "merge" });
        };
        let lease = lease::acquire(&self.db, &self.table, &commit.token).await?;
        let prepared = async {
            let current = self.load().await?;
            let Some(next) = self.next(current.clone(), files, staged.rows, commit)? else {
                return Ok(Err(self.recorded(&current, commit)?.committed(true)));
            };
            if latest(&current, commit) != staged.onto {
                return Err(TableError::Conflict { table: self.table.clone(), attempts: 1 });
            }
            let provider = self.provider_of(&next)?;
            Ok(Ok((provider, next)))
        };
        match prepared.await {
            Ok(Ok((provider, next))) => {
                Ok(Audit::Candidate(Candidate { provider, content: Content::Parquet { next: Box::new(next) }, lease: Some(lease) }))
            }
            Ok(Err(already)) => {
                lease::release(&self.table, Some(lease)).await;
                Ok(Audit::Already(already))
            }
            Err(error) => {
                lease::release(&self.table, Some(lease)).await;
                Err(error)
            }
        }
    }

    async fn publish(&self, candidate: Candidate, commit: &Commit) -> Result<Option<Committed>> {
        let Candidate { content, lease, .. } = candidate;
        let published = async {
            let Content::Parquet { mut next } = content else {
                return Err(TableError::Task { table: self.table.clone(), reason: "a candidate of another format".to_owned() });
            };
            if let Some(recorded) = next.ledger.get_mut(&ledger::interval_start(commit)) {
                recorded.facts.clone_from(&commit.summary);
            }
            if let Some(lease) = &lease {
                lease.ensure_held()?;
            }
            let added: HashSet<&str> = next.files.iter().map(|file| file.key.as_str()).collect();
            let current = self.load().await?;
            if current.generation + 1 != next.generation {
                let known = current.ledger.get(&ledger::interval_start(commit)).filter(|recorded| recorded.entry.token == commit.token);
                return Ok(known.cloned().map(|recorded| recorded.committed(true)));
            }
            let stem = stem_of(commit);
            let stale = self.stale_but(|key| added.contains(key), &stem).await;
            if !manifest::put(&self.layer, &self.folder, &next).await? {
                return Ok(None);
            }
            self.clean(&next, stale).await;
            Ok(Some(self.recorded(&next, commit)?.committed(false)))
        };
        let outcome = published.await;
        lease::release(&self.table, lease).await;
        outcome
    }

    async fn reject(&self, candidate: Candidate, staged: Staged) {
        if let StagedContent::Files(files) = &staged.content {
            for key in self.keys(files) {
                if let Err(error) = self.layer.delete(&key).await {
                    tracing::debug!(table = %self.table, %error, key, "left a staged file");
                }
            }
        }
        lease::release(&self.table, candidate.lease).await;
    }

    async fn provider(&self, at: Option<&str>) -> Result<Arc<dyn TableProvider>> {
        let current = self.load().await?;
        let schema = current.schema.clone();
        let shown = match at {
            None => current,
            Some(text) => {
                let found = match text.parse::<u64>() {
                    Ok(generation) => manifest::read(&self.layer, &self.table, &self.folder, generation).await?,
                    Err(_) => None,
                };
                found.ok_or_else(|| TableError::NoSuchSnapshot { table: self.table.clone(), snapshot: text.to_owned() })?
            }
        };
        self.provider_of(&Manifest { schema, ..shown })
    }

    async fn snapshot(&self) -> Result<Option<String>> {
        let current = self.load().await?;
        Ok((!current.ledger.is_empty()).then(|| current.generation.to_string()))
    }
}
