//! Classes of failure, and how often an attempt that ended with one is followed by another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{FailureClass, HumanDuration};

/// Retries and waits per class of failure. What is left out has the default of its class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryPolicy {
    /// Store, catalog or source did not answer; default `jobs.retries` and `jobs.backoff`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retryable: Option<ClassPolicy>,
    /// Something unforeseen; default `jobs.retries` and `jobs.backoff`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unexpected: Option<ClassPolicy>,
    /// Memory or disk ran out; default one retry (none with `jobs.retries: 0`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_of_memory: Option<ClassPolicy>,
    /// Not done within `jobs.timeout`; default one retry (none with `jobs.retries: 0`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<ClassPolicy>,
    /// The cluster took the pod away; default 10 retries, 10s, at most 5m. They do not count against `jobs.retries`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disruption: Option<ClassPolicy>,
}

/// Retries and waits of one class of failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClassPolicy {
    /// How often a failure of this class is followed by another attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub retries: Option<i32>,
    /// Wait before the first of them, doubled for each further one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<HumanDuration>,
    /// Longest wait, before jitter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_backoff: Option<HumanDuration>,
}

impl RetryPolicy {
    /// What is said of `class`.
    pub fn class(&self, class: FailureClass) -> Option<&ClassPolicy> {
        match class {
            FailureClass::Retryable => self.retryable.as_ref(),
            FailureClass::Unexpected => self.unexpected.as_ref(),
            FailureClass::OutOfMemory => self.out_of_memory.as_ref(),
            FailureClass::Timeout => self.timeout.as_ref(),
            FailureClass::Disruption => self.disruption.as_ref(),
            FailureClass::NotStarted | FailureClass::Terminal => None,
        }
    }
}

/// Retries and waits of one class with every default filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassLimits {
    /// Attempts after failures of the class.
    pub retries: i32,
    /// Wait before the first of them.
    pub backoff: HumanDuration,
    /// Longest wait, before jitter.
    pub max_backoff: HumanDuration,
}

impl ClassLimits {
    /// The limits where no policy says more; `retries` and `backoff` are those of the stage. Nothing for classes that are never retried.
    pub fn default_of(class: FailureClass, retries: i32, backoff: HumanDuration) -> Option<Self> {
        let max_backoff = HumanDuration::seconds(600);
        match class {
            FailureClass::Retryable | FailureClass::Unexpected => Some(Self { retries, backoff, max_backoff }),
            // The same work with the same limits most likely ends the same: one more attempt tells.
            FailureClass::OutOfMemory | FailureClass::Timeout => Some(Self { retries: retries.min(1), backoff, max_backoff }),
            // Not the job's doing, and over soon; bounded, so that a pod that is evicted for ever is noticed.
            FailureClass::Disruption => {
                Some(Self { retries: 10, backoff: HumanDuration::seconds(10), max_backoff: HumanDuration::seconds(300) })
            }
            FailureClass::NotStarted | FailureClass::Terminal => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{common::Stage, pipeline::JobSettings};

    fn settings(value: serde_json::Value) -> JobSettings {
        serde_json::from_value(value).unwrap()
    }

    fn limits(settings: &JobSettings, stage: Stage, class: FailureClass) -> (i32, String, String) {
        let limits = settings.limits(stage, class).unwrap();
        (limits.retries, limits.backoff.to_string(), limits.max_backoff.to_string())
    }

    #[test]
    fn the_nearest_setting_holds() {
        use FailureClass::{Disruption, NotStarted, OutOfMemory, Retryable, Terminal, Timeout, Unexpected};
        let none = JobSettings::default();
        assert_eq!(limits(&none, Stage::Silver, Retryable), (3, "30s".into(), "10m".into()));
        assert_eq!(limits(&none, Stage::Silver, Timeout), (1, "30s".into(), "10m".into()));
        assert_eq!(limits(&none, Stage::Silver, Disruption), (10, "10s".into(), "5m".into()));
        assert_eq!(none.limits(Stage::Silver, Terminal), None);
        assert_eq!(none.limits(Stage::Silver, NotStarted), None);
        let never = settings(serde_json::json!({"retries": 0}));
        assert_eq!(limits(&never, Stage::Gold, OutOfMemory).0, 0);
        assert_eq!(limits(&never, Stage::Gold, Disruption).0, 10, "a disruption is no failure of the job");
        let both = settings(serde_json::json!({
            "retries": 5, "backoff": "1m",
            "retryPolicy": {"retryable": {"retries": 7, "maxBackoff": "20m"}, "outOfMemory": {"retries": 2}},
            "silver": {"retries": 2, "retryPolicy": {"retryable": {"backoff": "5s"}}}
        }));
        assert_eq!(limits(&both, Stage::Silver, Retryable), (7, "5s".into(), "20m".into()));
        assert_eq!(limits(&both, Stage::Silver, Unexpected), (2, "1m".into(), "10m".into()));
        assert_eq!(limits(&both, Stage::Gold, Retryable), (7, "1m".into(), "20m".into()));
        assert_eq!(limits(&both, Stage::Gold, OutOfMemory), (2, "1m".into(), "10m".into()));
    }

    #[test]
    fn classes_are_written_as_they_are_called() {
        for class in [FailureClass::OutOfMemory, FailureClass::NotStarted, FailureClass::Disruption] {
            assert_eq!(serde_json::to_value(class).unwrap(), class.as_str());
        }
    }
}
