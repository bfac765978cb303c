//! Erasing rows of a Delta table: its live files are rewritten in one commit, then all older versions are forgotten with the files and the part of
//! the log (it has bounds of columns) that only they needed, whatever the table itself asks to keep.

use crate::compact::one_file;
use crate::delta_files::to_add;
use crate::delta_table::{DeltaFiles, DeltaTable, REWRITTEN, Stop, TXN, batches};
use crate::erase::{Doomed, Erased, everything_before, forsaken, search};
use crate::ledger;
use crate::live::TableFiles;
use crate::maintenance::Maintained;
use crate::{Result, TableError, WriteMode, lease, segments};
use chrono::Utc;
use delta_commit::{Change, Decision, Snapshot, Txn};
use futures::{StreamExt, stream};
use lakehouse_storage::Lease;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

impl DeltaTable {
    pub(crate) async fn erase(&self, owner: &str, doomed: &Doomed, dry_run: bool) -> Result<Option<Erased>> {
        let state = self.load().await?;
        self.check_owner(&state, owner)?;
        if !doomed.concerns(crate::schema::file_schema(&self.table, &state.schema)?.as_ref()) {
            return Ok(None);
        }
        let none = HashMap::new();
        let found = search(&self.table, &self.layer, &self.folder, doomed, &none).await?;
        let mut done = Erased { snapshot: Some(state.snapshot.version().to_string()), ..Erased::default() };
        if dry_run {
            done.count(&self.files_of(&state)?, &found, &self.layer);
        } else if !found.is_empty() {
            let turn = if self.has_merges(&state) { Some(lease::acquire(&self.db, &self.table, "erasure").await?) } else { None };
            let outcome = self.remove_rows(doomed, turn.as_ref()).await;
            lease::release(&self.table, turn).await;
            (done.rows, done.files) = outcome?;
            let mut maintained = Maintained::default();
            let (all, later) = everything_before();
            self.forget(all, &later, &mut maintained).await?;
            (done.snapshots_expired, done.files_deleted) = (maintained.counts.snapshots_expired, maintained.counts.expired_files_deleted);
            // What an earlier erasing was about to delete when it was killed, and what a dead attempt left, no version refers to.
            let newest = self.load().await?.snapshot.version();
            let (_, needed) = self.needed_since(newest).await?;
            done.files_deleted += forsaken(&self.layer, found.iter().map(|(key, _)| key).filter(|key| !needed.contains(*key))).await?;
            done.snapshot = Some(newest.to_string());
        }
        let left = search(&self.table, &self.layer, &self.folder, doomed, &none).await?;
        done.left = left.iter().map(|(key, _)| self.layer.uri(key)).collect();
        Ok(Some(done))
    }

    async fn remove_rows(&self, doomed: &Doomed, lease: Option<&Lease>) -> Result<(u64, u64)> {
        let (rows, files) = (AtomicU64::new(0), AtomicU64::new(0));
        let outcome = self
            .log
            .commit(|snapshot| {
                let (rows, files) = (&rows, &files);
                async move {
                    if let Some(lease) = lease {
                        lease.ensure_held().map_err(TableError::from)?;
                    }
                    let (change, gone) = self.change_without(snapshot, doomed).await?;
                    rows.store(gone, Ordering::Release);
                    files.store(change.remove.len() as u64, Ordering::Release);
                    Ok::<_, Stop>(if change.remove.is_empty() { Decision::Nothing } else { Decision::Commit(Box::new(change)) })
                }
            })
            .await
            .map_err(|stop| self.stopped(stop))?;
        Ok(if outcome.committed { (rows.into_inner(), files.into_inner()) } else { (0, 0) })
    }

    /// The commit that leaves the rows out, and how many they are.
    async fn change_without(&self, snapshot: Arc<Snapshot>, doomed: &Doomed) -> Result<(Change, u64)> {
        let state = self.state(snapshot)?;
        let files = DeltaFiles::new(self, &state)?;
        let (known, foreign) = (self.compacted_layout(&state)?, Arc::new(self.layout_with(&state, REWRITTEN)?));
        let now = Utc::now().timestamp_millis();
        let mut change = Change { operation: "DELETE".to_owned(), data_change: true, ..Change::default() };
        let mut all = 0;
        let appends: Vec<_> = batches(&state.snapshot).filter(|batch| batch.entry.mode == ledger::mode_name(&WriteMode::Append)).collect();
        let ours = state.ours();
        let mut rows_of_version: HashMap<i64, u64> = HashMap::new();
        for live in files.live().await? {
            let mut kept = Vec::new();
            let mut gone: Vec<bool> = Vec::new();
            for batch in files.read(live.as_ref(), &known.arrow).await? {
                let (stays, mask) = doomed.split(&self.table, &batch)?;
                kept.push(Ok(stays));
                gone.extend(mask.iter().map(|gone| gone == Some(true)));
            }
            let count = gone.iter().filter(|gone| **gone).count() as u64;
            if count == 0 {
                continue;
            }
            all += count;
            // What is left of appends goes on saying whose it is; what another program wrote goes on saying nothing.
            let mut metadata = Vec::new();
            let layout = if appends.is_empty() || ours(&live) { &known } else { &foreign };
            if !appends.is_empty() && ours(&live) {
                let left = segments::fewer(&files.segments(&live).await?, &gone, &mut rows_of_version);
                metadata = segments::to_metadata(&self.table, &segments::joined(left))?;
            }
            let expected = gone.len() as u64 - count;
            if expected > 0 {
                let (number, partition) = (change.add.len(), live.as_ref().partition().clone());
                let file = one_file(layout, number, partition, stream::iter(kept).boxed(), metadata, expected).await?;
                let path = self.relative(file.file_path())?;
                change.add.push(to_add(&self.table, &path, &file, &layout.spec, &layout.schema, now)?);
                change.scratch.push(path);
            }
            change.remove.push(live.path);
        }
        for batch in appends {
            let version = i64::try_from(batch.version).unwrap_or(i64::MAX);
            let Some(erased) = rows_of_version.get(&version).filter(|erased| **erased > 0) else { continue };
            let entry = ledger::without_rows(&self.table, batch.entry, *erased)?;
            // The version stays that of the append, whose facts stand in its commit.
            change.txns.push(Txn { app_id: format!("{TXN}{}/{entry}", batch.interval), version, last_updated: Some(now) });
        }
        change.metrics = BTreeMap::from([("numDeletedRows".to_owned(), all.to_string())]);
        Ok((change, all))
    }
}
