//! The run that a changed definition makes (`trigger.onApply`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lakehouse_api::{LakehousePipeline, LakehouseRun, LakehouseRunSpec, run::RunState};
use lakehouse_contract::Interval;

use super::{digest, labels, owner};
use crate::names;

/// The run of `pipeline`, as it is now, for `interval`. Its labels pin the definition.
pub fn triggered_run(pipeline: &LakehousePipeline, interval: Interval) -> LakehouseRun {
    let name = pipeline.metadata.name.clone().unwrap_or_default();
    let uid = pipeline.metadata.uid.clone().unwrap_or_default();
    let generation = pipeline.metadata.generation.unwrap_or_default();
    let digest = digest(&pipeline.spec);
    LakehouseRun {
        metadata: ObjectMeta {
            name: Some(names::triggered_run(&name, &interval, pipeline.spec.interval, &digest, generation)),
            namespace: pipeline.metadata.namespace.clone(),
            labels: Some(labels(&[
                (names::PIPELINE, &name),
                (names::DEFINITION, &names::revision(&name, &digest)),
                (names::GENERATION, &generation.to_string()),
            ])),
            owner_references: Some(vec![owner("LakehousePipeline", &name, &uid)]),
            ..ObjectMeta::default()
        },
        spec: LakehouseRunSpec {
            pipeline: name,
            interval: interval.into(),
            stages: None,
            inputs_from: None,
            refresh: None,
            parameters: BTreeMap::new(),
            retry_of: None,
            state: RunState::Active,
        },
        status: None,
    }
}
