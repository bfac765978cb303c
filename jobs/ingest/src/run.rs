//! The stage: adopt the run's manifest or make it.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, stream};
use lakehouse_contract::{
    BronzeManifest, CONTRACT_VERSION, IngestSource, Lineage, Progress, ResolvedSource, SourceManifest, StageFuture, StageOutcome,
    StageSpec, TableReport, Work, keys,
};
use lakehouse_storage::{Layer, LayerStore, PutOutcome, Storage};

use crate::{IngestError, Options, Sink, lineage, sources};

/// Sources that are fetched at once.
const CONCURRENT_SOURCES: usize = 4;

/// Runs the ingest stage of `spec`.
///
/// When the run has a manifest already, nothing is fetched or written and the outcome is rebuilt from it. Otherwise every source is
/// fetched, up to four at once, and the manifest is put last; the first source that fails ends the stage without a manifest.
pub fn run<'a>(spec: &'a StageSpec, storage: &'a Storage, progress: &'a dyn Progress) -> StageFuture<'a> {
    Box::pin(async move { run_with(spec, storage, progress, &Options::default()).await })
}

/// [`run`] with a clock, an environment and limits of the caller's.
pub fn run_with<'a>(spec: &'a StageSpec, storage: &'a Storage, progress: &'a dyn Progress, options: &'a Options) -> StageFuture<'a> {
    Box::pin(async move {
        let lineage = if spec.lineage.is_some() { lineage::of(spec, storage) } else { Lineage::default() };
        match ingest(spec, storage, progress, options).await {
            Ok(tables) => StageOutcome { tables, lineage, ..StageOutcome::default() },
            Err(error) => StageOutcome { failure: Some(error.failure()), lineage, ..StageOutcome::default() },
        }
    })
}

async fn ingest(spec: &StageSpec, storage: &Storage, progress: &dyn Progress, options: &Options) -> Result<Vec<TableReport>, IngestError> {
    let Work::Ingest { sources } = &spec.work else { return Err(IngestError::WrongStage(spec.stage())) };
    let bronze = storage.layer(Layer::Bronze)?;
    let key = keys::bronze_manifest(&spec.pipeline, &spec.interval, spec.grain, &spec.run.id);
    if let Some(body) = bronze.get_opt(&key).await? {
        tracing::info!(manifest = bronze.uri(&key), "the run has its manifest already; nothing is fetched");
        return adopt(bronze, &key, &body);
    }

    let manifest = BronzeManifest {
        contract: CONTRACT_VERSION,
        pipeline: spec.pipeline.clone(),
        run: spec.run.id.clone(),
        attempt: spec.attempt,
        interval: spec.interval,
        sources: fetch_all(spec, storage, bronze, sources, progress, options).await?,
        committed_at: (options.now)(),
    };
    let body = serde_json::to_vec_pretty(&manifest).map(Bytes::from).map_err(|error| IngestError::Internal(error.to_string()))?;
    if bronze.put_if_absent(&key, body.clone()).await? == PutOutcome::Created {
        return Ok(reports(&manifest, false));
    }
    let existing = bronze.get(&key).await?;
    if existing == body {
        // The put was ours: its answer was lost and it was sent again.
        return Ok(reports(&manifest, false));
    }
    tracing::info!(manifest = bronze.uri(&key), "another process of this run was first; its manifest counts");
    adopt(bronze, &key, &existing)
}

async fn fetch_all(
    spec: &StageSpec,
    storage: &Storage,
    bronze: &LayerStore,
    sources: &[ResolvedSource],
    progress: &dyn Progress,
    options: &Options,
) -> Result<Vec<SourceManifest>, IngestError> {
    let opened: Vec<_> =
        sources.iter().map(|source| sources::open(sources::Context { spec, storage, options, name: &source.name }, source)).collect();
    let suffix = claim(spec, bronze).await?;
    let names = sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ");
    progress.step(&format!("fetch {names}"), opened.iter().map(|source| source.expected_records()).sum());

    let dt = spec.interval.label(spec.grain);
    let fetches = opened.iter().zip(sources).enumerate().map(|(index, (source, resolved))| {
        let folder = keys::bronze_folder(&spec.pipeline, &resolved.name, &dt, &spec.run.id, spec.attempt);
        let mut sink = Sink::new(bronze, folder, &suffix, options.now.clone(), progress);
        async move {
            source.fetch(&mut sink).await?;
            Ok::<_, IngestError>((index, sink.into_manifest(&resolved.name)))
        }
    });
    // A source in real time waits for no other.
    let live = sources.iter().filter(|source| matches!(&source.source, IngestSource::Sensors(sensors) if sensors.continuous.is_some()));
    let mut fetching = stream::iter(fetches.collect::<Vec<_>>()).buffer_unordered(CONCURRENT_SOURCES + live.count());
    let mut fetched = BTreeMap::new();
    let mut stopped = None;
    while let Some(next) = fetching.next().await {
        match next {
            Ok((index, manifest)) => {
                fetched.insert(index, manifest);
            }
            // The others that were told to stop keep what they have, too.
            Err(error) if error.is_stop() => stopped = Some(error),
            Err(error) => return Err(error),
        }
    }
    stopped.map_or_else(|| Ok(fetched.into_values().collect()), Err)
}

/// Claims the folders of this attempt. Whoever comes second (a pod that replaced one which still runs, a laptop run after a crash) gets
/// a suffix for its object names instead: an object that a manifest may name is never written again.
async fn claim(spec: &StageSpec, bronze: &LayerStore) -> Result<String, IngestError> {
    let process = uuid::Uuid::new_v4().simple().to_string();
    let key = keys::bronze_claim(&spec.pipeline, &spec.run.id, spec.attempt);
    Ok(match bronze.put_if_absent(&key, process.clone()).await? {
        PutOutcome::Created => String::new(),
        PutOutcome::Exists => format!("-{}", &process[..8]),
    })
}

fn adopt(bronze: &LayerStore, key: &str, body: &[u8]) -> Result<Vec<TableReport>, IngestError> {
    let unusable = |message: String| IngestError::Manifest { uri: bronze.uri(key), message };
    let manifest: BronzeManifest = serde_json::from_slice(body).map_err(|error| unusable(error.to_string()))?;
    // Bronze is kept for ever: only a newer one is not understood.
    if manifest.contract > CONTRACT_VERSION {
        return Err(unusable(format!("it has contract version {}, this software has {CONTRACT_VERSION}", manifest.contract)));
    }
    Ok(reports(&manifest, true))
}

fn reports(manifest: &BronzeManifest, already_committed: bool) -> Vec<TableReport> {
    let report = |source: &SourceManifest| {
        let records = source.objects.iter().filter_map(|object| object.records).sum();
        TableReport {
            name: source.name.clone(),
            already_committed,
            rows_read: records,
            rows_written: records,
            files: source.objects.len() as u64,
            bytes_written: source.objects.iter().map(|object| object.bytes).sum(),
            ..TableReport::default()
        }
    };
    manifest.sources.iter().map(report).collect()
}
