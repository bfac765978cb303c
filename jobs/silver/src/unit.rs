//! Units of work: a whole object, a range of lines of one, or a record that cannot be decoded.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use lakehouse_contract::StageSpec;

/// What is kept of a record that is too long, in bytes.
pub(crate) const EXCERPT: usize = 1 << 10;

/// A record that cannot become a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// `cast:<column>`, `required:<column>`, `malformed`, `not_an_object`, `too_long`.
    pub(crate) rule: String,
    /// What is wrong, as a person reads it.
    pub(crate) reason: String,
}

/// Why a record that has `end - start` bytes is not decoded.
pub(crate) fn too_long(start: u64, end: u64, sha256: &str, limit: &str) -> Refused {
    let length = end - start;
    let reason = format!("{length} bytes are more than {limit}; bytes {start} to {end} of the object's content, SHA-256 {sha256}");
    Refused { rule: "too_long".to_owned(), reason }
}

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
    /// What the manifest says of the source's answer.
    pub(crate) metadata: Arc<BTreeMap<String, String>>,
    /// When ingest received the object.
    pub(crate) captured_at: DateTime<Utc>,
    /// The bytes, without a byte order mark.
    pub(crate) bytes: Bytes,
    /// Number of the first record within the object.
    pub(crate) first_position: u64,
    /// Bytes of the object's content before these.
    pub(crate) first_byte: u64,
    /// Set where the unit stands for one record that cannot be decoded, of which `bytes` is the beginning.
    pub(crate) fault: Option<Refused>,
}

/// The lines of `bytes` that are not blank, as (start, end) without the line end.
pub(crate) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, usize)> + '_ {
    let mut start = 0;
    std::iter::from_fn(move || {
        let (from, end) = line(bytes, start)?;
        start = end + 1;
        Some((from, end))
    })
}

/// The first line at or after `start`, which is the beginning of one, that is not blank.
pub(crate) fn line(bytes: &[u8], mut start: usize) -> Option<(usize, usize)> {
    while start < bytes.len() {
        let end = memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |offset| start + offset);
        if bytes[start..end].iter().any(|byte| !matches!(byte, b' ' | b'\t' | b'\r')) {
            return Some((start, end));
        }
        start = end + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_are_no_records() {
        let text = b"\n{}\r\n  \t\r\n{\"a\":1}\n\n3";
        let found: Vec<&[u8]> = lines(text).map(|(start, end)| &text[start..end]).collect();
        assert_eq!(found, [&b"{}\r"[..], b"{\"a\":1}", b"3"]);
    }
}
