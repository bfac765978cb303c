//! Generated lines, gathered into chunks for the sink.

use std::collections::BTreeMap;

use crate::{Chunk, IngestError, Sink};

/// Bytes of a chunk, about.
const CHUNK_BYTES: usize = 1024 * 1024;

/// A generator of NDJSON.
pub trait Lines: Send {
    /// Appends the next line to `out`, with its line break; false: there is none.
    fn write_line(&mut self, out: &mut Vec<u8>) -> bool;
}

/// Puts all lines, as objects that carry the seed they were made from.
///
/// # Errors
/// As [`Sink::generate`].
pub async fn put(sink: &mut Sink<'_>, seed: i64, mut lines: impl Lines + 'static) -> Result<(), IngestError> {
    let metadata = BTreeMap::from([("seed".to_owned(), seed.to_string())]);
    sink.generate("ndjson", metadata, move |emit| {
        let mut buffer = Vec::with_capacity(CHUNK_BYTES + 4096);
        let mut records = 0;
        while lines.write_line(&mut buffer) {
            records += 1;
            if buffer.len() >= CHUNK_BYTES {
                let bytes = std::mem::replace(&mut buffer, Vec::with_capacity(CHUNK_BYTES + 4096)).into();
                if !emit(Chunk { bytes, records: std::mem::take(&mut records) }) {
                    return;
                }
            }
        }
        if records > 0 {
            emit(Chunk { bytes: buffer.into(), records });
        }
    })
    .await
}
