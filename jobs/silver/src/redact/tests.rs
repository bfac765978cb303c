//! Every kind of object, with and without the value.

use lakehouse_html::{Page, Rules};

use super::{compression::gzip, *};

fn redaction(decode: Decode) -> Redaction {
    Redaction::new(&decode, &[("/user/id".into(), "u1".into()), ("$document/owner".into(), "u1".into())]).unwrap()
}

fn some(found: Found) -> (String, u64) {
    let Found::Some { content, records } = found else { panic!("{found:?}") };
    (String::from_utf8(content).unwrap(), records)
}

#[test]
fn lines_go_whole_and_the_others_stay_as_they_are() {
    let lines = "{\"user\": {\"id\":\"u1\"}}\n {\"user\":{\"id\":\"u2\"},\"n\":0.10}\r\n{\"user\":{\"id\":\"\\u00751\"}}\nbroken u1\nbroken u12\n{\"x\":\"u1\"}";
    let expected = " {\"user\":{\"id\":\"u2\"},\"n\":0.10}\r\nbroken u12\n{\"x\":\"u1\"}";
    assert_eq!(some(redaction(Decode::Ndjson).content(lines.as_bytes(), &BTreeMap::new()).unwrap()), (expected.to_owned(), 3));
}

#[test]
fn elements_go_from_a_document() {
    let json = redaction(Decode::Json { records: "/data".into() });
    let document = "{\"n\": 1.50, \"data\": [ {\"user\":{\"id\":\"u1\"}} , {\"user\":{\"id\":\"u2\"},\"p\":1.0} ,{\"user\":{\"id\":\"u3\"}}], \"z\":null}";
    let expected = "{\"n\": 1.50, \"data\": [{\"user\":{\"id\":\"u2\"},\"p\":1.0},{\"user\":{\"id\":\"u3\"}}], \"z\":null}";
    assert_eq!(some(json.content(document.as_bytes(), &BTreeMap::new()).unwrap()), (expected.to_owned(), 1));
    let own = "{\"owner\":\"u1\",\"data\":[{},{}]}";
    assert_eq!(json.content(own.as_bytes(), &BTreeMap::new()).unwrap(), Found::All { records: 2 });
    assert_eq!(json.content(b"{\"data\": [{\"user\":{\"id\":\"u2\"}}]}", &BTreeMap::new()).unwrap(), Found::Nothing);
    assert_eq!(json.content(b"{\"data\": [{\"user\":{\"id\":\"u1\"}", &BTreeMap::new()).unwrap(), Found::All { records: 1 });
}

#[test]
fn csv_records_go_with_their_quotes_and_line_ends() {
    let csv = Redaction::new(&Decode::Csv, &[("/id".into(), "a\"b".into())]).unwrap();
    let text = "\u{feff}id,t\r\n\"a\"\"b\",\"x\ny\"\r\nc,\"a\"\"b\"\r\n";
    assert_eq!(some(csv.content(text.as_bytes(), &BTreeMap::new()).unwrap()), ("\u{feff}id,t\r\nc,\"a\"\"b\"\r\n".to_owned(), 1));
}

#[test]
fn a_compressed_object_stays_compressed() {
    let lines = "{\"user\":{\"id\":\"u1\"}}\n{\"user\":{\"id\":\"u2\"}}\n";
    for stored in [gzip(lines.as_bytes()).unwrap(), zstd::encode_all(lines.as_bytes(), 0).unwrap()] {
        let Found::Some { content, records } = redaction(Decode::Ndjson).content(&stored, &BTreeMap::new()).unwrap() else { panic!() };
        assert_eq!((&content[..2], records), (&stored[..2], 1));
        assert_eq!(plain(&content).unwrap().0, b"{\"user\":{\"id\":\"u2\"}}\n");
    }
    let broken = &gzip(lines.as_bytes()).unwrap()[..20];
    assert!(redaction(Decode::Ndjson).content(broken, &BTreeMap::new()).unwrap_err().contains("damaged"));
}

#[test]
fn numbers_are_compared_as_numbers_and_words_as_words() {
    let by_number = Redaction::new(&Decode::Ndjson, &[("/id".into(), "7".into())]).unwrap();
    assert!(by_number.record("{\"id\": 7}") && by_number.record("{\"id\": \"007\"}"));
    assert!(!by_number.record("{\"id\": 77}") && !by_number.record("{\"other\": 7}"));
    assert!(by_number.record("{\"id\": 7") && !by_number.record("{\"id\": 17"));
}

