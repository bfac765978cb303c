//! What the API server refuses, asked of the same rules locally: each fault is named with its field.

#![allow(clippy::unwrap_used, reason = "a test")]

use lakehouse_api::validate::validate;
use serde_json::{Value, json};

fn lakehouse() -> Value {
    json!({
        "apiVersion": "lakehouse.rs/v1alpha1", "kind": "Lakehouse", "metadata": {"name": "main"},
        "spec": {
            "objectStore": {"endpoint": "http://minio:9000", "credentialsSecret": "minio-credentials"},
            "catalog": {"sql": {"uriSecret": {"name": "catalog", "key": "uri"}}},
            "connections": [{"name": "coincap", "baseUrl": "https://rest.coincap.io"}]
        }
    })
}

fn pipeline() -> Value {
    json!({
        "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehousePipeline", "metadata": {"name": "crypto"},
        "spec": {
            "lakehouse": "main",
            "trigger": {"onApply": {"interval": "lastComplete"}},
            "ingest": [{"name": "assets", "http": {"connection": "coincap", "path": "/v3/assets", "records": "/data"}}],
            "silver": [{
                "name": "coins", "from": "assets",
                "write": {"merge": {"key": ["coin_id"], "sequenceBy": ["seen_at"]}},
                "deduplicate": {"key": ["coin_id"]},
                "columns": [
                    {"name": "coin_id", "from": "/id", "type": "string", "required": true},
                    {"name": "seen_at", "from": "$intervalStart", "type": "timestamptz"}
                ],
                "expectations": [{"name": "enough", "batch": "count(*) > 1", "otherwise": "fail"}]
            }],
            "gold": [{"name": "n", "write": {"overwrite": {}}, "sql": "SELECT count(*) AS n FROM silver.coins"}]
        }
    })
}

fn run() -> Value {
    json!({
        "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseRun", "metadata": {"name": "crypto-2024-01-01"},
        "spec": {"pipeline": "crypto", "interval": {"start": "2024-01-01T00:00:00Z", "end": "2024-01-02T00:00:00Z"}}
    })
}

fn backfill() -> Value {
    json!({
        "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseBackfill", "metadata": {"name": "crypto-january"},
        "spec": {"pipeline": "crypto", "range": {"start": "2024-01-01T00:00:00Z", "end": "2024-02-01T00:00:00Z"}}
    })
}

/// `object` with the value at `pointer` replaced, or added to its parent.
fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
        other => other[name] = value,
    }
    object
}

/// `object` is refused, with a line that holds `expected`.
fn refused(object: &Value, expected: &str) {
    let faults: Vec<String> = validate(object).iter().map(ToString::to_string).collect();
    assert!(faults.iter().any(|fault| fault.contains(expected)), "expected `{expected}` among {faults:?} for {object}");
}

#[test]
fn good_manifests_are_accepted() {
    for object in [lakehouse(), pipeline(), run(), backfill()] {
        assert_eq!(validate(&object), Vec::new());
    }
}

#[test]
fn schedules_and_history_limits_have_bounds() {
    let schedule = |more: Value| {
        let mut schedule = json!({"cron": "0 6 * * *"});
        schedule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with(pipeline(), "/spec/trigger", json!({"schedule": schedule}))
    };
    let all = json!({"timeZone": "Europe/Berlin", "concurrencyPolicy": "Forbid", "startingDeadline": "1h", "catchUp": {"max": 3}, "suspend": true});
    assert_eq!(validate(&schedule(all)), Vec::new());
    refused(&schedule(json!({"cron": ""})), "spec.trigger.schedule.cron");
    refused(&schedule(json!({"concurrencyPolicy": "forbid"})), "supported values");
    refused(&schedule(json!({"catchUp": {"max": 101}})), "must be at most 100");
    refused(&schedule(json!({"startingDeadline": "soon"})), "spec.trigger.schedule.startingDeadline");
    refused(&schedule(json!({"timezone": "UTC"})), "unknown field `timezone`");
    refused(&with(pipeline(), "/spec/historyLimits", json!({"succeeded": -1})), "must be at least 0");
    assert_eq!(validate(&with(pipeline(), "/spec/historyLimits", json!({"failed": 0}))), Vec::new());
}

