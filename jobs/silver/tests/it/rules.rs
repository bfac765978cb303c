//! Expectations, inputs and definitions that are wrong: the message a user reads, and that nothing else happens.

use crate::common::{Lake, PIPELINE, columns, day, failure, succeeded, table, table_of};
use lakehouse_contract::{Decode, IntervalGrain, ResolvedSilver, RunId, SilverInput, Stage, keys};
use lakehouse_storage::Layer;
use serde_json::json;

const PRICES: &[u8] = b"{\"id\":1,\"price\":1}\n{\"id\":2,\"price\":-2}\n{\"id\":3}\n{\"id\":4,\"price\":4}";

fn with_rules(rules: serde_json::Value) -> ResolvedSilver {
    table(json!({"name": "events", "write": {"append": {}}, "columns": columns(), "expectations": rules}))
}

#[tokio::test(flavor = "multi_thread")]
async fn row_rules_warn_quarantine_and_drop_in_their_order() {
    let lake = Lake::new();
    let rules = json!([
        {"name": "known", "row": "price IS NOT NULL", "otherwise": "warn"},
        {"name": "positive", "row": "price > 0", "otherwise": "quarantine"},
        {"name": "small", "row": "id < 4 AND price > 0", "otherwise": "drop"},
        {"name": "some", "batch": "count(*) >= 1 AND max(price) < 2", "otherwise": "fail"},
        {"name": "many", "batch": "count(*) > 100", "otherwise": "warn"},
    ]);
    let outcome = lake.make("r", day(1), &[PRICES], vec![with_rules(rules)]).await;
    succeeded(&outcome);
    let report = &outcome.tables[0];
    assert_eq!((report.rows_read, report.rows_written, report.rows_quarantined, report.rows_dropped), (4, 1, 2, 1));
    let results: Vec<_> = report.expectations.iter().map(|r| format!("{} {} {}", r.name, r.passed, r.failed)).collect();
    assert_eq!(results, ["known false 1", "positive false 2", "small false 1", "some true 0", "many false 1"]);
    let aside = lake.query("quarantine", "events", "SELECT position, rule, reason, record FROM t ORDER BY position").await;
    assert_eq!(aside, ["1|positive|`price > 0` does not hold|{\"id\":2,\"price\":-2}", "2|positive|`price > 0` does not hold|{\"id\":3}"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_rule_that_says_fail_fails_and_commits_nothing() {
    let lake = Lake::new();
    let rules = json!([{"name": "positive", "row": "price > 0", "otherwise": "fail"}]);
    let outcome = lake.make("row", day(1), &[PRICES], vec![with_rules(rules)]).await;
    assert_eq!(
        failure(&outcome),
        "ExpectationFailed: silver.events expectation positive: `price > 0` does not hold for 2 rows; the first is \
         record 1 of object shop/events/dt=2024-01-01/run=row-1/part-00000.ndjson: {\"id\":2,\"price\":-2}"
    );
    assert!(outcome.tables.is_empty());
    let rules = json!([{"name": "enough", "batch": "count(*) >= 10", "otherwise": "fail"}]);
    let outcome = lake.make("batch", day(2), &[PRICES], vec![with_rules(rules)]).await;
    assert_eq!(
        failure(&outcome),
        "ExpectationFailed: silver.events expectation enough: `count(*) >= 10` does not hold over the 4 rows of this run: count(*) = 4"
    );
    assert_eq!(lake.query("silver", "events", "SELECT * FROM t").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_that_are_none_are_refused_before_anything_is_made() {
    let lake = Lake::new();
    let cases = [
        (
            "row",
            "prize > 0",
            "InvalidSql: silver.events expectation rule: column `prize` does not exist; columns: id, at, price, processed_at",
        ),
        (
            "batch",
            "max(prize) > 0",
            "InvalidSql: silver.events expectation rule: column `prize` does not exist; columns: id, at, price, processed_at",
        ),
        ("row", "price >", "InvalidSql: silver.events expectation rule: "),
        ("row", "price + 1", "InvalidSql: silver.events expectation rule: `price + 1` is of type Decimal128"),
        ("row", "id IN (SELECT 1)", "InvalidSql: silver.events expectation rule: "),
        ("batch", "(SELECT count(*) FROM batch) > 1", "InvalidSql: silver.events expectation rule: "),
        ("batch", "1) FROM batch; DROP TABLE batch; SELECT (1", "InvalidSql: silver.events expectation rule: "),
        ("row", "count(*) > 1", "InvalidSql: silver.events expectation rule: "),
    ];
    for (kind, sql, expected) in cases {
        let mut rule = json!({"name": "rule", "otherwise": "fail"});
        rule[kind] = sql.into();
        let outcome = lake.make("r", day(1), &[PRICES], vec![with_rules(json!([rule]))]).await;
        let message = failure(&outcome);
        assert!(message.starts_with(expected), "{kind} {sql}: {message}");
        assert!(!message.contains('\n'));
    }
    assert!(!lake.exists("silver", "events").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_do_not_fit_their_source_name_the_column() {
    let lake = Lake::new();
    let cases = [
        (
            "$document/x",
            Decode::Ndjson,
            "column a: `$document/x`: only a source of JSON documents or pages has a document around its records",
        ),
        ("/a/b", Decode::Csv, "column a: `/a/b`: the source has columns, not documents: write /NAME of one column"),
        ("/a~b", Decode::Ndjson, "column a: `/a~b` is not a JSON Pointer: `~` must be followed by 0 or 1"),
    ];
    for (from, decode, expected) in cases {
        let definition = json!({"name": "t", "write": {"append": {}}, "columns": [{"name": "a", "from": from, "type": "string"}]});
        let outcome = lake.make("r", day(1), &[b""], vec![table_of(definition, decode)]).await;
        assert_eq!(failure(&outcome), format!("InvalidDefinition: silver.t {expected}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_are_missing_or_altered_are_named() {
    let lake = Lake::new();
    let run = |name: &str| lake.spec(name, day(1), SilverInput::Run(RunId(name.to_owned())), vec![with_rules(json!([]))]);
    let outcome = lake.run(&run("none")).await;
    assert_eq!(
        failure(&outcome),
        "NoInput: interval 2024-01-01 of pipeline shop has no ingested data in bronze folder shop/_manifests/dt=2024-01-01: \
         shop/_manifests/dt=2024-01-01/run=none.json does not exist; run the ingest stage first"
    );
    lake.ingest("r", day(1), &[PRICES]).await;
    let bronze = lake.storage.layer(Layer::Bronze).unwrap();
    let key = "shop/events/dt=2024-01-01/run=r-1/part-00000.ndjson";
    let altered = String::from_utf8_lossy(PRICES).replace("-2", "+2");
    for (bytes, expected) in [(altered.clone(), "has SHA-256 "), (altered + "\n", "has 67 bytes, its manifest says 66")] {
        bronze.put(key, bytes.into_bytes()).await.unwrap();
        let message = failure(&lake.run(&run("r")).await);
        assert!(message.starts_with(&format!("InputCorrupt: bronze object {key} {expected}")), "{message}");
    }
    bronze.delete(key).await.unwrap();
    assert_eq!(failure(&lake.run(&run("r")).await), format!("InputCorrupt: bronze object {key} is missing"));
    assert_eq!(lake.query("silver", "events", "SELECT * FROM t").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_input_is_pinned_by_the_first_attempt() {
    let lake = Lake::new();
    let spec = lake.spec("later", day(1), SilverInput::Newest, vec![with_rules(json!([]))]);
    assert!(failure(&lake.run(&spec).await).contains("the folder has no manifest"));
    lake.ingest("old", day(1), &[b"{\"id\":1}"]).await;
    lake.ingest("new", day(1), &[b"{\"id\":2}"]).await;
    let outcome = lake.run(&spec).await;
    succeeded(&outcome);
    assert_eq!(outcome.inputs, [keys::bronze_manifest(PIPELINE, &day(1), IntervalGrain::Daily, &RunId("new".into()))]);
    lake.ingest("newest", day(1), &[b"{\"id\":3}"]).await;
    let again = lake.run(&spec.clone().with_attempt(2)).await;
    assert_eq!(again.inputs, outcome.inputs);
    assert!(again.tables[0].already_committed);
    let pins = keys::pins(PIPELINE, &RunId("later".into()), Stage::Silver);
    assert!(lake.storage.layer(Layer::Silver).unwrap().head(&pins).await.unwrap().is_some());
    let other = lake.spec("other", day(1), SilverInput::Newest, vec![with_rules(json!([]))]);
    succeeded(&lake.run(&other).await);
    assert_eq!(lake.query("silver", "events", "SELECT id FROM t").await, ["3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_another_pipeline_is_left_alone() {
    let lake = Lake::new();
    succeeded(&lake.make("mine", day(1), &[PRICES], vec![with_rules(json!([]))]).await);
    let mut spec = lake.spec("mine", day(1), SilverInput::Run(RunId("mine".into())), vec![with_rules(json!([]))]);
    spec.owner = "local/thief".to_owned();
    let message = failure(&lake.run(&spec).await);
    assert_eq!(message, "TableOwnedByOther: table silver.events belongs to pipeline local/shop, not to local/thief");
}
