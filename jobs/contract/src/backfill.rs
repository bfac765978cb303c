//! A backfill as a list of runs: which intervals, in which order, in how many parts. Operator and CLI share it, so that a dry run names what is run.

use chrono::{DateTime, Utc};
use lakehouse_api::{
    LakehouseBackfillSpec, LakehousePipelineSpec, LakehouseSpec,
    backfill::Order,
    common::{IntervalGrain, Stage},
    run::Refresh,
};

use crate::{
    Interval, ResolveError,
    interval::rfc3339,
    resolve::{knows_only_now, stages},
};

/// Most intervals of one backfill.
pub const MOST_INTERVALS: usize = 10_000;

/// Why a backfill of a pipeline cannot be; the field is the manifest's.
#[derive(Debug, thiserror::Error)]
pub enum InvalidBackfill {
    /// A bound that lies within an interval.
    #[error("spec.range.{field}: {at} lies within an interval of the pipeline, which begins at {before} and ends at {after}")]
    Boundary {
        /// `start` or `end`.
        field: &'static str,
        /// The bound.
        at: String,
        /// Start of the interval that it lies in.
        before: String,
        /// Its end.
        after: String,
    },
    /// The bounds are the wrong way round.
    #[error("spec.range: start must be before end")]
    Empty,
    /// More than a status can follow.
    #[error("spec.range: it has more than {MOST_INTERVALS} intervals: make several backfills")]
    TooMany,
    /// Nothing would refresh.
    #[error("spec.refresh: it is the gold stage that refreshes, and the runs would not have it")]
    NoGold,
    /// A stage or parameter that the pipeline does not have.
    #[error("spec.{0}")]
    Definition(#[from] ResolveError),
}

/// The runs of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// All stages in one run.
    Whole,
    /// The stages before gold.
    Data,
    /// Gold.
    Gold,
}

/// What a backfill consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The grain of the pipeline.
    pub grain: IntervalGrain,
    /// Every interval of the range, in the order in which they are run.
    pub intervals: Vec<Interval>,
    /// The stages of an interval.
    pub stages: Vec<Stage>,
    /// The runs of an interval, in their order. Gold is a part of its own where the order of its intervals matters: they then go forward, one at a time.
    pub parts: Vec<Part>,
    /// What one more run of gold computes at the end.
    pub refresh: Option<Refresh>,
    /// Stages were not asked for: ingest is left out where the source cannot be asked any more.
    replays: bool,
}

/// Every interval from `start` to `end`.
fn intervals(grain: IntervalGrain, start: DateTime<Utc>, end: DateTime<Utc>) -> Result<Vec<Interval>, InvalidBackfill> {
    if start >= end {
        return Err(InvalidBackfill::Empty);
    }
    for (field, at) in [("start", start), ("end", end)] {
        let around = Interval::containing(grain, at);
        if around.start != at {
            let (before, after) = (rfc3339(around.start), rfc3339(around.end));
            return Err(InvalidBackfill::Boundary { field, at: rfc3339(at), before, after });
        }
    }
    let mut found = Vec::new();
    let mut next = Interval::containing(grain, start).aligned(grain).map_err(ResolveError::Interval)?;
    while next.start < end {
        if found.len() == MOST_INTERVALS {
            return Err(InvalidBackfill::TooMany);
        }
        found.push(next);
        next = next.next(grain).aligned(grain).map_err(ResolveError::Interval)?;
    }
    Ok(found)
}

impl Layout {
    /// The layout of a backfill of a pipeline, and every reason against it.
    ///
    /// # Errors
    /// [`InvalidBackfill`], which names the field.
    pub fn new(spec: &LakehouseBackfillSpec, definition: &LakehousePipelineSpec) -> Result<Self, InvalidBackfill> {
        let grain = definition.interval;
        let mut intervals = intervals(grain, spec.range.start, spec.range.end)?;
        if spec.order == Order::Backward {
            intervals.reverse();
        }
        let stages = stages(definition, spec.stages.as_deref().unwrap_or_default())?;
        if let Some(name) = spec.parameters.keys().find(|name| !definition.parameters.contains_key(*name)) {
            return Err(ResolveError::UnknownParameter(name.clone()).into());
        }
        let has_gold = stages.contains(&Stage::Gold);
        if spec.refresh.is_some() && !has_gold {
            return Err(InvalidBackfill::NoGold);
        }
        // A model that reads the intervals before its own needs them first; one that overwrites keeps what came last.
        let in_order = definition.gold.iter().any(|model| model.lookback > 0 || model.write.overwrite.is_some());
        let parts = match (has_gold && in_order, stages.len()) {
            (false, _) => vec![Part::Whole],
            (true, 1) => vec![Part::Gold],
            (true, _) => vec![Part::Data, Part::Gold],
        };
        Ok(Self { grain, intervals, stages, parts, refresh: spec.refresh, replays: spec.stages.is_none() })
    }

