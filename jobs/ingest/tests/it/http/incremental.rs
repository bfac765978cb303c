//! Loading only what is new: what is asked for, and where it is kept.

use lakehouse_api::pipeline::{CursorType, Incremental, PagePaging, Paging};
use lakehouse_contract::{IngestSource, Interval, IntervalGrain, NoProgress, Reason, RunId, StageOutcome, StageSpec};
use lakehouse_ingest::{Options, run_with};

use super::{change, source};
use crate::common::{
    Lake, failure, options,
    server::{Server, ok},
};

fn by(cursor_type: CursorType, initial: Option<&str>) -> Incremental {
    Incremental { cursor: "/meta/at".into(), parameter: "since".into(), initial: initial.map(str::to_owned), cursor_type }
}

/// A run of `day` in January 2024 that is now.
async fn run(lake: &Lake, server: &Server, day: u32, run: &str, definition: &Incremental) -> (StageSpec, StageOutcome) {
    let mut spec = lake.spec(vec![("assets", source(server, "/orders?limit=2"))]);
    change(&mut spec, |source| {
        let IngestSource::Http { incremental, paging, .. } = source else { unreachable!() };
        *incremental = Some(definition.clone());
        let page = PagePaging { parameter: "page".into(), first: 1 };
        *paging = Some(Paging { page: Some(page), offset: None, cursor: None, next: None, link: None, max_pages: 9 });
    });
    spec.interval = Interval::parse(IntervalGrain::Daily, &format!("2024-01-{day:02}")).unwrap();
    spec.run.id = RunId::new(run, "uid");
    let end = spec.interval.end;
    let now = Options { now: std::sync::Arc::new(move || end), ..options(&[]) };
    let outcome = run_with(&spec, &lake.storage, &NoProgress, &now).await;
    (spec, outcome)
}

