//! The ConfigMaps that carry the specs of stages into their pods.
//!
//! The first attempts of a run's stages share one: nearly all runs have no others, and it is one write instead of three. Every other attempt has one of
//! its own, since the number of the attempt is in the spec.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use lakehouse_contract::{Stage, StageSpec, env};

use super::{Attempt, labels, owner};
use crate::names;

/// Most bytes of specs in one ConfigMap; the API server takes 1 MiB.
const SHARED_LIMIT: usize = 768 << 10;

/// The ConfigMap of an attempt that shares none: the spec as JSON, immutable.
pub fn config_map(attempt: &Attempt<'_>, spec: &StageSpec) -> ConfigMap {
    ConfigMap {
        metadata: attempt.metadata(),
        data: Some(BTreeMap::from([(env::SPEC_FILE.to_owned(), text(spec))])),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

/// The ConfigMap of a run: the specs of the first attempts of its stages as JSON, immutable.
pub fn shared_config_map(attempt: &Attempt<'_>, specs: &[StageSpec]) -> ConfigMap {
    let of = &[(names::PIPELINE, attempt.pipeline), (names::RUN, attempt.run), (names::RUN_UID, attempt.uid)];
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(names::specs(attempt.run, attempt.uid)),
            namespace: Some(attempt.namespace.to_owned()),
            labels: Some(labels(of)),
            owner_references: Some(vec![owner("LakehouseRun", attempt.run, attempt.uid)]),
            ..ObjectMeta::default()
        },
        data: Some(specs.iter().map(|spec| (shared_key(spec.stage()), text(&spec.clone().with_attempt(1)))).collect()),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

/// Whether an attempt with this number shares its ConfigMap with the other stages of its run, whose specs are `specs`.
pub fn is_shared(attempt: i32, specs: &[StageSpec]) -> bool {
    attempt == 1 && specs.iter().map(|spec| text(spec).len()).sum::<usize>() <= SHARED_LIMIT
}

/// The key of a stage in the ConfigMap of its run.
pub(super) fn shared_key(stage: Stage) -> String {
    format!("{stage}.json")
}

fn text(spec: &StageSpec) -> String {
    // Our own types always serialize: string keys, no other maps.
    serde_json::to_string_pretty(spec).unwrap_or_default()
}
