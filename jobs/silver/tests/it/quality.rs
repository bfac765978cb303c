//! Rules about more than one row: over tables as they would be, between tables, over columns; and what is kept of their results.

use crate::common::*;
use lakehouse_contract::{ResolvedSilver, RunId, SilverInput};
use serde_json::{Value, json};

const FORMATS: [&str; 3] = ["iceberg", "delta", "parquet"];
const FIRST: &[u8] = b"{\"id\":1,\"at\":\"2024-01-01T10:00:00Z\",\"price\":1}\n{\"id\":2,\"at\":\"2024-01-01T20:00:00Z\",\"price\":2}";

fn with_rules(format: &str, rules: Value) -> ResolvedSilver {
    let write = json!({"replaceInterval": {"column": "at"}});
    table(json!({"name": "events", "table": {"format": format}, "write": write, "columns": columns(), "expectations": rules}))
}

async fn results(lake: &Lake) -> Vec<String> {
    let sql = "SELECT run, table_name, rule, kind, verdict, rows_checked, rows_failed, observed, bound, snapshot IS NOT NULL AS published \
               FROM t ORDER BY run, table_name, rule";
    lake.query("quality", "results", sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_rule_of_the_table_publishes_nothing() {
    for format in FORMATS {
        let lake = Lake::new();
        let rules = json!([
            {"name": "one_id", "unique": ["id"], "otherwise": "fail"},
            {"name": "not_too_many", "table": "count(*) < 4", "otherwise": "warn"},
        ]);
        let first = lake.make("first", day(1), &[FIRST], vec![with_rules(format, rules.clone())]).await;
        succeeded(&first);
        let observed: Vec<_> = first.tables[0].expectations.iter().map(|r| (r.name.as_str(), r.passed, r.observed.clone())).collect();
        let own = Some("2 rows, each with its own".to_owned());
        assert_eq!(observed, [("one_id", true, own), ("not_too_many", true, Some("count(*) = 2".to_owned()))], "{format}");
        // The rows of the second day are in order by themselves; with those of the first they are not.
        let second: &[u8] = b"{\"id\":2,\"at\":\"2024-01-02T01:00:00Z\",\"price\":3}\n{\"id\":3,\"at\":\"2024-01-02T02:00:00Z\",\"price\":3}\n{\"id\":\"x\"}";
        let outcome = lake.make("second", day(2), &[second], vec![with_rules(format, rules.clone())]).await;
        let mut expected =
            "ExpectationFailed: silver.events expectation one_id: id would not be unique: 1 stand in 2 rows, such as id=2".to_owned();
        if format == "iceberg" {
            expected += " (kept to be looked at: silver.events at branch audit-2024-01-02T00:00:00Z)";
        }
        assert_eq!(failure(&outcome), expected);
        assert!(outcome.tables.is_empty());
        assert_eq!(lake.query("silver", "events", "SELECT id FROM t ORDER BY id").await, ["1", "2"], "{format}");
        // It was made to put files there; nothing was published.
        assert_eq!(lake.query("quarantine", "events", "SELECT * FROM t").await.len(), 0, "{format}");
        // The same input is refused again, and a mended one is published.
        let again = lake.spec("again", day(2), SilverInput::Run(RunId("second".into())), vec![with_rules(format, rules.clone())]);
        assert_eq!(failure(&lake.run(&again).await), expected);
        let mended: &[u8] =
            b"{\"id\":3,\"at\":\"2024-01-02T01:00:00Z\",\"price\":3}\n{\"id\":4,\"at\":\"2024-01-02T02:00:00Z\",\"price\":3}";
        let third = lake.make("third", day(2), &[mended], vec![with_rules(format, rules.clone())]).await;
        succeeded(&third);
        assert_eq!(lake.query("silver", "events", "SELECT id FROM t ORDER BY id").await, ["1", "2", "3", "4"], "{format}");
        let warned = &third.tables[0].expectations[1];
        assert_eq!((warned.passed, warned.observed.as_deref()), (false, Some("count(*) = 4")), "{format}");
        // An attempt that finds its work done tells the same.
        let spec = lake.spec("third", day(2), SilverInput::Run(RunId("third".into())), vec![with_rules(format, rules)]);
        let found = lake.run(&spec.with_attempt(2)).await;
        assert!(found.tables[0].already_committed, "{format}");
        assert_eq!(found.tables[0].expectations, third.tables[0].expectations, "{format}");
        let kept = results(&lake).await;
        let kept: Vec<&str> = kept.iter().map(String::as_str).filter(|row| !row.starts_with("again")).collect();
        assert_eq!(
            kept,
            [
                "first|silver.events|not_too_many|table|passed|2|0|count(*) = 2|count(*) < 4|true",
                "first|silver.events|one_id|unique|passed|2|0|2 rows, each with its own|id|true",
                "second|silver.events|cast:id|schema|quarantined|3|1|||false",
                "second|silver.events|not_too_many|table|warned|4|1|count(*) = 4|count(*) < 4|false",
                "second|silver.events|one_id|unique|failed|4|2|1 stand in 2 rows, such as id=2|id|false",
                "third|silver.events|not_too_many|table|warned|4|1|count(*) = 4|count(*) < 4|true",
                "third|silver.events|one_id|unique|passed|4|0|4 rows, each with its own|id|true",
            ],
            "{format}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn freshness_counts_from_the_end_of_the_interval() {
    let lake = Lake::new();
    let rules = |age: &str| json!([{"name": "fresh", "freshness": {"column": "at", "maxAge": age}, "otherwise": "fail"}]);
    let late: &[u8] = b"{\"id\":9,\"at\":\"2024-01-09T23:00:00Z\"}";
    succeeded(&lake.make("late", day(9), &[late], vec![with_rules("iceberg", rules("1h"))]).await);
    // Rows of later intervals do not make an older one look fresh: the order of runs does not matter.
    let outcome = lake.make("first", day(1), &[FIRST], vec![with_rules("iceberg", rules("3h"))]).await;
    assert_eq!(
        failure(&outcome),
        "ExpectationFailed: silver.events expectation fresh: the newest at must be at most 3h older than the end of the interval, but it \
         would be 2024-01-01T20:00:00Z (kept to be looked at: silver.events at branch audit-2024-01-01T00:00:00Z)"
    );
    succeeded(&lake.make("first", day(1), &[FIRST], vec![with_rules("iceberg", rules("4h"))]).await);
}

const MIXED: &[u8] = b"{\"kind\":\"c\",\"id\":1}\n{\"kind\":\"c\",\"id\":2}\n{\"kind\":\"o\",\"id\":10,\"customer\":1}\n{\"kind\":\"o\",\"id\":11,\"customer\":7}\n\
    {\"kind\":\"o\",\"id\":12,\"customer\":2}\n{\"kind\":\"o\",\"id\":13}\n{\"kind\":\"l\",\"id\":100,\"order\":10}\n{\"kind\":\"l\",\"id\":101,\"order\":11}";

/// Customers, orders that name them, and lines that name orders; those that name others stand first.
fn shop(format: &str, otherwise: &str) -> Vec<ResolvedSilver> {
    let one = |name: &str, kind: &str, reference: Option<(&str, &str)>| {
        let mut columns = vec![
            json!({"name": "kind", "from": "/kind", "type": "string"}),
            json!({"name": "id", "from": "/id", "type": "long", "required": true}),
            json!({"name": "at", "from": "$intervalStart", "type": "timestamptz"}),
        ];
        let mut rules = vec![json!({"name": "kind", "row": format!("kind = '{kind}'"), "otherwise": "drop"})];
        if let Some((column, other)) = reference {
            columns.push(json!({"name": column, "from": format!("/{column}"), "type": "long"}));
            rules.push(json!({"name": "known", "references": {"table": other, "columns": {column: "id"}}, "otherwise": otherwise}));
        }
        table(json!({"name": name, "table": {"format": format}, "write": {"replaceInterval": {"column": "at"}},
            "columns": columns, "expectations": rules}))
    };
    vec![one("lines", "l", Some(("order", "orders"))), one("orders", "o", Some(("customer", "customers"))), one("customers", "c", None)]
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_a_partner_go_to_quarantine() {
    for format in FORMATS {
        let lake = Lake::new();
        let outcome = lake.make("r", day(1), &[MIXED], shop(format, "quarantine")).await;
        succeeded(&outcome);
        // An order without a customer is not looked at; the line of an order that went to quarantine has no partner.
        assert_eq!(lake.query("silver", "orders", "SELECT id FROM t ORDER BY id").await, ["10", "12", "13"], "{format}");
        assert_eq!(lake.query("silver", "lines", "SELECT id FROM t").await, ["100"], "{format}");
        let aside = lake.query("quarantine", "orders", "SELECT position, rule, reason, record FROM t").await;
        assert_eq!(aside, ["3|known|silver.customers has no row with id=7|{\"kind\":\"o\",\"id\":11,\"customer\":7}"], "{format}");
        // Partners of earlier intervals count.
        let second: &[u8] =
            b"{\"kind\":\"c\",\"id\":7}\n{\"kind\":\"o\",\"id\":20,\"customer\":1}\n{\"kind\":\"o\",\"id\":21,\"customer\":7}";
        succeeded(&lake.make("s", day(2), &[second], shop(format, "quarantine")).await);
        assert_eq!(lake.query("silver", "orders", "SELECT id FROM t ORDER BY id").await, ["10", "12", "13", "20", "21"], "{format}");
        let kept = results(&lake).await;
        assert!(
            kept.contains(&"r|silver.orders|known|references|quarantined|4|1||silver.customers (customer → id)|true".to_owned()),
            "{kept:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_a_partner_can_fail_all_tables_of_the_stage() {
    let lake = Lake::new();
    let outcome = lake.make("r", day(1), &[MIXED], shop("iceberg", "fail")).await;
    let message = failure(&outcome);
    assert!(
        message.starts_with(
            "ExpectationFailed: silver.orders expectation known: 1 rows have no partner in silver.customers (customer → id); the first \
             is record 3 of object shop/events/dt=2024-01-01/run=r-1/part-00000.ndjson: {\"kind\":\"o\",\"id\":11,\"customer\":7}"
        ),
        "{message}"
    );
    for table in ["customers", "orders", "lines"] {
        assert_eq!(lake.query("silver", table, "SELECT id FROM t").await.len(), 0, "{table}");
    }
    // Nobody waits for the lease of what was rejected.
    succeeded(&lake.make("s", day(1), &[MIXED], shop("iceberg", "warn")).await);
    assert_eq!(lake.query("silver", "orders", "SELECT id FROM t ORDER BY id").await, ["10", "11", "12", "13"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_of_a_column_lie_within_bounds() {
    let lake = Lake::new();
    let rows: String = (1..=10).map(|n| format!("{{\"id\":{n},\"at\":\"2024-01-01T10:00:00Z\",\"price\":{}}}\n", (n % 5) + 1)).collect();
    let rows = rows + "{\"id\":11,\"at\":\"2024-01-01T10:00:00Z\"}\n";
    let rule = |name: &str, of: Value| json!({"name": name, "distribution": of, "otherwise": "warn"});
    let rules = json!([
        rule(
            "good",
            json!({"column": "price", "mean": {"min": 3, "max": 3}, "standardDeviation": {"min": 1.49, "max": 1.5},
            "nullRatio": {"max": 0.1}, "distinctRatio": {"min": 0.5}, "quantiles": [{"at": 0.5, "min": 3, "max": 3}, {"at": 0.25, "max": 2}]})
        ),
        rule("nulls", json!({"column": "price", "nullRatio": {"max": 0.09}})),
        rule("high", json!({"column": "price", "quantiles": [{"at": 0.9, "max": 4.9}]})),
        rule("text", json!({"column": "at", "distinctRatio": {"max": 0.1}})),
    ]);
    let outcome = lake.make("r", day(1), &[rows.as_bytes()], vec![with_rules("iceberg", rules.clone())]).await;
    succeeded(&outcome);
    let found: Vec<_> = outcome.tables[0].expectations.iter().map(|r| format!("{} {}", r.name, r.passed)).collect();
    assert_eq!(found, ["good true", "nulls false", "high false", "text true"]);
    let good = &outcome.tables[0].expectations[0];
    assert_eq!(
        good.bound,
        "price: 3 <= mean <= 3, 1.49 <= standardDeviation <= 1.5, nullRatio <= 0.1, distinctRatio >= 0.5, \
                            3 <= quantile(0.5) <= 3, quantile(0.25) <= 2"
    );
    let observed = good.observed.clone().unwrap();
    assert!(observed.starts_with("mean = 3, standardDeviation = 1.490"), "{observed}");
    assert!(
        observed.ends_with("nullRatio = 0.09090909090909091, distinctRatio = 0.5, quantile(0.5) = 3, quantile(0.25) = 2"),
        "{observed}"
    );
    // No value has no mean: that is not in order.
    let empty = lake.make("e", day(2), &[b""], vec![with_rules("iceberg", rules)]).await;
    succeeded(&empty);
    assert!(empty.tables[0].expectations.iter().all(|result| !result.passed));
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_kept_once_for_a_run_and_beside_those_of_others() {
    let lake = Lake::new();
    let rules = json!([{"name": "positive", "row": "price > 1", "otherwise": "quarantine"}]);
    let tables = || vec![with_rules("iceberg", rules.clone())];
    succeeded(&lake.make("a", day(1), &[FIRST], tables()).await);
    let again = lake.spec("a", day(1), SilverInput::Run(RunId("a".into())), tables()).with_attempt(2);
    succeeded(&lake.run(&again).await);
    // Another run that finds the same commit is a run of its own.
    let other = lake.spec("b", day(1), SilverInput::Run(RunId("a".into())), tables());
    succeeded(&lake.run(&other).await);
    let row = |run: &str| format!("{run}|silver.events|positive|row|quarantined|2|1||price > 1|true");
    assert_eq!(results(&lake).await, [row("a"), row("b")]);
    let facts = lake.query("quality", "results", "SELECT pipeline, stage, otherwise, interval_start, interval_end FROM t LIMIT 1").await;
    assert_eq!(facts, ["local/shop|silver|quarantine|2024-01-01T00:00:00Z|2024-01-02T00:00:00Z"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rules_and_faults_there_are_no_results() {
    let lake = Lake::new();
    succeeded(&lake.make("a", day(1), &[FIRST], vec![with_rules("iceberg", json!([]))]).await);
    assert!(!lake.exists("quality", "results").await);
}
