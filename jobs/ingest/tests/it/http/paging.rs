//! Paging: by number, offset, cursor, and links in the document or in the header.

use lakehouse_api::pipeline::{CursorPaging, LinkPaging, NextPaging, OffsetPaging, PagePaging, Paging};
use lakehouse_contract::{IngestSource, Reason, StageSpec};

use super::{change, source};
use crate::common::{
    Lake, failure,
    server::{Server, ok, reply},
};

fn with_paging(spec: &mut StageSpec, wanted: &Paging) {
    change(spec, |source| {
        let IngestSource::Http { paging, .. } = source else { unreachable!() };
        *paging = Some(wanted.clone());
    });
}

fn no_paging(max_pages: i32) -> Paging {
    Paging { page: None, offset: None, cursor: None, next: None, link: None, max_pages }
}

fn by_number(max_pages: i32) -> Paging {
    Paging { page: Some(PagePaging { parameter: "page".into(), first: 1 }), ..no_paging(max_pages) }
}

#[tokio::test]
async fn numbered_pages_become_one_object_each() {
    let server = Server::start(|_, request| match request.target.as_str() {
        "/assets?limit=2&page=1" => ok(r#"{"data":[1,2]}"#),
        "/assets?limit=2&page=2" => ok(r#"{"data":[3]}"#),
        _ => ok(r#"{"data":[]}"#),
    })
    .await;
    let lake = Lake::new();
    let mut spec = lake.spec(vec![("assets", source(&server, "/assets?limit=2"))]);
    with_paging(&mut spec, &by_number(2));
    let outcome = lake.run(&spec).await;
    assert_eq!(outcome.failure, None);
    let manifest = lake.manifest(&spec).await.unwrap();
    let records: Vec<_> =
        manifest.sources[0].objects.iter().map(|object| (object.key.rsplit('/').next().unwrap(), object.records)).collect();
    assert_eq!(records, [("part-00000.json", Some(2)), ("part-00001.json", Some(1))]);
    assert_eq!(server.requests().len(), 3);

    let same = Server::start(|_, _| ok(r#"{"data":[1,2]}"#)).await;
    let mut spec = lake.spec(vec![("same", source(&same, "/assets"))]);
    spec.run.id = lakehouse_contract::RunId::new("shop-2", "x");
    with_paging(&mut spec, &by_number(100));
    let outcome = lake.run(&spec).await;
    let (reason, message) = failure(&outcome);
    assert_eq!(reason, Reason::InvalidResponse);
    assert!(message.contains("/assets?page=2 answered with the same page twice: does it know the parameter `page`?"), "{message}");
}

#[tokio::test]
async fn linked_pages_are_followed_on_the_host() {
    let paging = |max_pages| Paging { next: Some(NextPaging { pointer: "/links/next".into() }), ..no_paging(max_pages) };
    let server = Server::start(|_, request| {
        let next = match request.target.as_str() {
            "/assets" => r#""/assets?cursor=b""#,
            "/assets?cursor=b" => r#""?cursor=c""#,
            "/away" => r#""http://192.0.2.1/assets""#,
            _ => "null",
        };
        ok(format!(r#"{{"data":["{}"],"links":{{"next":{next}}}}}"#, request.target))
    })
    .await;
    let lake = Lake::new();
    let mut spec = lake.spec(vec![("assets", source(&server, "/assets"))]);
    with_paging(&mut spec, &paging(3));
    assert_eq!(lake.run(&spec).await.tables[0].files, 3);

    let lake = Lake::new();
    with_paging(&mut spec, &paging(2));
    let outcome = lake.run(&spec).await;
    let (reason, message) = failure(&outcome);
    assert_eq!(reason, Reason::InvalidResponse);
    assert!(message.contains("the source has more than 2 pages (paging.maxPages)"), "{message}");

    let mut spec = lake.spec(vec![("assets", source(&server, "/away"))]);
    with_paging(&mut spec, &paging(3));
    let outcome = lake.run(&spec).await;
    let (reason, message) = failure(&outcome);
    assert_eq!(reason, Reason::InvalidResponse);
    assert!(message.contains("the next page http://192.0.2.1/assets is not on http://127.0.0.1:"), "{message}");
}

#[tokio::test]
async fn offsets_cursors_and_link_headers_lead_through_all_pages() {
    // Five records, two a page; the answer says all that a source may say of the next page.
    let server = Server::start(|_, request| {
        let value = |name: &str| request.target.split(['?', '&']).find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let from: usize = value("offset").or_else(|| value("after")).map_or(0, |text| text.parse().unwrap());
        let records: Vec<_> = (from..5).take(2).map(|number| format!(r#"{{"n":{number}}}"#)).collect();
        let next = from + 2;
        let (cursor, link) = if next < 5 {
            (next.to_string(), format!("link: </assets?after={next}>; rel=\"next\"\r\n"))
        } else {
            ("null".to_owned(), String::new())
        };
        reply("200 OK", &link, format!(r#"{{"data":[{}],"cursor":{cursor}}}"#, records.join(",")))
    })
    .await;
    let ways = [
        Paging { offset: Some(OffsetPaging { parameter: "offset".into(), page_size: Some(2) }), ..no_paging(3) },
        Paging { cursor: Some(CursorPaging { pointer: "/cursor".into(), parameter: "after".into() }), ..no_paging(3) },
        Paging { link: Some(LinkPaging { rel: "next".into() }), ..no_paging(3) },
    ];
    for (number, paging) in ways.into_iter().enumerate() {
        let lake = Lake::new();
        let mut spec = lake.spec(vec![("assets", source(&server, "/assets"))]);
        with_paging(&mut spec, &paging);
        let outcome = lake.run(&spec).await;
        assert_eq!(outcome.failure, None, "{paging:?}");
        assert_eq!((outcome.tables[0].rows_read, outcome.tables[0].files), (5, 3), "{paging:?}");
        assert_eq!(server.requests().len(), 3 * (number + 1), "{paging:?}");
    }
}
