//! Logs that stages put to the store, for when their pods are gone.

use lakehouse_api::LakehouseSpec;
use lakehouse_contract::{RunId, Stage, StoreLocation, keys};
use lakehouse_shell::{layer_of, open_storage};
use lakehouse_storage::{Storage, StorageError};

/// The logs of one run in its store.
pub struct Archive {
    pipeline: String,
    run: RunId,
    store: Result<Storage, String>,
    /// What may help when the store does not answer.
    hint: &'static str,
}

impl Archive {
    /// Those of a run in a store that is open.
    pub const fn new(pipeline: String, run: RunId, store: Storage) -> Self {
        Self { pipeline, run, store: Ok(store), hint: "" }
    }

    /// Those of a run on a cluster: in the store that its Lakehouse names (`endpoint` replaces its endpoint, which may be known within the cluster
    /// only), with the keys of this process' environment. Connects when it is read.
    pub fn of_cluster(pipeline: &str, run: RunId, lakehouse: Option<&LakehouseSpec>, endpoint: Option<String>) -> Self {
        // The place that a Lakehouse names is where pods find it.
        let hint = if endpoint.is_none() { " (--store-endpoint URL says where it is reached from here)" } else { "" };
        let store = match lakehouse {
            None => Err("the store is not known: the pipeline or its Lakehouse is gone".to_owned()),
            Some(spec) => open_storage(&StoreLocation::S3 {
                endpoint: endpoint.or_else(|| spec.object_store.endpoint.clone()),
                region: spec.object_store.region.clone(),
                bronze: spec.buckets.bronze.clone(),
                silver: spec.buckets.silver.clone(),
                gold: spec.buckets.gold.clone(),
                landing: spec.buckets.landing.clone(),
            })
            .map_err(|error| match error {
                StorageError::MissingCredentials { .. } => {
                    "reading its copy in the store needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment".to_owned()
                }
                other => other.to_string(),
            }),
        };
        Self { pipeline: pipeline.to_owned(), run, store, hint }
    }

    /// The log of an attempt of a stage, from 1; otherwise why there is none.
    ///
    /// # Errors
    /// One line for a person.
    pub async fn read(&self, stage: Stage, attempt: u32) -> Result<String, String> {
        let layer = self.store.as_ref().map_err(Clone::clone)?.layer(layer_of(stage)).map_err(|error| error.to_string())?;
        let key = keys::log(&self.pipeline, &self.run, stage, attempt);
        match layer.get_opt(&key).await {
            Ok(Some(bytes)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(None) => Err(format!("there is no {}", layer.uri(&key))),
            Err(error @ StorageError::Unreachable { .. }) => Err(format!("{error}{}", self.hint)),
            Err(error) => Err(error.to_string()),
        }
    }
}
