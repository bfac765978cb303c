//! The stage as a whole: one manifest per run whatever happens, files and generators included.

use std::{path::PathBuf, process::Stdio, time::Duration};

use crate::common::{
    Lake, failure, options,
    server::{Reply, Server, ok, reply},
};
use lakehouse_api::{
    common::HumanDuration,
    pipeline::{ClickstreamSource, FileFormat, History, PulseSource},
};
use lakehouse_contract::{
    BronzeManifest, HttpConnection, IngestSource, NoProgress, Reason, RunId, SilverInput, StageSpec, Work, env, keys,
};
use lakehouse_ingest::{MAX_OBJECT_BYTES, run, run_with};
use lakehouse_storage::{Layer, Storage};

fn pulse(minutes: u64) -> IngestSource {
    IngestSource::Pulse(PulseSource { every: HumanDuration::seconds(60 * minutes) })
}

fn clickstream(events: i64) -> IngestSource {
    IngestSource::Clickstream(ClickstreamSource {
        events,
        events_per_second: None,
        users: 500,
        products: 40,
        seed: 1,
        duplicates_per_ten_thousand: 100,
        faults_per_ten_thousand: 20,
    })
}

fn files(path: &str, format: FileFormat) -> IngestSource {
    IngestSource::Files { path: path.into(), format, allow_empty: false }
}

fn http(server: &Server, path: &str) -> IngestSource {
    IngestSource::Http {
        url: format!("{}{path}", server.url).parse().unwrap(),
        connection: HttpConnection { name: "api".into(), token_env: None, allowed_networks: Vec::new(), resource_hosts: Vec::new() },
        records: String::new(),
        paging: None,
        incremental: None,
        history: History::ByInterval,
        allow_empty: false,
        timeout_seconds: 20,
        retries: 0,
    }
}

