//! The ConfigMap that carries a stage's spec into its pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use lakehouse_contract::{StageSpec, env};

use super::Attempt;

/// The ConfigMap of an attempt: the spec as JSON, immutable.
pub fn config_map(attempt: &Attempt<'_>, spec: &StageSpec) -> ConfigMap {
    // Our own types always serialize: string keys, no other maps.
    let text = serde_json::to_string_pretty(spec).unwrap_or_default();
    ConfigMap {
        metadata: attempt.metadata(),
        data: Some(BTreeMap::from([(env::SPEC_FILE.to_owned(), text)])),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}
