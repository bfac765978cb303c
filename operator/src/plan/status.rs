//! Changes of a run's status, as values: what it says when it waits, works, retries and ends.

use chrono::{DateTime, Utc};
use lakehouse_api::{
    LakehouseRun,
    common::Stage,
    run::{LakehouseRunStatus, StageState, StageStatus, TableStatus},
};
use lakehouse_contract::Termination;

use super::outcome::totals;
use crate::conditions::{self, Verdict};

/// Type of a run's one condition.
pub const SUCCEEDED: &str = "Succeeded";

/// Whether the outcome of the run is known.
pub fn finished(status: &LakehouseRunStatus) -> bool {
    conditions::find(&status.conditions, SUCCEEDED).is_some_and(|c| c.status != "Unknown")
}

/// Whether the run ended with success.
pub fn succeeded(status: &LakehouseRunStatus) -> bool {
    conditions::find(&status.conditions, SUCCEEDED).is_some_and(|c| c.status == "True")
}

/// Reason of the condition; `Pending` before there is one.
pub fn phase(status: &LakehouseRunStatus) -> &str {
    conditions::find(&status.conditions, SUCCEEDED).map_or("Pending", |c| c.reason.as_str())
}

/// A stage before its first attempt.
pub fn pending(name: Stage) -> StageStatus {
    StageStatus {
        name,
        state: StageState::Pending,
        attempt: 0,
        lost: 0,
        retries: Vec::new(),
        job: None,
        started_at: None,
        finished_at: None,
        retry_at: None,
        reason: None,
        message: None,
        report: None,
        report_digest: None,
        rows_read: 0,
        rows_written: 0,
        rows_quarantined: 0,
        rows_deduplicated: 0,
        rows_dropped: 0,
        bytes_written: 0,
        stale: None,
        tables: Vec::new(),
    }
}

/// Sets the condition of `run` in `status`.
pub fn say(status: &mut LakehouseRunStatus, run: &LakehouseRun, verdict: Verdict, now: DateTime<Utc>) {
    let generation = run.metadata.generation;
    conditions::set(&mut status.conditions, SUCCEEDED, verdict, generation, now);
    status.observed_generation = generation;
}

/// Ends the run: the rest is skipped, totals are those of silver, or of the last stage that succeeded where there is no silver.
pub fn finish(status: &mut LakehouseRunStatus, run: &LakehouseRun, verdict: Verdict, now: DateTime<Utc>) {
    for stage in &mut status.stages {
        match stage.state {
            // A stage that never had an attempt was skipped; one that had and was stopped failed.
            StageState::Pending if stage.started_at.is_none() => {
                *stage = StageStatus { state: StageState::Skipped, ..pending(stage.name) };
            }
            StageState::Pending | StageState::Running => {
                stage.state = StageState::Failed;
                stage.reason = Some(verdict.reason.clone());
                stage.finished_at = Some(now);
                stage.retry_at = None;
            }
            StageState::Succeeded | StageState::Failed | StageState::Skipped => {}
        }
    }
    status.current_stage = None;
    status.finished_at = Some(now);
    let silver = status.stages.iter().find(|stage| stage.name == Stage::Silver);
    let done = || status.stages.iter().rev().find(|stage| stage.state == StageState::Succeeded);
    if let Some(stage) = silver.or_else(done) {
        (status.rows_read, status.rows_written, status.rows_quarantined) = (stage.rows_read, stage.rows_written, stage.rows_quarantined);
    }
    say(status, run, verdict, now);
}

/// Enters what a report says into a stage.
pub fn enter_report(stage: &mut StageStatus, report: Option<&Termination>) {
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let sums = totals(report);
    stage.rows_read = signed(sums.rows_read);
    stage.rows_written = signed(sums.rows_written);
    stage.rows_quarantined = signed(sums.rows_quarantined);
    stage.rows_deduplicated = signed(sums.rows_deduplicated);
    stage.rows_dropped = signed(sums.rows_dropped);
    stage.bytes_written = signed(sums.bytes_written);
    stage.stale = report.and_then(|r| r.stale.clone());
    stage.report = report.and_then(|r| r.report.clone());
    stage.report_digest = report.and_then(|r| r.report_digest.clone());
    stage.tables = report
        .map(|r| r.tables.as_slice())
        .unwrap_or_default()
        .iter()
        .map(|(name, snapshot, rows)| TableStatus { name: name.clone(), snapshot: snapshot.clone(), rows_written: signed(*rows) })
        .collect();
}

/// Rows of a stage in words.
pub fn rows(stage: &StageStatus) -> String {
    let unit = if stage.name == Stage::Ingest { "records" } else { "rows" };
    let mut text = format!("{} {unit} written", stage.rows_written);
    for (count, word) in
        [(stage.rows_quarantined, "quarantined"), (stage.rows_deduplicated, "deduplicated"), (stage.rows_dropped, "dropped")]
    {
        if count > 0 {
            text.push_str(&format!(", {count} {word}"));
        }
    }
    match stage.stale.as_ref().map_or(0, |stale| stale.count) {
        0 => {}
        1 => text.push_str("; 1 interval is stale"),
        count => text.push_str(&format!("; {count} intervals are stale")),
    }
    text
}
