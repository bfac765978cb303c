//! Rules of models: what is refused, what is published, and what is kept of it.

use crate::support::{Lake, day, model};
use lakehouse_api::pipeline::GoldModel;
use lakehouse_contract::{Reason, Refresh, StageOutcome};
use serde_json::{Value, json};

const DAILY: &str =
    "SELECT date_trunc('day', at) AS day, coin, avg(price) AS price FROM silver.prices WHERE at >= $start AND at < $end GROUP BY 1, 2";
const ONE: i128 = 10_000_000_000_000_000;

fn with_rules(name: &str, sql: &str, rules: Value) -> GoldModel {
    GoldModel { expectations: serde_json::from_value(rules).unwrap(), ..model(name, sql) }
}

fn daily(rules: Value) -> GoldModel {
    with_rules("daily", DAILY, rules)
}

fn failure(outcome: &StageOutcome) -> (Reason, &str) {
    let failure = outcome.failure.as_ref().expect("the stage must fail");
    (failure.reason, &failure.message)
}

async fn results(lake: &Lake) -> Vec<String> {
    lake.rows(
        "SELECT table_name, rule, kind, verdict, rows_failed, observed FROM quality.results ORDER BY interval_start, checked_at, rule",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_rule_holds_and_its_result_is_kept_once() {
    let lake = Lake::new();
    lake.prices(day(1), &[("a", ONE), ("b", 3 * ONE)]).await;
    let rules = json!([
        {"name": "alone", "unique": ["day", "coin"], "otherwise": "fail"},
        {"name": "enough", "batch": "count(*) >= 2", "otherwise": "fail"},
        {"name": "fresh", "freshness": {"column": "day", "maxAge": "24h"}, "otherwise": "fail"},
        {"name": "known", "references": {"table": "silver.prices", "columns": {"coin": "coin"}}, "otherwise": "fail"},
        {"name": "paid", "row": "price > 1", "otherwise": "warn"},
        {"name": "spread", "distribution": {"column": "price", "mean": {"min": 1, "max": 2}}, "otherwise": "fail"},
        {"name": "whole", "table": "count(*) = 2", "otherwise": "fail"},
    ]);
    let outcome = lake.run("r", day(1), vec![daily(rules.clone())]).await;
    assert_eq!(outcome.failure, None);
    let expected = [
        "gold.daily|alone|unique|passed|0|2 rows, each with its own",
        "gold.daily|enough|batch|passed|0|count(*) = 2",
        "gold.daily|fresh|freshness|passed|0|2024-01-01T00:00:00Z",
        "gold.daily|known|references|passed|0|",
        "gold.daily|paid|row|warned|1|day=2024-01-01T00:00:00Z, coin=a, price=1.00000000000000000000",
        "gold.daily|spread|distribution|passed|0|mean = 2",
        "gold.daily|whole|table|passed|0|count(*) = 2",
    ];
    assert_eq!(results(&lake).await, expected);
    let told: Vec<(&str, bool)> = outcome.tables[0].expectations.iter().map(|result| (result.name.as_str(), result.passed)).collect();
    assert_eq!(told.len(), 7);
    assert_eq!(told[4], ("paid", false));
    let again = lake.run("r", day(1), vec![daily(rules)]).await;
    assert!(again.tables[0].already_committed);
    assert_eq!(again.tables[0].expectations, outcome.tables[0].expectations, "an attempt that finds the commit knows what was found");
    assert_eq!(results(&lake).await.len(), expected.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_rule_publishes_nothing_of_its_model_nor_of_those_behind_it() {
    let lake = Lake::new();
    lake.prices(day(1), &[("a", ONE), ("b", 3 * ONE)]).await;
    let cases = [
        (json!({"row": "price > 1"}), "`price > 1` does not hold for 1 rows; the first is day=2024-01-01T00:00:00Z, coin=a, price=1.0"),
        (json!({"batch": "count(*) >= 3"}), "`count(*) >= 3` does not hold over the 2 rows of this run: count(*) = 2"),
        (json!({"unique": ["day"]}), "day would not be unique: 1 stand in 2 rows, such as day=2024-01-01T00:00:00Z"),
        (json!({"table": "max(price) < 3"}), "`max(price) < 3` does not hold over the table as it would be: max(price) = 3.0"),
    ];
    for (index, (mut rule, expected)) in cases.into_iter().enumerate() {
        rule["name"] = "rule".into();
        rule["otherwise"] = "fail".into();
        let behind = model("behind", "SELECT day, coin FROM gold.daily WHERE day >= $start AND day < $end");
        let outcome = lake.run(&format!("r{index}"), day(1), vec![daily(json!([rule])), behind]).await;
        let (reason, message) = failure(&outcome);
        assert_eq!(reason, Reason::ExpectationFailed);
        assert!(message.starts_with(&format!("gold.daily expectation rule: {expected}")), "{message}");
        assert!(outcome.tables.is_empty(), "{:?}", outcome.tables);
        assert!(lake.rows("SELECT * FROM gold.daily").await.is_empty());
        assert_eq!(results(&lake).await.len(), index + 1, "the result is kept all the same");
    }
    assert_eq!(lake.rows("SELECT DISTINCT verdict, snapshot FROM quality.results").await, ["failed|"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_made_behind_those_that_their_rows_refer_to() {
    let lake = Lake::new();
    lake.prices(day(1), &[("a", ONE), ("b", 3 * ONE)]).await;
    let refers = json!([{"name": "known", "references": {"table": "gold.cheap", "columns": {"coin": "coin"}}, "otherwise": "fail"}]);
    let cheap = |most: u32| model("cheap", &format!("{DAILY} HAVING avg(price) < {most}"));
    let outcome = lake.run("r", day(1), vec![daily(refers.clone()), cheap(2)]).await;
    let expected = "gold.daily expectation known: 1 rows have no partner in gold.cheap (coin → coin); the first is coin=b";
    assert_eq!(failure(&outcome), (Reason::ExpectationFailed, expected));
    let outcome = lake.run("s", day(1), vec![daily(refers), cheap(4)]).await;
    assert_eq!(outcome.failure, None);
    let names: Vec<&str> = outcome.tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["gold.cheap", "gold.daily"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_names_is_checked_before_anything_is_computed() {
    let lake = Lake::new();
    lake.prices(day(1), &[("a", ONE)]).await;
    let cases = [
        (json!({"row": "prise > 1"}), "column `prise` does not exist; columns: day, coin, price"),
        (json!({"row": "count(*) > 1"}), "`count(*) > 1` has an aggregate, which one row does not have: write batch or table"),
        (json!({"unique": ["dai"]}), "unique: column `dai` does not exist; columns: day, coin, price"),
        (json!({"freshness": {"column": "coin", "maxAge": "1h"}}), "freshness.column: column coin is of type Utf8, it must be date"),
        (json!({"distribution": {"column": "coin", "mean": {"min": 1}}}), "distribution: column coin is of type Utf8: mean"),
        (
            json!({"references": {"table": "silver.prices", "columns": {"coin": "price"}}}),
            "references.columns.coin: column coin is of type Utf8, silver.prices.price of type Decimal128(38, 16): they must be of one type",
        ),
    ];
    for (mut rule, expected) in cases {
        rule["name"] = "rule".into();
        rule["otherwise"] = "fail".into();
        let outcome = lake.run("r", day(1), vec![daily(json!([rule]))]).await;
        let (reason, message) = failure(&outcome);
        assert_eq!(reason, Reason::InvalidSql);
        assert!(message.starts_with(&format!("gold.daily expectation rule: {expected}")), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_measured_against_the_intervals_before_whatever_ran_since() {
    let lake = Lake::new();
    let rule =
        json!([{"name": "steady", "distribution": {"column": "price", "mean": {"changeAtMost": 0.5}, "against": 2}, "otherwise": "fail"}]);
    let run = async |run: &str, number: u32, price: i128| {
        lake.prices(day(number), &[("a", price * ONE / 10)]).await;
        lake.run(run, day(number), vec![daily(rule.clone())]).await
    };
    for (number, price) in [(1, 10), (2, 100)] {
        assert_eq!(run(&format!("r{number}"), number, price).await.failure, None, "there is too little to compare with");
    }
    // The mean over both is 5.5.
    let outcome = run("r3", 3, 84).await;
    let expected = "gold.daily expectation steady: price: mean changes by at most 0.5 of its mean over 2 earlier intervals does not hold over the rows of this run: \
                    mean = 8.4; before: mean = 5.5 over 2 intervals";
    assert_eq!(failure(&outcome), (Reason::ExpectationFailed, expected));
    assert_eq!(run("s3", 3, 82).await.failure, None);
    assert_eq!(run("r4", 4, 90).await.failure, None, "what was not published is not compared with: 9 against 10 and 8.2");
    // Day 3 again, later than day 4: it is compared with days 1 and 2 as before.
    assert!(run("t3", 3, 84).await.failure.is_some());
    assert_eq!(run("t2", 2, 10_000).await.failure, None, "of day 2 there is one earlier interval");
    let shown = lake.rows("SELECT split_part(observed, '; ', 2) FROM quality.results WHERE run = 't2-00000000'").await;
    assert_eq!(shown, ["before: mean of 1 of 2 intervals, not compared"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn intervals_that_are_computed_again_have_results_of_their_own() {
    let lake = Lake::new();
    let rule = |most: u32| json!([{"name": "few", "row": format!("price < {most}"), "otherwise": "warn"}]);
    for number in 1..=2 {
        lake.prices(day(number), &[("a", i128::from(number) * ONE)]).await;
        assert_eq!(lake.run(&format!("r{number}"), day(number), vec![daily(rule(9))]).await.failure, None);
    }
    let outcome = lake.refresh("f", day(2), vec![daily(rule(2))], Some(Refresh::Full)).await;
    assert_eq!(outcome.failure, None);
    assert!(!outcome.tables[0].expectations[0].passed, "the interval that breaks it is the one that is told");
    let shown = lake.rows("SELECT interval_start, verdict FROM quality.results WHERE run = 'f-00000000' ORDER BY 1").await;
    assert_eq!(shown, ["2024-01-01T00:00:00Z|passed", "2024-01-02T00:00:00Z|warned"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merged_table_is_checked_before_it_is_replaced_as_a_whole() {
    let lake = Lake::new();
    let merged = |rules: Value| {
        let write = json!({"merge": {"key": ["coin"], "sequenceBy": ["day"]}});
        GoldModel { write: serde_json::from_value(write).unwrap(), ..with_rules("latest", DAILY, rules) }
    };
    for number in 1..=2 {
        lake.prices(day(number), &[("a", i128::from(number) * ONE)]).await;
        assert_eq!(lake.run(&format!("r{number}"), day(number), vec![merged(json!([]))]).await.failure, None);
    }
    let before = lake.snapshots("gold.latest").await;
    for (run, rule) in [("f", json!({"table": "max(price) < 2"})), ("g", json!({"row": "price > 1"}))] {
        let mut rule = rule;
        rule["name"] = "rule".into();
        rule["otherwise"] = "fail".into();
        let outcome = lake.refresh(run, day(2), vec![merged(json!([rule]))], Some(Refresh::Full)).await;
        assert_eq!(failure(&outcome).0, Reason::ExpectationFailed);
        assert_eq!(lake.rows("SELECT coin, price FROM gold.latest").await, ["a|2.00000000000000000000"]);
    }
    assert!(lake.snapshots("gold.latest").await.len() <= before.len() + 1, "at most the candidate on its branch");
}
