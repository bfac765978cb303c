//! Statistics of a column, and single values of results.

use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type},
    util::display::array_value_to_string,
};
use datafusion::{error::DataFusionError, prelude::SessionContext};
use lakehouse_api::pipeline::{Bounds, Distribution};

use crate::session::{ROWS, quoted};

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
        let bounds = Bounds { min: quantile.min, max: quantile.max };
        let sql = format!("percentile_cont({:?}) WITHIN GROUP (ORDER BY {number})", quantile.at);
        add(format!("quantile({})", quantile.at), Some(bounds), sql);
    }
    all
}

/// What a distribution asks for, as a person reads it.
pub(crate) fn bound(of: &Distribution) -> String {
    let shown = statistics(of).into_iter().map(|(name, bounds, _)| match (bounds.min, bounds.max) {
        (Some(min), Some(max)) => format!("{min} <= {name} <= {max}"),
        (Some(min), None) => format!("{name} >= {min}"),
        (None, Some(max)) => format!("{name} <= {max}"),
        (None, None) => name,
    });
    format!("{}: {}", of.column, shown.collect::<Vec<_>>().join(", "))
}

/// Computes and compares the statistics over the rows of the session. A statistic of no values breaks its bounds.
pub(crate) async fn evaluate(context: &SessionContext, of: &Distribution) -> Result<Found, DataFusionError> {
    let all = statistics(of);
    let columns: Vec<&str> = all.iter().map(|(_, _, sql)| sql.as_str()).collect();
    let query = format!("SELECT count(*), {} FROM {ROWS}", columns.join(", "));
    let batches = context.sql(&query).await?.collect().await?;
    let Some(row) = batches.iter().find(|batch| batch.num_rows() == 1) else {
        return Err(DataFusionError::Internal("statistics gave no row".to_owned()));
    };
    let mut holds = true;
    let mut observed = Vec::new();
    for (index, (name, bounds, _)) in all.iter().enumerate() {
        let value = double(row, index + 1)?;
        holds &= value.is_some_and(|value| bounds.min.is_none_or(|min| value >= min) && bounds.max.is_none_or(|max| value <= max));
        observed.push(format!("{name} = {}", value.map_or_else(|| "null".to_owned(), |value| value.to_string())));
    }
    Ok(Found { rows: count(row, 0), holds, observed: observed.join(", ") })
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
