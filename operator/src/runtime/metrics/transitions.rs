//! What happened between two statuses of a run: pure.

use lakehouse_api::{
    common::{FailureClass, Stage},
    run::{LakehouseRunStatus, StageState, StageStatus},
};

use crate::plan::status::{finished, phase, succeeded};

/// Something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    /// A stage ended; the amount is its duration in seconds.
    StageEnded { stage: &'static str, outcome: &'static str },
    /// Rows of a stage that ended.
    Rows { layer: &'static str, kind: &'static str },
    /// An attempt was followed by another one.
    Retried { stage: &'static str, class: &'static str },
    /// A run ended.
    RunEnded { outcome: &'static str },
}

/// Outcomes of stages.
const STAGE_OUTCOMES: [&str; 2] = ["succeeded", "failed"];
/// Outcomes of runs.
const RUN_OUTCOMES: [&str; 3] = ["succeeded", "failed", "cancelled"];
/// Classes of failures that another attempt follows.
const CLASSES: [FailureClass; 5] =
    [FailureClass::Retryable, FailureClass::Unexpected, FailureClass::OutOfMemory, FailureClass::Timeout, FailureClass::Disruption];
/// What becomes of rows.
const KINDS: [&str; 5] = ["read", "written", "quarantined", "deduplicated", "dropped"];

impl Transition {
    /// All there can be.
    pub(super) fn possible() -> Vec<Self> {
        let mut all: Vec<Self> = RUN_OUTCOMES.into_iter().map(|outcome| Self::RunEnded { outcome }).collect();
        for stage in Stage::ALL {
            all.extend(STAGE_OUTCOMES.into_iter().map(|outcome| Self::StageEnded { stage: stage.as_str(), outcome }));
            all.extend(CLASSES.into_iter().map(|class| Self::Retried { stage: stage.as_str(), class: class.as_str() }));
            if let Some(layer) = layer(stage) {
                all.extend(KINDS.into_iter().map(|kind| Self::Rows { layer, kind }));
            }
        }
        all
    }
}

/// The layer whose rows a stage counts; maintenance has none.
const fn layer(stage: Stage) -> Option<&'static str> {
    match stage {
        Stage::Ingest => Some("bronze"),
        Stage::Silver => Some("silver"),
        Stage::Gold => Some("gold"),
        Stage::Maintenance => None,
    }
}

/// What happened between `before` and `after`, each with its amount.
pub(super) fn between(before: Option<&LakehouseRunStatus>, after: &LakehouseRunStatus) -> Vec<(Transition, f64)> {
    let mut all = Vec::new();
    for stage in &after.stages {
        let known = before.and_then(|status| status.stages.iter().find(|known| known.name == stage.name));
        if has_ended(stage) && !known.is_some_and(has_ended) {
            all.extend(ended(stage));
        }
        all.extend(known.into_iter().flat_map(|known| retried(known, stage)));
    }
    if finished(after) && !before.is_some_and(finished) {
        let outcome = match phase(after) {
            _ if succeeded(after) => "succeeded",
            "Cancelled" => "cancelled",
            _ => "failed",
        };
        all.push((Transition::RunEnded { outcome }, 1.0));
    }
    all
}

fn has_ended(stage: &StageStatus) -> bool {
    matches!(stage.state, StageState::Succeeded | StageState::Failed)
}

fn ended(stage: &StageStatus) -> Vec<(Transition, f64)> {
    let mut all = Vec::new();
    if let (Some(start), Some(end)) = (stage.started_at, stage.finished_at) {
        let outcome = if stage.state == StageState::Succeeded { "succeeded" } else { "failed" };
        let seconds = (end - start).num_milliseconds().max(0) as f64 / 1000.0;
        all.push((Transition::StageEnded { stage: stage.name.as_str(), outcome }, seconds));
    }
    if let Some(layer) = layer(stage.name) {
        let counts = [stage.rows_read, stage.rows_written, stage.rows_quarantined, stage.rows_deduplicated, stage.rows_dropped];
        let counted = KINDS.into_iter().zip(counts).filter(|(_, rows)| *rows > 0);
        all.extend(counted.map(|(kind, rows)| (Transition::Rows { layer, kind }, rows as f64)));
    }
    all
}

