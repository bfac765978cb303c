//! Thirty-two processes write to one table, a thousand commits in all: every row is there exactly once, for other readers too, and so are older
//! versions. On SQLite and a directory; on Postgres and on S3 where the environment names them, as [`crate::readers`] says.
//!
//! The processes are this very binary, which runs [`one_writer`] alone.

use crate::common::*;
use crate::readers::{outside, python};
use arrow::array::Array;
use lakehouse_storage::{Bucket, Credentials, Layer, S3Options, Storage};
use lakehouse_tables::{Table, TableDef, TableFormat, Tables, WriteMode};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

const WRITERS: i64 = 32;
const COMMITS: i64 = 1_000;
/// Every so many commits of a process it commits one of them again, as a second pod would.
const REPEATED: i64 = 8;

/// What a process is told, in its environment.
const PLACE: &str = "LAKEHOUSE_MANY_WRITERS";

/// Where the table is.
#[derive(serde::Serialize, serde::Deserialize)]
struct Place {
    catalog: String,
    /// A directory; none is the S3 of the environment.
    directory: Option<PathBuf>,
    /// Prefix in the bucket.
    prefix: String,
    table: String,
    delta: bool,
    writer: i64,
}

impl Place {
    fn storage(&self) -> Storage {
        match &self.directory {
            Some(directory) => Storage::local(directory).unwrap(),
            None => s3(&self.prefix),
        }
    }

    async fn open(&self) -> (Tables, TableDef) {
        let format = if self.delta { TableFormat::Delta } else { TableFormat::Iceberg };
        let mut definition = definition_of(format, &self.table);
        definition.sort_by = vec!["id".to_owned()];
        (Tables::connect(self.storage(), &self.catalog).await.unwrap(), definition)
    }
}

fn bucket() -> String {
    std::env::var("LAKEHOUSE_TEST_BUCKET").unwrap_or_else(|_| "lakehouse-test".to_owned())
}

fn s3(prefix: &str) -> Storage {
    let options = S3Options {
        endpoint: std::env::var("LAKEHOUSE_TEST_S3").ok(),
        region: "us-east-1".to_owned(),
        buckets: BTreeMap::from([(Layer::Silver, Bucket::parse(&format!("{}/{prefix}", bucket())).unwrap())]),
        credentials: Credentials::from_env().unwrap(),
    };
    Storage::s3(&options).unwrap()
}

/// The rows of a commit.
fn batch(number: i64) -> arrow::array::RecordBatch {
    rows(&[(2 * number, number * 24, i128::from(number), Some("eu")), (2 * number + 1, number * 24, 1, None)])
}

async fn append(table: &Arc<dyn Table>, number: i64) -> bool {
    write(table, batch(number), &commit_of(&format!("token-{number}"), day(number + 1), WriteMode::Append)).await.unwrap().already
}

/// A process of its own: its share of the commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a part of the other tests, which start it"]
async fn one_writer() {
    let place: Place = serde_json::from_str(&std::env::var(PLACE).unwrap()).unwrap();
    let (tables, definition) = place.open().await;
    let table = tables.ensure(&definition).await.unwrap();
    for number in (place.writer..COMMITS).step_by(WRITERS as usize) {
        assert!(!append(&table, number).await, "commit {number} was there before");
        if number / WRITERS % REPEATED == 0 {
            assert!(append(&table, number).await, "commit {number} was made twice");
        }
    }
}

fn start(place: &Place) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["many_writers::one_writer", "--exact", "--ignored", "--nocapture"]);
    command.env(PLACE, serde_json::to_string(place).unwrap()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// All processes, from beginning to end.
async fn write_all(mut place: Place) -> (Arc<dyn Table>, Vec<f64>) {
    let (tables, definition) = place.open().await;
    place.storage().ensure_buckets().await.unwrap();
    let table = tables.ensure(&definition).await.unwrap();
    let begin = Instant::now();
    let children: Vec<Child> = (0..WRITERS)
        .map(|writer| {
            place.writer = writer;
            start(&place)
        })
        .collect();
    let waiting = children.into_iter().map(|child| {
        tokio::task::spawn_blocking(move || {
            let output = child.wait_with_output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned(), begin.elapsed().as_secs_f64())
        })
    });
    let ends: Vec<_> = futures::future::join_all(waiting).await.into_iter().map(Result::unwrap).collect();
    for (succeeded, said, seconds) in &ends {
        assert!(succeeded, "after {seconds:.1} s: {said}");
    }
    (table, ends.into_iter().map(|(_, _, seconds)| seconds).collect())
}

