//! Every object that a table needs, and those that only some of its snapshots needed.

use crate::{CommitError, Result};
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{ManifestFile, SnapshotRef};
use iceberg::table::Table;
use std::collections::{HashMap, HashSet};

/// Manifests and manifest lists read at once.
const CONCURRENCY: usize = 8;

/// Absolute locations of the objects that a table's metadata refers to. Memory grows with the number of files, some 200 bytes each.
#[derive(Clone, Debug, Default)]
pub struct References {
    locations: HashSet<String>,
    manifests: HashSet<String>,
}

impl References {
    /// Whether an object is needed.
    pub fn contains(&self, location: &str) -> bool {
        self.locations.contains(location) || self.manifests.contains(location)
    }
}

/// What the metadata of `table` refers to: itself and the metadata files of its log, and for every snapshot its manifest list, manifests and
/// live files; statistics too.
///
/// # Errors
/// [`CommitError::Iceberg`] when a manifest cannot be read. Nothing may be deleted then.
pub async fn references(table: &Table) -> Result<References> {
    let metadata = table.metadata();
    let snapshots: Vec<SnapshotRef> = metadata.snapshots().cloned().collect();
    let manifests = manifests(table, snapshots.clone()).await?;
    let mut locations: HashSet<String> = table.metadata_location().map(str::to_owned).into_iter().collect();
    locations.extend(metadata.metadata_log().iter().map(|entry| entry.metadata_file.clone()));
    locations.extend(snapshots.iter().map(|snapshot| snapshot.manifest_list().to_owned()));
    locations.extend(metadata.statistics_iter().map(|file| file.statistics_path.clone()));
    locations.extend(metadata.partition_statistics_iter().map(|file| file.statistics_path.clone()));
    let names = manifests.keys().cloned().collect();
    each_file(table, manifests.into_values(), true, |location| {
        locations.insert(location);
    })
    .await?;
    Ok(References { locations, manifests: names })
}

/// The objects that the snapshots `ids` of `table` refer to and that are not among `needed`, ordered.
///
/// # Errors
/// As [`references`].
pub async fn files_of_snapshots(table: &Table, ids: &[i64], needed: &References) -> Result<Vec<String>> {
    let metadata = table.metadata();
    let snapshots: Vec<SnapshotRef> = ids.iter().filter_map(|id| metadata.snapshot_by_id(*id).cloned()).collect();
    let manifests = manifests(table, snapshots.clone()).await?;
    let mut found: HashSet<String> = snapshots.iter().map(|snapshot| snapshot.manifest_list().to_owned()).collect();
    let of = |id: &i64| ids.contains(id);
    found.extend(metadata.statistics_iter().filter(|file| of(&file.snapshot_id)).map(|file| file.statistics_path.clone()));
    found.extend(metadata.partition_statistics_iter().filter(|file| of(&file.snapshot_id)).map(|file| file.statistics_path.clone()));
    // Files of a manifest that is still needed are needed, or were deleted by an entry of it: then an older manifest has them too.
    let gone: Vec<ManifestFile> = manifests.into_values().filter(|manifest| !needed.manifests.contains(&manifest.manifest_path)).collect();
    found.extend(gone.iter().map(|manifest| manifest.manifest_path.clone()));
    each_file(table, gone, false, |location| {
        found.insert(location);
    })
    .await?;
    let mut found: Vec<String> = found.into_iter().filter(|location| !needed.contains(location)).collect();
    found.sort_unstable();
    Ok(found)
}

/// The manifests of some snapshots, each once, by location.
async fn manifests(table: &Table, snapshots: Vec<SnapshotRef>) -> Result<HashMap<String, ManifestFile>> {
    let lists: Vec<Vec<ManifestFile>> = stream::iter(snapshots.into_iter().map(|snapshot| async move {
        let list = table.manifest_list_reader(&snapshot).load().await.map_err(CommitError::iceberg(table.identifier()))?;
        Ok::<_, CommitError>(list.entries().to_vec())
    }))
    .buffer_unordered(CONCURRENCY)
    .try_collect()
    .await?;
    Ok(lists.into_iter().flatten().map(|manifest| (manifest.manifest_path.clone(), manifest)).collect())
}

/// The location of every file of some manifests; of `live` entries only, or of all.
async fn each_file(
    table: &Table,
    manifests: impl IntoIterator<Item = ManifestFile>,
    live: bool,
    mut take: impl FnMut(String),
) -> Result<()> {
    let manifests: Vec<ManifestFile> = manifests.into_iter().collect();
    let mut loaded = stream::iter(manifests.into_iter().map(|manifest| async move {
        let manifest = manifest.load_manifest(table.file_io()).await.map_err(CommitError::iceberg(table.identifier()))?;
        let entries = manifest.entries().iter().filter(|entry| !live || entry.is_alive());
        Ok::<Vec<String>, CommitError>(entries.map(|entry| entry.data_file().file_path().to_owned()).collect())
    }))
    .buffer_unordered(CONCURRENCY);
    while let Some(paths) = loaded.try_next().await? {
        paths.into_iter().for_each(&mut take);
    }
    Ok(())
}
