//! Bronze retention: intervals that ended long ago lose their manifests and objects.
//!
//! An interval goes whole or stays whole. It stays while anything of it is young (a run may have ingested it a minute ago for a table that it is
//! about to make) or an unfinished run has pinned one of its manifests. What goes first is its manifests: without one an ingest does not exist,
//! so no reader begins on objects that are about to go. A mark stays behind and says why there is nothing, and how far incremental sources had come.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, stream};
use lakehouse_contract::{BronzeManifest, Interval, IntervalGrain, MaintenanceReport, Retired, StageSpec, keys};
use lakehouse_storage::{Layer, LayerStore, ObjectEntry, Storage, StorageError};
use serde::Deserialize;

/// Objects deleted at once.
const DELETIONS: usize = 16;
/// Nothing that was written within this time goes, nor what an unfinished run pinned within it.
pub(crate) const GRACE: Duration = Duration::from_secs(3 * 86_400);

/// What is to be retired.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    /// An interval goes when it ended before this time.
    pub(crate) ended_before: DateTime<Utc>,
    /// What was written since is young.
    pub(crate) written_since: DateTime<Utc>,
    /// Only count.
    pub(crate) dry_run: bool,
}

impl Retention {
    /// The retention of intervals that ended longer ago than `older_than`, as of `now`; `grace` is the least age of an object.
    pub(crate) fn new(older_than: Duration, grace: Duration, dry_run: bool, now: DateTime<Utc>) -> Self {
        let before = |age| now.checked_sub_signed(TimeDelta::from_std(age).unwrap_or(TimeDelta::MAX)).unwrap_or(DateTime::<Utc>::MIN_UTC);
        Self { ended_before: before(older_than), written_since: before(grace), dry_run }
    }
}

/// The objects of one interval.
#[derive(Debug, Default)]
struct Dated {
    manifests: Vec<ObjectEntry>,
    objects: Vec<ObjectEntry>,
}

/// Retires the intervals of the spec's pipeline, those of sources that its definition does not have any more among them.
///
/// # Errors
/// What the store says; what is done stays done, and the next maintenance goes on.
pub(crate) async fn retire(spec: &StageSpec, storage: &Storage, retention: Retention) -> Result<MaintenanceReport, StorageError> {
    let bronze = storage.layer(Layer::Bronze)?;
    let mut counts = MaintenanceReport::default();
    let old: Vec<(String, Dated)> =
        by_interval(&spec.pipeline, bronze).await?.into_iter().filter(|(label, _)| ended_before(label, retention.ended_before)).collect();
    if old.is_empty() {
        return Ok(counts);
    }
    let pinned = pinned(spec, storage, retention.written_since).await?;
    for (label, dated) in old {
        let young = dated.manifests.iter().chain(&dated.objects).any(|object| object.last_modified >= retention.written_since);
        if young || dated.manifests.iter().any(|manifest| pinned.contains(&manifest.key)) {
            counts.bronze_intervals_kept += 1;
            continue;
        }
        counts.bronze_intervals_retired += 1;
        counts.bronze_bytes_deleted += dated.objects.iter().map(|object| object.size).sum::<u64>();
        if retention.dry_run {
            counts.bronze_objects_deleted += (dated.manifests.len() + dated.objects.len()) as u64;
            continue;
        }
        let key = keys::bronze_retired(&keys::bronze_manifests_labelled(&spec.pipeline, &label));
        let cursors = cursors(bronze, &key, &dated.manifests).await?;
        let mark = Retired { at: Utc::now(), run: spec.run.id.clone(), cursors };
        bronze.put(&key, serde_json::to_vec(&mark).unwrap_or_default()).await?;
        for group in [dated.manifests, dated.objects] {
            let (gone, left) = delete(bronze, group).await;
            counts.bronze_objects_deleted += gone;
            counts.not_deleted += left;
            if left > 0 {
                // Objects go only once no manifest names them.
                break;
            }
        }
    }
    Ok(counts)
}

/// The cursors that the interval leaves to later ones: those of its newest manifest, else those of the mark that a retirement left which did not
/// come to its end.
async fn cursors(bronze: &LayerStore, mark: &str, manifests: &[ObjectEntry]) -> Result<BTreeMap<String, String>, StorageError> {
    let mut newest: Option<BronzeManifest> = None;
    for entry in manifests {
        let Some(body) = bronze.get_opt(&entry.key).await? else { continue };
        // One that nobody can read gave no cursor before either.
        let Ok(manifest) = serde_json::from_slice::<BronzeManifest>(&body) else { continue };
        if newest.as_ref().is_none_or(|known| manifest.rank() > known.rank()) {
            newest = Some(manifest);
        }
    }
    if let Some(manifest) = newest {
        return Ok(manifest.cursors());
    }
    let mark = bronze.get_opt(mark).await?.and_then(|body| serde_json::from_slice::<Retired>(&body).ok());
    Ok(mark.map(|mark| mark.cursors).unwrap_or_default())
}

