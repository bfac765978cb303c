//! Whether a time of a pipeline's schedule makes a run, and when the next one does: from schedule, status and clock.
//!
//! A run is for the newest interval that is complete at its *scheduled* time, and is named after it; so neither a late operator, nor a second one, nor one
//! that starts again between making a run and writing the status makes another. Of several times that mean the same interval the first counts.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use lakehouse_api::{
    common::IntervalGrain,
    pipeline::{ConcurrencyPolicy, LakehousePipelineStatus, ObservedSchedule, Schedule},
};
use lakehouse_contract::{Interval, interval::rfc3339, schedule::Timetable};

use super::Note;
use crate::conditions::{self, Verdict};

/// Type of the condition that says whether every time has its run.
pub const SCHEDULED: &str = "Scheduled";
/// Most missed times that are counted one by one.
const MOST_COUNTED: usize = 1_000;
/// Longest wait for the next time: a machine that slept, or whose clock was set, finds out after so long.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// A time of the schedule, with the interval that its run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The time.
    pub time: DateTime<Utc>,
    /// The newest interval that is complete then.
    pub interval: Interval,
}

impl Due {
    /// The time, as events name it.
    pub fn shown(&self) -> String {
        rfc3339(self.time)
    }
}

/// A run that the schedule made and that has no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// Its name.
    pub name: String,
    /// Its interval.
    pub interval: Interval,
    /// It is being cancelled.
    pub cancelled: bool,
}

/// The runs that the schedule made, as far as they matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Those without an outcome.
    pub active: Vec<Active>,
    /// The intervals of all.
    pub intervals: BTreeSet<Interval>,
}

/// Times that have no run and will not have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// How many.
    pub count: usize,
    /// There are more than were counted.
    pub more: bool,
    /// The first.
    pub first: DateTime<Utc>,
    /// The last.
    pub last: DateTime<Utc>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the run for a time; those before it that are left out are told.
    Make(Due, Option<Missed>),
    /// All times up to this one are left out.
    LeaveOut(DateTime<Utc>, Missed),
    /// Cancel a run that the next one replaces.
    Cancel(String),
    /// A run is due and waits until this one is finished.
    WaitFor(String),
    /// Nothing is due before this time.
    Idle(Option<DateTime<Utc>>),
}

/// The schedule of one pipeline, as its status has it.
#[derive(Clone, Debug)]
pub struct Clock {
    schedule: Schedule,
    grain: IntervalGrain,
    table: Timetable,
    observed: ObservedSchedule,
    last: Option<DateTime<Utc>>,
}

impl Clock {
    /// What `status` says of `schedule`. One that is new, or has other times than before, counts from `now`: an edited schedule changes nothing that is past.
    pub fn new(
        schedule: Schedule,
        grain: IntervalGrain,
        table: Timetable,
        status: Option<&LakehousePipelineStatus>,
        now: DateTime<Utc>,
    ) -> Self {
        let known = status.and_then(|status| status.schedule.clone());
        let same = known.filter(|known| known.cron == schedule.cron && known.time_zone == schedule.time_zone);
        let new = || ObservedSchedule { cron: schedule.cron.clone(), time_zone: schedule.time_zone.clone(), since: now };
        let last = status.and_then(|status| status.last_scheduled_time);
        let observed = same.unwrap_or_else(new);
        Self { schedule, grain, table, observed, last }
    }

    /// The first time after `after` that means another interval than the last one that was dealt with.
    fn next(&self, after: DateTime<Utc>) -> Option<Due> {
        let known = self.last.map(|last| self.next_interval_ends(last));
        self.due(known.map_or(after, |ends| after.max(ends - TimeDelta::nanoseconds(1))))
    }

    /// The first time after `after`.
    fn due(&self, after: DateTime<Utc>) -> Option<Due> {
        let time = self.table.next_after(after)?;
        Some(Due { time, interval: Interval::last_complete(self.grain, time) })
    }