/// Every row exactly once.
async fn verify(table: &Arc<dyn Table>, ends: &[f64]) {
    let first = ends.iter().copied().fold(f64::INFINITY, f64::min);
    let last = ends.iter().copied().fold(0.0, f64::max);
    println!("{}: {COMMITS} commits of {WRITERS} processes in {last:.1} s, the first was done after {first:.1} s", table.table());
    let ids = query(table, "SELECT count(*), count(DISTINCT id), min(id), max(id) FROM t").await;
    assert_eq!(ids, [format!("{0} | {0} | 0 | {1}", 2 * COMMITS, 2 * COMMITS - 1)]);
    for number in [0, 1, COMMITS / 2, COMMITS - 1] {
        let found = table.find_commit(&format!("token-{number}")).await.unwrap().unwrap();
        assert_eq!((found.rows_written, found.already), (2, true));
    }
}

/// Rows as text, as readers print them.
fn expected() -> Vec<String> {
    let all: Vec<arrow::array::RecordBatch> = (0..COMMITS).map(batch).collect();
    let mut lines = Vec::new();
    for batch in &all {
        for row in 0..batch.num_rows() {
            let text = |column: usize| {
                let column = batch.column(column);
                if column.is_null(row) { "null".to_owned() } else { arrow::util::display::array_value_to_string(column, row).unwrap() }
            };
            lines.push((0..4).map(text).collect::<Vec<_>>().join(" | "));
        }
    }
    lines.sort();
    lines
}

fn place(directory: &Path, delta: bool) -> Place {
    let catalog = format!("sqlite://{}/catalog.db", directory.display());
    Place { catalog, directory: Some(directory.to_owned()), prefix: String::new(), table: "t".to_owned(), delta, writer: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn iceberg_on_sqlite() {
    let Some(python) = python() else { return };
    let lake = lake().await;
    let (table, ends) = write_all(place(lake.directory.path(), false)).await;
    verify(&table, &ends).await;
    let uri = format!("sqlite:///{}/catalog.db", lake.directory.path().display());
    assert_eq!(outside(&python, &["pyiceberg", &uri, "silver.t"]), expected());
    let snapshot = table.find_commit("token-500").await.unwrap().unwrap().snapshot;
    let then = query_at(&table, Some(&snapshot), "SELECT * FROM t").await;
    assert!(then.len() > 2 && then.len() < 2 * COMMITS as usize && then.len() % 2 == 0, "{}", then.len());
    assert_eq!(outside(&python, &["pyiceberg", &uri, "silver.t", "{}", &snapshot]), then);
}

/// The catalog of Postgres and a prefix of its own in the S3 of the environment; none without them.
fn remote(delta: bool) -> Option<Place> {
    let (Ok(catalog), Ok(_)) = (std::env::var("LAKEHOUSE_TEST_CATALOG"), std::env::var("LAKEHOUSE_TEST_S3")) else {
        println!("SKIPPED: LAKEHOUSE_TEST_CATALOG and LAKEHOUSE_TEST_S3 name no Postgres and no S3");
        return None;
    };
    let unique = uuid::Uuid::new_v4().simple().to_string();
    Some(Place { catalog, directory: None, table: format!("t_{unique}"), prefix: unique, delta, writer: 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn iceberg_on_postgres() {
    let (Some(python), Some(place)) = (python(), remote(false)) else { return };
    let uri = place.catalog.replacen("postgresql://", "postgresql+psycopg2://", 1);
    let (table, ends) = write_all(place).await;
    verify(&table, &ends).await;
    let credentials = Credentials::from_env().unwrap();
    let properties = serde_json::json!({
        "s3.endpoint": std::env::var("LAKEHOUSE_TEST_S3").unwrap(), "s3.access-key-id": credentials.access_key_id,
        "s3.secret-access-key": credentials.secret_access_key, "s3.region": "us-east-1",
    });
    let name = table.table().to_string();
    assert_eq!(outside(&python, &["pyiceberg", &uri, &name, &properties.to_string()]), expected());
    let snapshot = table.find_commit("token-500").await.unwrap().unwrap().snapshot;
    let then = query_at(&table, Some(&snapshot), "SELECT * FROM t").await;
    assert_eq!(outside(&python, &["pyiceberg", &uri, &name, &properties.to_string(), &snapshot]), then);
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_on_s3() {
    let (Some(python), Some(place)) = (python(), remote(true)) else { return };
    let location = format!("s3://{}/{}/{}", bucket(), place.prefix, place.table);
    let (table, ends) = write_all(place).await;
    verify(&table, &ends).await;
    let credentials = Credentials::from_env().unwrap();
    let options = serde_json::json!({
        "AWS_ENDPOINT_URL": std::env::var("LAKEHOUSE_TEST_S3").unwrap(), "AWS_ACCESS_KEY_ID": credentials.access_key_id,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_access_key, "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
    })
    .to_string();
    assert_eq!(outside(&python, &["delta-rs", &location, "", &options]), expected());
    for version in ["5", "500"] {
        let then = query_at(&table, Some(version), "SELECT * FROM t").await;
        assert_eq!(then.len(), 2 * version.parse::<usize>().unwrap(), "every version added one commit");
        assert_eq!(outside(&python, &["delta-rs", &location, version, &options]), then);
    }
    assert_eq!(table.snapshot().await.unwrap(), Some(COMMITS.to_string()));
}
