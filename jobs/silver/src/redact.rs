//! Records without those of a key: what is left of a bronze object, byte for byte, when the records in which a field has a value are cut out.
//!
//! A record that can be read goes when one of the fields has one of the values; a record that cannot be read, whatever is wrong with it, goes
//! when the value stands in it. Nothing that stays is written anew: every digit and every space of it is that of the source, but for the commas of a
//! JSON array.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
};

use lakehouse_api::pipeline::ScrapeField;
use lakehouse_contract::Decode;
use lakehouse_html::{Page, Rules};
use lakehouse_tables::{Doomed, without};
use memchr::memmem;

use crate::{
    decode::{
        csv, html, json, pointer,
        record::{Pointers, Reader},
        value::Value,
    },
    unit::lines,
};

/// Largest content that is cut, decompressed, in bytes.
const LARGEST: u64 = 1 << 30;
/// What stands in a page where the value stood, outside of its records.
const ERASED: &str = "[erased]";
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// What to look for in the objects of a source.
#[derive(Clone, Debug)]
pub struct Redaction {
    decode: Decode,
    record: Pointers,
    document: Pointers,
    /// Slot of `record` and value.
    fields: Vec<(usize, String)>,
    /// Slot of `document` and value.
    around: Vec<(usize, String)>,
    /// Slot of `document` with the records.
    records_slot: Option<usize>,
    /// Columns of a Parquet file, and values.
    columns: Vec<(String, String)>,
}

/// What was found in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No record goes.
    Nothing,
    /// Some records go; these bytes are the object's without them.
    Some {
        /// The bytes, compressed as they were.
        content: Vec<u8>,
        /// How many go.
        records: u64,
    },
    /// All records go, and with them the object.
    All {
        /// How many they are.
        records: u64,
    },
    /// Some records should go and cannot be cut out: the object goes as a whole.
    Whole {
        /// How many records should go.
        records: u64,
        /// How many others go with them.
        others: u64,
        /// Why they cannot be cut out.
        reason: String,
    },
}

impl Redaction {
    /// Looks for records in which one of `fields` = (`from` as in a column, value) has its value. A `from` that is no field is left out.
    ///
    /// # Errors
    /// A line that says which `from` is no JSON Pointer.
    pub fn new(decode: &Decode, fields: &[(String, String)]) -> Result<Self, String> {
        let (mut record, mut document) = (Pointers::default(), Pointers::default());
        let (mut own, mut around, mut columns) = (Vec::new(), Vec::new(), Vec::new());
        for (from, value) in fields {
            if let Some(pointer) = from.strip_prefix("$document") {
                around.push((document.add(pointer)?, value.clone()));
            } else if from.starts_with('/') {
                own.push((record.add(from)?, value.clone()));
                columns.extend(pointer::tokens(from)?.into_iter().next().map(|column| (column, value.clone())));
            }
        }
        let records_slot = match decode {
            Decode::Json { records } => Some(document.add(records)?),
            _ => None,
        };
        Ok(Self { decode: decode.clone(), record, document, fields: own, around, records_slot, columns })
    }

    /// Whether a raw record, as the quarantine keeps it, goes.
    pub fn record(&self, raw: &str) -> bool {
        let mut slots = vec![Value::Missing; self.record.len()];
        match Reader::new(&self.record).read(raw.trim(), &mut slots) {
            Ok(()) if raw.trim_start().starts_with('{') => self.holds(&slots),
            _ => self.mentions(raw.as_bytes()),
        }
    }

    /// Whether one of the values stands anywhere in some bytes, as a word of its own.
    pub fn mentions(&self, bytes: &[u8]) -> bool {
        self.fields.iter().chain(&self.around).any(|(_, value)| mentions(bytes, value))
    }

    /// Whether the objects are pages, in which a value can stand beside the fields of records.
    pub fn is_of_pages(&self) -> bool {
        matches!(self.decode, Decode::Html { .. })
    }