#[tokio::test]
async fn a_rerun_adopts_the_manifest_and_fetches_nothing() {
    let server = Server::start(|number, _| ok(format!(r#"[{{"fetch":{number}}}]"#))).await;
    let lake = Lake::new();
    let mut spec = lake.spec(vec![("assets", http(&server, "/")), ("beat", pulse(60))]);
    let first = lake.run(&spec).await;
    assert_eq!(first.failure, None);
    let (manifest, keys) = (lake.manifest(&spec).await.unwrap(), lake.keys().await);

    spec.attempt = 2;
    let again = lake.run(&spec).await;
    assert_eq!(again.failure, None);
    assert!(again.inputs.is_empty() && again.tables.iter().all(|table| table.already_committed));
    let plain = |tables: &[lakehouse_contract::TableReport]| {
        tables.iter().map(|t| (t.name.clone(), t.rows_read, t.files, t.bytes_written)).collect::<Vec<_>>()
    };
    assert_eq!(plain(&again.tables), plain(&first.tables));
    assert_eq!((lake.manifest(&spec).await.unwrap(), lake.keys().await), (manifest, keys));
    assert_eq!(server.requests().len(), 1);

    // Another run of the same interval fetches again and leaves the first one as it is.
    let mut other = spec.clone();
    other.run.id = RunId::new("shop-2", "89abcdef");
    assert!(!lake.run(&other).await.tables[0].already_committed);
    assert_eq!(server.requests().len(), 2);
    assert_eq!(lake.manifest(&spec).await.unwrap().sources[0].objects.len(), 1);
}

#[tokio::test]
async fn of_two_executions_at_once_one_manifest_remains_and_its_objects_are_whole() {
    let server = Server::start(|number, _| ok(format!(r#"[{{"fetch":{number}}}]"#))).await;
    let lake = Lake::new();
    let spec = lake.spec(vec![("assets", http(&server, "/")), ("events", clickstream(2_000))]);
    let outcomes = futures::future::join_all((0..4).map(|_| lake.run(&spec))).await;

    assert!(outcomes.iter().all(|outcome| outcome.failure.is_none()), "{outcomes:?}");
    let committed = outcomes.iter().filter(|outcome| !outcome.tables[0].already_committed).count();
    assert_eq!(committed, 1);
    let manifests = lake.bronze().list(&keys::bronze_manifests("shop", &spec.interval, spec.grain)).await.unwrap();
    assert_eq!(manifests.len(), 1);
    // The digests hold: no execution wrote over an object of another.
    for source in lake.manifest(&spec).await.unwrap().sources {
        for object in &source.objects {
            lake.text(object).await;
        }
    }
    let parts: Vec<String> = lake.keys().await.into_iter().filter(|key| key.contains("/assets/")).collect();
    assert_eq!(parts.len(), server.requests().len(), "{parts:?}");
}

#[tokio::test]
async fn a_source_that_fails_leaves_no_manifest_and_the_next_attempt_succeeds() {
    let server = Server::start(|number, _| if number == 0 { reply("403 Forbidden", "", "no") } else { ok("[1]") }).await;
    let lake = Lake::new();
    let mut spec = lake.spec(vec![("beat", pulse(1)), ("assets", http(&server, "/x"))]);
    let failed = lake.run(&spec).await;
    assert_eq!(
        failure(&failed),
        (Reason::SourceRefused, format!("source assets: GET {}/x answered 403 Forbidden: no", server.url).as_str())
    );
    assert_eq!(lake.manifest(&spec).await, None);

    spec.attempt = 2;
    let names: Vec<String> = lake.run(&spec).await.tables.into_iter().map(|table| table.name).collect();
    assert_eq!(names, ["beat", "assets"], "the order of the definition, whichever was done first");
    let manifest = lake.manifest(&spec).await.unwrap();
    assert_eq!(manifest.attempt, 2);
    assert!(manifest.sources.iter().flat_map(|s| &s.objects).all(|object| object.key.contains("/run=shop-1-01234567-2/part-00000.")));
}

#[tokio::test]
async fn a_manifest_of_another_contract_is_refused_by_name() {
    let lake = Lake::new();
    let spec = lake.spec(vec![("beat", pulse(60))]);
    lake.run(&spec).await;
    let key = keys::bronze_manifest("shop", &spec.interval, spec.grain, &spec.run.id);
    let newer = BronzeManifest { contract: 2, ..lake.manifest(&spec).await.unwrap() };
    for (body, said) in
        [(serde_json::to_string(&newer).unwrap(), "it has contract version 2, this software has 1"), ("{}".into(), "missing field")]
    {
        lake.bronze().put(&key, body).await.unwrap();
        let outcome = lake.run(&spec).await;
        let (reason, message) = failure(&outcome);
        assert_eq!(reason, Reason::InputCorrupt);
        assert!(message.starts_with(&format!("bronze manifest {}: {said}", lake.bronze().uri(&key))), "{message}");
    }
}

#[tokio::test]
async fn another_stages_spec_is_refused() {
    let lake = Lake::new();
    let mut spec = lake.spec(Vec::new());
    spec.work = Work::Silver { input: SilverInput::Newest, tables: Vec::new(), replay: None };
    assert_eq!(failure(&lake.run(&spec).await), (Reason::InvalidDefinition, "the spec is for silver, not for ingest"));
}

#[tokio::test]
async fn files_are_copied_byte_by_byte_in_the_order_of_their_keys() {
    let lake = Lake::new();
    let landing = lake.storage.layer(Layer::Landing).unwrap();
    for (key, body) in [
        ("in/2024-01-01/b.csv", "x\r\n2\r\n"),
        ("in/2024-01-01/a.csv", "x\n\"1\n\"\n"),
        ("in/2024-01-01/c.txt", ""),
        ("in/2024-01-02/a.csv", ""),
    ] {
        landing.put(key, body).await.unwrap();
    }
    let spec = lake
        .spec(vec![("uploads", files("in/2024-01-01/*.csv", FileFormat::Csv)), ("one", files("in/2024-01-01/c.txt", FileFormat::Ndjson))]);
    let outcome = lake.run(&spec).await;
    assert_eq!(outcome.failure, None);
    assert_eq!((outcome.tables[0].files, outcome.tables[0].rows_read, outcome.tables[0].bytes_written), (2, 0, 13));
    let manifest = lake.manifest(&spec).await.unwrap();
    let objects = &manifest.sources[0].objects;
    assert_eq!(lake.text(&objects[0]).await, "x\n\"1\n\"\n");
    assert_eq!(lake.text(&objects[1]).await, "x\r\n2\r\n");
    assert!(objects[0].key.ends_with("/part-00000.csv") && objects[1].key.ends_with("/part-00001.csv"));
    assert_eq!((objects[0].metadata["landing-key"].as_str(), objects[0].records), ("in/2024-01-01/a.csv", None));
    assert!(objects[0].metadata["last-modified"].ends_with('Z'));
    assert_eq!((manifest.sources[1].objects[0].bytes, manifest.sources[1].objects[0].key.ends_with(".ndjson")), (0, true));
}

#[tokio::test]
async fn a_large_file_from_another_folder_is_copied_whole() {
    let elsewhere = tempfile::tempdir().unwrap();
    let body: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(elsewhere.path().join("big.parquet"), &body).unwrap();
    let mut lake = Lake::new();
    lake.storage = Storage::local(lake.folder.path()).unwrap().with_local_landing(elsewhere.path()).unwrap();
    let spec = lake.spec(vec![("uploads", files("**/big.parquet", FileFormat::Parquet))]);
    assert_eq!(lake.run(&spec).await.failure, None);
    let object = lake.manifest(&spec).await.unwrap().sources.remove(0).objects.remove(0);
    assert_eq!((object.bytes, object.sha256), (20_000_000, lakehouse_storage::sha256(&body)));
    assert_eq!(lake.bronze().get(&object.key).await.unwrap(), body);
}

#[tokio::test]
async fn files_that_do_not_exist_are_named_unless_that_is_allowed() {
    let lake = Lake::new();
    for path in ["in/*.csv", "in/a.csv"] {
        let outcome = lake.run(&lake.spec(vec![("uploads", files(path, FileFormat::Csv))])).await;
        let place = lake.storage.layer(Layer::Landing).unwrap().base_uri();
        let message = format!("source uploads: no file matches `{path}` in {place}");
        assert_eq!(failure(&outcome), (Reason::EmptyResponse, message.as_str()));
    }
    let outcome = lake.run(&lake.spec(vec![("uploads", files("../secret", FileFormat::Csv))])).await;
    assert_eq!(failure(&outcome).0, Reason::InvalidDefinition);

    let allowed = IngestSource::Files { path: "in/*.csv".into(), format: FileFormat::Csv, allow_empty: true };
    let outcome = lake.run(&lake.spec(vec![("uploads", allowed)])).await;
    assert_eq!((outcome.failure, outcome.tables[0].files), (None, 0));
}

#[tokio::test]
async fn a_heartbeat_has_every_tick_and_equal_bytes_each_time() {
    let (one, two) = (Lake::new(), Lake::new());
    let spec = one.spec(vec![("beat", pulse(1)), ("none", pulse(60 * 24 * 365))]);
    let outcome = one.run(&spec).await;
    assert_eq!((outcome.tables[0].rows_read, outcome.tables[1].rows_read, outcome.tables[1].files), (1440, 0, 0));
    two.run(&spec).await;
    let (first, second) = (one.manifest(&spec).await.unwrap(), two.manifest(&spec).await.unwrap());
    assert_eq!(first.sources[0].input_digest(), second.sources[0].input_digest());
    let text = one.text(&first.sources[0].objects[0]).await;
    assert_eq!(text.lines().count(), 1440);
    assert!(text.lines().next().unwrap().contains(r#""ts":"2024-01-01T00:00:00Z""#));
    assert!(text.lines().last().unwrap().contains(r#""ts":"2024-01-01T23:59:00Z""#));

    let outcome = one
        .run(&StageSpec {
            attempt: 9,
            run: lakehouse_contract::RunRef { id: RunId::new("shop-9", "9"), ..spec.run.clone() },
            ..one.spec(vec![("beat", pulse(0))])
        })
        .await;
    assert_eq!(failure(&outcome), (Reason::InvalidDefinition, "source beat: pulse.every must be at least one second"));
}

#[tokio::test]
async fn many_events_go_into_several_objects_of_whole_lines() {
    let lake = Lake::new();
    let spec = lake.spec(vec![("events", clickstream(400_000))]);
    let outcome = run(&spec, &lake.storage, &NoProgress).await;
    assert_eq!(outcome.failure, None);
    assert_eq!(outcome.tables[0].rows_written, 404_000);
    let manifest = lake.manifest(&spec).await.unwrap();
    let objects = &manifest.sources[0].objects;
    assert_eq!(objects.len(), 2);
    assert!(objects.iter().all(|object| object.bytes <= MAX_OBJECT_BYTES));
    let mut lines = 0;
    for object in objects {
        let text = lake.text(object).await;
        assert!(text.ends_with('\n'));
        assert_eq!(text.lines().count() as u64, object.records.unwrap());
        lines += text.lines().count();
    }
    assert_eq!(lines, 404_000);
}

/// The real binary, stopped at a moment when one source is done and another is not.
#[tokio::test]
async fn killed_before_its_manifest_an_ingest_does_not_exist_and_the_next_one_is_whole() {
    let server = Server::start(|number, _| if number == 0 { Reply::Silence(Duration::from_secs(60)) } else { ok("[1]") }).await;
    let lake = Lake::new();
    let spec = lake.spec(vec![("beat", pulse(1)), ("assets", http(&server, "/"))]);
    let part = lake.folder.path().join("bronze/shop/beat/dt=2024-01-01/run=shop-1-01234567-1/part-00000.ndjson");

    let mut killed = ingest_process(&lake, &spec);
    for _ in 0..400 {
        if part.exists() && !server.requests().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    killed.start_kill().unwrap();
    killed.wait().await.unwrap();
    assert!(part.exists());
    let before = std::fs::read(&part).unwrap();
    assert_eq!(lake.manifest(&spec).await, None);

    let status = ingest_process(&lake, &spec).wait().await.unwrap();
    assert_eq!(status.code(), Some(0));
    let manifest = lake.manifest(&spec).await.unwrap();
    let object = &manifest.sources[0].objects[0];
    assert_ne!(lake.folder.path().join("bronze").join(&object.key), part, "an object of the killed attempt is not written again");
    assert_eq!((lake.text(object).await.into_bytes(), std::fs::read(&part).unwrap()), (before.clone(), before));
}

/// SIGTERM, as Kubernetes sends it, is an orderly and retryable end.
#[tokio::test]
async fn stopped_by_a_signal_the_image_says_so() {
    let server = Server::start(|_, _| Reply::Silence(Duration::from_secs(60))).await;
    let lake = Lake::new();
    let spec = lake.spec(vec![("assets", http(&server, "/"))]);
    let mut process = ingest_process(&lake, &spec);
    for _ in 0..400 {
        if !server.requests().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let pid = process.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(process.wait().await.unwrap().code(), Some(10));
    let termination = std::fs::read_to_string(lake.folder.path().join("termination")).unwrap();
    assert!(termination.contains(r#""reason":"Interrupted""#), "{termination}");
    assert_eq!(lake.manifest(&spec).await, None);
}

fn ingest_process(lake: &Lake, spec: &StageSpec) -> tokio::process::Child {
    let file: PathBuf = lake.folder.path().join("stage.json");
    std::fs::write(&file, serde_json::to_vec(spec).unwrap()).unwrap();
    tokio::process::Command::new(env!("CARGO_BIN_EXE_ingest"))
        .env(env::STAGE_SPEC, file)
        .env(env::TERMINATION_PATH, lake.folder.path().join("termination"))
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_store_that_cannot_be_written_is_named() {
    let lake = Lake::new();
    let spec = lake.spec(vec![("beat", pulse(1))]);
    // A file where a folder has to be.
    std::fs::write(lake.folder.path().join("bronze/shop"), "").unwrap();
    let outcome = run_with(&spec, &lake.storage, &NoProgress, &options(&[])).await;
    let (reason, message) = failure(&outcome);
    assert_eq!(reason, Reason::StoreUnavailable);
    assert!(message.contains("/bronze/shop/"), "{message}");
}
