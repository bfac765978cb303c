//! The input: which bronze manifest, pinned for the run.

use bytes::Bytes;
use lakehouse_contract::{BronzeManifest, Reason, Retired, SilverInput, SourceManifest, Stage, StageFailure, StageSpec, keys};
use lakehouse_shell::storage_failure;
use lakehouse_storage::{Layer, LayerStore, PutOutcome, Storage, StorageError};
use serde::{Deserialize, Serialize};

/// What the first attempt of a run chose, so that every later one reads the same.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pins {
    /// Key of the bronze manifest.
    manifest: String,
}

/// A bronze manifest and its key.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) key: String,
    pub(crate) manifest: BronzeManifest,
}

impl Input {
    /// Finds the manifest that the spec says, and pins it where the spec leaves the choice.
    ///
    /// # Errors
    /// `NoInput` when there is none, `InputCorrupt` when it cannot be read, or what the store says.
    pub(crate) async fn find(spec: &StageSpec, input: &SilverInput, storage: &Storage) -> Result<Self, StageFailure> {
        let bronze = storage.layer(Layer::Bronze).map_err(|error| storage_failure(&error))?;
        let key = match input {
            SilverInput::Run(run) => keys::bronze_manifest(&spec.pipeline, &spec.interval, spec.grain, run),
            SilverInput::Newest => pinned(spec, bronze, storage).await?,
        };
        match read(bronze, &key).await? {
            Some(manifest) => Ok(Self { key, manifest }),
            None => Err(no_input(spec, bronze, &format!("{key} does not exist")).await),
        }
    }

    /// The objects of a source.
    ///
    /// # Errors
    /// `NoInput` when the manifest does not have the source.
    pub(crate) fn source(&self, name: &str) -> Result<&SourceManifest, StageFailure> {
        self.manifest.sources.iter().find(|source| source.name == name).ok_or_else(|| {
            let known = self.manifest.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ");
            StageFailure::new(Reason::NoInput, format!("bronze manifest {} has no source {name}; it has: {known}", self.key))
        })
    }
}

async fn no_input(spec: &StageSpec, bronze: &LayerStore, found: &str) -> StageFailure {
    let label = spec.interval.label(spec.grain);
    let folder = keys::bronze_manifests(&spec.pipeline, &spec.interval, spec.grain);
    let mark = bronze.get_opt(&keys::bronze_retired(&folder)).await.ok().flatten();
    if let Some(Retired { at, run, .. }) = mark.and_then(|body| serde_json::from_slice(&body).ok()) {
        return StageFailure::new(
            Reason::NoInput,
            format!(
                "interval {label} of pipeline {}: its bronze was retired by maintenance.bronzeRetention at {} (run {run}), so that silver \
                 cannot be made from it again; its tables keep their rows. Run the ingest stage where the source can still answer for the interval",
                spec.pipeline,
                lakehouse_contract::interval::rfc3339(at)
            ),
        );
    }
    StageFailure::new(
        Reason::NoInput,
        format!(
            "interval {label} of pipeline {} has no ingested data in bronze folder {folder}: {found}; run the ingest stage first",
            spec.pipeline
        ),
    )
}

async fn read(bronze: &LayerStore, key: &str) -> Result<Option<BronzeManifest>, StageFailure> {
    let Some(bytes) = bronze.get_opt(key).await.map_err(|error| storage_failure(&error))? else {
        return Ok(None);
    };
    let manifest = serde_json::from_slice(&bytes);
    manifest.map(Some).map_err(|error| StageFailure::new(Reason::InputCorrupt, format!("bronze manifest {key}: {error}")))
}

/// The key that an earlier attempt pinned, else that of the newest manifest, pinned now.
async fn pinned(spec: &StageSpec, bronze: &LayerStore, storage: &Storage) -> Result<String, StageFailure> {
    let failure = |error: StorageError| storage_failure(&error);
    let silver = storage.layer(Layer::Silver).map_err(failure)?;
    let pins_key = keys::pins(&spec.pipeline, &spec.run.id, Stage::Silver);
    let parse = |bytes: Bytes| {
        let pins = serde_json::from_slice::<Pins>(&bytes);
        pins.map(|pins| pins.manifest)
            .map_err(|error| StageFailure::new(Reason::InputCorrupt, format!("pinned inputs {pins_key}: {error}")))
    };
    if let Some(bytes) = silver.get_opt(&pins_key).await.map_err(failure)? {
        return parse(bytes);
    }
    let newest = newest(spec, bronze).await?;
    let body = serde_json::to_vec(&Pins { manifest: newest.clone() }).map_err(|error| StageFailure::new(Reason::Internal, error))?;
    match silver.put_if_absent(&pins_key, body).await.map_err(failure)? {
        PutOutcome::Created => Ok(newest),
        PutOutcome::Exists => parse(silver.get(&pins_key).await.map_err(failure)?),
    }
}

async fn newest(spec: &StageSpec, bronze: &LayerStore) -> Result<String, StageFailure> {
    let folder = keys::bronze_manifests(&spec.pipeline, &spec.interval, spec.grain);
    let mut newest: Option<(BronzeManifest, String)> = None;
    for entry in bronze.list(&folder).await.map_err(|error| storage_failure(&error))? {
        if !entry.key.ends_with(".json") {
            continue;
        }
        let Some(manifest) = read(bronze, &entry.key).await? else { continue };
        if newest.as_ref().is_none_or(|(known, _)| manifest.rank() > known.rank()) {
            newest = Some((manifest, entry.key));
        }
    }
    match newest {
        Some((_, key)) => Ok(key),
        None => Err(no_input(spec, bronze, "the folder has no manifest").await),
    }
}