#[test]
fn a_backfill_is_about_intervals() {
    refused(&with(backfill(), "/spec/range/end", json!("2024-01-01T00:00:00Z")), "start must be before end");
    refused(&with(backfill(), "/spec/stages", json!(["maintenance"])), "maintenance is about tables");
    refused(&with(backfill(), "/spec/stages", json!(["gold", "gold"])), "each once");
    let refresh = with(with(backfill(), "/spec/stages", json!(["silver"])), "/spec/refresh", json!("Stale"));
    refused(&refresh, "it is the gold stage that refreshes");
    refused(&with(backfill(), "/spec/maxParallel", json!(0)), "must be at least 1");
    refused(&with(backfill(), "/spec/order", json!("forward")), "supported values");
    refused(&with(backfill(), "/spec/rerun", json!("Succeeded")), "supported values");
    refused(&with(backfill(), "/metadata/name", json!("b".repeat(64))), "at most 63 characters");
}

#[test]
fn shapes_are_enforced() {
    refused(&with(pipeline(), "/spec/silver/0/colums", json!([])), "unknown field `colums`");
    refused(&with(pipeline(), "/spec/silver/0/columns/0/type", json!("varchar")), "should match");
    refused(&with(pipeline(), "/spec/interval", json!("weekly")), "supported values");
    refused(&with(pipeline(), "/spec/ingest", json!([])), "Too few items");
    refused(&with(pipeline(), "/spec/maxConcurrentRuns", json!(0)), "must be at least 1");
    refused(&with(pipeline(), "/spec/jobs", json!({"timeout": "5 minutes"})), "spec.jobs.timeout");
    refused(&with(pipeline(), "/spec/gold/0/sql", json!(7)), "must be of type string");
    refused(&with(lakehouse(), "/spec/objectStore/endpoint", json!("minio:9000")), "spec.objectStore.endpoint");
    refused(&with(lakehouse(), "/spec/lineage", json!({"http": {"url": "marquez:5000"}})), "spec.lineage.http.url");
    let slow = json!({"http": {"url": "http://marquez:5000/api/v1/lineage", "timeout": "5m"}});
    refused(&with(lakehouse(), "/spec/lineage", slow), "spec.lineage.http.timeout");
    refused(&with(run(), "/spec/interval/start", json!("yesterday")), "spec.interval.start");
    let twice = pipeline()["spec"]["gold"][0].clone();
    refused(&with(pipeline(), "/spec/gold", json!([twice, twice])), "Duplicate value");
}

#[test]
fn a_job_asks_for_processors_and_memory_only() {
    let limits = |limits: Value| with(pipeline(), "/spec/jobs", json!({"ingest": {"resources": {"limits": limits}}}));
    assert_eq!(validate(&limits(json!({"cpu": "2", "memory": "1Gi"}))), Vec::new());
    refused(&limits(json!({"example.com/device": "1"})), "resources have the keys cpu and memory");
    let requests = json!({"resources": {"requests": {"hugepages-2Mi": "1Gi"}}});
    refused(&with(pipeline(), "/spec/jobs", requests), "resources have the keys cpu and memory");
}

#[test]
fn an_allowed_network_is_one() {
    let networks = |networks: Value| with(lakehouse(), "/spec/connections/0/allowedNetworks", networks);
    assert_eq!(validate(&networks(json!(["10.20.0.0/16", "fd00:1::/64"]))), Vec::new());
    refused(&networks(json!(["10.20.0.0"])), "spec.connections[0].allowedNetworks[0]");
    refused(&networks(json!(["crm.example.com/24"])), "should match");
    refused(&networks(json!(vec!["10.0.0.0/8"; 17])), "Too many items");
}

#[test]
fn a_host_of_resources_is_one_and_a_rendered_page_says_by_what() {
    let hosts = |hosts: Value| with(lakehouse(), "/spec/connections/0/resourceHosts", hosts);
    assert_eq!(validate(&hosts(json!(["cdn.example.net", "localhost:8080"]))), Vec::new());
    refused(&hosts(json!(["https://cdn.example.net"])), "spec.connections[0].resourceHosts[0]");
    refused(&hosts(json!(["*.example.net"])), "should match");
    let page = |render: Value| {
        let page = json!({"connection": "c", "path": "/", "records": "li", "fields": [{"name": "t"}], "render": render});
        with(pipeline(), "/spec/ingest", json!([{"name": "pages", "scrape": page}]))
    };
    let about = |render: Value| validate(&page(render)).into_iter().filter(|fault| fault.to_string().contains("render")).count();
    assert_eq!(about(json!({"chromium": {}})), 0);
    assert_eq!(about(json!({"chromium": {"waitFor": "li", "timeout": "5s"}})), 0);
    assert!(about(json!({})) > 0);
    assert!(about(json!({"chromium": {"waitFor": ""}})) > 0);
}

#[test]
fn names_leave_room_for_what_is_derived() {
    refused(&with(pipeline(), "/metadata/name", json!("p".repeat(53))), "at most 52 characters");
    refused(&with(run(), "/metadata/name", json!("r".repeat(64))), "at most 63 characters");
    refused(&with(pipeline(), "/metadata/name", json!("p".repeat(200))), "at most 52 characters");
    refused(&with(pipeline(), "/metadata/name", json!("Crypto")), "RFC 1123");
}

