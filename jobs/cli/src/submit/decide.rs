//! Whether a run is made or adopted: a pure function of the runs that exist and of what is asked for.
//!
//! | newest run of the submission | then |
//! |---|---|
//! | none | the first is made |
//! | not finished | it is adopted; with another spec than asked for: an error |
//! | succeeded, with our key | its outcome is ours, nothing is executed, even while somebody deletes it |
//! | succeeded, with another key or none | the next is made |
//! | failed | the next is made, as a retry of it |
//! | cancelled, or being cancelled or deleted before it ended | the next is made |

use std::collections::BTreeMap;

use kube::ResourceExt;
use lakehouse_api::{
    LakehouseRun,
    run::{RunInterval, RunState},
};
use lakehouse_contract::Stage;
use serde::Serialize;

use super::{
    naming::{KEY, ORDINAL, Submission, in_order},
    outcome::{End, end},
};

/// What to do about a submission.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision<'a> {
    /// Make a run.
    Create {
        /// Its number.
        ordinal: u32,
        /// The failed run before it.
        retry_of: Option<String>,
    },
    /// Go on with this run, which is not finished.
    Adopt(&'a LakehouseRun),
    /// This run has done it already.
    Finished(&'a LakehouseRun),
    /// A run that would have to be adopted was asked for something else.
    Conflict(Conflict),
}

/// A field in which a run differs from what is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("run {run}: spec.{field} is {there}, asked for is {asked}: let it end or cancel it, or ask with another --scope")]
pub struct Conflict {
    /// Name of the run.
    pub run: String,
    /// Path within the spec.
    pub field: String,
    /// The run's value, as JSON.
    pub there: String,
    /// The value asked for, as JSON.
    pub asked: String,
}

/// Decides about `asked`; `runs` are those with its label.
pub fn decide<'a>(runs: &'a [LakehouseRun], asked: &Submission) -> Decision<'a> {
    let Some(newest) = runs.iter().max_by_key(|run| ordinal(run)) else {
        return Decision::Create { ordinal: 1, retry_of: None };
    };
    let next = |retry_of| Decision::Create { ordinal: ordinal(newest).saturating_add(1), retry_of };
    let adopted = |decision| conflict(newest, asked).map_or(decision, Decision::Conflict);
    match end(newest) {
        None if newest.spec.state == RunState::Cancelled || newest.metadata.deletion_timestamp.is_some() => next(None),
        None => adopted(Decision::Adopt(newest)),
        Some(End::Succeeded) if asked.key.is_some() && newest.annotations().get(KEY) == asked.key.as_ref() => {
            adopted(Decision::Finished(newest))
        }
        Some(End::Failed) => next(Some(newest.name_any())),
        Some(End::Succeeded | End::Cancelled) => next(None),
    }
}

