//! CSV as in RFC 4180, with a header. An unquoted empty field is null, a quoted one is empty text. Of columns with the
//! same name the last counts. A record with another number of fields than the header is malformed.

use std::borrow::Cow;

use lakehouse_contract::StageFailure;

use super::{Raw, malformed, raw_ranges, unknown::Collector, whole_unit};
use crate::{
    json::{pointer, value::Value},
    rows::{RowBuilder, Rows, Values},
    schema::TablePlan,
    unit::{RunFacts, Unit},
};

pub(super) fn decode<'u>(plan: &'u TablePlan, unit: &'u Unit, facts: RunFacts) -> Result<(Rows, Raw<'u>), StageFailure> {
    let bytes: &[u8] = &unit.bytes;
    let mut builder = RowBuilder::new(plan, unit, facts, bytes.len() / 64 + 1);
    let mut records = Records { bytes, at: 0 };
    let mut fields = Vec::new();
    let Some(header) = records.next(&mut fields) else {
        let raw = raw_ranges(unit, Vec::new());
        return Ok((builder.finish(&raw)?, raw));
    };
    let names: Vec<String> = match header.and_then(|range| texts(bytes, range, &fields)) {
        Ok(values) => values.into_iter().map(name).collect(),
        Err(fault) => return whole_unit(builder, malformed(format!("header: {fault}")), unit),
    };
    let wanted: Vec<Option<usize>> = plan
        .record
        .texts()
        .iter()
        .map(|text| {
            let token = pointer::tokens(text).ok()?.into_iter().next()?;
            names.iter().rposition(|name| *name == token)
        })
        .collect();
    let mut unknown = Collector::new(plan.unknown);
    let unknown_names = plan.unknown.columns(names.iter().map(String::as_str), &plan.record);
    let mut ranges = Vec::new();
    let mut slots = vec![Value::Missing; wanted.len()];
    while let Some(record) = records.next(&mut fields) {
        let (range, values) = match record {
            Ok(range) => (range, texts(bytes, range, &fields)),
            Err(fault) => ((fault.start, bytes.len()), Err(fault)),
        };
        ranges.push(range);
        match values {
            Err(fault) => builder.refuse(malformed(fault)),
            Ok(values) if values.len() != names.len() => {
                builder.refuse(malformed(format!("the record has {} fields, the header has {}", values.len(), names.len())));
            }
            Ok(values) => {
                for (slot, field) in slots.iter_mut().zip(&wanted) {
                    *slot = field.map_or(Value::Missing, |field| values[field]);
                }
                let unknown = unknown.of_fields(&unknown_names, |field| text(values[field]), &builder)?;
                builder.push(Values::one(&slots), &[], unknown)?;
            }
        }
    }
    let raw = raw_ranges(unit, ranges);
    Ok((builder.finish(&raw)?, raw))
}

/// Calls `take` for every record with the names of the header, its fields (none where it cannot be read) and its range without the line end.
/// Without a header that can be read, all the bytes are one record that cannot be.
pub(crate) fn each<'b>(bytes: &'b [u8], mut take: impl FnMut(&[String], Option<&[Value<'b>]>, (usize, usize))) {
    let mut records = Records { bytes, at: 0 };
    let mut fields = Vec::new();
    let Some(header) = records.next(&mut fields) else { return };
    let names: Vec<String> = match header.and_then(|range| texts(bytes, range, &fields)) {
        Ok(values) => values.into_iter().map(name).collect(),
        Err(_) => return take(&[], None, (0, bytes.len())),
    };
    while let Some(record) = records.next(&mut fields) {
        match record {
            Ok(range) => match texts(bytes, range, &fields) {
                Ok(values) if values.len() == names.len() => take(&names, Some(&values), range),
                _ => take(&names, None, range),
            },
            Err(fault) => take(&names, None, (fault.start, records.at)),
        }
    }
}

/// Why a record cannot be read, and where it begins.
#[derive(Debug)]
struct Fault {
    start: usize,
    reason: &'static str,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason)
    }
}

fn name(value: Value<'_>) -> String {
    text(value).unwrap_or_default().into_owned()
}

/// What a field says; none for an unquoted empty one.
fn text(value: Value<'_>) -> Option<Cow<'_, str>> {
    match value {
        Value::Text(text) => Some(text.into()),
        Value::Doubled(text) => Some(text.replace("\"\"", "\"").into()),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug)]
struct Field {
    start: usize,
    end: usize,
    quoted: bool,
    doubled: bool,
}

fn texts<'a>(bytes: &'a [u8], (start, end): (usize, usize), fields: &[Field]) -> Result<Vec<Value<'a>>, Fault> {
    let record = simdutf8::basic::from_utf8(&bytes[start..end]).map_err(|_| Fault { start, reason: "the record is not valid UTF-8" })?;
    let value = |field: &Field| {
        let text = record.get(field.start - start..field.end - start).unwrap_or_default();
        match (field.quoted, field.doubled) {
            (_, true) => Value::Doubled(text),
            (false, false) if text.is_empty() => Value::Null,
            _ => Value::Text(text),
        }
    };
    Ok(fields.iter().map(value).collect())
}

struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Records<'_> {
    /// The next record that is not a blank line: its range without the line end; its fields go into `fields`.
    fn next(&mut self, fields: &mut Vec<Field>) -> Option<Result<(usize, usize), Fault>> {
        while matches!(self.bytes.get(self.at), Some(b'\n' | b'\r')) {
            self.at += 1;
        }
        if self.at >= self.bytes.len() {
            return None;
        }
        let start = self.at;
        fields.clear();
        loop {
            match self.field() {
                Err(reason) => return Some(Err(self.recover(start, reason))),
                Ok(field) => fields.push(field),
            }
            match self.bytes.get(self.at) {
                Some(b',') => self.at += 1,
                _ => {
                    let end = self.at;
                    return Some(Ok((start, end)));
                }
            }
        }
    }

    /// One field; ends at the comma, the line end, or the end of the bytes.
    fn field(&mut self) -> Result<Field, &'static str> {
        let bytes = self.bytes;
        if bytes.get(self.at) != Some(&b'"') {
            let start = self.at;
            let rest = &bytes[start..];
            let end = memchr::memchr3(b',', b'\n', b'\r', rest).map_or(bytes.len(), |offset| start + offset);
            self.at = end;
            return Ok(Field { start, end, quoted: false, doubled: false });
        }
        let start = self.at + 1;
        let mut at = start;
        let mut doubled = false;
        loop {
            let Some(offset) = memchr::memchr(b'"', &bytes[at..]) else {
                return Err("a quoted field is not closed");
            };
            at += offset;
            if bytes.get(at + 1) == Some(&b'"') {
                doubled = true;
                at += 2;
                continue;
            }
            self.at = at + 1;
            return match bytes.get(self.at) {
                None | Some(b',' | b'\n' | b'\r') => Ok(Field { start, end: at, quoted: true, doubled }),
                Some(_) => Err("a quoted field goes on after its closing quote"),
            };
        }
    }

    /// A broken record ends with its line, so that the records after it are read; an open quote takes the rest.
    fn recover(&mut self, start: usize, reason: &'static str) -> Fault {
        let end = memchr::memchr(b'\n', &self.bytes[start..]).map_or(self.bytes.len(), |offset| start + offset);
        self.at = end;
        Fault { start, reason }
    }
}
