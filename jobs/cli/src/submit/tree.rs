//! Runs and pipelines as a person reads them. Pure.

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use lakehouse_api::{
    LakehousePipeline, LakehouseRun,
    run::{StageState, StageStatus},
};
use lakehouse_contract::interval::rfc3339;

use super::outcome::{end, one_line, phase};
use crate::table::draw;

/// A span of time with at most two units, such as `1m12s` or `3d4h`.
pub fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')];
    let mut parts = Vec::new();
    let mut left = seconds;
    for (size, unit) in units {
        if left >= size || (unit == 's' && parts.is_empty()) {
            parts.push(format!("{}{unit}", left / size));
            left %= size;
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    parts.concat()
}

/// How long it took, or has taken by `now`; empty before its start.
pub fn between(start: Option<DateTime<Utc>>, end: Option<DateTime<Utc>>, now: DateTime<Utc>) -> String {
    start.map(|start| span((end.unwrap_or(now) - start).num_seconds())).unwrap_or_default()
}

/// A run, its stages, their tables. `wide`: with Jobs, reports and everything that is counted.
pub fn tree(run: &LakehouseRun, wide: bool, now: DateTime<Utc>) -> String {
    let status = run.status.clone().unwrap_or_default();
    let (reason, message) = phase(&status);
    let lasted = between(status.started_at, status.finished_at, now);
    let mut text = format!(
        "run {}  {reason}  {}{}\n",
        run.name_any(),
        rfc3339(run.spec.interval.start),
        if lasted.is_empty() { String::new() } else { format!("  {lasted}") }
    );
    let last = status.stages.len().saturating_sub(1);
    for (index, stage) in status.stages.iter().enumerate() {
        let (branch, below) = if index == last { ("└─", "   ") } else { ("├─", "│  ") };
        text.push_str(&format!("{branch} {}\n", stage_line(stage, wide, now)));
        let leaves = leaves(stage, wide);
        let last = leaves.len().saturating_sub(1);
        for (index, leaf) in leaves.iter().enumerate() {
            text.push_str(&format!("{below}{} {leaf}\n", if index == last { "└─" } else { "├─" }));
        }
    }
    if end(run).is_none_or(|end| end != super::outcome::End::Succeeded) && !message.is_empty() {
        text.push_str(&format!("{reason}: {}\n", one_line(message)));
    }
    text
}

fn stage_line(stage: &StageStatus, wide: bool, now: DateTime<Utc>) -> String {
    let mut parts = vec![format!("{:<11} {:?}", stage.name.to_string(), stage.state)];
    if stage.attempt > 1 {
        parts.push(format!("attempt {}", stage.attempt));
    }
    let lasted = between(stage.started_at, stage.finished_at, now);
    if !lasted.is_empty() {
        parts.push(lasted);
    }
    if stage.state == StageState::Succeeded || stage.rows_read > 0 {
        let mut rows = format!("{} read, {} written", stage.rows_read, stage.rows_written);
        for (count, word) in
            [(stage.rows_quarantined, "quarantined"), (stage.rows_deduplicated, "deduplicated"), (stage.rows_dropped, "dropped")]
        {
            if wide || count > 0 {
                rows.push_str(&format!(", {count} {word}"));
            }
        }
        parts.push(rows);
    }
    if wide {
        parts.push(format!("{} bytes", stage.bytes_written));
        parts.extend(stage.job.iter().map(|job| format!("job {job}")));
    }
    parts.join("  ")
}

/// What stands below a stage: its tables, how far it is, why it failed.
fn leaves(stage: &StageStatus, wide: bool) -> Vec<String> {
    let width = stage.tables.iter().map(|table| table.name.chars().count()).max().unwrap_or_default();
    let mut leaves: Vec<String> = stage
        .tables
        .iter()
        .map(|table| {
            let snapshot = table.snapshot.as_ref().filter(|_| wide).map(|snapshot| format!("  snapshot {snapshot}")).unwrap_or_default();
            format!("{:<width$}  {} rows{snapshot}", table.name, table.rows_written)
        })
        .collect();
    if let Some(progress) = &stage.progress {
        let share = progress.percent.map(|percent| format!(" ({percent} %)")).unwrap_or_default();
        leaves.push(format!("{}: {} rows, {} bytes{share}", progress.step, progress.rows, progress.bytes));
    }
    if stage.state == StageState::Failed || stage.retry_at.is_some() {
        let reason = stage.reason.as_deref().unwrap_or("Unknown");
        leaves.push(one_line(&format!("{reason}: {}", stage.message.as_deref().unwrap_or_default())));
    }
    if let Some(time) = stage.retry_at {
        leaves.push(format!("the next attempt begins at {}", rfc3339(time)));
    }
    leaves.extend(stage.report.iter().filter(|_| wide).map(|uri| format!("report {uri}")));
    leaves
}

/// Runs as rows, the newest first.
pub fn runs(all: &[LakehouseRun], wide: bool, now: DateTime<Utc>) -> String {
    let mut all: Vec<&LakehouseRun> = all.iter().collect();
    all.sort_by_key(|run| std::cmp::Reverse((run.metadata.creation_timestamp.clone(), run.name_any())));
    let rows: Vec<Vec<String>> = all
        .into_iter()
        .map(|run| {
            let status = run.status.clone().unwrap_or_default();
            let (reason, message) = phase(&status);
            let stage = status.current_stage.map(|stage| stage.to_string()).unwrap_or_default();
            let mut row = vec![run.name_any(), run.spec.pipeline.clone(), rfc3339(run.spec.interval.start), reason.to_owned(), stage];
            row.push(between(status.started_at, status.finished_at, now));
            row.extend([status.rows_read, status.rows_written, status.rows_quarantined].map(|rows| rows.to_string()));
            if wide {
                row.push(one_line(message));
            }
            row
        })
        .collect();
    let mut header = vec!["run", "pipeline", "interval", "state", "stage", "duration", "read", "written", "quarantined"];
    if wide {
        header.push("message");
    }
    draw(&header, &rows)
}

/// Pipelines as rows.
pub fn pipelines(all: &[LakehousePipeline], wide: bool) -> String {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|pipeline| {
            let status = pipeline.status.clone().unwrap_or_default();
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
            let last = status.last_run.as_ref();
            let mut row = vec![
                pipeline.name_any(),
                ready.map_or_else(|| "Unknown".to_owned(), |condition| condition.status.clone()),
                last.map(|run| run.name.clone()).unwrap_or_default(),
                last.map(|run| run.phase.clone()).unwrap_or_default(),
                status.last_succeeded_interval.map(rfc3339).unwrap_or_default(),
                status.active_runs.to_string(),
                status.stale_intervals.as_ref().map(|stale| stale.intervals.count.to_string()).unwrap_or_default(),
            ];
            if wide {
                row.push(ready.map(|condition| one_line(&condition.message)).unwrap_or_default());
            }
            row
        })
        .collect();
    let mut header = vec!["pipeline", "ready", "last run", "state", "last succeeded interval", "active", "stale"];
    if wide {
        header.push("message");
    }
    draw(&header, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run() -> LakehouseRun {
        serde_json::from_value(json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseRun", "metadata": {"name": "pulse-1"},
            "spec": {"pipeline": "pulse", "interval": {"start": "2024-06-22T00:00:00Z", "end": "2024-06-23T00:00:00Z"}},
            "status": {
                "conditions": [{"type": "Succeeded", "status": "Unknown", "reason": "Retrying", "message": "silver:\nagain", "lastTransitionTime": "2024-06-23T00:00:00Z"}],
                "startedAt": "2024-06-23T00:00:00Z",
                "stages": [
                    {"name": "ingest", "state": "Succeeded", "attempt": 1, "job": "pulse-1-ingest-1", "startedAt": "2024-06-23T00:00:00Z",
                        "finishedAt": "2024-06-23T00:01:12Z", "rowsRead": 30, "rowsWritten": 30, "report": "s3://bronze/r.json",
                        "tables": [{"name": "beat", "rowsWritten": 30}]},
                    {"name": "silver", "state": "Pending", "attempt": 2, "startedAt": "2024-06-23T00:01:20Z", "retryAt": "2024-06-23T00:05:00Z",
                        "reason": "OOMKilled", "message": "killed"},
                    {"name": "gold", "state": "Running", "attempt": 1,
                        "progress": {"step": "write gold.a", "rows": 5, "bytes": 7, "total": 10, "percent": 50, "updatedAt": "2024-06-23T00:01:00Z"}}
                ]
            }
        }))
        .unwrap()
    }

    #[test]
    fn a_run_is_a_tree() {
        let now = "2024-06-23T00:02:00Z".parse().unwrap();
        let expected = "\
run pulse-1  Retrying  2024-06-22T00:00:00Z  2m
├─ ingest      Succeeded  1m12s  30 read, 30 written
│  └─ beat  30 rows
├─ silver      Pending  attempt 2  40s
│  ├─ OOMKilled: killed
│  └─ the next attempt begins at 2024-06-23T00:05:00Z
└─ gold        Running
   └─ write gold.a: 5 rows, 7 bytes (50 %)
Retrying: silver: again
";
        assert_eq!(tree(&run(), false, now), expected);
        let wide = tree(&run(), true, now);
        assert!(wide.contains("job pulse-1-ingest-1") && wide.contains("report s3://bronze/r.json"), "{wide}");
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (72, "1m12s"), (3_601, "1h"), (3_660, "1h1m"), (90_061, "1d1h"), (-5, "0s")]
        {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn the_newest_run_stands_first() {
        let mut newer = run();
        newer.metadata.name = Some("pulse-2".to_owned());
        newer.metadata.creation_timestamp = serde_json::from_value(json!("2024-06-24T00:00:00Z")).unwrap();
        let text = runs(&[run(), newer], false, Utc::now());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].contains("pulse-2") && lines[3].contains("pulse-1"), "{text}");
    }
}
