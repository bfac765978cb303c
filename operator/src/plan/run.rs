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
//! | | ended | record the outcome; only then may the Job expire |
//! | | absent | it was lost: record the next attempt |
//! | Pending with `retryAt` | | at that time: record the next attempt |
//!
//! So a Job whose outcome is recorded is never made again, and one that was never made is not taken for lost.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lakehouse_api::{
    LakehouseRun,
    common::{HumanDuration, Stage},
    pipeline::JobSettings,
    run::{LakehouseRunStatus, RunState, StageState},
};

use super::{
    Note,
    admission::Admission,
    outcome::{Failure, JobView, Outcome, outcome},
    status::{SUCCEEDED, enter_progress, enter_report, finish, finished, pending, rows, say},
};
use crate::{
    conditions::{self, Verdict},
    names,
};

/// Longest wait between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(600);
/// How many Jobs of one stage may be deleted under the operator before the run fails.
const MAX_LOST: i32 = 5;

/// What went away before it could be read.
#[derive(Clone, Copy)]
enum Lost {
    /// The Job, and with it the outcome.
    Job,
    /// The pod of a Job that succeeded, and with it the report.
    Report,
}
/// How often what no watch announces is looked at again: a missing pipeline, a busy interval, a refused Job.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// How often the pods of a running Job are looked at, for what keeps them from starting; every second time for how far they are.
const WATCH_PODS: Duration = Duration::from_secs(15);

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
    /// Whether a run that has not started may.
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
    /// Delete a Job and, before it, its pods.
    Delete {
        /// Name of the Job.
        job: String,
    },
    /// Let the cluster delete an ended Job, whose outcome is recorded, after a time.
    Expire {
        /// Name of the Job.
        job: String,
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
    if let Some(step) = expire(&status, observed) {
        return step;
    }
    if finished(&status) {
        return Step::Done;
    }
    let run = Decider { run, observed, now };
    if status.definition.is_none() { run.start(status) } else { run.proceed(status) }
}

/// The next ended Job whose outcome is recorded and that would stay for ever.
fn expire(status: &LakehouseRunStatus, observed: &Observed) -> Option<Step> {
    let settings = observed.settings(Stage::Ingest);
    let awaited = status.stages.iter().find(|s| awaits_outcome(s)).and_then(|s| s.job.as_deref());
    let job = observed.jobs.iter().find(|job| job.end.is_some() && !job.expires && !job.deleting && Some(job.name.as_str()) != awaited)?;
    let seconds = i32::try_from(settings.ttl_after_finished.0.as_secs()).unwrap_or(i32::MAX);
    Some(Step::Expire { job: job.name.clone(), seconds })
}

/// The stage's Job is about to be made, or was made and has no recorded outcome.
fn awaits_outcome(stage: &lakehouse_api::run::StageStatus) -> bool {
    match stage.state {
        StageState::Running => true,
        StageState::Pending => stage.job.is_some() && stage.retry_at.is_none(),
        StageState::Succeeded | StageState::Failed | StageState::Skipped => false,
    }
}

