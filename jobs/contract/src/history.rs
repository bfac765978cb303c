//! Which intervals of a pipeline have run: told from the runs that there are, and from what its status keeps of those that are gone.

use std::collections::BTreeMap;

use lakehouse_api::{LakehousePipelineSpec, LakehouseRun, backfill::Rerun, common::Stage, run::RunInterval};

use crate::{Interval, resolve::stages};

/// Most stretches of completed intervals that a status keeps.
pub const MOST_STRETCHES: usize = 32;

/// Adds an interval to stretches of intervals, which are in order and do not touch. Of too many the oldest are forgotten.
pub fn complete(stretches: &mut Vec<RunInterval>, interval: &RunInterval) {
    let mut joined = interval.clone();
    stretches.retain(|stretch| {
        let apart = stretch.end < joined.start || joined.end < stretch.start;
        if !apart {
            joined = RunInterval { start: stretch.start.min(joined.start), end: stretch.end.max(joined.end) };
        }
        apart
    });
    let place = stretches.partition_point(|stretch| stretch.start < joined.start);
    stretches.insert(place, joined);
    let excess = stretches.len().saturating_sub(MOST_STRETCHES);
    stretches.drain(..excess);
}

/// Whether one of the stretches has the whole interval.
pub fn covers(stretches: &[RunInterval], interval: &Interval) -> bool {
    stretches.iter().any(|stretch| stretch.start <= interval.start && interval.end <= stretch.end)
}

/// Status of the condition that says how a run ended: `True`, `False`, or `Unknown` while it has not.
fn end(run: &LakehouseRun) -> &str {
    let conditions = run.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().find(|condition| condition.type_ == "Succeeded").map_or("Unknown", |condition| condition.status.as_str())
}

/// The stages that a run has, or will have.
pub fn stages_of(run: &LakehouseRun, definition: &LakehousePipelineSpec) -> Vec<Stage> {
    let wanted = run.spec.stages.as_deref().unwrap_or_default();
    stages(definition, wanted).unwrap_or_else(|_| wanted.to_vec())
}

/// Whether a run completed its interval: it succeeded, and had the last stage of the definition.
pub fn completes(run: &LakehouseRun, definition: &LakehousePipelineSpec) -> bool {
    let last = stages(definition, &[]).ok().and_then(|stages| stages.last().copied());
    end(run) == "True" && last.is_some_and(|last| stages_of(run, definition).contains(&last))
}

/// What has run of a pipeline.
pub struct History<'a> {
    completed: &'a [RunInterval],
    intervals: BTreeMap<Interval, Known>,
}

#[derive(Default)]
struct Known {
    /// Stages that a run of the interval completed.
    succeeded: Vec<Stage>,
    /// The stages of each run, finished or not.
    tried: Vec<Vec<Stage>>,
}

impl<'a> History<'a> {
    /// From the stretches of its status, and its runs.
    pub fn new<'b>(definition: &LakehousePipelineSpec, completed: &'a [RunInterval], runs: impl Iterator<Item = &'b LakehouseRun>) -> Self {
        let mut intervals = BTreeMap::<Interval, Known>::new();
        for run in runs {
            let known = intervals.entry((&run.spec.interval).into()).or_default();
            let stages = stages_of(run, definition);
            if end(run) == "True" {
                known.succeeded.extend(&stages);
            }
            known.tried.push(stages);
        }
        Self { completed, intervals }
    }

    /// Whether a backfill with this policy, whose runs have these stages, leaves the interval alone.
    pub fn skips(&self, rerun: Rerun, interval: &Interval, stages: &[Stage]) -> bool {
        let known = self.intervals.get(interval);
        let has_all = |of: &Vec<Stage>| stages.iter().all(|stage| of.contains(stage));
        let succeeded = || covers(self.completed, interval) || known.is_some_and(|known| has_all(&known.succeeded));
        match rerun {
            Rerun::All => false,
            Rerun::Failed => succeeded(),
            Rerun::Skip => succeeded() || known.is_some_and(|known| known.tried.iter().any(has_all)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, TimeDelta, Utc};
    use serde_json::json;

    fn day(number: i64) -> RunInterval {
        let start = DateTime::<Utc>::from_timestamp(1_704_067_200, 0).unwrap() + TimeDelta::days(number);
        RunInterval { start, end: start + TimeDelta::days(1) }
    }

    fn days(stretches: &[RunInterval]) -> Vec<(i64, i64)> {
        let number = |time: DateTime<Utc>| (time - day(0).start).num_days();
        stretches.iter().map(|stretch| (number(stretch.start), number(stretch.end))).collect()
    }

    #[test]
    fn stretches_join_in_any_order() {
        for order in [[0, 1, 2, 5, 6], [6, 0, 5, 2, 1], [1, 6, 5, 0, 2]] {
            let mut stretches = Vec::new();
            for number in order.into_iter().chain(order) {
                complete(&mut stretches, &day(number));
            }
            assert_eq!(days(&stretches), [(0, 3), (5, 7)]);
        }
        let mut stretches = Vec::new();
        for number in 0..100 {
            complete(&mut stretches, &day(2 * number));
        }
        assert_eq!((stretches.len(), days(&stretches)[0]), (MOST_STRETCHES, (136, 137)));
        assert!(covers(&stretches, &(&day(150)).into()) && !covers(&stretches, &(&day(151)).into()));
    }

    #[test]
    fn what_has_run_is_left_alone_as_the_policy_says() {
        let definition: LakehousePipelineSpec = serde_json::from_value(json!({
            "lakehouse": "main", "ingest": [{"name": "s", "pulse": {}}],
            "silver": [{"name": "t", "from": "s", "write": {"append": {}}, "columns": [{"name": "id", "from": "/id", "type": "string"}]}],
            "gold": [{"name": "g", "write": {"overwrite": {}}, "sql": "SELECT 1 AS one"}],
        }))
        .unwrap();
        let run = |number: i64, end: &str, stages: serde_json::Value| -> LakehouseRun {
            let mut run = json!({
                "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseRun", "metadata": {"name": "r"},
                "spec": {"pipeline": "p", "interval": day(number)},
                "status": {"conditions": [{"type": "Succeeded", "status": end, "reason": "R", "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z"}]},
            });
            if !stages.is_null() {
                run["spec"]["stages"] = stages;
            }
            serde_json::from_value(run).unwrap()
        };
        let none = serde_json::Value::Null;
        let runs = [
            run(0, "True", none.clone()),
            run(1, "False", none.clone()),
            run(2, "Unknown", none),
            run(3, "True", json!(["ingest", "silver"])),
            run(4, "True", json!(["ingest", "silver"])),
            run(4, "True", json!(["gold"])),
        ];
        let completed = [day(7)];
        let history = History::new(&definition, &completed, runs.iter());
        let skipped = |rerun, stages: &[Stage]| (0..9).filter(|n| history.skips(rerun, &(&day(*n)).into(), stages)).collect::<Vec<_>>();
        assert_eq!(skipped(Rerun::Skip, &Stage::DEFAULT), [0, 1, 2, 4, 7]);
        assert_eq!(skipped(Rerun::Failed, &Stage::DEFAULT), [0, 4, 7]);
        assert_eq!(skipped(Rerun::All, &Stage::DEFAULT), [0; 0]);
        assert_eq!(skipped(Rerun::Failed, &[Stage::Ingest, Stage::Silver]), [0, 3, 4, 7]);
        let complete: Vec<bool> = runs.iter().map(|run| completes(run, &definition)).collect();
        assert_eq!(complete, [true, false, false, false, false, true]);
    }
}
