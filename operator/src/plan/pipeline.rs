//! What a pipeline's definition asks for: a run per change, the pipeline's status, and which old revisions may go.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use lakehouse_api::{
    LakehousePipeline, LakehouseRun, LakehouseSpec,
    pipeline::{LakehousePipelineStatus, LastRun, OnApplyInterval, StaleStatus},
};
use lakehouse_contract::{Interval, Stage, history, resolve};

use super::status::{finished, phase, succeeded};
use crate::conditions::{self, Verdict, instant};

/// Type of the condition that says whether a definition can be executed.
pub const READY: &str = "Ready";
/// Revisions that no run refers to, kept beside the current one.
const KEPT_REVISIONS: usize = 10;

/// What was found out about a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It can be executed; name of its ControllerRevision.
    Valid(String),
    /// Its Lakehouse does not exist.
    LakehouseNotFound(String),
    /// It cannot be executed; the message names the field.
    Invalid(String),
    /// The run that it asks for cannot be made.
    RunRefused(String),
}

/// What there is to say of the definition, which `revision` keeps, with its Lakehouse, if that exists.
///
/// What is wrong with the definition by itself is said also while its Lakehouse is missing: who writes both need not find one fault after the other.
pub fn finding(pipeline: &LakehousePipeline, lakehouse: Option<&LakehouseSpec>, revision: &str, now: DateTime<Utc>) -> Finding {
    let name = pipeline.metadata.name.as_deref().unwrap_or_default();
    let wanted = &pipeline.spec.lakehouse;
    let checked = match lakehouse {
        Some(lakehouse) => resolve::check(name, &pipeline.spec, lakehouse, now),
        None => resolve::check_alone(name, &pipeline.spec, now),
    };
    match (checked, lakehouse) {
        (Ok(()), Some(_)) => Finding::Valid(revision.to_owned()),
        (Ok(()), None) => Finding::LakehouseNotFound(wanted.clone()),
        (Err(error), Some(_)) => Finding::Invalid(error.to_string()),
        (Err(error), None) => Finding::Invalid(format!("{error}; and {}", no_lakehouse(wanted))),
    }
}

fn no_lakehouse(name: &str) -> String {
    format!("spec.lakehouse: there is no Lakehouse `{name}` in this namespace")
}

/// How far apart the clocks of two operators and of the API server may be.
const CLOCKS: TimeDelta = TimeDelta::minutes(5);

/// Whether whoever acted on this definition before made the run of the same name, if any: its interval has been the same all the time. Then the name alone
/// keeps it from being made twice.
pub fn has_one_name(pipeline: &LakehousePipeline, now: DateTime<Utc>) -> bool {
    let is_first = pipeline.metadata.generation == Some(1);
    let created = pipeline.metadata.creation_timestamp.as_ref().filter(|_| is_first).map(instant);
    let fixed = pipeline.spec.trigger.as_ref().and_then(|trigger| trigger.on_apply.as_ref()).is_some_and(|it| it.start.is_some());
    let same = |at: DateTime<Utc>| run_interval(pipeline, at) == run_interval(pipeline, now);
    fixed || created.is_some_and(|created| same(created - CLOCKS) && same(now + CLOCKS))
}

/// Whether the definition that is now in `pipeline` was acted on before.
pub fn handled(pipeline: &LakehousePipeline, revision: &str) -> bool {
    let Some(status) = &pipeline.status else { return false };
    let ready = conditions::find(&status.conditions, READY).is_some_and(|c| c.status == "True");
    let same_generation = status.observed_generation.is_some() && status.observed_generation == pipeline.metadata.generation;
    // The generation counts too: a new release of the operator may give the same definition another name.
    status.definition.as_deref() == Some(revision) || (ready && same_generation)
}

/// The interval of the run that applying this definition makes; nothing without `trigger.onApply`.
pub fn run_interval(pipeline: &LakehousePipeline, now: DateTime<Utc>) -> Option<Interval> {
    let grain = pipeline.spec.interval;
    let on_apply = pipeline.spec.trigger.as_ref()?.on_apply.as_ref()?;
    Some(match (on_apply.start, on_apply.interval.unwrap_or_default()) {
        (Some(start), _) => Interval::containing(grain, start),
        (None, OnApplyInterval::LastComplete) => Interval::last_complete(grain, now),
        (None, OnApplyInterval::Current) => Interval::containing(grain, now),
    })
}

