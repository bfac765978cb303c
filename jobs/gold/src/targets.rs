//! Which intervals a run computes.

use chrono::{DateTime, Utc};
use lakehouse_contract::{Interval, IntervalGrain, Refresh, StageSpec, TableRef};

use crate::{
    freshness::{Ledgers, beginning},
    models::Model,
};

/// Which intervals a run computes.
pub(crate) struct Targets {
    /// That of the run.
    pub(crate) run: Interval,
    /// Its grain.
    pub(crate) grain: IntervalGrain,
    /// Which others.
    pub(crate) refresh: Option<Refresh>,
    /// All that the tables have.
    pub(crate) known: Vec<Interval>,
    /// The time of the run.
    pub(crate) now: DateTime<Utc>,
}

impl Targets {
    /// The intervals of one model, the oldest first.
    pub(crate) fn of(&self, model: &Model, commits: &Ledgers) -> Vec<Interval> {
        match self.refresh {
            _ if model.overwrites() => self.of_whole(&model.table, commits).into_iter().collect(),
            None => vec![self.run],
            Some(Refresh::Stale) => {
                let stale = commits.stale(&model.table, self.now).into_iter().filter_map(|start| beginning(self.grain, start));
                let mut intervals: Vec<Interval> = stale.filter(|interval| *interval != self.run).chain([self.run]).collect();
                intervals.sort_by_key(|interval| interval.start);
                intervals
            }
            Some(Refresh::Full) => self.known.clone(),
        }
    }

    /// The newest interval, of a table that each replaces as a whole: in whatever order intervals are run, its rows are the same in the end.
    fn of_whole(&self, table: &TableRef, commits: &Ledgers) -> Option<Interval> {
        match self.refresh {
            Some(Refresh::Full) => self.known.iter().rfind(|interval| interval.start <= self.now || **interval == self.run).copied(),
            None | Some(Refresh::Stale) => {
                let newest = commits.newest(table, self.now).and_then(|start| beginning(self.grain, start));
                Some(newest.filter(|newest| newest.start > self.run.start).unwrap_or(self.run))
            }
        }
    }
}

/// The intervals whose commits the run has to know: those that its models read, or all when it computes others too or a model reads all.
pub(crate) fn span(spec: &StageSpec, models: &[Model], refresh: Option<Refresh>) -> Option<Interval> {
    let first = models.iter().map(|model| model.definition.read_start).min().unwrap_or(spec.interval.start);
    let bounded = refresh.is_none() && !models.iter().any(Model::overwrites);
    bounded.then_some(Interval { start: first, end: spec.interval.end })
}
