//! Maintenance of a Delta table: compaction, cleaning of the log, removal of files that no version needs.

use crate::compact::{GroupRows, batches, groups, rewrite};
use crate::delta_files::{DeltaFile, to_add};
use crate::delta_table::{DeltaFiles, DeltaTable, State, Stop};
use crate::maintenance::{Expiry, Maintained, Maintenance, Orphans, delete_all};
use crate::{Result, TableError, WriteMode, lease, ledger};
use chrono::Utc;
use delta_commit::{Add, Change, Decision, DeltaError, History, parse_interval, version_of};
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{DataFile, Struct};
use lakehouse_storage::{Lease, ObjectEntry};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

/// Properties with which a table asks to keep its past for longer than the definition says.
const RETENTION: [&str; 2] = ["delta.logRetentionDuration", "delta.deletedFileRetentionDuration"];
/// Races that a compaction loses before it leaves everything to the writers.
const ATTEMPTS: u32 = 40;

/// A group, rewritten and not yet committed.
struct Rewritten {
    /// Paths in the log.
    inputs: Vec<String>,
    output: DataFile,
    add: Add,
}

/// What the attempts of one compacting commit have done so far.
#[derive(Default)]
struct Progress {
    attempts: u32,
    /// Groups of the last attempt.
    fitting: HashSet<usize>,
    /// Groups of any attempt: a version may refer to their files.
    offered: HashSet<usize>,
}

/// The objects of the table's folder.
struct Listing {
    /// Directly inside the log's folder, by name.
    log: BTreeMap<String, ObjectEntry>,
    /// Data files, by key.
    data: BTreeMap<String, ObjectEntry>,
}

impl DeltaTable {
    pub(crate) async fn maintain(&self, owner: &str, what: &Maintenance) -> Result<Maintained> {
        let before = self.load().await?;
        self.check_owner(&before, owner)?;
        let mut done = Maintained::default();
        (done.counts.files_before, done.counts.bytes_before) = sizes(&before);
        if let Some(compaction) = what.compact {
            self.compact(compaction.target_file_bytes, &mut done).await?;
        }
        if let Some(expiry) = what.expire {
            self.expire(expiry, what, &mut done).await?;
        }
        if let Some(orphans) = what.orphans {
            self.remove_orphans(orphans, what, &mut done).await?;
        }
        let after = self.load().await?;
        (done.counts.files_after, done.counts.bytes_after) = sizes(&after);
        let history = self.list().await?.history();
        done.counts.snapshots_left = history.newest().zip(history.oldest()).map_or(0, |(newest, oldest)| newest - oldest + 1);
        done.snapshot = Some(after.snapshot.version().to_string());
        Ok(done)
    }

    /// Rewrites small files, group by group, and commits them in batches.
    async fn compact(&self, target: u64, done: &mut Maintained) -> Result<()> {
        let state = self.load().await?;
        let first_sort_id = state.sort_by().first().and_then(|column| state.schema.field_id_by_name(column));
        let mut live = self.files_of(&state)?;
        if self.has_appends(&state) {
            // Files of other programs do not say whose their rows are, which only they themselves can be asked for later.
            live.retain(state.ours());
        }
        let waiting = groups(live, target, first_sort_id);
        let merges = self.has_merges(&state);
        for batch in batches(waiting) {
            // Merges rewrite many files: with the lease they wait for this batch instead of working against it.
            let turn = if merges { Some(lease::acquire(&self.db, &self.table, "compaction").await?) } else { None };
            let outcome = self.compact_batch(batch, turn.as_ref(), done).await;
            lease::release(&self.table, turn).await;
            outcome?;
        }
        Ok(())
    }

