//! PyIceberg, delta-rs and DuckDB read what this crate writes, on SQLite and a directory, or on the Postgres and S3 that the environment names.
//!
//! `LAKEHOUSE_READERS` is a Python with `pyiceberg[sql-sqlite,sql-postgres,pyarrow]`, `s3fs`, `deltalake`, `duckdb` and its
//! extensions. Without it the
//! test says so and passes. `LAKEHOUSE_TEST_CATALOG` (a postgresql:// URI), and `LAKEHOUSE_TEST_S3` (an endpoint, with the keys in the usual
//! AWS variables and a bucket `LAKEHOUSE_TEST_BUCKET`), add a second round there. `LAKEHOUSE_SPARK` (a Python that has Spark, with
//! `LAKEHOUSE_SPARK_JARS` as `tests/support/spark.py` sets them) adds Spark to the first.

use crate::common::*;
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use lakehouse_contract::TableRef;
use lakehouse_storage::{Bucket, Credentials, Layer, S3Options, Storage};
use lakehouse_tables::{CATALOG_NAME, Compaction, Declared, Expiry, Maintenance, Orphans, Table, TableDef, TableFormat, Tables, WriteMode};
use sqlx::Row;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

pub fn python() -> Option<String> {
    let found = std::env::var("LAKEHOUSE_READERS").ok();
    if found.is_none() {
        println!("SKIPPED: LAKEHOUSE_READERS names no Python with PyIceberg and DuckDB");
    }
    found
}

pub fn outside(python: &str, arguments: &[&str]) -> Vec<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/readers.py");
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A table that Spark is asked for, as `tests/spark/reader.py` takes it, and the rows that it must find.
struct Asked {
    order: serde_json::Value,
    expected: Vec<String>,
}

impl Asked {
    fn new(format: &str, table: &str, version: Option<&str>, expected: Vec<String>) -> Self {
        Self { order: serde_json::json!({"format": format, "table": table, "version": version}), expected }
    }
}

/// One session of Spark reads all tables, where `LAKEHOUSE_SPARK` names a Python that has it.
fn spark_agrees(catalog: &std::path::Path, asked: &[Asked]) {
    let Ok(python) = std::env::var("LAKEHOUSE_SPARK") else {
        println!("WITHOUT SPARK: LAKEHOUSE_SPARK names no Python that has it");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/spark/reader.py");
    let tables: Vec<&serde_json::Value> = asked.iter().map(|asked| &asked.order).collect();
    let mut command = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let order = serde_json::json!({"catalog": catalog, "tables": tables}).to_string();
    command.stdin.take().unwrap().write_all(order.as_bytes()).unwrap();
    let output = command.wait_with_output().unwrap();
    assert!(output.status.success(), "Spark: {}", String::from_utf8_lossy(&output.stderr));
    let answer: Vec<Vec<BTreeMap<String, serde_json::Value>>> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer.len(), asked.len());
    for (asked, rows) in asked.iter().zip(answer) {
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::Null => "null".to_owned(),
            serde_json::Value::String(text) => text.replace("+00:00", "Z"),
            other => other.to_string(),
        };
        let mut found: Vec<String> =
            rows.iter().map(|row| ["id", "at", "price", "region"].map(|column| text(&row[column])).join(" | ")).collect();
        found.sort();
        assert_eq!(found, asked.expected, "Spark, {}", asked.order);
    }
    println!("Spark read {} tables and versions", asked.len());
}

async fn metadata_location(tables: &Tables, table: &TableRef) -> String {
    let sql = "SELECT metadata_location FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3";
    let query = sqlx::query(sql).bind(CATALOG_NAME).bind(&table.namespace).bind(&table.name);
    query.fetch_one(tables.db().pool()).await.unwrap().get(0)
}

