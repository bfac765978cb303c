//! Maintenance of an Iceberg table: compaction, expiry of snapshots, removal of files that nothing refers to.

use crate::candidate::BRANCH;
use crate::compact::{GroupRows, batches, concatenated, groups, rewrite};
use crate::iceberg_table::IcebergTable;
use crate::ledger;
use crate::live::IcebergFile;
use crate::maintenance::{Expiry, Maintained, Maintenance, Orphans, delete_all};
use crate::{Result, TableError, WriteMode, lease, segments};
use iceberg::spec::{DataFile, Operation, Struct};
use iceberg::table::Table;
use iceberg_commit::{
    Attempt, CommitError, Decision, LiveFile, Outcome, Plan, Retention, branches, expirable, files_of_snapshots, live_files,
    manifest_counts, references,
};
use lakehouse_storage::{LayerStore, Lease, ObjectEntry};
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

/// From this many small manifests on they are merged even when no file is compacted.
const MANY_MANIFESTS: usize = 8;
/// What a compacting snapshot says of itself.
const KIND: &str = "lakehouse.maintenance";

/// A group, rewritten and not yet committed.
struct Rewritten {
    inputs: HashSet<String>,
    output: DataFile,
}

/// What the attempts of one compacting commit have done so far.
#[derive(Default)]
struct Progress {
    /// Groups of the last attempt.
    fitting: HashSet<usize>,
    /// Groups of any attempt: a snapshot may refer to their files.
    offered: HashSet<usize>,
}

impl IcebergTable {
    pub(crate) async fn maintain(&self, layer: &LayerStore, owner: &str, what: &Maintenance) -> Result<Maintained> {
        let before = self.load().await?;
        self.check_owner(before.metadata(), owner)?;
        let mut done = Maintained::default();
        (done.counts.files_before, done.counts.bytes_before, done.counts.manifests_before) = sizes(&before).await?;
        if let Some(compaction) = what.compact {
            self.compact(compaction.target_file_bytes, &mut done).await?;
            self.merge_manifests().await?;
        }
        if let Some(expiry) = what.expire {
            self.expire(layer, expiry, what, &mut done).await?;
        }
        if let Some(orphans) = what.orphans {
            self.remove_orphans(layer, orphans, what, &mut done).await?;
        }
        let after = self.load().await?;
        (done.counts.files_after, done.counts.bytes_after, done.counts.manifests_after) = sizes(&after).await?;
        done.counts.snapshots_left = after.metadata().snapshots().len() as u64;
        done.snapshot = after.metadata().current_snapshot_id().map(|id| id.to_string());
        Ok(done)
    }

    /// Rewrites small files, group by group, and commits them in batches.
    async fn compact(&self, target: u64, done: &mut Maintained) -> Result<()> {
        let table = self.load().await?;
        let layout = self.compacted_layout(&table)?;
        let schema = table.metadata().current_schema();
        let first_sort_id = layout.sort_by.first().and_then(|column| schema.field_id_by_name(column));
        let spec = table.metadata().default_partition_spec_id();
        let live = live_files(&table).await?.into_iter().filter(|live| live.spec_id == spec).map(IcebergFile);
        let waiting = groups(live.collect(), target, first_sort_id);
        let merges = ledger::has_merges(&self.table, table.metadata().properties())?;
        for batch in batches(waiting) {
            // Merges rewrite many files: with the lease they wait for this batch instead of working against it.
            let turn = if merges { Some(lease::acquire(&self.db, &self.table, "compaction").await?) } else { None };
            let outcome = self.compact_batch(batch, turn.as_ref(), done).await;
            lease::release(&self.table, turn).await;
            outcome?;
        }
        Ok(())
    }

