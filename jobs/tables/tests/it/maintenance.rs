//! Maintenance keeps every row, whatever came before it, beside it, or after it.

use crate::common::*;
use chrono::{DateTime, TimeDelta, Utc};
use lakehouse_contract::MaintenanceReport;
use lakehouse_tables::{
    Commit, Compaction, Expiry, Maintained, Maintenance, Orphans, Table, TableDef, TableError, TableFormat, WriteMode, one_stream,
};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub const HOUR: Duration = Duration::from_secs(3_600);
pub const MIB: u64 = 1 << 20;

/// All of it, as of `days` from now: time passes by asking later.
pub fn after_days(days: i64) -> Maintenance {
    Maintenance {
        now: Utc::now() + TimeDelta::days(days),
        compact: Some(Compaction { target_file_bytes: 128 * MIB }),
        expire: Some(Expiry { older_than: HOUR, keep_last: 1 }),
        orphans: Some(Orphans { older_than: HOUR, dry_run: false }),
    }
}

pub fn only_compact() -> Maintenance {
    Maintenance { expire: None, orphans: None, ..after_days(0) }
}

pub async fn maintain(lake: &Lake, table: &Arc<dyn Table>, what: &Maintenance) -> Maintained {
    lake.tables.maintain(table.table(), OWNER, what).await.unwrap().unwrap()
}

/// What was done, without what there was and is.
pub fn deeds(counts: &MaintenanceReport) -> [u64; 6] {
    [
        counts.files_compacted,
        counts.groups_skipped,
        counts.snapshots_expired,
        counts.expired_files_deleted,
        counts.orphans_deleted,
        counts.not_deleted,
    ]
}

/// All files of the lake's tables.
pub fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![directory.join("silver")];
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.insert(path);
            }
        }
    }
    found
}

fn sorted(name: &str, partitions: &[&str]) -> TableDef {
    let mut definition = definition(name);
    definition.partition_by = partitions.iter().map(|text| text.parse().unwrap()).collect();
    definition.sort_by = vec!["id".to_owned()];
    definition
}

