//! HTTP sources against a server that answers well, badly, late, or not at all.

mod incremental;
mod paging;

use std::time::{Duration, Instant};

use crate::common::{
    Lake, failure, options,
    server::{Reply, Server, ok, reply},
};
use lakehouse_api::pipeline::History;
use lakehouse_contract::{HttpConnection, IngestSource, Interval, IntervalGrain, NoProgress, Reason, StageOutcome, StageSpec, Work};
use lakehouse_ingest::run_with;

/// An HTTP source of `records` at `path`, with one retry and three seconds.
fn source(server: &Server, path: &str) -> IngestSource {
    IngestSource::Http {
        url: format!("{}{path}", server.url).parse().unwrap(),
        connection: HttpConnection { name: "coincap".into(), token_env: None, allowed_networks: Vec::new(), resource_hosts: Vec::new() },
        records: "/data".into(),
        paging: None,
        incremental: None,
        history: History::None,
        allow_empty: false,
        timeout_seconds: 3,
        retries: 1,
    }
}

fn change(spec: &mut StageSpec, change: impl Fn(&mut IngestSource)) {
    let Work::Ingest { sources } = &mut spec.work else { unreachable!() };
    sources.iter_mut().for_each(|source| change(&mut source.source));
}

fn with_token(spec: &mut StageSpec) {
    change(spec, |source| {
        let IngestSource::Http { connection, .. } = source else { unreachable!() };
        connection.token_env = Some("COINCAP_TOKEN".into());
    });
}

fn allow_empty(spec: &mut StageSpec) {
    change(spec, |source| {
        let IngestSource::Http { allow_empty, .. } = source else { unreachable!() };
        *allow_empty = true;
    });
}

/// The outcome of one source at `/assets`.
async fn outcome(lake: &Lake, server: &Server) -> StageOutcome {
    lake.run(&lake.spec(vec![("assets", source(server, "/assets"))])).await
}

#[tokio::test]
async fn the_body_is_kept_as_received_with_the_facts_of_the_answer() {
    let body = r#"{"data": [{"id":"a"}, 7, null],  "timestamp": 1.50}"#;
    let server = Server::start(move |_, _| {
        let headers = "content-type: application/json\r\netag: \"v1\"\r\nlast-modified: Mon, 01 Jan 2024 00:00:00 GMT\r\ndate: Tue, 02 Jan 2024 00:00:00 GMT\r\n";
        reply("200 OK", headers, body)
    })
    .await;
    let lake = Lake::new();
    let spec = lake.spec(vec![("assets", source(&server, "/assets?limit=20"))]);
    let outcome = lake.run(&spec).await;

    assert_eq!(outcome.failure, None);
    let report = &outcome.tables[0];
    assert_eq!((report.name.as_str(), report.rows_read, report.rows_written, report.files), ("assets", 3, 3, 1));
    assert_eq!((report.bytes_written, report.already_committed), (body.len() as u64, false));
    let manifest = lake.manifest(&spec).await.unwrap();
    let object = &manifest.sources[0].objects[0];
    assert_eq!(object.key, "shop/assets/dt=2024-01-01/run=shop-1-01234567-1/part-00000.json");
    assert_eq!(
        (lake.text(object).await.as_str(), object.records, object.captured_at),
        (body, Some(3), crate::common::at(crate::common::NOW))
    );
    let facts: Vec<(&str, &str)> = object.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        facts,
        [
            ("content-type", "application/json"),
            ("date", "Tue, 02 Jan 2024 00:00:00 GMT"),
            ("etag", "\"v1\""),
            ("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT"),
            ("status", "200"),
            ("url", format!("{}/assets?limit=20", server.url).as_str()),
        ]
    );
}

