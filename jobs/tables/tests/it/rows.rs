//! What rows a table holds after replaceInterval, merge and overwrite, in every order.

use crate::common::*;
use crate::in_every_format;
use lakehouse_contract::TableRef;
use lakehouse_tables::{TableDef, TableError, TableFormat, WriteMode, one_stream};

const ORDERS: [[i64; 3]; 6] = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];

/// Rows of one day: coins 1 … 4 at that day, and one coin that only this day has.
fn rows_of(number: i64) -> arrow::array::RecordBatch {
    let at = (number - 1) * 24;
    let price = i128::from(number) * 1_234_567_890_123_456_789;
    rows(&[(1, at, price, Some("eu")), (2, at + 1, price + 1, None), (3, at + 2, price, Some("us")), (100 + number, at + 3, price, None)])
}

async fn tables_after(definition: &TableDef, mode: &WriteMode, order: [i64; 3], parallel: bool) -> Vec<String> {
    let lake = lake().await;
    let table = lake.tables.ensure(definition).await.unwrap();
    let mut running = Vec::new();
    for number in order {
        let (directory, definition, mode) = (lake.directory.path().to_owned(), definition.clone(), mode.clone());
        let task = tokio::spawn(async move {
            let table = open(&directory).await.ensure(&definition).await.unwrap();
            write(&table, rows_of(number), &commit_of(&format!("token-{number}"), day(number), mode)).await.unwrap();
        });
        if parallel { running.push(task) } else { task.await.unwrap() }
    }
    for task in running {
        task.await.unwrap();
    }
    read(&table).await
}

async fn permutations_of_three_intervals_end_in_equal_tables(format: TableFormat) {
    for (name, mode, count) in [("m", merge(), 6), ("r", replace(), 12)] {
        let mut definition = definition_of(format, name);
        definition.partition_by = match (name, format) {
            ("r", TableFormat::Iceberg) => vec!["day(at)".parse().unwrap()],
            ("r", _) => vec!["region".parse().unwrap()],
            _ => Vec::new(),
        };
        let expected = tables_after(&definition, &mode, ORDERS[0], false).await;
        assert_eq!(expected.len(), count);
        for order in ORDERS {
            assert_eq!(tables_after(&definition, &mode, order, false).await, expected, "{name} {order:?}");
            assert_eq!(tables_after(&definition, &mode, order, true).await, expected, "{name} {order:?} in parallel");
        }
    }
}

async fn replacing_rewrites_mixed_files_and_keeps_the_rest(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    // One file over three days, by an overwrite.
    let three = rows(&[(1, 0, 1, None), (2, 24, 2, Some("eu")), (3, 47, 3, None), (4, 48, 4, None)]);
    write(&table, three, &commit_of("all", day(1), WriteMode::Overwrite)).await.unwrap();
    write(&table, rows(&[(9, 30, 9, None)]), &commit_of("second", day(2), replace())).await.unwrap();
    assert_eq!(query(&table, "SELECT id FROM t").await, ["1", "4", "9"]);
    write(&table, rows(&[]), &commit_of("third", day(3), replace())).await.unwrap();
    assert_eq!(query(&table, "SELECT id FROM t").await, ["1", "9"]);
}

async fn rows_outside_of_the_interval_are_refused(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    let commit = commit_of("t", day(2), replace());
    for hour in [23, 48] {
        let refused = table.stage(vec![one_stream(vec![rows(&[(1, 24, 1, None), (2, hour, 1, None)])])], &commit).await;
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("table silver.t: column at") && text.contains("[2024-01-02T00:00:00Z, 2024-01-03T00:00:00Z)"), "{text}");
    }
}

async fn merge_keeps_the_highest_sequence_and_counts_the_losers(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    let first = rows(&[(1, 5, 1, None), (1, 7, 2, None), (1, 6, 3, None), (2, 1, 4, None)]);
    let done = write(&table, first, &commit_of("1", day(1), merge())).await.unwrap();
    assert_eq!((done.rows_written, done.rows_superseded), (2, 2));
    // Older for key 1, equal for key 2, new for key 3.
    let done = write(&table, rows(&[(1, 6, 9, None), (2, 1, 4, None), (3, 0, 5, None)]), &commit_of("2", day(2), merge())).await.unwrap();
    assert_eq!((done.rows_written, done.rows_superseded), (1, 2));
    let rows_now = query(&table, "SELECT id, date_part('hour', at), price FROM t").await;
    assert_eq!(rows_now, ["1 | 7 | 0.0000000000000002", "2 | 1 | 0.0000000000000004", "3 | 0 | 0.0000000000000005"]);
}

async fn a_tie_with_different_content_names_table_key_and_sequence(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    let within = table.stage(vec![one_stream(vec![rows(&[(7, 1, 1, None), (7, 1, 2, None)])])], &commit_of("1", day(1), merge())).await;
    let text = within.unwrap_err().to_string();
    assert_eq!(text, "MergeTie: table silver.t: two different rows have key id=7 and sequence at=2024-01-01T01:00:00Z");
    write(&table, rows(&[(7, 1, 1, None)]), &commit_of("2", day(1), merge())).await.unwrap();
    let against = write(&table, rows(&[(7, 1, 1, Some("eu"))]), &commit_of("3", day(2), merge())).await;
    assert!(matches!(against, Err(TableError::MergeTie { .. })), "{against:?}");
    // A tie below the winner decides nothing.
    let higher = rows(&[(8, 1, 1, None), (8, 1, 2, None), (8, 2, 3, None)]);
    let done = write(&table, higher, &commit_of("4", day(2), merge())).await.unwrap();
    assert_eq!((done.rows_written, done.rows_superseded), (1, 2));
}

