//! Tokens, retries and concurrent writers of tables whose commits are transactions.

use crate::common::*;
use crate::in_every_format;
use lakehouse_contract::{Interval, IntervalGrain};
use lakehouse_tables::{Audit, Commit, IntervalCommit, Origin, TableError, TableFormat, WriteMode, one_stream};
use std::collections::BTreeMap;
use std::sync::Arc;

async fn a_token_commits_once_in_every_mode_and_from_every_process(format: TableFormat) {
    for (name, mode) in [("a", WriteMode::Append), ("r", replace()), ("m", merge()), ("o", WriteMode::Overwrite)] {
        let lake = lake().await;
        let table = lake.tables.ensure(&definition_of(format, name)).await.unwrap();
        let commit = commit_of("token-1", day(1), mode);
        assert_eq!(table.find_commit("token-1").await.unwrap(), None);
        let first = write(&table, rows(&[(1, 0, 5, None), (2, 1, 6, Some("eu"))]), &commit).await.unwrap();
        assert_eq!((first.rows_written, first.rows_superseded, first.already), (2, 0, false), "{name}");
        assert_eq!(first.summary.get("read").map(String::as_str), Some("7"));

        let other = open(lake.directory.path()).await.open_table(table.table()).await.unwrap().unwrap();
        let again = write(&other, rows(&[(1, 0, 5, None), (2, 1, 6, Some("eu"))]), &commit).await.unwrap();
        assert!(again.already);
        assert_eq!(lakehouse_tables::Committed { already: false, ..again }, first);
        assert_eq!(other.find_commit("token-1").await.unwrap().map(|found| found.snapshot), Some(first.snapshot.clone()));
        assert_eq!(other.snapshot().await.unwrap(), Some(first.snapshot));
        assert_eq!(read(&other).await.len(), 2, "{name}");
    }
}

async fn a_newer_append_replaces_exactly_what_the_older_one_appended(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    write(&table, rows(&[(1, 0, 1, None)]), &commit_of("one", day(1), WriteMode::Append)).await.unwrap();
    write(&table, rows(&[(2, 24, 2, None)]), &commit_of("two", day(2), WriteMode::Append)).await.unwrap();
    write(&table, rows(&[(3, 0, 3, None), (4, 0, 4, None)]), &commit_of("one-newer", day(1), WriteMode::Append)).await.unwrap();
    assert_eq!(query(&table, "SELECT id FROM t").await, ["2", "3", "4"]);
    // The older input again: it is not the latest of its interval any more, so it replaces in turn.
    assert_eq!(table.find_commit("one").await.unwrap(), None);
    write(&table, rows(&[(1, 0, 1, None)]), &commit_of("one", day(1), WriteMode::Append)).await.unwrap();
    assert_eq!(query(&table, "SELECT id FROM t").await, ["1", "2"]);
}

