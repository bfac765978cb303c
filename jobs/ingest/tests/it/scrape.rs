//! Pages of a server that has what people want to scrape, or wants to harm whoever does.

use std::time::{Duration, Instant};

use crate::common::{
    Lake, NOW, at, failure, options,
    server::{Reply, Request, Server, reply},
};
use lakehouse_api::pipeline::{History, Robots, ScrapeNext, ScrapePaging};
use lakehouse_contract::{HttpConnection, IngestSource, Interval, IntervalGrain, NoProgress, Reason, StageSpec, Work};
use lakehouse_ingest::run_with;

/// What a test changes of the source.
struct Wanted {
    path: &'static str,
    max_pages: i32,
    allow_empty: bool,
    robots: Robots,
    interval_millis: u64,
    retries: u32,
    token: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { path: "/list", max_pages: 10, allow_empty: false, robots: Robots::Obey, interval_millis: 0, retries: 1, token: false }
    }
}

/// Records are `li`, the next page is behind `a.next`.
fn spec(lake: &Lake, server: &Server, wanted: &Wanted) -> StageSpec {
    let token_env = wanted.token.then(|| "BOOKS_TOKEN".to_owned());
    let source = IngestSource::Scrape {
        url: format!("{}{}", server.url, wanted.path).parse().unwrap(),
        connection: HttpConnection { name: "books".into(), token_env, allowed_networks: Vec::new(), resource_hosts: Vec::new() },
        records: "li".into(),
        paging: Some(ScrapePaging { next: ScrapeNext { select: "a.next".into() }, max_pages: wanted.max_pages }),
        history: History::None,
        allow_empty: wanted.allow_empty,
        request_interval_millis: wanted.interval_millis,
        robots: wanted.robots,
        timeout_seconds: 3,
        retries: wanted.retries,
        render: None,
    };
    lake.spec(vec![("books", source)])
}

fn html(body: impl AsRef<[u8]>) -> Reply {
    reply("200 OK", "content-type: text/html; charset=utf-8\r\n", body)
}

fn not_found() -> Reply {
    reply("404 Not Found", "", "no")
}

/// A server without robots.txt.
async fn pages(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |_, request| if request.target == "/robots.txt" { not_found() } else { answer(request) }).await
}

fn targets(server: &Server) -> Vec<String> {
    server.requests().into_iter().map(|request| request.target).collect()
}

/// The reason and the message of a run that must fail.
async fn refused(server: &Server, wanted: &Wanted) -> (Reason, String) {
    let lake = Lake::new();
    let outcome = lake.run(&spec(&lake, server, wanted)).await;
    let (reason, message) = failure(&outcome);
    (reason, message.to_owned())
}

#[tokio::test]
async fn pages_are_kept_as_received_and_followed_to_the_last() {
    // Links of all kinds: relative, from the base, absolute, and with a place in the page.
    let server = pages(|request| match request.target.as_str() {
        "/list?x=1" => html(b"\xEF\xBB\xBF<li>1<li>2\x00\xFF<a class=next href='sub/b.html#top'>next</a><a class=next href=/wrong>"),
        "/sub/b.html" => html("<base href='/other/'><li>3<a class=next href=c>"),
        "/other/c" => html(format!("<li>4<a class=next href='http://{}/d?e=f&amp;g'>", request.header("host").unwrap())),
        "/d?e=f&g" => html("<a class=next href=' '><li>5"),
        other => panic!("{other}"),
    })
    .await;
    let lake = Lake::new();
    let spec = spec(&lake, &server, &Wanted { path: "/list?x=1", ..Wanted::default() });
    let outcome = lake.run(&spec).await;
    assert_eq!(outcome.failure, None);
    assert_eq!((outcome.tables[0].rows_read, outcome.tables[0].files), (5, 4));
    assert_eq!(targets(&server), ["/robots.txt", "/list?x=1", "/sub/b.html", "/other/c", "/d?e=f&g"]);
    let objects = &lake.manifest(&spec).await.unwrap().sources[0].objects;
    assert_eq!(objects.iter().map(|object| object.records).collect::<Vec<_>>(), [Some(2), Some(1), Some(1), Some(1)]);
    assert_eq!(objects[0].key, "shop/books/dt=2024-01-01/run=shop-1-01234567-1/part-00000.html");
    assert_eq!(objects[0].metadata["content-type"], "text/html; charset=utf-8");
    assert_eq!(objects[3].metadata["url"], format!("{}/d?e=f&g", server.url));
    let stored = std::fs::read(lake.folder.path().join("bronze").join(&objects[0].key)).unwrap();
    assert!(stored.starts_with(b"\xEF\xBB\xBF<li>1<li>2\x00\xFF<a"), "the page must be kept byte by byte");
    let asked = &server.requests()[1];
    assert_eq!((asked.header("accept"), asked.header("authorization")), (Some("text/html,application/xhtml+xml"), None));
    assert!(asked.header("user-agent").unwrap().starts_with("lakehouse-ingest/"));
}

