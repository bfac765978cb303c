//! One operator process: a lagging cache of runs, a queue, one reconciliation at a time, in steps between which anything may happen.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use kube::ResourceExt;
use lakehouse_api::{LakehouseRun, LakehouseRunStatus, common::Stage, pipeline::JobSettings, run::RunState};
use lakehouse_operator::{
    conditions::instant,
    plan::{
        admission::{Admission, Candidate, admit, confirm},
        outcome::JobView,
        run::{Definition, Observed, Step, decide},
        status::finished,
    },
};

use super::world::{World, Write};

/// How many runs of the pipeline may be at work.
const SLOTS: usize = 2;
/// Seconds for which a leader writes after a renewal, and after which another process leads.
const RENEW_DEADLINE: i64 = 10;
const LEASE: i64 = 15;

/// What a process did and its cache may not show yet, as `controller::run::claims`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Started,
    Working,
    Finished,
}

/// A write on its way.
struct Flight {
    write: Write,
    /// It passed the check of the lease: nothing can hold it back any more.
    checked: bool,
}

pub struct Process {
    id: usize,
    /// Stopped by a signal, or its machine is.
    pub paused: bool,
    leads: bool,
    renewed: DateTime<Utc>,
    cache: BTreeMap<String, Arc<LakehouseRun>>,
    known: BTreeMap<String, Known>,
    queue: BTreeMap<String, DateTime<Utc>>,
    flight: Option<Flight>,
    /// What was read of a run, before its Jobs are.
    read: Option<Arc<LakehouseRun>>,
    settings: JobSettings,
}

impl Process {
    pub fn new(id: usize, settings: &JobSettings) -> Self {
        Self {
            id,
            paused: false,
            leads: false,
            renewed: DateTime::UNIX_EPOCH,
            cache: BTreeMap::new(),
            known: BTreeMap::new(),
            queue: BTreeMap::new(),
            flight: None,
            read: None,
            settings: settings.clone(),
        }
    }

    /// It is killed, and started again by the kubelet.
    pub fn crash(&mut self) {
        *self = Self::new(self.id, &self.settings);
    }

    /// Takes or renews the lease, as `runtime::lease` does; a leader that is too late ends.
    pub fn elect(&mut self, world: &mut World) {
        let (holder, since) = world.lease;
        if self.leads && !self.may_write(world) {
            return self.crash();
        }
        if self.leads || holder == self.id || world.now - since >= TimeDelta::seconds(LEASE) {
            world.reached.takeovers += usize::from(holder != self.id);
            world.lease = (self.id, world.now);
            self.renewed = world.now;
            if !self.leads {
                self.leads = true;
                self.list(world);
            }
        }
    }

    fn may_write(&self, world: &World) -> bool {
        self.leads && world.now - self.renewed < TimeDelta::seconds(RENEW_DEADLINE)
    }

    /// A list: the cache is what is there, and everything is looked at.
    pub fn list(&mut self, world: &World) {
        self.cache.clone_from(&world.runs);
        self.queue.extend(world.runs.keys().map(|name| (name.clone(), world.now)));
    }

    /// An event of the watch of runs. Several may come as one, or twice.
    pub fn hear_of_run(&mut self, name: &str, world: &World) {
        self.cache.insert(name.to_owned(), world.runs[name].clone());
        self.queue.insert(name.to_owned(), world.now);
    }

    /// An event of the watch of Jobs.
    pub fn hear_of_job(&mut self, name: &str, world: &World) {
        self.queue.insert(name.to_owned(), world.now);
    }

    /// One step: read a run; read its Jobs and decide; check the lease; send. Whether there was one to do.
    pub fn step(&mut self, world: &mut World) -> bool {
        if self.paused || !self.leads {
            return false;
        }
        if let Some(flight) = self.flight.take() {
            self.fly(flight, world);
            return true;
        }
        if let Some(run) = self.read.take() {
            self.decide(&run, world);
            return true;
        }
        let next = self.queue.iter().filter(|(_, at)| **at <= world.now).min_by_key(|(_, at)| **at).map(|(name, _)| name.clone());
        let Some(name) = next else { return false };
        self.queue.remove(&name);
        self.read = Some(world.runs[&name].clone());
        true
    }