/// Orders that were changed at these times; answered two a page, those not before `since`.
async fn orders(times: &'static [&'static str]) -> Server {
    Server::start(move |_, request| {
        let value = |name: &str| request.target.split(['?', '&']).find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let since = value("since").unwrap_or_default().replace("%3A", ":").replace("%2B", "+");
        let page: usize = value("page").unwrap().parse().unwrap();
        let found = times.iter().filter(|at| **at >= since.as_str()).skip(2 * (page - 1)).take(2);
        let records: Vec<_> = found.map(|at| format!(r#"{{"meta":{{"at":"{at}"}}}}"#)).collect();
        ok(format!(r#"{{"data":[{}]}}"#, records.join(",")))
    })
    .await
}

async fn cursor(lake: &Lake, spec: &StageSpec) -> Option<String> {
    lake.manifest(spec).await.unwrap().sources[0].cursor.clone()
}

/// The requests from the one that `from` counts on, without their pages.
fn asked(server: &Server, from: usize) -> Vec<String> {
    let first = |target: String| target.replace("/orders?limit=2", "").replace("&page=1", "");
    server.requests()[from..].iter().map(|request| request.target.clone()).filter(|t| t.ends_with("page=1")).map(first).collect()
}

#[tokio::test]
async fn an_interval_goes_on_where_the_one_before_it_ended() {
    let all = ["2024-01-01T08:00:00Z", "2024-01-01T10:00:00Z", "2024-01-01T09:00:00Z"];
    let server = orders(Box::leak(Box::new(all))).await;
    let lake = Lake::new();
    let definition = by(CursorType::Timestamptz, Some("2020-01-01T00:00:00Z"));

    let (first, outcome) = run(&lake, &server, 1, "one", &definition).await;
    assert_eq!((outcome.failure, outcome.tables[0].rows_read), (None, 3));
    assert_eq!(cursor(&lake, &first).await.as_deref(), Some("2024-01-01T10:00:00Z"), "the greatest, not the last");

    // Two days later: the value goes on through an interval that was not run, into every page, and with nothing new it stays.
    let (third, outcome) = run(&lake, &server, 3, "three", &definition).await;
    assert_eq!((outcome.failure, outcome.tables[0].rows_read), (None, 1), "this source sends the record at the cursor again");
    assert_eq!(cursor(&lake, &third).await.as_deref(), Some("2024-01-01T10:00:00Z"));

    // Repeated by another run, an interval asks for the same.
    let before = server.requests().len();
    let (again, outcome) = run(&lake, &server, 3, "three-again", &definition).await;
    assert_eq!(outcome.failure, None);
    assert_eq!(asked(&server, before), ["&since=2024-01-01T10%3A00%3A00Z"]);
    assert_eq!(cursor(&lake, &again).await, cursor(&lake, &third).await);

    let before = server.requests().len();
    run(&lake, &server, 1, "one-again", &definition).await;
    assert_eq!(asked(&server, before), ["&since=2020-01-01T00%3A00%3A00Z"], "later intervals do not count");
}

#[tokio::test]
async fn the_newest_manifest_of_the_interval_before_counts_and_nothing_new_is_no_fault() {
    let lake = Lake::new();
    let definition = by(CursorType::Timestamptz, None);
    let early = orders(&["2024-01-01T08:00:00+02:00"]).await;
    let (_, outcome) = run(&lake, &early, 1, "z-first", &definition).await;
    assert_eq!((outcome.failure, asked(&early, 0)), (None, vec![String::new()]), "without `initial` the first request has no parameter");
    let late = orders(&["2024-01-01T07:00:00Z"]).await;
    let (_, outcome) = run(&lake, &late, 1, "a-second", &definition).await;
    assert_eq!(outcome.failure, None);
    // Both manifests were put at the same moment of the test's clock: the run's name decides, as for silver.
    let nothing = orders(&[]).await;
    let (spec, outcome) = run(&lake, &nothing, 2, "two", &definition).await;
    assert_eq!((outcome.failure, outcome.tables[0].rows_read, outcome.tables[0].files), (None, 0, 1));
    assert_eq!(asked(&nothing, 0), ["&since=2024-01-01T08%3A00%3A00%2B02%3A00"], "as it was received");
    assert_eq!(cursor(&lake, &spec).await.as_deref(), Some("2024-01-01T08:00:00+02:00"));

    let nowhere = Lake::new();
    let (_, outcome) = run(&nowhere, &nothing, 2, "two", &definition).await;
    assert_eq!(failure(&outcome).0, Reason::EmptyResponse, "a first load of nothing is");
}

#[tokio::test]
async fn values_of_another_type_are_refused_by_record() {
    for (cursor_type, body, expected) in [
        (
            CursorType::Timestamptz,
            r#"{"data":[{},{"meta":{"at":"2024-01-01"}}]}"#,
            "record 1: at incremental.cursor /meta/at is `2024-01-01`, no time",
        ),
        (CursorType::Long, r#"{"data":[{"meta":{"at":"x"}}]}"#, "record 0: at incremental.cursor /meta/at is `x`, no whole number"),
        (
            CursorType::String,
            r#"{"data":[{"meta":{"at":{}}}]}"#,
            "record 0: at incremental.cursor /meta/at is an object, which no cursor is",
        ),
    ] {
        let server = Server::start(move |_, _| ok(body)).await;
        let lake = Lake::new();
        let (_, outcome) = run(&lake, &server, 1, "one", &by(cursor_type, None)).await;
        let (reason, message) = failure(&outcome);
        assert_eq!(reason, Reason::InvalidResponse);
        assert!(message.contains(expected) && message.contains("rejected-00000.bin"), "{message}");
    }
}

#[tokio::test]
async fn numbers_compare_as_numbers_and_texts_as_texts() {
    for (cursor_type, expected) in [(CursorType::Long, "10"), (CursorType::String, "9")] {
        let server = Server::start(|_, request| match request.target.ends_with("page=1") {
            true => ok(r#"{"data":[{"meta":{"at":9}},{"meta":{"at":10}},{"meta":{"at":null}},{"meta":7},3]}"#),
            false => ok(r#"{"data":[]}"#),
        })
        .await;
        let lake = Lake::new();
        let (spec, outcome) = run(&lake, &server, 1, "one", &by(cursor_type, None)).await;
        assert_eq!(outcome.failure, None);
        assert_eq!(cursor(&lake, &spec).await.as_deref(), Some(expected), "{cursor_type:?}");
    }
}
