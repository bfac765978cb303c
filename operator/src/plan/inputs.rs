//! What a run has to do with another one: the run that it retries, and the one whose bronze it reads.

use kube::ResourceExt;
use lakehouse_api::{LakehouseRun, common::Stage, run::StageState};
use lakehouse_contract::RunId;

use super::status::{finished, phase, succeeded};

/// Identity in the store of `run`.
fn id(run: &LakehouseRun) -> RunId {
    RunId::new(&run.name_any(), &run.uid().unwrap_or_default())
}

/// Refuses `other`, named by `field`, where it is not there or not of the pipeline and interval of `run`.
fn sibling<'a>(run: &LakehouseRun, field: &str, name: &str, other: Option<&'a LakehouseRun>) -> Result<&'a LakehouseRun, String> {
    match other {
        None => Err(format!("spec.{field}: there is no LakehouseRun `{name}` in this namespace")),
        Some(other) if other.spec.pipeline != run.spec.pipeline || other.spec.interval != run.spec.interval => {
            Err(format!("spec.{field}: LakehouseRun `{name}` is of another pipeline or interval"))
        }
        Some(other) => Ok(other),
    }
}

/// The run whose bronze `run` reads by its `inputsFrom`.
///
/// # Errors
/// One line for the author of `run` when there is no such run, or it is one of something else.
pub fn pinned(run: &LakehouseRun, name: &str, other: Option<&LakehouseRun>) -> Result<RunId, String> {
    sibling(run, "inputsFrom", name, other).map(id)
}

/// The run whose bronze `run` reads, which retries `original` by its `retryOf`; nothing when it fetches its own, or when `original` had
/// read what was the newest.
///
/// # Errors
/// One line for the author of `run` when there is no such run, it is one of something else, it is still at work or it succeeded.
pub fn retried(run: &LakehouseRun, name: &str, original: Option<&LakehouseRun>) -> Result<Option<RunId>, String> {
    let original = sibling(run, "retryOf", name, original)?;
    let status = original.status.clone().unwrap_or_default();
    if !finished(&status) {
        let phase = phase(&status);
        return Err(format!("spec.retryOf: LakehouseRun `{name}` has not ended ({phase}): cancel it, or wait for its end"));
    }
    if succeeded(&status) {
        return Err(format!("spec.retryOf: LakehouseRun `{name}` succeeded: there is nothing to retry"));
    }
    if run.spec.stages.as_ref().is_none_or(|stages| stages.contains(&Stage::Ingest)) {
        return Ok(None);
    }
    let ingested = status.stages.iter().any(|stage| stage.name == Stage::Ingest && stage.state == StageState::Succeeded);
    Ok(status.inputs_from.map(RunId).or_else(|| ingested.then(|| id(original))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn run(name: &str, spec: Value, status: Value) -> LakehouseRun {
        let mut all = json!({"pipeline": "crypto", "interval": {"start": "2024-01-01T00:00:00Z", "end": "2024-01-02T00:00:00Z"}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseRun",
            "metadata": {"name": name, "uid": "0f0e0d0c-0b0a-4908-8706-050403020100"}, "spec": all, "status": status
        }))
        .unwrap()
    }

    fn ended(status: &str, ingest: &str) -> Value {
        let condition =
            json!({"type": "Succeeded", "status": status, "reason": "R", "message": "", "lastTransitionTime": "2024-01-02T00:00:00Z"});
        json!({"conditions": [condition], "stages": [{"name": "ingest", "state": ingest}, {"name": "silver", "state": "Failed"}]})
    }

    #[test]
    fn a_retry_reads_what_the_failed_run_fetched() {
        let retry = run("b", json!({"retryOf": "a", "stages": ["silver", "gold"]}), Value::Null);
        let failed = run("a", json!({}), ended("False", "Succeeded"));
        assert_eq!(retried(&retry, "a", Some(&failed)), Ok(Some(RunId("a-0f0e0d0c".into()))));
        // It had no bronze of its own, or read that of a third run.
        let halted = run("a", json!({}), ended("False", "Failed"));
        assert_eq!(retried(&retry, "a", Some(&halted)), Ok(None));
        let mut second = failed.clone();
        second.status.as_mut().unwrap().inputs_from = Some("z-11111111".into());
        assert_eq!(retried(&retry, "a", Some(&second)), Ok(Some(RunId("z-11111111".into()))));
        // One that fetches anew reads what it fetches.
        for stages in [json!({"retryOf": "a"}), json!({"retryOf": "a", "stages": ["ingest", "silver"]})] {
            assert_eq!(retried(&run("b", stages, Value::Null), "a", Some(&failed)), Ok(None));
        }
    }

    #[test]
    fn only_a_failed_run_of_the_same_work_is_retried() {
        let retry = run("b", json!({"retryOf": "a", "stages": ["silver"]}), Value::Null);
        let refused = |other: Option<&LakehouseRun>| retried(&retry, "a", other).unwrap_err();
        assert!(refused(None).contains("no LakehouseRun `a`"));
        assert!(
            refused(Some(&run("a", json!({"pipeline": "other"}), ended("False", "Succeeded")))).contains("another pipeline or interval")
        );
        let day = json!({"interval": {"start": "2024-01-02T00:00:00Z", "end": "2024-01-03T00:00:00Z"}});
        assert!(refused(Some(&run("a", day, ended("False", "Succeeded")))).contains("another pipeline or interval"));
        assert!(refused(Some(&run("a", json!({}), ended("True", "Succeeded")))).contains("succeeded"));
        assert!(refused(Some(&run("a", json!({}), ended("Unknown", "Succeeded")))).contains("has not ended (R)"));
        assert!(refused(Some(&run("a", json!({}), json!({})))).contains("has not ended (Pending)"));
    }

    #[test]
    fn inputs_come_from_a_run_of_the_same_work() {
        let replay = run("b", json!({"inputsFrom": "a", "stages": ["silver"]}), Value::Null);
        assert_eq!(pinned(&replay, "a", Some(&run("a", json!({}), json!({})))), Ok(RunId("a-0f0e0d0c".into())));
        assert!(pinned(&replay, "a", None).unwrap_err().starts_with("spec.inputsFrom: there is no"));
        assert!(pinned(&replay, "a", Some(&run("a", json!({"pipeline": "other"}), json!({})))).is_err());
    }
}
