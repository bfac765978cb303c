//! `quality.results`: what became of every rule of every run, one row each.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};
use chrono::{DateTime, Utc};
use lakehouse_api::pipeline::Otherwise;
use lakehouse_contract::{ExpectationResult, Interval, SHARED_OWNER, StageFailure, StageSpec, TableRef, digest_json};
use lakehouse_tables::{Declared, TableDef, TableError, TableFormat, Tables};

use crate::verdict_of;

/// Namespace and name of the table.
pub const RESULTS: (&str, &str) = ("quality", "results");

/// The results of one table of a run.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// The interval that the rows are of, where it is not that of the run.
    pub interval: Option<Interval>,
    /// `silver.NAME`.
    pub table: String,
    /// The snapshot that has the rows; none where nothing was published.
    pub snapshot: Option<String>,
    /// Records that were read.
    pub rows_read: u64,
    /// Results of the expectations.
    pub results: Vec<ExpectationResult>,
    /// Quarantined records by reason.
    pub quarantine_reasons: BTreeMap<String, u64>,
}

/// Collects the results of a stage, to be written at its end.
#[derive(Debug)]
pub struct Recorder<'a> {
    spec: &'a StageSpec,
    tables: Vec<Recorded>,
}

impl<'a> Recorder<'a> {
    /// A recorder without results.
    pub fn new(spec: &'a StageSpec) -> Self {
        Self { spec, tables: Vec::new() }
    }

    /// Owner of the run's tables.
    pub fn owner(&self) -> &'a str {
        &self.spec.owner
    }

    /// Adds the results of a table and interval, in the place of what was added for them before.
    pub fn add(&mut self, recorded: Recorded) {
        match self.tables.iter_mut().find(|known| known.table == recorded.table && known.interval == recorded.interval) {
            Some(known) => *known = recorded,
            None => self.tables.push(recorded),
        }
    }

    /// Writes the results of a stage that ended with `made`, unless it is tried again: then the next attempt has them. Answers how the stage ends;
    /// results of a failed one that cannot be kept are no further failure.
    ///
    /// # Errors
    /// The failure of the stage, or of writing the results of one that went well.
    pub async fn conclude(
        &self,
        made: Result<(), StageFailure>,
        tables: &Tables,
        failure: impl Fn(&TableError) -> StageFailure,
    ) -> Result<(), StageFailure> {
        if made.as_ref().is_err_and(|failure| failure.reason.retryable()) {
            return made;
        }
        match (made, self.write(tables, Utc::now()).await) {
            (Ok(()), recorded) => recorded.map_err(|error| failure(&error)),
            (made, Ok(())) => made,
            (made, Err(error)) => {
                tracing::warn!(%error, "the results of the rules could not be kept");
                made
            }
        }
    }

    /// Writes the results, once for the stage of the run: a repetition finds them. Without results nothing is written, and no table made.
    ///
    /// # Errors
    /// [`TableError`].
    pub async fn write(&self, tables: &Tables, now: DateTime<Utc>) -> Result<(), TableError> {
        let rows: Vec<Row<'_>> = self.tables.iter().flat_map(rows_of).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let definition = definition();
        let arrow = |cause| TableError::Arrow { table: definition.table.clone(), cause };
        let batch = batch(self.spec, &rows, now).map_err(arrow)?;
        let token = digest_json(&("quality", &self.spec.owner, &self.spec.run.id, self.spec.stage()));
        tables.record(&definition, vec![batch], &token).await.map(|_| ())
    }
}

/// One row of the table.
struct Row<'a> {
    interval: Option<Interval>,
    table: &'a str,
    snapshot: Option<&'a str>,
    rule: &'a str,
    kind: &'a str,
    otherwise: Option<&'static str>,
    verdict: &'static str,
    checked: Option<u64>,
    failed: u64,
    observed: Option<&'a str>,
    bound: &'a str,
}

