//! The stage as a whole: what is written, quarantined, counted, found again.

use crate::common::{Lake, columns, day, failure, succeeded, table, table_of};
use lakehouse_contract::{Decode, RunId, SilverInput};
use serde_json::json;

const QUARANTINE: &str = "SELECT position, rule, record FROM t ORDER BY position";

fn events(write: serde_json::Value) -> serde_json::Value {
    json!({"name": "events", "write": write, "columns": columns()})
}

#[tokio::test(flavor = "multi_thread")]
async fn records_become_rows_or_quarantine_and_a_repetition_finds_the_commit() {
    let lake = Lake::new();
    let objects: [&[u8]; 2] = [
        b"{\"id\":1,\"at\":\"2024-01-01T05:00:00Z\",\"price\":1.50}\nbroken\n{\"id\":2,\"price\":1.005}\n",
        b"{\"price\":3}\n{\"id\":3,\"at\":null,\"price\":\"-3\"}",
    ];
    let definition = table(events(json!({"append": {}})));
    let outcome = lake.make("r1", day(1), &objects, vec![definition.clone()]).await;
    succeeded(&outcome);
    let report = &outcome.tables[0];
    assert_eq!((report.rows_read, report.rows_written, report.rows_quarantined), (5, 2, 3));
    let reasons: Vec<_> = report.quarantine_reasons.iter().map(|(rule, count)| format!("{rule}={count}")).collect();
    assert_eq!(reasons, ["cast:price=1", "malformed=1", "required:id=1"]);
    assert_eq!(outcome.inputs, ["shop/_manifests/dt=2024-01-01/run=r1.json"]);
    let rows = lake.query("silver", "events", "SELECT id, at, price, processed_at FROM t ORDER BY id").await;
    let at = "2024-03-01T00:00:00.123456Z";
    assert_eq!(rows, [format!("1|2024-01-01T05:00:00Z|1.50|{at}"), format!("3||-3.00|{at}")]);
    let aside = lake
        .query("quarantine", "events", "SELECT object, position, rule, reason, record, interval_start FROM t ORDER BY object, position")
        .await;
    assert_eq!(aside.len(), 3);
    assert_eq!(
        aside[0],
        "shop/events/dt=2024-01-01/run=r1-1/part-00000.ndjson|1|malformed|not valid JSON at byte 0: expected a JSON value|broken|2024-01-01T00:00:00Z"
    );
    assert!(
        aside[1].contains("|2|cast:price|column price: 1.005 has more digits than the column can hold; its type is decimal(10,2)|"),
        "{}",
        aside[1]
    );
    assert!(aside[2].contains("|0|required:id|column id is required and the record has nothing there|{\"price\":3}|"), "{}", aside[2]);

    let again = lake.run(&lake.spec("r1", day(1), SilverInput::Run(RunId("r1".into())), vec![definition])).await;
    succeeded(&again);
    assert!(again.tables[0].already_committed && !report.already_committed);
    let mut expected = report.clone();
    expected.already_committed = true;
    assert_eq!(again.tables[0], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_rerun_clears_the_quarantine() {
    let lake = Lake::new();
    for format in ["iceberg", "parquet"] {
        let definition = || {
            let mut definition = events(json!({"append": {}}));
            definition["name"] = format.into();
            definition["table"] = json!({"format": format});
            table(definition)
        };
        let run = |name: &str| format!("{format}-{name}");
        succeeded(&lake.make(&run("bad"), day(1), &[b"{\"id\":1}\n{\"id\":\"x\"}"], vec![definition()]).await);
        succeeded(&lake.make(&run("other"), day(2), &[b"[]"], vec![definition()]).await);
        assert_eq!(lake.query("quarantine", format, QUARANTINE).await.len(), 2);
        let outcome = lake.make(&run("good"), day(1), &[b"{\"id\":1}\n{\"id\":2}"], vec![definition()]).await;
        succeeded(&outcome);
        assert_eq!(lake.query("quarantine", format, QUARANTINE).await, ["0|not_an_object|[]"]);
        assert_eq!(lake.query("silver", format, "SELECT id FROM t ORDER BY id").await, ["1", "2"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fault_there_is_no_quarantine_table() {
    let lake = Lake::new();
    succeeded(&lake.make("r", day(1), &[b"{\"id\":1}"], vec![table(events(json!({"append": {}})))]).await);
    assert!(!lake.exists("quarantine", "events").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_tables_come_from_one_source() {
    let lake = Lake::new();
    let mut one = events(json!({"append": {}}));
    one["name"] = "one".into();
    let mut two = one.clone();
    two["name"] = "two".into();
    two["columns"] = json!([{"name": "object", "from": "$object", "type": "string"}, {"name": "n", "from": "$position", "type": "long"}]);
    let outcome = lake.make("r", day(1), &[b"{\"id\":1}\n{\"id\":\"x\"}"], vec![table(one), table(two)]).await;
    succeeded(&outcome);
    assert_eq!(
        outcome.tables.iter().map(|t| (t.name.as_str(), t.rows_written)).collect::<Vec<_>>(),
        [("silver.one", 1), ("silver.two", 2)]
    );
    let rows = lake.query("silver", "two", "SELECT n, object FROM t ORDER BY n").await;
    assert_eq!(rows, ["0", "1"].map(|n| format!("{n}|shop/events/dt=2024-01-01/run=r-1/part-00000.ndjson")));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_outside_of_the_interval_are_treated_as_the_definition_says() {
    let lake = Lake::new();
    let text = b"{\"id\":1,\"at\":\"2024-01-01T00:00:00Z\"}\n{\"id\":2,\"at\":\"2024-01-02T00:00:00Z\"}\n{\"id\":3}";
    let definition = |name: &str, outside: &str| {
        let mut definition = events(json!({"replaceInterval": {"column": "at", "outside": outside}}));
        definition["name"] = name.into();
        table(definition)
    };
    let outcome = lake.make("r1", day(1), &[text], vec![definition("a", "quarantine"), definition("b", "drop")]).await;
    succeeded(&outcome);
    assert_eq!((outcome.tables[0].rows_quarantined, outcome.tables[1].rows_dropped), (2, 2));
    let aside = lake.query("quarantine", "a", "SELECT position, rule, reason FROM t ORDER BY position").await;
    assert_eq!(
        aside,
        [
            "1|outside_interval|column at: 2024-01-02T00:00:00Z lies outside of the run's interval",
            "2|outside_interval|column at: null lies outside of the run's interval"
        ]
    );
    let failed = lake.make("r2", day(1), &[text], vec![definition("d", "drop"), definition("c", "fail")]).await;
    let message = failure(&failed);
    assert!(message.starts_with("ExpectationFailed: silver.c: 2 rows lie outside of the interval"), "{message}");
    assert!(
        message.contains("the first is record 1 of object shop/events/dt=2024-01-01/run=r2-1/part-00000.ndjson: {\"id\":2,"),
        "{message}"
    );
    assert!(failed.tables.is_empty(), "nothing is committed when an audit fails");
    assert_eq!(lake.query("silver", "d", "SELECT id FROM t").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_go_across_objects_and_merge_counts_what_it_superseded() {
    let lake = Lake::new();
    let objects: [&[u8]; 2] =
        [b"{\"id\":1,\"price\":1}\n{\"id\":2,\"price\":2}\n{\"id\":1,\"price\":3}", b"{\"id\":2,\"price\":4}\n{\"id\":3}"];
    let definition = |name: &str, keep: &str| {
        let mut definition = events(json!({"append": {}}));
        definition["name"] = name.into();
        definition["deduplicate"] = json!({"key": ["id"], "keep": keep});
        table(definition)
    };
    let outcome = lake.make("r1", day(1), &objects, vec![definition("f", "first"), definition("l", "last")]).await;
    succeeded(&outcome);
    assert_eq!(outcome.tables[0].rows_deduplicated, 2);
    let rows = "SELECT id, price FROM t ORDER BY id";
    assert_eq!(lake.query("silver", "f", rows).await, ["1|1.00", "2|2.00", "3|"]);
    assert_eq!(lake.query("silver", "l", rows).await, ["1|3.00", "2|4.00", "3|"]);

    let merge = || table(events(json!({"merge": {"key": ["id"], "sequenceBy": ["at"]}})));
    let newer = b"{\"id\":1,\"at\":\"2024-01-02T00:00:00Z\"}";
    let older = b"{\"id\":1,\"at\":\"2024-01-01T00:00:00Z\"}\n{\"id\":2,\"at\":\"2024-01-01T00:00:00Z\"}";
    succeeded(&lake.make("m2", day(2), &[newer], vec![merge()]).await);
    let outcome = lake.make("m1", day(1), &[older], vec![merge()]).await;
    succeeded(&outcome);
    assert_eq!((outcome.tables[0].rows_written, outcome.tables[0].rows_deduplicated), (1, 1));
    assert_eq!(
        lake.query("silver", "events", "SELECT id, at FROM t ORDER BY id").await,
        ["1|2024-01-02T00:00:00Z", "2|2024-01-01T00:00:00Z"]
    );
    let tie = lake.make("m3", day(3), &[b"{\"id\":5,\"price\":1}\n{\"id\":5,\"price\":2}"], vec![merge()]).await;
    assert!(failure(&tie).starts_with("MergeTie: table silver.events: two different rows have key id=5"), "{}", failure(&tie));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_fit_becomes_null_or_fails_where_the_column_says_so() {
    let lake = Lake::new();
    let definition = |on_error: &str| {
        let mut definition = events(json!({"append": {}}));
        definition["columns"][2]["onError"] = on_error.into();
        table(definition)
    };
    let text = b"{\"id\":1,\"price\":\"n/a\"}";
    succeeded(&lake.make("null", day(1), &[text], vec![definition("null")]).await);
    assert_eq!(lake.query("silver", "events", "SELECT id, price FROM t").await, ["1|"]);
    let failed = lake.make("fail", day(2), &[text], vec![definition("fail")]).await;
    assert_eq!(
        failure(&failed),
        "CastFailed: silver.events: object shop/events/dt=2024-01-02/run=fail-1/part-00000.ndjson, record 0: \
         column price: \"n/a\" is not a number; its type is decimal(10,2)"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_csv_and_their_surroundings_become_rows() {
    let lake = Lake::new();
    let document = br#"{"data":[{"id":1,"price":"67812.12"}],"timestamp":1704067200000}"#;
    let mut definition = events(json!({"append": {}}));
    definition["columns"][1] = json!({"name": "at", "from": "$document/timestamp", "type": "timestamptz", "unit": "milliseconds"});
    definition["columns"].as_array_mut().unwrap().push(json!({"name": "day", "from": "$intervalStart", "type": "date"}));
    definition["columns"].as_array_mut().unwrap().push(json!({"name": "captured", "from": "$capturedAt", "type": "timestamptz"}));
    succeeded(&lake.make("json", day(1), &[document], vec![table_of(definition, Decode::Json { records: "/data".into() })]).await);
    let rows = lake.query("silver", "events", "SELECT id, at, price, day, captured FROM t").await;
    assert_eq!(rows, ["1|2024-01-01T00:00:00Z|67812.12|2024-01-01|2024-02-01T00:00:00Z"]);

    let mut definition = events(json!({"append": {}}));
    definition["name"] = "csv".into();
    succeeded(&lake.make("csv", day(1), &[b"id,price\n1,2.5\n2,\n"], vec![table_of(definition, Decode::Csv)]).await);
    assert_eq!(lake.query("silver", "csv", "SELECT id, price FROM t ORDER BY id").await, ["1|2.50", "2|"]);
}
