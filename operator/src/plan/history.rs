//! Which finished runs may go: those beyond the pipeline's `historyLimits` that nothing refers to.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use lakehouse_api::{LakehousePipeline, LakehouseRun, common::Stage};
use lakehouse_contract::{Interval, history::stages_of, names::BACKFILL_LABEL, resolve::stages};

use super::status::{finished, succeeded};
use crate::conditions::instant;

/// Most runs deleted at a time.
pub const BATCH: usize = 20;

/// A run that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Its name.
    pub name: String,
    /// Its UID: another run of that name stays.
    pub uid: String,
}

/// Of the runs of a pipeline, those beyond its limits, the oldest first, at most [`BATCH`]. What stays besides:
///
/// - a run without an outcome, and one that such a run names (`inputsFrom`, `retryOf`);
/// - runs of the backfills `unfinished`, which count them;
/// - the newest run, and the one whose gold stage said which intervals are stale, since the pipeline's status names them;
/// - of an interval for which later stages have not run since: the newest run that brought their input.
pub fn expired<'a>(
    pipeline: &LakehousePipeline,
    runs: impl Iterator<Item = &'a LakehouseRun> + Clone,
    unfinished: &BTreeSet<String>,
) -> Vec<Expired> {
    let limits = pipeline.spec.history_limits.unwrap_or_default();
    let is_finished = |run: &LakehouseRun| run.status.as_ref().is_some_and(finished);
    let mut referred = BTreeSet::new();
    for run in runs.clone().filter(|run| !is_finished(run)) {
        referred.extend([run.spec.inputs_from.clone(), run.spec.retry_of.clone()].into_iter().flatten());
    }
    if let Some(status) = &pipeline.status {
        referred.extend(status.stale_intervals.iter().map(|stale| stale.run.clone()));
        referred.extend(status.last_run.iter().map(|last| last.name.clone()));
    }
    let stays = |run: &LakehouseRun| {
        !is_finished(run)
            || run.metadata.deletion_timestamp.is_some()
            || referred.contains(&run.name_any())
            || run.labels().get(BACKFILL_LABEL).is_some_and(|backfill| unfinished.contains(backfill))
            || awaits_later_stages(run, pipeline, runs.clone())
    };
    let mut expired = Vec::new();
    for (outcome, limit) in [(true, limits.succeeded), (false, limits.failed)] {
        let of_outcome = |run: &&LakehouseRun| is_finished(run) && run.status.as_ref().is_some_and(succeeded) == outcome;
        let mut of_outcome: Vec<&LakehouseRun> = runs.clone().filter(of_outcome).collect();
        of_outcome.sort_by_key(|run| std::cmp::Reverse(age(run)));
        expired.extend(of_outcome.into_iter().skip(usize::try_from(limit).unwrap_or_default()).filter(|run| !stays(run)));
    }
    expired.sort_by_key(|run| age(run));
    expired.into_iter().take(BATCH).map(|run| Expired { name: run.name_any(), uid: run.uid().unwrap_or_default() }).collect()
}

/// When a run ended, and its name.
fn age(run: &LakehouseRun) -> (Option<DateTime<Utc>>, String) {
    (run.status.as_ref().and_then(|status| status.finished_at), run.name_any())
}

