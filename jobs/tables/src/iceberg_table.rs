//! Iceberg tables: created or checked by a definition, written by snapshots that carry their commit token.

use crate::compact::without_snapshot;
use crate::definition::TableDef;
use crate::folder::folder_of;
use crate::ledger::{self, Entry};
use crate::merge::MergeRules;
use crate::provider::IcebergProvider;
use crate::replace::IntervalRows;
use crate::segments::{self, is_compacted};
use crate::table::StagedContent;
use crate::writer::{FileLayout, write_streams};
use crate::{BatchStream, Commit, Committed, Result, Staged, Table, TableError, TableFormat, WriteMode, schema};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use iceberg::spec::{DataFile, Operation};
use iceberg_commit::{Attempt, COMMIT_TOKEN, Decision, NewTable, Outcome, Plan, SqlCatalog, live_files};
use lakehouse_contract::TableRef;
use lakehouse_storage::{CatalogDb, LayerStore, Lease, LeaseOptions};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

/// Property with the owner, `namespace/name` of a pipeline.
const OWNER: &str = "lakehouse.owner";
/// Property with the columns that rows are sorted by within a file, separated by commas.
const SORT_BY: &str = "lakehouse.sort-by";

/// An Iceberg table in the SQL catalog.
#[derive(Clone, Debug)]
pub(crate) struct IcebergTable {
    pub(crate) table: TableRef,
    pub(crate) catalog: Arc<SqlCatalog>,
    db: CatalogDb,
}

impl IcebergTable {
    pub(crate) async fn open(catalog: &Arc<SqlCatalog>, db: &CatalogDb, table: &TableRef) -> Result<Self> {
        Ok(Self { table: table.clone(), catalog: catalog.clone(), db: db.clone() })
    }

    pub(crate) async fn ensure(catalog: &Arc<SqlCatalog>, db: &CatalogDb, layer: &LayerStore, definition: &TableDef) -> Result<Self> {
        let this = Self::open(catalog, db, &definition.table).await?;
        let TableRef { namespace, name } = &definition.table;
        if !catalog.table_exists(namespace, name).await? {
            let iceberg = schema::to_iceberg(definition)?;
            // The location is unique for ever: a table that is dropped and created again must not share files with its past.
            let location = layer.uri(&format!("{}-{}", folder_of(&definition.table), Uuid::new_v4().simple()));
            let new = NewTable {
                location,
                partitions: schema::partitions(definition, &iceberg)?,
                sort_order: schema::sort_order(definition, &iceberg)?,
                schema: iceberg,
                properties: initial_properties(definition),
            };
            catalog.create_table(namespace, name, new).await?;
        }
        let existing = this.load().await?;
        this.check(definition, &existing)?;
        let metadata = existing.metadata();
        if schema::evolve(definition, metadata.current_schema(), metadata.last_column_id())?.is_some() {
            this.add_columns(definition).await?;
        }
        Ok(this)
    }

    fn check(&self, definition: &TableDef, existing: &iceberg::table::Table) -> Result<()> {
        let metadata = existing.metadata();
        self.check_owner(existing, &definition.owner)?;
        let partitions = schema::show_spec(metadata.default_partition_spec(), metadata.current_schema());
        if partitions != definition.partition_text() {
            return Err(TableError::LayoutMismatch {
                table: self.table.clone(),
                what: "partitions",
                existing: partitions,
                defined: definition.partition_text(),
            });
        }
        Ok(())
    }

    /// # Errors
    /// [`TableError::OwnedByOther`].
    pub(crate) fn check_owner(&self, existing: &iceberg::table::Table, asking: &str) -> Result<()> {
        let owner = existing.metadata().properties().get(OWNER).map_or("another writer", String::as_str);
        if owner != asking {
            return Err(TableError::OwnedByOther { table: self.table.clone(), owner: owner.to_owned(), asking: asking.to_owned() });
        }
        Ok(())
    }

    async fn add_columns(&self, definition: &TableDef) -> Result<()> {
        self.catalog
            .commit(&self.table.namespace, &self.table.name, |attempt: Attempt| async move {
                let metadata = attempt.table.metadata();
                let Some(extended) = schema::evolve(definition, metadata.current_schema(), metadata.last_column_id())? else {
                    return Ok::<_, TableError>(Decision::Nothing);
                };
                let mut plan = Plan::metadata_only();
                plan.schema = Some(extended);
                Ok(Decision::Commit(Box::new(plan)))
            })
            .await?;
        Ok(())
    }

