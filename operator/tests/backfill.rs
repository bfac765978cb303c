//! Backfills against a simulated cluster: whatever happens between two writes, and in whatever order runs end, every interval is run as it was asked for.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use lakehouse_api::{LakehouseBackfill, LakehouseBackfillStatus, LakehouseRun, common::Stage, run::RunState};
use lakehouse_operator::{
    build,
    plan::{
        Note,
        backfill::{Definition, Observed, Step, decide, is_finished},
    },
};
use serde_json::{Value, json};

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

#[derive(Clone)]
struct World {
    backfill: LakehouseBackfill,
    runs: BTreeMap<String, LakehouseRun>,
    others: Vec<LakehouseRun>,
    definition: Definition,
    /// Names of runs in the order in which they were made, with how often.
    made: Vec<String>,
    /// Names of runs that will fail.
    fail: BTreeSet<String>,
    now: DateTime<Utc>,
    notes: Vec<Note>,
    writes: usize,
    dice: u64,
}

impl World {
    /// A backfill of the first five days of January.
    fn new(gold: Value, spec: Value) -> Self {
        let mut all = json!({"pipeline": "p", "range": {"start": "2024-01-01T00:00:00Z", "end": "2024-01-06T00:00:00Z"}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let backfill = json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseBackfill",
            "metadata": {"name": "b", "namespace": "ns", "uid": "0f0e0d0c-0b0a-4908-8706-050403020100", "generation": 1}, "spec": all
        });
        let definition = json!({
            "lakehouse": "main", "parameters": {"limit": "1"}, "ingest": [{"name": "s", "pulse": {}}], "gold": gold,
            "silver": [{"name": "t", "from": "s", "write": {"append": {}}, "columns": [{"name": "id", "from": "/id", "type": "string"}]}],
        });
        let lakehouse = json!({"objectStore": {"credentialsSecret": "s"}, "catalog": {"sql": {"uriSecret": {"name": "c", "key": "uri"}}}});
        Self {
            backfill: serde_json::from_value(backfill).unwrap(),
            runs: BTreeMap::new(),
            others: Vec::new(),
            definition: Definition::Known {
                revision: "p-0123456789".into(),
                kept: false,
                spec: serde_json::from_value(definition).unwrap(),
                lakehouse: serde_json::from_value(lakehouse).unwrap(),
                completed: Vec::new(),
            },
            made: Vec::new(),
            fail: BTreeSet::new(),
            now: at("2024-06-01T00:00:00Z"),
            notes: Vec::new(),
            writes: 0,
            dice: 1,
        }
    }

    fn status(&self) -> LakehouseBackfillStatus {
        self.backfill.status.clone().unwrap_or_default()
    }

    fn phase(&self) -> (String, String) {
        let status = self.status();
        status.conditions.first().map(|c| (c.status.clone(), c.reason.clone())).unwrap_or_default()
    }

    fn decide(&self) -> Step {
        let own: Vec<&LakehouseRun> = self.runs.values().collect();
        let others: Vec<&LakehouseRun> = self.others.iter().collect();
        decide(&self.backfill, &Observed { definition: &self.definition, own: &own, others: &others, made: &[] }, self.now)
    }

    /// One step of the operator. Whether it wrote something.
    fn step(&mut self) -> bool {
        let step = self.decide();
        self.apply(step)
    }

    fn apply(&mut self, step: Step) -> bool {
        self.writes += 1;
        match step {
            Step::KeepDefinition => {
                let Definition::Known { kept, .. } = &mut self.definition else { panic!("nothing to keep") };
                *kept = true;
            }
            Step::Record { status, notes } => {
                assert_ne!(Some(status.as_ref()), self.backfill.status.as_ref(), "a write that changes nothing");
                let total = status.active + status.succeeded + status.failed + status.remaining;
                assert_eq!(total, status.planned, "{status:?}");
                self.backfill.status = Some(*status);
                self.notes.extend(notes);
            }
            Step::Create(order) => {
                let run = build::backfill_run(&self.backfill, "p-0123456789", &order);
                if !self.runs.contains_key(&order.name) {
                    self.made.push(order.name.clone());
                    self.runs.insert(order.name, run);
                }
            }
            Step::Cancel { run } => self.runs.get_mut(&run).unwrap().spec.state = RunState::Cancelled,
            Step::Wait | Step::LookAgain | Step::Done => {
                self.writes -= 1;
                return false;
            }
        }
        true
    }