/// Whether the run brought what later stages of its interval read, and they have not run since, nor has another run brought the same.
fn awaits_later_stages<'a>(run: &LakehouseRun, pipeline: &LakehousePipeline, runs: impl Iterator<Item = &'a LakehouseRun>) -> bool {
    let of = |run: &LakehouseRun| stages_of(run, &pipeline.spec);
    let all = stages(&pipeline.spec, &[]).unwrap_or_default();
    let last_of = |run: &LakehouseRun| of(run).into_iter().filter(|stage| *stage != Stage::Maintenance).max();
    let (Some(last), Some(end)) = (last_of(run), all.last().copied()) else { return false };
    if last >= end || !run.status.as_ref().is_some_and(succeeded) {
        return false;
    }
    let interval: Interval = (&run.spec.interval).into();
    let created = |run: &LakehouseRun| (run.metadata.creation_timestamp.as_ref().map(instant), run.name_any());
    let mut later = runs.filter(|other| {
        Interval::from(&other.spec.interval) == interval && other.status.as_ref().is_some_and(succeeded) && created(other) > created(run)
    });
    !later.any(|other| last_of(other).is_some_and(|reached| reached > last) || of(other).contains(&last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pipeline(limits: Value) -> LakehousePipeline {
        serde_json::from_value(json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehousePipeline", "metadata": {"name": "p"},
            "spec": {
                "lakehouse": "main", "historyLimits": limits, "ingest": [{"name": "s", "pulse": {}}],
                "silver": [{"name": "t", "from": "s", "write": {"append": {}}, "columns": [{"name": "id", "from": "/id", "type": "string"}]}],
                "gold": [{"name": "g", "write": {"overwrite": {}}, "sql": "SELECT 1 AS one"}],
            }
        }))
        .unwrap()
    }

    /// A run of the `number`-th day that was made, and ended, at that minute.
    fn run(name: &str, number: u32, end: &str, spec: Value) -> LakehouseRun {
        let at = format!("2024-02-01T00:{number:02}:00Z");
        let mut all = json!({"pipeline": "p", "interval": {"start": format!("2024-01-{number:02}T00:00:00Z"), "end": format!("2024-01-{:02}T00:00:00Z", number + 1)}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let mut run = json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseRun",
            "metadata": {"name": name, "uid": format!("uid-{name}"), "creationTimestamp": at}, "spec": all,
            "status": {"conditions": [{"type": "Succeeded", "status": end, "reason": "R", "message": "", "lastTransitionTime": at}]},
        });
        if end != "Unknown" {
            run["status"]["finishedAt"] = json!(at);
        }
        serde_json::from_value(run).unwrap()
    }

    fn names(pipeline: &LakehousePipeline, runs: &[LakehouseRun], unfinished: &[&str]) -> Vec<String> {
        let unfinished = unfinished.iter().map(|name| (*name).to_owned()).collect();
        expired(pipeline, runs.iter(), &unfinished).into_iter().map(|run| run.name).collect()
    }

    #[test]
    fn the_oldest_of_each_outcome_go_in_batches() {
        let mut runs: Vec<LakehouseRun> = (1..=6).map(|n| run(&format!("ok-{n}"), n, "True", json!({}))).collect();
        runs.extend((7..=9).map(|n| run(&format!("bad-{n}"), n, "False", json!({}))));
        runs.extend((10..=12).map(|n| run(&format!("at-work-{n}"), n, "Unknown", json!({}))));
        assert_eq!(names(&pipeline(json!({"succeeded": 4, "failed": 1})), &runs, &[]), ["ok-1", "ok-2", "bad-7", "bad-8"]);
        assert_eq!(names(&pipeline(json!({"succeeded": 0, "failed": 3})), &runs, &[]).len(), 6);
        assert!(names(&pipeline(Value::Null), &runs, &[]).is_empty(), "30 and 10 are kept");
        let many: Vec<LakehouseRun> = (0..100).map(|n| run(&format!("ok-{n:02}"), n % 28 + 1, "True", json!({}))).collect();
        assert_eq!(names(&pipeline(json!({"succeeded": 0})), &many, &[]).len(), BATCH);
    }

    #[test]
    fn what_is_referred_to_stays() {
        let none = json!({"succeeded": 0, "failed": 0});
        let mut backfilled = run("of-backfill", 1, "True", json!({}));
        backfilled.metadata.labels = Some([(BACKFILL_LABEL.to_owned(), "b".to_owned())].into());
        let runs = [
            backfilled,
            run("input", 2, "True", json!({"stages": ["ingest"]})),
            run("failed", 3, "False", json!({})),
            run("waits", 4, "Unknown", json!({"inputsFrom": "input", "retryOf": "failed"})),
            run("stale", 5, "True", json!({})),
            run("newest", 6, "True", json!({})),
            run("free", 7, "True", json!({})),
        ];
        let mut it = pipeline(none);
        assert_eq!(names(&it, &runs, &["b"]), ["stale", "newest", "free"]);
        it.status = Some(
            serde_json::from_value(json!({
                "staleIntervals": {"count": 0, "run": "stale", "observedAt": "2024-02-01T00:00:00Z"},
                "lastRun": {"name": "newest", "interval": runs[5].spec.interval, "phase": "Completed", "rowsWritten": 0},
            }))
            .unwrap(),
        );
        assert_eq!(names(&it, &runs, &["b"]), ["free"]);
        assert_eq!(names(&it, &runs, &[]), ["of-backfill", "free"]);
    }

    #[test]
    fn the_newest_input_of_later_stages_stays() {
        let it = pipeline(json!({"succeeded": 0, "failed": 0}));
        let early = json!({"stages": ["ingest", "silver"]});
        let mut runs = vec![run("older", 1, "True", early.clone()), run("input", 1, "True", early)];
        runs[1].metadata.creation_timestamp = run("x", 2, "True", json!({})).metadata.creation_timestamp;
        assert_eq!(names(&it, &runs, &[]), ["older"], "gold has not read what it brought");
        let mut gold = run("gold", 1, "True", json!({"stages": ["gold"]}));
        gold.metadata.creation_timestamp = run("x", 3, "True", json!({})).metadata.creation_timestamp;
        runs.push(gold);
        assert_eq!(names(&it, &runs, &[]).len(), 3);
    }
}