async fn an_append_that_was_rewritten_is_not_replaced_by_guess(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    write(&table, rows(&[(1, 0, 1, None), (2, 25, 1, None)]), &commit_of("one", day(1), WriteMode::Append)).await.unwrap();
    write(&table, rows(&[(3, 26, 1, None)]), &commit_of("two", day(2), replace())).await.unwrap();
    let refused = write(&table, rows(&[(9, 0, 1, None)]), &commit_of("one-newer", day(1), WriteMode::Append)).await;
    assert!(matches!(refused, Err(TableError::AppendRewritten { expected: 2, found: 0, .. })), "{refused:?}");
    assert_eq!(query(&table, "SELECT id FROM t").await, ["1", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn intervals_of_parquet_have_their_latest_commit_with_its_origin() {
    intervals_have_their_latest_commit_with_its_origin(TableFormat::Parquet).await;
}

async fn intervals_have_their_latest_commit_with_its_origin(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    let origin = |definition: &str| Origin {
        definition: definition.to_owned(),
        from: day(1).start,
        until: day(2).end,
        inputs: BTreeMap::from([("silver.a/b".to_owned(), "digest".to_owned())]),
    };
    for (token, number, mode) in [("one", 1, replace()), ("two", 2, WriteMode::Overwrite), ("one-newer", 1, replace())] {
        write(&table, rows(&[]), &Commit { origin: Some(origin(token)), ..commit_of(token, day(number), mode) }).await.unwrap();
    }
    write(&table, rows(&[]), &commit_of("three", day(3), replace())).await.unwrap();
    let found = open(lake.directory.path()).await.open_table(table.table()).await.unwrap().unwrap().intervals().await.unwrap();
    let of = |token: &str, overwrote, origin| IntervalCommit { token: token.to_owned(), overwrote, origin };
    let expected = [
        (day(1).start, of("one-newer", false, Some(origin("one-newer")))),
        (day(2).start, of("two", true, Some(origin("two")))),
        (day(3).start, of("three", false, None)),
    ];
    assert_eq!(found, BTreeMap::from(expected));
}

async fn a_table_that_is_overwritten_ends_as_that_of_its_newest_interval(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    let of = |id: i64, number| {
        (rows(&[(id, 0, 1, None), (id + 1, 0, 1, None)]), commit_of(&format!("token-{id}"), day(number), WriteMode::Overwrite))
    };
    let ahead = Interval::parse(IntervalGrain::Daily, "9000-01-01").unwrap();
    write(&table, rows(&[(0, 0, 1, None)]), &commit_of("ahead", ahead, WriteMode::Overwrite)).await.unwrap();
    for (id, number, written) in [(10, 2, 2), (20, 1, 0), (30, 3, 2), (40, 2, 0), (50, 3, 2)] {
        let (rows, commit) = of(id, number);
        let committed = write(&table, rows.clone(), &commit).await.unwrap();
        assert_eq!((committed.rows_written, committed.rows_superseded, committed.files), (written, 2 - written, written / 2), "{id}");
        assert_eq!(table.snapshot().await.unwrap().as_deref(), Some(committed.snapshot.as_str()));
        let other = open(lake.directory.path()).await.open_table(table.table()).await.unwrap().unwrap();
        assert_eq!(other.find_commit(&commit.token).await.unwrap().map(|found| found.rows_superseded), Some(2 - written));
        assert!(write(&other, rows, &commit).await.unwrap().already);
    }
    assert_eq!(query(&table, "SELECT id FROM t").await, ["50", "51"]);
    // An audit shows the table as it stays.
    let (rows, commit) = of(60, 1);
    let staged = table.stage(vec![one_stream(vec![rows])], &commit).await.unwrap();
    let Audit::Candidate(candidate) = table.audit(&staged, &commit).await.unwrap() else { panic!("the token was found") };
    let published = table.publish(candidate, &commit).await.unwrap().unwrap();
    assert_eq!((published.rows_written, published.rows_superseded), (0, 2));
    assert_eq!(query(&table, "SELECT id FROM t").await, ["50", "51"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_newer_interval_made_outdated_leave_no_file() {
    for format in [TableFormat::Iceberg, TableFormat::Delta, TableFormat::Parquet] {
        let lake = lake().await;
        let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
        for number in [2, 1] {
            let commit = commit_of(&format!("token-{number}"), day(number), WriteMode::Overwrite);
            write(&table, rows(&[(1, 0, 1, None)]), &commit).await.unwrap();
            assert_eq!(parquet_files(lake.directory.path()).len(), 1, "{format:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overwritten_parquet_table_ends_as_that_of_its_newest_interval() {
    a_table_that_is_overwritten_ends_as_that_of_its_newest_interval(TableFormat::Parquet).await;
}

async fn empty_commits_are_found_again(format: TableFormat) {
    let lake = lake().await;
    for (name, mode) in [("a", WriteMode::Append), ("r", replace()), ("m", merge()), ("o", WriteMode::Overwrite)] {
        let table = lake.tables.ensure(&definition_of(format, name)).await.unwrap();
        let first = write(&table, rows(&[]), &commit_of("t", day(1), mode.clone())).await.unwrap();
        assert_eq!((first.rows_written, first.files), (0, 0));
        let again = write(&table, rows(&[]), &commit_of("t", day(1), mode)).await.unwrap();
        assert!(again.already && again.snapshot == first.snapshot);
        assert!(read(&table).await.is_empty());
    }
}

async fn staged_rows_are_invisible_and_a_repeated_stage_leaves_no_garbage(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    let commit = commit_of("t", day(1), replace());
    let one = table.stage(vec![one_stream(vec![rows(&[(1, 0, 1, None)])])], &commit).await.unwrap();
    let two = table.stage(vec![one_stream(vec![rows(&[(1, 0, 1, None)])])], &commit).await.unwrap();
    assert!(read(&table).await.is_empty());
    assert_eq!(parquet_files(lake.directory.path()).len(), 2);
    table.commit(one, &commit).await.unwrap();
    assert!(table.commit(two, &commit).await.unwrap().already);
    assert_eq!(parquet_files(lake.directory.path()).len(), 1);
    assert_eq!(read(&table).await.len(), 1);
}

async fn eight_writers_of_ten_commits_lose_and_double_nothing(format: TableFormat) {
    let lake = lake().await;
    lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    let mut writers = Vec::new();
    for writer in 0..8_i64 {
        let directory = lake.directory.path().to_owned();
        writers.push(tokio::spawn(async move {
            // Tables of its own, as a process has: only the catalog decides.
            let table = open(&directory).await.ensure(&definition_of(format, "t")).await.unwrap();
            for number in 0..10_i64 {
                let id = writer * 10 + number;
                let commit = commit_of(&format!("token-{id}"), day(id + 1), WriteMode::Append);
                write(&table, rows(&[(id, id * 24, 1, None)]), &commit).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    let mut expected: Vec<String> = (0..80).map(|id| id.to_string()).collect();
    expected.sort();
    assert_eq!(query(&table, "SELECT id FROM t").await, expected);
}

async fn one_token_from_many_attempts_at_once_is_one_commit(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    let commit = Arc::new(commit_of("t", day(1), WriteMode::Append));
    let mut attempts = Vec::new();
    for _ in 0..6 {
        let (directory, commit) = (lake.directory.path().to_owned(), commit.clone());
        attempts.push(tokio::spawn(async move {
            let table = open(&directory).await.ensure(&definition_of(format, "t")).await.unwrap();
            write(&table, rows(&[(1, 0, 1, None), (2, 0, 1, None)]), &commit).await.unwrap()
        }));
    }
    let mut fresh = 0;
    for attempt in attempts {
        fresh += usize::from(!attempt.await.unwrap().already);
    }
    assert_eq!(fresh, 1);
    assert_eq!(query(&table, "SELECT id FROM t").await, ["1", "2"]);
}

in_every_format!(
    a_token_commits_once_in_every_mode_and_from_every_process,
    a_newer_append_replaces_exactly_what_the_older_one_appended,
    an_append_that_was_rewritten_is_not_replaced_by_guess,
    intervals_have_their_latest_commit_with_its_origin,
    a_table_that_is_overwritten_ends_as_that_of_its_newest_interval,
    empty_commits_are_found_again,
    staged_rows_are_invisible_and_a_repeated_stage_leaves_no_garbage,
    eight_writers_of_ten_commits_lose_and_double_nothing,
    one_token_from_many_attempts_at_once_is_one_commit,
);