/// A table after append, replace, merge and an added partition, in turn.
async fn histories(tables: &Tables, format: TableFormat, suffix: &str) -> Vec<Arc<dyn Table>> {
    let mut written = Vec::new();
    let (days, buckets) = match format {
        TableFormat::Delta => (vec!["id"], vec!["id"]),
        _ => (vec!["day(at)", "region"], vec!["bucket(3, id)"]),
    };
    for (name, partitions, modes) in [
        ("appended", vec![], [WriteMode::Append, WriteMode::Append]),
        ("replaced", days, [replace(), replace()]),
        ("mixed", buckets, [WriteMode::Overwrite, replace()]),
        ("merged", vec![], [merge(), merge()]),
    ] {
        let mut definition = definition_of(format, &format!("{name}{suffix}"));
        definition.partition_by = partitions.iter().map(|text| text.parse().unwrap()).collect();
        definition.sort_by = vec!["id".to_owned()];
        let table = tables.ensure(&definition).await.unwrap();
        let price = 12_345_678_901_234_567_890_123_456_789_012_345_678_i128;
        let first = rows(&[(1, 0, price, Some("eu/é %=&")), (2, 1, -price, None), (3, 2, 1, Some(""))]);
        write(&table, first, &commit_of("1", day(1), modes[0].clone())).await.unwrap();
        let second = rows(&[(1, 24, 7, Some("us")), (4, 25, 8, None)]);
        write(&table, second, &commit_of("2", day(2), modes[1].clone())).await.unwrap();
        if name != "merged" {
            write(&table, rows(&[(9, 3, 9, Some("eu"))]), &commit_of("3", day(1), modes[1].clone())).await.unwrap();
        }
        written.push(table);
    }
    if format != TableFormat::Iceberg {
        return written;
    }
    // What only Iceberg can do to an existing table.
    for (name, partitions, mode) in [("evolved_replaced", vec!["day(at)"], replace()), ("evolved_merged", vec!["bucket(3, id)"], merge())] {
        written.push(evolved(tables, &format!("{name}{suffix}"), &partitions, mode).await);
    }
    written
}

