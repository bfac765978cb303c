//! Records without those of a key: what is left of a bronze object, byte for byte, when the records in which a field has a value are cut out.
//!
//! A record that can be read goes when one of the fields has one of the values; a record that cannot be read, whatever is wrong with it, goes
//! when the value stands in it. Nothing that stays is written anew: every digit and every space of it is that of the source, but for the commas of a
//! JSON array.

use std::io::{Read, Write};

use lakehouse_contract::Decode;
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

    /// Looks through the content of an object.
    ///
    /// # Errors
    /// A line that says why the object cannot be cut: then it is as it was.
    pub fn content(&self, stored: &[u8]) -> Result<Found, String> {
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
            Decode::Html { .. } if self.mentions(&bytes) => {
                return Err(format!(
                    "the value stands in a page, from which records are not cut (up to {} bytes are read of one)",
                    html::LARGEST
                ));
            }
            Decode::Html { .. } | Decode::Parquet => Found::Nothing,
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
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    !value.is_empty()
        && memmem::find_iter(bytes, value.as_bytes()).any(|at| {
            let before = at.checked_sub(1).and_then(|before| bytes.get(before));
            !is_word(before) && !is_word(bytes.get(at + value.len()))
        })
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
        assert_eq!(some(redaction(Decode::Ndjson).content(lines.as_bytes()).unwrap()), (expected.to_owned(), 3));
    }

    #[test]
    fn elements_go_from_a_document() {
        let json = redaction(Decode::Json { records: "/data".into() });
        let document = "{\"n\": 1.50, \"data\": [ {\"user\":{\"id\":\"u1\"}} , {\"user\":{\"id\":\"u2\"},\"p\":1.0} ,{\"user\":{\"id\":\"u3\"}}], \"z\":null}";
        let expected = "{\"n\": 1.50, \"data\": [{\"user\":{\"id\":\"u2\"},\"p\":1.0},{\"user\":{\"id\":\"u3\"}}], \"z\":null}";
        assert_eq!(some(json.content(document.as_bytes()).unwrap()), (expected.to_owned(), 1));
        let own = "{\"owner\":\"u1\",\"data\":[{},{}]}";
        assert_eq!(json.content(own.as_bytes()).unwrap(), Found::All { records: 2 });
        assert_eq!(json.content(b"{\"data\": [{\"user\":{\"id\":\"u2\"}}]}").unwrap(), Found::Nothing);
        assert_eq!(json.content(b"{\"data\": [{\"user\":{\"id\":\"u1\"}").unwrap(), Found::All { records: 1 });
    }

    #[test]
    fn csv_records_go_with_their_quotes_and_line_ends() {
        let csv = Redaction::new(&Decode::Csv, &[("/id".into(), "a\"b".into())]).unwrap();
        let text = "\u{feff}id,t\r\n\"a\"\"b\",\"x\ny\"\r\nc,\"a\"\"b\"\r\n";
        assert_eq!(some(csv.content(text.as_bytes()).unwrap()), ("\u{feff}id,t\r\nc,\"a\"\"b\"\r\n".to_owned(), 1));
    }

    #[test]
    fn a_compressed_object_stays_compressed() {
        let lines = "{\"user\":{\"id\":\"u1\"}}\n{\"user\":{\"id\":\"u2\"}}\n";
        for stored in [gzip(lines.as_bytes()).unwrap(), zstd::encode_all(lines.as_bytes(), 0).unwrap()] {
            let Found::Some { content, records } = redaction(Decode::Ndjson).content(&stored).unwrap() else { panic!() };
            assert_eq!((&content[..2], records), (&stored[..2], 1));
            assert_eq!(plain(&content).unwrap().0, b"{\"user\":{\"id\":\"u2\"}}\n");
        }
        let broken = &gzip(lines.as_bytes()).unwrap()[..20];
        assert!(redaction(Decode::Ndjson).content(broken).unwrap_err().contains("damaged"));
    }

    #[test]
    fn numbers_are_compared_as_numbers_and_words_as_words() {
        let by_number = Redaction::new(&Decode::Ndjson, &[("/id".into(), "7".into())]).unwrap();
        assert!(by_number.record("{\"id\": 7}") && by_number.record("{\"id\": \"007\"}"));
        assert!(!by_number.record("{\"id\": 77}") && !by_number.record("{\"other\": 7}"));
        assert!(by_number.record("{\"id\": 7") && !by_number.record("{\"id\": 17"));
    }
}
