//! The operator's decisions against a simulated cluster: whatever happens between two writes, a run ends the same.
//!
//! The simulated API server keeps one run and its Jobs; time moves when the operator waits. Every scenario is replayed with
//! an accident after its n-th write, for every n.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use lakehouse_api::{LakehouseRun, common::Stage, run::StageState};
use lakehouse_contract::{MaintenanceReport, Reason, StageFailure, Termination, Totals};
use lakehouse_operator::{
    build::{GOES_SOONER, KEPT},
    plan::{
        Note,
        admission::Admission,
        outcome::{ContainerExit, JobEnd, JobView, PodView},
        run::{Definition, Observed, Obstacle, Step, decide},
        status::{finished, phase},
    },
};
use serde_json::json;

/// How an attempt of a stage ends in the simulated cluster.
#[derive(Clone, Copy, Debug)]
enum End {
    Done,
    Retryable,
    Terminal,
    OutOfMemory,
    /// It succeeds, and its pod is deleted before anybody read what it had to say.
    Unheard,
}

/// The cluster: what an API server and the Job controller would hold.
#[derive(Clone)]
struct World {
    run: LakehouseRun,
    jobs: BTreeMap<String, JobView>,
    /// Names of Jobs ever made, with how often.
    made: BTreeMap<String, u32>,
    /// Effects of stages: which stages did their work, by what the data says (a repeated one changes nothing).
    committed: BTreeSet<String>,
    definition: Definition,
    obstacle: Option<Obstacle>,
    ends: BTreeMap<(String, i32), End>,
    now: DateTime<Utc>,
    notes: Vec<Note>,
    writes: usize,
}

fn epoch() -> DateTime<Utc> {
    DateTime::from_timestamp(1_704_067_200, 0).unwrap()
}

fn run(state: &str) -> LakehouseRun {
    serde_json::from_value(json!({
        "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseRun",
        "metadata": {"name": "crypto-2024-01-01", "namespace": "ns", "uid": "0f0e0d0c-0b0a-4908-8706-050403020100", "generation": 1},
        "spec": {"pipeline": "crypto", "interval": {"start": "2024-01-01T00:00:00Z", "end": "2024-01-02T00:00:00Z"}, "state": state}
    }))
    .unwrap()
}

fn termination(stage: &str, failure: Option<Reason>) -> String {
    let failure = failure.map(|reason| (&StageFailure::new(reason, "the message of the job")).into());
    let totals = match stage {
        "maintenance" => Totals::default(),
        _ => Totals { rows_read: 20, rows_written: 19, rows_quarantined: 1, ..Totals::default() },
    };
    Termination {
        contract: 1,
        failure,
        totals,
        maintenance: (stage == "maintenance").then_some(MaintenanceReport {
            files_before: 12,
            files_after: 3,
            snapshots_expired: 4,
            expired_files_deleted: 15,
            orphans_deleted: 5,
            not_deleted: 1,
            ..MaintenanceReport::default()
        }),
        stale: None,
        tables: vec![("silver.coins".into(), Some("42".into()), 19)],
        report: Some("s3://silver/report.json".into()),
        report_digest: Some("00".repeat(32)),
    }
    .to_message()
}

impl World {
    fn new(retries: i32) -> Self {
        Self {
            run: run("Active"),
            jobs: BTreeMap::new(),
            made: BTreeMap::new(),
            committed: BTreeSet::new(),
            definition: Definition::Known {
                revision: "crypto-0123456789".into(),
                kept: false,
                stages: Stage::DEFAULT.to_vec(),
                inputs: None,
                renders: false,
                jobs: serde_json::from_value(json!({"retries": retries, "backoff": "30s", "ttlAfterFinished": "1h"})).unwrap(),
            },
            obstacle: None,
            ends: BTreeMap::new(),
            now: epoch(),
            notes: Vec::new(),
            writes: 0,
        }
    }

    fn ending(mut self, stage: Stage, attempt: i32, end: End) -> Self {
        self.ends.insert((stage.to_string(), attempt), end);
        self
    }

    fn observed(&self) -> Observed {
        Observed {
            definition: self.definition.clone(),
            admission: Admission::Granted,
            jobs: self.jobs.values().cloned().collect(),
            obstacle: self.obstacle.clone(),
        }
    }

    fn status(&self) -> lakehouse_api::LakehouseRunStatus {
        self.run.status.clone().unwrap_or_default()
    }

