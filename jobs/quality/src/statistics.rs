//! Statistics of a column, and single values of results.

use std::collections::BTreeMap;

use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type},
    util::display::array_value_to_string,
};
use datafusion::{error::DataFusionError, prelude::SessionContext};
use lakehouse_api::pipeline::{Bounds, Distribution};

use crate::session::{ROWS, quoted};

/// What stands between the statistics of a run and those of earlier ones.
const BEFORE: &str = "; before: ";

/// The statistics of one interval by their names.
pub(crate) type Statistics = BTreeMap<String, f64>;

/// What was found of a distribution.
pub(crate) struct Found {
    pub(crate) rows: u64,
    pub(crate) holds: bool,
    /// `mean = 5.25, nullRatio = 0.01`.
    pub(crate) observed: String,
}

/// The statistics that a distribution bounds, each with its bounds and, as SQL, its value.
fn statistics(of: &Distribution) -> Vec<(String, Bounds, String)> {
    let column = quoted(&of.column);
    let number = format!("CAST({column} AS DOUBLE)");
    let ratio = |part: &str, whole: &str| format!("CAST({part} AS DOUBLE) / NULLIF(CAST({whole} AS DOUBLE), 0)");
    let mut all = Vec::new();
    let mut add = |name: String, bounds: Option<Bounds>, sql: String| {
        if let Some(bounds) = bounds {
            all.push((name, bounds, sql));
        }
    };
    add("mean".to_owned(), of.mean, format!("avg({number})"));
    add("standardDeviation".to_owned(), of.standard_deviation, format!("stddev({number})"));
    add("nullRatio".to_owned(), of.null_ratio, ratio(&format!("count(*) - count({column})"), "count(*)"));
    add("distinctRatio".to_owned(), of.distinct_ratio, ratio(&format!("count(DISTINCT {column})"), &format!("count({column})")));
    for quantile in &of.quantiles {
        let sql = format!("percentile_cont({:?}) WITHIN GROUP (ORDER BY {number})", quantile.at);
        add(format!("quantile({})", quantile.at), Some(quantile.bounds()), sql);
    }
    all
}

/// What a distribution asks for, as a person reads it.
pub(crate) fn bound(of: &Distribution) -> String {
    let shown = statistics(of).into_iter().flat_map(|(name, bounds, _)| {
        let fixed = match (bounds.min, bounds.max) {
            (Some(min), Some(max)) => Some(format!("{min} <= {name} <= {max}")),
            (Some(min), None) => Some(format!("{name} >= {min}")),
            (None, Some(max)) => Some(format!("{name} <= {max}")),
            (None, None) => None,
        };
        let earlier = of.earlier_intervals();
        let change =
            bounds.change_at_most.map(|share| format!("{name} changes by at most {share} of its mean over {earlier} earlier intervals"));
        [fixed, change].into_iter().flatten()
    });
    format!("{}: {}", of.column, shown.collect::<Vec<_>>().join(", "))
}

/// Whether what a distribution asks for is about `column`.
pub(crate) fn is_about(bound: &str, column: &str) -> bool {
    bound.strip_prefix(column).is_some_and(|rest| rest.starts_with(": "))
}

/// The statistics that were observed of a run, from the text that [`evaluate`] made of them.
pub(crate) fn parsed(observed: &str) -> Statistics {
    let own = observed.split_once(BEFORE).map_or(observed, |(own, _)| own);
    let one = |text: &str| text.split_once(" = ").and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
    own.split(", ").filter_map(one).collect()
}