    async fn compact_batch(&self, batch: Vec<Vec<DeltaFile>>, lease: Option<&Lease>, done: &mut Maintained) -> Result<()> {
        let state = self.load().await?;
        let appends = self.has_appends(&state);
        let layout = self.compacted_layout(&state)?;
        let files = DeltaFiles::new(self, &state)?;
        let mut rewritten = Vec::new();
        for group in batch {
            if !group.iter().all(|live| state.snapshot.file(&live.path).is_some()) {
                done.counts.groups_skipped += 1;
                continue;
            }
            if let Some(lease) = lease {
                lease.ensure_held()?;
            }
            let mut segments = Vec::new();
            if appends {
                for live in &group {
                    segments.extend(files.segments(live).await?);
                }
            }
            let reader = files.reader(&layout);
            let members: Vec<DataFile> = group.iter().map(|live| live.file.clone()).collect();
            let rows = GroupRows {
                partition: members.first().map_or_else(Struct::empty, |file| file.partition().clone()),
                expected: members.iter().map(DataFile::record_count).sum(),
                rows: stream::iter(members)
                    .then(move |file| {
                        let reader = reader.clone();
                        async move { reader.open_file(&file).await }
                    })
                    .try_flatten()
                    .boxed(),
            };
            let output = rewrite(&layout, rows, rewritten.len(), appends.then_some(segments)).await?;
            let path = self.relative(output.file_path())?;
            let add = to_add(&self.table, &path, &output, &layout.spec, &layout.schema, Utc::now().timestamp_millis())?;
            rewritten.push(Rewritten { inputs: group.into_iter().map(|live| live.path).collect(), output, add });
        }
        if rewritten.is_empty() {
            return Ok(());
        }
        let progress = Mutex::new(Progress::default());
        let schema = &state.snapshot.metadata().schema_string;
        let outcome = self
            .log
            .commit(|snapshot| {
                let held = lease.map_or(Ok(()), |lease| lease.ensure_held().map_err(TableError::from));
                let decided = held.and_then(|()| self.state(snapshot)).map(|now| {
                    let same = self.has_appends(&now) == appends && now.snapshot.metadata().schema_string == *schema;
                    decide(&now, &rewritten, same, &progress)
                });
                std::future::ready(decided.map_err(Stop::Table))
            })
            .await;
        let progress = progress.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let committed = match outcome {
            Ok(_) => progress.fitting,
            // Other writers were faster every time: they matter more.
            Err(Stop::Log(DeltaError::Conflict { .. })) => HashSet::new(),
            Err(stop) => return Err(self.stopped(stop)),
        };
        for (number, group) in rewritten.iter().enumerate() {
            if committed.contains(&number) {
                done.counts.files_compacted += group.inputs.len() as u64;
                done.files_written += 1;
                done.bytes_written += group.output.file_size_in_bytes();
                continue;
            }
            done.counts.groups_skipped += 1;
            // What was offered once may be in a version after all; if not, it is an orphan and goes as such.
            if !progress.offered.contains(&number)
                && let Some(key) = self.layer.key_of(group.output.file_path())
                && let Err(error) = self.layer.delete(key).await
            {
                tracing::debug!(table = %self.table, %error, "left a compacted file that is not needed");
            }
        }
        Ok(())
    }

    /// Forgets old versions, and deletes the files that only they needed; a table that asks for more time itself gets it.
    ///
    /// First there is a checkpoint of the oldest version that stays, then the log before it goes, then what no version since needs: at any point
    /// in between, every version that the log still leads to has its files.
    async fn expire(&self, expiry: Expiry, what: &Maintenance, done: &mut Maintained) -> Result<()> {
        let state = self.load().await?;
        let older_than = self.retention(&state)?.map_or(expiry.older_than, |asked| asked.max(expiry.older_than));
        self.forget(Expiry { older_than, ..expiry }, what, done).await
    }

    /// [`Self::expire`], whatever the table itself asks to keep.
    pub(crate) async fn forget(&self, expiry: Expiry, what: &Maintenance, done: &mut Maintained) -> Result<()> {
        let listing = self.list().await?;
        let history = listing.history();
        let keep_last = u64::try_from(expiry.keep_last).unwrap_or(u64::MAX);
        let Some((oldest, keep)) = history.oldest().zip(history.keep_from(what.before(expiry.older_than), keep_last)) else {
            return Ok(());
        };
        let kept = self.log.load_at(keep).await.map_err(self.failed())?;
        if keep > 0 && !history.has_checkpoint(keep) {
            self.log.checkpoint_before_cleaning(&kept).await.map_err(self.failed())?;
        }
        let gone_versions = |name: &str| version_of(name).is_some_and(|version| version < keep);
        let log = listing.log.iter().filter(|(name, _)| gone_versions(name)).map(|(_, object)| object.key.clone()).collect();
        done.counts.snapshots_expired += keep - oldest;
        self.delete_expired(log, done).await;
        // No later commit can refer to what only forgotten versions had: it would begin from a state without it.
        let (_, needed) = self.needed_since(keep).await?;
        let garbage = kept.tombstones().map(|path| self.key(path)).filter(|key| listing.data.contains_key(key) && !needed.contains(key));
        self.delete_expired(garbage.collect(), done).await;
        Ok(())
    }

    async fn delete_expired(&self, keys: Vec<String>, done: &mut Maintained) {
        let (gone, left) = delete_all(&self.table, &self.layer, keys).await;
        done.counts.expired_files_deleted += gone;
        done.counts.not_deleted += left;
    }