/// Rows as they were before the table of [`schema`] got its present columns: other names and places, narrower types, one more column.
fn earlier_rows(batch: &RecordBatch) -> RecordBatch {
    let column = |name: &str| batch.column_by_name(name).unwrap().clone();
    let gone: ArrayRef = Arc::new(StringArray::from(vec!["gone"; batch.num_rows()]));
    let columns = [("place", column("region")), ("gone", gone), ("id", column("id")), ("at", column("at")), ("cost", column("price"))];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// A table that was renamed, widened, reordered and shortened between its writes, with one old file rewritten and one left as it was.
async fn evolved(tables: &Tables, name: &str, partitions: &[&str], mode: WriteMode) -> Arc<dyn Table> {
    let mut present = definition(name);
    present.partition_by = partitions.iter().map(|text| text.parse().unwrap()).collect();
    present.declared.renamed = BTreeMap::from([("region", "place"), ("price", "cost")].map(|(new, old)| (new.to_owned(), old.to_owned())));
    present.declared.dropped = vec!["gone".to_owned()];
    present.sort_by = vec!["id".to_owned()];
    let mut earlier = present.clone();
    earlier.sort_by = vec!["gone".to_owned(), "place".to_owned()];
    earlier.declared = Declared::default();
    earlier.schema = Arc::new(Schema::new(vec![
        Field::new("place", DataType::Utf8, true),
        Field::new("gone", DataType::Utf8, true),
        Field::new("id", DataType::Int32, false),
        schema().field_with_name("at").unwrap().clone(),
        Field::new("cost", DataType::Decimal128(20, 16), true),
    ]));
    let table = tables.ensure(&earlier).await.unwrap();
    let old = earlier_rows(&rows(&[(1, 0, 12_345_678_901_234_567_890, Some("eu")), (2, 1, -5, Some(""))]));
    write(&table, old, &commit_of("1", day(1), mode.clone())).await.unwrap();
    let old = earlier_rows(&rows(&[(3, 24, 3, Some("us")), (4, 25, 4, Some("us"))]));
    write(&table, old, &commit_of("2", day(2), mode.clone())).await.unwrap();
    let table = tables.ensure(&present).await.unwrap();
    let huge = 12_345_678_901_234_567_890_123_456_789_012_345_678_i128;
    write(&table, rows(&[(1 << 40, 49, huge, None), (5, 50, 5, Some("eu"))]), &commit_of("3", day(3), mode.clone())).await.unwrap();
    write(&table, rows(&[(3, 26, huge, Some("new"))]), &commit_of("4", day(2), mode)).await.unwrap();
    table
}

/// Maintains a table as of a week from now, and again, which must find nothing to do.
async fn compact_and_expire(tables: &Tables, table: &TableRef) {
    let hour = std::time::Duration::from_secs(3_600);
    let what = Maintenance {
        now: chrono::Utc::now() + chrono::TimeDelta::days(7),
        compact: Some(Compaction { target_file_bytes: 128 << 20 }),
        expire: Some(Expiry { older_than: hour, keep_last: 1 }),
        orphans: Some(Orphans { older_than: hour, dry_run: false }),
    };
    let counts = tables.maintain(table, OWNER, &what).await.unwrap().unwrap().counts;
    assert!(counts.snapshots_expired > 0 && counts.orphans_deleted == 0 && counts.not_deleted == 0, "{table}: {counts:?}");
    let again = tables.maintain(table, OWNER, &what).await.unwrap().unwrap().counts;
    assert_eq!((again.files_compacted, again.snapshots_expired, again.orphans_deleted), (0, 0, 0), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_agree_on_a_laptop() {
    let Some(python) = python() else { return };
    let lake = lake().await;
    let mut asked = Vec::new();
    let uri = format!("sqlite:///{}/catalog.db", lake.directory.path().display());
    for table in histories(&lake.tables, TableFormat::Iceberg, "").await {
        let expected = read(&table).await;
        assert!(expected.len() >= 3, "{}", table.table());
        assert_eq!(outside(&python, &["pyiceberg", &uri, &table.table().to_string()]), expected, "PyIceberg, {}", table.table());
        let location = metadata_location(&lake.tables, table.table()).await;
        assert_eq!(outside(&python, &["duckdb", &location]), expected, "DuckDB, {}", table.table());
        compact_and_expire(&lake.tables, table.table()).await;
        assert_eq!(outside(&python, &["pyiceberg", &uri, &table.table().to_string()]), expected, "PyIceberg, maintained {}", table.table());
        let location = metadata_location(&lake.tables, table.table()).await;
        assert_eq!(outside(&python, &["duckdb", &location]), expected, "DuckDB, maintained {}", table.table());
        asked.push(Asked::new("iceberg", &table.table().to_string(), None, expected));
    }
    for table in histories(&lake.tables, TableFormat::Delta, "_delta").await {
        let name = table.table();
        let location = lake.directory.path().join("silver").join(&name.name).display().to_string();
        assert_eq!(outside(&python, &["delta-rs", &location]), read(&table).await, "delta-rs, {name}");
        assert_eq!(outside(&python, &["duckdb-delta", &location]), read(&table).await, "DuckDB, {name}");
        let first = query_at(&table, Some("1"), "SELECT * FROM t").await;
        assert_eq!(outside(&python, &["delta-rs", &location, "1"]), first, "delta-rs at version 1, {name}");
        // Through a checkpoint.
        for number in 5..=16 {
            write(&table, rows(&[(number, (number - 1) * 24, 1, None)]), &commit_of(&format!("{number}"), day(number), replace()))
                .await
                .unwrap();
        }
        assert_eq!(outside(&python, &["delta-rs", &location]), read(&table).await, "delta-rs after a checkpoint, {name}");
        assert_eq!(outside(&python, &["duckdb-delta", &location]), read(&table).await, "DuckDB after a checkpoint, {name}");
        asked.push(Asked::new("delta", &location, Some("1"), first));
        asked.push(Asked::new("delta", &location, None, read(&table).await));
    }
    for table in histories(&lake.tables, TableFormat::Delta, "_maintained").await {
        let name = table.table();
        let location = lake.directory.path().join("silver").join(&name.name).display().to_string();
        let expected = read(&table).await;
        compact_and_expire(&lake.tables, name).await;
        assert_eq!(outside(&python, &["delta-rs", &location]), expected, "delta-rs, maintained {name}");
        assert_eq!(outside(&python, &["duckdb-delta", &location]), expected, "DuckDB, maintained {name}");
        asked.push(Asked::new("delta", &location, None, expected));
    }
    let mut definition = definition("plain");
    definition.format = TableFormat::Parquet;
    definition.partition_by = vec!["region".parse().unwrap()];
    let table = lake.tables.ensure(&definition).await.unwrap();
    for token in ["1", "2"] {
        write(&table, rows(&[(1, 0, 1, Some("eu/é %=&")), (2, 1, 2, None)]), &commit_of(token, day(1), replace())).await.unwrap();
    }
    let folder = lake.directory.path().join("silver/plain");
    assert_eq!(outside(&python, &["duckdb-parquet", &folder.display().to_string()]), read(&table).await);
    spark_agrees(&lake.directory.path().join("catalog.db"), &asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_agree_on_postgres_and_s3() {
    let Some(python) = python() else { return };
    let (Ok(catalog), Ok(endpoint)) = (std::env::var("LAKEHOUSE_TEST_CATALOG"), std::env::var("LAKEHOUSE_TEST_S3")) else {
        println!("SKIPPED: LAKEHOUSE_TEST_CATALOG and LAKEHOUSE_TEST_S3 name no Postgres and no S3");
        return;
    };
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let bucket = std::env::var("LAKEHOUSE_TEST_BUCKET").unwrap_or_else(|_| "lakehouse-test".to_owned());
    let credentials = Credentials::from_env().unwrap();
    let options = S3Options {
        endpoint: Some(endpoint.clone()),
        region: "us-east-1".to_owned(),
        buckets: BTreeMap::from([(Layer::Silver, Bucket::parse(&format!("{bucket}/{unique}")).unwrap())]),
        credentials: credentials.clone(),
    };
    let storage = Storage::s3(&options).unwrap();
    storage.ensure_buckets().await.unwrap();
    storage.ensure_buckets().await.unwrap();
    storage.check().await.unwrap();
    let wrong = S3Options { credentials: Credentials::new(&credentials.access_key_id, "wrong-secret"), ..options };
    let text = Storage::s3(&wrong).unwrap().check().await.unwrap_err().to_string();
    let key = &credentials.access_key_id;
    assert_eq!(text, format!("object store {endpoint}: access denied for key id `{key}` (SignatureDoesNotMatch): check secret"));

    let silver = storage.layer(Layer::Silver).unwrap().clone();
    let puts = (0..8).map(|number| {
        let silver = silver.clone();
        tokio::spawn(async move { silver.put_if_absent("once", format!("{number}")).await.unwrap() })
    });
    let outcomes = futures::future::join_all(puts).await;
    let created = outcomes.into_iter().filter(|outcome| matches!(outcome, Ok(lakehouse_storage::PutOutcome::Created))).count();
    assert_eq!(created, 1, "conditional puts");

    let tables = Tables::connect(storage, &catalog).await.unwrap();
    let properties = serde_json::json!({
        "s3.endpoint": endpoint, "s3.access-key-id": credentials.access_key_id,
        "s3.secret-access-key": credentials.secret_access_key, "s3.region": "us-east-1",
    });
    let uri = catalog.replacen("postgresql://", "postgresql+psycopg2://", 1);
    for table in histories(&tables, TableFormat::Iceberg, &format!("_{unique}")).await {
        let name = table.table().to_string();
        let expected = read(&table).await;
        assert_eq!(outside(&python, &["pyiceberg", &uri, &name, &properties.to_string()]), expected, "{name}");
        compact_and_expire(&tables, table.table()).await;
        assert_eq!(outside(&python, &["pyiceberg", &uri, &name, &properties.to_string()]), expected, "maintained {name}");
    }
    let address = format!("s3://{bucket}/{unique}");
    let options = serde_json::json!({
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": credentials.access_key_id, "AWS_REGION": "us-east-1",
        "AWS_SECRET_ACCESS_KEY": credentials.secret_access_key, "AWS_ALLOW_HTTP": "true",
    });
    for table in histories(&tables, TableFormat::Delta, &format!("_delta_{unique}")).await {
        let location = format!("{address}/{}", table.table().name);
        assert_eq!(outside(&python, &["delta-rs", &location, "", &options.to_string()]), read(&table).await, "{location}");
    }
    for format in [TableFormat::Iceberg, TableFormat::Delta] {
        raced(&tables, &catalog, &definition_of(format, &format!("raced_{format}_{unique}"))).await;
    }
    let sql = "DELETE FROM iceberg_tables WHERE catalog_name = $1 AND table_name LIKE $2";
    sqlx::query(sql).bind(CATALOG_NAME).bind(format!("%{unique}")).execute(tables.db().pool()).await.unwrap();
    let sql = "DELETE FROM lakehouse_delta_tables WHERE table_name LIKE $1";
    sqlx::query(sql).bind(format!("%{unique}")).execute(tables.db().pool()).await.unwrap();
    for object in silver.list("").await.unwrap() {
        silver.delete(&object.key).await.unwrap();
    }
}

/// Four writers with catalogs of their own merge into one table.
async fn raced(tables: &Tables, catalog: &str, definition: &TableDef) {
    let writers = (0..4_i64).map(|writer| {
        let (tables, definition, catalog) = (tables.clone(), definition.clone(), catalog.to_owned());
        tokio::spawn(async move {
            let own = Tables::connect(tables.storage().clone(), &catalog).await.unwrap();
            let table = own.ensure(&definition).await.unwrap();
            for number in 0..3 {
                let id = writer * 3 + number;
                write(&table, rows(&[(id, id * 24, 1, None)]), &commit_of(&format!("t{id}"), day(id + 1), merge())).await.unwrap();
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
    let table = tables.ensure(definition).await.unwrap();
    assert_eq!(query(&table, "SELECT count(*), count(distinct id) FROM t").await, ["12 | 12"]);
}