/// All objects of a pipeline by the label of their interval; marks are left out.
async fn by_interval(pipeline: &str, bronze: &LayerStore) -> Result<BTreeMap<String, Dated>, StorageError> {
    let mut dated: BTreeMap<String, Dated> = BTreeMap::new();
    let inside = format!("{pipeline}/");
    for object in bronze.list(pipeline).await? {
        let Some((folder, rest)) = object.key.strip_prefix(&inside).and_then(|rest| rest.split_once("/dt=")) else { continue };
        let Some((label, name)) = rest.split_once('/') else { continue };
        let label = label.to_owned();
        if folder != keys::MANIFESTS {
            dated.entry(label).or_default().objects.push(object);
        } else if name.ends_with(".json") {
            dated.entry(label).or_default().manifests.push(object);
        }
    }
    Ok(dated)
}

/// Whether the interval of a label, of whichever grain, ended before a time. A label that is none never does.
fn ended_before(label: &str, time: DateTime<Utc>) -> bool {
    let grain = match label.len() {
        7 => IntervalGrain::Monthly,
        10 => IntervalGrain::Daily,
        _ => IntervalGrain::Hourly,
    };
    Interval::parse(grain, label).is_ok_and(|interval| interval.end < time)
}

/// The input that a silver stage pinned.
#[derive(Deserialize)]
struct Pins {
    manifest: String,
}

/// Whether a report is of an attempt that succeeded.
#[derive(Deserialize)]
struct Ended {
    failure: Option<serde_json::Value>,
}

/// Manifests that runs pinned lately whose silver stage has not succeeded.
async fn pinned(spec: &StageSpec, storage: &Storage, since: DateTime<Utc>) -> Result<BTreeSet<String>, StorageError> {
    let silver = storage.layer(Layer::Silver)?;
    let mut runs: BTreeMap<String, (Option<ObjectEntry>, Vec<String>)> = BTreeMap::new();
    for object in silver.list(&format!("_lakehouse/runs/{}", spec.pipeline)).await? {
        let Some((folder, name)) = object.key.rsplit_once('/').map(|(folder, name)| (folder.to_owned(), name.to_owned())) else { continue };
        let run = runs.entry(folder).or_default();
        if name == "silver-inputs.json" {
            run.0 = Some(object);
        } else if name.starts_with("silver-") && name.ends_with(".json") {
            run.1.push(object.key);
        }
    }
    let mut pinned = BTreeSet::new();
    for (pins, reports) in runs.into_values() {
        let Some(pins) = pins.filter(|pins| pins.last_modified >= since) else { continue };
        let mut finished = false;
        for report in reports {
            let ended = silver.get_opt(&report).await?.and_then(|body| serde_json::from_slice::<Ended>(&body).ok());
            finished |= ended.is_some_and(|ended| ended.failure.is_none());
        }
        if !finished && let Some(pins) = silver.get_opt(&pins.key).await?.and_then(|body| serde_json::from_slice::<Pins>(&body).ok()) {
            pinned.insert(pins.manifest);
        }
    }
    Ok(pinned)
}

/// Deletes objects; how many are gone and how many could not be deleted.
async fn delete(bronze: &LayerStore, objects: Vec<ObjectEntry>) -> (u64, u64) {
    let outcomes = stream::iter(objects.into_iter().map(|object| async move { bronze.delete(&object.key).await.is_ok() }));
    outcomes
        .buffer_unordered(DELETIONS)
        .fold((0, 0), |(gone, left), deleted| async move { if deleted { (gone + 1, left) } else { (gone, left + 1) } })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_interval_counts_whatever_its_grain() {
        let time: DateTime<Utc> = "2024-02-01T00:00:00Z".parse().unwrap();
        for (label, gone) in [
            ("2024-01-30", true),
            // It ends at that very time.
            ("2024-01-31", false),
            ("2023-12", true),
            ("2024-01", false),
            ("2024-01-31T22", true),
            ("2024-01-31T23", false),
            ("yesterday", false),
            ("", false),
        ] {
            assert_eq!(ended_before(label, time), gone, "{label}");
        }
    }
}
