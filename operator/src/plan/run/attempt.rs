//! A stage under way: its attempts, from the recorded intent to the outcome.

use std::time::Duration;

use lakehouse_api::run::{LakehouseRunStatus, RunState, StageRetries, StageState, StageStatus};

use super::{
    super::{
        Note,
        admission::Admission,
        outcome::{Failure, JobView, NEVER_STARTED, Outcome, outcome, stuck},
        retry::{Again, again, count},
        status::{SUCCEEDED, enter_progress, enter_report, say},
    },
    Decider, Definition, LOOK_AGAIN, Obstacle, Step,
};
use crate::conditions::{self, Verdict};

/// How many Jobs of one stage may be deleted under the operator before the run fails.
const MAX_LOST: i32 = 5;
/// How often the pods of a running Job are looked at, for what keeps them from starting.
const WATCH_PODS: Duration = Duration::from_secs(15);

/// What went away before it could be read.
#[derive(Clone, Copy)]
enum Lost {
    /// The Job, and with it the outcome.
    Job,
    /// The pod of a Job that succeeded, and with it the report.
    Report,
}

impl Decider<'_> {
    /// The stage waits for its first or next attempt.
    pub(super) fn next_attempt(&self, mut status: LakehouseRunStatus, index: usize) -> Step {
        if let Some(step) = self.held(&status) {
            return step;
        }
        if let Admission::IntervalBusy { run } = &self.observed.admission {
            return self.busy(status, run);
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
    pub(super) fn intended(&self, mut status: LakehouseRunStatus, index: usize) -> Step {
        let stage = &status.stages[index];
        let (name, attempt) = (stage.name, stage.attempt);
        let job = stage.job.clone().unwrap_or_default();
        if let Some(found) = self.observed.job(Some(&job)) {
            let note = self.begins(&mut status, index, found);
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

    /// Enters that the Job of the stage's present attempt, or of its first one, was made.
    pub(super) fn begins(&self, status: &mut LakehouseRunStatus, index: usize, job: &JobView) -> Note {
        let stage = &mut status.stages[index];
        stage.attempt = stage.attempt.max(1);
        stage.job = Some(job.name.clone());
        stage.state = StageState::Running;
        stage.started_at.get_or_insert(job.created);
        status.started_at.get_or_insert(job.created);
        let (name, attempt) = (stage.name, stage.attempt);
        let message = format!("{name}: attempt {attempt} runs as Job {}", job.name);
        say(status, self.run, Verdict::new("Unknown", "Running", message.clone()), self.now);
        Note::normal("StageStarted", format!("{name}-{attempt}"), self.text(&message))
    }

    /// The Job was made.
    pub(super) fn running(&self, status: LakehouseRunStatus, index: usize) -> Step {
        let stage = &status.stages[index];
        let cancelled = self.run.spec.state == RunState::Cancelled;
        let Some(job) = self.observed.job(stage.job.as_deref()) else {
            return match gave_up(stage) {
                _ if cancelled => self.cancelled(status),
                Some((reason, message)) => self.stage_failed(status, index, &reason, message),
                None => self.lost(status, index, Lost::Job),
            };
        };
        match outcome(job, &self.observed.allowed(stage.name)) {
            // Another attempt finds what was committed and reports it again, so that the counts of a run are exact.
            Some(Outcome::Succeeded(None)) if !cancelled && stage.lost < MAX_LOST => self.lost(status, index, Lost::Report),
            Some(Outcome::Succeeded(report)) => self.stage_succeeded(status, index, report.as_deref()),
            Some(Outcome::Failed(failure)) => self.attempt_failed(status, index, failure),
            None if cancelled && !job.deleting => Step::Delete { job: job.name.clone(), version: job.version.clone(), unchanged: false },
            None => self.at_work(status, index, job),
        }
    }

    /// The Job has not ended: its pod runs, or it is said what keeps it from that, for as long as `jobs.startDeadline` allows.
    fn at_work(&self, mut status: LakehouseRunStatus, index: usize, job: &JobView) -> Step {
        let stage = &mut status.stages[index];
        let moved = enter_progress(stage, job.pod.as_ref().and_then(|pod| pod.progress.as_ref()), self.now);
        let (name, attempt) = (stage.name, stage.attempt);
        let deadline = self.observed.jobs().effective(name).start_deadline;
        let mut pause = WATCH_PODS;
        match stuck(job) {
            Some(_) if gave_up(stage).is_some() && job.deleting => return Step::Wait(WATCH_PODS),
            // As it was seen: should its pod start at this very moment, it may go on.
            Some(_) if gave_up(stage).is_some() => {
                return Step::Delete { job: job.name.clone(), version: job.version.clone(), unchanged: true };
            }
            Some((reason, why)) => {
                let since = job.pod.as_ref().map_or(job.created, |pod| pod.created);
                let left = deadline.0.saturating_sub((self.now - since).to_std().unwrap_or_default());
                if left.is_zero() {
                    let message = format!("the pod of Job {} did not start within {deadline} (jobs.{name}.startDeadline): {why}", job.name);
                    stage.reason = Some(reason.to_owned());
                    stage.message = Some(message.clone());
                    let verdict = Verdict::new("Unknown", "Running", format!("{name}: {message}; the Job is stopped"));
                    say(&mut status, self.run, verdict, self.now);
                    return Step::Record { status: Box::new(status), notes: Vec::new() };
                }
                pause = pause.min(left);
            }
            // It started after all.
            None if gave_up(stage).is_some() => (stage.reason, stage.message) = (None, None),
            None => {}
        }
        let mut message = format!("{name}: attempt {attempt} runs as Job {}", job.name);
        if let Some((reason, why)) = job.pod.as_ref().and_then(|pod| pod.waiting.as_ref()) {
            let stuck = format!("{name}: the pod of Job {} does not start: ", job.name);
            if said(&status).is_some_and(|said| said.strip_prefix(&stuck).is_some_and(|rest| is_same_cause(rest, reason))) {
                return Step::Wait(pause);
            }
            message = format!("{stuck}{reason}: {why}");
        }
        match self.waiting(status.clone(), "Running", message, pause) {
            Step::Wait(_) if moved => Step::Record { status: Box::new(status), notes: Vec::new() },
            step => step,
        }
    }

    fn attempt_failed(&self, mut status: LakehouseRunStatus, index: usize, failure: Failure) -> Step {
        let stage = &mut status.stages[index];
        enter_report(stage, failure.report.as_deref());
        stage.reason = Some(failure.reason.clone());
        stage.message = Some(failure.message.clone());
        if self.run.spec.state == RunState::Cancelled {
            return self.cancelled(status);
        }
        let uid = self.run.metadata.uid.as_deref().unwrap_or_default();
        let limits = self.observed.limits(stage.name, failure.class);
        let Some(Again { at, retry }) = again(stage, uid, failure.class, limits, self.now) else {
            let attempts = (stage.attempt - stage.lost).max(1);
            let message = if attempts == 1 { failure.message } else { format!("{} (after {attempts} attempts)", failure.message) };
            return self.stage_failed(status, index, &failure.reason, message);
        };
        count(stage, retry);
        stage.state = StageState::Pending;
        stage.retry_at = Some(at);
        let (name, attempt) = (stage.name, stage.attempt);
        let StageRetries { class, count, limit } = retry;
        let message = format!(
            "{name}: attempt {attempt} failed with {}: {}; the next one begins at {} (retry {count} of {limit} for {class})",
            failure.reason,
            failure.message,
            lakehouse_contract::interval::rfc3339(at)
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
}

/// Why the Job of a stage at work is being stopped: reason and message, recorded before it is deleted.
fn gave_up(stage: &StageStatus) -> Option<(String, String)> {
    let reason = stage.reason.clone().filter(|reason| NEVER_STARTED.contains(&reason.as_str()))?;
    (stage.state == StageState::Running).then(|| (reason, stage.message.clone().unwrap_or_default()))
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
