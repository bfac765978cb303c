//! Backfills as a person reads them: how far each is, and the runs that it is made of. Pure.

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use lakehouse_api::{LakehouseBackfill, LakehouseBackfillStatus, LakehouseRun};
use lakehouse_contract::{interval::rfc3339, names::BACKFILL_LABEL};

use super::{
    SubmitError,
    outcome::{self, one_line},
    tree::{between, span},
};
use crate::table::draw;

/// Status, reason and message of the condition `Succeeded`; `Pending` before there is one.
pub fn phase(status: &LakehouseBackfillStatus) -> (&str, &str, &str) {
    let condition = status.conditions.iter().find(|condition| condition.type_ == "Succeeded");
    condition.map_or(("Unknown", "Pending", "waits for the operator"), |c| (c.status.as_str(), c.reason.as_str(), c.message.as_str()))
}

/// How it ended, for whoever waited for it; nothing while it has not.
///
/// # Errors
/// [`SubmitError::Failed`]: it failed or was cancelled.
pub fn ended(name: &str, status: &LakehouseBackfillStatus) -> Option<Result<(), SubmitError>> {
    match phase(status) {
        ("Unknown", ..) => None,
        ("True", ..) => Some(Ok(())),
        (_, reason, message) => Some(Err(SubmitError::Failed(one_line(&format!("backfill {name} failed: {reason}: {message}"))))),
    }
}

/// Whether it has not ended yet.
pub fn is_at_work(backfill: &LakehouseBackfill) -> bool {
    backfill.status.as_ref().is_none_or(|status| phase(status).0 == "Unknown")
}

/// Those of `runs` that the backfill `name` made, in the order of their intervals.
pub fn runs_of(name: &str, mut runs: Vec<LakehouseRun>) -> Vec<LakehouseRun> {
    runs.retain(|run| run.labels().get(BACKFILL_LABEL).is_some_and(|backfill| backfill == name));
    runs.sort_by_key(|run| (run.spec.interval.start, run.metadata.creation_timestamp.clone(), run.name_any()));
    runs
}

/// A backfill and its runs. `wide`: with the messages of all runs.
pub fn tree(backfill: &LakehouseBackfill, runs: &[LakehouseRun], wide: bool, now: DateTime<Utc>) -> String {
    let status = backfill.status.clone().unwrap_or_default();
    let (outcome, reason, message) = phase(&status);
    let range = &backfill.spec.range;
    let mut text = format!("backfill {}  {reason}  {} to {}", backfill.name_any(), rfc3339(range.start), rfc3339(range.end));
    let lasted = between(status.started_at, status.finished_at, now);
    if !lasted.is_empty() {
        text.push_str(&format!("  {lasted}"));
    }
    text.push('\n');
    text.push_str(&format!(
        "pipeline {}: {} of {} intervals succeeded, {} active, {} failed, {} remaining, {} left alone{}\n",
        backfill.spec.pipeline,
        status.succeeded,
        status.planned,
        status.active,
        status.failed,
        status.remaining,
        status.skipped,
        status
            .estimated_completion
            .filter(|_| outcome == "Unknown")
            .map(|time| format!("; done at about {}", rfc3339(time)))
            .unwrap_or_default()
    ));
    let last = runs.len().saturating_sub(1);
    let width = runs.iter().map(|run| run.name_any().chars().count()).max().unwrap_or_default();
    for (index, run) in runs.iter().enumerate() {
        let (branch, below) = if index == last { ("└─", "   ") } else { ("├─", "│  ") };
        let status = run.status.clone().unwrap_or_default();
        let (reason, message) = outcome::phase(&status);
        let mut parts = vec![format!("{:<width$}", run.name_any()), rfc3339(run.spec.interval.start), reason.to_owned()];
        parts.extend(status.current_stage.map(|stage| stage.to_string()));
        if let Some(started) = status.started_at {
            parts.push(span((status.finished_at.unwrap_or(now) - started).num_seconds()));
        }
        let end = outcome::end(run);
        if end.is_some() {
            parts.push(format!("{} read, {} written", status.rows_read, status.rows_written));
        }
        if status.rows_quarantined > 0 {
            parts.push(format!("{} quarantined", status.rows_quarantined));
        }
        text.push_str(&format!("{branch} {}\n", parts.join("  ")));
        let failed = matches!(end, Some(outcome::End::Failed | outcome::End::Cancelled));
        if (failed || wide) && !message.is_empty() {
            text.push_str(&format!("{below}└─ {}\n", one_line(message)));
        }
    }
    if outcome != "True" && !message.is_empty() {
        text.push_str(&format!("{reason}: {}\n", one_line(message)));
    }
    text
}

