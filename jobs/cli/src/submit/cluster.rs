//! The API server: connecting, and the few requests that `submit` makes. What passes by itself is tried again for some seconds.

use std::{error::Error, fmt::Debug, path::PathBuf, time::Duration};

use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::Status,
};
use lakehouse_api::{LakehouseBackfill, LakehousePipeline, LakehouseRun};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{SubmitError, outcome::one_line};

/// Field manager of our writes.
pub(super) const MANAGER: &str = "lakehouse-cli";
/// Pauses between tries of a request that nobody answered, in milliseconds.
const PAUSES: [u64; 5] = [200, 400, 800, 1_600, 3_000];
/// Longest wait for the answer to one request.
const ANSWER: Duration = Duration::from_secs(15);

/// Which cluster.
#[derive(Clone, Debug, Args)]
pub struct ClusterArguments {
    /// Namespace of the pipeline; default: that of the context, or of the pod.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Context of the kubeconfig; default: the current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig; default: $KUBECONFIG, ~/.kube/config, or in a pod its service account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// One namespace of a cluster.
pub struct Cluster {
    pub(super) client: Client,
    url: String,
    /// The namespace.
    pub namespace: String,
}

/// Why a request was not answered as it should.
pub(super) enum Trouble {
    /// The API server says no.
    Refused(Box<Status>),
    /// It does not answer, or not now.
    Silent(String),
    /// Its answer makes no sense here.
    Odd(String),
}

impl Trouble {
    fn of(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 429 || status.code >= 500 => Self::Silent(one_line(&status.message)),
            kube::Error::Api(status) => Self::Refused(status),
            error @ (kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_)) => Self::Silent(cause(&error)),
            error => Self::Odd(cause(&error)),
        }
    }
}

/// What is at the root of an error, on one line.
pub fn cause(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return one_line(&status.message);
    }
    let mut deepest: &dyn Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    one_line(&deepest.to_string())
}