    pub(crate) async fn load(&self) -> Result<iceberg::table::Table> {
        Ok(self.catalog.load_table(&self.table.namespace, &self.table.name).await?)
    }

    fn layout(&self, table: &iceberg::table::Table, commit: &Commit) -> Result<Arc<FileLayout>> {
        let token: String = commit.token.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        self.layout_with(table, format!("{token}-{}", Uuid::new_v4().simple()))
    }

    /// The layout of files that compaction writes, whose names say so.
    pub(crate) fn compacted_layout(&self, table: &iceberg::table::Table) -> Result<Arc<FileLayout>> {
        self.layout_with(table, format!("{}{}", segments::PREFIX, Uuid::new_v4().simple()))
    }

    fn layout_with(&self, table: &iceberg::table::Table, stem: String) -> Result<Arc<FileLayout>> {
        let metadata = table.metadata();
        let sort_by = metadata.properties().get(SORT_BY).map(String::as_str).unwrap_or_default();
        Ok(Arc::new(FileLayout {
            table: self.table.clone(),
            schema: metadata.current_schema().clone(),
            arrow: schema::file_schema(&self.table, metadata.current_schema())?,
            spec: metadata.default_partition_spec().clone(),
            sort_by: sort_by.split(',').filter(|column| !column.is_empty()).map(str::to_owned).collect(),
            io: table.file_io().clone(),
            // Flat: partition values live in the metadata, so no reader has to agree on how to encode them in a path.
            folder: format!("{}/data", metadata.location()),
            stem,
            hive: false,
        }))
    }

    /// Decides what this attempt commits, from the metadata that it will replace.
    async fn plan(&self, attempt: &Attempt, staged: &Staged, commit: &Commit) -> Result<Option<Plan>> {
        let table = &attempt.table;
        let latest = ledger::of_interval(&self.table, table.metadata().properties(), commit)?;
        if latest.as_ref().is_some_and(|entry| entry.token == commit.token) {
            return Ok(None);
        }
        let mut plan = Plan::new(Operation::Overwrite);
        let (mut written, mut superseded) = (staged.rows, 0);
        match (&commit.mode, &staged.content) {
            (WriteMode::Append, StagedContent::Files(files)) => {
                plan.added = files.clone();
                if let Some(earlier) = latest {
                    let (removed, kept) = self.appended_by(table, &earlier, commit).await?;
                    plan.scratch = paths(&kept);
                    plan.removed = removed;
                    plan.added.extend(kept);
                }
            }
            (WriteMode::Overwrite, StagedContent::Files(files)) => {
                plan.added = files.clone();
                plan.removed = live_files(table).await?;
            }
            (WriteMode::ReplaceInterval { column }, StagedContent::Files(files)) => {
                let layout = self.layout(table, commit)?;
                let rows = IntervalRows::new(&self.table, &layout.arrow, column, commit)?;
                let (removed, kept) = rows.plan(table, layout).await?;
                plan.scratch = paths(&kept);
                plan.removed = removed;
                plan.added = files.iter().cloned().chain(kept).collect();
            }
            (WriteMode::Merge { key, sequence_by }, StagedContent::Merge { winners, superseded: within }) => {
                let layout = self.layout(table, commit)?;
                let rules = MergeRules::new(&self.table, &layout.arrow, key, sequence_by)?;
                let conformed: Result<Vec<_>> = winners.iter().map(|batch| crate::conform(&self.table, batch, &layout.arrow)).collect();
                let merged = rules.plan(&conformed?, table, layout).await?;
                plan.scratch = paths(&merged.added);
                plan.removed = merged.removed;
                plan.added = merged.added;
                written = merged.written;
                superseded = within + merged.lost;
            }
            _ => {
                return Err(TableError::Definition {
                    table: self.table.clone(),
                    reason: format!("rows were staged for another write mode than {}", ledger::mode_name(&commit.mode)),
                });
            }
        }
        let entry = Entry {
            token: commit.token.clone(),
            snapshot: attempt.snapshot_id.to_string(),
            mode: ledger::mode_name(&commit.mode).to_owned(),
            rows: written,
            superseded,
            files: plan.added.len() as u64,
            bytes: plan.added.iter().map(DataFile::file_size_in_bytes).sum(),
        };
        let text = serde_json::to_string(&entry).map_err(|error| TableError::Corrupt {
            table: self.table.clone(),
            what: "its ledger".to_owned(),
            reason: error.to_string(),
        })?;
        plan.properties.insert(ledger::key(commit), text);
        plan.summary.extend(ledger::facts_to_summary(&commit.summary));
        plan.summary.insert(COMMIT_TOKEN.to_owned(), commit.token.clone());
        plan.summary.insert("lakehouse.interval-start".to_owned(), ledger::interval_start(commit));
        Ok(Some(plan))
    }