/// Backfills as rows.
pub fn table(all: &[LakehouseBackfill], wide: bool) -> String {
    let mut header = vec![
        "backfill",
        "pipeline",
        "state",
        "from",
        "to",
        "planned",
        "left alone",
        "active",
        "succeeded",
        "failed",
        "remaining",
        "estimated end",
    ];
    if wide {
        header.push("message");
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|backfill| {
            let status = backfill.status.clone().unwrap_or_default();
            let (_, reason, message) = phase(&status);
            let range = &backfill.spec.range;
            let mut row =
                vec![backfill.name_any(), backfill.spec.pipeline.clone(), reason.to_owned(), rfc3339(range.start), rfc3339(range.end)];
            let counts = [status.planned, status.skipped, status.active, status.succeeded, status.failed, status.remaining];
            row.extend(counts.map(|count| count.to_string()));
            row.push(status.estimated_completion.filter(|_| is_at_work(backfill)).map(rfc3339).unwrap_or_default());
            if wide {
                row.push(one_line(message));
            }
            row
        })
        .collect();
    draw(&header, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn backfill(status: &str, reason: &str, message: &str) -> LakehouseBackfill {
        serde_json::from_value(json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseBackfill", "metadata": {"name": "january"},
            "spec": {"pipeline": "it", "range": {"start": "2024-01-01T00:00:00Z", "end": "2024-01-04T00:00:00Z"}},
            "status": {
                "conditions": [{"type": "Succeeded", "status": status, "reason": reason, "message": message, "lastTransitionTime": "2024-02-01T00:00:00Z"}],
                "startedAt": "2024-02-01T00:00:00Z", "planned": 3, "skipped": 0, "active": 1, "succeeded": 1, "failed": 1, "remaining": 0,
                "estimatedCompletion": "2024-02-01T00:03:00Z"
            }
        }))
        .unwrap()
    }

    fn run(day: u32, of: &str, condition: &Value) -> LakehouseRun {
        serde_json::from_value(json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseRun",
            "metadata": {"name": format!("january-{day}"), "labels": {BACKFILL_LABEL: of}},
            "spec": {"pipeline": "it", "interval": {"start": format!("2024-01-0{day}T00:00:00Z"), "end": format!("2024-01-0{}T00:00:00Z", day + 1)}},
            "status": {"conditions": [condition], "startedAt": "2024-02-01T00:00:00Z", "rowsRead": 3, "rowsWritten": 2, "rowsQuarantined": 1}
        }))
        .unwrap()
    }

    fn condition(status: &str, reason: &str, message: &str) -> Value {
        json!({"type": "Succeeded", "status": status, "reason": reason, "message": message, "lastTransitionTime": "2024-02-01T00:00:00Z"})
    }

    #[test]
    fn runs_stand_below_their_backfill() {
        let now = DateTime::parse_from_rfc3339("2024-02-01T00:01:12Z").unwrap().to_utc();
        let all = vec![
            run(3, "january", &condition("Unknown", "Running", "at work")),
            run(1, "january", &condition("True", "Completed", "done")),
            run(2, "january", &condition("False", "CastFailed", "silver: row\n7")),
            run(2, "february", &condition("True", "Completed", "done")),
        ];
        let shown = tree(&backfill("Unknown", "Running", "at work"), &runs_of("january", all), false, now);
        let expected = "\
backfill january  Running  2024-01-01T00:00:00Z to 2024-01-04T00:00:00Z  1m12s
pipeline it: 1 of 3 intervals succeeded, 1 active, 1 failed, 0 remaining, 0 left alone; done at about 2024-02-01T00:03:00Z
├─ january-1  2024-01-01T00:00:00Z  Completed  1m12s  3 read, 2 written  1 quarantined
├─ january-2  2024-01-02T00:00:00Z  CastFailed  1m12s  3 read, 2 written  1 quarantined
│  └─ silver: row 7
└─ january-3  2024-01-03T00:00:00Z  Running  1m12s  1 quarantined
Running: at work
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_end_is_the_commands_end() {
        let of = |backfill: LakehouseBackfill| ended("january", &backfill.status.unwrap_or_default());
        assert!(of(backfill("Unknown", "Running", "")).is_none());
        assert!(matches!(of(backfill("True", "Completed", "")), Some(Ok(()))));
        match of(backfill("False", "TooManyFailures", "more\nthan 3")) {
            Some(Err(SubmitError::Failed(line))) => assert_eq!(line, "backfill january failed: TooManyFailures: more than 3"),
            other => panic!("{other:?}"),
        }
        assert!(is_at_work(&backfill("Unknown", "Suspended", "")) && !is_at_work(&backfill("False", "Cancelled", "")));
        assert!(table(&[backfill("True", "Completed", "done")], true).lines().nth(2).is_some_and(|row| row.contains("| done")));
    }
}
