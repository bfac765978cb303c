//! Statistics of earlier intervals, from `quality.results`: what a distribution is compared with.

use std::collections::{BTreeMap, BTreeSet};

use arrow::{array::AsArray, compute::cast, datatypes::DataType};
use chrono::{DateTime, Utc};
use datafusion::{
    catalog::TableProvider,
    error::DataFusionError,
    prelude::{col, lit},
    scalar::ScalarValue,
};
use lakehouse_contract::{RuleKind, TableRef};

use crate::{
    session::session,
    statistics::{self, Statistics},
};

/// Per rule the statistics of earlier intervals, the newest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Earlier(BTreeMap<String, Vec<Statistics>>);

impl Earlier {
    /// Those that a rule has.
    pub(crate) fn of(&self, rule: &str) -> &[Statistics] {
        self.0.get(rule).map_or(&[], Vec::as_slice)
    }

    /// Reads the published results of `rules` = (name, column) of a table for intervals that end at or before `before`; of an interval that was
    /// run several times the newest.
    ///
    /// By the interval and not by the clock of the wall: an interval that is run again is compared with the same ones, whatever was run since.
    pub(crate) async fn read(
        results: std::sync::Arc<dyn TableProvider>,
        owner: &str,
        table: &TableRef,
        rules: &BTreeMap<String, String>,
        before: DateTime<Utc>,
    ) -> Result<Self, DataFusionError> {
        let end = ScalarValue::TimestampMicrosecond(Some(before.timestamp_micros()), Some("UTC".into()));
        let known = col("pipeline")
            .eq(lit(owner))
            .and(col("table_name").eq(lit(table.to_string())))
            .and(col("kind").eq(lit(RuleKind::Distribution.as_str())))
            .and(col("snapshot").is_not_null())
            .and(col("interval_end").lt_eq(lit(end)));
        let frame = session()?.read_table(results)?.filter(known)?;
        let frame = frame.sort(vec![col("interval_start").sort(false, false), col("checked_at").sort(false, false)])?;
        let batches = frame.select(vec![col("rule"), col("bound"), col("observed"), col("interval_start")])?.collect().await?;
        let mut found: BTreeMap<String, Vec<Statistics>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for batch in batches {
            let text = |column: usize| cast(batch.column(column), &DataType::Utf8);
            let (names, bounds, observed, starts) = (text(0)?, text(1)?, text(2)?, cast(batch.column(3), &DataType::Int64)?);
            let (names, bounds, observed) = (names.as_string::<i32>(), bounds.as_string::<i32>(), observed.as_string::<i32>());
            let starts = starts.as_primitive::<arrow::datatypes::Int64Type>();
            for ((rule, bound), (observed, start)) in names.iter().zip(bounds).zip(observed.iter().zip(starts)) {
                let (Some(rule), Some(bound), Some(observed), Some(start)) = (rule, bound, observed, start) else { continue };
                // A rule of this name was about another column once.
                let same = rules.get(rule).is_some_and(|column| statistics::is_about(bound, column));
                if same && seen.insert((rule.to_owned(), start)) {
                    found.entry(rule.to_owned()).or_default().push(statistics::parsed(observed));
                }
            }
        }
        Ok(Self(found))
    }
}