    /// One step of an operator that sees `run` and `observed`. Whether there was something to do.
    fn apply(&mut self, seen: &LakehouseRun, observed: &Observed) -> bool {
        let step = decide(seen, observed, self.now);
        self.writes += 1;
        match step {
            Step::KeepDefinition => {
                let Definition::Known { kept, .. } = &mut self.definition else { panic!("nothing to keep") };
                *kept = true;
            }
            // Optimistic concurrency: a status decided on an old one is refused.
            Step::Record { status, notes } => {
                if seen.status == self.run.status {
                    assert_ne!(Some(status.as_ref()), self.run.status.as_ref(), "a write that changes nothing");
                    self.run.status = Some(*status);
                    self.notes.extend(notes);
                }
            }
            Step::Create { job, .. } => {
                if !self.jobs.contains_key(&job) {
                    *self.made.entry(job.clone()).or_default() += 1;
                    self.jobs.insert(job.clone(), JobView { name: job, created: self.now, ttl: Some(GOES_SOONER), ..JobView::default() });
                }
            }
            Step::Delete { job, .. } => {
                self.jobs.remove(&job);
            }
            Step::Expire { job, seconds, .. } => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.ttl = Some(seconds);
                }
            }
            Step::Wait(wait) => {
                self.writes -= 1;
                self.now += TimeDelta::from_std(wait).unwrap();
                return self.cluster_moves();
            }
            Step::Done => {
                self.writes -= 1;
                return self.expire_all();
            }
        }
        true
    }

    /// Running pods end.
    fn cluster_moves(&mut self) -> bool {
        for job in self.jobs.values_mut().filter(|job| job.end.is_none()) {
            let (rest, attempt) = job.name.rsplit_once('-').unwrap();
            let stage = rest.rsplit_once('-').unwrap().1.to_owned();
            let planned = self.ends.get(&(stage.clone(), attempt.parse().unwrap())).copied().unwrap_or(End::Done);
            let exit = |code, reason: &str, message| ContainerExit { code, reason: Some(reason.to_owned()), message };
            let (end, exit) = match planned {
                End::Done | End::Unheard => (JobEnd::Complete, exit(0, "Completed", Some(termination(&stage, None)))),
                End::Retryable => (failed(), exit(10, "Error", Some(termination(&stage, Some(Reason::StoreUnavailable))))),
                End::Terminal => (failed(), exit(20, "Error", Some(termination(&stage, Some(Reason::ExpectationFailed))))),
                End::OutOfMemory => (failed(), exit(137, "OOMKilled", None)),
            };
            if end == JobEnd::Complete {
                self.committed.insert(stage);
            }
            job.end = Some(end);
            job.pod = (!matches!(planned, End::Unheard)).then(|| PodView { exit: Some(exit), ..PodView::default() });
        }
        true
    }

    /// The TTL controller deletes what may go within a day.
    fn expire_all(&mut self) -> bool {
        let before = self.jobs.len();
        self.jobs.retain(|_, job| !(job.ttl.is_some_and(|ttl| ttl <= KEPT) && job.end.is_some()));
        self.jobs.len() != before
    }

    fn step(&mut self) -> bool {
        let (run, observed) = (self.run.clone(), self.observed());
        self.apply(&run, &observed)
    }

    /// Until nothing is to be done any more.
    fn settle(&mut self) {
        for _ in 0..400 {
            if !self.step() {
                return;
            }
        }
        panic!("no end: {:#?}", self.run.status);
    }

    /// What a user sees in the end, without times and attempt numbers.
    fn summary(&self) -> serde_json::Value {
        let status = self.status();
        json!({
            "phase": phase(&status),
            "stages": status.stages.iter().map(|s| json!([s.name, s.state, s.rows_written])).collect::<Vec<_>>(),
            "rows": [status.rows_read, status.rows_written, status.rows_quarantined],
            "committed": self.committed,
            "left": self.jobs.len(),
        })
    }
}

fn failed() -> JobEnd {
    JobEnd::Failed { reason: "BackoffLimitExceeded".into(), message: "Job has reached the specified backoff limit".into() }
}

fn scenarios() -> Vec<(&'static str, World)> {
    vec![
        ("all is well", World::new(3)),
        ("a retry helps", World::new(3).ending(Stage::Silver, 1, End::Retryable).ending(Stage::Silver, 2, End::OutOfMemory)),
        ("data is at fault", World::new(3).ending(Stage::Silver, 1, End::Terminal)),
        ("a report is lost", World::new(0).ending(Stage::Silver, 1, End::Unheard)),
        ("retries are used up", (1..=9).fold(World::new(1), |world, attempt| world.ending(Stage::Gold, attempt, End::Retryable))),
    ]
}

#[test]
fn every_scenario_ends_as_expected() {
    let phases: Vec<_> = scenarios()
        .into_iter()
        .map(|(name, mut world)| {
            world.settle();
            let status = world.status();
            assert!(finished(&status) && status.finished_at.is_some(), "{name}");
            assert!(world.made.values().all(|times| *times == 1), "{name}: {:?}", world.made);
            assert!(world.jobs.is_empty(), "{name}: every ended Job may expire");
            (phase(&status).to_owned(), world.made.len())
        })
        .collect();
    let expected = [("Completed", 3), ("Completed", 5), ("ExpectationFailed", 2), ("Completed", 4), ("StoreUnavailable", 4)];
    assert_eq!(phases, expected.map(|(phase, jobs)| (phase.to_owned(), jobs)));
}

