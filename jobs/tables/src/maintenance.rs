//! What maintenance does to a table, and what it says about it.

use crate::{Result, TableError};
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, stream};
use lakehouse_contract::{MaintenanceReport, TableRef};
use lakehouse_storage::LayerStore;
use std::time::Duration;

/// Shortest time that a superseded snapshot or an unreferenced file is left alone: readers may have the one pinned, and a writer may be about
/// to commit the other.
pub const SHORTEST_GRACE: Duration = Duration::from_secs(3_600);

/// Deletions under way at once.
const DELETIONS: usize = 16;
/// How often a deletion is tried, beside what the store's client repeats by itself.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// What to do. Every part can be repeated, and interrupted at any point, without harm.
#[derive(Clone, Debug)]
pub struct Maintenance {
    /// The time that ages are counted from.
    pub now: DateTime<Utc>,
    /// Rewrite small files into larger ones.
    pub compact: Option<Compaction>,
    /// Forget old snapshots and delete what only they needed.
    pub expire: Option<Expiry>,
    /// Delete files that no snapshot refers to.
    pub orphans: Option<Orphans>,
}

/// Rewriting of small files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// Size in bytes that files are brought near to.
    pub target_file_bytes: u64,
}

/// Which snapshots go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// A snapshot goes when another took its place longer ago than this; at least [`SHORTEST_GRACE`].
    pub older_than: Duration,
    /// The newest snapshots that stay whatever their age.
    pub keep_last: usize,
}

/// Which unreferenced files go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orphans {
    /// A file goes when it was written longer ago than this; at least [`SHORTEST_GRACE`], and longer than any writer takes from its first
    /// file to its commit.
    pub older_than: Duration,
    /// Only count them.
    pub dry_run: bool,
}

/// What maintenance did to one table. A second maintenance without a write in between says 0 in every count of things done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Current snapshot (Iceberg) or generation (Parquet) afterwards.
    pub snapshot: Option<String>,
    /// Data files that compaction wrote.
    pub files_written: u64,
    /// Their size in bytes.
    pub bytes_written: u64,
    /// What there was, what there is, and what was done.
    pub counts: MaintenanceReport,
}

impl Maintenance {
    /// # Errors
    /// [`TableError::Definition`] for an age below [`SHORTEST_GRACE`].
    pub(crate) fn validate(&self, table: &TableRef) -> Result<()> {
        let ages = [
            ("expireSnapshots.olderThan", self.expire.map(|expiry| expiry.older_than)),
            ("removeOrphans.olderThan", self.orphans.map(|orphans| orphans.older_than)),
        ];
        match ages.into_iter().find(|(_, age)| age.is_some_and(|age| age < SHORTEST_GRACE)) {
            None => Ok(()),
            Some((field, _)) => Err(TableError::Definition {
                table: table.clone(),
                reason: format!("{field} must be at least {} s: readers and writers need that time", SHORTEST_GRACE.as_secs()),
            }),
        }
    }

    /// The time before which something is older than `age`.
    pub(crate) fn before(&self, age: Duration) -> DateTime<Utc> {
        let age = TimeDelta::from_std(age).unwrap_or(TimeDelta::MAX);
        self.now.checked_sub_signed(age).unwrap_or(DateTime::<Utc>::MIN_UTC)
    }
}

/// Deletes objects of a layer; gives how many are gone and how many could not be deleted.
pub(crate) async fn delete_all(table: &TableRef, layer: &LayerStore, keys: Vec<String>) -> (u64, u64) {
    let outcomes = stream::iter(keys.into_iter().map(|key| async move {
        let mut tries = 1;
        loop {
            match layer.delete(&key).await {
                Ok(()) => return true,
                Err(error) if tries >= TRIES => {
                    tracing::warn!(%table, %error, "an object was not deleted; the next maintenance tries again");
                    return false;
                }
                Err(_) => tokio::time::sleep(PAUSE * tries).await,
            }
            tries += 1;
        }
    }))
    .buffer_unordered(DELETIONS);
    outcomes.fold((0, 0), |(gone, left), deleted| async move { if deleted { (gone + 1, left) } else { (gone, left + 1) } }).await
}
