//! Maintenance of Delta tables: rows, versions within the retention and commits that a repeated run finds stay, whatever runs beside it.

use crate::common::*;
use crate::maintenance::{HOUR, after_days, deeds, files, maintain, only_compact, twenty_days};
use chrono::Utc;
use lakehouse_contract::TableRef;
use lakehouse_tables::{Expiry, Maintenance, Orphans, TableDef, TableError, TableFormat, WriteMode, one_stream};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn sorted(partitions: &[&str]) -> TableDef {
    let mut definition = definition_of(TableFormat::Delta, "t");
    definition.partition_by = partitions.iter().map(|text| text.parse().unwrap()).collect();
    definition.sort_by = vec!["id".to_owned()];
    definition
}

fn log_of(lake: &Lake) -> PathBuf {
    lake.directory.path().join("silver/t/_delta_log")
}

fn actions(lake: &Lake, version: u64, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(log_of(lake).join(format!("{version:020}.json"))).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line.get(kind).cloned()).collect()
}

/// Another process: nothing that this one remembers of the log.
async fn reopened(lake: &Lake) -> Arc<dyn lakehouse_tables::Table> {
    open(lake.directory.path()).await.open_table(&TableRef::new("silver", "t")).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_table_keeps_its_rows_and_loses_its_small_files() {
    for (partitions, mode) in
        [(&[][..], WriteMode::Append), (&["region"][..], replace()), (&[][..], merge()), (&["region"][..], WriteMode::Append)]
    {
        let lake = lake().await;
        let table = twenty_days(&lake, &sorted(partitions), &mode).await;
        let (expected, before) = (read(&table).await, table.find_commit("token-7").await.unwrap().unwrap());
        let did = maintain(&lake, &table, &after_days(10)).await;
        let counts = did.counts;
        let most = if partitions.is_empty() { 1 } else { 3 };
        assert!(counts.files_before > most && counts.files_after <= most, "{mode:?}: {counts}");
        assert_eq!(counts.files_after, did.files_written, "{mode:?}");
        assert!(counts.snapshots_expired >= 20 && counts.snapshots_left == 1, "{mode:?}: {counts:?}");
        assert_eq!(counts.not_deleted, 0);
        // The only version left begins with a checkpoint, and only its files are there.
        assert_eq!(parquet_files(lake.directory.path()).len() as u64, counts.files_after + 1, "{mode:?}");
        for table in [table.clone(), reopened(&lake).await] {
            assert_eq!(read(&table).await, expected, "{mode:?}");
            assert_eq!(table.snapshot().await.unwrap(), did.snapshot);
            let found = table.find_commit("token-7").await.unwrap().unwrap();
            assert_eq!((found.snapshot, found.rows_written, found.already), (before.snapshot.clone(), before.rows_written, true));
        }
        let again = maintain(&lake, &table, &after_days(10)).await;
        assert_eq!(deeds(&again.counts), [0; 6], "{mode:?}: {:?}", again.counts);
        assert_eq!(again.snapshot, did.snapshot, "{mode:?}");
        // The table goes on.
        let late = commit_of("late", day(40), mode.clone());
        write(&reopened(&lake).await, rows(&[(777, 39 * 24, 1, Some("eu"))]), &late).await.unwrap();
        assert_eq!(read(&table).await.len(), expected.len() + 1, "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_is_a_commit_without_a_change_of_data() {
    let lake = lake().await;
    let table = twenty_days(&lake, &sorted(&["region"]), &replace()).await;
    let did = maintain(&lake, &table, &only_compact()).await;
    let version: u64 = did.snapshot.unwrap().parse().unwrap();
    let info = &actions(&lake, version, "commitInfo")[0];
    assert_eq!((&info["operation"], &info["isBlindAppend"]), (&Value::from("OPTIMIZE"), &Value::from(false)));
    let (added, removed) = (actions(&lake, version, "add"), actions(&lake, version, "remove"));
    assert_eq!((added.len() as u64, removed.len() as u64), (did.files_written, did.counts.files_compacted));
    assert!(added.iter().chain(&removed).all(|action| action["dataChange"] == false));
    assert!(added.iter().any(|add| add["partitionValues"]["region"] == "us"), "{added:?}");
    // Sorted, so that each file has one range of keys that its statistics tell.
    let stats: Value = serde_json::from_str(added[0]["stats"].as_str().unwrap()).unwrap();
    assert!(stats["minValues"]["id"].as_i64().unwrap() <= stats["maxValues"]["id"].as_i64().unwrap());
    // Older versions are as they were.
    assert_eq!(query_at(&table, Some("1"), "SELECT count(*) FROM t").await, ["3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_order_of_appends_and_maintenance_matches_a_model() {
    for seed in 1..=6_u64 {
        let lake = lake().await;
        let partitions: &[&str] = if seed % 2 == 0 { &["region"] } else { &[] };
        let table = lake.tables.ensure(&sorted(partitions)).await.unwrap();
        let mut state = seed;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut model: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for step in 0..40_i64 {
            if random(4) == 0 {
                let what = if random(2) == 0 { only_compact() } else { after_days(1) };
                maintain(&lake, &table, &what).await;
            } else {
                let number = random(6) as i64 + 1;
                let ids: Vec<i64> = (0..random(4) as i64).map(|row| step * 10 + row).collect();
                let batch: Vec<RowOf<'_>> = ids.iter().map(|id| (*id, 0, 1, Some(if id % 3 == 0 { "eu" } else { "us" }))).collect();
                write(&table, rows(&batch), &commit_of(&format!("step-{step}"), day(number), WriteMode::Append)).await.unwrap();
                model.insert(number, ids);
            }
            let mut expected: Vec<String> = model.values().flatten().map(ToString::to_string).collect();
            expected.sort();
            assert_eq!(query(&table, "SELECT id FROM t").await, expected, "seed {seed}, step {step}");
        }
        assert_eq!(read(&reopened(&lake).await).await, read(&table).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_within_the_retention_stay_readable() {
    let lake = lake().await;
    let table = lake.tables.ensure(&sorted(&[])).await.unwrap();
    for number in 1..=6 {
        write(&table, rows(&[(number, 0, 1, None)]), &commit_of(&number.to_string(), day(number), WriteMode::Overwrite)).await.unwrap();
    }
    let expire = |days, keep_last| Maintenance {
        compact: None,
        orphans: None,
        expire: Some(Expiry { older_than: HOUR, keep_last }),
        ..after_days(days)
    };
    assert_eq!(deeds(&maintain(&lake, &table, &expire(0, 1)).await.counts), [0; 6], "all were superseded just now");
    let counts = maintain(&lake, &table, &expire(1, 3)).await.counts;
    assert_eq!((counts.snapshots_expired, counts.snapshots_left), (4, 3), "{counts:?}");
    // Versions 0 to 3 with their commits, and the files of versions 1 to 3.
    assert_eq!(counts.expired_files_deleted, 7);
    for table in [table.clone(), reopened(&lake).await] {
        for version in 0..=6_i64 {
            let at = version.to_string();
            if version < 4 {
                assert!(matches!(table.provider(Some(&at)).await.unwrap_err(), TableError::NoSuchSnapshot { .. }), "{version}");
            } else {
                assert_eq!(query_at(&table, Some(&at), "SELECT id FROM t").await, [version.to_string()]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_asks_for_a_longer_past_keeps_it() {
    for (property, kept) in [("delta.logRetentionDuration", "interval 30 days"), ("delta.deletedFileRetentionDuration", "interval 4 weeks")]
    {
        let lake = lake().await;
        let mut definition = sorted(&[]);
        definition.properties.insert(property.to_owned(), kept.to_owned());
        let table = twenty_days(&lake, &definition, &WriteMode::Overwrite).await;
        assert_eq!(deeds(&maintain(&lake, &table, &after_days(27)).await.counts), [0; 6]);
        assert_eq!(maintain(&lake, &table, &after_days(31)).await.counts.snapshots_left, 1);
    }
    let lake = lake().await;
    let mut definition = sorted(&[]);
    definition.properties.insert("delta.logRetentionDuration".to_owned(), "interval a month".to_owned());
    let table = lake.tables.ensure(&definition).await.unwrap();
    let text = lake.tables.maintain(table.table(), OWNER, &after_days(1)).await.unwrap_err().to_string();
    assert!(
        text.contains("silver.t") && text.contains("property delta.logRetentionDuration") && text.contains("\"interval a month\""),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_go_when_they_are_old_and_nothing_else_does() {
    let lake = lake().await;
    let table = lake.tables.ensure(&sorted(&[])).await.unwrap();
    let commit = commit_of("t", day(1), replace());
    // Attempts that died after they wrote their files.
    for _ in 0..3 {
        table.stage(vec![one_stream(vec![rows(&[(1, 0, 1, None)])])], &commit).await.unwrap();
    }
    for token in ["t", "u"] {
        write(&table, rows(&[(1, 0, 1, None)]), &commit_of(token, day(1), replace())).await.unwrap();
    }
    let folder = log_of(&lake).parent().unwrap().to_owned();
    std::fs::create_dir(folder.join("_private")).unwrap();
    std::fs::write(folder.join("_private/kept.parquet"), "x").unwrap();
    let orphans = |days, dry_run| Maintenance {
        compact: None,
        expire: None,
        orphans: Some(Orphans { older_than: HOUR, dry_run }),
        ..after_days(days)
    };
    let before = files(lake.directory.path());
    assert_eq!(deeds(&maintain(&lake, &table, &orphans(0, false)).await.counts), [0; 6], "younger than the grace");
    assert_eq!(maintain(&lake, &table, &orphans(1, true)).await.counts.orphans_deleted, 3);
    assert_eq!(files(lake.directory.path()), before, "a dry run deletes nothing");
    let done = maintain(&lake, &table, &orphans(1, false)).await.counts;
    assert_eq!((done.orphans_deleted, files(lake.directory.path()).len()), (3, before.len() - 3), "{done:?}");
    // The file of the version before is no orphan.
    assert_eq!(query_at(&table, Some("1"), "SELECT id FROM t").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_staged_before_maintenance_is_committed_after_it() {
    for mode in [WriteMode::Append, replace(), merge(), WriteMode::Overwrite] {
        let lake = lake().await;
        let table = twenty_days(&lake, &sorted(&[]), &mode).await;
        let commit = commit_of("late", day(40), mode.clone());
        let staged = table.stage(vec![one_stream(vec![rows(&[(777, 39 * 24, 1, None)])])], &commit).await.unwrap();
        // Versions are old, what was just staged is not.
        let expire = Maintenance { orphans: None, ..after_days(5) };
        maintain(&lake, &table, &expire).await;
        maintain(&lake, &table, &Maintenance { expire: None, ..after_days(0) }).await;
        let before = read(&table).await.len();
        table.commit(staged, &commit).await.unwrap();
        let expected = if mode == WriteMode::Overwrite { 1 } else { before + 1 };
        assert_eq!(read(&reopened(&lake).await).await.len(), expected, "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_beside_maintenance_lose_and_double_nothing() {
    for mode in [WriteMode::Append, replace(), merge()] {
        let lake = lake().await;
        lake.tables.ensure(&sorted(&[])).await.unwrap();
        let mut running = Vec::new();
        for writer in 0..4_i64 {
            let (directory, mode) = (lake.directory.path().to_owned(), mode.clone());
            running.push(tokio::spawn(async move {
                let table = open(&directory).await.ensure(&sorted(&[])).await.unwrap();
                for number in 0..15_i64 {
                    let id = writer * 15 + number;
                    let batch = rows(&[(id, id * 24, 1, None), (1_000 + id, id * 24, 1, None)]);
                    write(&table, batch, &commit_of(&format!("token-{id}"), day(id + 1), mode.clone())).await.unwrap();
                }
            }));
        }
        let directory = lake.directory.path().to_owned();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let maintenance = tokio::spawn(async move {
            let tables = open(&directory).await;
            let name = TableRef::new("silver", "t");
            let mut compacted = 0;
            while !stopped.load(Ordering::Relaxed) {
                let what = Maintenance { now: Utc::now(), expire: None, ..after_days(0) };
                compacted += tables.maintain(&name, OWNER, &what).await.unwrap().unwrap().counts.files_compacted;
            }
            compacted
        });
        for writer in running {
            writer.await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(maintenance.await.unwrap() > 0, "maintenance never won: {mode:?}");
        let table = reopened(&lake).await;
        for _ in 0..2 {
            assert_eq!(query(&table, "SELECT count(*), count(distinct id) FROM t").await, ["120 | 120"], "{mode:?}");
            maintain(&lake, &table, &after_days(3)).await;
        }
        let counts = maintain(&lake, &table, &after_days(3)).await.counts;
        assert_eq!(deeds(&counts), [0; 6], "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_maintenance_is_simply_repeated() {
    let lake = lake().await;
    let table = twenty_days(&lake, &sorted(&["region"]), &replace()).await;
    let expected = read(&table).await;
    for milliseconds in [1, 3, 6, 10, 20, 40, 80] {
        let what = after_days(5);
        let work = lake.tables.maintain(table.table(), OWNER, &what);
        // Dropped in the middle of whatever it does, as a killed process.
        let _ = tokio::time::timeout(Duration::from_millis(milliseconds), work).await;
        assert_eq!(read(&reopened(&lake).await).await, expected, "after {milliseconds} ms");
    }
    maintain(&lake, &table, &after_days(6)).await;
    assert_eq!(read(&table).await, expected);
    let counts = maintain(&lake, &table, &after_days(6)).await.counts;
    assert_eq!(deeds(&counts), [0; 6]);
    assert_eq!(parquet_files(lake.directory.path()).len() as u64, counts.files_after + 1, "nothing but the files and a checkpoint");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_another_program_cleaned_is_maintained_from_its_checkpoint_on() {
    let lake = lake().await;
    let table = twenty_days(&lake, &sorted(&[]), &WriteMode::Overwrite).await;
    for version in 0..12 {
        std::fs::remove_file(log_of(&lake).join(format!("{version:020}.json"))).unwrap();
    }
    let what = Maintenance { expire: Some(Expiry { older_than: HOUR, keep_last: 5 }), ..after_days(3) };
    let counts = maintain(&lake, &table, &what).await.counts;
    // Version 20 is a checkpoint and the newest; those from 12 on lead to it without a beginning.
    assert_eq!((counts.snapshots_expired, counts.snapshots_left), (0, 1), "{counts:?}");
    assert_eq!(read(&reopened(&lake).await).await.len(), 3);
}