    /// When the interval ends that follows the newest one that is complete at `time`.
    fn next_interval_ends(&self, time: DateTime<Utc>) -> DateTime<Utc> {
        Interval::last_complete(self.grain, time).next(self.grain).end
    }

    /// Times before this one are dealt with.
    fn begin(&self) -> DateTime<Utc> {
        self.last.map_or(self.observed.since, |last| last.max(self.observed.since))
    }

    /// The newest `most` times that are due, the oldest first, and those before them.
    fn due_times(&self, most: usize, now: DateTime<Utc>, made: &Made) -> (VecDeque<Due>, Option<Missed>) {
        // From how long ago: the shortest time back that has enough of them, so that a schedule which stood still for years is no work.
        let begin = self.begin();
        let mut newest = VecDeque::new();
        for hours in [24, 24 * 45, 24 * 366 * 9] {
            // On a boundary, so that the first time for an interval is not taken for a later one.
            let back = Interval::containing(self.grain, now - TimeDelta::hours(hours)).start;
            let from = begin.max(back - TimeDelta::nanoseconds(1));
            newest.clear();
            let mut next = self.next(from);
            while let Some(due) = next.filter(|due| due.time <= now) {
                newest.push_back(due);
                if newest.len() > most {
                    newest.pop_front();
                }
                next = self.due(due.time.max(self.next_interval_ends(due.time) - TimeDelta::nanoseconds(1)));
            }
            if newest.len() == most || from == begin {
                break;
            }
        }
        let mut missed: Option<Missed> = None;
        let mut next = self.next(begin);
        let kept = newest.front().map(|due| due.time);
        while let Some(due) = next.filter(|due| due.time <= now && kept.is_none_or(|kept| due.time < kept)) {
            if !made.intervals.contains(&due.interval) {
                let missed = missed.get_or_insert(Missed { count: 0, more: false, first: due.time, last: due.time });
                if missed.count == MOST_COUNTED {
                    missed.more = true;
                    break;
                }
                missed.count += 1;
                missed.last = due.time;
            }
            next = self.due(due.time.max(self.next_interval_ends(due.time) - TimeDelta::nanoseconds(1)));
        }
        (newest, missed)
    }

    /// The next step at `now`, where the schedule has made the runs `made`.
    pub fn step(&self, made: &Made, now: DateTime<Utc>) -> Step {
        if self.schedule.suspend {
            return Step::Idle(None);
        }
        // Only the newest run would survive the others.
        let beside = if self.schedule.concurrency_policy == ConcurrencyPolicy::Replace { 0 } else { self.schedule.catch_up.max };
        let most = usize::try_from(beside).unwrap_or_default() + 1;
        let (mut due, mut missed) = self.due_times(most, now, made);
        if let Some(deadline) = self.schedule.starting_deadline.and_then(|deadline| TimeDelta::from_std(deadline.0).ok()) {
            while let Some(late) = due.front().filter(|due| now - due.time > deadline).copied() {
                due.pop_front();
                if !made.intervals.contains(&late.interval) {
                    let missed = missed.get_or_insert(Missed { count: 0, more: false, first: late.time, last: late.time });
                    missed.count += 1;
                    missed.last = late.time;
                }
                if due.is_empty() {
                    return match missed {
                        Some(missed) => Step::LeaveOut(late.time, missed),
                        // Its run is there: only the status is to be brought up to date.
                        None => Step::Make(late, None),
                    };
                }
            }
        }
        let Some(first) = due.front().copied() else { return Step::Idle(self.next(now.max(self.begin())).map(|due| due.time)) };
        let mut others = made.active.iter().filter(|run| run.interval != first.interval);
        match self.schedule.concurrency_policy {
            ConcurrencyPolicy::Forbid if !made.intervals.contains(&first.interval) => match others.next() {
                Some(active) => Step::WaitFor(active.name.clone()),
                None => Step::Make(first, missed),
            },
            ConcurrencyPolicy::Replace => match others.find(|run| !run.cancelled) {
                Some(active) => Step::Cancel(active.name.clone()),
                None => Step::Make(first, missed),
            },
            ConcurrencyPolicy::Forbid | ConcurrencyPolicy::Allow => Step::Make(first, missed),
        }
    }

