//! Builds the next metadata of a table: manifests, manifest list, snapshot, metadata file.

use crate::error::show;
use crate::plan::Plan;
use crate::{CommitError, LiveFile, Result};
use iceberg::spec::{
    DataFile, MAIN_BRANCH, ManifestContentType, ManifestFile, ManifestListWriter, ManifestWriter, ManifestWriterBuilder, Operation,
    PartitionSpec, Snapshot, SnapshotReference, SnapshotRetention, SnapshotSummaryCollector, Summary, TableMetadata,
};
use iceberg::table::Table;
use iceberg::{MetadataLocation, TableUpdate};
use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use uuid::Uuid;

/// From this many manifests of one spec on, small ones are merged into one.
const MERGE_FROM: usize = 24;
/// Manifests of at least this many bytes are left alone.
const MERGED_BYTES: i64 = 8 * 1024 * 1024;

/// Everything of an attempt that is written and waits for the swap.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) metadata: TableMetadata,
    pub(crate) location: String,
    pub(crate) snapshot_id: Option<i64>,
    /// Metadata files of this attempt.
    pub(crate) written: Vec<String>,
}

pub(crate) async fn prepare(base: &Table, snapshot_id: i64, plan: Plan) -> Result<Prepared> {
    let ident = base.identifier();
    let failed = CommitError::iceberg(ident);
    let mut updates = Vec::new();
    let mut written = Vec::new();
    if let Some(schema) = plan.schema.clone() {
        updates.push(TableUpdate::AddSchema { schema });
        updates.push(TableUpdate::SetCurrentSchema { schema_id: -1 });
    }
    if let Some(sort_order) = plan.sort_order.clone() {
        updates.push(TableUpdate::AddSortOrder { sort_order });
        updates.push(TableUpdate::SetDefaultSortOrder { sort_order_id: -1 });
    }
    if !plan.removed_properties.is_empty() {
        updates.push(TableUpdate::RemoveProperties { removals: plan.removed_properties.clone() });
    }
    if !plan.properties.is_empty() {
        updates.push(TableUpdate::SetProperties { updates: plan.properties.clone() });
    }
    let with_snapshot = plan.snapshot;
    let branch = plan.branch.clone().unwrap_or_else(|| MAIN_BRANCH.to_owned());
    let publish = plan.publish;
    let forgotten = forget(base.metadata(), &plan.expired);
    updates.extend(plan.removed_branches.iter().map(|branch| TableUpdate::RemoveSnapshotRef { ref_name: branch.clone() }));
    if with_snapshot {
        let mut producer = Producer { table: base, snapshot_id, commit: Uuid::new_v4(), manifests: 0, written: Vec::new() };
        let snapshot = producer.snapshot(plan).await?;
        written = producer.written;
        updates.push(TableUpdate::AddSnapshot { snapshot });
        updates.push(head(&branch, snapshot_id));
    }
    if let Some(published) = publish {
        updates.push(head(MAIN_BRANCH, published));
    }
    updates.extend(forgotten);
    let from = base.metadata_location().map(str::to_owned);
    let mut builder = base.metadata().clone().into_builder(from.clone());
    for update in updates {
        builder = update.apply(builder).map_err(&failed)?;
    }
    let metadata = builder.build().map_err(&failed)?.metadata;
    // A location that another client named otherwise starts a new count of versions.
    let location = match from.as_deref().map(MetadataLocation::from_str) {
        Some(Ok(last)) => last.with_next_version().with_new_metadata(&metadata),
        _ => MetadataLocation::new_with_metadata(metadata.location(), &metadata),
    };
    metadata.write_to(base.file_io(), &location).await.map_err(&failed)?;
    let location = location.to_string();
    written.push(location.clone());
    Ok(Prepared { metadata, location, snapshot_id: with_snapshot.then_some(snapshot_id), written })
}

/// The update that makes a snapshot the head of a branch.
fn head(branch: &str, snapshot_id: i64) -> TableUpdate {
    TableUpdate::SetSnapshotRef {
        ref_name: branch.to_owned(),
        reference: SnapshotReference::new(snapshot_id, SnapshotRetention::branch(None, None, None)),
    }
}

/// The updates that take snapshots, with their statistics, out of the metadata.
fn forget(metadata: &TableMetadata, expired: &[i64]) -> Vec<TableUpdate> {
    if expired.is_empty() {
        return Vec::new();
    }
    let gone: HashSet<i64> = expired.iter().copied().collect();
    let statistics = metadata.statistics_iter().map(|file| file.snapshot_id).filter(|id| gone.contains(id));
    let partitions = metadata.partition_statistics_iter().map(|file| file.snapshot_id).filter(|id| gone.contains(id));
    statistics
        .map(|snapshot_id| TableUpdate::RemoveStatistics { snapshot_id })
        .chain(partitions.map(|snapshot_id| TableUpdate::RemovePartitionStatistics { snapshot_id }))
        .chain([TableUpdate::RemoveSnapshots { snapshot_ids: expired.to_vec() }])
        .collect()
}

