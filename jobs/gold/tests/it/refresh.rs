//! Stale intervals and full refresh: what is computed again, what is left, and what the report says.

use crate::support::{Lake, day, model};
use lakehouse_api::pipeline::{GoldModel, TableFormat};
use lakehouse_contract::{Interval, IntervalGrain, Refresh, StageOutcome, TableRef};
use std::collections::BTreeMap;

const ONE: i128 = 10_000_000_000_000_000;

fn rolling() -> GoldModel {
    let sql = "SELECT $start AS day, sum(price) AS price, count(*) AS days FROM silver.prices WHERE at >= $readStart AND at < $end";
    GoldModel { lookback: 1, ..model("rolling", sql) }
}

/// Reads `rolling`, so that its days depend on two days before them.
fn change() -> GoldModel {
    let sql = "SELECT $start AS day, sum(CASE WHEN day < $start THEN -price ELSE price END) AS change FROM gold.rolling \
               WHERE day >= $readStart AND day < $end";
    GoldModel { lookback: 1, ..model("change", sql) }
}

fn in_format(mut model: GoldModel, format: TableFormat) -> GoldModel {
    model.table.format = format;
    model
}

/// What `rolling` holds: `day of January: price`.
async fn rolled(lake: &Lake) -> Vec<String> {
    lake.rows("SELECT date_part('day', day), CAST(price AS bigint) FROM gold.rolling ORDER BY day").await
}

/// Days of January that a table's report names.
fn days(starts: &[chrono::DateTime<chrono::Utc>]) -> Vec<u32> {
    starts.iter().map(chrono::Datelike::day).collect()
}

fn stale(outcome: &StageOutcome, table: &str) -> Vec<u32> {
    days(outcome.staleness.as_ref().unwrap().tables.get(table).map_or(&[], Vec::as_slice))
}

fn nothing_is_stale(outcome: &StageOutcome) -> bool {
    outcome.staleness.as_ref().unwrap().tables.is_empty()
}

fn refreshed(outcome: &StageOutcome, table: &str) -> Vec<u32> {
    days(&outcome.tables.iter().find(|report| report.name == table).unwrap().refreshed)
}