#[tokio::test]
async fn a_compressed_body_is_kept_decompressed() {
    // printf '{"data":[1,2]}' | gzip -n
    let gzip = [
        0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0xab, 0x56, 0x4a, 0x49, 0x2c, 0x49, 0x54, 0xb2, 0x8a, 0x36, 0xd4, 0x31,
        0x8a, 0xad, 0x05, 0x00, 0x8e, 0x58, 0x98, 0x08, 0x0e, 0x00, 0x00, 0x00,
    ];
    let server = Server::start(move |_, _| reply("200 OK", "content-encoding: gzip\r\n", gzip)).await;
    let lake = Lake::new();
    let spec = lake.spec(vec![("assets", source(&server, "/"))]);
    assert_eq!(lake.run(&spec).await.failure, None);
    let manifest = lake.manifest(&spec).await.unwrap();
    assert_eq!(lake.text(&manifest.sources[0].objects[0]).await, r#"{"data":[1,2]}"#);
    assert!(server.requests()[0].header("accept-encoding").unwrap().contains("gzip"));
}

#[tokio::test]
async fn a_4xx_is_refused_at_once_with_what_the_server_says() {
    let server = Server::start(|_, _| reply("404 Not Found", "", "no such\n  coin ".repeat(50))).await;
    let lake = Lake::new();
    let outcome = outcome(&lake, &server).await;
    let (reason, message) = failure(&outcome);
    assert_eq!(reason, Reason::SourceRefused);
    let said = "no such coin ".repeat(50);
    assert_eq!(message, format!("source assets: GET {}/assets answered 404 Not Found: {}", server.url, said[..200].trim_end()));
    assert_eq!(server.requests().len(), 1);
    assert_eq!(lake.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_429_is_tried_again_when_the_server_says() {
    let server = Server::start(|number, _| match number {
        0 => reply("429 Too Many Requests", "retry-after: 3600\r\n", ""),
        _ => ok(r#"{"data":[1]}"#),
    })
    .await;
    let lake = Lake::new();
    let began = Instant::now();
    assert_eq!(outcome(&lake, &server).await.failure, None);
    // An hour was asked for; the options cap it.
    assert!((Duration::from_millis(300)..Duration::from_secs(3)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_passing_500_is_survived_and_a_lasting_503_is_told() {
    let server = Server::start(|number, _| match number {
        0 => reply("500 Internal Server Error", "", ""),
        _ => ok(r#"{"data":[1]}"#),
    })
    .await;
    assert_eq!(outcome(&Lake::new(), &server).await.failure, None);

    let down = Server::start(|_, _| reply("503 Service Unavailable", "", "maintenance")).await;
    let outcome = outcome(&Lake::new(), &down).await;
    let (reason, message) = failure(&outcome);
    assert_eq!(reason, Reason::SourceUnavailable);
    assert_eq!(message, format!("source assets: GET {}/assets answered 503 Service Unavailable: maintenance (2 tries)", down.url));
    assert_eq!(down.requests().len(), 2);
}

#[tokio::test]
async fn no_answer_and_nobody_there_are_told() {
    let silent = Server::start(|_, _| Reply::Silence(Duration::from_secs(30))).await;
    let lake = Lake::new();
    let mut spec = lake.spec(vec![("assets", source(&silent, "/assets"))]);
    change(&mut spec, |source| {
        let IngestSource::Http { timeout_seconds, .. } = source else { unreachable!() };
        *timeout_seconds = 1;
    });
    let outcome = lake.run(&spec).await;
    assert_eq!(
        failure(&outcome),
        (Reason::SourceUnavailable, format!("source assets: GET {}/assets was not answered within 1 s (2 tries)", silent.url).as_str())
    );

    let gone = Server::start(|_, _| ok("")).await;
    let spec = lake.spec(vec![("assets", source(&gone, "/assets"))]);
    drop(gone);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let outcome = lake.run(&spec).await;
    let (reason, message) = failure(&outcome);
    assert_eq!(reason, Reason::SourceUnavailable);
    assert!(message.contains("/assets: Connection refused") && message.ends_with("(2 tries)"), "{message}");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_fetched_again() {
    let broken = || Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"data\":[1".to_vec());
    let server = Server::start(move |number, _| if number == 0 { broken() } else { ok(r#"{"data":[1]}"#) }).await;
    let lake = Lake::new();
    assert_eq!(outcome(&lake, &server).await.failure, None);
    assert_eq!(lake.keys().await.iter().filter(|key| key.contains("part-")).count(), 1);

    let always = Server::start(move |_, _| broken()).await;
    let outcome = outcome(&Lake::new(), &always).await;
    let (reason, message) = failure(&outcome);
    assert_eq!(reason, Reason::SourceUnavailable);
    assert!(message.contains("answered 200 OK, but the body broke off after") && message.ends_with("(2 tries)"), "{message}");
}

#[tokio::test]
async fn the_token_goes_to_the_host_and_nowhere_else() {
    let server = Server::start(|_, request| match request.header("authorization") {
        Some("Bearer s3cr3t") => ok(r#"{"data":[1]}"#),
        other => reply("401 Unauthorized", "", format!("bad credentials: {other:?}")),
    })
    .await;
    let lake = Lake::new();
    let mut spec = lake.spec(vec![("assets", source(&server, "/assets"))]);
    with_token(&mut spec);

    let unset = lake.run(&spec).await;
    let message = "source assets: connection coincap: environment variable COINCAP_TOKEN is not set";
    assert_eq!(failure(&unset), (Reason::SourceRefused, message));
    assert!(server.requests().is_empty());

    let wrong = run_with(&spec, &lake.storage, &NoProgress, &options(&[("COINCAP_TOKEN", "wr0ng-t0ken")])).await;
    let (reason, message) = failure(&wrong);
    assert_eq!(reason, Reason::SourceRefused);
    assert!(message.contains("401 Unauthorized: bad credentials") && message.contains("Bearer ***"), "{message}");
    assert!(!message.contains("wr0ng"), "{message}");

    let right = run_with(&spec, &lake.storage, &NoProgress, &options(&[("COINCAP_TOKEN", "s3cr3t\n")])).await;
    assert_eq!(right.failure, None);
    let manifest = serde_json::to_string(&lake.manifest(&spec).await.unwrap()).unwrap();
    assert!(!manifest.contains("s3cr3t"), "{manifest}");

    let unusable =
        run_with(&lake_spec_with_token(&server), &Lake::new().storage, &NoProgress, &options(&[("COINCAP_TOKEN", "a\nb")])).await;
    let (_, message) = failure(&unusable);
    assert_eq!(message, "source assets: connection coincap: the token has characters that no HTTP header can carry");
}

fn lake_spec_with_token(server: &Server) -> StageSpec {
    let mut spec = Lake::new().spec(vec![("assets", source(server, "/assets"))]);
    with_token(&mut spec);
    spec
}

#[tokio::test]
async fn redirects_stay_on_the_host() {
    let other = Server::start(|_, _| ok(r#"{"data":[1]}"#)).await;
    let elsewhere = format!("location: {}/x\r\n", other.url.replace("http://", "http://u:p@"));
    let server = Server::start(move |_, request| match request.target.as_str() {
        "/here" => reply("302 Found", "location: /assets?x=1\r\n", ""),
        "/there" => reply("307 Temporary Redirect", &elsewhere, ""),
        "/round" => reply("301 Moved Permanently", "location: /round\r\n", ""),
        _ => ok(r#"{"data":[1]}"#),
    })
    .await;
    let run = async |path: &str| {
        let lake = Lake::new();
        let mut spec = lake.spec(vec![("assets", source(&server, path))]);
        with_token(&mut spec);
        let outcome = run_with(&spec, &lake.storage, &NoProgress, &options(&[("COINCAP_TOKEN", "s3cr3t")])).await;
        (outcome, lake.manifest(&spec).await)
    };

    let (outcome, manifest) = run("/here").await;
    assert_eq!(outcome.failure, None);
    assert_eq!(manifest.unwrap().sources[0].objects[0].metadata["url"], format!("{}/assets?x=1", server.url));
    assert!(server.requests().iter().all(|request| request.header("authorization") == Some("Bearer s3cr3t")));

    let (outcome, _) = run("/there").await;
    let (reason, message) = failure(&outcome);
    assert_eq!(reason, Reason::SourceRefused);
    let expected = format!(
        "source assets: GET {}/there answered 307 Temporary Redirect to {}/x, which is not on {}: redirects to another host are not followed",
        server.url, other.url, server.url
    );
    assert_eq!(message, expected);
    assert!(other.requests().is_empty());

    let (outcome, _) = run("/round").await;
    assert_eq!(
        failure(&outcome),
        (Reason::InvalidResponse, format!("source assets: GET {}/round: more than 10 redirects", server.url).as_str())
    );
}

#[tokio::test]
async fn what_is_not_json_is_told_with_its_place_and_kept() {
    let server = Server::start(|_, _| ok("{\"data\": [1,\n 2,}")).await;
    let lake = Lake::new();
    let outcome = outcome(&lake, &server).await;
    let (reason, message) = failure(&outcome);
    assert_eq!(reason, Reason::InvalidResponse);
    let asked = format!("source assets: GET {}/assets answered 200 OK with something that is not JSON: ", server.url);
    assert!(message.starts_with(&asked) && message.contains("at line 2 column 4 (2 tries)"), "{message}");
    let key = "shop/assets/dt=2024-01-01/run=shop-1-01234567-1/rejected-00000.bin";
    assert!(message.ends_with(&format!("; the body is kept as {}", lake.bronze().uri(key))), "{message}");
    assert_eq!(lake.bronze().get(key).await.unwrap(), "{\"data\": [1,\n 2,}");
    assert_eq!(lake.keys().await, [key]);
    assert_eq!(server.requests().len(), 2);

    let cured = Server::start(|number, _| if number == 0 { ok(b"\xff{}") } else { ok(r#"{"data":[1]}"#) }).await;
    let lake = Lake::new();
    assert_eq!(self::outcome(&lake, &cured).await.failure, None);
}

#[tokio::test]
async fn another_shape_is_told_and_kept_without_another_try() {
    for (body, said) in [
        (r#"{"error":"quota"}"#, "answered 200 OK, but there is nothing at records pointer /data"),
        (r#"{"data":{"id":1}}"#, "answered 200 OK, but at records pointer /data is an object, not an array"),
        (r#"{"data":null}"#, "answered 200 OK, but at records pointer /data is null, not an array"),
    ] {
        let server = Server::start(move |_, _| ok(body)).await;
        let lake = Lake::new();
        let outcome = outcome(&lake, &server).await;
        let (reason, message) = failure(&outcome);
        assert_eq!(reason, Reason::InvalidResponse);
        assert!(message.contains(said) && message.contains("rejected-00000.bin"), "{message}");
        assert_eq!(server.requests().len(), 1);
        assert_eq!(lake.bronze().get(&lake.keys().await[0]).await.unwrap(), body);
    }
}

#[tokio::test]
async fn a_whole_document_is_an_array_or_one_record() {
    for (body, records) in
        [("[1,2,3]", Ok(3)), (r#"{"id":1}"#, Ok(1)), ("7", Err("with a number, where an array of records or one record"))]
    {
        let server = Server::start(move |_, _| ok(body)).await;
        let lake = Lake::new();
        let mut spec = lake.spec(vec![("assets", source(&server, "/"))]);
        change(&mut spec, |source| {
            let IngestSource::Http { records, .. } = source else { unreachable!() };
            records.clear();
        });
        let outcome = lake.run(&spec).await;
        match records {
            Ok(records) => assert_eq!(outcome.tables[0].rows_read, records),
            Err(said) => assert!(failure(&outcome).1.contains(said), "{outcome:?}"),
        }
    }
}

#[tokio::test]
async fn nothing_is_an_error_unless_it_is_allowed() {
    let empty_body = Server::start(|_, _| ok("")).await;
    let no_record = Server::start(|_, _| ok(r#"{"data":[]}"#)).await;
    let no_content = Server::start(|_, _| Reply::Bytes(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_vec())).await;
    for (server, said) in [
        (&empty_body, "answered 200 OK with an empty body"),
        (&no_record, "answered 200 OK with no record at /data; allowEmpty accepts that"),
        (&no_content, "answered 204 No Content with an empty body"),
    ] {
        let outcome = outcome(&Lake::new(), server).await;
        let (reason, message) = failure(&outcome);
        assert_eq!((reason, message), (Reason::EmptyResponse, format!("source assets: GET {}/assets {said}", server.url).as_str()));
    }
    for (server, files) in [(&empty_body, None), (&no_record, Some(1)), (&no_content, Some(0))] {
        let lake = Lake::new();
        let mut spec = lake.spec(vec![("assets", source(server, "/assets"))]);
        allow_empty(&mut spec);
        let outcome = lake.run(&spec).await;
        match files {
            Some(files) => assert_eq!((outcome.tables[0].files, outcome.tables[0].rows_read), (files, 0), "{outcome:?}"),
            None => assert_eq!(failure(&outcome).0, Reason::EmptyResponse),
        }
    }
}

#[tokio::test]
async fn a_response_without_measure_is_refused() {
    let server = Server::start(|_, _| ok(" ".repeat(100_001))).await;
    let outcome = outcome(&Lake::new(), &server).await;
    let (reason, message) = failure(&outcome);
    assert_eq!(reason, Reason::InvalidResponse);
    assert!(message.contains("with more than 100000 bytes"), "{message}");
}

#[tokio::test]
async fn the_past_is_not_asked_of_a_source_that_knows_only_the_present() {
    let server = Server::start(|_, _| ok(r#"{"data":[1]}"#)).await;
    let lake = Lake::new();
    let mut spec = lake.spec(vec![("assets", source(&server, "/assets"))]);
    spec.interval = Interval::parse(IntervalGrain::Daily, "2019-05-30").unwrap();
    let outcome = lake.run(&spec).await;
    let message = "source assets: it knows only the present: interval 2019-05-30 ended 2019-05-31T00:00:00Z (1677 days ago); \
                   a backfill can replay bronze, or use a connection with `archive`";
    assert_eq!(failure(&outcome), (Reason::NoHistory, message));
    assert!(server.requests().is_empty());

    change(&mut spec, |source| {
        let IngestSource::Http { history, .. } = source else { unreachable!() };
        *history = History::ByInterval;
    });
    assert_eq!(lake.run(&spec).await.failure, None);
}

#[tokio::test]
async fn a_password_in_a_url_is_refused_and_not_shown() {
    let server = Server::start(|_, _| ok("{}")).await;
    let lake = Lake::new();
    let mut spec = lake.spec(vec![("assets", source(&server, "/assets"))]);
    change(&mut spec, |source| {
        let IngestSource::Http { url, .. } = source else { unreachable!() };
        url.set_password(Some("hunter2")).unwrap();
    });
    let outcome = lake.run(&spec).await;
    let (reason, message) = failure(&outcome);
    assert_eq!(reason, Reason::InvalidDefinition);
    assert!(message.contains("use authorizationSecret") && !message.contains("hunter2"), "{message}");
    assert!(server.requests().is_empty());
}