    fn active(&self) -> Vec<String> {
        self.runs.iter().filter(|(_, run)| run.status.is_none()).map(|(name, _)| name.clone()).collect()
    }

    fn end(&mut self, name: &str, seconds: i64) {
        let run = self.runs.get_mut(name).unwrap();
        let (status, reason) = match run.spec.state {
            RunState::Cancelled => ("False", "Cancelled"),
            _ if self.fail.contains(name) => ("False", "StoreUnavailable"),
            _ => ("True", "Completed"),
        };
        let started = self.now;
        self.now += TimeDelta::seconds(seconds);
        let condition = json!({"type": "Succeeded", "status": status, "reason": reason, "message": "", "lastTransitionTime": self.now});
        run.status =
            Some(serde_json::from_value(json!({"conditions": [condition], "startedAt": started, "finishedAt": self.now})).unwrap());
    }

    /// One of the runs at work ends, whichever.
    fn one_ends(&mut self) -> bool {
        let active = self.active();
        if active.is_empty() {
            return false;
        }
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let name = active[(self.dice >> 33) as usize % active.len()].clone();
        self.end(&name, 60);
        true
    }

    /// Until nothing is to be done, with what is promised about every moment.
    fn settle(&mut self) {
        for _ in 0..500 {
            if self.step() {
                self.check();
            } else if !self.one_ends() {
                return;
            }
        }
        panic!("no end: {:#?}", self.status());
    }

    fn check(&self) {
        let active = self.active();
        assert!(active.len() <= usize::try_from(self.backfill.spec.max_parallel).unwrap(), "{active:?}");
        let gold: Vec<&LakehouseRun> = self.runs.values().filter(|run| run.spec.stages == Some(vec![Stage::Gold])).collect();
        if self.is_split() {
            assert!(gold.iter().filter(|run| run.status.is_none()).count() <= 1, "gold goes one at a time");
            let order: Vec<&String> = self.made.iter().filter(|name| name.contains("-gold-")).collect();
            assert!(order.is_sorted(), "gold goes forward: {order:?}");
            for run in gold.iter().filter(|run| run.spec.refresh.is_none()) {
                let before = self
                    .runs
                    .values()
                    .filter(|data| data.spec.stages != run.spec.stages && data.spec.interval.start <= run.spec.interval.start);
                assert!(before.into_iter().all(|data| data.status.is_some()), "the data of it and of all before is there");
            }
        }
    }

    fn is_split(&self) -> bool {
        self.made.iter().any(|name| name.contains("-data-"))
    }

    /// Labels of what was made, in order.
    fn order(&self) -> Vec<String> {
        self.made.iter().map(|name| name.strip_prefix("b-2024-01-").unwrap_or(name).rsplit_once('-').unwrap().0.to_owned()).collect()
    }

    fn counts(&self) -> [i32; 6] {
        let status = self.status();
        [status.planned, status.skipped, status.active, status.succeeded, status.failed, status.remaining]
    }
}

fn lookback() -> Value {
    json!([{"name": "g", "lookback": 2, "write": {"replaceInterval": {"column": "day"}}, "sql": "SELECT 1 AS one"}])
}

fn plain() -> Value {
    json!([{"name": "g", "write": {"replaceInterval": {"column": "day"}}, "sql": "SELECT 1 AS one"}])
}

fn scenarios() -> Vec<(&'static str, World)> {
    let mut failing = World::new(lookback(), json!({"maxParallel": 3}));
    failing.fail = failing_names(&failing, &["b-2024-01-02-data"]);
    vec![
        ("whole runs", World::new(plain(), json!({"maxParallel": 3}))),
        ("backward", World::new(plain(), json!({"order": "Backward"}))),
        ("split", World::new(lookback(), json!({"maxParallel": 3}))),
        ("split, backward", World::new(lookback(), json!({"maxParallel": 2, "order": "Backward"}))),
        ("gold alone", World::new(lookback(), json!({"stages": ["gold"], "maxParallel": 4}))),
        ("refresh", World::new(lookback(), json!({"refresh": "Stale"}))),
        ("a failure", failing),
    ]
}

