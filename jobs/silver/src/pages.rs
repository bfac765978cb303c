//! HTML pages: each becomes a JSON document of its records, once for all tables of its source, and goes on as one.
//!
//! A page that goes beyond the limits of `lakehouse_html` is one quarantined record, as a JSON document is that cannot be read.

use bytes::Bytes;
use lakehouse_html::{Page, Rules, limits::MAX_BYTES};

use crate::unit::{EXCERPT, Refused, Unit};

/// Where the records are in the document.
pub(crate) const RECORDS: &str = "/records";
/// Largest page in bytes, decompressed.
pub(crate) const LARGEST: u64 = MAX_BYTES as u64;

/// The unit with what `rules` find in its page in place of the page.
pub(crate) fn extracted(rules: &Rules, unit: Unit) -> Unit {
    if unit.fault.is_some() {
        return unit;
    }
    let url = unit.metadata.get("url").and_then(|url| url.parse().ok());
    let content_type = unit.metadata.get("content-type").map(String::as_str);
    let document = Page::parse(&unit.bytes, content_type, url).and_then(|page| page.document(rules));
    match document {
        Ok(document) => Unit { bytes: document.into(), ..unit },
        Err(error) => {
            let fault = Refused { rule: "malformed".to_owned(), reason: error.to_string() };
            // The page itself is in bronze.
            let beginning = Bytes::copy_from_slice(&unit.bytes[..unit.bytes.len().min(EXCERPT)]);
            Unit { bytes: beginning, fault: Some(fault), ..unit }
        }
    }
}
