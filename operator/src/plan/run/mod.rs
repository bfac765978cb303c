//! The next step of a run: a pure function of the run as recorded and the world as observed.
//!
//! Each step is one write. Whatever happens between two steps, the next observation leads on from what was recorded:
//!
//! | stage recorded as | its Job | next |
//! |---|---|---|
//! | Pending, no Job named | | record the name of the next attempt's Job (the intent) |
//! | Pending, Job named, no `retryAt` | absent | make it |
//! | | there | record Running |
//! | Running | not ended | wait |
//! | | its pod does not start for too long | record that, then delete the Job; gone, record the failure |
//! | | ended with success | make the next stage's Job; there, record the outcome and that the next stage is Running, in one |
//! | | ended otherwise | record the outcome; only then may the Job expire sooner than [`build::KEPT`] |
//! | | absent | it was lost: record the next attempt |
//! | Pending with `retryAt` | | at that time: record the next attempt |
//!
//! So a Job whose outcome is recorded is never made again, and one that was never made is not taken for lost. One that appears all the same
//! after its outcome was recorded, because a write came late, is deleted.
//!
//! [`attempt`] has the steps of a stage under way, [`end`] those that end a stage or the run.

mod attempt;
mod end;

use std::time::Duration;

use chrono::{DateTime, Utc};
use lakehouse_api::{
    LakehouseRun,
    common::{FailureClass, Stage},
    pipeline::{ClassLimits, JobSettings},
    run::{LakehouseRunStatus, RunState, StageState, StageStatus},
};

use super::{
    Note,
    admission::Admission,
    outcome::{Allowed, JobView, Version},
    status::{SUCCEEDED, finished, pending, say},
};
use crate::{
    build,
    conditions::{self, Verdict},
    names,
};

/// How often what no watch announces is looked at again: a missing pipeline, a busy interval, a refused Job.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// What is known about the definition that the run executes.
#[derive(Clone, Debug, PartialEq)]
pub enum Definition {
    /// Something it needs does not exist yet: reason and message. It may come.
    Missing {
        /// `PipelineNotFound` or `LakehouseNotFound`.
        reason: &'static str,
        /// The line a person reads.
        message: String,
    },
    /// It cannot be executed as asked for.
    Refused {
        /// `InvalidRun`, `InvalidDefinition` or `DefinitionNotFound`.
        reason: &'static str,
        /// The line a person reads.
        message: String,
    },
    /// It can be executed.
    Known {
        /// Name of its ControllerRevision.
        revision: String,
        /// The ControllerRevision exists.
        kept: bool,
        /// The stages of the run, in order.
        stages: Vec<Stage>,
        /// Identity of the run whose bronze is silver's input, where `inputsFrom` or `retryOf` says so.
        inputs: Option<String>,
        /// Its ingest needs a browser.
        renders: bool,
        /// Settings of the Jobs.
        jobs: Box<JobSettings>,
    },
}

/// Why a Job that was to be made does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// An object of that name belongs to something else.
    NameTaken(String),
    /// The API server says that the object can never be.
    Invalid(String),
    /// The API server does not take it now: a quota, a right, an admission rule.
    Refused(String),
}

/// The world as observed.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The definition.
    pub definition: Definition,
    /// Whether a run that has not started may, and one that has may make its first Job.
    pub admission: Admission,
    /// The Jobs that this run owns.
    pub jobs: Vec<JobView>,
    /// Met when the current Job was to be made.
    pub obstacle: Option<Obstacle>,
}

/// One step: at most one write.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Keep the definition as ControllerRevision.
    KeepDefinition,
    /// Write the status; then publish the notes.
    Record {
        /// The whole status.
        status: Box<LakehouseRunStatus>,
        /// What a person should hear.
        notes: Vec<Note>,
    },
    /// Make the Job of an attempt, and before it its ConfigMap.
    Create {
        /// The stage.
        stage: Stage,
        /// Number of the attempt, from 1.
        attempt: i32,
        /// Name of the Job.
        job: String,
    },
    /// Delete a Job and, before it, its pods; only that very Job, and with `unchanged` only as it was seen.
    Delete {
        /// Name of the Job.
        job: String,
        /// What was seen.
        version: Version,
        /// A Job that has changed since is looked at again instead.
        unchanged: bool,
    },
    /// Let the cluster delete an ended Job, whose outcome is recorded, sooner than it would.
    Expire {
        /// Name of the Job.
        job: String,
        /// UID of the Job.
        uid: String,
        /// Seconds after its end.
        seconds: i32,
    },
    /// Nothing to do now; look again after this time, or when something changes.
    Wait(Duration),
    /// Nothing to do any more.
    Done,
}