    async fn compact_batch(&self, batch: Vec<Vec<IcebergFile>>, lease: Option<&Lease>, done: &mut Maintained) -> Result<()> {
        let table = self.load().await?;
        let layout = self.compacted_layout(&table)?;
        let keep_segments = ledger::has_mode(&self.table, table.metadata().properties(), ledger::mode_name(&WriteMode::Append))?;
        let live: HashMap<String, LiveFile> = by_path(live_files(&table).await?);
        let mut rewritten = Vec::new();
        for group in batch {
            if !group.iter().all(|file| live.contains_key(file.0.file.file_path())) {
                done.counts.groups_skipped += 1;
                continue;
            }
            if let Some(lease) = lease {
                lease.ensure_held()?;
            }
            let mut kept = Vec::new();
            if keep_segments {
                for live in &group {
                    kept.extend(segments::of_file(&self.table, table.file_io(), &live.0).await?);
                }
            }
            let files: Vec<DataFile> = group.iter().map(|live| live.0.file.clone()).collect();
            let rows = GroupRows {
                partition: files.first().map_or_else(Struct::empty, |file| file.partition().clone()),
                expected: files.iter().map(DataFile::record_count).sum(),
                rows: concatenated(&table, &layout, files),
            };
            let output = rewrite(&layout, rows, rewritten.len(), keep_segments.then_some(kept)).await?;
            rewritten.push(Rewritten { inputs: group.iter().map(|file| file.0.file.file_path().to_owned()).collect(), output });
        }
        if rewritten.is_empty() {
            return Ok(());
        }
        let progress = Mutex::new(Progress::default());
        let schema = table.metadata().current_schema();
        let outcome = self
            .catalog
            .commit(&self.table.namespace, &self.table.name, |attempt: Attempt| {
                let (rewritten, progress) = (&rewritten, &progress);
                async move {
                    if let Some(lease) = lease {
                        lease.ensure_held()?;
                    }
                    let append = ledger::mode_name(&WriteMode::Append);
                    let appends = ledger::has_mode(&self.table, attempt.table.metadata().properties(), append)?;
                    let same = appends == keep_segments && attempt.table.metadata().current_schema() == schema;
                    decide(&attempt, rewritten, same, progress).await
                }
            })
            .await;
        let progress = progress.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let committed = match outcome {
            Ok(_) => progress.fitting,
            // Other writers were faster every time: they matter more.
            Err(TableError::Commit(CommitError::Conflict { .. })) => HashSet::new(),
            Err(error) => return Err(error),
        };
        for (number, group) in rewritten.iter().enumerate() {
            if committed.contains(&number) {
                done.counts.files_compacted += group.inputs.len() as u64;
                done.files_written += 1;
                done.bytes_written += group.output.file_size_in_bytes();
            } else {
                done.counts.groups_skipped += 1;
                // What was offered once may be in a snapshot after all; if not, it is an orphan and goes as such.
                if !progress.offered.contains(&number)
                    && let Err(error) = self.catalog.file_io().delete(group.output.file_path()).await
                {
                    tracing::debug!(table = %self.table, %error, "left a compacted file that is not needed");
                }
            }
        }
        Ok(())
    }

