//! What is particular to Delta tables: partitions as columns, checkpoints, versions of the past, tables of other writers.

use crate::common::*;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use lakehouse_tables::{TableDef, TableError, TableFormat, WriteMode, one_stream};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;

fn delta(name: &str) -> TableDef {
    definition_of(TableFormat::Delta, name)
}

fn log_of(lake: &Lake) -> PathBuf {
    lake.directory.path().join("silver/t/_delta_log")
}

/// The actions of a commit, by kind.
fn actions(lake: &Lake, version: u64, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(log_of(lake).join(format!("{version:020}.json"))).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line.get(kind).cloned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_carries_its_token_its_facts_and_statistics() {
    let lake = lake().await;
    let table = lake.tables.ensure(&delta("t")).await.unwrap();
    write(&table, rows(&[(1, 0, -5, Some("eu")), (2, 1, 16, None)]), &commit_of("token-1", day(1), replace())).await.unwrap();
    assert_eq!(actions(&lake, 0, "protocol"), [serde_json::json!({"minReaderVersion": 1, "minWriterVersion": 2})]);
    assert_eq!(actions(&lake, 0, "metaData")[0]["configuration"]["lakehouse.owner"], OWNER);
    let txn = &actions(&lake, 1, "txn")[0];
    let id = txn["appId"].as_str().unwrap();
    assert!(id.starts_with("lakehouse/2024-01-01T00:00:00Z/") && id.contains("token-1") && txn["version"] == 1, "{txn}");
    assert_eq!(actions(&lake, 1, "commitInfo")[0]["userMetadata"], r#"{"read":"7"}"#);
    let add = &actions(&lake, 1, "add")[0];
    assert!(!add["path"].as_str().unwrap().contains('/'), "{add}");
    assert_eq!(
        add["stats"],
        r#"{"numRecords":2,"minValues":{"id":1,"at":"2024-01-01T00:00:00.000Z","price":-0.0000000000000005,"region":"eu"},"maxValues":{"id":2,"at":"2024-01-01T01:00:00.000Z","price":0.0000000000000016,"region":"eu"},"nullCount":{"id":0,"at":0,"price":0,"region":1}}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_columns_and_their_values_come_back() {
    let lake = lake().await;
    let mut definition = delta("t");
    definition.partition_by = vec!["region".parse().unwrap(), "id".parse().unwrap()];
    let table = lake.tables.ensure(&definition).await.unwrap();
    let odd = ["eu/é %=&", "..", "a b+c", "null"];
    let batch: Vec<_> = (1..).zip(odd).map(|(id, region)| (id, 0, 1, Some(region))).chain([(9, 0, 1, None)]).collect();
    write(&table, rows(&batch), &commit_of("1", day(1), replace())).await.unwrap();
    for (id, region) in (1..).zip(odd) {
        assert_eq!(query(&table, &format!("SELECT id FROM t WHERE region = '{region}'")).await, [id.to_string()], "{region}");
    }
    assert_eq!(query(&table, "SELECT id FROM t WHERE region IS NULL").await, ["9"]);
    let values: Vec<Value> = actions(&lake, 1, "add").into_iter().map(|add| add["partitionValues"].clone()).collect();
    assert!(values.contains(&serde_json::json!({"region": "eu/é %=&", "id": "1"})), "{values:?}");
    assert!(values.contains(&serde_json::json!({"region": null, "id": "9"})), "{values:?}");
    write(&table, rows(&[(5, 1, 1, Some("eu/é %=&"))]), &commit_of("2", day(1), replace())).await.unwrap();
    assert_eq!(query(&table, "SELECT id, region FROM t").await, ["5 | eu/é %=&"]);
    // Every reader of Delta takes an empty partition value for null.
    let empty = table.stage(vec![one_stream(vec![rows(&[(1, 0, 1, Some(""))])])], &commit_of("3", day(1), replace())).await;
    let text = empty.unwrap_err().to_string();
    assert!(text.contains("table silver.t: column region") && text.contains("empty in a row"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_delta_cannot_have_are_refused() {
    let lake = lake().await;
    for (partition, expected) in [
        ("day(at)", "partition field day(at): delta tables are partitioned by columns as they are"),
        ("price", "partition field price: delta tables are partitioned by columns of type string, boolean, int, long or date"),
    ] {
        let mut definition = delta("t");
        definition.partition_by = vec![partition.parse().unwrap()];
        let text = lake.tables.ensure(&definition).await.unwrap_err().to_string();
        assert_eq!(text, format!("table silver.t: {expected}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_stand_for_the_commits_before_them() {
    let lake = lake().await;
    let table = lake.tables.ensure(&delta("t")).await.unwrap();
    let mut versions = Vec::new();
    for number in 1..=23 {
        let commit = commit_of(&format!("token-{number}"), day(number), WriteMode::Append);
        versions.push(write(&table, rows(&[(number, (number - 1) * 24, 1, Some("eu"))]), &commit).await.unwrap().snapshot);
    }
    let log = log_of(&lake);
    assert!(log.join("00000000000000000010.checkpoint.parquet").exists() && log.join("00000000000000000020.checkpoint.parquet").exists());
    let last: Value = serde_json::from_slice(&std::fs::read(log.join("_last_checkpoint")).unwrap()).unwrap();
    assert_eq!(last["version"], 20);
    let past = query_at(&table, Some(&versions[4]), "SELECT count(*), sum(id) FROM t").await;
    assert_eq!(past, ["5 | 15"]);
    // Somebody cleans the log up, as Spark does after a month.
    for version in 0..20 {
        std::fs::remove_file(log.join(format!("{version:020}.json"))).unwrap();
    }
    let table = open(lake.directory.path()).await.ensure(&delta("t")).await.unwrap();
    assert_eq!(query(&table, "SELECT count(*), sum(id) FROM t").await, ["23 | 276"]);
    // Tokens outlive it, the facts of the commit do not.
    let old = table.find_commit("token-3").await.unwrap().unwrap();
    assert_eq!((old.rows_written, old.files, old.summary.len()), (1, 1, 0));
    let again = write(&table, rows(&[(3, 48, 1, Some("eu"))]), &commit_of("token-3", day(3), WriteMode::Append)).await.unwrap();
    assert!(again.already);
    let newer = write(&table, rows(&[(300, 48, 1, None)]), &commit_of("token-3-newer", day(3), WriteMode::Append)).await.unwrap();
    assert!(!newer.already);
    assert_eq!(query(&table, "SELECT count(*), sum(id) FROM t").await, ["23 | 573"]);
    assert_eq!(query_at(&table, Some("20"), "SELECT count(*) FROM t").await, ["20"]);
    let gone = table.provider(Some("15")).await.unwrap_err().to_string();
    assert_eq!(gone, "table silver.t: there is no snapshot 15; it may have expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn times_without_zone_take_the_feature_they_need() {
    let lake = lake().await;
    let mut definition = delta("t");
    let mut fields: Vec<Field> = schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new("local", DataType::Timestamp(TimeUnit::Microsecond, None), true));
    let plain = lake.tables.ensure(&definition).await.unwrap();
    write(&plain, rows(&[(1, 0, 1, None)]), &commit_of("1", day(1), replace())).await.unwrap();
    definition.schema = Arc::new(Schema::new(fields));
    let table = lake.tables.ensure(&definition).await.unwrap();
    let features = serde_json::json!(["timestampNtz"]);
    let expected =
        serde_json::json!({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features});
    assert_eq!(actions(&lake, 2, "protocol"), [expected]);
    write(&table, rows(&[(2, 24, 1, None)]), &commit_of("2", day(2), replace())).await.unwrap();
    assert_eq!(query(&table, "SELECT id, local FROM t").await, ["1 | null", "2 | null"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_staged_for_an_older_schema_are_written_again() {
    let lake = lake().await;
    let mut definition = delta("t");
    let table = lake.tables.ensure(&definition).await.unwrap();
    let commit = commit_of("1", day(1), replace());
    let staged = table.stage(vec![one_stream(vec![rows(&[(7, 0, 1, Some("eu"))])])], &commit).await.unwrap();
    let mut fields = vec![Field::new("note", DataType::Utf8, true)];
    fields.extend(schema().fields().iter().map(|field| field.as_ref().clone()));
    definition.schema = Arc::new(Schema::new(fields));
    let table = lake.tables.ensure(&definition).await.unwrap();
    let refused = table.commit(staged, &commit).await;
    assert!(matches!(refused, Err(TableError::Conflict { .. })), "{refused:?}");
    write(&table, rows(&[(7, 0, 1, Some("eu"))]), &commit).await.unwrap();
    assert_eq!(query(&table, "SELECT id, note, region FROM t WHERE id = 7 AND region = 'eu'").await, ["7 | null | eu"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_another_program_rewrote_is_not_replaced_by_guess() {
    let lake = lake().await;
    let table = lake.tables.ensure(&delta("t")).await.unwrap();
    write(&table, rows(&[(1, 0, 1, None)]), &commit_of("one", day(1), WriteMode::Append)).await.unwrap();
    // As OPTIMIZE does: the rows under another name.
    let add = actions(&lake, 1, "add").remove(0);
    let (old, folder) = (add["path"].as_str().unwrap().to_owned(), lake.directory.path().join("silver/t"));
    std::fs::copy(folder.join(&old), folder.join("optimized.parquet")).unwrap();
    let mut moved = add.clone();
    moved["path"] = "optimized.parquet".into();
    let remove = serde_json::json!({"remove": {"path": old, "deletionTimestamp": 1, "dataChange": false}});
    let lines = format!("{remove}\n{}\n", serde_json::json!({"add": moved}));
    std::fs::write(log_of(&lake).join(format!("{:020}.json", 2)), lines).unwrap();
    assert_eq!(query(&table, "SELECT id FROM t").await, ["1"]);
    // And vacuumed: neither a time of processing nor the file that was appended tells whose the row is.
    std::fs::remove_file(folder.join(&old)).unwrap();
    let refused = write(&table, rows(&[(2, 0, 1, None)]), &commit_of("newer", day(1), WriteMode::Append)).await;
    assert!(matches!(refused, Err(TableError::AppendRewritten { expected: 1, found: 0, .. })), "{refused:?}");
    assert_eq!(query(&table, "SELECT id FROM t").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_needs_more_is_refused_by_feature() {
    let lake = lake().await;
    lake.tables.ensure(&delta("t")).await.unwrap();
    let upgrade = r#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["deletionVectors"],"writerFeatures":["deletionVectors"]}}"#;
    std::fs::write(log_of(&lake).join(format!("{:020}.json", 1)), format!("{upgrade}\n")).unwrap();
    let text = open(lake.directory.path()).await.ensure(&delta("t")).await.unwrap_err().to_string();
    assert!(
        text.starts_with("table silver.t: Delta table file://") && text.ends_with("needs feature deletionVectors, which is not supported"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_skipped_by_their_statistics() {
    let lake = lake().await;
    let table = lake.tables.ensure(&delta("t")).await.unwrap();
    for number in 1..=5 {
        let commit = commit_of(&format!("{number}"), day(number), replace());
        write(&table, rows(&[(number, (number - 1) * 24, 1, None)]), &commit).await.unwrap();
    }
    // Files that a query must not need are gone: it reads the rest without noticing.
    for (version, wanted) in [(1, false), (2, true), (3, true), (4, false), (5, false)] {
        if !wanted {
            let path = actions(&lake, version, "add")[0]["path"].as_str().unwrap().to_owned();
            std::fs::remove_file(lake.directory.path().join("silver/t").join(path)).unwrap();
        }
    }
    let sql = "SELECT id FROM t WHERE at >= TIMESTAMP '2024-01-02T00:00:00Z' AND at < TIMESTAMP '2024-01-04T00:00:00Z'";
    assert_eq!(query(&table, sql).await, ["2", "3"]);
}