#[test]
fn a_user_reads_what_happened() {
    let mut world = World::new(3).ending(Stage::Silver, 1, End::Retryable);
    world.settle();
    let texts: Vec<&str> = world.notes.iter().map(|note| note.text.as_str()).collect();
    insta::assert_snapshot!("events", texts.join("\n"));
    insta::assert_snapshot!("status", serde_yaml::to_string(&world.status()).unwrap());
}

/// A restart between any two writes changes nothing; nor does the loss of everything but the API server's state.
#[test]
fn an_operator_that_crashes_after_any_write_ends_the_same() {
    for (name, start) in scenarios() {
        let mut whole = start.clone();
        whole.settle();
        for crash in 0..=whole.writes {
            let mut world = start.clone();
            while world.writes < crash && world.step() {}
            // While the operator is down, the cluster goes on: pods end, what may expire expires.
            world.now += TimeDelta::days(1);
            world.cluster_moves();
            world.expire_all();
            world.obstacle = None;
            world.settle();
            assert_eq!(world.summary(), whole.summary(), "{name}, crash after write {crash}");
            assert!(world.made.values().all(|times| *times == 1), "{name}, crash after write {crash}: {:?}", world.made);
        }
    }
}

/// An operator that decides on what it saw some writes ago makes nothing twice and breaks nothing.
#[test]
fn a_stale_observation_does_no_harm() {
    for (name, start) in scenarios() {
        let mut whole = start.clone();
        whole.settle();
        for stale in 0..=whole.writes {
            for delay in 1..4 {
                let mut world = start.clone();
                while world.writes < stale && world.step() {}
                let (run, observed) = (world.run.clone(), world.observed());
                for _ in 0..delay {
                    world.step();
                }
                world.apply(&run, &observed);
                world.settle();
                assert_eq!(world.summary(), whole.summary(), "{name}, stale at write {stale}, {delay} late");
                assert!(world.made.values().all(|times| *times == 1), "{name}: {:?}", world.made);
            }
        }
    }
}

/// The pod of a Job that succeeded is gone before its report was read: the counts come from another attempt; where every report is lost, the
/// run succeeds without them.
#[test]
fn a_lost_report_is_made_again() {
    let mut whole = World::new(0);
    whole.settle();
    let mut world = World::new(0).ending(Stage::Silver, 1, End::Unheard);
    world.settle();
    assert_eq!(world.summary(), whole.summary());
    assert!(world.notes.iter().any(|note| note.reason == "ReportLost" && note.text.contains("its pod was deleted")));

    let mut world = (1..=9).fold(World::new(0), |world, attempt| world.ending(Stage::Silver, attempt, End::Unheard));
    world.settle();
    let silver = &world.status().stages[1];
    assert_eq!((phase(&world.status()), silver.attempt, silver.rows_written), ("Completed", 6, 0));
    assert_eq!(silver.message.as_deref(), Some("report not available: the pod is gone"));
}

/// Jobs deleted by somebody at any moment: another attempt is made, and a stage whose outcome is recorded is not.
#[test]
fn deleted_jobs_are_made_up_for() {
    let start = World::new(0);
    let mut whole = start.clone();
    whole.settle();
    for moment in 0..=whole.writes {
        let mut world = start.clone();
        while world.writes < moment && world.step() {}
        let recorded: Vec<Stage> = world.status().stages.iter().filter(|s| s.state == StageState::Succeeded).map(|s| s.name).collect();
        let made = world.made.clone();
        world.jobs.clear();
        world.settle();
        assert_eq!(world.summary(), whole.summary(), "deleted after write {moment}");
        for job in world.made.keys().filter(|job| !made.contains_key(*job)) {
            assert!(recorded.iter().all(|stage| !job.contains(&format!("-{stage}-"))), "{job} was made though {recorded:?} were done");
        }
    }
}

#[test]
fn a_stage_whose_jobs_always_vanish_fails_at_last() {
    let mut world = World::new(0);
    for _ in 0..200 {
        world.step();
        if world.status().stages.iter().any(|stage| stage.state == StageState::Running) {
            world.jobs.clear();
        }
    }
    let status = world.status();
    assert_eq!(phase(&status), "JobLost");
    assert_eq!(world.made.len(), 6);
}

