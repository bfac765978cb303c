//! The simulated cluster: an API server with one run and its Jobs, and whoever makes their pods and ends them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use lakehouse_api::{LakehouseRun, common::Stage};
use lakehouse_contract::{MaintenanceReport, Reason, StageFailure, Termination, Totals};
use lakehouse_operator::{
    build::{GOES_SOONER, KEPT},
    plan::{
        Note,
        admission::Admission,
        outcome::{ContainerExit, JobEnd, JobView, PodView},
        run::{Definition, Observed, Obstacle, Step, decide},
        status::phase,
    },
};
use serde_json::json;

/// How an attempt of a stage ends in the simulated cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Done,
    Retryable,
    Terminal,
    OutOfMemory,
    /// It succeeds, and its pod is deleted before anybody read what it had to say.
    Unheard,
}

/// The cluster: what an API server and the Job controller would hold.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) run: LakehouseRun,
    pub(crate) jobs: BTreeMap<String, JobView>,
    /// Names of Jobs ever made, with how often.
    pub(crate) made: BTreeMap<String, u32>,
    /// Effects of stages: which stages did their work, by what the data says (a repeated one changes nothing).
    pub(crate) committed: BTreeSet<String>,
    pub(crate) definition: Definition,
    pub(crate) obstacle: Option<Obstacle>,
    pub(crate) ends: BTreeMap<(String, i32), End>,
    pub(crate) now: DateTime<Utc>,
    pub(crate) notes: Vec<Note>,
    pub(crate) writes: usize,
}

pub(crate) fn epoch() -> DateTime<Utc> {
    DateTime::from_timestamp(1_704_067_200, 0).unwrap()
}

pub(crate) fn run(state: &str) -> LakehouseRun {
    serde_json::from_value(json!({
        "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseRun",
        "metadata": {"name": "crypto-2024-01-01", "namespace": "ns", "uid": "0f0e0d0c-0b0a-4908-8706-050403020100", "generation": 1},
        "spec": {"pipeline": "crypto", "interval": {"start": "2024-01-01T00:00:00Z", "end": "2024-01-02T00:00:00Z"}, "state": state}
    }))
    .unwrap()
}

pub(crate) fn termination(stage: &str, failure: Option<Reason>) -> String {
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
    pub(crate) fn new(retries: i32) -> Self {
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

    pub(crate) fn ending(mut self, stage: Stage, attempt: i32, end: End) -> Self {
        self.ends.insert((stage.to_string(), attempt), end);
        self
    }

    pub(crate) fn observed(&self) -> Observed {
        Observed {
            definition: self.definition.clone(),
            admission: Admission::Granted,
            jobs: self.jobs.values().cloned().collect(),
            obstacle: self.obstacle.clone(),
        }
    }

    pub(crate) fn status(&self) -> lakehouse_api::LakehouseRunStatus {
        self.run.status.clone().unwrap_or_default()
    }

    /// One step of an operator that sees `run` and `observed`. Whether there was something to do.
    pub(crate) fn apply(&mut self, seen: &LakehouseRun, observed: &Observed) -> bool {
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
    pub(crate) fn cluster_moves(&mut self) -> bool {
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
    pub(crate) fn expire_all(&mut self) -> bool {
        let before = self.jobs.len();
        self.jobs.retain(|_, job| !(job.ttl.is_some_and(|ttl| ttl <= KEPT) && job.end.is_some()));
        self.jobs.len() != before
    }

    pub(crate) fn step(&mut self) -> bool {
        let (run, observed) = (self.run.clone(), self.observed());
        self.apply(&run, &observed)
    }

    /// The world after this many writes, or at the end of all.
    pub(crate) fn after(&self, writes: usize) -> Self {
        let mut world = self.clone();
        while world.writes < writes && world.step() {}
        world
    }

    /// Until nothing is to be done any more.
    pub(crate) fn settle(&mut self) {
        for _ in 0..400 {
            if !self.step() {
                return;
            }
        }
        panic!("no end: {:#?}", self.run.status);
    }

    /// What a user sees in the end, without times and attempt numbers.
    pub(crate) fn summary(&self) -> serde_json::Value {
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

pub(crate) fn failed() -> JobEnd {
    JobEnd::Failed { reason: "BackoffLimitExceeded".into(), message: "Job has reached the specified backoff limit".into() }
}