    /// Deletes files in the table's folder that no version of the log needs and that are old enough.
    ///
    /// The order is what makes it safe: what is deleted was listed first and looked up in a log that was read afterwards.
    async fn remove_orphans(&self, orphans: Orphans, what: &Maintenance, done: &mut Maintained) -> Result<()> {
        let first = self.load().await?;
        let listing = self.list().await?;
        let oldest = listing.history().oldest().ok_or_else(|| self.unlisted("its log"))?;
        let (newest, needed) = self.needed_since(oldest).await?;
        // A listing without files that the table had before it and has after it is of another place, or names are spelt differently: then every
        // file would look like an orphan.
        let still = first.snapshot.files().filter(|add| newest.file(&add.path).is_some());
        if let Some(add) = still.into_iter().find(|add| !listing.data.contains_key(&self.key(&add.path))) {
            return Err(self.unlisted(&add.path));
        }
        let before = what.before(orphans.older_than);
        let garbage: Vec<&ObjectEntry> =
            listing.data.values().filter(|object| object.last_modified < before && !needed.contains(&object.key)).collect();
        done.counts.orphan_bytes += garbage.iter().map(|object| object.size).sum::<u64>();
        if orphans.dry_run {
            done.counts.orphans_deleted += garbage.len() as u64;
            return Ok(());
        }
        let (gone, left) = delete_all(&self.table, &self.layer, garbage.into_iter().map(|object| object.key.clone()).collect()).await;
        done.counts.orphans_deleted += gone;
        done.counts.not_deleted += left;
        Ok(())
    }

    fn unlisted(&self, what: &str) -> TableError {
        TableError::Corrupt {
            table: self.table.clone(),
            what: "the listing of its files".to_owned(),
            reason: format!("{what} is not in it, so that nothing was deleted"),
        }
    }

    /// The newest state, and the keys of all files that it or a version since `from` has.
    pub(crate) async fn needed_since(&self, from: u64) -> Result<(Arc<delta_commit::Snapshot>, HashSet<String>)> {
        let (newest, paths) = self.log.needed_since(from).await.map_err(self.failed())?;
        Ok((newest, paths.iter().map(|path| self.key(path)).collect()))
    }

    /// How long the table itself asks to keep its past.
    fn retention(&self, state: &State) -> Result<Option<Duration>> {
        let configuration = &state.snapshot.metadata().configuration;
        let mut longest = None;
        for name in RETENTION {
            let Some(text) = configuration.get(name) else { continue };
            let asked = parse_interval(text).map_err(|reason| TableError::Corrupt {
                table: self.table.clone(),
                what: format!("property {name}"),
                reason,
            })?;
            longest = longest.max(Some(asked));
        }
        Ok(longest)
    }

    async fn list(&self) -> Result<Listing> {
        let mut listing = Listing { log: BTreeMap::new(), data: BTreeMap::new() };
        let inside = format!("{}/", self.folder);
        for object in self.layer.list(&self.folder).await? {
            let Some(path) = object.key.strip_prefix(&inside) else { continue };
            if let Some(name) = path.strip_prefix("_delta_log/") {
                listing.log.insert(name.to_owned(), object);
            } else if !path.split('/').any(|part| part.starts_with(['_', '.'])) {
                // Names that begin so are hidden from every program's VACUUM, too.
                listing.data.insert(object.key.clone(), object);
            }
        }
        Ok(listing)
    }

    fn has_appends(&self, state: &State) -> bool {
        state.has_mode(ledger::mode_name(&WriteMode::Append))
    }

    pub(crate) fn has_merges(&self, state: &State) -> bool {
        ledger::MERGES.iter().any(|mode| state.has_mode(mode))
    }
}

impl Listing {
    fn history(&self) -> History {
        History::of(self.log.iter().map(|(name, object)| (name.as_str(), object.last_modified)))
    }
}

/// What one attempt commits: the groups whose files are all still there.
fn decide(now: &State, rewritten: &[Rewritten], same: bool, progress: &Mutex<Progress>) -> Decision {
    let mut progress = progress.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    progress.attempts += 1;
    let is_live = |path: &str| now.snapshot.file(path).is_some();
    let landed: HashSet<usize> = (0..rewritten.len()).filter(|number| is_live(&rewritten[*number].add.path)).collect();
    // An earlier attempt whose answer was lost did it.
    if !landed.is_empty() {
        progress.fitting = landed;
        return Decision::Nothing;
    }
    progress.fitting = HashSet::new();
    // Rows would lack a column, or an append could not be told apart any more; or other writers were faster every time, and they matter more.
    if !same || progress.attempts > ATTEMPTS {
        return Decision::Nothing;
    }
    let mut change = Change { operation: "OPTIMIZE".to_owned(), data_change: false, ..Change::default() };
    for (number, group) in rewritten.iter().enumerate() {
        if group.inputs.iter().all(|path| is_live(path)) {
            change.remove.extend(group.inputs.iter().cloned());
            change.add.push(group.add.clone());
            progress.fitting.insert(number);
        }
    }
    if change.add.is_empty() {
        return Decision::Nothing;
    }
    change.metrics = BTreeMap::from([
        ("numAddedFiles".to_owned(), change.add.len().to_string()),
        ("numRemovedFiles".to_owned(), change.remove.len().to_string()),
    ]);
    let fitting = progress.fitting.clone();
    progress.offered.extend(fitting);
    Decision::Commit(Box::new(change))
}

/// Live data files and their bytes.
fn sizes(state: &State) -> (u64, u64) {
    state.snapshot.files().fold((0, 0), |(count, bytes), add| (count + 1, bytes + add.size.unsigned_abs()))
}