#[test]
fn exactly_one_of_several() {
    let both = json!({"name": "assets", "pulse": {}, "clickstream": {}});
    refused(&with(pipeline(), "/spec/ingest/0", both), "exactly one of http, pulse, clickstream, sensors, files");
    refused(&with(pipeline(), "/spec/ingest/0", json!({"name": "assets"})), "exactly one of http, pulse, clickstream, sensors, files");
    refused(&with(pipeline(), "/spec/silver/0/write", json!({})), "exactly one of append, replaceInterval, merge, overwrite");
    let two = json!({"append": {}, "overwrite": {}});
    refused(&with(pipeline(), "/spec/silver/0/write", two), "exactly one of append, replaceInterval, merge, overwrite");
    refused(&with(pipeline(), "/spec/trigger", json!({"onApply": {}, "external": {}})), "exactly one of onApply, schedule, external");
    let schedule = json!({"onApply": {}, "schedule": {"cron": "@daily"}});
    refused(&with(pipeline(), "/spec/trigger", schedule), "exactly one of onApply, schedule, external");
    let interval_and_start = json!({"onApply": {"interval": "current", "start": "2024-01-01T00:00:00Z"}});
    refused(&with(pipeline(), "/spec/trigger", interval_and_start), "not both");
    let rules = json!([{"name": "r", "row": "a > 0", "batch": "count(*) > 0", "otherwise": "fail"}]);
    refused(&with(pipeline(), "/spec/silver/0/expectations", rules), "exactly one of row, batch");
    let paging = json!({"page": {"parameter": "page"}, "next": {"pointer": "/next"}});
    refused(&with(pipeline(), "/spec/ingest/0/http/paging", paging), "exactly one of page, offset, cursor, next, link");
}

#[test]
fn fields_refer_to_what_exists() {
    refused(&with(pipeline(), "/spec/silver/0/from", json!("other")), "must name a source");
    let merge = |key: &str, sequence: &str| json!({"merge": {"key": [key], "sequenceBy": [sequence]}});
    refused(&with(pipeline(), "/spec/silver/0/write", merge("id", "seen_at")), "write.merge.key must name columns");
    refused(&with(pipeline(), "/spec/silver/0/write", merge("coin_id", "t")), "write.merge.sequenceBy must name columns");
    let replace = json!({"replaceInterval": {"column": "day"}});
    refused(&with(pipeline(), "/spec/silver/0/write", replace), "write.replaceInterval.column must name a column");
    refused(&with(pipeline(), "/spec/silver/0/deduplicate", json!({"key": ["id"]})), "deduplicate.key must name columns");
    let reserved = json!({"name": "processed_at", "from": "/p", "type": "string"});
    refused(&with(pipeline(), "/spec/silver/0/columns/0", reserved), "processed_at is added");
}

#[test]
fn history_needs_a_beginning_and_its_names() {
    let history = json!({"merge": {"key": ["coin_id"], "sequenceBy": ["seen_at"], "history": true}});
    let silver = with(pipeline(), "/spec/silver/0/write", history);
    refused(&silver, "versions begin at the first column of sequenceBy, which must be required and a date, timestamp or timestamptz");
    let good = with(silver, "/spec/silver/0/columns/1/required", json!(true));
    assert_eq!(validate(&good), Vec::new());
    refused(&with(good.clone(), "/spec/silver/0/columns/1/type", json!("long")), "versions begin at the first column of sequenceBy");
    for name in ["valid_from", "valid_to", "is_current"] {
        let mut taken = good.clone();
        taken["spec"]["silver"][0]["columns"].as_array_mut().unwrap().push(json!({"name": name, "from": "/v", "type": "date"}));
        refused(&taken, "are added by write.merge.history: choose other names");
        refused(&with(good.clone(), "/spec/silver/0/unknownFields", json!({"capture": {"column": name}})), "must be another");
        assert_eq!(validate(&with(taken, "/spec/silver/0/write/merge/history", json!(false))), Vec::new());
    }
    let gold = json!({"merge": {"key": ["n"], "sequenceBy": ["n"], "history": true}});
    refused(&with(pipeline(), "/spec/gold/0/write", gold), "write.merge.history is for silver tables");
}

#[test]
fn a_test_of_a_model_has_no_null_which_api_servers_drop() {
    let expecting = |row| with(pipeline(), "/spec/gold/0/tests", json!([{"name": "t", "interval": "2024-01-01", "expect": [row]}]));
    assert_eq!(validate(&expecting(json!({"n": 1, "a": "x", "b": [true, {}]}))), []);
    refused(&expecting(json!({"n": null})), "spec.gold[0].tests[0].expect[0].n: Invalid value: null");
}