    /// The stages of one run, made at `now`. Where nobody asked for stages and a source can no longer be asked for the interval, its bronze is replayed.
    pub fn stages_of(
        &self,
        part: Part,
        interval: &Interval,
        definition: &LakehousePipelineSpec,
        lakehouse: &LakehouseSpec,
        now: DateTime<Utc>,
    ) -> Vec<Stage> {
        let of_part = |stage: &&Stage| match part {
            Part::Whole => true,
            Part::Data => **stage != Stage::Gold,
            Part::Gold => **stage == Stage::Gold,
        };
        let mut stages: Vec<Stage> = self.stages.iter().filter(of_part).copied().collect();
        if self.replays && stages.len() > 1 && !interval.within_grace(self.grain, now) && knows_only_now(definition, lakehouse) {
            stages.retain(|stage| *stage != Stage::Ingest);
        }
        stages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn definition(gold: Value) -> LakehousePipelineSpec {
        serde_json::from_value(json!({
            "lakehouse": "main", "parameters": {"limit": "20"},
            "ingest": [{"name": "s", "http": {"connection": "c", "path": "/"}}],
            "silver": [{"name": "t", "from": "s", "write": {"append": {}}, "columns": [{"name": "id", "from": "/id", "type": "string"}]}],
            "gold": gold,
        }))
        .unwrap()
    }

    fn spec(more: Value) -> LakehouseBackfillSpec {
        let mut spec = json!({"pipeline": "p", "range": {"start": "2024-02-28T00:00:00Z", "end": "2024-03-02T00:00:00Z"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    fn model(more: Value) -> Value {
        let mut model = json!({"name": "g", "write": {"replaceInterval": {"column": "day"}}, "sql": "SELECT 1 AS one"});
        model.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([model])
    }

    #[test]
    fn a_range_is_cut_on_the_boundaries_of_the_grain() {
        let labels = |more: Value| {
            let layout = Layout::new(&spec(more), &definition(json!([]))).unwrap();
            layout.intervals.iter().map(|i| i.label(layout.grain)).collect::<Vec<_>>()
        };
        assert_eq!(labels(json!({})), ["2024-02-28", "2024-02-29", "2024-03-01"]);
        assert_eq!(labels(json!({"order": "Backward"})), ["2024-03-01", "2024-02-29", "2024-02-28"]);
        let refused = |more: Value, words: &str| {
            let error = Layout::new(&spec(more), &definition(json!([]))).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        let range = |start: &str, end: &str| json!({"range": {"start": start, "end": end}});
        refused(range("2024-01-01T05:00:00Z", "2024-01-02T00:00:00Z"), "spec.range.start: 2024-01-01T05:00:00Z lies within");
        refused(range("2024-01-01T00:00:00Z", "2024-01-02T00:00:01Z"), "spec.range.end: 2024-01-02T00:00:01Z lies within");
        refused(range("1000-01-01T00:00:00Z", "2024-01-02T00:00:00Z"), "more than 10000 intervals");
        refused(range("2024-01-02T00:00:00Z", "2024-01-01T00:00:00Z"), "start must be before end");
        refused(json!({"stages": ["gold"]}), "spec.stages: the pipeline has no gold stage");
        refused(json!({"parameters": {"limits": "1"}}), "spec.parameters.limits: the pipeline declares no such parameter");
        refused(json!({"refresh": "Stale"}), "spec.refresh");
    }

    #[test]
    fn gold_is_a_part_of_its_own_where_its_order_matters() {
        let parts = |gold: Value, stages: Value| Layout::new(&spec(json!({"stages": stages})), &definition(gold)).unwrap().parts;
        let all = json!(["ingest", "silver", "gold"]);
        assert_eq!(parts(model(json!({})), all.clone()), [Part::Whole]);
        assert_eq!(parts(model(json!({"lookback": 2})), all.clone()), [Part::Data, Part::Gold]);
        assert_eq!(parts(model(json!({"write": {"overwrite": {}}})), all), [Part::Data, Part::Gold]);
        assert_eq!(parts(model(json!({"lookback": 2})), json!(["gold"])), [Part::Gold]);
        assert_eq!(parts(model(json!({"lookback": 2})), json!(["silver"])), [Part::Whole]);
    }

    #[test]
    fn bronze_is_replayed_where_the_source_knows_only_now() {
        let lakehouse = |archive: Value| -> LakehouseSpec {
            serde_json::from_value(json!({
                "objectStore": {"credentialsSecret": "s"}, "catalog": {"sql": {"uriSecret": {"name": "c", "key": "uri"}}},
                "connections": [{"name": "c", "baseUrl": "http://c.example", "archive": archive}],
            }))
            .unwrap()
        };
        let definition = definition(model(json!({"lookback": 1})));
        let now = "2024-03-02T00:30:00Z".parse().unwrap();
        let stages = |more: Value, archive: Value, place: usize, part| {
            let layout = Layout::new(&spec(more), &definition).unwrap();
            layout.stages_of(part, &layout.intervals[place], &definition, &lakehouse(archive), now)
        };
        assert_eq!(stages(json!({}), Value::Null, 0, Part::Data), [Stage::Silver]);
        assert_eq!(stages(json!({}), Value::Null, 2, Part::Data), [Stage::Ingest, Stage::Silver]);
        assert_eq!(stages(json!({}), json!({"query": {"at": "x"}}), 0, Part::Data), [Stage::Ingest, Stage::Silver]);
        assert_eq!(stages(json!({"stages": ["ingest", "silver"]}), Value::Null, 0, Part::Whole), [Stage::Ingest, Stage::Silver]);
        assert_eq!(stages(json!({}), Value::Null, 0, Part::Gold), [Stage::Gold]);
    }
}