/// Twenty days of rows, in one commit each; keys come again.
pub async fn twenty_days(lake: &Lake, definition: &TableDef, mode: &WriteMode) -> Arc<dyn Table> {
    let table = lake.tables.ensure(definition).await.unwrap();
    for number in 1..=20_i64 {
        let at = (number - 1) * 24;
        let region = if number % 2 == 0 { Some("eu") } else { None };
        let batch = rows(&[(number % 7, at, i128::from(number), region), (100 - number, at + 1, 5, Some("us")), (number, at + 2, 9, None)]);
        let batch = if matches!(mode, WriteMode::Merge { .. }) { batch.slice(0, 2) } else { batch };
        write(&table, batch, &commit_of(&format!("token-{number}"), day(number), mode.clone())).await.unwrap();
    }
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_table_keeps_its_rows_and_loses_its_small_files() {
    for (name, partitions, mode) in [
        ("appended", &[][..], WriteMode::Append),
        ("replaced", &["region"][..], replace()),
        ("merged", &[][..], merge()),
        ("bucketed", &["bucket(2, id)"][..], WriteMode::Append),
    ] {
        let lake = lake().await;
        let table = twenty_days(&lake, &sorted(name, partitions), &mode).await;
        let (expected, schema) = (read(&table).await, table.schema().await.unwrap());
        let did = maintain(&lake, &table, &after_days(10)).await;
        let counts = did.counts;
        let most = if partitions.is_empty() { 1 } else { 3 };
        assert!(counts.files_before > most && counts.files_after <= most, "{name}: {counts}");
        assert_eq!(counts.files_after, did.files_written, "{name}");
        assert!(counts.manifests_after <= 2, "{name}: {counts:?}");
        assert!(counts.snapshots_expired >= 20 && counts.snapshots_left == 1, "{name}: {counts:?}");
        assert_eq!(read(&table).await, expected, "{name}");
        assert_eq!(table.schema().await.unwrap(), schema, "{name}");
        assert_eq!(parquet_files(lake.directory.path()).len() as u64, counts.files_after, "{name}");
        assert_eq!(table.snapshot().await.unwrap(), did.snapshot);

        let again = maintain(&lake, &table, &after_days(10)).await;
        assert_eq!(deeds(&again.counts), [0; 6], "{name}: {:?}", again.counts);
        assert_eq!(again.snapshot, did.snapshot, "{name}");
        assert_eq!((again.counts.files_before, again.counts.bytes_before), (counts.files_after, counts.bytes_after));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_outlives_compaction_and_expiry() {
    for mode in [WriteMode::Append, replace(), merge()] {
        let lake = lake().await;
        let table = twenty_days(&lake, &sorted("t", &[]), &mode).await;
        let before = table.find_commit("token-7").await.unwrap().unwrap();
        maintain(&lake, &table, &after_days(10)).await;
        let other = open(lake.directory.path()).await.open_table(table.table()).await.unwrap().unwrap();
        let found = other.find_commit("token-7").await.unwrap().unwrap();
        assert_eq!((found.snapshot, found.rows_written, found.already), (before.snapshot, before.rows_written, true));
        // The same input again is still the same commit.
        let expected = read(&table).await;
        let again = write(&other, rows(&[(1, 6 * 24, 1, None)]), &commit_of("token-7", day(7), mode.clone())).await.unwrap();
        assert!(again.already);
        assert_eq!(read(&table).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_is_replaced_exactly_after_any_number_of_compactions() {
    for partitions in [&[][..], &["region"][..]] {
        let lake = lake().await;
        let table = lake.tables.ensure(&sorted("t", partitions)).await.unwrap();
        let append = |number: i64, token: &str| commit_of(token, day(number), WriteMode::Append);
        // Equal rows in every interval: only where they came from tells them apart.
        let same = || rows(&[(1, 0, 1, Some("eu")), (2, 1, 1, Some("us")), (1, 0, 1, Some("eu"))]);
        for number in 1..=4 {
            write(&table, same(), &append(number, &format!("first-{number}"))).await.unwrap();
        }
        assert!(maintain(&lake, &table, &only_compact()).await.counts.files_compacted >= 4);
        write(&table, rows(&[(20, 24, 1, Some("eu"))]), &append(2, "second-2")).await.unwrap();
        assert_eq!(query(&table, "SELECT id, count(*) FROM t GROUP BY id").await, ["1 | 6", "2 | 3", "20 | 1"]);
        write(&table, rows(&[(50, 0, 1, Some("eu"))]), &append(5, "first-5")).await.unwrap();
        maintain(&lake, &table, &after_days(9)).await;
        maintain(&lake, &table, &after_days(9)).await;
        // Replace one whose rows went through two compactions, one that replaced, and one that came later.
        write(&table, rows(&[(30, 0, 1, None)]), &append(3, "second-3")).await.unwrap();
        assert_eq!(query(&table, "SELECT id, count(*) FROM t GROUP BY id").await, ["1 | 4", "2 | 2", "20 | 1", "30 | 1", "50 | 1"]);
        write(&table, rows(&[]), &append(2, "third-2")).await.unwrap();
        write(&table, rows(&[(51, 0, 1, None), (52, 0, 1, None)]), &append(5, "second-5")).await.unwrap();
        assert_eq!(query(&table, "SELECT id, count(*) FROM t GROUP BY id").await, ["1 | 4", "2 | 2", "30 | 1", "51 | 1", "52 | 1"]);
        maintain(&lake, &table, &after_days(9)).await;
        for number in [1, 3, 4, 5] {
            write(&table, rows(&[(number, 0, 1, None)]), &append(number, &format!("last-{number}"))).await.unwrap();
        }
        assert_eq!(query(&table, "SELECT id FROM t").await, ["1", "3", "4", "5"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_order_of_appends_and_maintenance_matches_a_model() {
    for seed in 1..=6_u64 {
        let lake = lake().await;
        let partitions: &[&str] = if seed % 2 == 0 { &["region"] } else { &[] };
        let table = lake.tables.ensure(&sorted("t", partitions)).await.unwrap();
        let mut state = seed;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut model: std::collections::BTreeMap<i64, Vec<i64>> = std::collections::BTreeMap::new();
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
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_rewritten_by_another_mode_is_refused_also_after_compaction() {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition("t")).await.unwrap();
    write(&table, rows(&[(1, 0, 1, None), (2, 25, 1, None)]), &commit_of("one", day(1), WriteMode::Append)).await.unwrap();
    write(&table, rows(&[(3, 26, 1, None)]), &commit_of("two", day(3), WriteMode::Append)).await.unwrap();
    maintain(&lake, &table, &only_compact()).await;
    write(&table, rows(&[(4, 27, 1, None)]), &commit_of("three", day(2), replace())).await.unwrap();
    let refused = write(&table, rows(&[(9, 0, 1, None)]), &commit_of("one-newer", day(1), WriteMode::Append)).await;
    assert!(matches!(refused, Err(TableError::AppendRewritten { expected: 2, .. })), "{refused:?}");
    assert_eq!(query(&table, "SELECT id FROM t").await, ["1", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn compacted_rows_are_in_the_order_of_the_table() {
    let lake = lake().await;
    let mut definition = sorted("t", &[]);
    definition.sort_by = vec!["region".to_owned(), "id".to_owned()];
    let table = twenty_days(&lake, &definition, &replace()).await;
    maintain(&lake, &table, &only_compact()).await;
    let files = parquet_files(lake.directory.path());
    let compacted: Vec<_> = files.iter().filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("compacted-")).collect();
    assert_eq!(compacted.len(), 1);
    let file = std::fs::File::open(compacted[0]).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let mut keys = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let text = |column: &str, row| arrow::util::display::array_value_to_string(batch.column_by_name(column).unwrap(), row).unwrap();
        keys.extend((0..batch.num_rows()).map(|row| (text("region", row), text("id", row).parse::<i64>().unwrap())));
    }
    assert_eq!(keys.len(), 60);
    assert!(keys.is_sorted(), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_does_not_fit_the_memory_for_sorting_is_spilled() {
    let lake = lake().await;
    let mut definition = sorted("t", &[]);
    definition.sort_by = vec!["price".to_owned()];
    let table = lake.tables.ensure(&definition).await.unwrap();
    let long = "x".repeat(1_200);
    // Three files of 150 MB of rows each; on disk they are small.
    for number in 1..=3_i64 {
        let first = number * 1_000_000;
        let price = |id: i64| i128::from(id.wrapping_mul(2_654_435_761) % 1_000_003);
        let batches = (0..25_i64).map(|batch| {
            let ids = first + batch * 5_000..first + (batch + 1) * 5_000;
            rows(&ids.map(|id| (id, (number - 1) * 24, price(id), Some(long.as_str()))).collect::<Vec<RowOf<'_>>>())
        });
        let commit = commit_of(&number.to_string(), day(number), replace());
        let staged = table.stage(vec![one_stream(batches.collect())], &commit).await.unwrap();
        table.commit(staged, &commit).await.unwrap();
    }
    let sums = "SELECT count(*), count(distinct id), sum(price), sum(length(region)) FROM t";
    let expected = query(&table, sums).await;
    let counts = maintain(&lake, &table, &only_compact()).await.counts;
    assert!(counts.files_before >= 3 && counts.files_after == 1, "{counts:?}");
    assert_eq!(query(&table, sums).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_snapshots_are_readable_and_expired_ones_are_not() {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition("t")).await.unwrap();
    let mut snapshots = Vec::new();
    for number in 1..=6 {
        let commit = commit_of(&number.to_string(), day(number), WriteMode::Overwrite);
        snapshots.push(write(&table, rows(&[(number, 0, 1, None)]), &commit).await.unwrap().snapshot);
    }
    let expire = |days, keep_last| Maintenance {
        compact: None,
        orphans: None,
        expire: Some(Expiry { older_than: HOUR, keep_last }),
        ..after_days(days)
    };
    assert_eq!(deeds(&maintain(&lake, &table, &expire(0, 1)).await.counts), [0; 6], "all were superseded just now");
    let counts = maintain(&lake, &table, &expire(1, 3)).await.counts;
    assert_eq!((counts.snapshots_expired, counts.snapshots_left), (3, 3));
    assert!(counts.expired_files_deleted >= 6, "data files and manifest lists at least: {counts:?}");
    for (number, snapshot) in snapshots.iter().enumerate() {
        if number < 3 {
            let error = table.provider(Some(snapshot)).await.unwrap_err();
            assert!(matches!(error, TableError::NoSuchSnapshot { .. }), "{error}");
        } else {
            assert_eq!(query_at(&table, Some(snapshot), "SELECT id FROM t").await, [(number + 1).to_string()]);
        }
    }
    assert_eq!(parquet_files(lake.directory.path()).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_lives_from_when_it_was_superseded() {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition("t")).await.unwrap();
    let write_one = async |number: i64| {
        let commit = commit_of(&number.to_string(), day(number), WriteMode::Overwrite);
        write(&table, rows(&[(number, 0, 1, None)]), &commit).await.unwrap().snapshot
    };
    let first = write_one(1).await;
    let expire =
        |now: DateTime<Utc>| Maintenance { now, compact: None, orphans: None, expire: Some(Expiry { older_than: HOUR, keep_last: 1 }) };
    // Current for as long as one likes, it stays.
    let later = Utc::now() + TimeDelta::days(300);
    assert_eq!(maintain(&lake, &table, &expire(later)).await.counts.snapshots_expired, 0);
    write_one(2).await;
    assert_eq!(maintain(&lake, &table, &expire(Utc::now() + TimeDelta::minutes(59))).await.counts.snapshots_expired, 0);
    assert_eq!(query_at(&table, Some(&first), "SELECT id FROM t").await, ["1"]);
    assert_eq!(maintain(&lake, &table, &expire(Utc::now() + TimeDelta::minutes(61))).await.counts.snapshots_expired, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_go_when_they_are_old_and_nothing_else_does() {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition("t")).await.unwrap();
    let commit = commit_of("t", day(1), replace());
    // Attempts that died after they wrote their files.
    for _ in 0..3 {
        table.stage(vec![one_stream(vec![rows(&[(1, 0, 1, None)])])], &commit).await.unwrap();
    }
    write(&table, rows(&[(1, 0, 1, None)]), &commit).await.unwrap();
    let data = parquet_files(lake.directory.path())[0].parent().unwrap().to_owned();
    std::fs::write(data.parent().unwrap().join("metadata/left.avro"), "x").unwrap();
    let outside = data.parent().unwrap().parent().unwrap().join("elsewhere.parquet");
    std::fs::write(&outside, "x").unwrap();
    let orphans = |days, dry_run| Maintenance {
        compact: None,
        expire: None,
        orphans: Some(Orphans { older_than: HOUR, dry_run }),
        ..after_days(days)
    };
    let before = files(lake.directory.path());
    assert_eq!(deeds(&maintain(&lake, &table, &orphans(0, false)).await.counts), [0; 6], "younger than the grace");
    let dry = maintain(&lake, &table, &orphans(1, true)).await.counts;
    assert_eq!(dry.orphans_deleted, 4);
    assert!(dry.orphan_bytes > 100);
    assert_eq!(files(lake.directory.path()), before, "a dry run deletes nothing");
    let done = maintain(&lake, &table, &orphans(1, false)).await.counts;
    assert_eq!((done.orphans_deleted, done.orphan_bytes), (4, dry.orphan_bytes));
    assert_eq!(files(lake.directory.path()).len(), before.len() - 4);
    assert!(outside.exists());
    assert_eq!(parquet_files(&data).len(), 1);
    assert_eq!(read(&table).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_metadata_files_go_as_orphans() {
    let lake = lake().await;
    let mut definition = definition("t");
    definition.properties.insert("write.metadata.previous-versions-max".to_owned(), "3".to_owned());
    let table = twenty_days(&lake, &definition, &WriteMode::Append).await;
    let expected = read(&table).await;
    maintain(&lake, &table, &after_days(1)).await;
    let left = files(lake.directory.path()).into_iter().filter(|path| path.to_string_lossy().ends_with(".metadata.json")).count();
    assert_eq!(left, 4, "the current one and three before it");
    assert_eq!(read(&table).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_staged_before_maintenance_is_committed_after_it() {
    for mode in [WriteMode::Append, replace(), merge(), WriteMode::Overwrite] {
        let lake = lake().await;
        let table = twenty_days(&lake, &sorted("t", &[]), &mode).await;
        let commit: Commit = commit_of("late", day(40), mode.clone());
        let staged = table.stage(vec![one_stream(vec![rows(&[(777, 39 * 24, 1, None)])])], &commit).await.unwrap();
        // Everything is old but what was just staged: the grace counts from real time here.
        maintain(&lake, &table, &Maintenance { orphans: Some(Orphans { older_than: HOUR, dry_run: false }), ..after_days(0) }).await;
        let before = read(&table).await.len();
        table.commit(staged, &commit).await.unwrap();
        let expected = if mode == WriteMode::Overwrite { 1 } else { before + 1 };
        assert_eq!(read(&table).await.len(), expected, "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_beside_maintenance_lose_and_double_nothing() {
    for (mode, count) in [(WriteMode::Append, 120), (replace(), 120), (merge(), 120)] {
        let lake = lake().await;
        lake.tables.ensure(&sorted("t", &[])).await.unwrap();
        let mut running = Vec::new();
        for writer in 0..4_i64 {
            let (directory, mode) = (lake.directory.path().to_owned(), mode.clone());
            running.push(tokio::spawn(async move {
                let table = open(&directory).await.ensure(&sorted("t", &[])).await.unwrap();
                for number in 0..15_i64 {
                    let id = writer * 15 + number;
                    let batch = rows(&[(id, id * 24, 1, None), (1_000 + id, id * 24, 1, None)]);
                    write(&table, batch, &commit_of(&format!("token-{id}"), day(id + 1), mode.clone())).await.unwrap();
                }
            }));
        }
        let directory = lake.directory.path().to_owned();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let maintenance = tokio::spawn(async move {
            // A process of its own; files become orphans only an hour after they were written, and that they are not.
            let tables = open(&directory).await;
            let name = lakehouse_contract::TableRef::new("silver", "t");
            let mut compacted = 0;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                let what = Maintenance { expire: None, ..after_days(0) };
                compacted += tables.maintain(&name, OWNER, &what).await.unwrap().unwrap().counts.files_compacted;
            }
            compacted
        });
        for writer in running {
            writer.await.unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let compacted = maintenance.await.unwrap();
        assert!(compacted > 0, "maintenance never won: {mode:?}");
        let table = lake.tables.ensure(&sorted("t", &[])).await.unwrap();
        assert_eq!(query(&table, "SELECT count(*), count(distinct id) FROM t").await, [format!("{count} | {count}")], "{mode:?}");
        maintain(&lake, &table, &after_days(3)).await;
        assert_eq!(query(&table, "SELECT count(*), count(distinct id) FROM t").await, [format!("{count} | {count}")], "{mode:?}");
        let counts = maintain(&lake, &table, &after_days(3)).await.counts;
        assert_eq!(deeds(&counts), [0; 6], "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_maintenance_is_simply_repeated() {
    let lake = lake().await;
    let table = twenty_days(&lake, &sorted("t", &["region"]), &replace()).await;
    let expected = read(&table).await;
    for milliseconds in [1, 3, 6, 10, 20, 40, 80] {
        let what = after_days(5);
        let work = lake.tables.maintain(table.table(), OWNER, &what);
        // Dropped in the middle of whatever it does, as a killed process.
        let _ = tokio::time::timeout(Duration::from_millis(milliseconds), work).await;
        assert_eq!(read(&table).await, expected, "after {milliseconds} ms");
    }
    maintain(&lake, &table, &after_days(6)).await;
    assert_eq!(read(&table).await, expected);
    let counts = maintain(&lake, &table, &after_days(6)).await.counts;
    assert_eq!(deeds(&counts), [0; 6]);
    assert_eq!(parquet_files(lake.directory.path()).len() as u64, counts.files_after, "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn added_columns_are_null_in_compacted_files() {
    let lake = lake().await;
    let table = twenty_days(&lake, &sorted("t", &[]), &replace()).await;
    let mut wider = sorted("t", &[]);
    let mut fields: Vec<_> = wider.schema.fields().iter().cloned().collect();
    fields.push(Arc::new(arrow::datatypes::Field::new("note", arrow::datatypes::DataType::Utf8, true)));
    wider.schema = Arc::new(arrow::datatypes::Schema::new(fields));
    let table = {
        drop(table);
        lake.tables.ensure(&wider).await.unwrap()
    };
    let expected = read(&table).await;
    maintain(&lake, &table, &only_compact()).await;
    assert_eq!(read(&table).await, expected);
    assert_eq!(query(&table, "SELECT count(*), count(note) FROM t").await, ["60 | 0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ages_are_at_least_an_hour_and_tables_are_the_owner_s() {
    let lake = lake().await;
    let table = twenty_days(&lake, &sorted("t", &[]), &replace()).await;
    let hasty = Maintenance { orphans: Some(Orphans { older_than: HOUR - Duration::from_secs(1), dry_run: false }), ..after_days(0) };
    let error = lake.tables.maintain(table.table(), OWNER, &hasty).await.unwrap_err().to_string();
    assert!(error.contains("silver.t: removeOrphans.olderThan must be at least 3600 s"), "{error}");
    let error = lake.tables.maintain(table.table(), "default/other", &after_days(0)).await.unwrap_err();
    assert!(matches!(error, TableError::OwnedByOther { .. }), "{error}");
    let nothing = lake.tables.maintain(&lakehouse_contract::TableRef::new("gold", "none"), OWNER, &after_days(0)).await.unwrap();
    assert_eq!(nothing, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_tables_lose_old_manifests_and_dead_files() {
    let lake = lake().await;
    let mut definition = definition("plain");
    definition.format = TableFormat::Parquet;
    definition.partition_by = vec!["region".parse().unwrap()];
    let table = twenty_days(&lake, &definition, &replace()).await;
    let dead = commit_of("dead", day(60), replace());
    table.stage(vec![one_stream(vec![rows(&[(1, 59 * 24, 1, None)])])], &dead).await.unwrap();
    let expected = read(&table).await;
    assert_eq!(deeds(&maintain(&lake, &table, &after_days(0)).await.counts), [0; 6]);
    let what = Maintenance { expire: Some(Expiry { older_than: HOUR, keep_last: 5 }), ..after_days(1) };
    let counts = maintain(&lake, &table, &what).await.counts;
    assert_eq!(counts.orphans_deleted, 1);
    assert_eq!((counts.snapshots_expired, counts.snapshots_left), (16, 5), "{counts:?}");
    assert_eq!(deeds(&maintain(&lake, &table, &what).await.counts), [0; 6]);
    assert_eq!(read(&table).await, expected);
    write(&table, rows(&[(1, 0, 1, None)]), &commit_of("newer", day(1), replace())).await.unwrap();
    assert_eq!(read(&table).await.len(), expected.len() - 2);
    assert!(table.find_commit("token-5").await.unwrap().is_some());
}
