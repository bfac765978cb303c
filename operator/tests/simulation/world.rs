//! What an API server holds and what the controllers of Kubernetes make of it: runs, Jobs, their pods, the lease.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lakehouse_api::{
    LakehouseRun, LakehouseRunStatus,
    common::{FailureClass, Stage},
    run::{RunState, StageState},
};
use lakehouse_contract::{Reason, StageFailure, Termination, Totals};
use lakehouse_operator::{
    build::GOES_SOONER,
    plan::{
        outcome::{ContainerExit, JobEnd, JobView, PodView, Version},
        status::{finished, phase},
    },
};
use serde_json::{Value, json};

use super::rng::Rng;

/// One write as it arrives at the API server.
#[derive(Clone, Debug)]
pub enum Write {
    Status { run: String, seen: String, status: Box<LakehouseRunStatus> },
    KeepDefinition,
    Create { run: String, stage: Stage, job: String },
    Delete { job: String, version: Version, unchanged: bool },
    Expire { job: String, uid: String, seconds: i32 },
}

#[derive(Clone)]
pub struct Job {
    pub view: JobView,
    pub run: String,
    stage: Stage,
    fate: Option<FailureClass>,
    ends: DateTime<Utc>,
}

/// How often what a simulation is about came about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reached {
    /// Writes that arrived when their sender did not lead any more.
    pub late: usize,
    /// Jobs made by such a write after their attempt was over.
    pub strays: usize,
    /// Jobs deleted while their outcome was awaited.
    pub lost: usize,
    /// Statuses that were refused because the run had changed.
    pub conflicts: usize,
    /// Changes of the leader.
    pub takeovers: usize,
    /// Attempts that failed and were followed by another one.
    pub retries: usize,
}

impl Reached {
    pub fn plus(self, other: Self) -> Self {
        Self {
            late: self.late + other.late,
            strays: self.strays + other.strays,
            lost: self.lost + other.lost,
            conflicts: self.conflicts + other.conflicts,
            takeovers: self.takeovers + other.takeovers,
            retries: self.retries + other.retries,
        }
    }
}

pub struct World {
    pub reached: Reached,
    pub now: DateTime<Utc>,
    pub runs: BTreeMap<String, Arc<LakehouseRun>>,
    pub jobs: BTreeMap<String, Job>,
    pub kept: bool,
    /// Who leads, and when it last said so.
    pub lease: (usize, DateTime<Utc>),
    /// How attempts of a stage of a run end, by how many failures of it were recorded before; then they succeed.
    fates: BTreeMap<(String, Stage), Vec<FailureClass>>,
    /// What stages did. A second time changes nothing.
    pub committed: BTreeSet<(String, Stage)>,
    made: BTreeSet<String>,
    /// Jobs that somebody deleted. One that was before anybody saw it is made again.
    vanished: BTreeSet<String>,
    pub writes: usize,
    version: u64,
}

pub fn epoch() -> DateTime<Utc> {
    DateTime::from_timestamp(1_704_067_200, 0).unwrap()
}

fn day(offset: i64) -> DateTime<Utc> {
    epoch() + TimeDelta::days(offset)
}

impl World {
    /// A few runs of one pipeline, two of them of one day, with the fates of their stages.
    pub fn new(rng: &mut Rng) -> Self {
        let mut world = Self {
            reached: Reached::default(),
            now: day(10),
            runs: BTreeMap::new(),
            jobs: BTreeMap::new(),
            kept: false,
            lease: (0, day(0)),
            fates: BTreeMap::new(),
            committed: BTreeSet::new(),
            made: BTreeSet::new(),
            vanished: BTreeSet::new(),
            writes: 0,
            version: 1,
        };
        for (name, offset) in [("a", 0), ("b", 1), ("c", 1), ("d", 2)] {
            let mut run: LakehouseRun = serde_json::from_value(json!({
                "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseRun",
                "metadata": {"name": name, "namespace": "ns", "uid": format!("{name}0000000-0000-4000-8000-000000000000"), "generation": 1, "resourceVersion": "1"},
                "spec": {"pipeline": "p", "interval": {"start": day(offset), "end": day(offset + 1)}}
            }))
            .unwrap();
            let created = world.now + TimeDelta::seconds(i64::try_from(rng.below(3)).unwrap());
            run.metadata.creation_timestamp = Some(Time(k8s_openapi::jiff::Timestamp::from_second(created.timestamp()).unwrap()));
            world.runs.insert(name.to_owned(), Arc::new(run));
            for stage in Stage::DEFAULT {
                let classes = [
                    FailureClass::Retryable,
                    FailureClass::Unexpected,
                    FailureClass::OutOfMemory,
                    FailureClass::Timeout,
                    FailureClass::Disruption,
                    FailureClass::NotStarted,
                    FailureClass::Terminal,
                ];
                let mut fates = Vec::new();
                for _ in 0..rng.below(4) {
                    // Most often what passes; the last class ends a run.
                    let known = 6 + rng.below(2);
                    fates.push(if rng.one_in(3) { FailureClass::Disruption } else { classes[rng.below(known)] });
                }
                world.fates.insert((name.to_owned(), stage), fates);
            }
        }
        world
    }

