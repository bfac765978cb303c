//! Merging with history: versions of a key with the time in which each is valid, whatever the order of commits.

use crate::common::*;
use crate::maintenance::{after_days, maintain};
use arrow::datatypes::{DataType, Field, Schema};
use lakehouse_contract::TableRef;
use lakehouse_tables::{Table, TableDef, TableError, TableFormat, WriteMode, with_history};
use std::sync::Arc;

crate::in_every_format!(
    every_order_of_commits_ends_in_the_same_versions,
    late_versions_fit_in_between,
    the_highest_sequence_of_one_beginning_stays,
    equal_rows_are_one_version_and_others_are_refused,
    a_token_is_committed_once_and_other_keys_are_left_alone,
    writers_at_the_same_time_lose_no_version,
    random_commits_match_a_model,
);

/// Rows are valid from `at` on; among those of one hour the highest price stays.
fn mode() -> WriteMode {
    WriteMode::History { key: vec!["id".to_owned()], sequence_by: vec!["at".to_owned(), "price".to_owned()] }
}

fn table(format: TableFormat) -> TableDef {
    let mut definition = definition_of(format, "t");
    definition.schema = with_history(&schema(), &["at".to_owned()]).unwrap();
    definition.sort_by = vec!["id".to_owned(), "at".to_owned()];
    definition
}

async fn versions(table: &Arc<dyn Table>, id: i64) -> Vec<String> {
    let hour = |column: &str| format!("date_part('epoch', {column} - TIMESTAMP '2024-01-01T00:00:00Z') / 3600");
    let sql =
        format!("SELECT CAST({} AS INT), CAST({} AS INT), is_current, region FROM t WHERE id = {id}", hour("valid_from"), hour("valid_to"));
    query(table, &sql).await
}

/// What three days bring: a key that moves every day and twice on one, one that is seen once, one that is seen again unchanged.
fn days() -> [Vec<RowOf<'static>>; 3] {
    [
        vec![(1, 5, 1, Some("bern")), (2, 6, 1, Some("genf")), (3, 7, 1, Some("zug"))],
        vec![(1, 30, 1, Some("chur")), (1, 40, 1, None), (3, 31, 1, Some("zug"))],
        vec![(1, 50, 1, Some("bern")), (4, 51, 1, Some("sion"))],
    ]
}

async fn every_order_of_commits_ends_in_the_same_versions(format: TableFormat) {
    let days = days();
    let mut first: Option<Vec<String>> = None;
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let lake = lake().await;
        let table = lake.tables.ensure(&table(format)).await.unwrap();
        for number in order {
            let commit = commit_of(&format!("token-{number}"), day(number as i64 + 1), mode());
            let done = write(&table, rows(&days[number]), &commit).await.unwrap();
            assert_eq!((done.rows_written, done.rows_superseded), (days[number].len() as u64, 0), "{order:?}");
        }
        let found = read(&table).await;
        assert_eq!(found.len(), 8, "{order:?}");
        assert_eq!(first.get_or_insert_with(|| found.clone()), &found, "{order:?}");
        assert_eq!(
            versions(&table, 1).await,
            ["30 | 40 | false | chur", "40 | 50 | false | null", "5 | 30 | false | bern", "50 | null | true | bern"]
        );
        assert_eq!(versions(&table, 3).await, ["31 | null | true | zug", "7 | 31 | false | zug"]);
        assert_eq!(query(&table, "SELECT count(*) FROM t WHERE is_current").await, ["4"]);
        maintain(&lake, &table, &after_days(9)).await;
        assert_eq!(read(&table).await, found, "{order:?}");
    }
}

async fn late_versions_fit_in_between(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&table(format)).await.unwrap();
    for (number, (hour, region)) in [(10, "ten"), (30, "thirty"), (20, "twenty"), (5, "five"), (40, "forty")].into_iter().enumerate() {
        let commit = commit_of(&hour.to_string(), day(number as i64 + 1), mode());
        write(&table, rows(&[(1, hour, 1, Some(region))]), &commit).await.unwrap();
    }
    let expected = [
        "10 | 20 | false | ten",
        "20 | 30 | false | twenty",
        "30 | 40 | false | thirty",
        "40 | null | true | forty",
        "5 | 10 | false | five",
    ];
    assert_eq!(versions(&table, 1).await, expected);
    // As of any time there is one version at most.
    let at = "valid_from <= TIMESTAMP '2024-01-01T21:00:00Z' AND (valid_to > TIMESTAMP '2024-01-01T21:00:00Z' OR valid_to IS NULL)";
    assert_eq!(query(&table, &format!("SELECT region FROM t WHERE {at}")).await, ["twenty"]);
}

async fn the_highest_sequence_of_one_beginning_stays(format: TableFormat) {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let lake = lake().await;
        let table = lake.tables.ensure(&table(format)).await.unwrap();
        let batches =
            [vec![(1, 10, 1, Some("low"))], vec![(1, 10, 3, Some("high")), (1, 10, 2, Some("middle"))], vec![(1, 20, 0, Some("next"))]];
        let mut lost = 0;
        for number in order {
            let commit = commit_of(&number.to_string(), day(number as i64 + 1), mode());
            let done = write(&table, rows(&batches[number]), &commit).await.unwrap();
            lost += done.rows_superseded;
            assert_eq!(done.rows_written + done.rows_superseded, batches[number].len() as u64, "{order:?}");
        }
        assert_eq!(versions(&table, 1).await, ["10 | 20 | false | high", "20 | null | true | next"], "{order:?}");
        assert!(lost >= 1, "{order:?}");
    }
}