/// The full names that begin like these.
fn failing_names(world: &World, beginnings: &[&str]) -> BTreeSet<String> {
    let mut whole = world.clone();
    whole.settle();
    let begins = |name: &&String| beginnings.iter().any(|beginning| name.starts_with(&format!("{beginning}-")));
    whole.made.iter().filter(begins).cloned().collect()
}

#[test]
fn every_scenario_ends_as_expected() {
    let ends: Vec<_> = scenarios()
        .into_iter()
        .map(|(name, mut world)| {
            world.settle();
            let (status, reason) = world.phase();
            assert!(world.status().finished_at.is_some(), "{name}");
            (name, format!("{status} {reason}"), world.made.len(), world.counts())
        })
        .collect();
    let done = [5, 0, 0, 5, 0, 0];
    let expected = [
        ("whole runs", "True Completed", 5, done),
        ("backward", "True Completed", 5, done),
        ("split", "True Completed", 10, done),
        ("split, backward", "True Completed", 10, done),
        ("gold alone", "True Completed", 5, done),
        ("refresh", "True Completed", 11, done),
        ("a failure", "False IntervalsFailed", 9, [5, 0, 0, 4, 1, 0]),
    ];
    assert_eq!(ends, expected.map(|(name, phase, made, counts)| (name, phase.to_owned(), made, counts)));
}

#[test]
fn intervals_go_in_the_order_asked_for_and_gold_forward() {
    let order = |gold, spec| {
        let mut world = World::new(gold, spec);
        world.settle();
        world.order()
    };
    assert_eq!(order(plain(), json!({"maxParallel": 1})), ["01", "02", "03", "04", "05"]);
    assert_eq!(order(plain(), json!({"maxParallel": 1, "order": "Backward"})), ["05", "04", "03", "02", "01"]);
    let forward = ["01-data", "01-gold", "02-data", "02-gold", "03-data", "03-gold", "04-data", "04-gold", "05-data", "05-gold"];
    assert_eq!(order(lookback(), json!({"maxParallel": 1})), forward);
    let backward = ["05-data", "04-data", "03-data", "02-data", "01-data", "01-gold", "02-gold", "03-gold", "04-gold", "05-gold"];
    assert_eq!(order(lookback(), json!({"maxParallel": 1, "order": "Backward"})), backward);
    let mut world = World::new(lookback(), json!({"parameters": {"limit": "5"}}));
    world.settle();
    let run = &world.runs[&world.made[0]];
    assert_eq!(run.spec.stages, Some(vec![Stage::Ingest, Stage::Silver]));
    assert_eq!(
        (run.spec.parameters["limit"].as_str(), run.metadata.labels.as_ref().unwrap()["lakehouse.rs/backfill"].as_str()),
        ("5", "b")
    );
    assert_eq!(run.metadata.owner_references.as_ref().unwrap()[0].kind, "LakehouseBackfill");
}

/// A restart between any two writes changes nothing, whatever ended meanwhile.
#[test]
fn an_operator_that_crashes_after_any_write_ends_the_same() {
    for (name, start) in scenarios() {
        let mut whole = start.clone();
        whole.settle();
        for crash in 0..=whole.writes {
            for seed in 0..4 {
                let mut world = start.clone();
                world.dice = seed;
                while world.writes < crash && (world.step() || world.one_ends()) {}
                world.one_ends();
                world.settle();
                assert_eq!((world.phase(), world.counts()), (whole.phase(), whole.counts()), "{name}, crash after write {crash}");
                let unique: BTreeSet<&String> = world.made.iter().collect();
                assert_eq!(unique.len(), world.made.len(), "{name}: {:?}", world.made);
            }
        }
    }
}

