//! The runs of a backfill: where each stands, which is made next, and how far they are.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use kube::ResourceExt;
use lakehouse_api::{LakehouseBackfill, LakehouseBackfillStatus, LakehouseRun};
use lakehouse_contract::{
    Interval, Stage,
    backfill::{Layout, Part},
    history::History,
};

use super::{Observed, Order};
use crate::{
    names,
    plan::status::{finished, succeeded},
};

/// Most failed runs that the status names.
const MOST_FAILED: usize = 16;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Absent,
    Active,
    Succeeded,
    Failed,
}

/// Where an interval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Skipped,
    Remaining,
    Active,
    Succeeded,
    Failed,
}

/// The runs of a backfill, by what they are for.
pub(super) struct Work<'a> {
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
    pub(super) fn new(backfill: &'a LakehouseBackfill, layout: &'a Layout, history: &History, observed: &Observed<'a>) -> Self {
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

    pub(super) fn name(&self, interval: &Interval, part: Part) -> String {
        let label = interval.label(self.layout.grain).to_lowercase();
        let what = match part {
            Part::Whole => label,
            Part::Data => format!("{label}-data"),
            Part::Gold => format!("{label}-gold"),
        };
        names::backfill_run(self.backfill.metadata.name.as_deref().unwrap_or_default(), &self.digest, &what)
    }

    pub(super) fn refresh_name(&self) -> String {
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
    pub(super) fn runs(&self, state: State) -> impl Iterator<Item = String> {
        let refresh = [self.refresh_name()];
        let all = self.layout.intervals.iter().flat_map(|interval| self.layout.parts.iter().map(|part| self.name(interval, *part)));
        all.chain(refresh).filter(move |name| self.state_of(name) == state)
    }

    /// The intervals to be run, in order.
    pub(super) fn planned(&self) -> impl Iterator<Item = Interval> {
        self.intervals.iter().filter(|(_, standing)| *standing != Standing::Skipped).map(|(interval, _)| *interval)
    }

    /// The first interval of which nothing has begun.
    pub(super) fn upcoming(&self) -> Option<DateTime<Utc>> {
        self.intervals.iter().find(|(_, standing)| *standing == Standing::Remaining).map(|(interval, _)| interval.start)
    }

    pub(super) fn count(&self, status: &mut LakehouseBackfillStatus) {
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

    pub(super) fn summary(&self, what: &str) -> String {
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
    pub(super) fn next_order(&self) -> Option<(Interval, Part)> {
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
    pub(super) fn refreshing(&self) -> State {
        if self.refresh_order().is_none() { State::Succeeded } else { self.state_of(&self.refresh_name()) }
    }

    pub(super) fn refresh_order(&self) -> Option<Order> {
        let refresh = self.layout.refresh?;
        let done = self.intervals.iter().filter(|(_, standing)| *standing == Standing::Succeeded).map(|(interval, _)| *interval);
        Some(Order { name: self.refresh_name(), interval: done.max()?, stages: vec![Stage::Gold], refresh: Some(refresh) })
    }

    /// When all is done if `parallel` runs go on at the pace of those that succeeded. It depends on ended runs only, so that nothing is written while none ends.
    pub(super) fn estimate(&self, parallel: i32) -> Option<DateTime<Utc>> {
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
