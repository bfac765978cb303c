//! Plain Parquet tables.

use crate::common::*;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use lakehouse_tables::{TableDef, TableError, TableFormat, WriteMode, one_stream};

fn parquet(name: &str) -> TableDef {
    TableDef { format: TableFormat::Parquet, ..definition(name) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_commits_once_and_a_newer_one_replaces_its_interval() {
    for mode in [WriteMode::Append, replace()] {
        let lake = lake().await;
        let table = lake.tables.ensure(&parquet("t")).await.unwrap();
        let commit = commit_of("one", day(1), mode.clone());
        let first = write(&table, rows(&[(1, 0, 1, None), (2, 1, 2, Some("eu"))]), &commit).await.unwrap();
        assert_eq!((first.rows_written, first.already), (2, false));
        let again = write(&table, rows(&[(1, 0, 1, None), (2, 1, 2, Some("eu"))]), &commit).await.unwrap();
        assert!(again.already && again.snapshot == first.snapshot && again.summary == first.summary);
        write(&table, rows(&[(3, 24, 3, None)]), &commit_of("two", day(2), mode.clone())).await.unwrap();
        write(&table, rows(&[(4, 0, 4, None)]), &commit_of("one-newer", day(1), mode)).await.unwrap();
        assert_eq!(query(&table, "SELECT id FROM t").await, ["3", "4"]);
        // What a reader sees that lists the folder.
        let files = parquet_files(lake.directory.path());
        assert_eq!(files.len(), 2, "{files:?}");
        assert!(
            files.iter().any(|file| file.to_string_lossy().contains("/silver/t/20240101T000000Z-20240102T000000Z-onenewer-")),
            "{files:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overwrite_leaves_only_the_new_rows_and_files() {
    let lake = lake().await;
    let table = lake.tables.ensure(&parquet("t")).await.unwrap();
    for number in 1..=3 {
        write(&table, rows(&[(number, 0, 1, None)]), &commit_of(&format!("{number}"), day(number), WriteMode::Overwrite)).await.unwrap();
    }
    assert_eq!(query(&table, "SELECT id FROM t").await, ["3"]);
    assert_eq!(parquet_files(lake.directory.path()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_dead_attempt_are_gone_after_the_next_commit_of_its_interval() {
    let lake = lake().await;
    let table = lake.tables.ensure(&parquet("t")).await.unwrap();
    let dead = commit_of("dead", day(1), replace());
    table.stage(vec![one_stream(vec![rows(&[(1, 0, 1, None)])])], &dead).await.unwrap();
    write(&table, rows(&[(2, 0, 2, None)]), &commit_of("alive", day(1), replace())).await.unwrap();
    assert_eq!(parquet_files(lake.directory.path()).len(), 1);
    assert_eq!(query(&table, "SELECT id FROM t").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_comes_late_does_not_publish_files_that_another_one_cleaned_up() {
    let lake = lake().await;
    let table = lake.tables.ensure(&parquet("t")).await.unwrap();
    let late = commit_of("late", day(1), replace());
    let staged = table.stage(vec![one_stream(vec![rows(&[(1, 0, 1, None)])])], &late).await.unwrap();
    write(&table, rows(&[(2, 0, 2, None)]), &commit_of("fast", day(1), replace())).await.unwrap();
    let refused = table.commit(staged, &late).await;
    assert!(matches!(refused, Err(TableError::Conflict { .. })), "{refused:?}");
    assert_eq!(query(&table, "SELECT id FROM t").await, ["2"]);
    write(&table, rows(&[(1, 0, 1, None)]), &late).await.unwrap();
    assert_eq!(query(&table, "SELECT id FROM t").await, ["1"]);
    assert_eq!(parquet_files(lake.directory.path()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn merge_and_overlapping_intervals_are_refused() {
    let lake = lake().await;
    let table = lake.tables.ensure(&parquet("t")).await.unwrap();
    let refused = write(&table, rows(&[]), &commit_of("1", day(1), merge())).await;
    assert_eq!(refused.unwrap_err().to_string(), "table silver.t: parquet tables do not support merge");
    write(&table, rows(&[(1, 0, 1, None)]), &commit_of("1", day(1), replace())).await.unwrap();
    let mut two_days = day(1);
    two_days.end = day(2).end;
    let refused = write(&table, rows(&[(1, 0, 1, None)]), &commit_of("2", two_days, replace())).await;
    assert!(matches!(refused, Err(TableError::Definition { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_partition_values_are_encoded_once_and_read_back() {
    let lake = lake().await;
    let mut definition = parquet("t");
    definition.partition_by = vec!["region".parse().unwrap()];
    let table = lake.tables.ensure(&definition).await.unwrap();
    let batch = rows(&[(1, 0, 1, Some("eu/é %=&")), (2, 0, 2, None), (3, 0, 3, Some("")), (4, 0, 4, Some(".."))]);
    write(&table, batch, &commit_of("1", day(1), replace())).await.unwrap();
    assert_eq!(query(&table, "SELECT id, region FROM t").await, ["1 | eu/é %=&", "2 | null", "3 | ", "4 | .."]);
    assert_eq!(query(&table, "SELECT id FROM t WHERE region = 'eu/é %=&'").await, ["1"]);
    let files = parquet_files(lake.directory.path());
    for folder in ["/region=eu%2F%C3%A9%20%25%3D%26/", "/region=__HIVE_DEFAULT_PARTITION__/", "/region=/", "/region=%2E%2E/"] {
        assert!(files.iter().any(|file| file.to_string_lossy().contains(folder)), "{folder}: {files:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_once_lose_nothing_and_listing_readers_agree() {
    let lake = lake().await;
    lake.tables.ensure(&parquet("t")).await.unwrap();
    let mut writers = Vec::new();
    for writer in 0..4_i64 {
        let directory = lake.directory.path().to_owned();
        writers.push(tokio::spawn(async move {
            let table = open(&directory).await.ensure(&parquet("t")).await.unwrap();
            for number in 0..5 {
                let id = writer * 5 + number;
                write(&table, rows(&[(id, id * 24, 1, None)]), &commit_of(&format!("t{id}"), day(id + 1), replace())).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let table = lake.tables.ensure(&parquet("t")).await.unwrap();
    let mut expected: Vec<String> = (0..20).map(|id| id.to_string()).collect();
    expected.sort();
    assert_eq!(query(&table, "SELECT id FROM t").await, expected);
    let outside = SessionContext::new();
    let folder = format!("{}/silver/t/", lake.directory.path().display());
    let frame = outside.read_parquet(folder, ParquetReadOptions::default()).await.unwrap();
    assert_eq!(frame.count().await.unwrap(), 20);
}
