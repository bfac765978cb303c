//! The immutable copy of a definition that runs execute: a ControllerRevision, as StatefulSets and DaemonSets keep them.

use k8s_openapi::{
    api::apps::v1::ControllerRevision,
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, runtime::RawExtension},
};
use lakehouse_api::{LakehousePipeline, LakehousePipelineSpec};
use lakehouse_contract::digest_json;
use serde_json::json;

use super::{labels, owner};
use crate::names;

/// Digest of a definition, hexadecimal.
pub fn digest(spec: &LakehousePipelineSpec) -> String {
    digest_json(spec)
}

/// The revision of `pipeline` as it is now, numbered by its generation.
pub fn revision(pipeline: &LakehousePipeline) -> ControllerRevision {
    let name = pipeline.metadata.name.clone().unwrap_or_default();
    let uid = pipeline.metadata.uid.clone().unwrap_or_default();
    let digest = digest(&pipeline.spec);
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(names::revision(&name, &digest)),
            namespace: pipeline.metadata.namespace.clone(),
            labels: Some(labels(&[(names::PIPELINE, &name)])),
            owner_references: Some(vec![owner("LakehousePipeline", &name, &uid)]),
            ..ObjectMeta::default()
        },
        revision: pipeline.metadata.generation.unwrap_or_default(),
        data: Some(RawExtension(json!({"digest": digest, "spec": pipeline.spec}))),
    }
}

/// The definition that a revision holds.
///
/// # Errors
/// One line when its data is not a definition that this release reads.
pub fn definition_of(revision: &ControllerRevision) -> Result<LakehousePipelineSpec, String> {
    let name = revision.metadata.name.as_deref().unwrap_or_default();
    let spec = revision.data.as_ref().and_then(|data| data.0.get("spec")).cloned();
    let spec = spec.ok_or_else(|| format!("ControllerRevision {name} holds no definition"))?;
    serde_json::from_value(spec).map_err(|error| format!("ControllerRevision {name}: {error}"))
}