    fn fly(&mut self, flight: Flight, world: &mut World) {
        if flight.checked {
            let late = !self.may_write(world);
            world.apply(flight.write, late);
        } else if self.may_write(world) {
            self.flight = Some(Flight { checked: true, ..flight });
        } else {
            self.crash();
        }
    }

    fn decide(&mut self, run: &LakehouseRun, world: &World) {
        let name = run.name_any();
        let jobs: Vec<JobView> = world.jobs.values().filter(|job| job.run == name).map(|job| job.view.clone()).collect();
        let observed = Observed { definition: self.definition(world), admission: self.admission(run), jobs, obstacle: None };
        let seen = run.resource_version().unwrap_or_default();
        let write = match decide(run, &observed, world.now) {
            Step::KeepDefinition => Write::KeepDefinition,
            Step::Record { status, .. } => {
                if finished(&status) {
                    self.known.insert(name.clone(), Known::Finished);
                }
                Write::Status { run: name.clone(), seen, status }
            }
            Step::Create { stage, job, .. } => Write::Create { run: name.clone(), stage, job },
            Step::Delete { job, version, unchanged } => Write::Delete { job, version, unchanged },
            Step::Expire { job, uid, seconds } => Write::Expire { job, uid, seconds },
            Step::Wait(pause) => {
                self.queue.insert(name, world.now + TimeDelta::from_std(pause).unwrap());
                return;
            }
            Step::Done => return,
        };
        // What follows is another look at the same run.
        self.queue.insert(name, world.now);
        self.flight = Some(Flight { write, checked: false });
    }

    fn definition(&self, world: &World) -> Definition {
        Definition::Known {
            revision: "p-0123456789".to_owned(),
            kept: world.kept,
            stages: Stage::DEFAULT.to_vec(),
            inputs: None,
            renders: false,
            jobs: Box::new(self.settings.clone()),
        }
    }

    /// As the controller asks: by the cache, and by what this process did since.
    fn admission(&mut self, run: &LakehouseRun) -> Admission {
        let none = LakehouseRunStatus::default();
        let status = run.status.as_ref().unwrap_or(&none);
        if finished(status) || run.spec.state != RunState::Active {
            if status.definition.is_none() {
                self.withdraw(run);
            }
            return Admission::Granted;
        }
        let me = self.candidate(run);
        let others: Vec<Candidate> =
            self.cache.values().filter(|other| other.name_any() != me.name).map(|other| self.candidate(other)).collect();
        if status.definition.is_none() {
            let admission = admit(&Candidate { started: false, ..me }, &others, SLOTS);
            if admission == Admission::Granted {
                self.known.insert(run.name_any(), Known::Started);
            } else {
                self.withdraw(run);
            }
            admission
        } else if status.stages.iter().any(|stage| stage.attempt > 0) {
            Admission::Granted
        } else {
            let admission = confirm(&me, &others);
            if admission == Admission::Granted {
                self.known.insert(run.name_any(), Known::Working);
            }
            admission
        }
    }

    fn withdraw(&mut self, run: &LakehouseRun) {
        if self.known.get(&run.name_any()) == Some(&Known::Started) {
            self.known.remove(&run.name_any());
        }
    }

    fn candidate(&self, run: &LakehouseRun) -> Candidate {
        let (none, known) = (LakehouseRunStatus::default(), self.known.get(&run.name_any()));
        let status = run.status.as_ref().unwrap_or(&none);
        Candidate {
            name: run.name_any(),
            created: run.metadata.creation_timestamp.as_ref().map(instant).unwrap(),
            interval: (&run.spec.interval).into(),
            started: known.is_some() || status.definition.is_some(),
            working: known == Some(&Known::Working) || status.stages.iter().any(|stage| stage.attempt > 0),
            finished: known == Some(&Known::Finished) || finished(status),
            active: run.spec.state == RunState::Active,
        }
    }

    /// Whether a write has passed the check of the lease and was not sent yet: the worst moment to fall asleep.
    pub fn is_between_check_and_write(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.checked)
    }

    /// Runs of which the cache is older than the API server.
    pub fn behind(&self, world: &World) -> Vec<String> {
        let is_new = |name: &&String| !self.cache.get(*name).is_some_and(|cached| Arc::ptr_eq(cached, &world.runs[*name]));
        world.runs.keys().filter(is_new).cloned().collect()
    }
}
