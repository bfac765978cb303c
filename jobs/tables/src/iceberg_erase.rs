//! Erasing rows of an Iceberg table: its live files are rewritten in one commit, then the snapshots that still hold the rows are forgotten.

use crate::compact::one_file;
use crate::erase::{Doomed, Erased, everything_before, forsaken, search};
use crate::iceberg_table::IcebergTable;
use crate::ledger;
use crate::live::{IcebergFile, IcebergFiles, TableFiles};
use crate::maintenance::Maintained;
use crate::segments;
use crate::{Result, TableError, WriteMode, lease};
use futures::{StreamExt, stream};
use iceberg::spec::{DataFile, Operation};
use iceberg_commit::{Attempt, Decision, Outcome, Plan, references};
use lakehouse_storage::{LayerStore, Lease};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the erasing snapshot says of itself.
const KIND: &str = "lakehouse.erasure";

impl IcebergTable {
    pub(crate) async fn erase(&self, layer: &LayerStore, owner: &str, doomed: &Doomed, dry_run: bool) -> Result<Option<Erased>> {
        let before = self.load().await?;
        self.check_owner(before.metadata(), owner)?;
        let schema = before.metadata().current_schema().clone();
        if !doomed.concerns(crate::schema::file_schema(&self.table, &schema)?.as_ref()) {
            return Ok(None);
        }
        let names: HashMap<i32, String> = schema.as_struct().fields().iter().map(|field| (field.id, field.name.clone())).collect();
        let location = before.metadata().location().trim_end_matches('/').to_owned();
        let folder = layer.key_of(&location).ok_or_else(|| TableError::Corrupt {
            table: self.table.clone(),
            what: "its location".to_owned(),
            reason: format!("{location} does not lie in {}", layer.base_uri()),
        })?;
        let found = search(&self.table, layer, folder, doomed, &names).await?;
        let mut done = Erased { snapshot: before.metadata().current_snapshot_id().map(|id| id.to_string()), ..Erased::default() };
        if found.is_empty() {
            return Ok(Some(done));
        }
        if dry_run {
            let files = IcebergFiles { name: &self.table, table: &before, compacted: self.compacted_layout(&before)? };
            done.count(&files.live().await?, &found, layer);
            done.left = found.iter().map(|(key, _)| layer.uri(key)).collect();
            return Ok(Some(done));
        }
        let merges = ledger::has_merges(&self.table, before.metadata().properties())?;
        let turn = if merges { Some(lease::acquire(&self.db, &self.table, "erasure").await?) } else { None };
        let outcome = self.remove_rows(doomed, turn.as_ref()).await;
        lease::release(&self.table, turn).await;
        (done.rows, done.files) = outcome?;
        let mut maintained = Maintained::default();
        let (all, later) = everything_before();
        self.expire(layer, all, &later, &mut maintained).await?;
        (done.snapshots_expired, done.files_deleted) = (maintained.counts.snapshots_expired, maintained.counts.expired_files_deleted);
        // What an earlier erasing was about to delete when it was killed, and what a dead attempt left, no snapshot refers to.
        let after = self.load().await?;
        done.snapshot = after.metadata().current_snapshot_id().map(|id| id.to_string());
        let needed = references(&after).await?;
        done.files_deleted += forsaken(layer, found.iter().map(|(key, _)| key).filter(|key| !needed.contains(&layer.uri(key)))).await?;
        let left = search(&self.table, layer, folder, doomed, &names).await?;
        done.left = left.iter().map(|(key, _)| layer.uri(key)).collect();
        Ok(Some(done))
    }

    /// Commits the live files without the rows; how many rows and files that took.
    async fn remove_rows(&self, doomed: &Doomed, lease: Option<&Lease>) -> Result<(u64, u64)> {
        let (rows, files) = (AtomicU64::new(0), AtomicU64::new(0));
        let outcome = self
            .catalog
            .commit(&self.table.namespace, &self.table.name, |attempt: Attempt| {
                let (rows, files) = (&rows, &files);
                async move {
                    if let Some(lease) = lease {
                        lease.ensure_held()?;
                    }
                    let (plan, gone) = self.plan_without(&attempt, doomed).await?;
                    rows.store(gone, Ordering::Release);
                    files.store(plan.removed.len() as u64, Ordering::Release);
                    Ok::<_, TableError>(if plan.removed.is_empty() { Decision::Nothing } else { Decision::Commit(Box::new(plan)) })
                }
            })
            .await?;
        Ok(match outcome {
            Outcome::Committed { .. } => (rows.into_inner(), files.into_inner()),
            Outcome::Nothing(_) => (0, 0),
        })
    }

    /// The change that leaves the rows out, and how many they are.
    async fn plan_without(&self, attempt: &Attempt, doomed: &Doomed) -> Result<(Plan, u64)> {
        let table = &attempt.table;
        let layout = self.compacted_layout(table)?;
        let files = IcebergFiles { name: &self.table, table, compacted: layout.clone() };
        let append = ledger::mode_name(&WriteMode::Append);
        let appends = ledger::has_mode(&self.table, table.metadata().properties(), append)?;
        let mut plan = Plan::new(Operation::Overwrite);
        // One manifest afterwards: bounds of columns stand in the old ones too.
        plan.merge_manifests = true;
        plan.summary.insert(KIND.to_owned(), "true".to_owned());
        let mut rows_of_snapshot: HashMap<i64, u64> = HashMap::new();
        let mut all = 0;
        for IcebergFile(live) in files.live().await? {
            let batches = files.read(&live.file, &layout.arrow).await?;
            let mut kept = Vec::with_capacity(batches.len());
            let mut gone: Vec<bool> = Vec::new();
            for batch in &batches {
                let (stays, mask) = doomed.split(&self.table, batch)?;
                kept.push(Ok(stays));
                gone.extend(mask.iter().map(|gone| gone == Some(true)));
            }
            let count = gone.iter().filter(|gone| **gone).count() as u64;
            if count == 0 {
                continue;
            }
            if live.spec_id != table.metadata().default_partition_spec_id() {
                let reason = format!("{} was written with another partitioning, which erasing does not rewrite", live.file.file_path());
                return Err(TableError::Definition { table: self.table.clone(), reason });
            }
            all += count;
            let mut metadata = Vec::new();
            if appends {
                let left = segments::fewer(&segments::of_file(&self.table, table.file_io(), &live).await?, &gone, &mut rows_of_snapshot);
                metadata = segments::to_metadata(&self.table, &segments::joined(left))?;
            }
            let expected = gone.len() as u64 - count;
            if expected > 0 {
                let rows = stream::iter(kept).boxed();
                let file: DataFile = one_file(&layout, plan.added.len(), live.file.partition().clone(), rows, metadata, expected).await?;
                plan.scratch.push(file.file_path().to_owned());
                plan.added.push(file);
            }
            plan.removed.push(live);
        }
        for (key, entry) in ledger::entries(&self.table, table.metadata().properties())? {
            let erased = entry.snapshot.parse().ok().and_then(|snapshot: i64| rows_of_snapshot.get(&snapshot)).copied().unwrap_or_default();
            if entry.mode == append && erased > 0 {
                plan.properties.insert(key, ledger::without_rows(&self.table, entry, erased)?);
            }
        }
        Ok((plan, all))
    }
}