#[tokio::test]
async fn pages_in_a_circle_of_another_host_or_without_end_are_refused() {
    let server = pages(|request| {
        html(match request.target.as_str() {
            "/self" => "<li><a class=next href='#2'>",
            "/list" => "<li><a class=next href=/b>",
            "/b" => "<li><a class=next href=/list#again>",
            "/moved" => "<li><a class=next href=/old>",
            "/foreign" => "<li><a class=next href='http://192.0.2.1/b'>",
            "/scheme" => "<li><a class=next href='javascript:next()'>",
            "/port" => "<li><a class=next href='//127.0.0.1:1/b'>",
            "/no-url" => "<li><a class=next href='http://['>",
            "/endless" => "<li><a class=next href='/endless?n'>",
            _ => {
                return if request.target == "/old" {
                    reply("302 Found", "location: /moved\r\n", "")
                } else {
                    html(format!("<li><a class=next href='{}n'>", request.target))
                };
            }
        })
    })
    .await;
    for (path, said) in [
        ("/self", "/self was fetched already"),
        ("/list", "/b: the next page"),
        ("/old", "/old was fetched already"),
        ("/foreign", "the next page http://192.0.2.1/b is not on http://127.0.0.1"),
        ("/scheme", "is not on http://127.0.0.1"),
        ("/port", "pages of another host are not fetched"),
        ("/no-url", "at `a.next` is no URL"),
        ("/endless", "the source has more than 10 pages (paging.maxPages)"),
    ] {
        let (reason, message) = refused(&server, &Wanted { path, ..Wanted::default() }).await;
        assert_eq!(reason, Reason::InvalidResponse, "{path}: {message}");
        assert!(message.contains(said) && message.contains("the body is kept as "), "{path}: {message}");
    }
}

