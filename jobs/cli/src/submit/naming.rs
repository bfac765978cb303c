//! What is asked for, and the name and labels of the runs that answer it.
//!
//! The Airflow package derives the very same ones: `tests/vectors/run-names.json` holds examples that both sides are tested with.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lakehouse_api::{LakehouseRun, LakehouseRunSpec, run::RunState};
use lakehouse_contract::{
    Interval, IntervalGrain, Refresh, Stage,
    interval::rfc3339,
    names::{LONGEST, PIPELINE_LABEL, cut},
};
use lakehouse_storage::sha256;

/// Label: digest of what is asked for; equal on all runs that were made for the same.
pub const SUBMISSION: &str = "lakehouse.rs/submission";
/// Label: number of the run among those, from 1.
pub const ORDINAL: &str = "lakehouse.rs/ordinal";
/// Annotation: the idempotency key with which the run was made.
pub const KEY: &str = "lakehouse.rs/submission-key";

/// One pipeline, one interval, some stages. Equal submissions are the same work, whoever asks and how often.
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    /// Pipeline name.
    pub pipeline: String,
    /// Its grain.
    pub grain: IntervalGrain,
    /// The interval of data.
    pub interval: Interval,
    /// The stages, see [`in_order`].
    pub stages: Vec<Stage>,
    /// Sets apart those who ask.
    pub scope: Option<String>,
    /// Idempotency key: the same key never executes twice what has succeeded.
    pub key: Option<String>,
    /// Values of parameters.
    pub parameters: BTreeMap<String, String>,
    /// The run whose bronze objects are the input.
    pub inputs_from: Option<String>,
    /// Which intervals gold computes beside this one.
    pub refresh: Option<Refresh>,
}

/// The stages asked for, each once and in the order of execution; none asked for means those of [`Stage::DEFAULT`].
pub fn in_order(asked: &[Stage]) -> Vec<Stage> {
    let asked = if asked.is_empty() { &Stage::DEFAULT[..] } else { asked };
    Stage::ALL.into_iter().filter(|stage| asked.contains(stage)).collect()
}

fn hex(text: &str, digits: usize) -> String {
    let mut hex = sha256(text.as_bytes());
    hex.truncate(digits);
    hex
}

fn joined(stages: &[Stage], separator: &str) -> String {
    stages.iter().map(|stage| stage.as_str()).collect::<Vec<_>>().join(separator)
}

impl Submission {
    fn scope_digest(&self) -> String {
        self.scope.as_deref().map(|scope| hex(scope, 8)).unwrap_or_default()
    }

    /// Value of the label [`SUBMISSION`].
    pub fn digest(&self) -> String {
        let (start, end) = (rfc3339(self.interval.start), rfc3339(self.interval.end));
        let stages = joined(&self.stages, ",");
        hex(&[self.pipeline.as_str(), &start, &end, &stages, &self.scope_digest()].join("\n"), 16)
    }

    /// Name of the run with this ordinal: `<pipeline>-<interval>[-<stages>][-<scope>]-<ordinal>`, at most 63 characters.
    pub fn name(&self, ordinal: u32) -> String {
        let mut rest = format!("-{}", self.interval.label(self.grain).to_lowercase());
        if self.stages != Stage::DEFAULT {
            rest.push_str(&format!("-{}", joined(&self.stages, "-")));
        }
        if self.scope.is_some() {
            rest.push_str(&format!("-{}", self.scope_digest()));
        }
        rest.push_str(&format!("-{ordinal}"));
        if self.pipeline.len() + rest.len() <= LONGEST {
            return format!("{}{rest}", self.pipeline);
        }
        let ending = format!("-{}{rest}", hex(&self.pipeline, 6));
        format!("{}{ending}", cut(&self.pipeline, LONGEST.saturating_sub(ending.len())))
    }