/// The next step of `run`. `now` is in whole seconds.
pub fn decide(run: &LakehouseRun, observed: &Observed, now: DateTime<Utc>) -> Step {
    let status = run.status.clone().unwrap_or_default();
    if let Some(step) = expire(run, &status, observed).or_else(|| stray(run, &status, observed)) {
        return step;
    }
    if finished(&status) {
        return Step::Done;
    }
    let run = Decider { run, observed, now };
    if status.definition.is_none() { run.start(status) } else { run.proceed(status) }
}

/// The next ended Job whose outcome is recorded and that would stay longer than it shall.
fn expire(run: &LakehouseRun, status: &LakehouseRunStatus, observed: &Observed) -> Option<Step> {
    let settings = observed.jobs().effective(Stage::Ingest);
    let seconds = build::time_to_live(&settings);
    let stays = |job: &&JobView| job.end.is_some() && !job.deleting && job.ttl.is_none_or(|ttl| ttl > seconds);
    let is_recorded = |job: &&JobView| finished(status) || status.stages.iter().any(|stage| is_past(run, stage, &job.name));
    let job = observed.jobs.iter().find(|job| stays(job) && is_recorded(job))?;
    Some(Step::Expire { job: job.name.clone(), uid: job.version.uid.clone(), seconds })
}

/// A Job at work whose outcome nobody awaits any more: its creation came late, when its attempt was over, or the run.
fn stray(run: &LakehouseRun, status: &LakehouseRunStatus, observed: &Observed) -> Option<Step> {
    let over = finished(status);
    let is_stray = |job: &&JobView| {
        let is_at_work = job.end.is_none() && !job.deleting;
        // Of attempts that are not recorded yet nothing is known here: whoever made the Job has seen more.
        is_at_work && (over || status.stages.iter().any(|stage| is_past(run, stage, &job.name)))
    };
    let job = observed.jobs.iter().find(is_stray)?;
    Some(Step::Delete { job: job.name.clone(), version: job.version.clone(), unchanged: false })
}

/// Whether `job` is that of an attempt of `stage` whose end is recorded.
fn is_past(run: &LakehouseRun, stage: &StageStatus, job: &str) -> bool {
    past(run, stage).any(|name| name == job)
}

fn past(run: &LakehouseRun, stage: &StageStatus) -> impl Iterator<Item = String> {
    let last = if awaits_outcome(stage) { stage.attempt - 1 } else { stage.attempt };
    (1..=last).map(|attempt| job_name(run, stage.name, attempt))
}

/// Names of the Jobs of attempts whose end is recorded.
pub fn past_jobs(run: &LakehouseRun) -> impl Iterator<Item = String> {
    let stages = run.status.iter().flat_map(|status| &status.stages);
    stages.flat_map(|stage| past(run, stage))
}

/// The Jobs that the next step is about: that of the attempt whose outcome is awaited, and the first one of the stage after it, which may have been made.
pub fn present_jobs(run: &LakehouseRun) -> Option<(String, Option<String>)> {
    let stages = &run.status.as_ref()?.stages;
    let index = stages.iter().position(awaits_outcome)?;
    let next = stages.get(index + 1).map(|next| job_name(run, next.name, 1));
    Some((stages[index].job.clone()?, next))
}

/// The stage's Job is about to be made, or was made and has no recorded outcome.
fn awaits_outcome(stage: &StageStatus) -> bool {
    match stage.state {
        StageState::Running => true,
        StageState::Pending => stage.job.is_some() && stage.retry_at.is_none(),
        StageState::Succeeded | StageState::Failed | StageState::Skipped => false,
    }
}

/// Name of the Job of an attempt.
fn job_name(run: &LakehouseRun, stage: Stage, attempt: i32) -> String {
    let of = &run.metadata;
    names::job(of.name.as_deref().unwrap_or_default(), of.uid.as_deref().unwrap_or_default(), stage, attempt)
}

impl Observed {
    fn jobs(&self) -> JobSettings {
        match &self.definition {
            Definition::Known { jobs, .. } => jobs.as_ref().clone(),
            Definition::Missing { .. } | Definition::Refused { .. } => JobSettings::default(),
        }
    }

    fn limits(&self, stage: Stage, class: FailureClass) -> Option<ClassLimits> {
        self.jobs().limits(stage, class)
    }

