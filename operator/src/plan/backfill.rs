//! The next step of a backfill, and how far it is: from its spec, the runs that it owns, and what else has run.
//!
//! Nothing is remembered but the definition that it began with: names of runs are derived from backfill, interval and part, so what exists says what was
//! done. Where the order of gold matters ([`Data`](lakehouse_contract::backfill::Part::Data) and [`Gold`](lakehouse_contract::backfill::Part::Gold)), data of many intervals is brought at the same time, and gold goes through
//! them from the oldest, one at a time, as soon as the data of an interval and of all before it is there.

mod work;

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use lakehouse_api::{
    LakehouseBackfill, LakehouseBackfillStatus, LakehousePipelineSpec, LakehouseRun, LakehouseSpec,
    run::{Refresh, RunInterval, RunState},
};
use lakehouse_contract::{Interval, Stage, backfill::Layout, history::History};

use super::{Note, status::finished};
use crate::conditions::{self, Verdict};
use work::{State, Work};

/// Type of a backfill's one condition.
pub const SUCCEEDED: &str = "Succeeded";
/// Intervals that may fail where the spec does not say.
const MAX_FAILED: i32 = 3;
/// Most intervals that the status of a dry run names.
const MOST_SHOWN: usize = 100;

/// What is known about the definition that the backfill executes.
#[derive(Clone, Debug, PartialEq)]
pub enum Definition {
    /// Something it needs does not exist yet. It may come.
    Missing {
        /// `PipelineNotFound` or `LakehouseNotFound`.
        reason: &'static str,
        /// The line a person reads.
        message: String,
    },
    /// It cannot be executed.
    Refused {
        /// `InvalidDefinition` or `DefinitionNotFound`.
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
        /// The definition.
        spec: Box<LakehousePipelineSpec>,
        /// Its Lakehouse.
        lakehouse: Box<LakehouseSpec>,
        /// `status.completedIntervals` of the pipeline.
        completed: Vec<RunInterval>,
    },
}

/// The world around a backfill.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The definition.
    pub definition: &'a Definition,
    /// The runs that the backfill owns.
    pub own: &'a [&'a LakehouseRun],
    /// The other runs of the pipeline.
    pub others: &'a [&'a LakehouseRun],
    /// Names of runs that were made a moment ago, whether they are among `own` or not.
    pub made: &'a [String],
}

/// A run to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its name.
    pub name: String,
    /// Its interval.
    pub interval: Interval,
    /// Its stages.
    pub stages: Vec<Stage>,
    /// What gold computes beside it.
    pub refresh: Option<Refresh>,
}

/// One step: at most one write.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Keep the definition as ControllerRevision.
    KeepDefinition,
    /// Write the status; then publish the notes.
    Record {
        /// The whole status.
        status: Box<LakehouseBackfillStatus>,
        /// What a person should hear.
        notes: Vec<Note>,
    },
    /// Make a run.
    Create(Order),
    /// Cancel a run.
    Cancel {
        /// Its name.
        run: String,
    },
    /// Nothing to do until a run changes.
    Wait,
    /// What it needs is not there: look again after a while.
    LookAgain,
    /// Nothing to do any more.
    Done,
}

/// Whether the outcome is known.
pub fn is_finished(status: &LakehouseBackfillStatus) -> bool {
    conditions::find(&status.conditions, SUCCEEDED).is_some_and(|c| c.status != "Unknown")
}

