//! Reads what the page shows.

use std::collections::BTreeMap;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use lakehouse_contract::TableRef;
use lakehouse_gold::{Engine, SqlError};
use lakehouse_tables::Tables;

use super::{Docs, RuleDocs, RunResult, Sample, TableDocs};
use crate::CliError;

/// What to read.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Only this pipeline: its name, or `namespace/name`.
    pub pipeline: Option<&'a str>,
    /// Runs of each rule.
    pub runs: usize,
    /// Records of each rule.
    pub samples: usize,
}

/// Reads `quality.results` and the quarantine of the tables that it names. Without results, the docs are empty.
///
/// # Errors
/// What the store or catalog say.
pub async fn gather(tables: &Tables, wanted: &Wanted<'_>) -> Result<Docs, CliError> {
    let results = TableRef::new("quality", "results");
    let mut docs = Docs::default();
    // A rule that the quarantine knows of a run before results were kept has no row here.
    let sql = format!(
        "SELECT pipeline, table_name, rule, kind, run, interval_start, verdict, rows_checked, rows_failed, observed, bound, checked_at
         FROM (SELECT *, row_number() OVER (PARTITION BY pipeline, table_name, rule ORDER BY checked_at DESC, run DESC) AS age FROM quality.results)
         WHERE age <= {} ORDER BY pipeline, table_name, rule, age",
        wanted.runs
    );
    for batch in query(tables, &results, &sql).await? {
        let row = Cells::new(&batch)?;
        for at in 0..batch.num_rows() {
            let pipeline = row.text(0, at);
            let named = |name: &str| pipeline == name || pipeline.rsplit_once('/').is_some_and(|(_, last)| last == name);
            if wanted.pipeline.is_some_and(|name| !named(name)) {
                continue;
            }
            let result = RunResult {
                run: row.text(4, at),
                interval: row.time(5, at),
                verdict: row.text(6, at),
                checked: row.number(7, at),
                failed: row.number(8, at).unwrap_or_default(),
                observed: row.optional(9, at),
                bound: row.text(10, at),
                at: row.time(11, at),
            };
            add(&mut docs, pipeline, row.text(1, at), row.text(2, at), row.text(3, at), result);
        }
    }
    for table in &mut docs.tables {
        samples(tables, table, wanted.samples).await?;
    }
    Ok(docs)
}

/// Rows come ordered by table and rule.
fn add(docs: &mut Docs, pipeline: String, table: String, rule: String, kind: String, result: RunResult) {
    if docs.tables.last().is_none_or(|last| (&last.pipeline, &last.table) != (&pipeline, &table)) {
        docs.tables.push(TableDocs { pipeline, table, rules: Vec::new() });
    }
    let Some(table) = docs.tables.last_mut() else { return };
    if table.rules.last().is_none_or(|last| last.rule != rule) {
        table.rules.push(RuleDocs { rule, kind, history: Vec::new(), samples: Vec::new(), in_quarantine: 0 });
    }
    if let Some(rule) = table.rules.last_mut() {
        rule.history.push(result);
    }
}

/// Adds what is in the quarantine of a table to its rules.
async fn samples(tables: &Tables, docs: &mut TableDocs, most: usize) -> Result<(), CliError> {
    let Some(name) = docs.table.strip_prefix("silver.") else { return Ok(()) };
    let quarantine = TableRef::new("quarantine", name);
    let sql = format!(
        "SELECT rule, age, in_all, interval_start, object, position, reason, left(record, 400) FROM (
           SELECT *, row_number() OVER (PARTITION BY rule ORDER BY interval_start DESC, object, position) AS age,
             count(*) OVER (PARTITION BY rule) AS in_all FROM quarantine.\"{name}\")
         WHERE age <= {} ORDER BY rule, age",
        most.max(1)
    );
    let mut found: BTreeMap<String, (u64, Vec<Sample>)> = BTreeMap::new();
    for batch in query(tables, &quarantine, &sql).await? {
        let row = Cells::new(&batch)?;
        for at in 0..batch.num_rows() {
            let entry = found.entry(row.text(0, at)).or_default();
            entry.0 = row.number(2, at).unwrap_or_default().unsigned_abs();
            if entry.1.len() < most {
                entry.1.push(Sample {
                    interval: row.time(3, at),
                    object: row.text(4, at),
                    position: row.number(5, at).unwrap_or_default(),
                    reason: row.text(6, at),
                    record: row.text(7, at),
                });
            }
        }
    }
    for rule in &mut docs.rules {
        if let Some((count, samples)) = found.remove(&rule.rule) {
            (rule.in_quarantine, rule.samples) = (count, samples);
        }
    }
    Ok(())
}

/// Rows of a query over one table; none where there is no such table.
async fn query(tables: &Tables, table: &TableRef, sql: &str) -> Result<Vec<RecordBatch>, CliError> {
    let Some(open) = tables.open_table(table).await? else { return Ok(Vec::new()) };
    let engine = Engine::new()?;
    engine.register(table, open.provider(None).await?)?;
    let query = engine.parse(sql)?;
    Ok(engine.stream(&query).await?.map_err(SqlError::from).try_collect().await?)
}

/// The cells of a batch as text, numbers and times.
struct Cells(Vec<(ArrayRef, ArrayRef)>);

impl Cells {
    fn new(batch: &RecordBatch) -> Result<Self, CliError> {
        let both = batch.columns().iter().map(|column| {
            let number = match column.data_type() {
                DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => column.clone(),
                _ => cast(column, &DataType::Int64)?,
            };
            Ok((cast(column, &DataType::Utf8)?, number))
        });
        Ok(Self(both.collect::<Result<_, arrow::error::ArrowError>>()?))
    }

    fn optional(&self, column: usize, row: usize) -> Option<String> {
        let values = self.0[column].0.as_string::<i32>();
        values.is_valid(row).then(|| values.value(row).to_owned())
    }

    fn text(&self, column: usize, row: usize) -> String {
        self.optional(column, row).unwrap_or_default()
    }

    fn number(&self, column: usize, row: usize) -> Option<i64> {
        let values = self.0[column].1.as_primitive_opt::<Int64Type>()?;
        values.is_valid(row).then(|| values.value(row))
    }

    /// Times are microseconds since 1970.
    fn time(&self, column: usize, row: usize) -> DateTime<Utc> {
        self.number(column, row).and_then(DateTime::from_timestamp_micros).unwrap_or_default()
    }
}