/// An operator that decides on what it saw some writes ago makes nothing twice.
#[test]
fn a_stale_observation_does_no_harm() {
    for (name, start) in scenarios() {
        let mut whole = start.clone();
        whole.settle();
        for stale in 0..whole.writes {
            let mut world = start.clone();
            while world.writes < stale && (world.step() || world.one_ends()) {}
            let (seen, before) = (world.decide(), world.backfill.status.clone());
            for _ in 0..3 {
                if !world.step() {
                    world.one_ends();
                }
            }
            // A status decided on an old one is refused.
            if !matches!(seen, Step::Record { .. }) || before == world.backfill.status {
                world.apply(seen);
            }
            world.settle();
            assert_eq!((world.phase(), world.counts()), (whole.phase(), whole.counts()), "{name}, stale at write {stale}");
            let unique: BTreeSet<&String> = world.made.iter().collect();
            assert_eq!(unique.len(), world.made.len());
        }
    }
}

#[test]
fn a_dry_run_names_what_would_be_run_and_makes_nothing() {
    let mut world = World::new(lookback(), json!({"dryRun": true, "order": "Backward"}));
    let mut other = world.clone();
    other.backfill.spec.dry_run = false;
    other.settle();
    let mut done = other.runs[&other.made[0]].clone();
    done.spec.stages = None;
    done.metadata.owner_references = None;
    world.others.push(done);
    world.settle();
    assert_eq!(world.phase(), ("True".into(), "DryRun".into()));
    assert!(world.made.is_empty() && world.writes == 1);
    let days: Vec<String> = world.status().intervals.iter().map(|start| start.format("%d").to_string()).collect();
    assert_eq!((days.join(" "), world.counts()), ("04 03 02 01".into(), [4, 1, 0, 0, 0, 4]));
}

#[test]
fn what_has_run_is_left_alone_as_asked() {
    let run = |day: u32, status: &str| -> LakehouseRun {
        let condition =
            json!({"type": "Succeeded", "status": status, "reason": "R", "message": "", "lastTransitionTime": "2024-02-01T00:00:00Z"});
        serde_json::from_value(json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseRun", "metadata": {"name": format!("r{day}")},
            "spec": {"pipeline": "p", "interval": {"start": format!("2024-01-{day:02}T00:00:00Z"), "end": format!("2024-01-{:02}T00:00:00Z", day + 1)}},
            "status": {"conditions": [condition]},
        }))
        .unwrap()
    };
    let mut orders = BTreeMap::new();
    for rerun in ["Skip", "Failed", "All"] {
        let mut world = World::new(plain(), json!({"rerun": rerun}));
        world.others = vec![run(1, "True"), run(2, "False")];
        if let Definition::Known { completed, .. } = &mut world.definition {
            // Known of a run that is gone.
            completed.push(run(3, "True").spec.interval);
        }
        world.settle();
        orders.insert(rerun, world.order().join(" "));
        assert_eq!(world.phase().1, "Completed");
    }
    assert_eq!(orders, BTreeMap::from([("Skip", "04 05".into()), ("Failed", "02 04 05".into()), ("All", "01 02 03 04 05".into())]));
    let mut world = World::new(plain(), json!({}));
    world.others = (1..=5).map(|day| run(day, "True")).collect();
    world.settle();
    assert_eq!((world.phase().1.as_str(), world.made.len()), ("NothingToRun", 0));
}

#[test]
fn a_suspended_backfill_makes_nothing_and_goes_on() {
    for (name, start) in scenarios() {
        let mut whole = start.clone();
        whole.settle();
        for moment in 0..whole.writes {
            let mut world = start.clone();
            while world.writes < moment && (world.step() || world.one_ends()) {}
            if is_finished(&world.status()) {
                continue;
            }
            world.backfill.spec.state = RunState::Suspended;
            let before = world.made.len();
            world.settle();
            assert_eq!(world.made.len(), before, "{name}: no run is made");
            let (phase, writes) = (world.phase().1, world.writes);
            assert!(phase == "Suspended" || is_finished(&world.status()), "{name} at {moment}: {phase}");
            world.step();
            assert_eq!(world.writes, writes, "it says so once");
            world.backfill.spec.state = RunState::Active;
            world.settle();
            assert_eq!((world.phase(), world.counts()), (whole.phase(), whole.counts()), "{name}, suspended after write {moment}");
        }
    }
}

