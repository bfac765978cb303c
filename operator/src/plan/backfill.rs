//! The next step of a backfill, and how far it is: from its spec, the runs that it owns, and what else has run.
//!
//! Nothing is remembered but the definition that it began with: names of runs are derived from backfill, interval and part, so what exists says what was
//! done. Where the order of gold matters ([`Part::Data`] and [`Part::Gold`]), data of many intervals is brought at the same time, and gold goes through
//! them from the oldest, one at a time, as soon as the data of an interval and of all before it is there.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use kube::ResourceExt;
use lakehouse_api::{
    LakehouseBackfill, LakehouseBackfillStatus, LakehousePipelineSpec, LakehouseRun, LakehouseSpec,
    run::{Refresh, RunInterval, RunState},
};
use lakehouse_contract::{
    Interval, Stage,
    backfill::{Layout, Part},
    history::History,
};

use super::{
    Note,
    status::{finished, succeeded},
};
use crate::{
    conditions::{self, Verdict},
    names,
};

/// Type of a backfill's one condition.
pub const SUCCEEDED: &str = "Succeeded";
/// Intervals that may fail where the spec does not say.
const MAX_FAILED: i32 = 3;
/// Most intervals that the status of a dry run names.
const MOST_SHOWN: usize = 100;
/// Most failed runs that the status names.
const MOST_FAILED: usize = 16;

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

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Absent,
    Active,
    Succeeded,
    Failed,
}

/// Where an interval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Skipped,
    Remaining,
    Active,
    Succeeded,
    Failed,
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

/// The runs of a backfill, by what they are for.
struct Work<'a> {
    backfill: &'a LakehouseBackfill,
    /// What the names of its runs end with.
    digest: String,
    layout: &'a Layout,
    /// Own runs by name.
    own: BTreeMap<String, &'a LakehouseRun>,
    made: &'a [String],
    /// Every interval in the order of the layout, with where it stands.
    intervals: Vec<(Interval, Standing)>,
}

impl<'a> Work<'a> {
    fn new(backfill: &'a LakehouseBackfill, layout: &'a Layout, history: &History, observed: &Observed<'a>) -> Self {
        let own = observed.own.iter().map(|run| (run.name_any(), *run)).collect();
        let digest = names::backfill_digest(&backfill.name_any(), &backfill.uid().unwrap_or_default());
        let mut work = Self { backfill, digest, layout, own, made: observed.made, intervals: Vec::new() };
        work.intervals = layout
            .intervals
            .iter()
            .map(|interval| {
                let states: Vec<State> = layout.parts.iter().map(|part| work.state(interval, *part)).collect();
                let has = |state| states.contains(&state);
                let standing = if has(State::Failed) {
                    Standing::Failed
                } else if has(State::Active) {
                    Standing::Active
                } else if !has(State::Absent) {
                    Standing::Succeeded
                } else if !has(State::Succeeded) && history.skips(backfill.spec.rerun, interval, &layout.stages) {
                    Standing::Skipped
                } else {
                    Standing::Remaining
                };
                (*interval, standing)
            })
            .collect();
        work
    }

    fn name(&self, interval: &Interval, part: Part) -> String {
        let label = interval.label(self.layout.grain).to_lowercase();
        let what = match part {
            Part::Whole => label,
            Part::Data => format!("{label}-data"),
            Part::Gold => format!("{label}-gold"),
        };
        names::backfill_run(self.backfill.metadata.name.as_deref().unwrap_or_default(), &self.digest, &what)
    }

    fn refresh_name(&self) -> String {
        names::backfill_run(self.backfill.metadata.name.as_deref().unwrap_or_default(), &self.digest, "refresh")
    }

    fn state(&self, interval: &Interval, part: Part) -> State {
        self.state_of(&self.name(interval, part))
    }

    fn state_of(&self, name: &str) -> State {
        match self.own.get(name).and_then(|run| run.status.as_ref()).filter(|status| finished(status)) {
            Some(status) if succeeded(status) => State::Succeeded,
            Some(_) => State::Failed,
            None if self.own.contains_key(name) || self.made.iter().any(|made| made == name) => State::Active,
            None => State::Absent,
        }
    }

    /// Names of the runs in this state.
    fn runs(&self, state: State) -> impl Iterator<Item = String> {
        let refresh = [self.refresh_name()];
        let all = self.layout.intervals.iter().flat_map(|interval| self.layout.parts.iter().map(|part| self.name(interval, *part)));
        all.chain(refresh).filter(move |name| self.state_of(name) == state)
    }

    /// The intervals to be run, in order.
    fn planned(&self) -> impl Iterator<Item = Interval> {
        self.intervals.iter().filter(|(_, standing)| *standing != Standing::Skipped).map(|(interval, _)| *interval)
    }

    /// The first interval of which nothing has begun.
    fn upcoming(&self) -> Option<DateTime<Utc>> {
        self.intervals.iter().find(|(_, standing)| *standing == Standing::Remaining).map(|(interval, _)| interval.start)
    }

