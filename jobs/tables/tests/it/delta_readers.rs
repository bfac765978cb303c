//! delta-rs for Python optimizes and vacuums tables of ours, and our writer goes on. Needs `LAKEHOUSE_READERS`, as [`crate::readers`] says.

use crate::common::*;
use crate::maintenance::{after_days, maintain};
use crate::readers::python;
use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use lakehouse_tables::{PROCESSED_AT, Table, TableDef, TableError, TableFormat, WriteMode};
use serde_json::Value;
use std::process::Command;
use std::sync::Arc;

/// A table of ours, and delta-rs beside it.
struct Shared {
    lake: Lake,
    table: Arc<dyn Table>,
    python: String,
}

impl Shared {
    async fn of(python: &str, definition: &TableDef) -> Self {
        let lake = lake().await;
        let table = lake.tables.ensure(definition).await.unwrap();
        Self { lake, table, python: python.to_owned() }
    }

    fn program(&self, name: &str) -> Value {
        let location = self.lake.directory.path().join("silver").join(&self.table.table().name);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/delta_programs.py");
        let output = Command::new(&self.python).arg(script).arg(name).arg(location).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn optimize(&self) {
        let did = self.program("optimize");
        assert!(did["numFilesRemoved"].as_u64().unwrap() > 1, "{did}");
    }

    /// Both readers find these rows.
    async fn holds(&self, ids: &[i64]) {
        let mut shown: Vec<String> = ids.iter().map(ToString::to_string).collect();
        shown.sort();
        assert_eq!(query(&self.table, "SELECT id FROM t").await, shown);
        assert_eq!(self.program("rows"), serde_json::json!(ids));
    }
}

fn table(partitions: &[&str]) -> TableDef {
    let mut definition = definition_of(TableFormat::Delta, "t");
    definition.partition_by = partitions.iter().map(|text| text.parse().unwrap()).collect();
    definition.sort_by = vec!["id".to_owned()];
    definition
}

/// With a column that says when a row was processed, as every table of silver has it.
fn processed(partitions: &[&str]) -> TableDef {
    let mut definition = table(partitions);
    let mut fields: Vec<Field> = definition.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new(PROCESSED_AT, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false));
    definition.schema = Arc::new(Schema::new(fields));
    definition
}

/// Rows of a run that was made `run` microseconds after another.
fn of_run(batch: &RecordBatch, run: i64) -> RecordBatch {
    let times = TimestampMicrosecondArray::from(vec![1_700_000_000_123_456 + run; batch.num_rows()]).with_timezone("UTC");
    let columns = batch.schema_ref().fields().iter().map(|field| field.name().clone()).zip(batch.columns().iter().cloned());
    let all: Vec<(String, ArrayRef)> = columns.chain([(PROCESSED_AT.to_owned(), Arc::new(times) as ArrayRef)]).collect();
    RecordBatch::try_from_iter(all).unwrap()
}