async fn merge_compares_long_decimals_and_null_keys_exactly(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&definition_of(format, "t")).await.unwrap();
    let mode = WriteMode::Merge { key: vec!["price".to_owned(), "region".to_owned()], sequence_by: vec!["at".to_owned()] };
    let near = 99_999_999_999_999_999_999_999_999_999_999_999_999_i128;
    let first = rows(&[(1, 0, near, None), (2, 0, near - 1, None), (3, 0, near, Some(""))]);
    write(&table, first, &commit_of("1", day(1), mode.clone())).await.unwrap();
    let done = write(&table, rows(&[(9, 1, near, None)]), &commit_of("2", day(2), mode)).await.unwrap();
    assert_eq!((done.rows_written, done.rows_superseded), (1, 0));
    let now = query(&table, "SELECT id, price, region FROM t").await;
    assert_eq!(
        now,
        [
            "2 | 9999999999999999999999.9999999999999998 | null",
            "3 | 9999999999999999999999.9999999999999999 | ",
            "9 | 9999999999999999999999.9999999999999999 | null"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_partition_values_round_trip_and_prune() {
    let lake = lake().await;
    let mut definition = definition("t");
    definition.partition_by = vec!["region".parse().unwrap(), "bucket(4, id)".parse().unwrap(), "day(at)".parse().unwrap()];
    let table = lake.tables.ensure(&definition).await.unwrap();
    let odd = ["eu/é %=&", "", "..", "a b+c", "null"];
    let batch: Vec<_> = (1..).zip(odd).map(|(id, region)| (id, 0, 1, Some(region))).chain([(9, 0, 1, None)]).collect();
    write(&table, rows(&batch), &commit_of("1", day(1), replace())).await.unwrap();
    for (id, region) in (1..).zip(odd) {
        assert_eq!(query(&table, &format!("SELECT id FROM t WHERE region = '{region}'")).await, [id.to_string()], "{region}");
    }
    assert_eq!(query(&table, "SELECT id FROM t WHERE region IS NULL").await, ["9"]);
    assert_eq!(query(&table, "SELECT id FROM t WHERE id IN (1, 9, 77)").await, ["1", "9"]);
    write(&table, rows(&[(5, 1, 1, Some("eu/é %=&"))]), &commit_of("2", day(1), replace())).await.unwrap();
    assert_eq!(query(&table, "SELECT id, region FROM t").await, ["5 | eu/é %=&"]);
}

async fn large_input_is_written_by_all_cores_sorted_and_complete(format: TableFormat) {
    let lake = lake().await;
    let mut definition = definition_of(format, "t");
    definition.sort_by = vec!["id".to_owned()];
    let table = lake.tables.ensure(&definition).await.unwrap();
    let batches: Vec<_> = (0..60_i64)
        .map(|part| {
            let ids: Vec<_> =
                (0..20_000_i64).map(|n| (((n * 7_919) % 20_000) * 60 + part, n % 24, i128::from(n), Some("region"))).collect();
            rows(&ids)
        })
        .collect();
    let streams = batches.chunks(15).map(|part| one_stream(part.to_vec())).collect();
    let commit = commit_of("1", day(1), replace());
    let staged = table.stage(streams, &commit).await.unwrap();
    assert_eq!(staged.rows(), 1_200_000);
    table.commit(staged, &commit).await.unwrap();
    let sums = query(&table, "SELECT count(*), count(distinct id), sum(id), min(id), max(id) FROM t").await;
    assert_eq!(sums, ["1200000 | 1200000 | 719999400000 | 0 | 1199999"]);
    assert_eq!(query(&table, "SELECT count(*) FROM t").await, ["1200000"]);
    assert_eq!(query(&table, "SELECT count(*) FROM t WHERE id >= 1000000 AND region = 'region'").await, ["200000"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantine_and_gold_have_their_places() {
    let lake = lake().await;
    for (namespace, folder) in [("silver", "silver/t-"), ("quarantine", "silver/_quarantine/t-"), ("gold", "gold/t-")] {
        let mut definition = definition("t");
        definition.table = TableRef::new(namespace, "t");
        let table = lake.tables.ensure(&definition).await.unwrap();
        write(&table, rows(&[(1, 0, 1, None)]), &commit_of("1", day(1), WriteMode::Append)).await.unwrap();
        let root = lake.directory.path().canonicalize().unwrap();
        let expected = format!("{}/{folder}", root.display());
        let files = parquet_files(&root);
        assert!(files.iter().any(|file| file.to_string_lossy().starts_with(&expected)), "{expected}: {files:?}");
        assert_eq!(lake.tables.list(namespace).await.unwrap(), [TableRef::new(namespace, "t")]);
    }
}

in_every_format!(
    permutations_of_three_intervals_end_in_equal_tables,
    replacing_rewrites_mixed_files_and_keeps_the_rest,
    rows_outside_of_the_interval_are_refused,
    merge_keeps_the_highest_sequence_and_counts_the_losers,
    a_tie_with_different_content_names_table_key_and_sequence,
    merge_compares_long_decimals_and_null_keys_exactly,
    large_input_is_written_by_all_cores_sorted_and_complete,
);