#[test]
fn a_cancelled_run_stops_its_job_and_skips_the_rest() {
    let start = World::new(3);
    let mut whole = start.clone();
    whole.settle();
    for moment in 0..whole.writes {
        let mut world = start.clone();
        while world.writes < moment && world.step() {}
        if finished(&world.status()) {
            continue;
        }
        world.run.spec = run("Cancelled").spec;
        let before = world.made.len();
        world.settle();
        let status = world.status();
        assert!(matches!(phase(&status), "Cancelled" | "Completed"), "{}", phase(&status));
        assert_eq!(world.made.len(), before, "no Job is made for a cancelled run");
        assert!(status.stages.iter().all(|s| !matches!(s.state, StageState::Pending | StageState::Running)));
    }
}

#[test]
fn a_suspended_run_goes_on_when_resumed() {
    let start = World::new(3);
    let mut whole = start.clone();
    whole.settle();
    for moment in 0..whole.writes {
        let mut world = start.clone();
        while world.writes < moment && world.step() {}
        world.run.spec = run("Suspended").spec;
        let before = world.made.len();
        for _ in 0..60 {
            world.step();
        }
        assert_eq!(world.made.len(), before, "no Job is made for a suspended run");
        if !finished(&world.status()) {
            assert_eq!(phase(&world.status()), "Suspended");
        }
        let writes = world.writes;
        world.step();
        assert_eq!(world.writes, writes, "it says so once");
        world.run.spec = run("Active").spec;
        world.settle();
        assert_eq!(world.summary(), whole.summary());
    }
}

#[test]
fn what_is_missing_is_waited_for_and_what_is_wrong_is_said() {
    let mut world = World::new(3);
    let known = world.definition.clone();
    world.definition = Definition::Missing { reason: "PipelineNotFound", message: "there is no LakehousePipeline `crypto`".into() };
    for _ in 0..20 {
        world.step();
    }
    assert_eq!((phase(&world.status()), world.writes), ("PipelineNotFound", 1));
    world.definition = known;
    world.settle();
    assert_eq!(phase(&world.status()), "Completed");

    let mut world = World::new(3);
    world.definition =
        Definition::Refused { reason: "InvalidRun", message: "parameters.limit: the pipeline declares no such parameter".into() };
    world.settle();
    let status = world.status();
    assert_eq!((phase(&status), world.made.len()), ("InvalidRun", 0));
    assert!(status.conditions[0].message.contains("parameters.limit"));
}

#[test]
fn a_job_that_cannot_be_made_is_said() {
    for (obstacle, expected) in [
        (Obstacle::NameTaken("Job x exists and belongs to something else".into()), "JobNameTaken"),
        (Obstacle::Invalid("spec: Invalid value".into()), "InvalidDefinition"),
        (Obstacle::Refused("exceeded quota".into()), "JobRefused"),
    ] {
        let mut world = World::new(3);
        world.obstacle = Some(obstacle);
        for _ in 0..30 {
            world.step();
        }
        assert_eq!(phase(&world.status()), expected);
        assert!(world.made.is_empty());
        if expected == "JobRefused" {
            world.obstacle = None;
            world.settle();
            assert_eq!(phase(&world.status()), "Completed");
        }
    }
}

#[test]
fn maintenance_says_what_it_did() {
    let mut world = World::new(3);
    if let Definition::Known { stages, .. } = &mut world.definition {
        *stages = vec![Stage::Maintenance];
    }
    world.settle();
    let status = world.status();
    assert_eq!(phase(&status), "Completed");
    let did = "12 files became 3, 4 snapshots expired, 20 objects deleted, 1 objects not deleted";
    assert_eq!(status.conditions[0].message, format!("maintenance done: {did}"));
    assert_eq!(status.stages[0].message.as_deref(), Some(did));
    assert!(world.made.keys().all(|name| name.contains("maintenance")));
}

#[test]
fn a_pod_that_does_not_start_is_said_once() {
    let mut world = World::new(3);
    while world.made.is_empty() {
        world.step();
    }
    world.step();
    let mut written = 0;
    for reason in ["ErrImagePull", "ImagePullBackOff", "ErrImagePull", "ImagePullBackOff"] {
        for job in world.jobs.values_mut() {
            let why = (reason.to_owned(), format!("said at {written}"));
            job.pod = Some(PodView { waiting: Some(why), ..PodView::default() });
        }
        if let Step::Record { status, .. } = decide(&world.run, &world.observed(), world.now) {
            world.run.status = Some(*status);
            written += 1;
        }
    }
    assert_eq!(written, 1);
    assert!(world.status().conditions[0].message.contains("does not start: ErrImagePull: said at 0"));
    // It starts after all.
    for job in world.jobs.values_mut() {
        job.pod = Some(PodView::default());
    }
    world.step();
    assert!(world.status().conditions[0].message.contains("runs as Job"));
    world.settle();
    assert_eq!(phase(&world.status()), "Completed");
}
