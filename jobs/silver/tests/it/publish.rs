//! Another writer between the look at a table and its publication.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Int64Array, RecordBatch},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use chrono::TimeDelta;
use datafusion::{catalog::TableProvider, prelude::SessionContext};
use lakehouse_contract::{Interval, Reason, StageFailure, TableRef};
use lakehouse_quality::publish::{Judge, Outcome, StagedTable};
use lakehouse_storage::Storage;
use lakehouse_tables::{Commit, Declared, Table, TableDef, TableError, TableFormat, Tables, WriteMode, one_stream};

use crate::common::time;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]))
}

/// A row for an interval of its own, staged.
async fn staged(table: &Arc<dyn Table>, number: i64) -> StagedTable {
    let start = time("2024-01-01T00:00:00Z") + TimeDelta::days(number);
    let interval = Interval { start, end: start + TimeDelta::days(1) };
    let commit = Commit { token: format!("token-{number}"), interval, mode: WriteMode::Append, origin: None, summary: BTreeMap::new() };
    let batch = RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(vec![number]))]).unwrap();
    let staged = table.stage(vec![one_stream(vec![batch])], &commit).await.unwrap();
    StagedTable { table: table.clone(), staged, commit }
}

/// Counts rows, and is slow: `others` times another writer adds a row before it answers.
struct Slow {
    table: Arc<dyn Table>,
    others: i64,
    most: usize,
    seen: Vec<usize>,
}

impl Judge for Slow {
    async fn look(&mut self, rows: Arc<dyn TableProvider>) -> Result<(), StageFailure> {
        let count = SessionContext::new().read_table(rows).unwrap().count().await.unwrap();
        self.seen.push(count);
        if count > self.most {
            return Err(StageFailure::new(Reason::ExpectationFailed, format!("{count} rows are too many")));
        }
        let number = self.seen.len() as i64;
        if number <= self.others {
            staged(&self.table, number).await.commit().await.unwrap();
        }
        Ok(())
    }

    fn summary(&self) -> Result<BTreeMap<String, String>, StageFailure> {
        Ok(BTreeMap::from([("seen".to_owned(), format!("{:?}", self.seen))]))
    }

    fn failure(&self, error: &TableError) -> StageFailure {
        StageFailure::new(Reason::Internal, error)
    }
}

/// What publishing a row came to, what the judge saw, and the number of rows afterwards.
async fn published(others: i64, most: usize) -> (Result<Outcome, StageFailure>, Vec<usize>, usize) {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::local(directory.path()).unwrap();
    let tables = Tables::connect(storage, &format!("sqlite://{}/catalog.db", directory.path().display())).await.unwrap();
    let definition = TableDef {
        table: TableRef::new("silver", "t"),
        format: TableFormat::Iceberg,
        schema: schema(),
        partition_by: Vec::new(),
        sort_by: Vec::new(),
        owner: "local/p".to_owned(),
        properties: BTreeMap::new(),
        declared: Declared::default(),
    };
    let table = tables.ensure(&definition).await.unwrap();
    let mut judge = Slow { table: table.clone(), others, most, seen: Vec::new() };
    let outcome = staged(&table, 0).await.publish(&mut judge).await;
    let rows = SessionContext::new().read_table(table.provider(None).await.unwrap()).unwrap().count().await.unwrap();
    (outcome, judge.seen, rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_changed_is_looked_at_again() {
    let (outcome, seen, rows) = published(2, 9).await;
    let Ok(Outcome::Published(committed)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((seen, rows), (vec![1, 2, 3], 3));
    assert_eq!(committed.summary.get("seen").map(String::as_str), Some("[1, 2, 3]"), "the last look goes with the commit");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_only_at_the_second_look_is_not_published() {
    let (outcome, seen, rows) = published(1, 1).await;
    let failure = outcome.unwrap_err();
    assert_eq!(failure.reason, Reason::ExpectationFailed);
    assert!(failure.message.starts_with("2 rows are too many (kept to be looked at: silver.t at branch "), "{failure}");
    assert_eq!((seen, rows), (vec![1, 2], 1), "the other writer's row is all there is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_never_rests_is_a_conflict() {
    let (outcome, seen, rows) = published(i64::MAX, usize::MAX).await;
    let failure = outcome.unwrap_err();
    assert_eq!((failure.reason, seen.len(), rows), (Reason::CommitConflict, 20, 20));
    assert_eq!(failure.message, "table silver.t: other writers changed it during each of 20 audits");
}
