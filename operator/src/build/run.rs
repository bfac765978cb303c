//! The runs that the operator makes: for a changed definition, a time of a schedule, an interval of a backfill.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lakehouse_api::{LakehouseBackfill, LakehousePipeline, LakehouseRun, LakehouseRunSpec, run::RunState};
use lakehouse_contract::{Interval, interval::rfc3339, names::BACKFILL_LABEL};

use super::{digest, labels, owner};
use crate::{
    names,
    plan::{backfill::Order, schedule::Due},
};

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

/// The run of `pipeline`, as it is now, for a time of its schedule. Its labels pin the definition.
pub fn scheduled_run(pipeline: &LakehousePipeline, due: &Due) -> LakehouseRun {
    let uid = pipeline.metadata.uid.clone().unwrap_or_default();
    let mut run = triggered_run(pipeline, due.interval);
    run.metadata.name = Some(names::scheduled_run(&run.spec.pipeline, &uid, &due.interval, pipeline.spec.interval));
    let labels = run.metadata.labels.get_or_insert_default();
    // That label says that a definition was acted on, which a schedule does not.
    labels.remove(names::GENERATION);
    labels.insert(names::TRIGGER.to_owned(), names::SCHEDULE.to_owned());
    run.metadata.annotations = Some(BTreeMap::from([(names::SCHEDULED_TIME.to_owned(), rfc3339(due.time))]));
    run
}

/// A run of a backfill, which executes the definition that the backfill began with.
pub fn backfill_run(backfill: &LakehouseBackfill, definition: &str, order: &Order) -> LakehouseRun {
    let name = backfill.metadata.name.clone().unwrap_or_default();
    let uid = backfill.metadata.uid.clone().unwrap_or_default();
    LakehouseRun {
        metadata: ObjectMeta {
            name: Some(order.name.clone()),
            namespace: backfill.metadata.namespace.clone(),
            labels: Some(labels(&[(names::PIPELINE, &backfill.spec.pipeline), (names::DEFINITION, definition), (BACKFILL_LABEL, &name)])),
            owner_references: Some(vec![owner("LakehouseBackfill", &name, &uid)]),
            ..ObjectMeta::default()
        },
        spec: LakehouseRunSpec {
            pipeline: backfill.spec.pipeline.clone(),
            interval: order.interval.into(),
            stages: Some(order.stages.clone()),
            inputs_from: None,
            refresh: order.refresh,
            parameters: backfill.spec.parameters.clone(),
            retry_of: None,
            state: RunState::Active,
        },
        status: None,
    }
}
