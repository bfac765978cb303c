//! What the tests of the stage share: a spec, a store in a temporary folder, options without patience, a small HTTP server.

pub mod server;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use lakehouse_contract::{
    BronzeManifest, CONTRACT_VERSION, IngestSource, Interval, IntervalGrain, NoProgress, Reason, ResolvedSource, RunId, RunRef,
    StageOutcome, StageSpec, StoreLocation, Work, keys,
};
use lakehouse_ingest::{Options, run_with};
use lakehouse_storage::{Layer, LayerStore, Storage};

/// The moment that the tests take for the present: soon after the interval of [`Lake::spec`].
pub const NOW: &str = "2024-01-02T00:10:00Z";

/// A time from RFC 3339.
pub fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

/// Options with a fixed clock, short waits and the environment `variables`.
pub fn options(variables: &[(&str, &str)]) -> Options {
    let variables: BTreeMap<String, String> = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Options {
        now: Arc::new(|| at(NOW)),
        environment: Arc::new(move |name| variables.get(name).cloned()),
        backoff: Duration::from_millis(1),
        max_retry_after: Duration::from_millis(300),
        max_response_bytes: 100_000,
    }
}

/// A lakehouse in a temporary folder.
pub struct Lake {
    pub folder: tempfile::TempDir,
    pub storage: Storage,
}

impl Lake {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::local(folder.path()).unwrap();
        Self { folder, storage }
    }

    pub fn bronze(&self) -> &LayerStore {
        self.storage.layer(Layer::Bronze).unwrap()
    }

    /// The spec of one daily interval with the sources given by name.
    pub fn spec(&self, sources: Vec<(&str, IngestSource)>) -> StageSpec {
        StageSpec {
            contract: CONTRACT_VERSION,
            pipeline: "shop".into(),
            owner: "local/shop".into(),
            run: RunRef { name: "shop-1".into(), id: RunId::new("shop-1", "01234567-89ab"), created_at: at(NOW) },
            attempt: 1,
            interval: Interval::parse(IntervalGrain::Daily, "2024-01-01").unwrap(),
            grain: IntervalGrain::Daily,
            store: StoreLocation::Local { root: self.folder.path().display().to_string(), landing: None },
            lineage: None,
            work: Work::Ingest {
                sources: sources.into_iter().map(|(name, source)| ResolvedSource { name: name.into(), source }).collect(),
            },
        }
    }

    pub async fn run(&self, spec: &StageSpec) -> StageOutcome {
        run_with(spec, &self.storage, &NoProgress, &options(&[])).await
    }

    /// The manifest of the run of `spec`, if it is committed.
    pub async fn manifest(&self, spec: &StageSpec) -> Option<BronzeManifest> {
        let key = keys::bronze_manifest(&spec.pipeline, &spec.interval, spec.grain, &spec.run.id);
        let body = self.bronze().get_opt(&key).await.unwrap()?;
        Some(serde_json::from_slice(&body).unwrap())
    }

    /// Content of a bronze object, checked against the manifest's digest.
    pub async fn text(&self, object: &lakehouse_contract::BronzeObject) -> String {
        let body = self.bronze().get(&object.key).await.unwrap();
        assert_eq!((lakehouse_storage::sha256(&body), body.len() as u64), (object.sha256.clone(), object.bytes));
        String::from_utf8(body.to_vec()).unwrap()
    }

    /// All keys of bronze that a reader could take for data: no claims.
    pub async fn keys(&self) -> Vec<String> {
        let listed = self.bronze().list("shop").await.unwrap();
        listed.into_iter().map(|entry| entry.key).collect()
    }
}

/// The reason and the message of a failed outcome.
pub fn failure(outcome: &StageOutcome) -> (Reason, &str) {
    assert!(outcome.tables.is_empty(), "a failed ingest commits nothing");
    let failure = outcome.failure.as_ref().expect("the stage must fail");
    (failure.reason, &failure.message)
}
