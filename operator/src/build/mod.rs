//! Pure and infallible: from validated input to the objects that are created. No secret value is ever among the input.

mod check;
mod config_map;
mod job;
mod quantity;
mod revision;
mod run;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use lakehouse_contract::{Stage, env};

pub use check::{Breach, check};
pub use config_map::{config_map, is_shared, shared_config_map};
pub use job::{GOES_SOONER, KEPT, job, matched_rule, memory_limit, time_to_live};
pub use revision::{definition_of, digest, revision};
pub use run::{backfill_run, scheduled_run, triggered_run};

use crate::{config::JobConfig, names};
use lakehouse_api::{LakehouseSpec, pipeline::jobs::EffectiveSettings};

/// One attempt of one stage, with everything its objects are made of.
#[derive(Clone, Debug)]
pub struct Attempt<'a> {
    /// Name of the run.
    pub run: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its UID.
    pub uid: &'a str,
    /// Name of its pipeline.
    pub pipeline: &'a str,
    /// The stage.
    pub stage: Stage,
    /// Its pages are rendered: it needs the image with a browser.
    pub renders: bool,
    /// Number of the attempt, from 1.
    pub attempt: i32,
    /// Name of the Job.
    pub name: &'a str,
    /// Its spec is in the ConfigMap that the first attempts of the run's stages share; else it has one of its own, named as the Job is.
    pub shares: bool,
    /// Settings of the Job.
    pub settings: &'a EffectiveSettings,
    /// Where credentials are found.
    pub lakehouse: &'a LakehouseSpec,
    /// What the operator's flags say.
    pub config: &'a JobConfig,
}

impl Attempt<'_> {
    fn labels(&self) -> BTreeMap<String, String> {
        labels(&[
            (names::COMPONENT, self.stage.as_str()),
            (names::PIPELINE, self.pipeline),
            (names::RUN, self.run),
            (names::RUN_UID, self.uid),
            (names::STAGE, self.stage.as_str()),
            (names::ATTEMPT, &self.attempt.to_string()),
        ])
    }

    /// Name of the ConfigMap that the spec is in.
    pub fn config_map(&self) -> String {
        if self.shares { names::specs(self.run, self.uid) } else { self.name.to_owned() }
    }

    /// The key of the spec there.
    fn config_key(&self) -> String {
        if self.shares { config_map::shared_key(self.stage) } else { env::SPEC_FILE.to_owned() }
    }

    fn metadata(&self) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.name.to_owned()),
            namespace: Some(self.namespace.to_owned()),
            labels: Some(self.labels()),
            owner_references: Some(vec![owner("LakehouseRun", self.run, self.uid)]),
            ..ObjectMeta::default()
        }
    }
}

/// The labels of everything the operator makes, and `more`.
fn labels(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    [(names::MANAGED_BY, names::MANAGER), (names::PART_OF, "lakehouse")]
        .iter()
        .chain(more)
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// A reference to the controlling owner of one of our kinds.
fn owner(kind: &str, name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: format!("{}/{}", lakehouse_api::GROUP, lakehouse_api::VERSION),
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        // Deleting the owner with --cascade=foreground waits for what it owns; that needs a right on finalizers we do not want.
        block_owner_deletion: None,
    }
}

/// Whether the object with this metadata is controlled by the owner with this UID.
pub fn is_owned_by(metadata: &ObjectMeta, uid: &str) -> bool {
    metadata.owner_references.iter().flatten().any(|o| o.controller == Some(true) && o.uid == uid)
}