    fn count(&self, status: &mut LakehouseBackfillStatus) {
        let count = |wanted| {
            let found = self.intervals.iter().filter(|(_, standing)| *standing == wanted).count();
            i32::try_from(found).unwrap_or(i32::MAX)
        };
        status.skipped = count(Standing::Skipped);
        status.active = count(Standing::Active);
        status.succeeded = count(Standing::Succeeded);
        status.failed = count(Standing::Failed);
        status.remaining = count(Standing::Remaining);
        status.planned = status.active + status.succeeded + status.failed + status.remaining;
        let mut failed: Vec<(Interval, String)> = Vec::new();
        for (interval, _) in self.intervals.iter().filter(|(_, standing)| *standing == Standing::Failed) {
            let names = self.layout.parts.iter().map(|part| self.name(interval, *part));
            failed.extend(names.filter(|name| self.state_of(name) == State::Failed).map(|name| (*interval, name)));
        }
        failed.sort();
        status.failed_runs = failed.into_iter().map(|(_, name)| name).take(MOST_FAILED).collect();
    }

    fn summary(&self, what: &str) -> String {
        let mut counts = LakehouseBackfillStatus::default();
        self.count(&mut counts);
        let mut text = format!("{what}: {} of {} intervals succeeded", counts.succeeded, counts.planned);
        for (count, word) in [(counts.failed, "failed"), (counts.remaining, "remain"), (counts.skipped, "left alone")] {
            if count > 0 {
                text.push_str(&format!(", {count} {word}"));
            }
        }
        if !counts.failed_runs.is_empty() {
            let more = if usize::try_from(counts.failed).unwrap_or_default() > counts.failed_runs.len() { ", …" } else { "" };
            text.push_str(&format!(" ({}{more})", counts.failed_runs.join(", ")));
        }
        text
    }

    /// The run to be made next: gold that has what it reads, else the data of the next interval.
    fn next_order(&self) -> Option<(Interval, Part)> {
        let gold = self.layout.parts.contains(&Part::Gold).then(|| self.next_gold()).flatten();
        let data = || {
            let first = self.layout.parts.first().copied().filter(|part| *part != Part::Gold)?;
            let absent = |(interval, standing): &&(Interval, Standing)| {
                *standing == Standing::Remaining && self.state(interval, first) == State::Absent
            };
            self.intervals.iter().find(absent).map(|(interval, _)| (*interval, first))
        };
        gold.or_else(data)
    }

    /// Gold of the oldest interval that has none yet; nothing while it is at work, or data of that interval is missing.
    fn next_gold(&self) -> Option<(Interval, Part)> {
        let mut intervals: Vec<&(Interval, Standing)> = self.intervals.iter().collect();
        intervals.sort_by_key(|(interval, _)| *interval);
        let open = |standing| matches!(standing, Standing::Remaining | Standing::Active);
        let (interval, _) = intervals.into_iter().find(|(_, standing)| open(*standing))?;
        let ready = !self.layout.parts.contains(&Part::Data) || self.state(interval, Part::Data) == State::Succeeded;
        (ready && self.state(interval, Part::Gold) == State::Absent).then_some((*interval, Part::Gold))
    }

    /// Where the run at the end stands; done where there is none.
    fn refreshing(&self) -> State {
        if self.refresh_order().is_none() { State::Succeeded } else { self.state_of(&self.refresh_name()) }
    }

    fn refresh_order(&self) -> Option<Order> {
        let refresh = self.layout.refresh?;
        let done = self.intervals.iter().filter(|(_, standing)| *standing == Standing::Succeeded).map(|(interval, _)| *interval);
        Some(Order { name: self.refresh_name(), interval: done.max()?, stages: vec![Stage::Gold], refresh: Some(refresh) })
    }

    /// When all is done if `parallel` runs go on at the pace of those that succeeded. It depends on ended runs only, so that nothing is written while none ends.
    fn estimate(&self, parallel: i32) -> Option<DateTime<Utc>> {
        let parallel = f64::from(parallel.max(1));
        let mut total = 0.0;
        let mut in_turn: f64 = 0.0;
        let mut last = None;
        let mut known = None;
        for part in &self.layout.parts {
            let mut durations = Vec::new();
            let mut open = 0_u32;
            for (interval, standing) in self.intervals.iter().filter(|(_, standing)| *standing != Standing::Skipped) {
                let run = self.own.get(&self.name(interval, *part)).and_then(|run| run.status.as_ref());
                match run.and_then(|status| Some((status, status.finished_at?))) {
                    Some((status, end)) => {
                        last = last.max(Some(end));
                        if succeeded(status) {
                            durations.push((end - status.started_at.unwrap_or(end)).num_seconds().max(0));
                        }
                    }
                    None if *standing != Standing::Failed => open += 1,
                    None => {}
                }
            }
            durations.sort_unstable();
            // Before the first run of gold, one like those of data.
            known = durations.get(durations.len() / 2).map(|seconds| seconds.clamp(&1, &(10 * 365 * 86_400))).copied().or(known);
            let seconds = known? as f64 * f64::from(open);
            total += seconds;
            if *part == Part::Gold {
                in_turn = seconds;
            }
        }
        let left = (total / parallel).max(in_turn).ceil();
        Some(last? + TimeDelta::try_seconds(left as i64)?)
    }
}