fn rows_of(recorded: &Recorded) -> Vec<Row<'_>> {
    let (interval, table, snapshot) = (recorded.interval, recorded.table.as_str(), recorded.snapshot.as_deref());
    let mut rows: Vec<Row<'_>> = recorded
        .results
        .iter()
        .map(|result| Row {
            interval,
            table,
            snapshot,
            rule: &result.name,
            kind: result.kind.as_str(),
            otherwise: result.otherwise.map(otherwise),
            verdict: verdict_of(result),
            checked: result.checked,
            failed: result.failed,
            observed: result.observed.as_deref(),
            bound: &result.bound,
        })
        .collect();
    // What every table demands of every record without being asked: that it can be read, and that its values fit.
    let known = |reason: &str| recorded.results.iter().any(|result| result.name == reason);
    rows.extend(recorded.quarantine_reasons.iter().filter(|(reason, _)| !known(reason)).map(|(reason, count)| Row {
        interval,
        table,
        snapshot,
        rule: reason,
        kind: "schema",
        otherwise: Some("quarantine"),
        verdict: "quarantined",
        checked: Some(recorded.rows_read),
        failed: *count,
        observed: None,
        bound: "",
    }));
    rows
}

const fn otherwise(otherwise: Otherwise) -> &'static str {
    match otherwise {
        Otherwise::Warn => "warn",
        Otherwise::Quarantine => "quarantine",
        Otherwise::Drop => "drop",
        Otherwise::Fail => "fail",
    }
}

fn timestamptz() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The columns of `quality.results`.
pub fn results_schema() -> SchemaRef {
    let text = |name: &str, nullable: bool| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        text("pipeline", false),
        text("run", false),
        text("stage", false),
        Field::new("interval_start", timestamptz(), false),
        Field::new("interval_end", timestamptz(), false),
        text("table_name", false),
        text("snapshot", true),
        text("rule", false),
        text("kind", false),
        text("otherwise", true),
        text("verdict", false),
        Field::new("rows_checked", DataType::Int64, true),
        Field::new("rows_failed", DataType::Int64, false),
        text("observed", true),
        text("bound", false),
        Field::new("checked_at", timestamptz(), false),
    ]))
}

fn definition() -> TableDef {
    TableDef {
        table: TableRef::new(RESULTS.0, RESULTS.1),
        format: TableFormat::Iceberg,
        schema: results_schema(),
        partition_by: Vec::new(),
        sort_by: Vec::new(),
        bloom_filters: Vec::new(),
        owner: SHARED_OWNER.to_owned(),
        properties: BTreeMap::new(),
        declared: Declared::default(),
    }
}

fn batch(spec: &StageSpec, rows: &[Row<'_>], now: DateTime<Utc>) -> Result<RecordBatch, ArrowError> {
    let same = |value: &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(|_| value))) };
    let text = |values: Vec<&str>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let opt = |values: Vec<Option<&str>>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let times = |times: Vec<DateTime<Utc>>| -> ArrayRef {
        let micros = times.into_iter().map(|time| time.timestamp_micros());
        Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
    };
    let intervals = || rows.iter().map(|row| row.interval.unwrap_or(spec.interval));
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let stage = spec.stage();
    RecordBatch::try_new(
        results_schema(),
        vec![
            same(&spec.owner),
            same(&spec.run.id.0),
            same(stage.as_str()),
            times(intervals().map(|interval| interval.start).collect()),
            times(intervals().map(|interval| interval.end).collect()),
            text(rows.iter().map(|row| row.table).collect()),
            opt(rows.iter().map(|row| row.snapshot).collect()),
            text(rows.iter().map(|row| row.rule).collect()),
            text(rows.iter().map(|row| row.kind).collect()),
            opt(rows.iter().map(|row| row.otherwise).collect()),
            text(rows.iter().map(|row| row.verdict).collect()),
            Arc::new(Int64Array::from(rows.iter().map(|row| row.checked.map(number)).collect::<Vec<_>>())),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| number(row.failed)))),
            opt(rows.iter().map(|row| row.observed).collect()),
            text(rows.iter().map(|row| row.bound).collect()),
            times(vec![now; rows.len()]),
        ],
    )
}