/// Compares a statistic with its mean over the newest earlier intervals that have it; where there are fewer than `wanted` it holds.
fn compared(name: &str, value: Option<f64>, share: f64, earlier: &[Statistics], wanted: usize) -> (bool, String) {
    let values: Vec<f64> = earlier.iter().filter_map(|interval| interval.get(name).copied()).take(wanted).collect();
    if values.len() < wanted {
        return (true, format!("{name} of {} of {wanted} intervals, not compared", values.len()));
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (value.is_some_and(|value| (value - mean).abs() <= share * mean.abs()), format!("{name} = {mean} over {wanted} intervals"))
}

/// Computes the statistics over the rows of the session, and compares them with their bounds and with those of `earlier` intervals, the newest
/// first. A statistic of no values breaks its bounds.
pub(crate) async fn evaluate(context: &SessionContext, of: &Distribution, earlier: &[Statistics]) -> Result<Found, DataFusionError> {
    let all = statistics(of);
    let columns: Vec<&str> = all.iter().map(|(_, _, sql)| sql.as_str()).collect();
    let query = format!("SELECT count(*), {} FROM {ROWS}", columns.join(", "));
    let batches = context.sql(&query).await?.collect().await?;
    let Some(row) = batches.iter().find(|batch| batch.num_rows() == 1) else {
        return Err(DataFusionError::Internal("statistics gave no row".to_owned()));
    };
    let mut holds = true;
    let (mut observed, mut before) = (Vec::new(), Vec::new());
    for (index, (name, bounds, _)) in all.iter().enumerate() {
        let value = double(row, index + 1)?;
        let bounded = bounds.min.is_some() || bounds.max.is_some();
        holds &=
            !bounded || value.is_some_and(|value| bounds.min.is_none_or(|min| value >= min) && bounds.max.is_none_or(|max| value <= max));
        if let Some(share) = bounds.change_at_most {
            let (same, text) = compared(name, value, share, earlier, of.earlier_intervals());
            holds &= same;
            before.push(text);
        }
        observed.push(format!("{name} = {}", value.map_or_else(|| "null".to_owned(), |value| value.to_string())));
    }
    let before = if before.is_empty() { String::new() } else { format!("{BEFORE}{}", before.join(", ")) };
    Ok(Found { rows: count(row, 0), holds, observed: format!("{}{before}", observed.join(", ")) })
}

/// The number of rows in a cell; 0 for null.
pub(crate) fn count(row: &RecordBatch, column: usize) -> u64 {
    let counts = cast(row.column(column), &DataType::Int64);
    counts.ok().filter(|counts| counts.is_valid(0)).map_or(0, |counts| counts.as_primitive::<Int64Type>().value(0).unsigned_abs())
}

fn double(row: &RecordBatch, column: usize) -> Result<Option<f64>, DataFusionError> {
    let values = cast(row.column(column), &DataType::Float64)?;
    Ok(values.is_valid(0).then(|| values.as_primitive::<Float64Type>().value(0)))
}

/// Whether a cell is true; null is not.
pub(crate) fn boolean(row: &RecordBatch, column: usize) -> bool {
    row.column(column).as_boolean_opt().is_some_and(|values| values.is_valid(0) && values.value(0))
}

/// The text of a cell; none for null.
pub(crate) fn text(row: &RecordBatch, column: usize) -> Option<String> {
    let values = row.column(column);
    values.is_valid(0).then(|| array_value_to_string(values, 0).unwrap_or_else(|error| error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intervals(means: &[f64]) -> Vec<Statistics> {
        means.iter().map(|mean| parsed(&format!("mean = {mean}, quantile(0.5) = null; before: mean = 77 over 7 intervals"))).collect()
    }

    #[test]
    fn what_was_observed_is_read_again_digit_by_digit() {
        let read = parsed(
            "mean = 0.30000000000000004, nullRatio = 0, quantile(0.99) = -1e300, distinctRatio = null; before: mean = 5 over 2 intervals",
        );
        let expected = [("mean", 0.1 + 0.2), ("nullRatio", 0.0), ("quantile(0.99)", -1e300)];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value)).into());
        assert!(is_about("price: mean >= 1", "price") && !is_about("price_usd: mean >= 1", "price"));
    }

    #[test]
    fn a_change_is_a_share_of_the_mean_of_the_newest_intervals() {
        // The oldest one is the third and does not count.
        let earlier = intervals(&[10.0, 20.0, 1_000.0]);
        for (value, holds) in [(15.0, true), (22.5, true), (22.6, false), (7.5, true), (7.4, false)] {
            let (held, text) = compared("mean", Some(value), 0.5, &earlier, 2);
            assert_eq!((held, text.as_str()), (holds, "mean = 15 over 2 intervals"), "{value}");
        }
        assert!(!compared("mean", None, 0.5, &earlier, 2).0, "no value is a change");
    }

    #[test]
    fn too_few_earlier_intervals_say_nothing_against_a_run() {
        let earlier = intervals(&[10.0, 20.0]);
        assert_eq!(compared("mean", Some(1e9), 0.1, &earlier, 3), (true, "mean of 2 of 3 intervals, not compared".to_owned()));
        // A statistic that the rule did not bound then, or that had no value.
        assert!(compared("quantile(0.5)", Some(1.0), 0.1, &earlier, 1).0);
    }
}
