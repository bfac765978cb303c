//! Object store, catalog database and leases on a laptop, and the messages of a store that does not answer.

#![allow(clippy::unwrap_used, reason = "a failed setup is a failed test")]

use bytes::Bytes;
use lakehouse_storage::{
    Bucket, CatalogDb, Credentials, Layer, LeaseOptions, PutOutcome, S3Options, Storage, StorageError, catalog, sha256,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn s3(endpoint: &str) -> Storage {
    let buckets = BTreeMap::from([(Layer::Bronze, Bucket::parse("bronze/some/prefix").unwrap())]);
    let credentials = Credentials::new("the-key-id", "the-secret");
    Storage::s3(&S3Options { endpoint: Some(endpoint.to_owned()), region: "us-east-1".to_owned(), buckets, credentials }).unwrap()
}

#[tokio::test]
async fn one_put_of_many_wins() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::local(directory.path()).unwrap();
    let bronze = storage.layer(Layer::Bronze).unwrap();
    let puts = (0..16).map(|number| {
        let bronze = bronze.clone();
        tokio::spawn(async move { bronze.put_if_absent("p/manifest.json", format!("{number}")).await.unwrap() })
    });
    let outcomes = futures::future::join_all(puts).await;
    let created = outcomes.into_iter().filter(|outcome| matches!(outcome, Ok(PutOutcome::Created))).count();
    assert_eq!(created, 1);
}

#[tokio::test]
async fn keys_are_taken_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::local(directory.path()).unwrap();
    storage.check().await.unwrap();
    let bronze = storage.layer(Layer::Bronze).unwrap();
    let key = "p/s/dt=2024-01-01/eu%2Fé %=&/part-00000.json";
    bronze.put(key, "x").await.unwrap();
    assert!(directory.path().join("bronze").join(key).is_file());
    assert_eq!(bronze.get(key).await.unwrap(), Bytes::from_static(b"x"));
    assert_eq!(bronze.list("p/s").await.unwrap().iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), [key]);
    assert!(bronze.list("p/s/dt=2024").await.unwrap().is_empty(), "prefixes are whole segments");
    assert_eq!(bronze.key_of(&bronze.uri(key)), Some(key));
    assert_eq!(bronze.head(key).await.unwrap().map(|entry| entry.size), Some(1));
    bronze.delete(key).await.unwrap();
    bronze.delete(key).await.unwrap();
    assert_eq!(bronze.get_opt(key).await.unwrap(), None);
    let missing = bronze.get(key).await.unwrap_err();
    assert!(matches!(&missing, StorageError::NotFound { uri } if uri.ends_with(key)), "{missing}");
    assert!(matches!(bronze.put("../escape", "x").await, Err(StorageError::Invalid { .. })));
}

#[tokio::test]
async fn a_streamed_object_appears_whole_with_its_digest() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::local(directory.path()).unwrap();
    let bronze = storage.layer(Layer::Bronze).unwrap();
    for megabytes in [0_usize, 1, 20] {
        let key = format!("stream/{megabytes}");
        let mut writer = bronze.writer(&key).unwrap();
        let part = Bytes::from(vec![7_u8; 1024 * 1024]);
        for _ in 0..megabytes {
            writer.write(part.clone()).await.unwrap();
        }
        assert_eq!(bronze.get_opt(&key).await.unwrap(), None, "visible before it is finished");
        let written = writer.finish().await.unwrap();
        let whole = bronze.get(&key).await.unwrap();
        assert_eq!((written.size, written.sha256), (whole.len() as u64, sha256(&whole)));
        assert_eq!(whole.len(), megabytes * 1024 * 1024);
    }
    let mut writer = bronze.writer("stream/aborted").unwrap();
    for _ in 0..20 {
        writer.write(Bytes::from(vec![7_u8; 1024 * 1024])).await.unwrap();
    }
    writer.abort().await.unwrap();
    assert_eq!(bronze.get_opt("stream/aborted").await.unwrap(), None);
}

#[tokio::test]
async fn a_store_that_refuses_connections_is_named_in_time() {
    let storage = s3("http://127.0.0.1:9");
    let expected = "object store http://127.0.0.1:9 does not answer: connection refused";
    let started = Instant::now();
    assert_eq!(storage.check().await.unwrap_err().to_string(), expected);
    assert_eq!(storage.ensure_buckets().await.unwrap_err().to_string(), expected);
    assert_eq!(storage.layer(Layer::Bronze).unwrap().get("x").await.unwrap_err().to_string(), expected);
    assert!(started.elapsed() < Duration::from_secs(40), "{:?} for three operations", started.elapsed());
}

#[tokio::test]
async fn a_store_that_says_nothing_is_given_up_in_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let started = Instant::now();
    let text = s3(&endpoint).check().await.unwrap_err().to_string();
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(text, format!("object store {endpoint} does not answer: timed out"));
}

#[tokio::test]
async fn a_layer_without_a_bucket_is_named() {
    let storage = s3("http://127.0.0.1:9");
    assert_eq!(storage.layer(Layer::Bronze).unwrap().uri("k"), "s3://bronze/some/prefix/k");
    let text = storage.layer(Layer::Gold).unwrap_err().to_string();
    assert!(text.contains("gold"), "{text}");
}

async fn database(directory: &tempfile::TempDir) -> CatalogDb {
    CatalogDb::connect(&format!("sqlite://{}/catalog.db", directory.path().display())).await.unwrap()
}

#[tokio::test]
async fn many_openers_of_one_file_agree() {
    let directory = tempfile::tempdir().unwrap();
    let uri = format!("sqlite://{}/catalog.db", directory.path().display());
    let opened = futures::future::join_all((0..8).map(|_| catalog::check(&uri))).await;
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
}

#[tokio::test]
async fn a_lease_has_one_holder_and_ends_with_release_or_time() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (database(&directory).await, database(&directory).await);
    let brief = LeaseOptions { ttl: Duration::from_millis(600), wait: Duration::from_millis(200), ..LeaseOptions::default() };
    let held = one.acquire_lease("table:silver.t", "one", brief).await.unwrap();
    let refused = other.acquire_lease("table:silver.t", "other", brief).await.unwrap_err();
    assert!(matches!(&refused, StorageError::LeaseBusy { holder, .. } if holder == "one"), "{refused}");
    // Renewal keeps it beyond its time to live.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    held.ensure_held().unwrap();
    assert_eq!(other.lease_holder("table:silver.t").await.unwrap().as_deref(), Some("one"));
    held.release().await.unwrap();
    let second = other.acquire_lease("table:silver.t", "other", brief).await.unwrap();
    // A holder that dies does not release; its lease ends with its time.
    drop(second);
    let patient = LeaseOptions { wait: Duration::from_secs(10), ..brief };
    let third = one.acquire_lease("table:silver.t", "third", patient).await.unwrap();
    third.ensure_held().unwrap();
}

#[tokio::test]
async fn a_lost_lease_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let db = database(&directory).await;
    let options = LeaseOptions { ttl: Duration::from_millis(300), wait: Duration::ZERO, ..LeaseOptions::default() };
    let held = db.acquire_lease("r", "one", options).await.unwrap();
    sqlx::query("UPDATE lakehouse_leases SET holder = 'thief', expires_at = expires_at + 60000").execute(db.pool()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(matches!(held.ensure_held(), Err(StorageError::LeaseLost { .. })));
}
