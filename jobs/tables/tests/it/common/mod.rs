//! A lakehouse in a temporary directory, and rows to compare.

use arrow::array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::util::display::array_value_to_string;
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::prelude::SessionContext;
use lakehouse_contract::{Interval, TableRef};
use lakehouse_storage::Storage;
use lakehouse_tables::{Commit, Committed, Declared, Result, Table, TableDef, TableFormat, Tables, WriteMode, one_stream};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Owner of all tables here.
pub const OWNER: &str = "default/crypto";

pub struct Lake {
    pub tables: Tables,
    pub directory: tempfile::TempDir,
}

pub async fn lake() -> Lake {
    let directory = tempfile::tempdir().unwrap();
    let tables = open(directory.path()).await;
    Lake { tables, directory }
}

/// Opens a lakehouse, as another process would.
pub async fn open(directory: &Path) -> Tables {
    let storage = Storage::local(directory).unwrap();
    Tables::connect(storage, &format!("sqlite://{}/catalog.db", directory.display())).await.unwrap()
}

/// Columns id, at, price decimal(38,16), region.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        Field::new("price", DataType::Decimal128(38, 16), true),
        Field::new("region", DataType::Utf8, true),
    ]))
}

/// A test of every format whose commits are transactions, from a function of the format.
#[macro_export]
macro_rules! in_every_format {
    ($($name:ident),+ $(,)?) => {
        mod iceberg {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(lakehouse_tables::TableFormat::Iceberg).await })+
        }
        mod delta {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(lakehouse_tables::TableFormat::Delta).await })+
        }
    };
}

pub fn definition(name: &str) -> TableDef {
    definition_of(TableFormat::Iceberg, name)
}

pub fn definition_of(format: TableFormat, name: &str) -> TableDef {
    TableDef {
        table: TableRef::new("silver", name),
        format,
        schema: schema(),
        partition_by: Vec::new(),
        sort_by: Vec::new(),
        bloom_filters: Vec::new(),
        owner: OWNER.to_owned(),
        properties: BTreeMap::new(),
        declared: Declared::default(),
    }
}

pub fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Day `day` of January 2024.
pub fn day(day: i64) -> Interval {
    let start = time("2024-01-01T00:00:00Z") + TimeDelta::days(day - 1);
    Interval { start, end: start + TimeDelta::days(1) }
}

/// One row: id, hours after 2024-01-01, units of 10⁻¹⁶, region.
pub type RowOf<'a> = (i64, i64, i128, Option<&'a str>);

pub fn rows(rows: &[RowOf<'_>]) -> RecordBatch {
    let start = time("2024-01-01T00:00:00Z").timestamp_micros();
    let at = rows.iter().map(|row| start + row.1 * 3_600_000_000);
    let price = Decimal128Array::from_iter_values(rows.iter().map(|row| row.2)).with_precision_and_scale(38, 16).unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(at).with_timezone("UTC")),
        Arc::new(price),
        Arc::new(StringArray::from_iter(rows.iter().map(|row| row.3))),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

pub fn commit_of(token: &str, interval: Interval, mode: WriteMode) -> Commit {
    Commit { token: token.to_owned(), interval, mode, origin: None, summary: BTreeMap::from([("read".to_owned(), "7".to_owned())]) }
}

/// Stages and commits in one go.
pub async fn write(table: &Arc<dyn Table>, batch: RecordBatch, commit: &Commit) -> Result<Committed> {
    let staged = table.stage(vec![one_stream(vec![batch])], commit).await?;
    table.commit(staged, commit).await
}

pub fn replace() -> WriteMode {
    WriteMode::ReplaceInterval { column: "at".to_owned() }
}

pub fn merge() -> WriteMode {
    WriteMode::Merge { key: vec!["id".to_owned()], sequence_by: vec!["at".to_owned()] }
}

/// All rows as text, sorted, read by DataFusion.
pub async fn read(table: &Arc<dyn Table>) -> Vec<String> {
    query(table, "SELECT * FROM t").await
}

pub async fn query(table: &Arc<dyn Table>, sql: &str) -> Vec<String> {
    query_at(table, None, sql).await
}

pub async fn query_at(table: &Arc<dyn Table>, at: Option<&str>, sql: &str) -> Vec<String> {
    let context = SessionContext::new();
    context.register_table("t", table.provider(at).await.unwrap()).unwrap();
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = batch
                .columns()
                .iter()
                .map(|column| if column.is_null(row) { "null".to_owned() } else { array_value_to_string(column, row).unwrap() });
            lines.push(values.collect::<Vec<_>>().join(" | "));
        }
    }
    lines.sort();
    lines
}

/// All files below a directory that end in `.parquet`.
pub fn parquet_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "parquet") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
