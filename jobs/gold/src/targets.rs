//! Which intervals a run computes.

use lakehouse_contract::{Interval, IntervalGrain, Refresh, StageSpec};

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
}

impl Targets {
    /// The intervals of one model, the oldest first.
    pub(crate) fn of(&self, model: &Model, commits: &Ledgers) -> Vec<Interval> {
        match self.refresh {
            None => vec![self.run],
            Some(Refresh::Stale) => {
                let stale = commits.stale(&model.table).into_iter().filter_map(|start| beginning(self.grain, start));
                let mut intervals: Vec<Interval> = stale.filter(|interval| *interval != self.run).chain([self.run]).collect();
                intervals.sort_by_key(|interval| interval.start);
                intervals
            }
            // The newest interval replaces what the others would give.
            Some(Refresh::Full) if model.definition.model.write.overwrite.is_some() => self.known.last().copied().into_iter().collect(),
            Some(Refresh::Full) => self.known.clone(),
        }
    }
}

/// The intervals whose commits the run has to know: those that its models read, or all when it computes others too.
pub(crate) fn span(spec: &StageSpec, models: &[Model], refresh: Option<Refresh>) -> Option<Interval> {
    let first = models.iter().map(|model| model.definition.read_start).min().unwrap_or(spec.interval.start);
    refresh.is_none().then_some(Interval { start: first, end: spec.interval.end })
}