    /// The live files with the rows of an earlier append, which must be all there, and files with what else is in them.
    async fn appended_by(
        &self,
        table: &iceberg::table::Table,
        earlier: &Entry,
        commit: &Commit,
    ) -> Result<(Vec<iceberg_commit::LiveFile>, Vec<DataFile>)> {
        let snapshot = earlier.snapshot.parse::<i64>().unwrap_or_default();
        let (compacted, mut removed): (Vec<_>, Vec<_>) = live_files(table).await?.into_iter().partition(|live| is_compacted(&live.file));
        removed.retain(|live| live.snapshot_id == snapshot);
        let mut found: u64 = removed.iter().map(|live| live.file.record_count()).sum();
        let mut kept = Vec::new();
        if found < earlier.rows {
            let layout = self.compacted_layout(table)?;
            for live in compacted {
                let segments = segments::of_file(&self.table, table.file_io(), &live).await?;
                let own: u64 = segments.iter().filter(|segment| segment.snapshot == snapshot).map(|segment| segment.rows).sum();
                if own > 0 {
                    found += own;
                    kept.extend(without_snapshot(table, &layout, &live, kept.len(), snapshot, &segments).await?);
                    removed.push(live);
                }
            }
        }
        if earlier.mode != ledger::mode_name(&WriteMode::Append) || found != earlier.rows {
            return Err(TableError::AppendRewritten {
                table: self.table.clone(),
                interval: ledger::interval_start(commit),
                expected: earlier.rows,
                found,
            });
        }
        Ok((removed, kept))
    }

    /// Merges of one table take turns, also between processes: each would only invalidate the rewriting of the others.
    async fn lease(&self, commit: &Commit) -> Result<Option<Lease>> {
        match commit.mode {
            WriteMode::Merge { .. } => Ok(Some(self.acquire_lease(&commit.token).await?)),
            _ => Ok(None),
        }
    }

    /// The lease of merges, for `who`.
    pub(crate) async fn acquire_lease(&self, who: &str) -> Result<Lease> {
        let holder = format!("{who}-{}", Uuid::new_v4().simple());
        Ok(self.db.acquire_lease(&format!("table:{}", self.table), &holder, LeaseOptions::default()).await?)
    }

    /// Gives the lease back; one that cannot be given back ends with its time.
    pub(crate) async fn release(&self, lease: Option<Lease>) {
        if let Some(lease) = lease
            && let Err(error) = lease.release().await
        {
            tracing::warn!(table = %self.table, %error, "a lease was not released and ends with its time");
        }
    }

    /// Deletes staged files that no attempt of this call ever offered to the catalog.
    async fn discard(&self, staged: &Staged) {
        let StagedContent::Files(files) = &staged.content else { return };
        for file in files {
            if let Err(error) = self.catalog.file_io().delete(file.file_path()).await {
                tracing::debug!(%error, file = file.file_path(), "left a staged file");
            }
        }
    }

    fn outcome(&self, table: &iceberg::table::Table, token: &str, already: bool) -> Result<Option<Committed>> {
        let Some(entry) = ledger::of_token(&self.table, table.metadata().properties(), token)? else { return Ok(None) };
        let id = entry.snapshot.parse::<i64>().ok();
        let snapshot = id.and_then(|id| table.metadata().snapshot_by_id(id));
        let facts = snapshot.map_or_else(BTreeMap::new, |found| ledger::facts_from_summary(&found.summary().additional_properties));
        Ok(Some(entry.committed(facts, already)))
    }
}