#[test]
fn a_cancelled_backfill_stops_its_runs() {
    for (name, start) in scenarios() {
        let mut whole = start.clone();
        whole.settle();
        for moment in 0..whole.writes {
            let mut world = start.clone();
            while world.writes < moment && (world.step() || world.one_ends()) {}
            if is_finished(&world.status()) {
                continue;
            }
            world.backfill.spec.state = RunState::Cancelled;
            let (before, active) = (world.made.len(), world.active());
            world.settle();
            assert_eq!((world.made.len(), world.phase().1.as_str()), (before, "Cancelled"), "{name}, cancelled after write {moment}");
            assert!(active.iter().all(|run| world.runs[run].spec.state == RunState::Cancelled), "{name}");
        }
    }
}

#[test]
fn one_whose_pipeline_is_gone_can_be_cancelled() {
    let mut world = World::new(lookback(), json!({}));
    while world.step() {}
    let active = world.active();
    world.definition = Definition::Missing { reason: "PipelineNotFound", message: "there is no LakehousePipeline `p`".into() };
    world.step();
    assert_eq!((active.len(), world.phase().1.as_str()), (2, "PipelineNotFound"));
    world.backfill.spec.state = RunState::Cancelled;
    world.settle();
    assert_eq!(world.phase(), ("False".into(), "Cancelled".into()));
    assert!(active.iter().all(|run| world.runs[run].spec.state == RunState::Cancelled));
}

#[test]
fn too_many_failures_stop_it() {
    let mut world = World::new(plain(), json!({"maxParallel": 1, "maxFailed": 1}));
    world.fail = failing_names(&world, &["b-2024-01-01", "b-2024-01-02", "b-2024-01-03"]);
    world.settle();
    assert_eq!((world.phase(), world.counts()), (("False".into(), "TooManyFailures".into()), [5, 0, 0, 0, 2, 3]));
    let status = world.status();
    assert_eq!(status.failed_runs.len(), 2);
    assert!(status.conditions[0].message.contains(&status.failed_runs[0]), "{}", status.conditions[0].message);
    assert!(world.notes.iter().any(|note| note.warning && note.reason == "TooManyFailures"));
}

#[test]
fn a_failed_refresh_is_a_failure() {
    let mut world = World::new(lookback(), json!({"refresh": "Full"}));
    world.fail = failing_names(&world, &["b-refresh"]);
    assert_eq!(world.fail.len(), 1);
    world.settle();
    assert_eq!(world.phase().1, "RefreshFailed");
}

#[test]
fn the_estimate_comes_from_the_median_and_moves_only_when_a_run_ends() {
    let mut world = World::new(plain(), json!({"maxParallel": 2}));
    while world.step() {}
    assert_eq!(world.status().estimated_completion, None);
    for seconds in [100, 700] {
        let run = world.active()[0].clone();
        world.end(&run, seconds);
        while world.step() {}
    }
    // 100 s and 700 s; the upper median; three intervals left on two places.
    let last = world.now;
    assert_eq!(world.status().estimated_completion, Some(last + TimeDelta::seconds(1_050)));
    let writes = world.writes;
    for _ in 0..10 {
        world.now += TimeDelta::seconds(45);
        world.step();
    }
    assert_eq!(world.writes, writes, "nothing is written while nothing ends");
}

#[test]
fn what_cannot_be_is_said() {
    let mut world = World::new(plain(), json!({"range": {"start": "2024-01-01T05:00:00Z", "end": "2024-01-06T00:00:00Z"}}));
    world.settle();
    assert_eq!((world.phase().1.as_str(), world.made.len()), ("InvalidBackfill", 0));
    assert!(world.status().conditions[0].message.starts_with("spec.range.start: 2024-01-01T05:00:00Z lies within"));
    let mut world = World::new(plain(), json!({}));
    let known = world.definition.clone();
    world.definition = Definition::Missing { reason: "PipelineNotFound", message: "there is no LakehousePipeline `p`".into() };
    world.settle();
    assert_eq!((world.phase(), world.writes), (("Unknown".into(), "PipelineNotFound".into()), 1));
    world.definition = known;
    world.settle();
    assert_eq!(world.phase().1, "Completed");
}
