//! The gold stage on a real store and catalog: order, parameters, pins, commits found again, and what a person reads when it fails.

use crate::support::{Lake, day, model};
use lakehouse_contract::Reason;

const DAILY: &str =
    "SELECT date_trunc('day', at) AS day, coin, avg(price) AS price FROM silver.prices WHERE at >= $start AND at < $end GROUP BY 1, 2";
const ONE: i128 = 10_000_000_000_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn models_run_behind_those_they_read_and_see_their_new_rows() {
    let lake = Lake::new();
    lake.prices(day(1), &[("a", ONE), ("b", 3 * ONE)]).await;
    let total = model(
        "total",
        "SELECT day, sum(price) AS price, count(*) AS coins FROM gold.daily WHERE day >= $start AND day < $end GROUP BY day",
    );
    let outcome = lake.run("r", day(1), vec![total, model("daily", DAILY)]).await;
    assert_eq!(outcome.failure, None);
    let names: Vec<&str> = outcome.tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["gold.daily", "gold.total"]);
    assert_eq!(lake.rows("SELECT price, coins FROM gold.total").await, ["4.00000000000000000000|2"]);
    assert_eq!((outcome.tables[0].rows_read, outcome.tables[0].rows_written), (2, 2));
    assert_eq!(outcome.inputs.len(), 1);
    assert!(outcome.inputs[0].starts_with("silver.prices@"), "{:?}", outcome.inputs);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_the_bounds_of_the_interval_and_of_the_lookback() {
    let lake = Lake::new();
    for number in 1..=4 {
        lake.prices(day(number), &[("a", i128::from(number) * ONE)]).await;
    }
    let mut rolling = model(
        "rolling",
        "SELECT $start AS day, coin, avg(price) AS price, count(*) AS days FROM silver.prices WHERE at >= $readStart AND at < $end GROUP BY coin",
    );
    rolling.lookback = 1;
    let outcome = lake.run("r", day(3), vec![rolling]).await;
    assert_eq!(outcome.failure, None);
    assert_eq!(lake.rows("SELECT day, price, days FROM gold.rolling").await, ["2024-01-03T00:00:00Z|2.50000000000000000000|2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_attempt_reads_the_pinned_snapshots_and_finds_its_commits() {
    let lake = Lake::new();
    lake.prices(day(1), &[("a", ONE)]).await;
    let first = lake.run("r", day(1), vec![model("daily", DAILY)]).await;
    lake.prices(day(1), &[("a", 2 * ONE)]).await;
    let again = lake.run("r", day(1), vec![model("daily", DAILY)]).await;
    assert_eq!(again.inputs, first.inputs);
    assert!(again.tables[0].already_committed);
    assert_eq!(again.tables[0].snapshot, first.tables[0].snapshot);
    assert_eq!((again.tables[0].rows_read, again.tables[0].rows_written), (1, 1));
    let newer = lake.run("s", day(1), vec![model("daily", DAILY)]).await;
    assert!(!newer.tables[0].already_committed);
    assert_eq!(lake.rows("SELECT price FROM gold.daily").await, ["2.00000000000000000000"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_outside_of_the_interval_fails_with_model_column_and_value() {
    let lake = Lake::new();
    lake.prices(day(1), &[("a", ONE)]).await;
    lake.prices(day(2), &[("a", ONE)]).await;
    let all = model("everything", "SELECT at AS day, coin FROM silver.prices");
    let failure = lake.run("r", day(2), vec![all]).await.failure.unwrap();
    assert_eq!(failure.reason, Reason::ExpectationFailed);
    for part in ["gold.everything", "column day", "2024-01-01", "filter by $start and $end"] {
        assert!(failure.message.contains(part), "{}", failure.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_committed_when_one_model_cannot_be_planned() {
    let lake = Lake::new();
    lake.prices(day(1), &[("a", ONE)]).await;
    let wrong = model("wrong", "SELECT at AS day, prise FROM silver.prices");
    let outcome = lake.run("r", day(1), vec![model("daily", DAILY), wrong]).await;
    let failure = outcome.failure.unwrap();
    assert_eq!(
        failure.to_string(),
        "InvalidSql: gold.wrong: column `prise` does not exist; did you mean `price`?; columns: coin, at, price"
    );
    assert!(outcome.tables.is_empty());
    assert!(lake.tables().await.list("gold").await.unwrap().is_empty());
    let missing = lake.run("s", day(1), vec![model("wrong", "SELECT at AS day FROM silver.price")]).await.failure.unwrap();
    assert_eq!(missing.to_string(), "InvalidSql: gold.wrong: table silver.price does not exist; there are: silver.prices");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_that_does_not_fit_is_an_error() {
    let lake = Lake::new();
    let huge = 99_999_999_999_999_999_999_999_999_999_999_999_999_i128;
    lake.prices(day(1), &[("a", huge), ("b", huge)]).await;
    let sum = model("sums", "SELECT $start AS day, sum(price) AS price FROM silver.prices");
    let failure = lake.run("r", day(1), vec![sum]).await.failure.unwrap();
    assert_eq!(failure.reason, Reason::SqlFailed);
    assert!(
        failure.message.contains("gold.sums") && failure.message.contains("does not fit decimal(38,16): overflow"),
        "{}",
        failure.message
    );
    assert!(lake.rows("SELECT price FROM gold.sums").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_mode_takes_rows() {
    let lake = Lake::new();
    lake.prices(day(1), &[("a", ONE)]).await;
    let with = |name: &str, write: serde_json::Value| {
        serde_json::from_value(serde_json::json!({"name": name, "write": write, "sql": "SELECT coin, price, at FROM silver.prices"}))
            .unwrap()
    };
    let models = vec![
        with("appended", serde_json::json!({"append": {}})),
        with("whole", serde_json::json!({"overwrite": {}})),
        with("merged", serde_json::json!({"merge": {"key": ["coin"], "sequenceBy": ["at"]}})),
    ];
    let outcome = lake.run("r", day(1), models.clone()).await;
    assert_eq!(outcome.failure, None);
    lake.prices(day(1), &[("a", 2 * ONE)]).await;
    assert_eq!(lake.run("s", day(1), models[..2].to_vec()).await.failure, None);
    for table in ["appended", "whole"] {
        assert_eq!(lake.rows(&format!("SELECT price FROM gold.{table}")).await, ["2.0000000000000000"], "{table}");
    }
    assert_eq!(lake.rows("SELECT price FROM gold.merged").await, ["1.0000000000000000"]);
}