    /// Merges small manifests that piled up although no file needed compaction.
    async fn merge_manifests(&self) -> Result<()> {
        if manifest_counts(&self.load().await?).await?.1 < MANY_MANIFESTS {
            return Ok(());
        }
        let outcome = self
            .catalog
            .commit(&self.table.namespace, &self.table.name, |attempt: Attempt| async move {
                if manifest_counts(&attempt.table).await?.1 < MANY_MANIFESTS {
                    return Ok::<_, TableError>(Decision::Nothing);
                }
                Ok(Decision::Commit(Box::new(replacing())))
            })
            .await;
        match outcome {
            Ok(_) | Err(TableError::Commit(CommitError::Conflict { .. })) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Forgets snapshots in one commit, then deletes what only they needed.
    pub(crate) async fn expire(&self, layer: &LayerStore, expiry: Expiry, what: &Maintenance, done: &mut Maintained) -> Result<()> {
        let retention = Retention { superseded_before_ms: what.before(expiry.older_than).timestamp_millis(), keep_last: expiry.keep_last };
        let forgotten: Mutex<Option<(Table, Vec<i64>)>> = Mutex::new(None);
        let outcome = self
            .catalog
            .commit(&self.table.namespace, &self.table.name, |attempt: Attempt| {
                let forgotten = &forgotten;
                async move {
                    let rejected = rejected(&attempt.table, retention.superseded_before_ms)?;
                    let expired = expirable(&attempt.table, retention, &rejected)?;
                    if expired.is_empty() && rejected.is_empty() {
                        return Ok::<_, TableError>(Decision::Nothing);
                    }
                    let mut plan = Plan::metadata_only();
                    plan.expired.clone_from(&expired);
                    plan.removed_branches = rejected;
                    let properties = attempt.table.metadata().properties();
                    let facts = expired.iter().map(|id| ledger::facts_key(*id)).filter(|key| properties.contains_key(key));
                    plan.removed_properties.extend(facts);
                    *forgotten.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some((attempt.table, expired));
                    Ok(Decision::Commit(Box::new(plan)))
                }
            })
            .await;
        let after = match outcome {
            Ok(Outcome::Committed { table, .. }) => table,
            Ok(Outcome::Nothing(_)) | Err(TableError::Commit(CommitError::Conflict { .. })) => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some((before, expired)) = forgotten.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) else { return Ok(()) };
        done.counts.snapshots_expired += expired.len() as u64;
        // No later commit can refer to what only forgotten snapshots had: it would begin from metadata without them.
        let needed = references(&after).await?;
        let inside = format!("{}/", after.metadata().location());
        let garbage = files_of_snapshots(&before, &expired, &needed).await?;
        let keys = garbage.iter().filter(|location| location.starts_with(&inside)).filter_map(|location| layer.key_of(location));
        let (gone, left) = delete_all(&self.table, layer, keys.map(str::to_owned).collect()).await;
        done.counts.expired_files_deleted += gone;
        done.counts.not_deleted += left;
        Ok(())
    }

    /// Deletes files below the table's `data` and `metadata` that nothing refers to and that are old enough.
    ///
    /// The order is what makes it safe: what is deleted was listed first and looked up in metadata that was read afterwards.
    async fn remove_orphans(&self, layer: &LayerStore, orphans: Orphans, what: &Maintenance, done: &mut Maintained) -> Result<()> {
        let first = self.load().await?;
        let location = first.metadata().location().trim_end_matches('/').to_owned();
        let folder = layer.key_of(&location).filter(|key| !key.is_empty()).ok_or_else(|| TableError::Corrupt {
            table: self.table.clone(),
            what: "its location".to_owned(),
            reason: format!("{location} does not lie in {}", layer.base_uri()),
        })?;
        let mut listed = layer.list(&format!("{folder}/data")).await?;
        listed.extend(layer.list(&format!("{folder}/metadata")).await?);
        let table = self.load().await?;
        self.check_listing(layer, &listed, &first, &table)?;
        let needed = references(&table).await?;
        let before = what.before(orphans.older_than);
        let garbage: Vec<ObjectEntry> =
            listed.into_iter().filter(|object| object.last_modified < before && !needed.contains(&layer.uri(&object.key))).collect();
        let bytes = garbage.iter().map(|object| object.size).sum::<u64>();
        done.counts.orphan_bytes += bytes;
        if orphans.dry_run {
            done.counts.orphans_deleted += garbage.len() as u64;
            return Ok(());
        }
        let (gone, left) = delete_all(&self.table, layer, garbage.into_iter().map(|object| object.key).collect()).await;
        done.counts.orphans_deleted += gone;
        done.counts.not_deleted += left;
        Ok(())
    }

    /// Refuses a listing without files that the table had before it and has after it: then names in metadata and names of objects are written
    /// differently, or the listing is of another place, and every file would look like an orphan.
    fn check_listing(&self, layer: &LayerStore, listed: &[ObjectEntry], first: &Table, table: &Table) -> Result<()> {
        let names: HashSet<String> = listed.iter().map(|object| layer.uri(&object.key)).collect();
        let lists = first.metadata().snapshots().filter(|snapshot| table.metadata().snapshot_by_id(snapshot.snapshot_id()).is_some());
        let mut expected = lists.map(|snapshot| snapshot.manifest_list()).chain(first.metadata_location());
        match expected.find(|location| !names.contains(*location)) {
            None => Ok(()),
            Some(location) => Err(TableError::Corrupt {
                table: self.table.clone(),
                what: "the listing of its files".to_owned(),
                reason: format!("{location} is not in it, so that nothing was deleted"),
            }),
        }
    }
}

/// What one attempt commits: the groups whose files are all still there.
async fn decide(attempt: &Attempt, rewritten: &[Rewritten], same: bool, progress: &Mutex<Progress>) -> Result<Decision> {
    let mut live = by_path(live_files(&attempt.table).await?);
    let landed: HashSet<usize> = (0..rewritten.len()).filter(|number| live.contains_key(rewritten[*number].output.file_path())).collect();
    let set = |fitting: HashSet<usize>| {
        let mut progress = progress.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        progress.offered.extend(fitting.iter().copied());
        progress.fitting = fitting;
    };
    // An earlier attempt whose answer was lost did it.
    if !landed.is_empty() {
        set(landed);
        return Ok(Decision::Nothing);
    }
    // Rows would lack a column, or an append could not be told apart any more.
    if !same {
        set(HashSet::new());
        return Ok(Decision::Nothing);
    }
    let mut plan = replacing();
    let mut fitting = HashSet::new();
    for (number, group) in rewritten.iter().enumerate() {
        if group.inputs.iter().all(|path| live.contains_key(path)) {
            plan.removed.extend(group.inputs.iter().filter_map(|path| live.remove(path)));
            plan.added.push(group.output.clone());
            fitting.insert(number);
        }
    }
    let nothing = fitting.is_empty();
    set(fitting);
    Ok(if nothing { Decision::Nothing } else { Decision::Commit(Box::new(plan)) })
}

/// The branches of candidates that were rejected, or left by a writer that died, before a time in milliseconds since 1970.
fn rejected(table: &Table, before_ms: i64) -> Result<Vec<String>> {
    let made = |id: i64| table.metadata().snapshot_by_id(id).map_or(i64::MIN, |snapshot| snapshot.timestamp_ms());
    let branches = branches(table)?.into_iter();
    Ok(branches.filter(|(name, head)| name.starts_with(BRANCH) && made(*head) < before_ms).map(|(name, _)| name).collect())
}

/// A change that keeps the rows as they are.
fn replacing() -> Plan {
    let mut plan = Plan::new(Operation::Replace);
    plan.merge_manifests = true;
    plan.summary.insert(KIND.to_owned(), "compaction".to_owned());
    plan
}

fn by_path(files: Vec<LiveFile>) -> HashMap<String, LiveFile> {
    files.into_iter().map(|live| (live.file.file_path().to_owned(), live)).collect()
}

/// Live data files, their bytes, and manifests.
async fn sizes(table: &Table) -> Result<(u64, u64, u64)> {
    let files = live_files(table).await?;
    let bytes = files.iter().map(|live| live.file.file_size_in_bytes()).sum();
    Ok((files.len() as u64, bytes, manifest_counts(table).await?.0 as u64))
}