    /// Looks through the content of an object; `metadata` is what the manifest says of the source's answer.
    ///
    /// # Errors
    /// A line that says why the object cannot be cut: then it is as it was.
    pub fn content(&self, stored: &[u8], metadata: &BTreeMap<String, String>) -> Result<Found, String> {
        if self.decode == Decode::Parquet {
            let doomed = Doomed::by_values(self.columns.clone());
            let (kept, _, records) = without(stored.to_vec().into(), &doomed).map_err(|error| error.to_string())?;
            return Ok(match kept {
                _ if records == 0 => Found::Nothing,
                Some(content) => Found::Some { content, records },
                None => Found::All { records },
            });
        }
        let (bytes, compress): (Vec<u8>, Compress) = plain(stored)?;
        let found = match &self.decode {
            Decode::Ndjson => self.ndjson(&bytes),
            Decode::Csv => self.csv(&bytes),
            Decode::Json { .. } => self.json(&bytes),
            Decode::Html { records, fields } => self.page(&bytes, metadata, records, fields)?,
            Decode::Parquet => Found::Nothing,
        };
        Ok(match found {
            Found::Some { content, records } => Found::Some { content: compress(&content).map_err(|error| error.to_string())?, records },
            other => other,
        })
    }

    fn holds(&self, slots: &[Value<'_>]) -> bool {
        self.fields.iter().any(|(slot, value)| is(&slots[*slot], value))
    }

    fn ndjson(&self, bytes: &[u8]) -> Found {
        let mut reader = Reader::new(&self.record);
        let mut slots = vec![Value::Missing; self.record.len()];
        let (mut gone, mut all) = (Vec::new(), 0);
        for (start, end) in lines(bytes) {
            all += 1;
            let line = bytes[start..end].strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes[start..end]);
            let read = simdutf8::basic::from_utf8(line).ok().and_then(|line| reader.read(line.trim(), &mut slots).ok());
            let goes = match read {
                Some(()) => self.holds(&slots),
                None => self.mentions(line),
            };
            if goes {
                gone.push((start, (end + 1).min(bytes.len())));
            }
        }
        cut(bytes, &gone, all)
    }

    fn csv(&self, bytes: &[u8]) -> Found {
        let (mut gone, mut all) = (Vec::new(), 0);
        let begin = if bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        csv::each(&bytes[begin..], |names, values, (start, end)| {
            all += 1;
            let (start, end) = (start + begin, end + begin);
            let goes = match values {
                Some(values) => self.columns.iter().any(|(column, value)| {
                    names.iter().rposition(|name| name == column).and_then(|index| values.get(index)).is_some_and(|found| is(found, value))
                }),
                None => self.mentions(&bytes[start..end]),
            };
            if goes {
                let ends = bytes[end..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                gone.push((start, end + ends));
            }
        });
        cut(bytes, &gone, all)
    }

    /// A page is written anew without the records, and without the value outside of records. It counts when it gives the other records as before.
    fn page(&self, bytes: &[u8], metadata: &BTreeMap<String, String>, records: &str, fields: &[ScrapeField]) -> Result<Found, String> {
        let rules = Rules::new(records, fields).map_err(|error| error.to_string())?;
        let parse = |bytes: &[u8]| {
            let url = metadata.get("url").and_then(|url| url.parse().ok());
            Page::parse(bytes, metadata.get("content-type").map(String::as_str), url)
        };
        let whole = |reason: String| match self.mentions(bytes) {
            true => Found::Whole { records: 1, others: 0, reason },
            false => Found::Nothing,
        };
        if bytes.len() as u64 > html::LARGEST {
            return Ok(whole(format!("it has more than {} bytes", html::LARGEST)));
        }
        let (page, document) = match parse(bytes).and_then(|page| page.document(&rules).map(|document| (page, document))) {
            Ok(read) => read,
            Err(error) => return Ok(whole(error.to_string())),
        };
        let (head, found) = self.records_of(&document)?;
        let markup = page.markup(&rules);
        let fields: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        // A field of the source says whose record it is; where there is none, the whole of the record does.
        let unnamed: Vec<&str> =
            self.columns.iter().filter(|(name, _)| !fields.contains(&name.as_str())).map(|(_, value)| value.as_str()).collect();
        let goes =
            |(record, markup): (&&str, &String)| self.record(record) || unnamed.iter().any(|value| mentions(markup.as_bytes(), value));
        let goes = page.with_inner(&rules, &found.iter().zip(&markup).map(goes).collect::<Vec<bool>>());
        let gone = goes.iter().filter(|goes| **goes).count() as u64;
        let all = found.len() as u64;
        let own = page_values(&self.around, &head);
        if own || (gone > 0 && gone == all) {
            return Ok(Found::All { records: all });
        }
        let outside = std::cell::Cell::new(false);
        let scrub = |text: &str| {
            let new = self.scrubbed(text)?;
            outside.set(true);
            Some(new)
        };
        let new = page.without(&rules, &goes, scrub);
        if gone == 0 && !outside.get() {
            return Ok(Found::Nothing);
        }
        let expected: Vec<&str> = found.iter().zip(&goes).filter(|(_, goes)| !**goes).map(|(record, _)| *record).collect();
        let content = new.map(|new| if bytes.starts_with(BYTE_ORDER_MARK) { [BYTE_ORDER_MARK, &new].concat() } else { new });
        let same = content.filter(|content| {
            let read = parse(content).and_then(|page| page.document(&rules)).ok();
            read.is_some_and(|document| self.records_of(&document).is_ok_and(|again| again == (head.clone(), expected.clone())))
        });
        Ok(match same {
            Some(content) => Found::Some { content, records: gone },
            None => {
                let reason = "written anew without them, the page would not give its other records as before".to_owned();
                Found::Whole { records: gone, others: all - gone, reason }
            }
        })
    }

    /// What a page says of itself, and its records, from the document that was made of it.
    fn records_of<'d>(&self, document: &'d str) -> Result<(Vec<Option<String>>, Vec<&'d str>), String> {
        let mut pointers = Pointers::default();
        let slots = [pointers.add(html::RECORDS)?, pointers.add("/url")?, pointers.add("/charset")?];
        let mut values = vec![Value::Missing; pointers.len()];
        Reader::new(&pointers).read(document, &mut values).map_err(|_| "its records cannot be read".to_owned())?;
        let text = |slot: usize| match values[slot] {
            Value::Text(text) | Value::Escaped(text) => Some(text.to_owned()),
            _ => None,
        };
        let head = vec![text(slots[1]), text(slots[2])];
        let Value::Container(array) = values[slots[0]] else { return Err("its records cannot be read".to_owned()) };
        Ok((head, json::elements(array).map_err(|_| "its records cannot be read".to_owned())?))
    }