async fn equal_rows_are_one_version_and_others_are_refused(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&table(format)).await.unwrap();
    let same = [(1, 10, 1, Some("a")), (1, 10, 1, Some("a"))];
    write(&table, rows(&same), &commit_of("1", day(1), mode())).await.unwrap();
    let before = table.snapshot().await.unwrap();
    let again = write(&table, rows(&same[..1]), &commit_of("2", day(2), mode())).await.unwrap();
    assert_eq!((again.rows_written, again.rows_superseded, again.files), (0, 1, 0));
    assert_ne!(table.snapshot().await.unwrap(), before, "the token is recorded");
    assert_eq!(versions(&table, 1).await, ["10 | null | true | a"]);
    for other in [rows(&[(1, 10, 1, Some("b"))]), rows(&[(2, 10, 1, Some("b")), (2, 10, 1, None)])] {
        let tie = write(&table, other, &commit_of("3", day(3), mode())).await;
        assert!(matches!(&tie, Err(TableError::MergeTie { key, .. }) if key.starts_with("id=")), "{tie:?}");
    }
    assert_eq!(versions(&table, 1).await, ["10 | null | true | a"]);
}

async fn a_token_is_committed_once_and_other_keys_are_left_alone(format: TableFormat) {
    let lake = lake().await;
    let table = lake.tables.ensure(&table(format)).await.unwrap();
    let many: Vec<RowOf<'_>> = (0..50).map(|id| (id, id, 1, Some("a"))).collect();
    write(&table, rows(&many), &commit_of("1", day(1), mode())).await.unwrap();
    let more = rows(&[(7, 60, 1, Some("b"))]);
    assert!(!write(&table, more.clone(), &commit_of("2", day(2), mode())).await.unwrap().already);
    let other = open(lake.directory.path()).await.open_table(&TableRef::new("silver", "t")).await.unwrap().unwrap();
    assert!(write(&other, more, &commit_of("2", day(2), mode())).await.unwrap().already);
    assert_eq!(versions(&table, 7).await, ["60 | null | true | b", "7 | 60 | false | a"]);
    assert_eq!(query(&table, "SELECT count(*), count(DISTINCT id) FROM t").await, ["51 | 50"]);
    // Input with the columns of the history is of somebody who computed them; they are ours.
    let foreign = write(&table, arrow::array::RecordBatch::new_empty(table.schema().await.unwrap()), &commit_of("3", day(3), mode())).await;
    assert!(foreign.unwrap_err().to_string().contains("valid_from"));
}

async fn writers_at_the_same_time_lose_no_version(format: TableFormat) {
    let lake = lake().await;
    lake.tables.ensure(&table(format)).await.unwrap();
    let writers = (0..4_i64).map(|writer| {
        let directory = lake.directory.path().to_owned();
        tokio::spawn(async move {
            let own = open(&directory).await.ensure(&table(format)).await.unwrap();
            for number in 0..5_i64 {
                let at = number * 4 + writer;
                let commit = commit_of(&format!("t{at}"), day(at + 1), mode());
                write(&own, rows(&[(1, at, 1, Some("x")), (2, at, 1, Some("y"))]), &commit).await.unwrap();
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
    let table = lake.tables.ensure(&table(format)).await.unwrap();
    let sql = "SELECT count(*), count(valid_to), sum(date_part('epoch', valid_to - valid_from)) FROM t";
    assert_eq!(query(&table, sql).await, [format!("40 | 38 | {:.1}", 38.0 * 3600.0)]);
}

/// Rows of random keys and hours in random commits: the table is what a window function makes of all rows.
async fn random_commits_match_a_model(format: TableFormat) {
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let lake = lake().await;
    let table = lake.tables.ensure(&table(format)).await.unwrap();
    let all = lake.tables.ensure(&definition_of(format, "all_rows")).await.unwrap();
    for number in 1..=12_i64 {
        // No two rows of one key begin at the same time: those are another test's.
        let batch: Vec<RowOf<'_>> =
            (0..6).map(|row| ((row + number) % 5, (random(9) as i64) * 1000 + number * 10 + row, 1, Some("r"))).collect();
        write(&table, rows(&batch), &commit_of(&number.to_string(), day(number), mode())).await.unwrap();
        write(&all, rows(&batch), &commit_of(&number.to_string(), day(number), WriteMode::Append)).await.unwrap();
        if number % 5 == 0 {
            maintain(&lake, &table, &after_days(2)).await;
        }
        let model = "SELECT id, at, price, region, at AS f, lead(at) OVER w, lead(at) OVER w IS NULL FROM t WINDOW w AS (PARTITION BY id ORDER BY at)";
        assert_eq!(read(&table).await, query(&all, model).await, "after {number}");
    }
}

#[test]
fn versions_need_a_beginning_and_names_of_their_own() {
    let of = |name: &str, kind: DataType, nullable: bool| Arc::new(Schema::new(vec![Field::new(name, kind, nullable)]));
    let by = |name: &str| vec![name.to_owned()];
    let text = with_history(&of("valid_to", DataType::Date32, false), &by("valid_to")).unwrap_err();
    assert_eq!(text, "column valid_to is added by write.merge.history: choose another name");
    for (kind, nullable) in [(DataType::Int64, false), (DataType::Date32, true)] {
        let text = with_history(&of("d", kind, nullable), &by("d")).unwrap_err();
        assert!(text.contains("d is not a required date, timestamp or timestamptz"), "{text}");
    }
    assert!(with_history(&of("d", DataType::Date32, false), &by("e")).unwrap_err().contains("there is no column e"));
    assert_eq!(with_history(&of("d", DataType::Date32, false), &by("d")).unwrap().fields().len(), 4);
}
