//! Maintenance of a plain Parquet table: manifests of superseded generations, and files that no manifest names.
//!
//! Its files need no compaction: every interval is written as a whole.

use crate::Result;
use crate::maintenance::{Expiry, Maintained, Maintenance, Orphans, delete_all};
use crate::parquet_manifest::{Manifest, folder_of_manifests, generation_of};
use crate::parquet_table::ParquetTable;
use std::collections::HashSet;

impl ParquetTable {
    pub(crate) async fn maintain(&self, owner: &str, what: &Maintenance) -> Result<Maintained> {
        let before = self.load().await?;
        self.check_owner(&before, owner)?;
        let mut done = Maintained::default();
        (done.counts.files_before, done.counts.bytes_before) = sizes(&before);
        if let Some(expiry) = what.expire {
            self.expire(expiry, what, &mut done).await?;
        }
        if let Some(orphans) = what.orphans {
            self.remove_orphans(orphans, what, &mut done).await?;
        }
        let after = self.load().await?;
        (done.counts.files_after, done.counts.bytes_after) = sizes(&after);
        done.counts.snapshots_left = self.layer.list(&folder_of_manifests(&self.folder)).await?.len() as u64;
        done.snapshot = Some(after.generation.to_string());
        Ok(done)
    }

    /// Deletes manifests that were superseded long ago.
    ///
    /// A writer puts the manifest after the one it read, if nobody did. It must not find that place empty again: the age keeps every place
    /// taken for longer than a commit takes.
    async fn expire(&self, expiry: Expiry, what: &Maintenance, done: &mut Maintained) -> Result<()> {
        let listed = self.layer.list(&folder_of_manifests(&self.folder)).await?;
        let mut generations: Vec<_> = listed.into_iter().filter_map(|object| Some((generation_of(&object.key)?, object))).collect();
        generations.sort_by_key(|(generation, _)| *generation);
        let before = what.before(expiry.older_than);
        let most = generations.len().saturating_sub(expiry.keep_last.max(1));
        let superseded = generations.windows(2).take(most).take_while(|pair| pair[1].1.last_modified < before);
        let keys: Vec<String> = superseded.map(|pair| pair[0].1.key.clone()).collect();
        let (gone, left) = delete_all(&self.table, &self.layer, keys).await;
        done.counts.snapshots_expired += gone;
        done.counts.not_deleted += left;
        Ok(())
    }

    /// Deletes data files that the newest manifest, read after the listing, does not name.
    async fn remove_orphans(&self, orphans: Orphans, what: &Maintenance, done: &mut Maintained) -> Result<()> {
        let listed = self.layer.list(&self.folder).await?;
        let current = self.load().await?;
        let live: HashSet<&str> = current.files.iter().map(|file| file.key.as_str()).collect();
        let before = what.before(orphans.older_than);
        let garbage: Vec<_> = listed
            .into_iter()
            .filter(|object| object.key.ends_with(".parquet") && object.last_modified < before && !live.contains(object.key.as_str()))
            .collect();
        done.counts.orphan_bytes += garbage.iter().map(|object| object.size).sum::<u64>();
        if orphans.dry_run {
            done.counts.orphans_deleted += garbage.len() as u64;
            return Ok(());
        }
        let (gone, left) = delete_all(&self.table, &self.layer, garbage.into_iter().map(|object| object.key).collect()).await;
        done.counts.orphans_deleted += gone;
        done.counts.not_deleted += left;
        Ok(())
    }
}

fn sizes(manifest: &Manifest) -> (u64, u64) {
    (manifest.files.len() as u64, manifest.files.iter().map(|file| file.bytes).sum())
}
