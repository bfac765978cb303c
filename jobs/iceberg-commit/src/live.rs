//! The data files that make up the current state of a table.

use crate::error::show;
use crate::{CommitError, Result};
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{DataFile, ManifestContentType};
use iceberg::table::Table;

/// Manifests read at once.
const CONCURRENCY: usize = 8;

/// A live data file and where its entry stands.
#[derive(Clone, Debug)]
pub struct LiveFile {
    /// The file with its statistics.
    pub file: DataFile,
    /// Location of the manifest with its entry.
    pub manifest: String,
    /// Snapshot that added it.
    pub snapshot_id: i64,
    /// Partition spec it was written with.
    pub spec_id: i32,
}

/// All live data files of the current snapshot; none before the first.
///
/// # Errors
/// [`CommitError::Iceberg`] also when the table has delete files: such a table was written by another engine, and removing its data files
/// without looking at their deletes would bring deleted rows back.
pub async fn live_files(table: &Table) -> Result<Vec<LiveFile>> {
    let ident = table.identifier();
    let Some(snapshot) = table.metadata().current_snapshot() else { return Ok(Vec::new()) };
    let list = table.manifest_list_reader(snapshot).load().await.map_err(CommitError::iceberg(ident))?;
    let live = |manifest: &&iceberg::spec::ManifestFile| manifest.has_added_files() || manifest.has_existing_files();
    if list.entries().iter().filter(live).any(|manifest| manifest.content == ManifestContentType::Deletes) {
        let text = format!("table {} has delete files, which this writer does not rewrite", show(ident));
        return Err(CommitError::iceberg(ident)(iceberg::Error::new(iceberg::ErrorKind::FeatureUnsupported, text)));
    }
    let manifests: Vec<_> = list.entries().iter().filter(live).cloned().collect();
    let loaded: Vec<Vec<LiveFile>> = stream::iter(manifests.into_iter().map(|manifest| async move {
        let entries = manifest.load_manifest(table.file_io()).await.map_err(CommitError::iceberg(ident))?;
        let live = entries.entries().iter().filter(|entry| entry.is_alive()).map(|entry| LiveFile {
            file: entry.data_file().clone(),
            manifest: manifest.manifest_path.clone(),
            snapshot_id: entry.snapshot_id().unwrap_or(manifest.added_snapshot_id),
            spec_id: manifest.partition_spec_id,
        });
        Ok::<_, CommitError>(live.collect())
    }))
    .buffered(CONCURRENCY)
    .try_collect()
    .await?;
    Ok(loaded.into_iter().flatten().collect())
}