    /// A text without the values, where one of them stands in it as a word.
    fn scrubbed(&self, text: &str) -> Option<String> {
        let mut new = text.to_owned();
        for (_, value) in self.fields.iter().chain(&self.around) {
            new = replaced(&new, value);
        }
        (new != text).then_some(new)
    }

    fn json(&self, bytes: &[u8]) -> Found {
        let whole = |goes: bool| if goes { Found::All { records: 1 } } else { Found::Nothing };
        let content = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        let Ok(text) = simdutf8::basic::from_utf8(content) else { return whole(self.mentions(content)) };
        let mut document = vec![Value::Missing; self.document.len()];
        if Reader::new(&self.document).read(text, &mut document).is_err() {
            return whole(self.mentions(content));
        }
        let array = match self.records_slot.map(|slot| document[slot]) {
            Some(Value::Container(array)) if array.starts_with('[') => array,
            Some(Value::Container(record)) => return whole(self.record(record)),
            _ => return whole(self.mentions(content)),
        };
        let Ok(elements) = json::elements(array) else { return whole(self.mentions(content)) };
        if self.around.iter().any(|(slot, value)| is(&document[*slot], value)) {
            return Found::All { records: elements.len() as u64 };
        }
        let kept: Vec<&str> = elements.iter().copied().filter(|record| !self.record(record)).collect();
        let records = (elements.len() - kept.len()) as u64;
        if records == 0 {
            return Found::Nothing;
        }
        if kept.is_empty() {
            return Found::All { records };
        }
        let start = array.as_ptr().addr() - text.as_ptr().addr();
        let rest = &text[start + array.len()..];
        Found::Some { content: [&text[..start], "[", &kept.join(","), "]", rest].concat().into_bytes(), records }
    }
}

