//! Iceberg tables: created or checked by a definition, written by snapshots that carry their commit token.

use crate::blooms;
use crate::candidate::{Audit, Candidate, Content, branch_of};
use crate::changes::{changes, stage};
use crate::definition::TableDef;
use crate::evolution::{self, Evolution, Planned};
use crate::folder::folder_of;
use crate::ledger::{self, Entry};
use crate::live::IcebergFiles;
use crate::provider::IcebergProvider;
use crate::segments;
use crate::table::StagedContent;
use crate::turn::Turn;
use crate::writer::FileLayout;
use crate::{BatchStream, Commit, Committed, IntervalCommit, Result, Staged, Table, TableError, TableFormat, lease, schema};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::catalog::TableProvider;
use iceberg::spec::{DataFile, Operation, TableMetadata};
use iceberg_commit::{Attempt, COMMIT_TOKEN, Decision, NewTable, Outcome, Plan, SqlCatalog};
use lakehouse_contract::TableRef;
use lakehouse_storage::{CatalogDb, LayerStore};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// Property with the owner, `namespace/name` of a pipeline.
pub(crate) const OWNER: &str = "lakehouse.owner";
/// Property with the columns that rows are sorted by within a file, separated by commas.
pub(crate) const SORT_BY: &str = "lakehouse.sort-by";