#[test]
fn what_cannot_work_is_refused() {
    refused(&with(pipeline(), "/spec/silver/0/table", json!({"format": "parquet"})), "needs format iceberg");
    let batch = json!([{"name": "r", "batch": "count(*) > 0", "otherwise": "quarantine"}]);
    refused(&with(pipeline(), "/spec/silver/0/expectations", batch), "can only warn or fail");
    let rule = |rule: Value| with(pipeline(), "/spec/silver/0/expectations", json!([rule]));
    let over_many = ["unique", "table"];
    for (kind, value) in over_many.iter().zip([json!(["coin_id"]), json!("count(*) > 1")]) {
        let mut broken = json!({"name": "r", "otherwise": "quarantine"});
        broken[kind] = value;
        refused(&rule(broken), "can only warn or fail");
    }
    let partner = json!({"name": "r", "references": {"table": "others", "columns": {"coin_id": "id"}}, "otherwise": "drop"});
    refused(&rule(partner), "can warn, quarantine or fail");
    let nothing = json!({"name": "r", "references": {"table": "others", "columns": {}}, "otherwise": "warn"});
    refused(&rule(nothing), "columns: Too few: 0, at least 1");
    let unbounded = json!({"name": "r", "distribution": {"column": "coin_id", "nullRatio": {}}, "otherwise": "warn"});
    refused(&rule(unbounded), "bounds need at least one of min, max, changeAtMost");
    let shapeless = json!({"name": "r", "distribution": {"column": "coin_id", "quantiles": []}, "otherwise": "warn"});
    refused(&rule(shapeless), "distribution needs at least one of");
    let beyond = json!({"name": "r", "distribution": {"column": "coin_id", "quantiles": [{"at": 1.5, "min": 0}]}, "otherwise": "warn"});
    refused(&rule(beyond), "must be at most 1");
    let backwards = json!({"start": "2024-01-02T00:00:00Z", "end": "2024-01-01T00:00:00Z"});
    refused(&with(run(), "/spec/interval", backwards), "start must be before end");
    refused(&with(run(), "/spec/stages", json!(["silver", "silver"])), "each stage may stand once");
    let refresh = |stages: Value| with(with(run(), "/spec/refresh", json!("Stale")), "/spec/stages", stages);
    assert_eq!(validate(&refresh(json!(["silver", "gold"]))), Vec::new());
    refused(&refresh(json!(["ingest", "silver"])), "it is the gold stage that refreshes");
    refused(&with(run(), "/spec/refresh", json!("stale")), "supported values");
}

#[test]
fn rules_of_models_warn_or_fail() {
    let with_rule = |rule: Value| with(pipeline(), "/spec/gold/0/expectations", json!([rule]));
    let row = |otherwise: &str| json!({"name": "some", "row": "n > 0", "otherwise": otherwise});
    for otherwise in ["quarantine", "drop"] {
        let expected = "spec.gold[0]: expectations[].otherwise of a model can be warn or fail: a computed row has no record that quarantine could keep";
        refused(&with_rule(row(otherwise)), expected);
    }
    for otherwise in ["warn", "fail"] {
        assert_eq!(validate(&with_rule(row(otherwise))), Vec::new());
    }
    let distribution = |of: Value| json!({"name": "usual", "distribution": of, "otherwise": "warn"});
    assert_eq!(validate(&with_rule(distribution(json!({"column": "n", "mean": {"changeAtMost": 0.5}, "against": 3})))), Vec::new());
    refused(&with_rule(distribution(json!({"column": "n", "mean": {}}))), "bounds need at least one of min, max, changeAtMost");
    refused(&with_rule(distribution(json!({"column": "n", "mean": {"changeAtMost": -1}}))), "must be at least 0");
    refused(
        &with_rule(json!({"name": "known", "references": {"table": "bronze.x", "columns": {"n": "n"}}, "otherwise": "warn"})),
        "should match",
    );
}

#[test]
fn only_readings_are_a_stream() {
    let source = |sensors: Value| with(pipeline(), "/spec/ingest", json!([{"name": "assets", "sensors": sensors}]));
    assert_eq!(validate(&source(json!({"continuous": {"eventsPerSecond": 100, "duration": "10m"}}))), Vec::new());
    refused(&source(json!({"stream": "devices", "continuous": {}})), "continuous is for stream readings");
    refused(&source(json!({"continuous": {"eventsPerSecond": 0}})), "must be at least 1");
}
