//! What the commands that look at a cluster, and steer what runs there, ask of the API server.

use std::fmt::Debug;

use k8s_openapi::{NamespaceResourceScope, api::events::v1::Event};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use lakehouse_api::{Lakehouse, LakehousePipeline, LakehouseRun, run::RunState};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{
    SubmitError,
    cluster::{Cluster, MANAGER, Trouble},
};

/// Most events that are asked for at once.
const EVENTS: u32 = 500;

impl Cluster {
    /// The objects of a kind.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The object `name`, where there is one.
    ///
    /// # Errors
    /// [`SubmitError::Refused`], [`SubmitError::Unreachable`].
    pub async fn find<K>(&self, name: &str) -> Result<Option<K>, SubmitError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api = self.api::<K>();
        let found = self.ask(|| api.get_opt(name)).await;
        found.map_err(|trouble| self.error(&format!("get {} {name}", K::kind(&())), trouble))
    }

    /// All objects of a kind, by name.
    ///
    /// # Errors
    /// [`SubmitError::Refused`], [`SubmitError::Unreachable`].
    pub async fn all<K>(&self) -> Result<Vec<K>, SubmitError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let (api, every) = (self.api::<K>(), ListParams::default());
        let list = self.ask(|| api.list(&every)).await;
        let mut items = list.map_err(|trouble| self.error(&format!("list {}s", K::kind(&())), trouble))?.items;
        items.sort_by_key(ResourceExt::name_any);
        Ok(items)
    }

    /// The run `name`.
    ///
    /// # Errors
    /// [`SubmitError::Refused`] when there is none, [`SubmitError::Unreachable`].
    pub async fn run(&self, name: &str) -> Result<LakehouseRun, SubmitError> {
        let found = self.find(name).await?;
        found
            .ok_or_else(|| SubmitError::Refused(format!("LakehouseRun {name}: there is none of this name in namespace {}", self.namespace)))
    }

    /// The Lakehouse of a pipeline; nothing when either is gone.
    ///
    /// # Errors
    /// [`SubmitError::Refused`], [`SubmitError::Unreachable`].
    pub async fn lakehouse_of(&self, pipeline: &str) -> Result<Option<Lakehouse>, SubmitError> {
        let Some(pipeline) = self.find::<LakehousePipeline>(pipeline).await? else { return Ok(None) };
        self.find(&pipeline.spec.lakehouse).await
    }

    /// Events about objects of ours, the oldest first; about the object `name` only, where one is given.
    ///
    /// # Errors
    /// [`SubmitError::Refused`], [`SubmitError::Unreachable`].
    pub async fn events(&self, name: Option<&str>) -> Result<Vec<Event>, SubmitError> {
        let api = self.api::<Event>();
        let mut parameters = ListParams::default().limit(EVENTS);
        if let Some(name) = name {
            parameters = parameters.fields(&format!("regarding.name={name}"));
        }
        let mut events = Vec::new();
        loop {
            let page = self.ask(|| api.list(&parameters)).await.map_err(|trouble| self.error("list Events", trouble))?;
            events.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => return Ok(events),
            }
        }
    }

    /// Sets `spec.state` of this very run: another one of its name is left alone.
    ///
    /// # Errors
    /// [`SubmitError::Refused`], [`SubmitError::Unreachable`].
    pub async fn set_state(&self, run: &LakehouseRun, state: RunState) -> Result<LakehouseRun, SubmitError> {
        let (api, name) = (self.runs(), run.name_any());
        let patch = Patch::Merge(json!({"metadata": {"uid": run.metadata.uid}, "spec": {"state": state}}));
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patched = self.ask(|| api.patch(&name, &parameters, &patch)).await;
        patched.map_err(|trouble: Trouble| self.error(&format!("set spec.state of LakehouseRun {name} to {state:?}"), trouble))
    }
}