fn pages() -> Redaction {
    let field = |name: &str, select: &str| serde_json::from_value(serde_json::json!({"name": name, "select": select})).unwrap();
    let decode = Decode::Html { records: "li.post".into(), fields: vec![field("author", ".by"), field("text", "p")] };
    Redaction::new(&decode, &[("/author".into(), "u1".into())]).unwrap()
}

const PAGE: &str = "<!DOCTYPE html><html><head><meta charset=utf-8></head><body><nav data-me=u1>Hello u1, u12<!-- u1 --></nav><ul>\
    <li class=post><b class=by>u1</b><p>mine</p></li><li class=post><b class=by>u2</b><p>to u1: ä &amp; ö</p></li></ul></body></html>";

fn records(page: &[u8]) -> String {
    let Decode::Html { records, fields } = pages().decode else { panic!() };
    Page::parse(page, None, None).unwrap().document(&Rules::new(&records, &fields).unwrap()).unwrap()
}

#[test]
fn records_are_cut_out_of_a_page_and_the_value_beside_them_is_replaced() {
    let Found::Some { content, records: gone } = pages().content(PAGE.as_bytes(), &BTreeMap::new()).unwrap() else { panic!() };
    let (text, kept) = (String::from_utf8(content.clone()).unwrap(), records(&content));
    assert_eq!((gone, kept.matches("author").count()), (1, 1), "{kept}");
    assert!(kept.contains("to u1: ä & ö"), "another's record stays as it was: {kept}");
    assert!(text.contains("Hello [erased], u12<!-- [erased] -->") && !text.contains("mine"), "{text}");
    assert_eq!(pages().content(&content, &BTreeMap::new()).unwrap(), Found::Nothing, "a second time nothing is left to do");
}

#[test]
fn a_page_of_one_person_goes_and_one_of_others_stays() {
    let none = "<li class=post><b class=by>u12</b><p>u1</p></li>";
    assert_eq!(pages().content(none.as_bytes(), &BTreeMap::new()).unwrap(), Found::Nothing);
    let own = "<p>u1</p><li class=post><b class=by>u1</b><p>x</p></li>";
    assert_eq!(pages().content(own.as_bytes(), &BTreeMap::new()).unwrap(), Found::All { records: 1 });
}

#[test]
fn a_record_without_such_a_field_goes_when_the_value_stands_in_it() {
    let by_seller = Redaction::new(&pages().decode, &[("/seller".into(), "s7".into())]).unwrap();
    let page = "<li class=post data-seller=s7><b class=by>u1</b></li><li class=post data-seller=s77><b class=by>u2</b></li>";
    let Found::Some { content, records } = by_seller.content(page.as_bytes(), &BTreeMap::new()).unwrap() else { panic!() };
    assert_eq!(records, 1);
    assert!(!String::from_utf8(content).unwrap().contains("u1"));
}

#[test]
fn a_page_that_cannot_be_cut_goes_as_a_whole_and_says_so() {
    // In UTF-16 no page is written.
    let utf16: Vec<u8> = [0xFF, 0xFE].into_iter().chain(PAGE.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    let found = pages().content(&utf16, &BTreeMap::new()).unwrap();
    assert!(matches!(&found, Found::Whole { records: 1, others: 1, .. }), "{found:?}");
    // Beyond the limits nobody reads it.
    let deep = format!("{}u1", "<div>".repeat(2_000));
    let found = pages().content(deep.as_bytes(), &BTreeMap::new()).unwrap();
    assert!(matches!(&found, Found::Whole { records: 1, others: 0, reason } if reason.contains("levels deep")), "{found:?}");
    let other = format!("{}u2", "<div>".repeat(2_000));
    assert_eq!(pages().content(other.as_bytes(), &BTreeMap::new()).unwrap(), Found::Nothing);
}

#[test]
fn the_encoding_of_a_page_stays() {
    let page = "<meta charset=iso-8859-1><li class=post><b class=by>u1</b></li><li class=post><b class=by>u2</b><p>Z\u{fc}rich</p></li>";
    let (stored, _, _) = encoding_rs::WINDOWS_1252.encode(page);
    let Found::Some { content, .. } = pages().content(&stored, &BTreeMap::new()).unwrap() else { panic!() };
    assert!(content.windows(3).any(|bytes| bytes == b"Z\xFCr") && records(&content).contains("Zürich"));
}