    /// The time, and all before it, are dealt with.
    pub fn passed(&mut self, time: DateTime<Utc>) {
        self.last = Some(self.last.map_or(time, |last| last.max(time)));
    }

    /// Whether the status has to be asked for something that is due: without it no run need be looked at.
    pub fn is_due(&self, now: DateTime<Utc>) -> bool {
        !self.schedule.suspend && self.next(self.begin()).is_some_and(|due| due.time <= now)
    }

    /// Writes what is known into `status`; with the condition as `said` has it, or as it was.
    pub fn enter(&self, status: &mut LakehousePipelineStatus, said: Option<Verdict>, generation: Option<i64>, now: DateTime<Utc>) {
        status.last_scheduled_time = self.last;
        status.next_scheduled_time = if self.schedule.suspend { None } else { self.next(now.max(self.begin())).map(|due| due.time) };
        status.schedule = Some(self.observed.clone());
        let before = conditions::find(&status.conditions, SCHEDULED);
        let verdict = said.or_else(|| match before.map(|condition| condition.reason.as_str()) {
            _ if self.schedule.suspend => Some(Verdict::new("False", "Suspended", "spec.trigger.schedule.suspend: no runs are made")),
            // What was missed is told until the next time that has its run.
            Some("TimesMissed" | "OnTime") => None,
            _ => Some(on_time()),
        });
        if let Some(verdict) = verdict {
            conditions::set(&mut status.conditions, SCHEDULED, verdict, generation, now);
        } else if let Some(condition) = status.conditions.iter_mut().find(|condition| condition.type_ == SCHEDULED) {
            condition.observed_generation = generation;
        }
    }

    /// How long from `present` until the next look, where everything that was due at `now` is dealt with. What became due since is looked at at once.
    pub fn wait(&self, now: DateTime<Utc>, present: DateTime<Utc>) -> Option<Duration> {
        if self.schedule.suspend {
            return None;
        }
        let next = self.next(now.max(self.begin()))?;
        Some((next.time - present).to_std().unwrap_or_default().min(LONGEST_WAIT))
    }
}

/// Takes what only a schedule has out of the status of a pipeline without one.
pub fn forget(status: &mut LakehousePipelineStatus) {
    status.schedule = None;
    status.last_scheduled_time = None;
    status.next_scheduled_time = None;
    status.conditions.retain(|condition| condition.type_ != SCHEDULED);
}

/// The condition after a run was made and nothing was left out.
pub fn on_time() -> Verdict {
    Verdict::new("True", "OnTime", "every time of the schedule had its run")
}

/// The condition while a run waits for another.
pub fn waits_for(run: &str) -> Verdict {
    Verdict::new("False", "WaitingForRun", format!("the next run waits until run {run} is finished (concurrencyPolicy Forbid)"))
}

/// Condition and event about times that were left out.
pub fn left_out(pipeline: &str, missed: &Missed) -> (Verdict, Note) {
    let (first, last) = (rfc3339(missed.first), rfc3339(missed.last));
    let at_least = if missed.more { "more than " } else { "" };
    let what = match missed.count {
        1 => format!("the time {first} was missed and has no run"),
        count => format!(
            "{at_least}{count} times from {first}{} were missed and have no run",
            if missed.more { " on".to_owned() } else { format!(" to {last}") }
        ),
    };
    let message = format!("{what} (startingDeadline, catchUp): a LakehouseBackfill runs their intervals");
    (
        Verdict::new("False", "TimesMissed", message.clone()),
        Note::warning("TimesMissed", "schedule", format!("Pipeline {pipeline}: {message}")),
    )
}