#[tokio::test]
async fn the_token_goes_to_the_connection_only() {
    let other = Server::start(|_, _| html("<li>")).await;
    let elsewhere = format!("location: {}/list\r\n", other.url);
    let server = Server::start(move |_, request| match request.target.as_str() {
        "/robots.txt" => not_found(),
        "/list" => reply("301 Moved", "location: /there\r\n", ""),
        "/there" => html("<li>1"),
        _ => reply("307 Elsewhere", &elsewhere, ""),
    })
    .await;
    let lake = Lake::new();
    let token = options(&[("BOOKS_TOKEN", "s3cret")]);
    let wanted = Wanted { token: true, ..Wanted::default() };
    let outcome = run_with(&spec(&lake, &server, &wanted), &lake.storage, &NoProgress, &token).await;
    assert_eq!(outcome.failure, None);
    assert!(server.requests().iter().all(|request| request.header("authorization") == Some("Bearer s3cret")));
    let lake = Lake::new();
    let spec = spec(&lake, &server, &Wanted { path: "/away", ..wanted });
    let outcome = run_with(&spec, &lake.storage, &NoProgress, &token).await;
    let (reason, message) = failure(&outcome);
    assert_eq!(reason, Reason::SourceRefused);
    assert!(message.contains("redirects to another host are not followed") && !message.contains("s3cret"), "{message}");
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn what_robots_txt_disallows_is_not_asked_for() {
    let server = Server::start(|_, request| match request.target.as_str() {
        "/robots.txt" => reply("200 OK", "", "User-agent: *\nDisallow: /private\nDisallow: /*?page=3$\n\nUser-agent: other\nDisallow: /"),
        "/list" => html("<li><a class=next href='/list?page=2'>"),
        "/list?page=2" => html("<li><a class=next href='/list?page=3'>"),
        "/moved" => reply("302 Found", "location: /private/x\r\n", ""),
        _ => html("<li>"),
    })
    .await;
    for (path, asked) in [
        ("/private/a", vec!["/robots.txt"]),
        ("/list", vec!["/robots.txt", "/list", "/list?page=2"]),
        ("/moved", vec!["/robots.txt", "/moved"]),
    ] {
        let before = server.requests().len();
        let (reason, message) = refused(&server, &Wanted { path, ..Wanted::default() }).await;
        assert_eq!(reason, Reason::SourceRefused);
        assert!(message.contains("/robots.txt says `Disallow: /") && message.contains("`robots: ignore`"), "{message}");
        assert_eq!(targets(&server)[before..], asked);
    }
    let lake = Lake::new();
    let before = server.requests().len();
    let outcome = lake.run(&spec(&lake, &server, &Wanted { path: "/private/a", robots: Robots::Ignore, ..Wanted::default() })).await;
    assert_eq!((outcome.failure, &targets(&server)[before..]), (None, &["/private/a".to_owned()][..]));
}

#[tokio::test]
async fn without_a_robots_txt_everything_is_allowed_but_one_that_does_not_answer_forbids() {
    let server = Server::start(|_, request| match request.target.as_str() {
        "/robots.txt" => reply("503 Busy", "", "later"),
        _ => html("<li>"),
    })
    .await;
    let (reason, message) = refused(&server, &Wanted::default()).await;
    assert_eq!(reason, Reason::SourceUnavailable);
    assert!(message.contains("/robots.txt answered 503") && message.contains("(2 tries)"), "{message}");
    assert_eq!(targets(&server), ["/robots.txt", "/robots.txt"]);
    for status in ["401 Unauthorized", "403 Forbidden", "404 Not Found", "410 Gone"] {
        let server =
            Server::start(move |_, request| if request.target == "/robots.txt" { reply(status, "", "") } else { html("<li>") }).await;
        let lake = Lake::new();
        assert_eq!(lake.run(&spec(&lake, &server, &Wanted::default())).await.failure, None, "{status}");
    }
}

#[tokio::test]
async fn requests_are_as_far_apart_as_is_said_or_as_robots_txt_asks() {
    for (interval_millis, robots, least) in [(60, "", 180), (10, "user-agent: *\ncrawl-delay: 0.1", 300)] {
        let server = Server::start(move |_, request| match request.target.as_str() {
            "/robots.txt" => reply("200 OK", "", robots),
            "/list" => html("<li><a class=next href=/b>"),
            "/b" => html("<li><a class=next href=/c>"),
            _ => html("<li>"),
        })
        .await;
        let lake = Lake::new();
        let began = Instant::now();
        let outcome = lake.run(&spec(&lake, &server, &Wanted { interval_millis, ..Wanted::default() })).await;
        assert_eq!((outcome.failure, server.requests().len()), (None, 4));
        assert!(began.elapsed() >= Duration::from_millis(least), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn troubles_that_pass_are_met_with_another_try() {
    let server = Server::start(|number, request| match (number, request.target.as_str()) {
        (_, "/robots.txt") => not_found(),
        (1, _) => reply("429 Too Many", "retry-after: 0\r\n", ""),
        (2, _) => Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\nconnection: close\r\n\r\n<li>cut".to_vec()),
        (3, _) => reply("500 Oops", "", ""),
        _ => html("<li>whole"),
    })
    .await;
    let lake = Lake::new();
    let spec = spec(&lake, &server, &Wanted { retries: 3, ..Wanted::default() });
    assert_eq!(lake.run(&spec).await.failure, None);
    let object = &lake.manifest(&spec).await.unwrap().sources[0].objects[0];
    assert_eq!(lake.text(object).await, "<li>whole");
    let down = pages(|_| reply("502 Bad Gateway", "", "<html>down")).await;
    let (reason, message) = refused(&down, &Wanted::default()).await;
    assert_eq!(reason, Reason::SourceUnavailable);
    assert!(message.ends_with("answered 502 Bad Gateway: <html>down (2 tries)"), "{message}");
}

#[tokio::test]
async fn a_page_without_records_fails_the_run_unless_it_is_allowed() {
    let server = pages(|request| match request.target.as_str() {
        "/list" => html("<li><a class=next href=/wall>"),
        "/wall" => html("<h1>Are you human?</h1>"),
        "/nothing" => html(""),
        _ => reply("204 No Content", "", ""),
    })
    .await;
    let url = &server.url;
    for (path, said) in [
        (
            "/list",
            format!(
                "GET {url}/wall answered 200 OK (text/html; charset=utf-8), but records selector `li` matches nothing in it; allowEmpty accepts that; the body is kept as "
            ),
        ),
        ("/nothing", format!("GET {url}/nothing answered 200 OK with an empty body")),
        ("/204", format!("GET {url}/204 answered 204 No Content with an empty body")),
    ] {
        let (reason, message) = refused(&server, &Wanted { path, ..Wanted::default() }).await;
        assert_eq!(reason, Reason::EmptyResponse);
        assert!(message.contains(&said), "{message}");
    }
    for (path, files) in [("/list", 2), ("/204", 0)] {
        let lake = Lake::new();
        let outcome = lake.run(&spec(&lake, &server, &Wanted { path, allow_empty: true, ..Wanted::default() })).await;
        assert_eq!((&outcome.failure, outcome.tables[0].files), (&None, files), "{path}");
    }
}

#[tokio::test]
async fn hostile_pages_are_refused_and_kept() {
    let server = pages(|request| match request.target.as_str() {
        "/deep" => html(format!("<li>{}", "<b>".repeat(20_000))),
        "/large" => html(" ".repeat(100_001)),
        _ => reply("200 OK", "content-encoding: br\r\n", "zzz"),
    })
    .await;
    for (path, said) in [
        ("/deep", "but the page has elements nested more than 1000 levels deep; the body is kept as "),
        ("/large", "with more than 100000 bytes"),
        ("/br", "with Content-Encoding br, which was not asked for; the body is kept as "),
    ] {
        let (reason, message) = refused(&server, &Wanted { path, ..Wanted::default() }).await;
        assert_eq!(reason, Reason::InvalidResponse, "{message}");
        assert!(message.contains(said), "{message}");
    }
}

#[tokio::test]
async fn the_past_is_not_asked_for_and_a_selector_that_is_none_is_named() {
    let server = pages(|_| html("<li>")).await;
    let lake = Lake::new();
    let mut past = spec(&lake, &server, &Wanted::default());
    past.interval = Interval::parse(IntervalGrain::Daily, "2019-05-30").unwrap();
    assert_eq!(failure(&lake.run(&past).await).0, Reason::NoHistory);
    let mut wrong = spec(&lake, &server, &Wanted::default());
    let Work::Ingest { sources } = &mut wrong.work else { unreachable!() };
    let IngestSource::Scrape { records, .. } = &mut sources[0].source else { unreachable!() };
    *records = "li[".into();
    let outcome = lake.run(&wrong).await;
    let (reason, message) = failure(&outcome);
    assert_eq!(reason, Reason::InvalidDefinition);
    assert!(message.starts_with("source books: scrape.records: `li[` is not a CSS selector"), "{message}");
    assert!(server.requests().is_empty());
    assert!(at(NOW) > past.interval.end);
}