/// The next step of `backfill`. `now` is in whole seconds.
pub fn decide(backfill: &LakehouseBackfill, observed: &Observed, now: DateTime<Utc>) -> Step {
    let status = backfill.status.clone().unwrap_or_default();
    if is_finished(&status) {
        return Step::Done;
    }
    let speaker = Speaker { backfill, now };
    if backfill.spec.state == RunState::Cancelled {
        if status.started_at.is_none() {
            return speaker.finish(status, Verdict::new("False", "Cancelled", "cancelled before its start"));
        }
        // Whatever became of the definition: what is at work is stopped.
        let at_work = || observed.own.iter().filter(|run| !run.status.as_ref().is_some_and(finished));
        if let Some(run) = at_work().find(|run| run.spec.state != RunState::Cancelled) {
            return Step::Cancel { run: run.name_any() };
        }
        if !matches!(observed.definition, Definition::Known { .. }) {
            let ended = at_work().next().is_none() && observed.made.is_empty();
            return if ended { speaker.finish(status, Verdict::new("False", "Cancelled", "cancelled")) } else { Step::LookAgain };
        }
    }
    let (revision, kept, definition, lakehouse, completed) = match observed.definition {
        Definition::Missing { reason, message } => {
            return speaker.say_or(status, Verdict::new("Unknown", *reason, message), Step::LookAgain);
        }
        Definition::Refused { reason, message } => return speaker.finish(status, Verdict::new("False", *reason, message)),
        Definition::Known { revision, kept, spec, lakehouse, completed } => (revision, *kept, spec, lakehouse, completed),
    };
    let layout = match Layout::new(&backfill.spec, definition) {
        Ok(layout) => layout,
        Err(error) => return speaker.finish(status, Verdict::new("False", "InvalidBackfill", error.to_string())),
    };
    let history = History::new(definition, completed, observed.others.iter().copied());
    let work = Work::new(backfill, &layout, &history, observed);
    let mut next = status.clone();
    work.count(&mut next);
    if backfill.spec.dry_run {
        next.intervals = work.planned().map(|interval| interval.start).take(MOST_SHOWN).collect();
        next.next_interval = next.intervals.first().copied();
        let message = format!("{} of {} intervals would be run, {} are left alone", next.planned, layout.intervals.len(), next.skipped);
        return speaker.finish(next, Verdict::new("True", "DryRun", message));
    }
    if status.started_at.is_none() {
        if backfill.spec.state == RunState::Suspended {
            return speaker.say_or(status, Verdict::new("Unknown", "Suspended", "suspended before its start"), Step::Wait);
        }
        if !kept {
            return Step::KeepDefinition;
        }
        next.definition = Some(revision.clone());
        next.started_at = Some(now);
        next.next_interval = work.planned().next().map(|interval| interval.start);
        let message = format!("begins: {} of {} intervals, {} are left alone", next.planned, layout.intervals.len(), next.skipped);
        let note = Note::normal("Started", "backfill", speaker.text(&message));
        return speaker.record(next, Verdict::new("Unknown", "Running", message), vec![note]);
    }
    let at_work = work.runs(State::Active).count();
    let most_failed = backfill.spec.max_failed.unwrap_or(MAX_FAILED);
    let verdict = if backfill.spec.state == RunState::Cancelled {
        if at_work == 0 {
            return speaker.finish(next, Verdict::new("False", "Cancelled", work.summary("cancelled")));
        }
        Verdict::new("Unknown", "Cancelling", work.summary("waits for the runs at work to end"))
    } else if next.failed > most_failed {
        if at_work == 0 {
            return speaker.finish(
                next,
                Verdict::new("False", "TooManyFailures", work.summary(&format!("more than {most_failed} intervals failed (maxFailed)"))),
            );
        }
        Verdict::new(
            "Unknown",
            "TooManyFailures",
            work.summary(&format!("more than {most_failed} intervals failed (maxFailed): no further run is made")),
        )
    } else {
        let order = work.next_order();
        next.next_interval = order.as_ref().map(|(interval, _)| interval.start).or_else(|| work.upcoming());
        let all_done = next.active == 0 && next.remaining == 0;
        if all_done {
            match work.refreshing() {
                State::Absent if backfill.spec.state == RunState::Active => {
                    if let Some(order) = work.refresh_order() {
                        return Step::Create(order);
                    }
                }
                State::Absent | State::Active => {}
                State::Failed => {
                    let message = work.summary(&format!("the run that refreshes gold failed: {}", work.refresh_name()));
                    return speaker.finish(next, Verdict::new("False", "RefreshFailed", message));
                }
                State::Succeeded if next.failed > 0 => {
                    return speaker.finish(next, Verdict::new("False", "IntervalsFailed", work.summary("done, but not all of it")));
                }
                State::Succeeded => {
                    let reason = if next.planned == 0 { "NothingToRun" } else { "Completed" };
                    return speaker.finish(next, Verdict::new("True", reason, work.summary("done")));
                }
            }
        }
        if backfill.spec.state == RunState::Suspended {
            Verdict::new("Unknown", "Suspended", work.summary("suspended: no further run is made"))
        } else {
            if let Some((interval, part)) = order.filter(|_| at_work < usize::try_from(backfill.spec.max_parallel).unwrap_or(1)) {
                let stages = layout.stages_of(part, &interval, definition, lakehouse, now);
                return Step::Create(Order { name: work.name(&interval, part), interval, stages, refresh: None });
            }
            let parallel = backfill.spec.max_parallel.min(definition.max_concurrent_runs);
            next.estimated_completion = work.estimate(parallel);
            Verdict::new("Unknown", "Running", work.summary("at work"))
        }
    };
    if verdict.reason != "Running" {
        next.estimated_completion = None;
    }
    speaker.say_or(next, verdict, Step::Wait)
}

struct Speaker<'a> {
    backfill: &'a LakehouseBackfill,
    now: DateTime<Utc>,
}

impl Speaker<'_> {
    fn text(&self, text: &str) -> String {
        format!("Backfill {}: {text}", self.backfill.name_any())
    }

    fn set(&self, status: &mut LakehouseBackfillStatus, verdict: Verdict) {
        let generation = self.backfill.metadata.generation;
        conditions::set(&mut status.conditions, SUCCEEDED, verdict, generation, self.now);
        status.observed_generation = generation;
    }

    fn record(&self, mut status: LakehouseBackfillStatus, verdict: Verdict, notes: Vec<Note>) -> Step {
        self.set(&mut status, verdict);
        Step::Record { status: Box::new(status), notes }
    }

    /// Says so, unless the status says it already.
    fn say_or(&self, mut status: LakehouseBackfillStatus, verdict: Verdict, otherwise: Step) -> Step {
        let before = self.backfill.status.as_ref();
        let reason = |status: &LakehouseBackfillStatus| conditions::find(&status.conditions, SUCCEEDED).map(|c| c.reason.clone());
        let news = before.and_then(reason).as_deref() != Some(verdict.reason.as_str()) && verdict.reason != "Running";
        let warning = verdict.reason != "Suspended" && verdict.reason != "Cancelling";
        let note = || Note { warning, reason: verdict.reason.clone(), subject: "backfill".to_owned(), text: self.text(&verdict.message) };
        let notes = news.then(note).into_iter().collect();
        self.set(&mut status, verdict);
        if before == Some(&status) { otherwise } else { Step::Record { status: Box::new(status), notes } }
    }

    fn finish(&self, mut status: LakehouseBackfillStatus, verdict: Verdict) -> Step {
        status.finished_at = Some(self.now);
        status.estimated_completion = None;
        if verdict.reason != "DryRun" {
            status.next_interval = None;
        }
        let warning = verdict.status != "True" && verdict.reason != "Cancelled";
        let note = Note { warning, reason: verdict.reason.clone(), subject: "backfill".to_owned(), text: self.text(&verdict.message) };
        self.record(status, verdict, vec![note])
    }
}