/// The status of `pipeline`, whose runs are `runs`.
pub fn status<'a>(
    pipeline: &LakehousePipeline,
    finding: &Finding,
    runs: impl Iterator<Item = &'a LakehouseRun> + Clone,
    now: DateTime<Utc>,
) -> LakehousePipelineStatus {
    let mut status = pipeline.status.clone().unwrap_or_default();
    let verdict = match finding {
        Finding::Valid(revision) => {
            status.definition = Some(revision.clone());
            Verdict::new("True", "Valid", "the definition is valid and its Lakehouse exists")
        }
        Finding::LakehouseNotFound(name) => Verdict::new("False", "LakehouseNotFound", no_lakehouse(name)),
        Finding::Invalid(message) => Verdict::new("False", "InvalidDefinition", message.clone()),
        Finding::RunRefused(message) => Verdict::new("False", "RunRefused", message.clone()),
    };
    let generation = pipeline.metadata.generation;
    conditions::set(&mut status.conditions, READY, verdict, generation, now);
    status.observed_generation = generation;
    let state = |run: &LakehouseRun| run.status.clone().unwrap_or_default();
    status.active_runs = i32::try_from(runs.clone().filter(|run| !finished(&state(run))).count()).unwrap_or(i32::MAX);
    let newest = runs.clone().max_by_key(|run| (run.metadata.creation_timestamp.as_ref().map(instant), run.metadata.name.clone()));
    status.last_run = newest.map(|run| {
        let state = state(run);
        LastRun {
            name: run.metadata.name.clone().unwrap_or_default(),
            interval: run.spec.interval.clone(),
            phase: phase(&state).to_owned(),
            rows_written: state.rows_written,
        }
    });
    if let Some(said) =
        runs.clone().filter_map(stale).max_by(|a, b| (a.intervals.observed_at, &a.run).cmp(&(b.intervals.observed_at, &b.run)))
        && status.stale_intervals.as_ref().is_none_or(|known| known.intervals.observed_at <= said.intervals.observed_at)
    {
        status.stale_intervals = Some(said);
    }
    for run in runs.clone().filter(|run| history::completes(run, &pipeline.spec)) {
        history::complete(&mut status.completed_intervals, &run.spec.interval);
    }
    let done = runs.filter(|run| succeeded(&state(run)) && !only_maintains(run)).map(|run| run.spec.interval.start).max();
    status.last_succeeded_interval = status.last_succeeded_interval.max(done);
    status
}

/// How long the status may say nothing of a run that was made and has not begun.
const UNTIL_BEGUN: TimeDelta = TimeDelta::seconds(10);

/// How long to wait before `next` is written, if all that it says beyond `written` is that runs were made that nobody has looked at yet.
pub fn begins_soon<'a>(
    written: Option<&LakehousePipelineStatus>,
    next: &LakehousePipelineStatus,
    runs: impl Iterator<Item = &'a LakehouseRun>,
    now: DateTime<Utc>,
) -> Option<Duration> {
    let same = LakehousePipelineStatus { active_runs: next.active_runs, last_run: next.last_run.clone(), ..written?.clone() };
    if same != *next || written == Some(next) {
        return None;
    }
    let fresh = runs.filter(|run| run.status.is_none());
    let youngest = fresh.filter_map(|run| run.metadata.creation_timestamp.as_ref()).map(instant).max()?;
    (youngest + UNTIL_BEGUN - now).to_std().ok().filter(|left| !left.is_zero())
}

/// What the gold stage of a run found stale. Of runs side by side the one that looked last saw the commits of the others; which of them ended
/// last says nothing.
fn stale(run: &LakehouseRun) -> Option<StaleStatus> {
    let gold = run.status.as_ref()?.stages.iter().find(|stage| stage.name == Stage::Gold)?;
    let mut intervals = gold.stale.clone()?;
    // Jobs of older releases do not say when they looked.
    intervals.observed_at = Some(intervals.observed_at.or(gold.finished_at)?);
    Some(StaleStatus { intervals, run: run.metadata.name.clone()? })
}