impl Observed {
    fn settings(&self, stage: Stage) -> lakehouse_api::pipeline::jobs::EffectiveSettings {
        match &self.definition {
            Definition::Known { jobs, .. } => jobs.effective(stage),
            Definition::Missing { .. } | Definition::Refused { .. } => JobSettings::default().effective(stage),
        }
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
    fn name(&self) -> &str {
        self.run.metadata.name.as_deref().unwrap_or_default()
    }

    fn text(&self, text: &str) -> String {
        format!("Run {}: {text}", self.name())
    }

    fn start(&self, mut status: LakehouseRunStatus) -> Step {
        match self.run.spec.state {
            RunState::Cancelled => return self.cancelled(status),
            RunState::Suspended => return self.waiting(status, "Suspended", "suspended before its start".into(), LOOK_AGAIN),
            RunState::Active => {}
        }
        let (revision, kept, stages) = match &self.observed.definition {
            Definition::Missing { reason, message } => return self.waiting(status, reason, message.clone(), LOOK_AGAIN),
            Definition::Refused { reason, message } => return self.failed(status, reason, message.clone()),
            Definition::Known { revision, kept, stages, .. } => (revision, *kept, stages),
        };
        match &self.observed.admission {
            Admission::IntervalBusy { run } => {
                let message = format!("waits for run {run}, which works on the same interval");
                return self.waiting(status, "IntervalBusy", message, LOOK_AGAIN);
            }
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

    /// The stage waits for its first or next attempt.
    fn next_attempt(&self, mut status: LakehouseRunStatus, index: usize) -> Step {
        if let Some(step) = self.held(&status) {
            return step;
        }
        if let Some(retry_at) = status.stages[index].retry_at
            && let Ok(left) = (retry_at - self.now).to_std()
            && !left.is_zero()
        {
            return Step::Wait(left);
        }
        let stage = &mut status.stages[index];
        stage.attempt += 1;
        stage.job = Some(self.job_name(stage.name, stage.attempt));
        stage.retry_at = None;
        let message = format!("{}: attempt {} begins", stage.name, stage.attempt);
        status.current_stage = Some(stage.name);
        say(&mut status, self.run, Verdict::new("Unknown", "Running", message), self.now);
        Step::Record { status: Box::new(status), notes: Vec::new() }
    }

    /// The Job's name is recorded; whether it was made is seen from the Job.
    fn intended(&self, mut status: LakehouseRunStatus, index: usize) -> Step {
        let stage = &status.stages[index];
        let (name, attempt) = (stage.name, stage.attempt);
        let job = stage.job.clone().unwrap_or_default();
        if let Some(found) = self.observed.job(Some(&job)) {
            let created = found.created;
            let stage = &mut status.stages[index];
            stage.state = StageState::Running;
            stage.started_at.get_or_insert(created);
            status.started_at.get_or_insert(created);
            let message = format!("{name}: attempt {attempt} runs as Job {job}");
            say(&mut status, self.run, Verdict::new("Unknown", "Running", message.clone()), self.now);
            let note = Note::normal("StageStarted", format!("{name}-{attempt}"), self.text(&message));
            return Step::Record { status: Box::new(status), notes: vec![note] };
        }
        if let Some(step) = self.held(&status) {
            return step;
        }
        match &self.observed.obstacle {
            Some(Obstacle::NameTaken(message)) => return self.stage_failed(status, index, "JobNameTaken", message.clone()),
            Some(Obstacle::Invalid(message)) => {
                return self.stage_failed(status, index, "InvalidDefinition", message.clone());
            }
            Some(Obstacle::Refused(message)) => {
                let message = format!("{name}: Job {job} cannot be made: {message}");
                return self.waiting(status, "JobRefused", message, LOOK_AGAIN);
            }
            None => {}
        }
        match &self.observed.definition {
            Definition::Missing { reason, message } => self.waiting(status, reason, message.clone(), LOOK_AGAIN),
            Definition::Refused { reason, message } => self.stage_failed(status, index, reason, message.clone()),
            Definition::Known { .. } => Step::Create { stage: name, attempt, job },
        }
    }

    /// The Job was made.
    fn running(&self, mut status: LakehouseRunStatus, index: usize) -> Step {
        let observed = self.observed.job(status.stages[index].job.as_deref()).and_then(|job| job.pod.as_ref()?.progress.as_ref());
        let moved = enter_progress(&mut status.stages[index], observed, self.now);
        let stage = &status.stages[index];
        let cancelled = self.run.spec.state == RunState::Cancelled;
        let Some(job) = self.observed.job(stage.job.as_deref()) else {
            return if cancelled { self.cancelled(status) } else { self.lost(status, index, Lost::Job) };
        };
        let timeout = self.observed.settings(stage.name).timeout.to_string();
        match outcome(job, &timeout) {
            // Another attempt finds what was committed and reports it again, so that the counts of a run are exact.
            Some(Outcome::Succeeded(None)) if !cancelled && stage.lost < MAX_LOST => self.lost(status, index, Lost::Report),
            Some(Outcome::Succeeded(report)) => self.stage_succeeded(status, index, report.as_deref()),
            Some(Outcome::Failed(failure)) => self.attempt_failed(status, index, failure),
            None if cancelled && !job.deleting => Step::Delete { job: job.name.clone() },
            None => {
                let mut message = format!("{}: attempt {} runs as Job {}", stage.name, stage.attempt, job.name);
                if let Some((reason, why)) = job.pod.as_ref().and_then(|pod| pod.waiting.as_ref()) {
                    let stuck = format!("{}: the pod of Job {} does not start: ", stage.name, job.name);
                    if said(&status).is_some_and(|said| said.strip_prefix(&stuck).is_some_and(|rest| is_same_cause(rest, reason))) {
                        return Step::Wait(WATCH_PODS);
                    }
                    message = format!("{stuck}{reason}: {why}");
                }
                match self.waiting(status.clone(), "Running", message, WATCH_PODS) {
                    Step::Wait(_) if moved => Step::Record { status: Box::new(status), notes: Vec::new() },
                    step => step,
                }
            }
        }
    }

    fn stage_succeeded(&self, mut status: LakehouseRunStatus, index: usize, report: Option<&lakehouse_contract::Termination>) -> Step {
        let stage = &mut status.stages[index];
        enter_report(stage, report);
        stage.state = StageState::Succeeded;
        stage.finished_at = Some(self.now);
        stage.reason = Some("Completed".to_owned());
        stage.message = match report {
            None => Some("report not available: the pod is gone".to_owned()),
            Some(report) => report.maintenance.map(|did| did.to_string()),
        };
        let what = stage.message.clone().unwrap_or_else(|| rows(stage));
        let (name, attempt) = (stage.name, stage.attempt);
        let message = format!("{name} succeeded: {what}");
        let note = Note::normal("StageSucceeded", format!("{name}-{attempt}"), self.text(&message));
        if let Some(next) = status.stages.get(index + 1).map(|stage| stage.name) {
            status.current_stage = Some(next);
            say(&mut status, self.run, Verdict::new("Unknown", "Running", message), self.now);
            return Step::Record { status: Box::new(status), notes: vec![note] };
        }
        match self.completed(status) {
            Step::Record { status, notes } => Step::Record { status, notes: std::iter::once(note).chain(notes).collect() },
            other => other,
        }
    }

    fn completed(&self, mut status: LakehouseRunStatus) -> Step {
        let words = status.stages.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
        finish(&mut status, self.run, Verdict::new("True", "Completed", String::new()), self.now);
        let maintained = match status.stages.as_slice() {
            [only] if only.name == Stage::Maintenance => only.message.as_deref(),
            _ => None,
        };
        let mut message = match maintained {
            Some(did) => format!("{words} done: {did}"),
            None => format!("{words} done: {} rows read, {} written", status.rows_read, status.rows_written),
        };
        if status.rows_quarantined > 0 {
            message.push_str(&format!(", {} quarantined", status.rows_quarantined));
        }
        say(&mut status, self.run, Verdict::new("True", "Completed", message.clone()), self.now);
        let note = Note::normal("Completed", "run", self.text(&message));
        Step::Record { status: Box::new(status), notes: vec![note] }
    }

    fn attempt_failed(&self, mut status: LakehouseRunStatus, index: usize, failure: Failure) -> Step {
        let stage = &mut status.stages[index];
        let settings = self.observed.settings(stage.name);
        let counted = (stage.attempt - stage.lost).max(1);
        enter_report(stage, failure.report.as_deref());
        stage.reason = Some(failure.reason.clone());
        stage.message = Some(failure.message.clone());
        let cancelled = self.run.spec.state == RunState::Cancelled;
        if cancelled {
            return self.cancelled(status);
        }
        if !failure.retryable || counted > settings.retries {
            let message = if counted == 1 { failure.message } else { format!("{} (after {counted} attempts)", failure.message) };
            return self.stage_failed(status, index, &failure.reason, message);
        }
        let wait = backoff(settings.backoff, counted);
        let retry_at = self.now + wait;
        stage.state = StageState::Pending;
        stage.retry_at = Some(retry_at);
        let (name, attempt) = (stage.name, stage.attempt);
        let message = format!(
            "{name}: attempt {attempt} failed with {}: {}; the next one begins at {}",
            failure.reason,
            failure.message,
            lakehouse_contract::interval::rfc3339(retry_at)
        );
        say(&mut status, self.run, Verdict::new("Unknown", "Retrying", message.clone()), self.now);
        let note = Note::warning("StageRetrying", format!("{name}-{attempt}"), self.text(&message));
        Step::Record { status: Box::new(status), notes: vec![note] }
    }

    /// The Job was made and is gone, or its pod is, and with it what they had to say. Another attempt finds what was committed.
    fn lost(&self, mut status: LakehouseRunStatus, index: usize, what: Lost) -> Step {
        let stage = &mut status.stages[index];
        let (name, attempt) = (stage.name, stage.attempt);
        let job = stage.job.clone().unwrap_or_default();
        if stage.lost >= MAX_LOST {
            return self.stage_failed(status, index, "JobLost", format!("Job {job} was deleted, as {MAX_LOST} before it"));
        }
        let (reason, how) = match what {
            Lost::Job => ("JobLost", format!("Job {job} was deleted before its outcome was known")),
            Lost::Report => ("ReportLost", format!("Job {job} succeeded, but its pod was deleted before its report was read")),
        };
        let message = format!("{name}: {how}");
        stage.lost += 1;
        stage.state = StageState::Pending;
        stage.reason = Some(reason.to_owned());
        stage.message = Some(how);
        // The next attempt at once: its intent is recorded with the loss.
        stage.attempt += 1;
        stage.job = Some(self.job_name(name, stage.attempt));
        stage.retry_at = None;
        say(&mut status, self.run, Verdict::new("Unknown", "Retrying", format!("{message}; another attempt is made")), self.now);
        let note = Note::warning(reason, format!("{name}-{attempt}"), self.text(&message));
        Step::Record { status: Box::new(status), notes: vec![note] }
    }

    fn stage_failed(&self, mut status: LakehouseRunStatus, index: usize, reason: &str, message: String) -> Step {
        let stage = &mut status.stages[index];
        stage.state = StageState::Failed;
        stage.reason = Some(reason.to_owned());
        stage.message = Some(message.clone());
        stage.finished_at = Some(self.now);
        stage.retry_at = None;
        let (name, attempt) = (stage.name, stage.attempt);
        let note = Note::warning("StageFailed", format!("{name}-{attempt}"), self.text(&format!("{name} failed with {reason}: {message}")));
        match self.failed(status, reason, format!("{name}: {message}")) {
            Step::Record { status, .. } => Step::Record { status, notes: vec![note] },
            other => other,
        }
    }

    fn failed(&self, mut status: LakehouseRunStatus, reason: &str, message: String) -> Step {
        let note = Note::warning(reason, "run", self.text(&message));
        finish(&mut status, self.run, Verdict::new("False", reason, message), self.now);
        Step::Record { status: Box::new(status), notes: vec![note] }
    }

    fn cancelled(&self, mut status: LakehouseRunStatus) -> Step {
        finish(&mut status, self.run, Verdict::new("False", "Cancelled", "cancelled by spec.state"), self.now);
        let note = Note::normal("Cancelled", "run", self.text("cancelled; what was committed stays"));
        Step::Record { status: Box::new(status), notes: vec![note] }
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

    fn job_name(&self, stage: Stage, attempt: i32) -> String {
        names::job(self.name(), self.run.metadata.uid.as_deref().unwrap_or_default(), stage, attempt)
    }
}

/// What the condition says now.
fn said(status: &LakehouseRunStatus) -> Option<&str> {
    conditions::find(&status.conditions, SUCCEEDED).map(|condition| condition.message.as_str())
}

/// Whether what was said of a pod that does not start has the cause `reason`. A kubelet that pulls an image in vain goes back and
/// forth between two reasons, and texts differ from look to look: neither is news.
fn is_same_cause(said: &str, reason: &str) -> bool {
    let before = said.split(':').next().unwrap_or_default();
    before == reason || (before.contains("Image") && reason.contains("Image"))
}

/// Wait after the `counted`th failed attempt: `base`, doubled for each further one, at most ten minutes.
fn backoff(base: HumanDuration, counted: i32) -> TimeDelta {
    let doublings = u32::try_from(counted - 1).unwrap_or_default().min(16);
    let wait = base.0.saturating_mul(1 << doublings).min(MAX_BACKOFF);
    TimeDelta::from_std(wait).unwrap_or(TimeDelta::minutes(10))
}
