//! How a run ended: the outcome that is handed on, and the one line about a failure.

use kube::ResourceExt;
use lakehouse_api::{
    LakehouseRun,
    run::{LakehouseRunStatus, RunInterval, StageState, StageStatus, TableStatus},
};
use lakehouse_contract::interval::rfc3339;
use serde::Serialize;
use serde_json::{Value, json};

/// Type of the condition that says how a run stands.
const SUCCEEDED: &str = "Succeeded";
/// Reason of that condition for a run that was cancelled.
const CANCELLED: &str = "Cancelled";

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum End {
    /// Every stage succeeded.
    Succeeded,
    /// A stage failed, or the run was refused.
    Failed,
    /// It was told to stop.
    Cancelled,
}

/// Reason and message of the condition `Succeeded`; `Pending` before there is one.
pub fn phase(status: &LakehouseRunStatus) -> (&str, &str) {
    let condition = status.conditions.iter().find(|condition| condition.type_ == SUCCEEDED);
    condition.map_or(("Pending", "waits for the operator"), |condition| (condition.reason.as_str(), condition.message.as_str()))
}

/// How `run` ended; nothing while it has not.
pub fn end(run: &LakehouseRun) -> Option<End> {
    let condition = run.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == SUCCEEDED)?;
    match condition.status.as_str() {
        "True" => Some(End::Succeeded),
        "False" if condition.reason == CANCELLED => Some(End::Cancelled),
        "False" => Some(End::Failed),
        _ => None,
    }
}

/// An interval as the outcome and progress lines show it.
pub fn span(interval: &RunInterval) -> Value {
    json!({"start": rfc3339(interval.start), "end": rfc3339(interval.end)})
}

/// What a run did, for whoever waited for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Name of the run.
    pub run: String,
    /// Name of its pipeline.
    pub pipeline: String,
    /// Start and end.
    pub interval: Value,
    /// How it ended.
    pub outcome: End,
    /// One word.
    pub reason: String,
    /// The line a person reads.
    pub message: String,
    /// Rows read by silver, or by the last stage.
    pub rows_read: i64,
    /// Rows written by it.
    pub rows_written: i64,
    /// Rows put into quarantine by it.
    pub rows_quarantined: i64,
    /// The run's stages, as in its status.
    pub stages: Vec<StageStatus>,
    /// All tables that were committed to.
    pub tables: Vec<TableStatus>,
}

impl Outcome {
    /// The outcome of `run`; nothing while it has none.
    pub fn of(run: &LakehouseRun) -> Option<Self> {
        let (outcome, status) = (end(run)?, run.status.as_ref()?);
        let (reason, message) = phase(status);
        Some(Self {
            run: run.name_any(),
            pipeline: run.spec.pipeline.clone(),
            interval: span(&run.spec.interval),
            outcome,
            reason: reason.to_owned(),
            message: message.to_owned(),
            rows_read: status.rows_read,
            rows_written: status.rows_written,
            rows_quarantined: status.rows_quarantined,
            stages: status.stages.clone(),
            tables: status.stages.iter().flat_map(|stage| stage.tables.clone()).collect(),
        })
    }

    /// The line about a run that did not succeed.
    pub fn failure(&self) -> Option<String> {
        if self.outcome == End::Succeeded {
            return None;
        }
        let Some(stage) = self.stages.iter().find(|stage| stage.state == StageState::Failed) else {
            return Some(one_line(&format!("run {} failed: {}: {}", self.run, self.reason, self.message)));
        };
        let reason = stage.reason.as_deref().unwrap_or(&self.reason);
        let message = stage.message.as_deref().unwrap_or(&self.message);
        let report = stage.report.as_ref().map(|uri| format!(" (report {uri})")).unwrap_or_default();
        Some(one_line(&format!("run {}: stage {} failed: {reason}: {message}{report}", self.run, stage.name)))
    }
}

/// `text` without line breaks.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(status: &str, reason: &str, stages: Value) -> LakehouseRun {
        let condition = json!({"type": "Succeeded", "status": status, "reason": reason, "message": "in\nwords", "lastTransitionTime": "2024-06-23T00:00:00Z"});
        serde_json::from_value(json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseRun", "metadata": {"name": "pulse-1"},
            "spec": {"pipeline": "pulse", "interval": {"start": "2024-06-22T00:00:00Z", "end": "2024-06-23T00:00:00Z"}},
            "status": {"conditions": [condition], "rowsRead": 3, "rowsWritten": 2, "rowsQuarantined": 1, "stages": stages},
        }))
        .unwrap()
    }

    #[test]
    fn an_unfinished_run_has_no_outcome() {
        assert_eq!(Outcome::of(&run("Unknown", "Running", json!([]))), None);
        let mut fresh = run("Unknown", "Running", json!([]));
        fresh.status = None;
        assert_eq!(Outcome::of(&fresh), None);
        assert_eq!(phase(&LakehouseRunStatus::default()), ("Pending", "waits for the operator"));
    }

    #[test]
    fn an_outcome_has_stages_and_their_tables() {
        let stages = json!([
            {"name": "ingest", "state": "Succeeded", "rowsWritten": 3},
            {"name": "silver", "state": "Succeeded", "tables": [{"name": "silver.pulses", "snapshot": "7", "rowsWritten": 2}]},
        ]);
        let outcome = Outcome::of(&run("True", "Completed", stages)).unwrap();
        assert_eq!(outcome.failure(), None);
        let json = serde_json::to_value(&outcome).unwrap();
        assert_eq!(json["outcome"], "Succeeded");
        assert_eq!(json["interval"], json!({"start": "2024-06-22T00:00:00Z", "end": "2024-06-23T00:00:00Z"}));
        assert_eq!((&json["rowsRead"], &json["rowsWritten"], &json["rowsQuarantined"]), (&json!(3), &json!(2), &json!(1)));
        assert_eq!(json["tables"], json!([{"name": "silver.pulses", "snapshot": "7", "rowsWritten": 2}]));
        assert_eq!(json["stages"][0]["name"], "ingest");
    }

    #[test]
    fn a_failure_is_one_line_that_names_the_stage() {
        let silver =
            json!({"name": "silver", "state": "Failed", "reason": "CastFailed", "message": "row\n7", "report": "s3://silver/r.json"});
        let failed = run("False", "CastFailed", json!([{"name": "ingest", "state": "Succeeded"}, silver]));
        let line = Outcome::of(&failed).unwrap().failure().unwrap();
        assert_eq!(line, "run pulse-1: stage silver failed: CastFailed: row 7 (report s3://silver/r.json)");
        let refused = Outcome::of(&run("False", "InvalidRun", json!([]))).unwrap();
        assert_eq!((refused.outcome, refused.failure().unwrap().as_str()), (End::Failed, "run pulse-1 failed: InvalidRun: in words"));
        let cancelled = run("False", "Cancelled", json!([{"name": "ingest", "state": "Failed", "reason": "Cancelled"}]));
        let cancelled = Outcome::of(&cancelled).unwrap();
        assert_eq!(
            (cancelled.outcome, cancelled.failure().unwrap().as_str()),
            (End::Cancelled, "run pulse-1: stage ingest failed: Cancelled: in words")
        );
    }
}
