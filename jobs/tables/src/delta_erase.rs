//! Erasing rows of a Delta table: its live files are rewritten in one commit. Older versions keep the files that held the rows until VACUUM
//! deletes them.

use crate::delta_files::to_add;
use crate::delta_table::{DeltaFiles, DeltaTable, Stop, TXN, batches, stem_of};
use crate::erase::{Doomed, Erased, search};
use crate::ledger;
use crate::live::TableFiles;
use crate::writer::{FileLayout, write_one};
use crate::{Result, TableError, WriteMode, lease};
use chrono::Utc;
use delta_commit::{Change, Decision, Snapshot, Txn};
use futures::{StreamExt, stream};
use lakehouse_storage::Lease;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;

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
            for live in (DeltaFiles { table: self, state: &state }).live().await? {
                if let Some((_, rows)) = found.iter().find(|(key, _)| self.layer.uri(key) == live.as_ref().file_path()) {
                    (done.rows, done.files) = (done.rows + rows, done.files + 1);
                }
            }
        } else if !found.is_empty() {
            let merges = batches(&state.snapshot).any(|batch| batch.entry.mode == "merge");
            let turn = if merges { Some(lease::acquire(&self.db, &self.table, "erasure").await?) } else { None };
            let outcome = self.remove_rows(doomed, turn.as_ref()).await;
            lease::release(&self.table, turn).await;
            (done.rows, done.files) = outcome?;
            done.snapshot = Some(self.load().await?.snapshot.version().to_string());
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
        let files = DeltaFiles { table: self, state: &state };
        let now = Utc::now().timestamp_millis();
        let mut change = Change { operation: "DELETE".to_owned(), data_change: true, ..Change::default() };
        let mut all = 0;
        // The names of an append's files say whose they are; so do those of what is left of them.
        let appends: Vec<_> = batches(&state.snapshot).filter(|batch| batch.entry.mode == ledger::mode_name(&WriteMode::Append)).collect();
        let mut rows_of_stem: HashMap<String, u64> = HashMap::new();
        for live in files.live().await? {
            let base = self.layout_with(&state, String::new())?;
            let mut kept = Vec::new();
            let mut gone = 0;
            for batch in files.read(live.as_ref(), &base.arrow).await? {
                let (stays, mask) = doomed.split(&self.table, &batch)?;
                gone += mask.true_count() as u64;
                kept.push(Ok(stays));
            }
            if gone == 0 {
                continue;
            }
            all += gone;
            let stem = appends.iter().map(|batch| stem_of(&batch.entry.token)).find(|stem| live.path.starts_with(stem));
            if let Some(stem) = &stem {
                *rows_of_stem.entry(stem.clone()).or_default() += gone;
            }
            let stem = format!("{}{}", stem.unwrap_or_else(|| "part-erased-".to_owned()), Uuid::new_v4().simple());
            let layout: FileLayout = self.layout_with(&state, stem)?;
            if live.as_ref().record_count() > gone
                && let Some(file) = write_one(&layout, 0, live.as_ref().partition().clone(), stream::iter(kept).boxed(), Vec::new()).await?
            {
                let path = self.relative(file.file_path())?;
                change.add.push(to_add(&self.table, &path, &file, &layout.spec, &layout.schema, now)?);
                change.scratch.push(path);
            }
            change.remove.push(live.path);
        }
        for batch in appends {
            let Some(erased) = rows_of_stem.get(&stem_of(&batch.entry.token)) else { continue };
            let entry = ledger::without_rows(&self.table, batch.entry, *erased)?;
            // The version stays that of the append, whose facts stand in its commit.
            let version = i64::try_from(batch.version).unwrap_or(i64::MAX);
            change.txns.push(Txn { app_id: format!("{TXN}{}/{entry}", batch.interval), version, last_updated: Some(now) });
        }
        change.metrics = BTreeMap::from([("numDeletedRows".to_owned(), all.to_string())]);
        Ok((change, all))
    }
}