/// Number of a run; 0 where the label is missing or is none.
fn ordinal(run: &LakehouseRun) -> u32 {
    run.labels().get(ORDINAL).and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn or_absent(value: Option<&impl Serialize>) -> String {
    value.map_or_else(|| "absent".to_owned(), json)
}

/// The first field in which `run` is not what is asked for. Pipeline, interval and stages are in the label too; a digest proves nothing.
fn conflict(run: &LakehouseRun, asked: &Submission) -> Option<Conflict> {
    let spec = &run.spec;
    let differs = |field: &str, there: String, asked: String| {
        (there != asked).then(|| Conflict { run: run.name_any(), field: field.to_owned(), there, asked })
    };
    let stages: Vec<Stage> = in_order(spec.stages.as_deref().unwrap_or_default());
    differs("pipeline", json(&spec.pipeline), json(&asked.pipeline))
        .or_else(|| differs("interval", json(&spec.interval), json(&RunInterval::from(asked.interval))))
        .or_else(|| differs("stages", json(&stages), json(&asked.stages)))
        .or_else(|| parameter(&spec.parameters, &asked.parameters).and_then(|(name, there, asked)| differs(&name, there, asked)))
        .or_else(|| differs("inputsFrom", or_absent(spec.inputs_from.as_ref()), or_absent(asked.inputs_from.as_ref())))
        .or_else(|| differs("refresh", or_absent(spec.refresh.as_ref()), or_absent(asked.refresh.as_ref())))
}

/// The first parameter that differs: path, value there, value asked for.
fn parameter(there: &BTreeMap<String, String>, asked: &BTreeMap<String, String>) -> Option<(String, String, String)> {
    let name = there.keys().chain(asked.keys()).find(|name| there.get(*name) != asked.get(*name))?;
    Some((format!("parameters.{name}"), or_absent(there.get(name)), or_absent(asked.get(name))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lakehouse_contract::{Interval, IntervalGrain};
    use serde_json::json;

    fn asked(key: Option<&str>) -> Submission {
        Submission {
            pipeline: "crypto".to_owned(),
            grain: IntervalGrain::Daily,
            interval: Interval::parse(IntervalGrain::Daily, "2024-06-22").unwrap(),
            stages: in_order(&[Stage::Silver]),
            scope: None,
            key: key.map(str::to_owned),
            parameters: BTreeMap::from([("limit".to_owned(), "5".to_owned())]),
            inputs_from: None,
            refresh: None,
        }
    }

    /// The run with this ordinal, made with `key`, whose condition has this status and reason.
    fn run(ordinal: u32, key: Option<&str>, status: &str, reason: &str) -> LakehouseRun {
        let mut run = asked(key).run(ordinal, None);
        let condition =
            json!({"type": "Succeeded", "status": status, "reason": reason, "message": "", "lastTransitionTime": "2024-06-23T00:00:00Z"});
        run.status = Some(serde_json::from_value(json!({"conditions": [condition]})).unwrap());
        run
    }

    fn made(ordinal: u32, retry_of: Option<&str>) -> Decision<'static> {
        Decision::Create { ordinal, retry_of: retry_of.map(str::to_owned) }
    }

    #[test]
    fn the_first_run_is_made() {
        assert_eq!(decide(&[], &asked(None)), made(1, None));
    }

    #[test]
    fn an_unfinished_run_is_adopted_whatever_its_key() {
        let fresh = [asked(Some("a")).run(1, None)];
        assert_eq!(decide(&fresh, &asked(Some("b"))), Decision::Adopt(&fresh[0]));
        let running = [run(1, None, "Unknown", "Running")];
        assert_eq!(decide(&running, &asked(None)), Decision::Adopt(&running[0]));
        let mut suspended = [running[0].clone()];
        suspended[0].spec.state = RunState::Suspended;
        assert_eq!(decide(&suspended, &asked(None)), Decision::Adopt(&suspended[0]));
    }

    #[test]
    fn what_succeeded_with_our_key_is_done() {
        let done = [run(3, Some("a"), "True", "Completed")];
        assert_eq!(decide(&done, &asked(Some("a"))), Decision::Finished(&done[0]));
        assert_eq!(decide(&done, &asked(Some("b"))), made(4, None));
        assert_eq!(decide(&done, &asked(None)), made(4, None));
        let mut deleted = [done[0].clone()];
        deleted[0].metadata.deletion_timestamp = Some(serde_json::from_value(json!("2024-06-24T00:00:00Z")).unwrap());
        assert_eq!(decide(&deleted, &asked(Some("a"))), Decision::Finished(&deleted[0]));
        let keyless = [run(3, None, "True", "Completed")];
        assert_eq!(decide(&keyless, &asked(None)), made(4, None));
    }

    #[test]
    fn a_failed_run_is_retried_and_a_cancelled_one_made_anew() {
        let failed = [run(1, Some("a"), "False", "StoreUnavailable")];
        assert_eq!(decide(&failed, &asked(Some("a"))), made(2, Some("crypto-2024-06-22-silver-1")));
        assert_eq!(decide(&[run(1, Some("a"), "False", "Cancelled")], &asked(Some("a"))), made(2, None));
        let mut ending = run(1, None, "Unknown", "Running");
        ending.spec.state = RunState::Cancelled;
        assert_eq!(decide(&[ending], &asked(None)), made(2, None));
        let mut going = run(1, None, "Unknown", "Running");
        going.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2024-06-23T00:00:00Z")).unwrap());
        assert_eq!(decide(&[going], &asked(None)), made(2, None));
    }

    #[test]
    fn the_highest_number_counts_not_the_last_in_the_list() {
        let runs = [run(10, None, "False", "Cancelled"), run(9, None, "Unknown", "Running"), run(2, None, "Unknown", "Running")];
        assert_eq!(decide(&runs, &asked(None)), made(11, None));
    }

    #[test]
    fn another_spec_is_named() {
        let conflict = |change: fn(&mut LakehouseRun)| {
            let mut runs = [run(1, Some("a"), "Unknown", "Running"), run(2, Some("a"), "True", "Completed")];
            runs.iter_mut().for_each(change);
            let texts: Vec<String> = [&runs[..1], &runs[1..]]
                .map(|runs| match decide(runs, &asked(Some("a"))) {
                    Decision::Conflict(conflict) => conflict.to_string(),
                    other => panic!("{other:?}"),
                })
                .to_vec();
            assert_eq!(texts[0].replace("silver-1", "silver-2"), texts[1]);
            texts[0].split(": let it end").next().unwrap().to_owned()
        };
        let name = "run crypto-2024-06-22-silver-1: spec";
        let other = conflict(|run| drop(run.spec.parameters.insert("limit".to_owned(), "7".to_owned())));
        assert_eq!(other, format!("{name}.parameters.limit is \"7\", asked for is \"5\""));
        assert_eq!(conflict(|run| run.spec.parameters.clear()), format!("{name}.parameters.limit is absent, asked for is \"5\""));
        let inputs = conflict(|run| run.spec.inputs_from = Some("x".to_owned()));
        assert_eq!(inputs, format!("{name}.inputsFrom is \"x\", asked for is absent"));
        let refresh = conflict(|run| run.spec.refresh = Some(lakehouse_contract::Refresh::Stale));
        assert_eq!(refresh, format!("{name}.refresh is \"Stale\", asked for is absent"));
        let stages = conflict(|run| run.spec.stages = None);
        assert_eq!(stages, format!("{name}.stages is [\"ingest\",\"silver\",\"gold\"], asked for is [\"silver\"]"));
        assert!(conflict(|run| run.spec.pipeline = "other".to_owned()).contains("spec.pipeline is \"other\""));
        assert!(conflict(|run| run.spec.interval.end = run.spec.interval.start).contains("spec.interval is "));
    }
}