    /// The run with this ordinal.
    pub fn run(&self, ordinal: u32, retry_of: Option<String>) -> LakehouseRun {
        let labels = [(PIPELINE_LABEL, self.pipeline.clone()), (SUBMISSION, self.digest()), (ORDINAL, ordinal.to_string())];
        let annotations = self.key.iter().map(|key| (KEY.to_owned(), key.clone())).collect::<BTreeMap<_, _>>();
        LakehouseRun {
            metadata: ObjectMeta {
                name: Some(self.name(ordinal)),
                labels: Some(labels.into_iter().map(|(label, value)| (label.to_owned(), value)).collect()),
                annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
                ..ObjectMeta::default()
            },
            spec: LakehouseRunSpec {
                pipeline: self.pipeline.clone(),
                interval: self.interval.into(),
                stages: (self.stages != Stage::DEFAULT).then(|| self.stages.clone()),
                inputs_from: self.inputs_from.clone(),
                refresh: self.refresh,
                parameters: self.parameters.clone(),
                retry_of,
                state: RunState::Active,
            },
            status: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Vectors {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        what: String,
        pipeline: String,
        grain: IntervalGrain,
        start: String,
        stages: Vec<Stage>,
        scope: String,
        ordinal: u32,
        expected: Expected,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Expected {
        end: String,
        scope_digest: String,
        submission: String,
        name: String,
    }

    fn submission(pipeline: &str, grain: IntervalGrain, start: &str, stages: &[Stage], scope: &str) -> Submission {
        Submission {
            pipeline: pipeline.to_owned(),
            grain,
            interval: Interval::parse(grain, start).unwrap(),
            stages: in_order(stages),
            scope: Some(scope.to_owned()).filter(|scope| !scope.is_empty()),
            key: None,
            parameters: BTreeMap::new(),
            inputs_from: None,
            refresh: None,
        }
    }

    #[test]
    fn names_and_labels_are_those_of_the_vectors() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/run-names.json");
        let vectors: Vectors = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(vectors.cases.len() >= 8);
        for case in vectors.cases {
            let asked = submission(&case.pipeline, case.grain, &case.start, &case.stages, &case.scope);
            let got = (rfc3339(asked.interval.end), asked.scope_digest(), asked.digest(), asked.name(case.ordinal));
            let expected = case.expected;
            assert_eq!(got, (expected.end, expected.scope_digest, expected.submission, expected.name), "{}", case.what);
        }
    }

    #[test]
    fn every_name_fits_and_is_a_dns_name() {
        for pipeline in ["p", &"p".repeat(52), &format!("{}{}", "x".repeat(16), ".y-z".repeat(9))] {
            for grain in [IntervalGrain::Hourly, IntervalGrain::Daily, IntervalGrain::Monthly] {
                for stages in [&[][..], &[Stage::Ingest, Stage::Silver]] {
                    for ordinal in [1, 10, u32::MAX] {
                        let name = submission(pipeline, grain, "2024-06-01T00:00:00Z", stages, "d/r").name(ordinal);
                        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
                        assert!(name.len() <= LONGEST && name.starts_with(plain) && name.ends_with(plain), "{name}");
                        assert!(name.chars().all(|c| plain(c) || c == '-' || c == '.') && !name.contains(".-"), "{name}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_run_says_what_was_asked_for() {
        let mut asked = submission("crypto", IntervalGrain::Daily, "2024-06-22", &[Stage::Gold, Stage::Ingest], "d/r");
        asked.key = Some("d/r/0".to_owned());
        asked.inputs_from = Some("other".to_owned());
        asked.refresh = Some(Refresh::Stale);
        asked.parameters.insert("limit".to_owned(), "5".to_owned());
        let run = serde_json::to_value(asked.run(2, Some("crypto-1".to_owned()))).unwrap();
        assert_eq!(run["metadata"]["name"], asked.name(2));
        assert_eq!(run["metadata"]["annotations"], serde_json::json!({"lakehouse.rs/submission-key": "d/r/0"}));
        assert_eq!(run["metadata"]["labels"]["lakehouse.rs/ordinal"], "2");
        let spec = serde_json::json!({
            "pipeline": "crypto", "interval": {"start": "2024-06-22T00:00:00Z", "end": "2024-06-23T00:00:00Z"}, "stages": ["ingest", "gold"],
            "inputsFrom": "other", "refresh": "Stale", "parameters": {"limit": "5"}, "retryOf": "crypto-1", "state": "Active",
        });
        assert_eq!(run["spec"], spec);
        let all = serde_json::to_value(submission("crypto", IntervalGrain::Daily, "2024-06-22", &Stage::DEFAULT, "").run(1, None)).unwrap();
        assert!(all["spec"].get("stages").is_none() && all["metadata"].get("annotations").is_none());
    }
}
