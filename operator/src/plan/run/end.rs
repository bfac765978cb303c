//! How a stage and a run end.

use lakehouse_api::{
    common::Stage,
    run::{LakehouseRunStatus, RunState, StageState, StageStatus},
};
use lakehouse_contract::Termination;

use super::{
    super::{
        Note,
        outcome::JobView,
        status::{enter_report, finish, rows, say},
    },
    Decider, Definition, Step,
};
use crate::conditions::Verdict;

/// The Job of the next stage.
enum Next<'a> {
    ToMake { stage: Stage, job: String },
    Made(&'a JobView),
}

impl Decider<'_> {
    pub(super) fn stage_succeeded(&self, mut status: LakehouseRunStatus, index: usize, report: Option<&Termination>) -> Step {
        let follows = status.stages.get(index + 1).and_then(|next| self.follows(next));
        if let Some(Next::ToMake { stage, job }) = follows {
            return Step::Create { stage, attempt: 1, job };
        }
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
            let begins = match follows {
                Some(Next::Made(job)) => Some(self.begins(&mut status, index + 1, job)),
                _ => None,
            };
            return Step::Record { status: Box::new(status), notes: std::iter::once(note).chain(begins).collect() };
        }
        match self.completed(status) {
            Step::Record { status, notes } => Step::Record { status, notes: std::iter::once(note).chain(notes).collect() },
            other => other,
        }
    }

    /// The first Job of the stage after one that succeeded, unless something keeps it from being made: that is for [`Self::next_attempt`].
    ///
    /// It is made before the outcome that it follows from is recorded: one write then says both. Until then the stage before it is Running and its
    /// Job there, so whoever looks decides the same again and finds the Job by its name.
    fn follows(&self, next: &StageStatus) -> Option<Next<'_>> {
        let is_free = self.run.spec.state == RunState::Active && next.state == StageState::Pending && next.attempt == 0;
        if !is_free || self.observed.obstacle.is_some() || !matches!(self.observed.definition, Definition::Known { .. }) {
            return None;
        }
        let job = self.job_name(next.name, 1);
        Some(match self.observed.job(Some(&job)) {
            Some(made) => Next::Made(made),
            None => Next::ToMake { stage: next.name, job },
        })
    }

    pub(super) fn completed(&self, mut status: LakehouseRunStatus) -> Step {
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

    pub(super) fn stage_failed(&self, mut status: LakehouseRunStatus, index: usize, reason: &str, message: String) -> Step {
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

    pub(super) fn failed(&self, mut status: LakehouseRunStatus, reason: &str, message: String) -> Step {
        let note = Note::warning(reason, "run", self.text(&message));
        finish(&mut status, self.run, Verdict::new("False", reason, message), self.now);
        Step::Record { status: Box::new(status), notes: vec![note] }
    }

    pub(super) fn cancelled(&self, mut status: LakehouseRunStatus) -> Step {
        finish(&mut status, self.run, Verdict::new("False", "Cancelled", "cancelled by spec.state"), self.now);
        let note = Note::normal("Cancelled", "run", self.text("cancelled; what was committed stays"));
        Step::Record { status: Box::new(status), notes: vec![note] }
    }
}