    fn allowed(&self, stage: Stage) -> Allowed {
        let settings = self.jobs().effective(stage);
        let renders = matches!(self.definition, Definition::Known { renders: true, .. });
        let memory = build::memory_limit(stage, renders, &settings.resources);
        Allowed { settings: format!("jobs.{stage}"), timeout: settings.timeout.to_string(), memory }
    }

    fn job(&self, name: Option<&str>) -> Option<&JobView> {
        self.jobs.iter().find(|job| Some(job.name.as_str()) == name)
    }
}

struct Decider<'a> {
    run: &'a LakehouseRun,
    observed: &'a Observed,
    now: DateTime<Utc>,
}

impl Decider<'_> {
    fn text(&self, text: &str) -> String {
        format!("Run {}: {text}", self.run.metadata.name.as_deref().unwrap_or_default())
    }

    fn job_name(&self, stage: Stage, attempt: i32) -> String {
        job_name(self.run, stage, attempt)
    }

    fn start(&self, mut status: LakehouseRunStatus) -> Step {
        match self.run.spec.state {
            RunState::Cancelled => return self.cancelled(status),
            RunState::Suspended => return self.waiting(status, "Suspended", "suspended before its start".into(), LOOK_AGAIN),
            RunState::Active => {}
        }
        let (revision, kept, stages, inputs) = match &self.observed.definition {
            Definition::Missing { reason, message } => return self.waiting(status, reason, message.clone(), LOOK_AGAIN),
            Definition::Refused { reason, message } => return self.failed(status, reason, message.clone()),
            Definition::Known { revision, kept, stages, inputs, .. } => (revision, *kept, stages, inputs),
        };
        match &self.observed.admission {
            Admission::IntervalBusy { run } => return self.busy(status, run),
            Admission::WaitingForSlot { limit } => {
                let message = format!("waits until fewer than {limit} runs of the pipeline are at work (maxConcurrentRuns)");
                return self.waiting(status, "WaitingForSlot", message, LOOK_AGAIN);
            }
            Admission::Granted => {}
        }
        if !kept {
            return Step::KeepDefinition;
        }
        let words = stages.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", ");
        status.definition = Some(revision.clone());
        status.inputs_from.clone_from(inputs);
        status.stages = stages.iter().map(|stage| pending(*stage)).collect();
        status.current_stage = stages.first().copied();
        say(&mut status, self.run, Verdict::new("Unknown", "Running", format!("begins: {words}")), self.now);
        let start = lakehouse_contract::interval::rfc3339(self.run.spec.interval.start);
        let note = Note::normal("Started", "run", self.text(&format!("begins {words} for the interval from {start}")));
        Step::Record { status: Box::new(status), notes: vec![note] }
    }

    fn proceed(&self, status: LakehouseRunStatus) -> Step {
        let open = |state| matches!(state, StageState::Pending | StageState::Running);
        let Some(index) = status.stages.iter().position(|stage| open(stage.state)) else {
            return self.completed(status);
        };
        let stage = &status.stages[index];
        match stage.state {
            StageState::Running => self.running(status, index),
            _ if awaits_outcome(stage) => self.intended(status, index),
            _ => self.next_attempt(status, index),
        }
    }

    /// What a run does, instead of a further Job, that is not wanted to be active.
    fn held(&self, status: &LakehouseRunStatus) -> Option<Step> {
        match self.run.spec.state {
            RunState::Active => None,
            RunState::Suspended => {
                let message = "suspended: no further Job is made".to_owned();
                Some(self.waiting(status.clone(), "Suspended", message, LOOK_AGAIN))
            }
            RunState::Cancelled => Some(self.cancelled(status.clone())),
        }
    }

    /// Another run works on the interval.
    fn busy(&self, status: LakehouseRunStatus, run: &str) -> Step {
        self.waiting(status, "IntervalBusy", format!("waits for run {run}, which works on the same interval"), LOOK_AGAIN)
    }

    /// Says why nothing happens, once; then waits.
    fn waiting(&self, mut status: LakehouseRunStatus, reason: &str, message: String, wait: Duration) -> Step {
        let said = conditions::find(&status.conditions, SUCCEEDED).map(|c| (c.reason.clone(), c.message.clone(), c.observed_generation));
        if said == Some((reason.to_owned(), message.clone(), self.run.metadata.generation)) {
            return Step::Wait(wait);
        }
        let is_news = said.is_none_or(|(before, _, _)| before != reason) && reason != "Running";
        let note = is_news.then(|| Note::normal(reason, "run", self.text(&message)));
        say(&mut status, self.run, Verdict::new("Unknown", reason, message), self.now);
        Step::Record { status: Box::new(status), notes: note.into_iter().collect() }
    }
}