struct Producer<'a> {
    table: &'a Table,
    snapshot_id: i64,
    commit: Uuid,
    manifests: usize,
    written: Vec<String>,
}

impl Producer<'_> {
    async fn snapshot(&mut self, plan: Plan) -> Result<Snapshot> {
        let metadata = self.table.metadata();
        let summary = self.summary(&plan)?;
        let sequence_number = metadata.next_sequence_number();
        let mut manifests = self.carry_over(&plan.removed, plan.merge_manifests).await?;
        if !plan.added.is_empty() {
            manifests.push(self.added(plan.added).await?);
        }
        let list = self.list(manifests, sequence_number).await?;
        // Clocks of writers differ a little; the log of a table must not run backwards.
        let now = chrono::Utc::now().timestamp_millis().max(metadata.last_updated_ms());
        Ok(Snapshot::builder()
            .with_snapshot_id(self.snapshot_id)
            .with_parent_snapshot_id(metadata.current_snapshot_id())
            .with_sequence_number(sequence_number)
            .with_timestamp_ms(now)
            .with_manifest_list(list)
            .with_summary(summary)
            .with_schema_id(metadata.current_schema_id())
            .build())
    }

    /// The manifests of the current snapshot without the removed files; many small manifests become one.
    async fn carry_over(&mut self, removed: &[LiveFile], merge: bool) -> Result<Vec<ManifestFile>> {
        let failed = CommitError::iceberg(self.table.identifier());
        let Some(current) = self.table.metadata().current_snapshot() else {
            return self.all_found(removed, &HashSet::new()).map(|()| Vec::new());
        };
        let list = self.table.manifest_list_reader(current).load().await.map_err(&failed)?;
        let paths: HashSet<&str> = removed.iter().map(|file| file.file.file_path()).collect();
        let touched: HashSet<&str> = removed.iter().map(|file| file.manifest.as_str()).collect();
        let live: Vec<ManifestFile> =
            list.entries().iter().filter(|manifest| manifest.has_added_files() || manifest.has_existing_files()).cloned().collect();
        let default_spec = self.table.metadata().default_partition_spec_id();
        let small = |manifest: &ManifestFile| is_small(manifest, default_spec);
        let merging = live.iter().filter(|manifest| small(manifest)).count() >= if merge { 2 } else { MERGE_FROM };
        let mut kept = Vec::new();
        let mut found = HashSet::new();
        let mut merged: Option<ManifestWriter> = None;
        for manifest in live {
            let is_touched = touched.contains(manifest.manifest_path.as_str());
            let is_merged = merging && small(&manifest);
            if !is_touched && !is_merged {
                kept.push(manifest);
                continue;
            }
            let loaded = manifest.load_manifest(self.table.file_io()).await.map_err(&failed)?;
            let mut own = if is_merged { None } else { Some(self.writer(&loaded.metadata().partition_spec)?) };
            if is_merged && merged.is_none() {
                merged = Some(self.writer(&loaded.metadata().partition_spec)?);
            }
            let Some(writer) = own.as_mut().or(merged.as_mut()) else { continue };
            for entry in loaded.entries().iter().filter(|entry| entry.is_alive()) {
                let sequence = entry.sequence_number().unwrap_or(manifest.sequence_number);
                let file_sequence = entry.file_sequence_number.or(Some(manifest.sequence_number));
                let file = entry.data_file().clone();
                if paths.contains(file.file_path()) {
                    found.insert(file.file_path().to_owned());
                    writer.add_delete_file(file, sequence, file_sequence).map_err(&failed)?;
                } else {
                    let added_by = entry.snapshot_id().unwrap_or(manifest.added_snapshot_id);
                    writer.add_existing_file(file, added_by, sequence, file_sequence).map_err(&failed)?;
                }
            }
            if let Some(writer) = own {
                kept.push(writer.write_manifest_file().await.map_err(&failed)?);
            }
        }
        if let Some(writer) = merged {
            kept.push(writer.write_manifest_file().await.map_err(&failed)?);
        }
        self.all_found(removed, &found)?;
        Ok(kept)
    }

    fn all_found(&self, removed: &[LiveFile], found: &HashSet<String>) -> Result<()> {
        match removed.iter().find(|file| !found.contains(file.file.file_path())) {
            None => Ok(()),
            Some(file) => Err(CommitError::NotLive { table: show(self.table.identifier()), path: file.file.file_path().to_owned() }),
        }
    }

    async fn added(&mut self, files: Vec<DataFile>) -> Result<ManifestFile> {
        let failed = CommitError::iceberg(self.table.identifier());
        let spec = self.table.metadata().default_partition_spec().as_ref().clone();
        let mut writer = self.writer(&spec)?;
        for file in files {
            // No sequence number: the file inherits the one of the snapshot.
            writer.add_file(file, -1).map_err(&failed)?;
        }
        writer.write_manifest_file().await.map_err(&failed)
    }

    fn writer(&mut self, spec: &PartitionSpec) -> Result<ManifestWriter> {
        let metadata = self.table.metadata();
        let path = format!("{}/metadata/{}-m{}.avro", metadata.location(), self.commit, self.manifests);
        self.manifests += 1;
        self.written.push(path.clone());
        let output = self.table.file_io().new_output(path).map_err(CommitError::iceberg(self.table.identifier()))?;
        let builder = ManifestWriterBuilder::new(output, Some(self.snapshot_id), metadata.current_schema().clone(), spec.clone());
        Ok(builder.build_v2_data())
    }

    async fn list(&mut self, manifests: Vec<ManifestFile>, sequence_number: i64) -> Result<String> {
        let failed = CommitError::iceberg(self.table.identifier());
        let metadata = self.table.metadata();
        let path = format!("{}/metadata/snap-{}-0-{}.avro", metadata.location(), self.snapshot_id, self.commit);
        self.written.push(path.clone());
        let output = self.table.file_io().new_output(&path).map_err(&failed)?.writer().await.map_err(&failed)?;
        let mut writer = ManifestListWriter::v2(output, self.snapshot_id, metadata.current_snapshot_id(), sequence_number);
        writer.add_manifests(manifests.into_iter()).map_err(&failed)?;
        writer.close().await.map_err(&failed)?;
        Ok(path)
    }

    fn summary(&self, plan: &Plan) -> Result<Summary> {
        let metadata = self.table.metadata();
        let mut collector = SnapshotSummaryCollector::default();
        for file in &plan.added {
            collector.add_file(file, metadata.current_schema().clone(), metadata.default_partition_spec().clone());
        }
        for removed in &plan.removed {
            let spec = metadata.partition_spec_by_id(removed.spec_id).unwrap_or(metadata.default_partition_spec());
            collector.remove_file(&removed.file, metadata.current_schema().clone(), spec.clone());
        }
        let mut properties = plan.summary.clone();
        // The counts come last: nobody can overwrite them.
        properties.extend(collector.build());
        let previous = metadata.current_snapshot().map(|snapshot| &snapshot.summary().additional_properties);
        for (total, added, removed) in [
            ("total-data-files", "added-data-files", "deleted-data-files"),
            ("total-delete-files", "added-delete-files", "removed-delete-files"),
            ("total-records", "added-records", "deleted-records"),
            ("total-files-size", "added-files-size", "removed-files-size"),
            ("total-position-deletes", "added-position-deletes", "removed-position-deletes"),
            ("total-equality-deletes", "added-equality-deletes", "removed-equality-deletes"),
        ] {
            if let Some(before) = previous.map_or(Some(0), |summary| number(summary, total)) {
                let after = before + number(&properties, added).unwrap_or(0) - number(&properties, removed).unwrap_or(0);
                properties.insert(total.to_owned(), after.max(0).to_string());
            }
        }
        let operation = match plan.operation {
            Operation::Append if !plan.removed.is_empty() => Operation::Overwrite,
            Operation::Overwrite if plan.removed.is_empty() => Operation::Append,
            Operation::Overwrite if plan.added.is_empty() => Operation::Delete,
            ref stated => stated.clone(),
        };
        Ok(Summary { operation, additional_properties: properties })
    }
}

/// Whether a manifest is merged with others of its kind.
fn is_small(manifest: &ManifestFile, default_spec: i32) -> bool {
    manifest.content == ManifestContentType::Data && manifest.partition_spec_id == default_spec && manifest.manifest_length < MERGED_BYTES
}

/// How many manifests the current snapshot has, and how many of them [`Plan::merge_manifests`] would make one.
///
/// # Errors
/// [`CommitError::Iceberg`].
pub async fn manifest_counts(table: &Table) -> Result<(usize, usize)> {
    let Some(current) = table.metadata().current_snapshot() else { return Ok((0, 0)) };
    let failed = CommitError::iceberg(table.identifier());
    let list = table.manifest_list_reader(current).load().await.map_err(&failed)?;
    let default_spec = table.metadata().default_partition_spec_id();
    Ok((list.entries().len(), list.entries().iter().filter(|manifest| is_small(manifest, default_spec)).count()))
}

/// A count of a summary; none when another writer left it out, since then no total can be known.
fn number(summary: &HashMap<String, String>, key: &str) -> Option<i64> {
    summary.get(key).and_then(|text| text.parse().ok())
}