/// An Iceberg table in the SQL catalog.
#[derive(Clone, Debug)]
pub(crate) struct IcebergTable {
    pub(crate) table: TableRef,
    pub(crate) catalog: Arc<SqlCatalog>,
    pub(crate) db: CatalogDb,
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
        if this.change(definition, existing.metadata())?.is_some() {
            this.evolve(definition).await?;
        }
        Ok(this)
    }

    /// What the definition makes of the table; nothing is written.
    pub(crate) async fn evolution(&self, definition: &TableDef) -> Result<Evolution> {
        let existing = self.load().await?;
        Ok(self.planned(definition, existing.metadata())?.shown(owner_of(existing.metadata()), definition))
    }

    pub(crate) async fn ensure_fits(&self, definition: &TableDef) -> Result<()> {
        self.change(definition, self.load().await?.metadata()).map(drop)
    }

    fn planned(&self, definition: &TableDef, metadata: &TableMetadata) -> Result<Planned> {
        // Types that no table can hold are a fault of the definition, whatever the table is.
        schema::to_iceberg(definition)?;
        let fields = metadata.default_partition_spec().fields();
        let (schema, sorted, declared) = (metadata.current_schema(), sort_columns(metadata), blooms::declared(metadata.properties()));
        let existing = schema::existing(TableFormat::Iceberg, &self.table, schema, fields, sorted, declared)?;
        Ok(evolution::plan(definition, &existing))
    }

    /// The metadata that the definition asks for; none when nothing is to change.
    fn change(&self, definition: &TableDef, metadata: &TableMetadata) -> Result<Option<Plan>> {
        self.check_owner(metadata, &definition.owner)?;
        let Some(planned) = self.planned(definition, metadata)?.accepted(&self.table)? else { return Ok(None) };
        let current = metadata.current_schema();
        let mut plan = Plan::metadata_only();
        let after = schema::evolved(definition, current, metadata.last_column_id(), &planned.columns)?;
        let order = schema::sort_order(definition, &after)?;
        if order.fields != metadata.default_sort_order().fields {
            plan.sort_order = Some(order);
        }
        if planned.changes_columns() {
            plan.schema = Some(after);
        }
        if definition.sort_by.is_empty() {
            plan.removed_properties.push(SORT_BY.to_owned());
        } else {
            plan.properties.insert(SORT_BY.to_owned(), definition.sort_by.join(","));
        }
        let blooms = blooms::properties(&definition.bloom_filters);
        let gone = blooms::properties(&blooms::declared(metadata.properties())).into_keys().filter(|key| !blooms.contains_key(key));
        plan.removed_properties.extend(gone);
        plan.properties.extend(blooms);
        Ok(Some(plan))
    }

    /// # Errors
    /// [`TableError::OwnedByOther`].
    pub(crate) fn check_owner(&self, metadata: &TableMetadata, asking: &str) -> Result<()> {
        let owner = owner_of(metadata);
        if owner != asking {
            return Err(TableError::OwnedByOther { table: self.table.clone(), owner: owner.to_owned(), asking: asking.to_owned() });
        }
        Ok(())
    }

    /// Commits what the definition asks for, all of it or nothing. Planned anew for every attempt: another writer may have done it.
    async fn evolve(&self, definition: &TableDef) -> Result<()> {
        self.catalog
            .commit(&self.table.namespace, &self.table.name, |attempt: Attempt| async move {
                let change = self.change(definition, attempt.table.metadata())?;
                Ok::<_, TableError>(change.map_or(Decision::Nothing, |plan| Decision::Commit(Box::new(plan))))
            })
            .await?;
        Ok(())
    }

    /// Refuses files whose values would vanish: a column that they have was dropped after they were staged.
    fn ensure_columns(&self, files: &[DataFile], metadata: &TableMetadata) -> Result<()> {
        let schema = metadata.current_schema();
        let gone = files.iter().flat_map(|file| file.column_sizes().keys()).find(|id| schema.field_by_id(**id).is_none());
        match gone {
            Some(field_id) => Err(TableError::ColumnGone { table: self.table.clone(), field_id: *field_id }),
            None => Ok(()),
        }
    }

    pub(crate) async fn load(&self) -> Result<iceberg::table::Table> {
        Ok(self.catalog.load_table(&self.table.namespace, &self.table.name).await?)
    }

    fn layout(&self, table: &iceberg::table::Table, commit: &Commit) -> Result<Arc<FileLayout>> {
        self.layout_of(table, &commit.token)
    }

    /// The layout of the files of one token.
    pub(crate) fn layout_of(&self, table: &iceberg::table::Table, token: &str) -> Result<Arc<FileLayout>> {
        let token: String = token.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        self.layout_with(table, format!("{token}-{}", Uuid::new_v4().simple()))
    }

    /// The layout of files that compaction writes, whose names say so.
    pub(crate) fn compacted_layout(&self, table: &iceberg::table::Table) -> Result<Arc<FileLayout>> {
        self.layout_with(table, format!("{}{}", segments::PREFIX, Uuid::new_v4().simple()))
    }

    fn layout_with(&self, table: &iceberg::table::Table, stem: String) -> Result<Arc<FileLayout>> {
        let metadata = table.metadata();
        Ok(Arc::new(FileLayout {
            table: self.table.clone(),
            schema: metadata.current_schema().clone(),
            arrow: schema::file_schema(&self.table, metadata.current_schema())?,
            spec: metadata.default_partition_spec().clone(),
            sort_by: sort_columns(metadata),
            io: table.file_io().clone(),
            // Flat: partition values live in the metadata, so no reader has to agree on how to encode them in a path.
            folder: format!("{}/data", metadata.location()),
            stem,
            blooms: blooms::of(metadata.properties(), metadata.current_schema()),
            hive: false,
        }))
    }

    /// Decides what this attempt commits, from the metadata that it will replace, and what the ledger is to keep of it.
    async fn plan(&self, attempt: &Attempt, staged: &Staged, commit: &Commit) -> Result<Option<(Plan, Entry)>> {
        let table = &attempt.table;
        let latest = ledger::of_interval(&self.table, table.metadata().properties(), commit)?;
        if latest.as_ref().is_some_and(|entry| entry.token == commit.token) {
            return Ok(None);
        }
        if let StagedContent::Files(files) = &staged.content {
            self.ensure_columns(files, table.metadata())?;
        }
        let files = IcebergFiles { name: &self.table, table, compacted: self.compacted_layout(table)? };
        let outdated = ledger::is_outdated_in(&self.table, table.metadata().properties(), commit)?;
        let changes = changes(&files, self.layout(table, commit)?, staged, commit, latest.as_ref(), outdated).await?;
        let entry = changes.entry(commit, attempt.snapshot_id.to_string());
        let mut plan = Plan::new(Operation::Overwrite);
        plan.added = changes.added;
        plan.removed = changes.removed.into_iter().map(|file| file.0).collect();
        plan.scratch = changes.scratch;
        plan.summary.insert(COMMIT_TOKEN.to_owned(), commit.token.clone());
        plan.summary.insert("lakehouse.interval-start".to_owned(), ledger::interval_start(commit));
        Ok(Some((plan, entry)))
    }

    /// A value as the text of a property.
    fn property(&self, value: &impl serde::Serialize) -> Result<String> {
        serde_json::to_string(value).map_err(|error| TableError::Corrupt {
            table: self.table.clone(),
            what: "its ledger".to_owned(),
            reason: error.to_string(),
        })
    }

    /// What this attempt publishes of a candidate; none when the table has the token, or is not what the candidate was made from.
    fn publication(&self, attempt: &Attempt, content: &Content, commit: &Commit) -> Result<Option<Plan>> {
        let Content::Iceberg { branch, snapshot_id, parent, schema_id, entry } = content else { return Ok(None) };
        let metadata = attempt.table.metadata();
        let latest = ledger::of_interval(&self.table, metadata.properties(), commit)?;
        let done = latest.is_some_and(|entry| entry.token == commit.token);
        let same = metadata.current_snapshot_id() == *parent && metadata.current_schema_id() == *schema_id;
        if done || !same || metadata.snapshot_by_id(*snapshot_id).is_none() {
            return Ok(None);
        }
        let mut plan = Plan::metadata_only();
        plan.publish = Some(*snapshot_id);
        plan.removed_branches.push(branch.clone());
        plan.properties.insert(ledger::key(commit), self.property(entry)?);
        if !commit.summary.is_empty() {
            // The snapshot was written before its facts were known in full. They go with it, see `ledger::facts_key`.
            plan.properties.insert(ledger::facts_key(*snapshot_id), self.property(&commit.summary)?);
        }
        Ok(Some(plan))
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

    /// What the table says of a commit that is surely in it.
    fn committed(&self, table: &iceberg::table::Table, commit: &Commit, already: bool) -> Result<Committed> {
        self.outcome(table, &commit.token, already)?.ok_or_else(|| TableError::Corrupt {
            table: self.table.clone(),
            what: "its ledger".to_owned(),
            reason: format!("token {} was committed and is not in it", commit.token),
        })
    }

    fn outcome(&self, table: &iceberg::table::Table, token: &str, already: bool) -> Result<Option<Committed>> {
        let Some(entry) = ledger::of_token(&self.table, table.metadata().properties(), token)? else { return Ok(None) };
        let id = entry.snapshot.parse::<i64>().ok();
        let snapshot = id.and_then(|id| table.metadata().snapshot_by_id(id));
        let mut facts = snapshot.map_or_else(BTreeMap::new, |found| ledger::facts_from_summary(&found.summary().additional_properties));
        if let Some(id) = id.filter(|_| snapshot.is_some()) {
            facts.extend(ledger::facts_of_snapshot(&self.table, table.metadata().properties(), id)?);
        }
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

    async fn intervals(&self) -> Result<BTreeMap<DateTime<Utc>, IntervalCommit>> {
        ledger::intervals(&self.table, self.load().await?.metadata().properties())
    }

    async fn find_commit(&self, token: &str) -> Result<Option<Committed>> {
        self.outcome(&self.load().await?, token, true)
    }

    async fn stage(&self, input: Vec<BatchStream>, commit: &Commit) -> Result<Staged> {
        let layout = self.layout(&self.load().await?, commit)?;
        stage(layout, input, commit, None).await
    }

    async fn commit(&self, staged: Staged, commit: &Commit) -> Result<Committed> {
        let lease = lease::of_commit(&self.db, &self.table, commit).await?;
        let turn = Turn::new(&self.db, &self.table);
        let offered = AtomicBool::new(false);
        let outcome = self
            .catalog
            .commit(&self.table.namespace, &self.table.name, |attempt: Attempt| {
                let (staged, lease, turn, offered) = (&staged, &lease, &turn, &offered);
                async move {
                    if turn.waited().await {
                        return Ok(Decision::Again);
                    }
                    if let Some(lease) = lease {
                        lease.ensure_held()?;
                    }
                    Ok::<_, TableError>(match self.plan(&attempt, staged, commit).await? {
                        None => Decision::Nothing,
                        Some((mut plan, entry)) => {
                            plan.properties.insert(ledger::key(commit), self.property(&entry)?);
                            plan.summary.extend(ledger::facts_to_summary(&commit.summary));
                            offered.fetch_or(!plan.added.is_empty(), Ordering::AcqRel);
                            Decision::Commit(Box::new(plan))
                        }
                    })
                }
            })
            .await;
        turn.end().await;
        lease::release(&self.table, lease).await;
        let (table, already) = match outcome? {
            Outcome::Committed { table, .. } => (table, false),
            Outcome::Nothing(table) => (table, true),
        };
        // Another attempt committed this token, or the rows are outdated. Files that were offered once may be the ones that were committed.
        if !offered.load(Ordering::Acquire) {
            self.discard(&staged).await;
        }
        self.committed(&table, commit, already)
    }

    async fn audit(&self, staged: &Staged, commit: &Commit) -> Result<Audit> {
        let lease = lease::acquire(&self.db, &self.table, &commit.token).await?;
        let branch = branch_of(commit);
        let made: Mutex<Option<(Option<i64>, Entry)>> = Mutex::new(None);
        let outcome = self
            .catalog
            .commit(&self.table.namespace, &self.table.name, |attempt: Attempt| {
                let (lease, branch, made) = (&lease, &branch, &made);
                async move {
                    lease.ensure_held()?;
                    Ok::<_, TableError>(match self.plan(&attempt, staged, commit).await? {
                        None => Decision::Nothing,
                        Some((mut plan, entry)) => {
                            plan.branch = Some(branch.clone());
                            let parent = attempt.table.metadata().current_snapshot_id();
                            *made.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some((parent, entry));
                            Decision::Commit(Box::new(plan))
                        }
                    })
                }
            })
            .await;
        let made = made.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (table, snapshot_id) = match outcome {
            Ok(Outcome::Committed { table, snapshot_id }) => (table, snapshot_id),
            Ok(Outcome::Nothing(table)) => {
                lease::release(&self.table, Some(lease)).await;
                return self.committed(&table, commit, true).map(Audit::Already);
            }
            Err(error) => {
                lease::release(&self.table, Some(lease)).await;
                return Err(error);
            }
        };
        let (Some((parent, entry)), Some(snapshot_id)) = (made, snapshot_id) else {
            return Err(TableError::Task { table: self.table.clone(), reason: "an audit ended without a candidate".to_owned() });
        };
        let schema_id = table.metadata().current_schema_id();
        let provider = Arc::new(IcebergProvider::new(&self.table, table, Some(snapshot_id))?);
        Ok(Audit::Candidate(Candidate {
            provider,
            content: Content::Iceberg { branch, snapshot_id, parent, schema_id, entry: Box::new(entry) },
            lease: Some(lease),
        }))
    }

    async fn publish(&self, candidate: Candidate, commit: &Commit) -> Result<Option<Committed>> {
        let Candidate { content, lease, .. } = candidate;
        let outcome = self
            .catalog
            .commit(&self.table.namespace, &self.table.name, |attempt: Attempt| {
                let (content, lease) = (&content, &lease);
                async move {
                    if let Some(lease) = lease {
                        lease.ensure_held()?;
                    }
                    let plan = self.publication(&attempt, content, commit)?;
                    Ok::<_, TableError>(plan.map_or(Decision::Nothing, |plan| Decision::Commit(Box::new(plan))))
                }
            })
            .await;
        lease::release(&self.table, lease).await;
        match outcome? {
            Outcome::Committed { table, .. } => self.committed(&table, commit, false).map(Some),
            Outcome::Nothing(table) => {
                let Content::Iceberg { snapshot_id, .. } = &content else { return Ok(None) };
                // Published by another attempt, or by an earlier try of this one whose answer was lost.
                let ours = table.metadata().current_snapshot_id() == Some(*snapshot_id);
                let found = self.outcome(&table, &commit.token, !ours)?;
                if found.is_none() && table.metadata().snapshot_by_id(*snapshot_id).is_none() {
                    // Maintenance took it for what a dead writer had left, and its files with it: they must be written again.
                    return Err(TableError::Conflict { table: self.table.clone(), attempts: 1 });
                }
                Ok(found)
            }
        }
    }

    async fn reject(&self, candidate: Candidate, _staged: Staged) {
        // The branch has the files; the next candidate of the interval, or maintenance, ends it.
        lease::release(&self.table, candidate.lease).await;
    }

    async fn provider(&self, at: Option<&str>) -> Result<Arc<dyn TableProvider>> {
        let table = self.load().await?;
        let snapshot = match at {
            None => None,
            Some(text) => {
                let metadata = table.metadata();
                let by_id = text.parse::<i64>().ok().filter(|id| metadata.snapshot_by_id(*id).is_some());
                let known = by_id.or_else(|| metadata.snapshot_for_ref(text).map(|snapshot| snapshot.snapshot_id()));
                Some(known.ok_or_else(|| TableError::NoSuchSnapshot { table: self.table.clone(), snapshot: text.to_owned() })?)
            }
        };
        Ok(Arc::new(IcebergProvider::new(&self.table, table, snapshot)?))
    }

    async fn snapshot(&self) -> Result<Option<String>> {
        Ok(self.load().await?.metadata().current_snapshot_id().map(|id| id.to_string()))
    }
}

fn owner_of(metadata: &TableMetadata) -> &str {
    metadata.properties().get(OWNER).map_or("another writer", String::as_str)
}

/// The columns that rows of a file are sorted by.
fn sort_columns(metadata: &TableMetadata) -> Vec<String> {
    let text = metadata.properties().get(SORT_BY).map(String::as_str).unwrap_or_default();
    text.split(',').filter(|column| !column.is_empty()).map(str::to_owned).collect()
}

fn initial_properties(definition: &TableDef) -> HashMap<String, String> {
    let mut properties: HashMap<String, String> = definition.properties.clone().into_iter().collect();
    properties.insert(OWNER.to_owned(), definition.owner.clone());
    properties.insert("write.format.default".to_owned(), "parquet".to_owned());
    properties.insert("write.parquet.compression-codec".to_owned(), "zstd".to_owned());
    if !definition.sort_by.is_empty() {
        properties.insert(SORT_BY.to_owned(), definition.sort_by.join(","));
    }
    properties.extend(blooms::properties(&definition.bloom_filters));
    properties
}
