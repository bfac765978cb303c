//! Records without those of a key: what is left of a bronze object, byte for byte, when the records in which a field has a value are cut out.
//!
//! A record that can be read goes when one of the fields has one of the values; a record that cannot be read, whatever is wrong with it, goes
//! when the value stands in it. Nothing that stays is written anew: every digit and every space of it is that of the source, but for the commas of a
//! JSON array.

mod compression;
mod page;
mod words;

use std::collections::BTreeMap;

use lakehouse_contract::Decode;
use lakehouse_tables::{Doomed, without};

use self::{
    compression::{Compress, plain},
    words::{is, mentions},
};
use crate::{
    decode::csv,
    json::{
        elements, pointer,
        record::{Pointers, Reader},
        value::Value,
    },
    unit::lines,
};

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
        let Ok(elements) = elements(array) else { return whole(self.mentions(content)) };
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

#[cfg(test)]
mod tests;