/// Whether a run brings no data: it says nothing of its interval.
fn only_maintains(run: &LakehouseRun) -> bool {
    run.spec.stages.as_deref() == Some(&[Stage::Maintenance])
}

/// Of the revisions (name, number) of a pipeline, those that may be deleted: beyond the newest ten that neither a run
/// nor the pipeline refers to.
pub fn prunable(mut revisions: Vec<(String, i64)>, current: &str, referred: &BTreeSet<String>) -> Vec<String> {
    revisions.retain(|(name, _)| name != current && !referred.contains(name));
    revisions.sort_by(|a, b| (b.1, &b.0).cmp(&(a.1, &a.0)));
    revisions.into_iter().skip(KEPT_REVISIONS).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    fn pipeline(trigger: serde_json::Value) -> LakehousePipeline {
        serde_json::from_value(json!({
            "apiVersion": "lakehouse.rs/v1alpha1",
            "kind": "LakehousePipeline",
            "metadata": {"name": "p", "namespace": "ns", "generation": 3},
            "spec": {"lakehouse": "main", "trigger": trigger, "ingest": [{"name": "s", "pulse": {}}]}
        }))
        .unwrap()
    }

    #[test]
    fn a_run_that_is_about_to_begin_is_told_of_when_it_has() {
        let (definition, now) = (pipeline(json!({"external": {}})), at("2024-01-05T00:00:01Z"));
        let valid = Finding::Valid("p-0123456789".to_owned());
        let status_of = |known: &LakehousePipeline, runs: &[&LakehouseRun]| status(known, &valid, runs.iter().copied(), now);
        let mut made = run("b", "2024-01-05T00:00:00Z", 2, None);
        made.status = None;
        // The first status is not held back.
        let first = status_of(&definition, &[&made]);
        assert_eq!(begins_soon(None, &first, [&made].into_iter(), now), None);
        let known = LakehousePipeline { status: Some(status_of(&definition, &[])), ..definition };
        let next = status_of(&known, &[&made]);
        assert_eq!(begins_soon(known.status.as_ref(), &next, [&made].into_iter(), now), Some(Duration::from_secs(9)));
        assert_eq!(begins_soon(known.status.as_ref(), &next, [&made].into_iter(), now + TimeDelta::seconds(9)), None, "it had its time");
        // It has begun, or something else is to be said.
        let begun = run("b", "2024-01-05T00:00:00Z", 2, Some(("Unknown", "Running")));
        assert_eq!(begins_soon(known.status.as_ref(), &status_of(&known, &[&begun]), [&begun].into_iter(), now), None);
        let ended = run("a", "2024-01-04T00:00:00Z", 1, Some(("True", "Completed")));
        assert_eq!(begins_soon(known.status.as_ref(), &status_of(&known, &[&ended, &made]), [&ended, &made].into_iter(), now), None);
        assert_eq!(begins_soon(known.status.as_ref(), known.status.as_ref().unwrap(), [&made].into_iter(), now), None);
    }

    fn run(name: &str, created: &str, day: u32, phase: Option<(&str, &str)>) -> LakehouseRun {
        let conditions: Vec<_> = phase
            .map(|(status, reason)| json!({"type": "Succeeded", "status": status, "reason": reason, "message": "", "lastTransitionTime": created}))
            .into_iter()
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "lakehouse.rs/v1alpha1",
            "kind": "LakehouseRun",
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"pipeline": "p", "interval": {"start": format!("2024-01-{day:02}T00:00:00Z"), "end": format!("2024-01-{:02}T00:00:00Z", day + 1)}},
            "status": {"conditions": conditions, "rowsWritten": 7}
        }))
        .unwrap()
    }

    #[test]
    fn the_trigger_names_an_interval() {
        let now = at("2024-03-05T10:00:00Z");
        let start = |trigger| run_interval(&pipeline(trigger), now).map(|i| i.start);
        assert_eq!(start(json!({"onApply": {}})), Some(at("2024-03-04T00:00:00Z")));
        assert_eq!(start(json!({"onApply": {"interval": "current"}})), Some(at("2024-03-05T00:00:00Z")));
        assert_eq!(start(json!({"onApply": {"start": "2024-01-02T12:00:00Z"}})), Some(at("2024-01-02T00:00:00Z")));
        assert_eq!(start(json!({"external": {}})), None);
        assert_eq!(start(serde_json::Value::Null), None);
    }

    #[test]
    fn what_is_wrong_with_a_definition_is_said_without_its_lakehouse() {
        let now = at("2024-03-05T10:00:00Z");
        let mut it = pipeline(json!({"external": {}}));
        assert_eq!(finding(&it, None, "p-1", now), Finding::LakehouseNotFound("main".into()));
        let source = json!({"name": "s", "http": {"connection": "nowhere", "path": "/{{ intervall.start }}"}});
        it.spec.ingest = vec![serde_json::from_value(source).unwrap()];
        let Finding::Invalid(message) = finding(&it, None, "p-1", now) else { panic!("its path cannot be rendered") };
        assert!(message.starts_with("spec.ingest[s].http.path: "), "{message}");
        assert!(message.ends_with("; and spec.lakehouse: there is no Lakehouse `main` in this namespace"), "{message}");
        // Whether there is such a connection, only the Lakehouse knows.
        it.spec.ingest[0].http.as_mut().unwrap().path = "/{{ interval.start }}".to_owned();
        assert_eq!(finding(&it, None, "p-1", now), Finding::LakehouseNotFound("main".into()));
    }

    #[test]
    fn a_run_has_one_name_while_its_interval_is_the_same() {
        let mut it = pipeline(json!({"onApply": {}}));
        let (created, now) = (at("2024-03-05T10:00:00Z"), at("2024-03-05T12:00:00Z"));
        it.metadata.creation_timestamp = Some(serde_json::from_value(json!("2024-03-05T10:00:00Z")).unwrap());
        assert!(!has_one_name(&it, now), "nobody knows since when it has been like this");
        it.metadata.generation = Some(1);
        assert!(has_one_name(&it, now));
        assert!(has_one_name(&it, created));
        assert!(!has_one_name(&it, at("2024-03-06T00:00:01Z")), "it was another day");
        assert!(!has_one_name(&it, at("2024-03-05T23:59:00Z")), "for another clock it may be another day");
        it.metadata.generation = Some(7);
        it.spec.trigger = serde_json::from_value(json!({"onApply": {"start": "2024-01-02T12:00:00Z"}})).unwrap();
        assert!(has_one_name(&it, now), "an interval that the definition names is always the same");
    }

    #[test]
    fn a_definition_is_handled_once() {
        let now = at("2024-03-05T10:00:00Z");
        let mut it = pipeline(json!({"onApply": {}}));
        assert!(!handled(&it, "p-1"));
        it.status = Some(status(&it, &Finding::LakehouseNotFound("main".into()), [].iter(), now));
        assert!(!handled(&it, "p-1"), "it waits for its Lakehouse");
        it.status = Some(status(&it, &Finding::Valid("p-1".into()), [].iter(), now));
        assert!(handled(&it, "p-1"));
        assert!(handled(&it, "p-renamed-by-a-release"));
        it.metadata.generation = Some(4);
        assert!(!handled(&it, "p-2"));
        // The Lakehouse goes and comes back: the same definition makes no second run.
        it.metadata.generation = Some(3);
        it.status = Some(status(&it, &Finding::LakehouseNotFound("main".into()), [].iter(), now));
        assert!(handled(&it, "p-1"));
    }

    #[test]
    fn the_status_sums_up_the_runs() {
        let now = at("2024-03-05T10:00:00Z");
        let runs = [
            run("a", "2024-03-01T00:00:00Z", 3, Some(("True", "Completed"))),
            run("b", "2024-03-02T00:00:00Z", 1, Some(("True", "Completed"))),
            run("c", "2024-03-03T00:00:00Z", 5, Some(("Unknown", "Running"))),
            run("d", "2024-03-03T00:00:00Z", 6, None),
        ];
        let mut it = pipeline(json!({"onApply": {}}));
        let found = status(&it, &Finding::Valid("p-1".into()), runs.iter(), now);
        assert_eq!(found.active_runs, 2);
        assert_eq!(found.last_run.as_ref().map(|r| (r.name.as_str(), r.phase.as_str())), Some(("d", "Pending")));
        assert_eq!(found.last_succeeded_interval, Some(at("2024-01-03T00:00:00Z")));
        it.status = Some(found.clone());
        assert_eq!(
            status(&it, &Finding::Valid("p-1".into()), runs.iter(), at("2024-03-06T10:00:00Z")),
            found,
            "nothing new, nothing written"
        );
    }

    #[test]
    fn the_gold_stage_that_looked_last_says_what_is_stale() {
        let now = at("2024-03-05T10:00:00Z");
        let gold = |name: &str, day: u32, ended: &str, stale: serde_json::Value| {
            let mut it = run(name, "2024-03-01T00:00:00Z", day, Some(("True", "Completed")));
            let stage = json!({"name": "gold", "state": "Succeeded", "finishedAt": ended, "stale": stale});
            it.status.as_mut().unwrap().stages = vec![serde_json::from_value(stage).unwrap()];
            it
        };
        let two = json!({"count": 2, "oldest": ["2024-01-04T00:00:00Z", "2024-01-05T00:00:00Z"]});
        let mut runs = vec![gold("b", 3, "2024-03-01T12:00:00Z", two), gold("a", 9, "2024-03-01T11:00:00Z", json!({"count": 0}))];
        let mut it = pipeline(json!({"external": {}}));
        let found = |it: &LakehousePipeline, runs: &[LakehouseRun]| status(it, &Finding::Valid("p-1".into()), runs.iter(), now);
        let said = found(&it, &runs).stale_intervals.unwrap();
        assert_eq!((said.run.as_str(), said.intervals.count), ("b", 2));
        assert_eq!(said.intervals.oldest, [at("2024-01-04T00:00:00Z"), at("2024-01-05T00:00:00Z")]);
        // A run that did not say anything, because it failed or is of an older release, changes nothing.
        runs.push(gold("c", 4, "2024-03-01T13:00:00Z", serde_json::Value::Null));
        it.status = Some(found(&it, &runs));
        assert_eq!(it.status.as_ref().unwrap().stale_intervals, Some(said.clone()));
        assert_eq!(found(&it, &[]).stale_intervals, Some(said), "runs may be deleted");
        runs.push(gold("d", 4, "2024-03-01T14:00:00Z", json!({"count": 0})));
        assert_eq!(found(&it, &runs).stale_intervals.map(|said| (said.run, said.intervals.count)), Some(("d".to_owned(), 0)));
        // Two that ended in the same second: the one that looked first cannot have seen what the other committed.
        let one = json!({"count": 1, "oldest": ["2024-01-04T00:00:00Z"], "observedAt": "2024-03-01T14:59:58.300001Z"});
        let none = json!({"count": 0, "observedAt": "2024-03-01T14:59:58.300000Z"});
        runs.extend([gold("e", 4, "2024-03-01T15:00:00Z", one), gold("f", 4, "2024-03-01T15:00:00Z", none)]);
        assert_eq!(found(&it, &runs).stale_intervals.map(|said| (said.run, said.intervals.count)), Some(("e".to_owned(), 1)));
    }

    #[test]
    fn revisions_in_use_stay() {
        let all: Vec<(String, i64)> = (1..=15).map(|n| (format!("p-{n:02}"), n)).collect();
        let referred = BTreeSet::from(["p-01".to_owned()]);
        assert_eq!(prunable(all.clone(), "p-15", &referred), ["p-04", "p-03", "p-02"]);
        assert!(prunable(all[..11].to_vec(), "p-01", &BTreeSet::new()).is_empty());
    }
}
