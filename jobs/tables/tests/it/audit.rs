//! Write, audit, publish: what is looked at is what becomes visible, or nothing does. And tables that many add to.

use crate::common::*;
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use chrono::{TimeDelta, Utc};
use lakehouse_contract::{SHARED_OWNER, TableRef};
use lakehouse_tables::{
    Audit, Candidate, Commit, Expiry, Maintenance, Orphans, Staged, Table, TableDef, TableError, TableFormat, WriteMode, one_stream,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

crate::in_every_format!(
    a_candidate_shows_the_table_as_it_will_be_and_nobody_else_sees_it,
    a_merge_is_looked_at_with_the_rows_that_stay,
    a_candidate_of_an_older_table_is_not_published,
    what_was_rejected_leaves_the_table_as_it_was,
    a_repetition_finds_the_commit_with_all_its_facts,
);

async fn stage(table: &Arc<dyn Table>, batch: RecordBatch, commit: &Commit) -> Staged {
    table.stage(vec![one_stream(vec![batch])], commit).await.unwrap()
}

async fn candidate(table: &Arc<dyn Table>, staged: &Staged, commit: &Commit) -> Candidate {
    match table.audit(staged, commit).await.unwrap() {
        Audit::Candidate(candidate) => candidate,
        Audit::Already(committed) => panic!("{committed:?}"),
    }
}

async fn ids(candidate: &Candidate) -> Vec<i64> {
    let context = datafusion::prelude::SessionContext::new();
    context.register_table("t", candidate.provider()).unwrap();
    let batches = context.sql("SELECT id FROM t ORDER BY id").await.unwrap().collect().await.unwrap();
    batches.iter().flat_map(|batch| batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()).collect()
}

async fn ids_of(table: &Arc<dyn Table>) -> Vec<String> {
    query(table, "SELECT id FROM t ORDER BY id").await
}

async fn a_candidate_shows_the_table_as_it_will_be_and_nobody_else_sees_it(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    // Two days in one file: replacing the second rewrites it.
    let both = rows(&[(1, 1, 10, None), (2, 25, 20, None)]);
    write(&table, both, &commit_of("first", day(1), WriteMode::Append)).await.unwrap();
    let before = table.snapshot().await.unwrap();
    let commit = commit_of("second", day(2), replace());
    let staged = stage(&table, rows(&[(3, 26, 30, None), (4, 27, 40, None)]), &commit).await;
    let candidate = candidate(&table, &staged, &commit).await;
    assert_eq!(ids(&candidate).await, [1, 3, 4]);
    assert_eq!(ids_of(&open_again(&lake).await).await, ["1", "2"]);
    assert_eq!(table.snapshot().await.unwrap(), before);
    assert_eq!(table.find_commit("second").await.unwrap(), None);
    let mut whole = commit.clone();
    whole.summary.insert("late".to_owned(), "known only now".to_owned());
    let committed = table.publish(candidate, &whole).await.unwrap().unwrap();
    assert!(!committed.already);
    assert_eq!((committed.rows_written, committed.summary.len()), (2, 2));
    let reader = open_again(&lake).await;
    assert_eq!(ids_of(&reader).await, ["1", "3", "4"]);
    assert_eq!(reader.snapshot().await.unwrap(), Some(committed.snapshot));
    assert_eq!(query_at(&reader, before.as_deref(), "SELECT id FROM t").await, ["1", "2"]);
    // The next commit stands on it as on any other.
    write(&table, rows(&[(5, 49, 50, None)]), &commit_of("third", day(3), replace())).await.unwrap();
    assert_eq!(ids_of(&reader).await, ["1", "3", "4", "5"]);
}

async fn open_again(lake: &Lake) -> Arc<dyn Table> {
    open(lake.directory.path()).await.open_table(&TableRef::new("silver", "t")).await.unwrap().unwrap()
}

async fn a_merge_is_looked_at_with_the_rows_that_stay(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    write(&table, rows(&[(1, 1, 10, None), (2, 5, 20, None)]), &commit_of("first", day(1), merge())).await.unwrap();
    let commit = commit_of("second", day(2), merge());
    // 1 is newer, 2 is older than what is there, 3 is new.
    let staged = stage(&table, rows(&[(1, 30, 11, None), (2, 2, 19, None), (3, 31, 30, None)]), &commit).await;
    let candidate = candidate(&table, &staged, &commit).await;
    assert_eq!(ids(&candidate).await, [1, 2, 3]);
    let committed = table.publish(candidate, &commit).await.unwrap().unwrap();
    assert_eq!((committed.rows_written, committed.rows_superseded), (2, 1));
    let prices = query(&table, "SELECT id, price * 10000000000000000 AS p FROM t").await;
    assert_eq!(prices.iter().map(|row| row.split('.').next().unwrap()).collect::<Vec<_>>(), ["1 | 11", "2 | 20", "3 | 30"]);
}

async fn a_candidate_of_an_older_table_is_not_published(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    let commit = commit_of("mine", day(2), replace());
    let staged = stage(&table, rows(&[(2, 25, 20, None)]), &commit).await;
    let looked_at = candidate(&table, &staged, &commit).await;
    // A writer that takes no turn, such as one of another interval without rules.
    write(&table, rows(&[(1, 1, 10, None)]), &commit_of("other", day(1), replace())).await.unwrap();
    assert_eq!(table.publish(looked_at, &commit).await.unwrap(), None);
    assert_eq!(ids_of(&table).await, ["1"]);
    let again = candidate(&table, &staged, &commit).await;
    assert_eq!(ids(&again).await, [1, 2]);
    assert!(!table.publish(again, &commit).await.unwrap().unwrap().already);
    assert_eq!(ids_of(&table).await, ["1", "2"]);
}

async fn what_was_rejected_leaves_the_table_as_it_was(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    write(&table, rows(&[(1, 1, 10, None)]), &commit_of("first", day(1), replace())).await.unwrap();
    let files = parquet_files(lake.directory.path()).len();
    let commit = commit_of("bad", day(2), replace());
    let staged = stage(&table, rows(&[(9, 25, 90, None)]), &commit).await;
    let rejected = candidate(&table, &staged, &commit).await;
    let branch = rejected.branch().map(str::to_owned);
    table.reject(rejected, staged).await;
    assert_eq!(ids_of(&table).await, ["1"]);
    assert_eq!(table.find_commit("bad").await.unwrap(), None);
    match format {
        TableFormat::Iceberg => {
            assert_eq!(branch.as_deref(), Some("audit-2024-01-02T00:00:00Z"));
            assert_eq!(query_at(&table, branch.as_deref(), "SELECT id FROM t").await, ["1", "9"]);
        }
        _ => assert_eq!((branch.as_deref(), parquet_files(lake.directory.path()).len()), (None, files)),
    }
    // The lease is free, and the next try of the interval takes the place of the rejected one.
    let commit = commit_of("good", day(2), replace());
    let staged = stage(&table, rows(&[(2, 25, 20, None)]), &commit).await;
    let published = candidate(&table, &staged, &commit).await;
    table.publish(published, &commit).await.unwrap().unwrap();
    assert_eq!(ids_of(&table).await, ["1", "2"]);
    if let Some(branch) = branch {
        assert!(matches!(table.provider(Some(&branch)).await, Err(TableError::NoSuchSnapshot { .. })));
    }
}

async fn a_repetition_finds_the_commit_with_all_its_facts(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    let mut commit = commit_of("once", day(1), replace());
    let batch = || rows(&[(1, 1, 10, None)]);
    let staged = stage(&table, batch(), &commit).await;
    let published = candidate(&table, &staged, &commit).await;
    commit.summary.insert("rules".to_owned(), "all of them".to_owned());
    let first = table.publish(published, &commit).await.unwrap().unwrap();
    let found = table.find_commit("once").await.unwrap().unwrap();
    assert_eq!((found.already, &found.summary, &found.snapshot), (true, &commit.summary, &first.snapshot));
    let staged = stage(&table, batch(), &commit).await;
    let Audit::Already(found) = table.audit(&staged, &commit).await.unwrap() else { panic!("it is in the table") };
    assert_eq!((found.already, found.summary), (true, commit.summary));
    assert_eq!(ids_of(&table).await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_maintenance_took_away_is_written_anew_not_published() {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition("t")).await.unwrap();
    write(&table, rows(&[(1, 1, 10, None)]), &commit_of("first", day(1), replace())).await.unwrap();
    let commit = commit_of("slow", day(2), replace());
    let staged = stage(&table, rows(&[(2, 25, 20, None)]), &commit).await;
    let slow = candidate(&table, &staged, &commit).await;
    // Two hours pass while the rules are checked.
    let expire = Some(Expiry { older_than: Duration::from_secs(3_600), keep_last: 1 });
    let what = Maintenance { now: Utc::now() + TimeDelta::hours(2), compact: None, expire, orphans: None };
    lake.tables.maintain(table.table(), OWNER, &what).await.unwrap().unwrap();
    assert!(matches!(table.publish(slow, &commit).await, Err(TableError::Conflict { .. })));
    assert_eq!(ids_of(&table).await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_tables_are_audited_too() {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(TableFormat::Parquet, "t")).await.unwrap();
    write(&table, rows(&[(1, 1, 10, None)]), &commit_of("first", day(1), replace())).await.unwrap();
    let commit = commit_of("bad", day(2), replace());
    let staged = stage(&table, rows(&[(9, 25, 90, None)]), &commit).await;
    let rejected = candidate(&table, &staged, &commit).await;
    assert_eq!(ids(&rejected).await, [1, 9]);
    assert_eq!(ids_of(&table).await, ["1"]);
    table.reject(rejected, staged).await;
    assert_eq!(parquet_files(lake.directory.path()).len(), 1);
    let commit = commit_of("good", day(2), replace());
    let staged = stage(&table, rows(&[(2, 25, 20, None)]), &commit).await;
    let looked_at = candidate(&table, &staged, &commit).await;
    write(&table, rows(&[(3, 49, 30, None)]), &commit_of("other", day(3), replace())).await.unwrap();
    assert_eq!(table.publish(looked_at, &commit).await.unwrap(), None);
    let again = candidate(&table, &staged, &commit).await;
    let committed = table.publish(again, &commit).await.unwrap().unwrap();
    assert_eq!((committed.already, committed.rows_written), (false, 1));
    assert_eq!(ids_of(&table).await, ["1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_ends_old_audit_branches_and_keeps_their_rows_until_then() {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition("t")).await.unwrap();
    write(&table, rows(&[(1, 1, 10, None)]), &commit_of("first", day(1), replace())).await.unwrap();
    let mut published = commit_of("published", day(3), replace());
    let staged = stage(&table, rows(&[(3, 49, 30, None)]), &published).await;
    let looked_at = candidate(&table, &staged, &published).await;
    published.summary.insert("rules".to_owned(), "kept".to_owned());
    table.publish(looked_at, &published).await.unwrap().unwrap();
    let commit = commit_of("bad", day(2), replace());
    let staged = stage(&table, rows(&[(9, 25, 90, None)]), &commit).await;
    let rejected = candidate(&table, &staged, &commit).await;
    let branch = rejected.branch().unwrap().to_owned();
    table.reject(rejected, staged).await;
    let hour = Duration::from_secs(3_600);
    let maintain = async |later: TimeDelta| {
        let what = Maintenance {
            now: Utc::now() + later,
            compact: None,
            expire: Some(Expiry { older_than: hour, keep_last: 1 }),
            orphans: Some(Orphans { older_than: hour, dry_run: false }),
        };
        lake.tables.maintain(table.table(), OWNER, &what).await.unwrap().unwrap().counts
    };
    maintain(TimeDelta::zero()).await;
    assert_eq!(query_at(&table, Some(&branch), "SELECT id FROM t").await, ["1", "3", "9"]);
    write(&table, rows(&[(4, 73, 40, None)]), &commit_of("fourth", day(4), replace())).await.unwrap();
    let counts = maintain(TimeDelta::days(1)).await;
    assert!(table.provider(Some(&branch)).await.is_err());
    // The first one, the published one, and the one on the branch.
    assert_eq!((counts.snapshots_expired, counts.snapshots_left), (3, 1));
    assert!(counts.expired_files_deleted > 0);
    assert_eq!(ids_of(&table).await, ["1", "3", "4"]);
    assert_eq!(parquet_files(lake.directory.path()).len(), 3);
    // Its facts went with its snapshot; the commit itself stays known.
    let found = table.find_commit("published").await.unwrap().unwrap();
    assert_eq!((found.rows_written, found.summary), (1, BTreeMap::new()));
    let again = maintain(TimeDelta::days(1)).await;
    assert_eq!((again.snapshots_expired, again.expired_files_deleted, again.orphans_deleted), (0, 0, 0));
}

fn shared() -> TableDef {
    TableDef {
        table: TableRef::new("quality", "results"),
        schema: Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)])),
        owner: SHARED_OWNER.to_owned(),
        ..definition("results")
    }
}

fn numbered(n: i64) -> Vec<RecordBatch> {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values([n]));
    vec![RecordBatch::try_new(shared().schema, vec![column]).unwrap()]
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_add_to_a_shared_table_and_each_token_counts_once() {
    let lake = lake().await;
    let root = lake.directory.path().to_owned();
    async fn writer(root: &Path, writer: i64) -> usize {
        // As another process would: turns are of one process only.
        let tables = open(root).await;
        let mut added = 0;
        for n in 0..6 {
            // Each number comes from two writers, as from two pods of one attempt.
            let n = (writer / 2) * 6 + n;
            added += usize::from(tables.record(&shared(), numbered(n), &format!("token-{n}")).await.unwrap());
        }
        added
    }
    let writers: Vec<_> = (0..8)
        .map(|number| {
            let root = root.clone();
            tokio::spawn(async move { writer(&root, number).await })
        })
        .collect();
    let mut added = 0;
    for writer in writers {
        added += writer.await.unwrap();
    }
    assert_eq!(added, 24);
    let table = lake.tables.open_table(&TableRef::new("quality", "results")).await.unwrap().unwrap();
    let found: BTreeSet<i64> = query(&table, "SELECT n FROM t").await.iter().map(|row| row.parse().unwrap()).collect();
    assert_eq!((found.len(), query(&table, "SELECT n FROM t").await.len()), (24, 24));
    assert!(!lake.tables.record(&shared(), numbered(0), "token-0").await.unwrap());
}