    /// Nothing but this run, whose `stage` fails so, one time after the other.
    pub fn only(&mut self, name: &str, stage: Stage, fates: &[FailureClass]) {
        self.runs.retain(|run, _| run == name);
        self.fates.values_mut().for_each(Vec::clear);
        self.fates.insert((name.to_owned(), stage), fates.to_vec());
    }

    /// What keeps pods from starting passes.
    pub fn start_pods(&mut self) {
        let version = self.bump();
        for job in self.jobs.values_mut().filter(|job| job.view.pod.as_ref().is_some_and(|pod| pod.pending)) {
            (job.fate, job.view.pod, job.ends) = (None, None, self.now + TimeDelta::seconds(25));
            job.view.version.resource.clone_from(&version);
        }
    }

    fn bump(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    /// Takes a write, or refuses it as an API server would. `late`: its sender may have lost the lease since it was sent.
    pub fn apply(&mut self, write: Write, late: bool) {
        self.writes += 1;
        self.reached.late += usize::from(late);
        match write {
            Write::KeepDefinition => self.kept = true,
            Write::Status { run, seen, status } => self.record(&run, &seen, *status),
            Write::Create { run, stage, job } => self.create(&run, stage, job, late),
            Write::Delete { job, version, unchanged } => {
                let fits =
                    |there: &Job| there.view.version.uid == version.uid && (!unchanged || there.view.version.resource == version.resource);
                if self.jobs.get(&job).is_some_and(fits) {
                    self.jobs.remove(&job);
                }
            }
            Write::Expire { job, uid, seconds } => {
                let version = self.bump();
                if let Some(there) = self.jobs.get_mut(&job).filter(|there| there.view.version.uid == uid) {
                    assert!(there.view.end.is_some(), "{job} is at work and may expire");
                    there.view.ttl = Some(seconds);
                    there.view.version.resource = version;
                    there.ends = self.now;
                }
            }
        }
    }

    fn record(&mut self, name: &str, seen: &str, status: LakehouseRunStatus) {
        let version = self.bump();
        let run = Arc::make_mut(self.runs.get_mut(name).unwrap());
        if run.metadata.resource_version.as_deref() != Some(seen) {
            self.reached.conflicts += 1;
            return;
        }
        let before = run.status.replace(status.clone()).unwrap_or_default();
        run.metadata.resource_version = Some(version);
        assert_ne!(before, status, "{name}: a write that changes nothing");
        assert!(!finished(&before), "{name}: written after its end: {before:#?} {status:#?}");
        for stage in &before.stages {
            let after = status.stages.iter().find(|after| after.name == stage.name).unwrap();
            assert!(after.attempt >= stage.attempt || after.state == StageState::Skipped, "{name}: {stage:?} became {after:?}");
            self.reached.retries += usize::from(after.retry_at.is_some() && stage.retry_at.is_none());
            if matches!(stage.state, StageState::Succeeded | StageState::Failed) {
                assert_eq!(stage, after, "{name}: an outcome changed");
            }
        }
    }

    fn create(&mut self, name: &str, stage: Stage, job: String, late: bool) {
        if self.jobs.contains_key(&job) {
            return;
        }
        let version = self.bump();
        let first = self.made.insert(job.clone());
        assert!(first || late || self.vanished.contains(&job), "{job} was made twice");
        let run = &self.runs[name];
        if !late {
            let rivals = self.jobs.values().filter(|other| other.view.end.is_none() && !other.view.deleting);
            let interval = &run.spec.interval;
            // A stray, made late by who does not lead any more, may be there until it is deleted.
            let rival = rivals.into_iter().find(|other| &self.runs[&other.run].spec.interval == interval && self.is_awaited(other));
            assert!(rival.is_none(), "{job}: {} works on the interval", rival.unwrap().view.name);
        }
        let recorded =
            run.status.iter().flat_map(|s| &s.stages).find(|s| s.name == stage).map_or(0, |s| s.retries.iter().map(|r| r.count).sum());
        let fate = self.fates[&(name.to_owned(), stage)].get(usize::try_from(recorded).unwrap()).copied();
        let view = JobView {
            name: job.clone(),
            version: Version { uid: version.clone(), resource: version },
            created: self.now,
            ttl: Some(GOES_SOONER),
            pod: (fate == Some(FailureClass::NotStarted)).then(|| self.stuck_pod()),
            ..JobView::default()
        };
        self.reached.strays += usize::from(!first && !self.vanished.contains(&job));
        self.jobs.insert(job, Job { view, run: name.to_owned(), stage, fate, ends: self.now + TimeDelta::seconds(25) });
    }

    fn stuck_pod(&self) -> PodView {
        let waiting = Some(("ImagePullBackOff".to_owned(), "Back-off pulling image".to_owned()));
        PodView { created: self.now, image: "lakehouse/silver:9".to_owned(), pending: true, waiting, ..PodView::default() }
    }

    /// Whether the outcome of `job` is not recorded yet.
    pub fn is_awaited(&self, job: &Job) -> bool {
        self.runs[&job.run]
            .status
            .iter()
            .flat_map(|status| &status.stages)
            .any(|s| s.job.as_deref() == Some(&job.view.name) && matches!(s.state, StageState::Pending | StageState::Running))
    }

    /// Pods end, Jobs end with them, and those that may go are gone. The runs whose Jobs changed.
    pub fn kubernetes(&mut self) -> Vec<String> {
        let (now, mut changed) = (self.now, Vec::new());
        let goes = |job: &Job| job.view.ttl.is_some_and(|ttl| job.view.end.is_some() && job.ends + TimeDelta::seconds(ttl.into()) <= now);
        self.jobs.retain(|_, job| !goes(job));
        let due: Vec<String> =
            self.jobs.iter().filter(|(_, job)| job.view.end.is_none() && job.ends <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            let version = self.bump();
            let job = self.jobs.get_mut(&name).unwrap();
            let Some((end, pod)) = end(job.stage, job.fate) else { continue };
            if end == JobEnd::Complete {
                self.committed.insert((job.run.clone(), job.stage));
            }
            (job.view.end, job.view.pod, job.view.version.resource) = (Some(end), Some(pod), version);
            changed.push(job.run.clone());
        }
        changed
    }

    /// Somebody deletes a Job.
    pub fn vanish(&mut self, name: String) {
        let Some(job) = self.jobs.remove(&name) else { return };
        let stages = self.runs[&job.run].status.iter().flat_map(|status| &status.stages);
        let seen = stages.into_iter().any(|s| s.job.as_deref() == Some(&name) && s.state == StageState::Running);
        if seen {
            self.reached.lost += 1;
        } else {
            self.vanished.insert(name);
        }
    }

    pub fn set_state(&mut self, name: &str, state: RunState) {
        let version = self.bump();
        let run = Arc::make_mut(self.runs.get_mut(name).unwrap());
        if run.spec.state == RunState::Cancelled || run.spec.state == state {
            return;
        }
        run.spec.state = state;
        run.metadata.resource_version = Some(version);
        run.metadata.generation = run.metadata.generation.map(|generation| generation + 1);
    }

    /// What a user sees of a run in the end, without times and numbers of attempts.
    pub fn summary(&self, name: &str) -> Value {
        let status = self.runs[name].status.clone().unwrap_or_default();
        let stages: Vec<Value> = status.stages.iter().map(|s| json!([s.name, s.state, s.reason, s.retries, s.rows_written])).collect();
        let committed: Vec<Stage> = self.committed.iter().filter(|(run, _)| run == name).map(|(_, stage)| *stage).collect();
        json!({"phase": phase(&status), "stages": stages, "committed": committed})
    }
}

/// How a Job of this fate ends; nothing for one whose pod never starts.
fn end(stage: Stage, fate: Option<FailureClass>) -> Option<(JobEnd, PodView)> {
    let failed = |reason: &str| JobEnd::Failed { reason: reason.to_owned(), message: String::new() };
    let exit = |code: i32, reason: &str, message: Option<String>| PodView {
        exit: Some(ContainerExit { code, reason: Some(reason.to_owned()), message }),
        ..PodView::default()
    };
    let policy = || failed("PodFailurePolicy");
    Some(match fate {
        None => (JobEnd::Complete, exit(0, "Completed", Some(report(stage, None)))),
        Some(FailureClass::Retryable) => (policy(), exit(10, "Error", Some(report(stage, Some(Reason::StoreUnavailable))))),
        Some(FailureClass::Unexpected) => (failed("BackoffLimitExceeded"), exit(1, "Error", None)),
        Some(FailureClass::OutOfMemory) => (failed("BackoffLimitExceeded"), exit(137, "OOMKilled", None)),
        Some(FailureClass::Timeout) => (failed("DeadlineExceeded"), exit(143, "Error", None)),
        Some(FailureClass::Disruption) => {
            let disruption = Some(("EvictionByEvictionAPI".to_owned(), "Eviction API: evicting".to_owned()));
            (policy(), PodView { disruption, ..exit(143, "Error", None) })
        }
        Some(FailureClass::Terminal) => (policy(), exit(20, "Error", Some(report(stage, Some(Reason::ExpectationFailed))))),
        Some(FailureClass::NotStarted) => return None,
    })
}

fn report(stage: Stage, failure: Option<Reason>) -> String {
    Termination {
        contract: 1,
        failure: failure.map(|reason| (&StageFailure::new(reason, "why")).into()),
        totals: Totals { rows_read: 20, rows_written: 20, ..Totals::default() },
        maintenance: None,
        stale: None,
        tables: vec![(format!("{stage}.t"), None, 20)],
        report: None,
        report_digest: None,
    }
    .to_message()
}