impl Cluster {
    /// Reads the configuration; asks nothing yet.
    ///
    /// # Errors
    /// [`SubmitError::Refused`] for a context or file that was named and is none, [`SubmitError::Unreachable`] where no cluster is configured.
    pub async fn connect(arguments: &ClusterArguments) -> Result<Self, SubmitError> {
        let config = config(arguments).await?;
        let url = config.cluster_url.to_string();
        let namespace = arguments.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| SubmitError::Unreachable(format!("API server {url}: {}", cause(&error))))?;
        Ok(Self { client, url, namespace })
    }

    /// The runs of the namespace.
    pub fn runs(&self) -> Api<LakehouseRun> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The pods of the namespace.
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The pipeline `name`.
    ///
    /// # Errors
    /// [`SubmitError::Refused`] when there is none, [`SubmitError::Unreachable`].
    pub async fn pipeline(&self, name: &str) -> Result<LakehousePipeline, SubmitError> {
        let api: Api<LakehousePipeline> = Api::namespaced(self.client.clone(), &self.namespace);
        self.ask(|| api.get(name)).await.map_err(|trouble| match trouble {
            Trouble::Refused(status) if status.is_not_found() && status.details.as_ref().is_some_and(|details| details.name == name) => {
                SubmitError::Refused(format!("LakehousePipeline {name}: there is none of this name in namespace {}", self.namespace))
            }
            Trouble::Refused(status) if status.code == 404 => SubmitError::Refused(format!(
                "LakehousePipeline {name}: {} does not serve lakehousepipelines.lakehouse.rs/v1alpha1: install charts/lakehouse-operator",
                self.url
            )),
            other => self.error(&format!("get LakehousePipeline {name}"), other),
        })
    }

    /// The runs with these labels.
    ///
    /// # Errors
    /// [`SubmitError::Refused`], [`SubmitError::Unreachable`].
    pub async fn labelled(&self, selector: &str) -> Result<Vec<LakehouseRun>, SubmitError> {
        let (api, parameters) = (self.runs(), ListParams::default().labels(selector));
        let list = self.ask(|| api.list(&parameters)).await;
        Ok(list.map_err(|trouble| self.error("list LakehouseRuns", trouble))?.items)
    }

    /// Makes a run; nothing when its name is taken.
    ///
    /// # Errors
    /// [`SubmitError::Refused`], [`SubmitError::Unreachable`].
    pub async fn create(&self, run: &LakehouseRun) -> Result<Option<LakehouseRun>, SubmitError> {
        let api = self.runs();
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match self.ask(|| api.create(&parameters, run)).await {
            Ok(created) => Ok(Some(created)),
            Err(Trouble::Refused(status)) if status.is_already_exists() => Ok(None),
            Err(trouble) => Err(self.error(&format!("create LakehouseRun {}", run.name_any()), trouble)),
        }
    }

    /// Cancels this very run: another one of its name is left alone.
    ///
    /// # Errors
    /// [`SubmitError::Refused`], [`SubmitError::Unreachable`].
    pub async fn cancel(&self, run: &LakehouseRun) -> Result<(), SubmitError> {
        let (api, name) = (self.runs(), run.name_any());
        let patch = Patch::Merge(json!({"metadata": {"uid": run.metadata.uid}, "spec": {"state": "Cancelled"}}));
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patched = self.ask(|| api.patch(&name, &parameters, &patch)).await;
        patched.map(drop).map_err(|trouble| self.error(&format!("cancel LakehouseRun {name}"), trouble))
    }

    /// The backfills of the namespace.
    pub fn backfills(&self) -> Api<LakehouseBackfill> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes a backfill, or answers the one of its name that is there; and whether it was made now.
    ///
    /// # Errors
    /// [`SubmitError::Refused`], [`SubmitError::Unreachable`].
    pub async fn create_backfill(&self, backfill: &LakehouseBackfill) -> Result<(LakehouseBackfill, bool), SubmitError> {
        let (api, name) = (self.backfills(), backfill.name_any());
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match self.ask(|| api.create(&parameters, backfill)).await {
            Ok(created) => Ok((created, true)),
            Err(Trouble::Refused(status)) if status.is_already_exists() => {
                let there = self.ask(|| api.get(&name)).await;
                Ok((there.map_err(|trouble| self.error(&format!("get LakehouseBackfill {name}"), trouble))?, false))
            }
            Err(trouble) => Err(self.error(&format!("create LakehouseBackfill {name}"), trouble)),
        }
    }

    /// Merges `patch` into an object of one of our kinds.
    ///
    /// # Errors
    /// [`SubmitError::Refused`], also where there is none of this name, [`SubmitError::Unreachable`].
    pub async fn merge<K>(&self, name: &str, patch: &serde_json::Value) -> Result<K, SubmitError>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(patch);
        let patched = self.ask(|| api.patch(name, &parameters, &patch)).await;
        patched.map_err(|trouble| self.error(&format!("patch {} {name}", K::kind(&())), trouble))
    }

    /// Asks until there is an answer, for some seconds.
    pub(super) async fn ask<T, F: Future<Output = kube::Result<T>>>(&self, call: impl Fn() -> F) -> Result<T, Trouble> {
        let mut pauses = PAUSES.iter();
        loop {
            let answer = match tokio::time::timeout(ANSWER, call()).await {
                Ok(answer) => answer.map_err(Trouble::of),
                Err(_) => Err(Trouble::Silent(format!("no answer within {} s", ANSWER.as_secs()))),
            };
            match (answer, pauses.next()) {
                (Err(Trouble::Silent(_)), Some(pause)) => tokio::time::sleep(Duration::from_millis(*pause)).await,
                (answer, _) => return answer,
            }
        }
    }

    pub(super) fn error(&self, doing: &str, trouble: Trouble) -> SubmitError {
        match trouble {
            Trouble::Refused(status) => {
                SubmitError::Refused(format!("cannot {doing} in namespace {}: {}", self.namespace, one_line(&status.message)))
            }
            Trouble::Silent(said) => SubmitError::Unreachable(format!("cannot {doing}: API server {}: {said}", self.url)),
            Trouble::Odd(said) => SubmitError::Refused(format!("cannot {doing}: API server {} answers something else: {said}", self.url)),
        }
    }
}

async fn config(arguments: &ClusterArguments) -> Result<Config, SubmitError> {
    let options = KubeConfigOptions { context: arguments.context.clone(), ..KubeConfigOptions::default() };
    let refused = |error: kube::config::KubeconfigError| {
        let option = arguments.context.as_ref().map(|context| format!("--context {context}: ")).unwrap_or_default();
        SubmitError::Refused(format!("{option}{}", one_line(&error.to_string())))
    };
    if let Some(path) = &arguments.kubeconfig {
        let file = Kubeconfig::read_from(path).map_err(refused)?;
        return Config::from_custom_kubeconfig(file, &options).await.map_err(refused);
    }
    if arguments.context.is_some() {
        return Config::from_kubeconfig(&options).await.map_err(refused);
    }
    Config::infer().await.map_err(|error| {
        SubmitError::Unreachable(format!(
            "no cluster: neither a usable kubeconfig nor a pod's service account: {}",
            one_line(&error.to_string())
        ))
    })
}
