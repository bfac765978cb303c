//! Changes of a run's status, as values: what it says when it waits, works, retries and ends.

use chrono::{DateTime, TimeDelta, Utc};
use lakehouse_api::{
    LakehouseRun,
    common::Stage,
    run::{LakehouseRunStatus, StageProgress, StageState, StageStatus, TableStatus},
};
use lakehouse_contract::{Termination, progress::Position};

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
        progress: None,
        stale: None,
        tables: Vec::new(),
    }
}

/// Sets the condition of `run` in `status`.
pub fn say(status: &mut LakehouseRunStatus, run: &LakehouseRun, verdict: Verdict, now: DateTime<Utc>) {
    let generation = run.metadata.generation;
    for stage in status.stages.iter_mut().filter(|stage| stage.state != StageState::Running) {
        stage.progress = None;
    }
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

/// How often the progress of a stage is written at most.
pub const PROGRESS_EVERY: TimeDelta = TimeDelta::seconds(30);

/// Whether it is time to look how far the running attempt of `stage` is.
pub fn progress_is_due(stage: &StageStatus, now: DateTime<Utc>) -> bool {
    stage.state == StageState::Running && stage.progress.as_ref().is_none_or(|known| now - known.updated_at >= PROGRESS_EVERY)
}

/// Enters how far an attempt is, if it is time and if that is news; answers whether it was.
pub fn enter_progress(stage: &mut StageStatus, observed: Option<&Position>, now: DateTime<Utc>) -> bool {
    let Some(observed) = observed.filter(|_| progress_is_due(stage, now)) else { return false };
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let percent = observed.total.filter(|total| *total > 0).map(|total| {
        let share = u128::from(observed.rows) * 100 / u128::from(total);
        i32::try_from(share.min(100)).unwrap_or(100)
    });
    let next = StageProgress {
        step: observed.step.clone(),
        rows: signed(observed.rows),
        bytes: signed(observed.bytes),
        total: observed.total.map(signed),
        percent,
        updated_at: now,
    };
    if stage.progress.as_ref().is_some_and(|known| StageProgress { updated_at: now, ..known.clone() } == next) {
        return false;
    }
    stage.progress = Some(next);
    true
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_written_when_it_is_news_and_not_too_often() {
        let start = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let at = |seconds: i64| start + TimeDelta::seconds(seconds);
        let position = |rows: u64| Position { step: "write silver.a".to_owned(), rows, bytes: 10, total: Some(1000) };
        let mut stage = pending(Stage::Silver);
        assert!(!enter_progress(&mut stage, Some(&position(1)), start), "it does not run");
        stage.state = StageState::Running;
        assert!(!enter_progress(&mut stage, None, start), "nothing was said");
        assert!(enter_progress(&mut stage, Some(&position(500)), start));
        assert_eq!(stage.progress.as_ref().and_then(|progress| progress.percent), Some(50));
        assert!(!enter_progress(&mut stage, Some(&position(600)), at(29)), "too early");
        assert!(!enter_progress(&mut stage, Some(&position(500)), at(40)), "no news");
        assert_eq!(stage.progress.as_ref().map(|progress| progress.updated_at), Some(start));
        assert!(enter_progress(&mut stage, Some(&position(2000)), at(40)));
        assert_eq!(stage.progress.as_ref().and_then(|progress| progress.percent), Some(100));
        let none = Position { total: Some(0), ..position(3) };
        assert!(enter_progress(&mut stage, Some(&none), at(70)));
        assert_eq!(stage.progress.as_ref().and_then(|progress| progress.percent), None);
    }
}