/// Four days of one price each, 1 to 4, and the models computed for each.
async fn four_days() -> Lake {
    let lake = Lake::new();
    for number in 1..=4 {
        lake.prices(day(number), &[("a", i128::from(number) * ONE)]).await;
        let outcome = lake.run(&format!("r{number}"), day(number), vec![change(), rolling()]).await;
        assert_eq!(outcome.failure, None);
        assert!(nothing_is_stale(&outcome), "{outcome:?}");
    }
    lake
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_runs_again_makes_the_days_that_look_back_at_it_stale_until_they_are_refreshed() {
    let lake = four_days().await;
    assert_eq!(rolled(&lake).await, ["1|1", "2|3", "3|5", "4|7"]);
    lake.prices(day(2), &[("a", 20 * ONE)]).await;
    let again = lake.run("again", day(2), vec![rolling(), change()]).await;
    assert_eq!(stale(&again, "gold.rolling"), [3]);
    assert_eq!(stale(&again, "gold.change"), [3, 4], "day 4 looks back at rolling's day 3, which is stale");
    assert_eq!(rolled(&lake).await, ["1|1", "2|21", "3|5", "4|7"]);
    let refresh = lake.refresh("refresh", day(3), vec![rolling(), change()], Some(Refresh::Stale)).await;
    assert_eq!(refresh.failure, None);
    assert_eq!(refreshed(&refresh, "gold.rolling"), [] as [u32; 0], "day 3 is the run's own");
    assert_eq!(refreshed(&refresh, "gold.change"), [4]);
    assert!(nothing_is_stale(&refresh), "{refresh:?}");
    assert_eq!(rolled(&lake).await, ["1|1", "2|21", "3|23", "4|7"]);
    assert_eq!(
        lake.rows("SELECT date_part('day', day), CAST(change AS bigint) FROM gold.change ORDER BY day").await,
        ["1|1", "2|20", "3|2", "4|-16"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_run_of_a_stale_day_clears_it_and_an_equal_input_makes_nothing_stale() {
    let lake = four_days().await;
    lake.prices(day(1), &[("a", 5 * ONE)]).await;
    assert_eq!(stale(&lake.run("again", day(1), vec![rolling()]).await, "gold.rolling"), [2]);
    assert_eq!(stale(&lake.run("next", day(2), vec![rolling()]).await, "gold.rolling"), [] as [u32; 0]);
    // The table has another snapshot by now, and so the day another token; what it is computed from is the same.
    let same = lake.run("same", day(2), vec![rolling()]).await;
    assert_eq!(stale(&same, "gold.rolling"), [] as [u32; 0]);
    assert_eq!(rolled(&lake).await, ["1|5", "2|7", "3|5", "4|7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_was_computed_while_its_input_changed_is_stale_at_once() {
    let lake = Lake::new();
    lake.prices(day(1), &[("a", ONE)]).await;
    lake.prices(day(2), &[("a", 2 * ONE)]).await;
    // The first attempt pins what it reads and fails; before the second another run writes the day before.
    let broken = GoldModel { sql: rolling().sql.replace("sum(price)", "sum(prise)"), ..rolling() };
    assert!(lake.run("r", day(2), vec![broken]).await.failure.is_some());
    lake.prices(day(1), &[("a", 5 * ONE)]).await;
    let second = lake.run("r", day(2), vec![rolling()]).await;
    assert_eq!(rolled(&lake).await, ["2|3"], "the pins hold");
    assert_eq!(stale(&second, "gold.rolling"), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_days_side_by_side_the_one_that_looked_last_says_what_is_stale() {
    for format in [TableFormat::Iceberg, TableFormat::Delta] {
        let models = || [rolling(), change()].map(|model| in_format(model, format)).to_vec();
        let lake = Lake::new();
        let mut counts = Vec::new();
        for first in [1, 3, 5, 7, 9, 11, 13, 15] {
            for number in [first, first + 1] {
                lake.prices(day(number), &[("a", i128::from(number) * ONE)]).await;
            }
            let (late, early) = (format!("r{}", first + 1), format!("r{first}"));
            let runs = tokio::join!(lake.run(&late, day(first + 1), models()), lake.run(&early, day(first), models()));
            let said = [runs.0, runs.1].map(|outcome| {
                assert_eq!(outcome.failure, None);
                outcome.staleness.unwrap()
            });
            let last = said.iter().max_by_key(|found| found.observed_at).unwrap();
            let names = [TableRef::new("gold", "rolling"), TableRef::new("gold", "change")];
            let truth = lakehouse_gold::stale(&lake.tables().await, &names).await.unwrap();
            let truth: BTreeMap<String, Vec<_>> = truth.into_iter().map(|(table, starts)| (table.to_string(), starts)).collect();
            assert_eq!(last.tables, truth, "{format:?}, days {first} and {}: {said:?}", first + 1);
            counts.push(truth.len());
        }
        let all = lake.refresh("all", day(16), models(), Some(Refresh::Stale)).await;
        assert!(nothing_is_stale(&all), "{format:?}: {all:?}");
        let rolled = rolled(&lake).await;
        let expected: Vec<String> = (1..=16).map(|number| format!("{number}|{}", if number == 1 { 1 } else { 2 * number - 1 })).collect();
        assert_eq!(rolled, expected, "{format:?}: stale in {counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_fails_half_way_says_what_its_commits_made_stale() {
    let lake = four_days().await;
    lake.prices(day(2), &[("a", 20 * ONE)]).await;
    let sql = "SELECT $start AS day, CAST(CAST(price AS string) || 'x' AS bigint) AS price FROM gold.rolling WHERE day = $start";
    let outcome = lake.run("again", day(2), vec![rolling(), model("broken", sql)]).await;
    assert!(outcome.failure.is_some());
    assert_eq!(outcome.tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>(), ["gold.rolling"]);
    assert_eq!(stale(&outcome, "gold.rolling"), [3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn days_in_any_order_end_equal_once_the_stale_ones_are_refreshed() {
    let in_order = four_days().await;
    let lake = Lake::new();
    for number in [4, 2, 1, 3] {
        lake.prices(day(number), &[("a", i128::from(number) * ONE)]).await;
        assert_eq!(lake.run(&format!("r{number}"), day(number), vec![rolling(), change()]).await.failure, None);
    }
    assert_ne!(rolled(&lake).await, rolled(&in_order).await);
    assert_eq!(lake.refresh("refresh", day(4), vec![rolling(), change()], Some(Refresh::Stale)).await.failure, None);
    assert_eq!(rolled(&lake).await, rolled(&in_order).await);
    let change = "SELECT day, change FROM gold.change ORDER BY day";
    assert_eq!(lake.rows(change).await, in_order.rows(change).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_after_a_refresh_finds_its_commits_and_reports_them_again() {
    let lake = four_days().await;
    lake.prices(day(2), &[("a", 20 * ONE)]).await;
    let first = lake.refresh("refresh", day(2), vec![rolling(), change()], Some(Refresh::Stale)).await;
    let again = lake.refresh("refresh", day(2), vec![rolling(), change()], Some(Refresh::Stale)).await;
    assert_eq!(refreshed(&first, "gold.rolling"), [3]);
    for (first, again) in first.tables.iter().zip(&again.tables) {
        assert!(again.already_committed && !first.already_committed);
        assert_eq!((&again.refreshed, again.rows_written, &again.snapshot), (&first.refreshed, first.rows_written, &first.snapshot));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_refresh_computes_every_day_by_the_definition_of_today_once() {
    let lake = four_days().await;
    let doubled = GoldModel { sql: rolling().sql.replace("sum(price)", "2 * sum(price)"), ..rolling() };
    let today = lake.run("today", day(4), vec![doubled.clone()]).await;
    assert_eq!(stale(&today, "gold.rolling"), [] as [u32; 0], "what an older definition computed is not stale by itself");
    assert_eq!(rolled(&lake).await, ["1|1", "2|3", "3|5", "4|14"]);
    let full = lake.refresh("full", day(9), vec![doubled.clone()], Some(Refresh::Full)).await;
    assert_eq!(full.failure, None);
    assert_eq!(refreshed(&full, "gold.rolling"), [1, 2, 3, 4], "the run's own interval has no input");
    assert_eq!(rolled(&lake).await, ["1|2", "2|6", "3|10", "4|14"]);
    let again = lake.refresh("full-again", day(9), vec![doubled], Some(Refresh::Full)).await;
    assert!(again.tables[0].already_committed, "nothing has changed since");
}

/// The newest day and the sum of all prices.
fn whole() -> GoldModel {
    serde_json::from_value(serde_json::json!({
        "name": "whole", "write": {"overwrite": {}}, "sql": "SELECT $start AS newest, sum(price) AS price FROM silver.prices"
    }))
    .unwrap()
}

/// What `whole` holds: `year|day: price`.
async fn held(lake: &Lake) -> Vec<String> {
    lake.rows("SELECT date_part('year', newest), date_part('day', newest), CAST(price AS bigint) FROM gold.whole").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_overwritten_is_refreshed_for_the_newest_interval_alone() {
    let lake = four_days().await;
    let full = lake.refresh("full", day(1), vec![whole()], Some(Refresh::Full)).await;
    assert_eq!(refreshed(&full, "gold.whole"), [4]);
    assert_eq!(held(&lake).await, ["2024|4|10"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_overwritten_is_that_of_its_newest_interval_in_whatever_order_they_run() {
    for format in [TableFormat::Iceberg, TableFormat::Delta, TableFormat::Parquet] {
        let models = || vec![in_format(whole(), format)];
        let lake = Lake::new();
        for (number, holds) in [(2, "2024|2|2"), (1, "2024|2|3"), (4, "2024|4|7"), (3, "2024|4|10")] {
            lake.prices(day(number), &[("a", i128::from(number) * ONE)]).await;
            let outcome = lake.run(&format!("r{number}"), day(number), models()).await;
            assert_eq!(outcome.failure, None);
            assert!(nothing_is_stale(&outcome), "{outcome:?}");
            assert_eq!(held(&lake).await, [holds], "{format:?}, day {number}");
        }
        let again = lake.run("again", day(1), models()).await;
        assert!(again.tables[0].already_committed, "{again:?}");
        assert_eq!(refreshed(&again, "gold.whole"), [4]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_runs_at_the_same_time_the_newest_interval_overwrites_and_is_told_as_stale_when_it_read_too_early() {
    for format in [TableFormat::Iceberg, TableFormat::Delta, TableFormat::Parquet] {
        let models = || vec![in_format(whole(), format)];
        let broken = || vec![in_format(GoldModel { sql: whole().sql.replace("sum(price)", "sum(prise)"), ..whole() }, format)];
        let lake = Lake::new();
        lake.prices(day(1), &[("a", ONE)]).await;
        // Pins what it reads, and fails.
        assert!(lake.run("r1", day(1), broken()).await.failure.is_some());
        lake.prices(day(2), &[("a", 2 * ONE)]).await;
        assert_eq!(lake.run("r2", day(2), models()).await.failure, None);
        let late = lake.run("r1", day(1), models()).await;
        assert_eq!((late.failure.as_ref(), held(&lake).await), (None, vec!["2024|2|3".to_owned()]), "{format:?}");
        assert!(nothing_is_stale(&late), "{late:?}");
        let report = &late.tables[0];
        assert_eq!((report.rows_read, report.rows_written, report.rows_deduplicated), (1, 0, 1), "its row is outdated");
        assert_eq!(report.files, 0);
        assert!(lake.run("r1", day(1), models()).await.tables[0].already_committed);

        // The newest pins, an earlier day comes, and the newest overwrites without it.
        assert!(lake.run("r4", day(4), broken()).await.failure.is_some());
        lake.prices(day(3), &[("a", 3 * ONE)]).await;
        assert_eq!(lake.run("r3", day(3), models()).await.failure, None);
        assert_eq!(held(&lake).await, ["2024|3|6"]);
        let late = lake.run("r4", day(4), models()).await;
        assert_eq!((late.failure.as_ref(), held(&lake).await), (None, vec!["2024|4|3".to_owned()]), "the pins hold");
        assert_eq!(stale(&late, "gold.whole"), [4]);
        let refresh = lake.refresh("refresh", day(1), models(), Some(Refresh::Stale)).await;
        assert!(nothing_is_stale(&refresh), "{refresh:?}");
        assert_eq!((refreshed(&refresh, "gold.whole"), held(&lake).await), (vec![4], vec!["2024|4|6".to_owned()]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_was_run_ahead_of_its_time_does_not_hold_a_table_that_is_overwritten() {
    let lake = Lake::new();
    let ahead = Interval::parse(IntervalGrain::Daily, "9000-01-09").unwrap();
    lake.prices(day(1), &[("a", ONE)]).await;
    assert_eq!(lake.run("ahead", ahead, vec![whole()]).await.failure, None);
    assert_eq!(held(&lake).await, ["9000|9|1"]);
    let outcome = lake.run("r1", day(1), vec![whole()]).await;
    assert!(nothing_is_stale(&outcome), "{outcome:?}");
    assert_eq!(held(&lake).await, ["2024|1|1"]);
}

/// The newest price of each coin, in cents.
fn latest(cents: u32) -> GoldModel {
    serde_json::from_value(serde_json::json!({
        "name": "latest", "write": {"merge": {"key": ["coin"], "sequenceBy": ["at"]}},
        "sql": format!("SELECT coin, at, CAST({cents} * price AS bigint) AS price FROM silver.prices WHERE at >= $start AND at < $end")
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merged_table_is_replaced_in_one_commit_and_loses_the_keys_that_no_day_gives_any_more() {
    let lake = Lake::new();
    for (number, coins) in [(1, vec![("a", ONE), ("gone", ONE)]), (2, vec![("b", 2 * ONE)]), (3, vec![("a", 3 * ONE)])] {
        lake.prices(day(number), &coins).await;
        assert_eq!(lake.run(&format!("r{number}"), day(number), vec![latest(1)]).await.failure, None);
    }
    let rows = "SELECT coin, price FROM gold.latest ORDER BY coin";
    lake.prices(day(1), &[("a", ONE)]).await;
    assert_eq!(lake.run("again", day(1), vec![latest(1)]).await.failure, None);
    assert_eq!(lake.rows(rows).await, ["a|3", "b|2", "gone|1"], "a merge adds and changes rows");
    let before = lake.snapshots("gold.latest").await;
    let full = lake.refresh("full", day(3), vec![latest(100)], Some(Refresh::Full)).await;
    assert_eq!(full.failure, None);
    assert_eq!(lake.rows(rows).await, ["a|300", "b|200"]);
    // The first new snapshot has all rows, and the merges after it change none.
    for snapshot in &lake.snapshots("gold.latest").await[before.len()..] {
        assert_eq!(lake.rows_at("gold.latest", snapshot).await, 2, "{snapshot}");
    }
    let again = lake.refresh("full-again", day(3), vec![latest(100)], Some(Refresh::Full)).await;
    assert!(again.tables[0].already_committed);
    assert_eq!(lake.snapshots("gold.latest").await.len(), before.len() + 1 + 3);
}
