//! Units of work: a whole object, or a range of lines of one.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use lakehouse_contract::{BronzeObject, Decode, StageSpec};

/// Bytes of a range of lines; small enough that a handful keep all cores busy, large enough for good column chunks.
const RANGE: usize = 4 << 20;

/// What all rows of a run have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunFacts {
    /// First instant of the interval, microseconds.
    pub(crate) interval_start: i64,
    /// First instant after it, microseconds.
    pub(crate) interval_end: i64,
    /// `processed_at`, microseconds.
    pub(crate) processed_at: i64,
}

impl RunFacts {
    /// The facts of a spec's run. Times are cut to microseconds.
    pub(crate) fn new(spec: &StageSpec) -> Self {
        Self {
            interval_start: spec.interval.start.timestamp_micros(),
            interval_end: spec.interval.end.timestamp_micros(),
            processed_at: spec.run.created_at.timestamp_micros(),
        }
    }
}

/// Some bytes of one object that hold whole records.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    /// Bronze key.
    pub(crate) object: Arc<str>,
    /// When ingest received the object.
    pub(crate) captured_at: DateTime<Utc>,
    /// The bytes, without a byte order mark.
    pub(crate) bytes: Bytes,
    /// Number of the first record within the object.
    pub(crate) first_position: u64,
}

/// Cuts an object into units: NDJSON at line ends, everything else stays whole.
pub(crate) fn units(object: &BronzeObject, bytes: Bytes, decode: &Decode) -> Vec<Unit> {
    let key: Arc<str> = object.key.as_str().into();
    let unit = |bytes: Bytes, first_position: u64| Unit { object: key.clone(), captured_at: object.captured_at, bytes, first_position };
    let bytes = match decode {
        Decode::Parquet => bytes,
        _ if bytes.starts_with(b"\xEF\xBB\xBF") => bytes.slice(3..),
        _ => bytes,
    };
    if *decode != Decode::Ndjson {
        return vec![unit(bytes, 0)];
    }
    let mut units = Vec::new();
    let (mut start, mut position) = (0, 0);
    while start < bytes.len() {
        let wanted = (start + RANGE).min(bytes.len());
        let end = memchr::memchr(b'\n', &bytes[wanted..]).map_or(bytes.len(), |offset| wanted + offset + 1);
        let range = bytes.slice(start..end);
        let records = lines(&range).count() as u64;
        units.push(unit(range, position));
        position += records;
        start = end;
    }
    units
}

/// The lines of `bytes` that are not blank, as (start, end) without the line end.
pub(crate) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, usize)> + '_ {
    let mut start = 0;
    std::iter::from_fn(move || {
        while start < bytes.len() {
            let from = start;
            let end = memchr::memchr(b'\n', &bytes[from..]).map_or(bytes.len(), |offset| from + offset);
            start = end + 1;
            if bytes[from..end].iter().any(|byte| !matches!(byte, b' ' | b'\t' | b'\r')) {
                return Some((from, end));
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> BronzeObject {
        BronzeObject {
            key: "p/s/part-00000.ndjson".into(),
            bytes: 0,
            sha256: String::new(),
            records: None,
            captured_at: Utc::now(),
            metadata: Default::default(),
        }
    }

    #[test]
    fn blank_lines_are_no_records() {
        let text = b"\n{}\r\n  \t\r\n{\"a\":1}\n\n3";
        let found: Vec<&[u8]> = lines(text).map(|(start, end)| &text[start..end]).collect();
        assert_eq!(found, [&b"{}\r"[..], b"{\"a\":1}", b"3"]);
    }

    #[test]
    fn units_hold_whole_lines_and_know_their_position() {
        let line = format!("{{\"pad\":\"{}\"}}\n\n", "x".repeat(1000));
        let text = "\u{feff}".to_owned() + &line.repeat(3 * RANGE / line.len());
        let all = units(&object(), Bytes::from(text.clone()), &Decode::Ndjson);
        assert!(all.len() >= 3, "{}", all.len());
        let joined: Vec<u8> = all.iter().flat_map(|unit| unit.bytes.to_vec()).collect();
        assert_eq!(joined, text.as_bytes()[3..]);
        let mut position = 0;
        for unit in &all {
            assert_eq!(unit.first_position, position);
            position += lines(&unit.bytes).count() as u64;
            assert!(unit.bytes.ends_with(b"\n"));
        }
        assert_eq!(units(&object(), Bytes::from(text), &Decode::Csv).len(), 1);
        assert!(units(&object(), Bytes::new(), &Decode::Ndjson).is_empty());
    }
}