/// The bytes without some ranges of them, one per record.
fn cut(bytes: &[u8], gone: &[(usize, usize)], all: usize) -> Found {
    let records = gone.len() as u64;
    if gone.is_empty() {
        return Found::Nothing;
    }
    if gone.len() == all {
        return Found::All { records };
    }
    let mut content = Vec::with_capacity(bytes.len());
    let mut at = 0;
    for (start, end) in gone {
        content.extend_from_slice(&bytes[at..*start]);
        at = *end;
    }
    content.extend_from_slice(&bytes[at..]);
    Found::Some { content, records }
}

/// Whether a value is the wanted one: the same text, or the same whole number.
fn is(value: &Value<'_>, wanted: &str) -> bool {
    let same =
        |text: &str| text == wanted || text.parse::<i128>().is_ok_and(|number| wanted.parse::<i128>().is_ok_and(|wanted| wanted == number));
    match value {
        Value::Text(text) | Value::Number(text) | Value::Container(text) => same(text),
        Value::Escaped(text) => serde_json::from_str::<String>(&format!("\"{text}\"")).is_ok_and(|text| same(&text)),
        Value::Doubled(text) => same(&text.replace("\"\"", "\"")),
        Value::Bool(value) => value.to_string() == wanted,
        Value::Missing | Value::Null | Value::Date(_) | Value::Time { .. } | Value::Other(_) => false,
    }
}

fn mentions(bytes: &[u8], value: &str) -> bool {
    words(bytes, value).next().is_some()
}

/// Where a value stands as a word of its own.
fn words<'b>(bytes: &'b [u8], value: &'b str) -> impl Iterator<Item = usize> + 'b {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let found = (!value.is_empty()).then(|| memmem::find_iter(bytes, value.as_bytes()));
    found.into_iter().flatten().filter(move |at| {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        !is_word(before) && !is_word(bytes.get(at + value.len()))
    })
}

/// A text with another word in the place of a value.
fn replaced(text: &str, value: &str) -> String {
    let mut new = String::with_capacity(text.len());
    let mut from = 0;
    for at in words(text.as_bytes(), value) {
        new.push_str(&text[from..at]);
        new.push_str(ERASED);
        from = at + value.len();
    }
    new.push_str(&text[from..]);
    new
}

/// Whether what a page says of itself, its URL and encoding, is a value that goes.
fn page_values(around: &[(usize, String)], head: &[Option<String>]) -> bool {
    around.iter().any(|(_, value)| head.iter().flatten().any(|own| own == value))
}

type Compress = fn(&[u8]) -> std::io::Result<Vec<u8>>;

/// The decompressed content, and how it is compressed again.
fn plain(stored: &[u8]) -> Result<(Vec<u8>, Compress), String> {
    let mut bytes = Vec::new();
    let (mut decoder, compress): (Box<dyn Read + '_>, Compress) = match stored {
        // RFC 1952, 2.3.1
        [0x1F, 0x8B, ..] => (Box::new(flate2::read::MultiGzDecoder::new(stored)), gzip),
        // RFC 8878, 3.1.1
        [0x28, 0xB5, 0x2F, 0xFD, ..] => {
            (Box::new(zstd::stream::read::Decoder::new(stored).map_err(|error| error.to_string())?), |bytes| zstd::encode_all(bytes, 0))
        }
        _ => return Ok((stored.to_vec(), |bytes| Ok(bytes.to_vec()))),
    };
    let read = decoder.by_ref().take(LARGEST + 1).read_to_end(&mut bytes);
    match read {
        // What can be read of a damaged file is what silver reads of it; the rest nobody can read, so all of it is kept or none.
        Err(error) => Err(format!("its compressed data is damaged or cut off: {error}")),
        Ok(_) if bytes.len() as u64 > LARGEST => Err(format!("it has more than {LARGEST} bytes, decompressed")),
        Ok(_) => Ok((bytes, compress)),
    }
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let page =
            "<meta charset=iso-8859-1><li class=post><b class=by>u1</b></li><li class=post><b class=by>u2</b><p>Z\u{fc}rich</p></li>";
        let (stored, _, _) = encoding_rs::WINDOWS_1252.encode(page);
        let Found::Some { content, .. } = pages().content(&stored, &BTreeMap::new()).unwrap() else { panic!() };
        assert!(content.windows(3).any(|bytes| bytes == b"Z\xFCr") && records(&content).contains("Zürich"));
    }
}