#[async_trait]
impl Table for IcebergTable {
    fn table(&self) -> &TableRef {
        &self.table
    }

    fn format(&self) -> TableFormat {
        TableFormat::Iceberg
    }

    async fn schema(&self) -> Result<SchemaRef> {
        let table = self.load().await?;
        Ok(schema::reader_schema(schema::file_schema(&self.table, table.metadata().current_schema())?.as_ref()))
    }

    async fn find_commit(&self, token: &str) -> Result<Option<Committed>> {
        self.outcome(&self.load().await?, token, true)
    }

    async fn stage(&self, input: Vec<BatchStream>, commit: &Commit) -> Result<Staged> {
        let layout = self.layout(&self.load().await?, commit)?;
        if let WriteMode::Merge { key, sequence_by } = &commit.mode {
            let rules = MergeRules::new(&self.table, &layout.arrow, key, sequence_by)?;
            let (winners, superseded, rows) = rules.reduce(input).await?;
            return Ok(Staged { content: StagedContent::Merge { winners, superseded }, rows, onto: None });
        }
        let check = match &commit.mode {
            WriteMode::ReplaceInterval { column } => Some(IntervalRows::new(&self.table, &layout.arrow, column, commit)?.check()),
            _ => None,
        };
        let (files, rows) = write_streams(layout, input, check).await?;
        Ok(Staged { content: StagedContent::Files(files), rows, onto: None })
    }

    async fn commit(&self, staged: Staged, commit: &Commit) -> Result<Committed> {
        let lease = self.lease(commit).await?;
        let offered = AtomicBool::new(false);
        let outcome = self
            .catalog
            .commit(&self.table.namespace, &self.table.name, |attempt: Attempt| {
                let (staged, lease, offered) = (&staged, &lease, &offered);
                async move {
                    if let Some(lease) = lease {
                        lease.ensure_held()?;
                    }
                    Ok::<_, TableError>(match self.plan(&attempt, staged, commit).await? {
                        None => Decision::Nothing,
                        Some(plan) => {
                            offered.store(true, Ordering::Release);
                            Decision::Commit(Box::new(plan))
                        }
                    })
                }
            })
            .await;
        self.release(lease).await;
        let (table, already) = match outcome? {
            Outcome::Committed { table, .. } => (table, false),
            Outcome::Nothing(table) => {
                // Another attempt committed this token. Files that were offered once may be the ones it committed.
                if !offered.load(Ordering::Acquire) {
                    self.discard(&staged).await;
                }
                (table, true)
            }
        };
        self.outcome(&table, &commit.token, already)?.ok_or_else(|| TableError::Corrupt {
            table: self.table.clone(),
            what: "its ledger".to_owned(),
            reason: format!("token {} was committed and is not in it", commit.token),
        })
    }

    async fn provider(&self, at: Option<&str>) -> Result<Arc<dyn TableProvider>> {
        let table = self.load().await?;
        let snapshot = match at {
            None => None,
            Some(text) => {
                let known = text.parse::<i64>().ok().filter(|id| table.metadata().snapshot_by_id(*id).is_some());
                Some(known.ok_or_else(|| TableError::NoSuchSnapshot { table: self.table.clone(), snapshot: text.to_owned() })?)
            }
        };
        Ok(Arc::new(IcebergProvider::new(&self.table, table, snapshot)?))
    }

    async fn snapshot(&self) -> Result<Option<String>> {
        Ok(self.load().await?.metadata().current_snapshot_id().map(|id| id.to_string()))
    }
}

fn paths(files: &[DataFile]) -> Vec<String> {
    files.iter().map(|file| file.file_path().to_owned()).collect()
}

fn initial_properties(definition: &TableDef) -> HashMap<String, String> {
    let mut properties: HashMap<String, String> = definition.properties.clone().into_iter().collect();
    properties.insert(OWNER.to_owned(), definition.owner.clone());
    properties.insert("write.format.default".to_owned(), "parquet".to_owned());
    properties.insert("write.parquet.compression-codec".to_owned(), "zstd".to_owned());
    if !definition.sort_by.is_empty() {
        properties.insert(SORT_BY.to_owned(), definition.sort_by.join(","));
    }
    properties
}
