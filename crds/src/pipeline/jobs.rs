//! Settings of the Jobs that run the stages. Typed fields only: no pod template passes through.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{FailureClass, HumanDuration, Stage};

use super::retries::{ClassLimits, RetryPolicy};

/// Settings for all stages, with overrides per stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct JobSettings {
    /// Attempts after the first one that ended with a retryable or unforeseen failure; default 3. `retryPolicy` says more, per class of failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 20))]
    pub retries: Option<i32>,
    /// Wait before the second attempt, doubled for each further one, at most 10m; up to half as much again is added, so that many runs do not come back at once. Default 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<HumanDuration>,
    /// Longest time one attempt may take; default 1h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
    /// How long a pod may take to start: its image to be pulled, a node to be found. Then the stage fails and says what was missing; default 15m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_deadline: Option<HumanDuration>,
    /// Retries and waits per class of failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<RetryPolicy>,
    /// CPU and memory of the stage's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// How long a finished Job is kept, with its pod and that one's log; default 24h. Less than that counts from when its outcome is in the run's status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_after_finished: Option<HumanDuration>,
    /// Overrides for ingest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingest: Option<StageSettings>,
    /// Overrides for silver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silver: Option<StageSettings>,
    /// Overrides for gold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gold: Option<StageSettings>,
    /// Overrides for maintenance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<StageSettings>,
}

/// Overrides for one stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StageSettings {
    /// As `jobs.retries`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 20))]
    pub retries: Option<i32>,
    /// As `jobs.backoff`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<HumanDuration>,
    /// As `jobs.timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
    /// As `jobs.startDeadline`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_deadline: Option<HumanDuration>,
    /// As `jobs.retryPolicy`; what a class leaves out is that of `jobs.retryPolicy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<RetryPolicy>,
    /// As `jobs.resources`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

/// CPU and memory, as Kubernetes quantities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(!has(self.requests) || self.requests.all(k, k == 'cpu' || k == 'memory')) && (!has(self.limits) || self.limits.all(k, k == 'cpu' || k == 'memory'))").message("resources have the keys cpu and memory"))]
pub struct Resources {
    /// What the scheduler reserves, keys `cpu` and `memory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 4))]
    pub requests: BTreeMap<String, String>,
    /// What the container may use at most, keys `cpu` and `memory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 4))]
    pub limits: BTreeMap<String, String>,
}

/// The settings of one stage with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveSettings {
    /// Attempts after the first.
    pub retries: i32,
    /// Wait before the second attempt.
    pub backoff: HumanDuration,
    /// Longest time of one attempt.
    pub timeout: HumanDuration,
    /// Longest time until the pod starts.
    pub start_deadline: HumanDuration,
    /// CPU and memory; empty: the operator's defaults.
    pub resources: Resources,
    /// How long a finished Job is kept.
    pub ttl_after_finished: HumanDuration,
}

impl JobSettings {
    fn own(&self, stage: Stage) -> Option<&StageSettings> {
        match stage {
            Stage::Ingest => self.ingest.as_ref(),
            Stage::Silver => self.silver.as_ref(),
            Stage::Gold => self.gold.as_ref(),
            Stage::Maintenance => self.maintenance.as_ref(),
        }
    }

    /// How often and after which wait an attempt of `stage` that ended with a failure of `class` is followed by another one: what the stage's
    /// `retryPolicy` says of the class, else the pipeline's, else `retries` and `backoff`. Nothing for classes that are never retried.
    pub fn limits(&self, stage: Stage, class: FailureClass) -> Option<ClassLimits> {
        let EffectiveSettings { retries, backoff, .. } = self.effective(stage);
        let mut limits = ClassLimits::default_of(class, retries, backoff)?;
        let policies = [self.retry_policy.as_ref(), self.own(stage).and_then(|own| own.retry_policy.as_ref())];
        for given in policies.into_iter().flatten().filter_map(|policy| policy.class(class)) {
            limits.retries = given.retries.unwrap_or(limits.retries);
            limits.backoff = given.backoff.unwrap_or(limits.backoff);
            limits.max_backoff = given.max_backoff.unwrap_or(limits.max_backoff);
        }
        Some(limits)
    }

    /// The settings that hold for `stage`: the stage's override, else the pipeline's value, else the default.
    pub fn effective(&self, stage: Stage) -> EffectiveSettings {
        let own = self.own(stage);
        EffectiveSettings {
            retries: own.and_then(|s| s.retries).or(self.retries).unwrap_or(3),
            backoff: own.and_then(|s| s.backoff).or(self.backoff).unwrap_or(HumanDuration::seconds(30)),
            timeout: own.and_then(|s| s.timeout).or(self.timeout).unwrap_or(HumanDuration::seconds(3_600)),
            start_deadline: own.and_then(|s| s.start_deadline).or(self.start_deadline).unwrap_or(HumanDuration::seconds(900)),
            resources: own.and_then(|s| s.resources.clone()).or_else(|| self.resources.clone()).unwrap_or_default(),
            ttl_after_finished: self.ttl_after_finished.unwrap_or(HumanDuration::seconds(86_400)),
        }
    }
}
