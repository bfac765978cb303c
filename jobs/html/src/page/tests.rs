use lakehouse_api::pipeline::ScrapeField;
use serde_json::{Value, json};

use super::*;

fn rules(records: &str, fields: Value) -> Rules {
    let fields: Vec<ScrapeField> = serde_json::from_value(fields).unwrap();
    Rules::new(records, &fields).unwrap()
}

fn page(html: &str) -> Page {
    Page::parse(html.as_bytes(), Some("text/html; charset=utf-8"), Some(Url::parse("http://h/a/b.html?x=1").unwrap())).unwrap()
}

fn records(html: &str, rules: &Rules) -> Value {
    let page = page(html);
    let document: Value = serde_json::from_str(&page.document(rules).unwrap()).unwrap();
    assert_eq!(document["records"].as_array().unwrap().len() as u64, page.count(rules));
    document["records"].clone()
}

#[test]
fn fields_are_texts_attributes_lists_or_null() {
    let rules = rules(
        "li.book",
        json!([
            {"name": "title", "select": "h3 a", "attribute": "TITLE"},
            {"name": "price", "select": ".price", "match": "([0-9]+[.][0-9]{2})"},
            {"name": "currency", "select": ".price", "match": "^\\D"},
            {"name": "tags", "select": ".tag", "all": true},
            {"name": "urls", "select": "a", "attribute": "href", "all": true, "resolve": true},
            {"name": "class", "attribute": "class"},
            {"name": "text"},
        ]),
    );
    let html = "<ul><li class='book x'><h3>\n <a href='c.html#top' title='A &amp; B'>A\n\t&amp; …</a></h3><p class=price> £51.77\n</p>\
        <i class=tag>one</i><i class=tag></i><a href='http://[x'>y</a><li class=book><p class=price>free<br>today&nbsp; </ul><li>";
    assert_eq!(
        records(html, &rules),
        json!([
            {"title": "A & B", "price": "51.77", "currency": "£", "tags": ["one", ""], "urls": ["http://h/a/c.html#top", "http://[x"],
             "class": "book x", "text": "A & … £51.77 oney"},
            {"title": null, "price": null, "currency": "f", "tags": [], "urls": [], "class": "book", "text": "free today\u{a0}"},
        ])
    );
}

#[test]
fn the_first_element_counts_whether_it_has_the_attribute_or_not() {
    let rules = rules(
        "p",
        json!([{"name": "x", "select": "a", "attribute": "href"}, {"name": "all", "select": "a", "attribute": "href", "all": true}]),
    );
    assert_eq!(records("<p><a>1</a><a href=y>2</a>", &rules), json!([{"x": null, "all": ["y"]}]));
}

#[test]
fn a_document_says_where_it_came_from_and_is_json_whatever_is_in_it() {
    let rules = rules("p", json!([{"name": "t"}, {"name": "a", "attribute": "title"}]));
    let page = Page::parse(b"<p title='\"\\\n\x01\x00\xff'>\x00\"\\\x1f\xff</p>", Some("text/html; charset=utf-8"), None).unwrap();
    let document: Value = serde_json::from_str(&page.document(&rules).unwrap()).unwrap();
    let expected = json!({"url": null, "charset": "UTF-8", "records": [{"t": "\"\\\u{1f}\u{fffd}", "a": "\"\\\n\u{1}\u{fffd}\u{fffd}"}]});
    assert_eq!(document, expected);
}

#[test]
fn the_base_of_the_page_counts_for_links() {
    let link = Link::new("a.next").unwrap();
    let next = |html: &str| page(html).link(&link).map(|(href, base)| base.unwrap().join(&href).unwrap().to_string());
    assert_eq!(next("<a class=next href=' ?x=2 '>").as_deref(), Some("http://h/a/b.html?x=2"));
    assert_eq!(next("<base href='/c/'><base href='/d/'><a class=next href='e'>").as_deref(), Some("http://h/c/e"));
    assert_eq!(next("<base href='javascript:x'><a class=next href='e'>").as_deref(), Some("http://h/a/e"));
    assert_eq!(next("<a class=next href=''>"), None);
    assert_eq!(next("<a class=next>"), None);
    assert_eq!(next("<a href=x>"), None);
}

#[test]
fn wrong_pages_are_what_a_browser_makes_of_them() {
    let rules = rules("tr", json!([{"name": "cells", "select": "td", "all": true}]));
    assert_eq!(records("<table><tr><td>1<td>2<tr><td>3", &rules), json!([{"cells": ["1", "2"]}, {"cells": ["3"]}]));
    assert_eq!(records("<table><tr><td>1</td><td", &rules), json!([{"cells": ["1"]}]));
    assert_eq!(records("\u{0}\u{fffd}", &rules), json!([]));
    assert_eq!(records("", &rules), json!([]));
}

#[test]
fn records_within_records_have_an_end() {
    let text = "x".repeat(1 << 10);
    let nested = format!("{}{text}", "<div>".repeat(900));
    let whole = rules("div", json!([{"name": "t"}]));
    assert_eq!(records(&nested, &whole).as_array().unwrap().len(), 900);
    let large = format!("{}{}", "<div>".repeat(900), "x".repeat(1 << 17));
    assert_eq!(page(&large).document(&whole), Err(TooMuch::Extracted));
    let wide = format!("{}{}", "<div>".repeat(900), "<i></i>".repeat(10_000));
    let fields: Vec<Value> = (0..63).map(|n| json!({"name": format!("f{n}"), "attribute": "id"})).collect();
    assert_eq!(page(&wide).document(&rules("div", fields.into())), Err(TooMuch::Visits));
}

#[test]
fn a_selector_that_looks_down_takes_no_stack() {
    let deep = format!("{}<a href=x>", "<div>".repeat(990));
    assert_eq!(page(&deep).count(&rules("div:has(a)", json!([]))), 990);
}