async fn append(shared: &Shared, number: i64, token: &str, batch: RecordBatch) -> lakehouse_tables::Result<lakehouse_tables::Committed> {
    write(&shared.table, batch, &commit_of(token, day(number), WriteMode::Append)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_are_replaced_exactly_after_optimize_and_vacuum_of_delta_rs() {
    let Some(python) = python() else { return };
    for partitions in [&[][..], &["region"][..]] {
        let shared = Shared::of(&python, &processed(partitions)).await;
        // Equal rows in every interval, within a microsecond: only whose they are tells them apart.
        let same = || rows(&[(1, 0, 1, Some("eu")), (2, 1, 1, None), (1, 0, 1, Some("eu"))]);
        for number in 1..=4 {
            append(&shared, number, &format!("{number}-first"), of_run(&same(), number)).await.unwrap();
        }
        shared.optimize();
        shared.program("vacuum");
        append(&shared, 2, "2-second", of_run(&rows(&[(20, 24, 1, Some("eu"))]), 12)).await.unwrap();
        shared.holds(&[1, 1, 1, 1, 1, 1, 2, 2, 2, 20]).await;
        shared.optimize();
        shared.program("vacuum");
        maintain(&shared.lake, &shared.table, &after_days(9)).await;
        append(&shared, 3, "3-second", of_run(&rows(&[(30, 0, 1, None)]), 13)).await.unwrap();
        append(&shared, 2, "2-third", of_run(&rows(&[]), 22)).await.unwrap();
        shared.holds(&[1, 1, 1, 1, 2, 2, 30]).await;
        // Compaction of ours and of theirs in turn.
        append(&shared, 5, "5-first", of_run(&rows(&[(50, 0, 1, Some("eu"))]), 5)).await.unwrap();
        append(&shared, 6, "6-first", of_run(&rows(&[(60, 0, 1, Some("eu"))]), 6)).await.unwrap();
        maintain(&shared.lake, &shared.table, &after_days(9)).await;
        shared.program("optimize");
        append(&shared, 5, "5-second", of_run(&rows(&[(51, 0, 1, Some("eu"))]), 15)).await.unwrap();
        append(&shared, 1, "1-second", of_run(&rows(&[]), 11)).await.unwrap();
        shared.holds(&[1, 1, 2, 30, 51, 60]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_time_the_files_that_were_appended_tell_until_they_are_vacuumed() {
    let Some(python) = python() else { return };
    let shared = Shared::of(&python, &table(&["region"])).await;
    for number in 1..=3 {
        let batch = rows(&[(number, 0, 1, Some("eu")), (7, 1, 1, None), (7, 1, 1, None)]);
        append(&shared, number, &format!("{number}-first"), batch).await.unwrap();
    }
    shared.optimize();
    append(&shared, 2, "2-second", rows(&[(20, 0, 1, Some("eu"))])).await.unwrap();
    shared.holds(&[1, 3, 7, 7, 7, 7, 20]).await;
    shared.program("vacuum");
    let refused = append(&shared, 3, "3-second", rows(&[(30, 0, 1, None)])).await;
    assert!(matches!(refused, Err(TableError::AppendRewritten { expected: 3, found: 0, .. })), "{refused:?}");
    shared.holds(&[1, 3, 7, 7, 7, 7, 20]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mode_goes_on_after_optimize_and_vacuum_of_delta_rs() {
    let Some(python) = python() else { return };
    for (mode, partitions) in [(replace(), &["region"][..]), (merge(), &["region"][..]), (WriteMode::Overwrite, &[][..])] {
        let shared = Shared::of(&python, &table(partitions)).await;
        for number in 1..=3 {
            let batch = rows(&[(number, (number - 1) * 24, 1, Some("eu")), (10 + number, (number - 1) * 24, 1, None)]);
            write(&shared.table, batch, &commit_of(&number.to_string(), day(number), mode.clone())).await.unwrap();
        }
        let before = read(&shared.table).await;
        shared.program("optimize");
        shared.program("vacuum");
        assert_eq!(read(&shared.table).await, before, "{mode:?}");
        assert_eq!(query(&shared.table, "SELECT count(*) FROM t WHERE region = 'eu'").await, [(before.len() / 2).to_string()]);
        let newer = rows(&[(2, 30, 5, Some("us"))]);
        // The second day again; a table that is overwritten is that of its newest one, which is the third.
        let again = if mode == WriteMode::Overwrite { day(3) } else { day(2) };
        write(&shared.table, newer, &commit_of("newer", again, mode.clone())).await.unwrap();
        let ids: &[i64] = match mode {
            WriteMode::ReplaceInterval { .. } => &[1, 2, 3, 11, 13],
            WriteMode::Merge { .. } => &[1, 2, 3, 11, 12, 13],
            _ => &[2],
        };
        shared.holds(ids).await;
        assert_eq!(query(&shared.table, "SELECT id FROM t WHERE region = 'us'").await, ["2"], "{mode:?}");
        maintain(&shared.lake, &shared.table, &after_days(9)).await;
        shared.holds(ids).await;
        assert_eq!(query(&shared.table, "SELECT id FROM t WHERE region = 'us'").await, ["2"], "{mode:?}");
    }
}
