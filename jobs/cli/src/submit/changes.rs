//! What is new between two observations of a run, for a person to read.

use lakehouse_api::run::{LakehouseRunStatus, StageState, StageStatus};
use lakehouse_contract::interval::rfc3339;

use super::outcome::phase;

/// Something that is new.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A stage began, goes on with another attempt, or ended.
    Stage(Box<StageStatus>),
    /// Why nothing happens, or what else the operator says of the run.
    Status {
        /// One word.
        reason: String,
        /// The line a person reads.
        message: String,
    },
}

/// What `after` has that `before` had not. The run's own line is left out where a stage's says the same.
pub fn changes(before: Option<&LakehouseRunStatus>, after: &LakehouseRunStatus) -> Vec<Change> {
    let known = |stage: &StageStatus| before.and_then(|before| before.stages.iter().find(|known| known.name == stage.name));
    let mark = |stage: &StageStatus| (stage.state, stage.attempt, stage.retry_at);
    let begun = |stage: &&StageStatus| stage.state != StageState::Pending || stage.attempt > 0;
    let new = after.stages.iter().filter(begun).filter(|stage| known(stage).map(mark) != Some(mark(stage)));
    let stages: Vec<Change> = new.map(|stage| Change::Stage(Box::new(stage.clone()))).collect();
    let (reason, message) = phase(after);
    if stages.is_empty() && after.finished_at.is_none() && before.map(phase) != Some((reason, message)) {
        return vec![Change::Status { reason: reason.to_owned(), message: message.to_owned() }];
    }
    stages
}

/// Where a stage stands, in words.
pub fn words(stage: &StageStatus) -> String {
    let why = || {
        let (reason, message) = (stage.reason.as_deref().unwrap_or("Unknown"), stage.message.as_deref().unwrap_or_default());
        format!("{reason}: {message}").trim_end_matches([' ', ':']).to_owned()
    };
    match (stage.state, stage.retry_at) {
        (StageState::Pending, Some(time)) => {
            format!("attempt {} failed: {}; the next one begins at {}", stage.attempt, why(), rfc3339(time))
        }
        (StageState::Pending, None) => format!("attempt {} begins", stage.attempt),
        (StageState::Running, _) => format!("attempt {} runs as Job {}", stage.attempt, stage.job.as_deref().unwrap_or("?")),
        (StageState::Succeeded, _) => {
            let mut words = format!("succeeded: {} rows read, {} written", stage.rows_read, stage.rows_written);
            if stage.rows_quarantined > 0 {
                words.push_str(&format!(", {} quarantined", stage.rows_quarantined));
            }
            words
        }
        (StageState::Failed, _) => format!("failed: {}", why()),
        (StageState::Skipped, _) => "skipped".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn status(reason: &str, message: &str, stages: Value) -> LakehouseRunStatus {
        let condition = json!({"type": "Succeeded", "status": "Unknown", "reason": reason, "message": message, "lastTransitionTime": "2024-06-23T00:00:00Z"});
        serde_json::from_value(json!({"conditions": [condition], "stages": stages})).unwrap()
    }

    fn told(before: Option<&LakehouseRunStatus>, after: &LakehouseRunStatus) -> Vec<String> {
        let text = |change: &Change| match change {
            Change::Stage(stage) => format!("{}: {}", stage.name, words(stage)),
            Change::Status { reason, message } => format!("{reason}: {message}"),
        };
        changes(before, after).iter().map(text).collect()
    }

    #[test]
    fn a_run_is_told_from_its_first_observation_to_its_end() {
        let silver = json!({"name": "silver", "state": "Pending"});
        let fresh = LakehouseRunStatus::default();
        assert_eq!(told(None, &fresh), ["Pending: waits for the operator"]);
        assert_eq!(told(Some(&fresh), &fresh), [""; 0]);
        let begins = status("Running", "begins: ingest, silver", json!([{"name": "ingest", "state": "Pending"}, silver]));
        assert_eq!(told(Some(&fresh), &begins), ["Running: begins: ingest, silver"]);
        let ingest = json!({"name": "ingest", "state": "Running", "attempt": 1, "job": "j-1"});
        let running = status("Running", "ingest: attempt 1 runs as Job j-1", json!([ingest, silver]));
        assert_eq!(told(Some(&begins), &running), ["ingest: attempt 1 runs as Job j-1"]);
        let stuck = status("Running", "ingest: the pod does not start: ImagePullBackOff", json!([ingest, silver]));
        assert_eq!(told(Some(&running), &stuck), ["Running: ingest: the pod does not start: ImagePullBackOff"]);
        let ingest = json!({"name": "ingest", "state": "Pending", "attempt": 1, "retryAt": "2024-06-23T00:00:09Z", "reason": "Evicted"});
        let retrying = status("Retrying", "x", json!([ingest, silver]));
        assert_eq!(told(Some(&stuck), &retrying), ["ingest: attempt 1 failed: Evicted; the next one begins at 2024-06-23T00:00:09Z"]);
        let again = status("Running", "x", json!([{"name": "ingest", "state": "Pending", "attempt": 2, "job": "j-2"}, silver]));
        assert_eq!(told(Some(&retrying), &again), ["ingest: attempt 2 begins"]);
        let ingest = json!({"name": "ingest", "state": "Succeeded", "attempt": 2, "rowsRead": 3, "rowsWritten": 2, "rowsQuarantined": 1});
        let silver = json!({"name": "silver", "state": "Failed", "attempt": 1, "reason": "CastFailed", "message": "row 7"});
        let mut failed = status("CastFailed", "row 7", json!([ingest, silver, {"name": "gold", "state": "Skipped"}]));
        failed.finished_at = Some("2024-06-23T00:01:00Z".parse().unwrap());
        let lines = ["ingest: succeeded: 3 rows read, 2 written, 1 quarantined", "silver: failed: CastFailed: row 7", "gold: skipped"];
        assert_eq!(told(Some(&again), &failed), lines);
        assert_eq!(told(None, &failed), lines);
    }

    #[test]
    fn why_a_run_waits_is_told_once() {
        let busy = status("IntervalBusy", "waits for run a", json!([]));
        assert_eq!(told(None, &busy), ["IntervalBusy: waits for run a"]);
        assert_eq!(told(Some(&busy), &busy), [""; 0]);
    }
}