/// Attempts that ended and are followed by another one, by class of failure; one whose Job or report was lost counts as a disruption.
fn retried(before: &StageStatus, after: &StageStatus) -> Vec<(Transition, f64)> {
    let stage = after.name.as_str();
    let lost = (FailureClass::Disruption, after.lost - before.lost);
    let counted = after.retries.iter().map(|now| {
        let known = before.retries.iter().find(|known| known.class == now.class).map_or(0, |known| known.count);
        (now.class, now.count - known)
    });
    let news = counted.chain([lost]).filter(|(_, count)| *count > 0);
    news.map(|(class, count)| (Transition::Retried { stage, class: class.as_str() }, f64::from(count))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn status(stages: Value, end: Option<(&str, &str)>) -> LakehouseRunStatus {
        let conditions: Vec<Value> = end
            .map(|(status, reason)| json!({"type": "Succeeded", "status": status, "reason": reason, "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z"}))
            .into_iter()
            .collect();
        serde_json::from_value(json!({"conditions": conditions, "stages": stages})).expect("it is a status")
    }

    #[test]
    fn an_end_is_counted_once_with_its_rows() {
        let running = status(json!([{"name": "silver", "state": "Running", "attempt": 1}]), None);
        let silver = json!([{"name": "silver", "state": "Succeeded", "attempt": 1, "startedAt": "2024-01-01T00:00:00Z",
            "finishedAt": "2024-01-01T00:01:30Z", "rowsRead": 10, "rowsWritten": 9, "rowsQuarantined": 1}]);
        let done = status(silver, Some(("True", "Completed")));
        let expected = vec![
            (Transition::StageEnded { stage: "silver", outcome: "succeeded" }, 90.0),
            (Transition::Rows { layer: "silver", kind: "read" }, 10.0),
            (Transition::Rows { layer: "silver", kind: "written" }, 9.0),
            (Transition::Rows { layer: "silver", kind: "quarantined" }, 1.0),
            (Transition::RunEnded { outcome: "succeeded" }, 1.0),
        ];
        assert_eq!(between(Some(&running), &done), expected);
        assert!(expected.iter().all(|(transition, _)| Transition::possible().contains(transition)));
        assert_eq!(between(Some(&done), &done), Vec::new());
    }

    #[test]
    fn a_retry_has_the_class_of_the_failure_before_it() {
        let running = status(json!([{"name": "gold", "state": "Running", "attempt": 1}]), None);
        for class in CLASSES {
            let retries = json!([{"class": class, "count": 1, "limit": 3}]);
            let waits = json!([{"name": "gold", "state": "Pending", "attempt": 1, "retryAt": "2024-01-01T00:00:00Z", "retries": retries}]);
            let waits = status(waits, None);
            assert_eq!(between(Some(&running), &waits), vec![(Transition::Retried { stage: "gold", class: class.as_str() }, 1.0)]);
            assert_eq!(between(Some(&waits), &waits), Vec::new());
        }
        let lost = status(json!([{"name": "gold", "state": "Pending", "attempt": 2, "lost": 1, "job": "j", "reason": "JobLost"}]), None);
        assert_eq!(between(Some(&running), &lost), vec![(Transition::Retried { stage: "gold", class: "Disruption" }, 1.0)]);
    }

    #[test]
    fn runs_end_in_three_ways() {
        for (end, outcome) in
            [(("True", "Completed"), "succeeded"), (("False", "Cancelled"), "cancelled"), (("False", "InvalidRun"), "failed")]
        {
            assert_eq!(between(None, &status(json!([]), Some(end))), vec![(Transition::RunEnded { outcome }, 1.0)]);
        }
    }
}
