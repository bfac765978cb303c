//! Cuts the content of objects into units: NDJSON at line ends while it comes, everything else stays whole.

use bytes::{Buf, Bytes, BytesMut};
use lakehouse_contract::{BronzeObject, Decode, StageFailure};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::{
    content::{Content, Piece, Received},
    pages,
    unit::{EXCERPT, Refused, Unit, lines, too_long},
};

/// Largest decompressed object of a format that is decoded whole, in bytes.
const LARGEST_WHOLE: u64 = 1 << 30;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Cuts `objects`, whose bytes come from `pieces`, and sends their units in order; ranges of lines have about `size` bytes.
///
/// Ends early, without an error, when nobody listens any more.
///
/// # Errors
/// The first object that is missing or is not what its manifest says.
pub(crate) fn cut(
    objects: &[BronzeObject],
    decode: &Decode,
    max_record_bytes: u64,
    size: usize,
    mut pieces: mpsc::Receiver<Received>,
    units: &mpsc::Sender<Unit>,
) -> Result<(), StageFailure> {
    for object in objects {
        let mut content = Content::new(object, decode, size, &mut pieces)?;
        let mut emit = |unit: Unit| units.blocking_send(unit).is_ok();
        let listening = if *decode == Decode::Ndjson {
            Lines::new(object, max_record_bytes, size).cut(&mut content, &mut emit)
        } else {
            let largest = if matches!(decode, Decode::Html { .. }) { pages::LARGEST } else { LARGEST_WHOLE };
            whole(object, decode, &mut content, largest, &mut emit)
        };
        if !listening {
            return Ok(());
        }
        content.finish()?;
    }
    Ok(())
}

fn unit(object: &BronzeObject, bytes: Bytes, first_position: u64, first_byte: u64) -> Unit {
    let captured_at = object.captured_at;
    let (object, metadata) = (object.key.as_str().into(), object.metadata.clone().into());
    Unit { object, metadata, captured_at, bytes, first_position, first_byte, fault: None }
}

fn damaged(reason: String) -> Refused {
    Refused { rule: "malformed".to_owned(), reason }
}

/// One unit of all the content; false when nobody listens.
fn whole(object: &BronzeObject, decode: &Decode, content: &mut Content<'_>, largest: u64, emit: &mut dyn FnMut(Unit) -> bool) -> bool {
    let mut all = BytesMut::new();
    let mut only = None;
    loop {
        match content.piece() {
            // The usual object comes in one piece, which needs no copy.
            Piece::Bytes(bytes) if only.is_none() && all.is_empty() => only = Some(bytes),
            Piece::Bytes(bytes) => {
                all.extend_from_slice(&only.take().unwrap_or_default());
                all.extend_from_slice(&bytes);
            }
            Piece::End => break,
            Piece::Damaged(bytes, reason) => {
                all.extend_from_slice(&only.take().unwrap_or_default());
                all.extend_from_slice(&bytes);
                all.truncate(EXCERPT);
                return emit(Unit { fault: Some(damaged(reason)), ..unit(object, all.freeze(), 0, 0) });
            }
        }
        if (all.len() + only.as_ref().map_or(0, Bytes::len)) as u64 > largest {
            all.extend_from_slice(&only.take().unwrap_or_default());
            return emit(too_large(object, content, all, largest));
        }
    }
    let bytes = only.unwrap_or_else(|| all.freeze());
    // Of a page the mark says the encoding.
    let bytes = if matches!(decode, Decode::Parquet | Decode::Html { .. }) { bytes } else { without_mark(bytes) };
    emit(unit(object, bytes, 0, 0))
}

fn too_large(object: &BronzeObject, content: &mut Content<'_>, mut all: BytesMut, largest: u64) -> Unit {
    let (mut digest, mut length) = (Sha256::new(), all.len() as u64);
    digest.update(&all);
    all.truncate(EXCERPT);
    while let Piece::Bytes(bytes) = content.piece() {
        digest.update(&bytes);
        length += bytes.len() as u64;
    }
    let limit = format!("the {largest} that one object may have");
    let fault = too_long(0, length, &hex::encode(digest.finalize()), &limit);
    // The large buffer goes; what stays is a copy of its beginning.
    Unit { fault: Some(fault), ..unit(object, Bytes::copy_from_slice(&all), 0, 0) }
}

fn without_mark(bytes: Bytes) -> Bytes {
    if bytes.starts_with(BYTE_ORDER_MARK) { bytes.slice(BYTE_ORDER_MARK.len()..) } else { bytes }
}

/// Cuts one NDJSON object.
struct Lines<'o> {
    object: &'o BronzeObject,
    max_record_bytes: u64,
    /// Bytes of a range of lines.
    size: usize,
    /// Number of the next record.
    position: u64,
    /// Bytes of content before those in `rest`.
    offset: u64,
    /// A line that has begun and not ended.
    rest: BytesMut,
    /// A line that is too long to be kept: where it began and its digest so far; `rest` holds its beginning.
    skipping: Option<(u64, Sha256)>,
}

impl<'o> Lines<'o> {
    fn new(object: &'o BronzeObject, max_record_bytes: u64, size: usize) -> Self {
        Self { object, max_record_bytes, size, position: 0, offset: 0, rest: BytesMut::new(), skipping: None }
    }

    /// False when nobody listens.
    fn cut(mut self, content: &mut Content<'_>, emit: &mut dyn FnMut(Unit) -> bool) -> bool {
        let mut first = true;
        loop {
            let (piece, reason) = match content.piece() {
                Piece::Bytes(bytes) => (bytes, None),
                Piece::End => return self.end(emit),
                Piece::Damaged(bytes, reason) => (bytes, Some(reason)),
            };
            let piece = if std::mem::take(&mut first) && piece.starts_with(BYTE_ORDER_MARK) {
                self.offset = BYTE_ORDER_MARK.len() as u64;
                without_mark(piece)
            } else {
                piece
            };
            if !self.piece(piece, emit) {
                return false;
            }
            if let Some(reason) = reason {
                return self.damaged(reason, emit);
            }
        }
    }

    fn piece(&mut self, mut piece: Bytes, emit: &mut dyn FnMut(Unit) -> bool) -> bool {
        if !self.rest.is_empty() || self.skipping.is_some() {
            let Some(end) = memchr::memchr(b'\n', &piece) else {
                self.keep(&piece);
                return true;
            };
            self.keep(&piece.split_to(end));
            piece.advance(1);
            if self.skipping.is_none() {
                self.rest.extend_from_slice(b"\n");
            }
            if !self.line(emit) {
                return false;
            }
        }
        while let Some(last) = memchr::memrchr(b'\n', &piece) {
            let wanted = self.size.min(last);
            let end = memchr::memchr(b'\n', &piece[wanted..]).map_or(last, |offset| wanted + offset);
            if !self.emit(piece.split_to(end + 1), emit) {
                return false;
            }
        }
        self.keep(&piece);
        true
    }

    /// Adds bytes to the line that has begun.
    fn keep(&mut self, bytes: &[u8]) {
        if let Some((_, digest)) = &mut self.skipping {
            digest.update(bytes);
            self.offset += bytes.len() as u64;
            return;
        }
        self.rest.extend_from_slice(bytes);
        if self.rest.len() as u64 > self.max_record_bytes {
            let mut digest = Sha256::new();
            digest.update(&self.rest);
            self.skipping = Some((self.offset, digest));
            self.offset += self.rest.len() as u64;
            self.rest = BytesMut::from(&self.rest[..EXCERPT.min(self.rest.len())]);
        }
    }

    /// The line that had begun has ended.
    fn line(&mut self, emit: &mut dyn FnMut(Unit) -> bool) -> bool {
        let bytes = self.rest.split().freeze();
        let Some((start, digest)) = self.skipping.take() else { return self.emit(bytes, emit) };
        let limit = format!("maxRecordBytes {}", self.max_record_bytes);
        let fault = too_long(start, self.offset, &hex::encode(digest.finalize()), &limit);
        self.offset += 1;
        self.fault(bytes, start, fault, emit)
    }

    fn fault(&mut self, bytes: Bytes, start: u64, fault: Refused, emit: &mut dyn FnMut(Unit) -> bool) -> bool {
        let position = self.position;
        self.position += 1;
        emit(Unit { fault: Some(fault), ..unit(self.object, Bytes::copy_from_slice(&bytes), position, start) })
    }

    /// Whole lines.
    fn emit(&mut self, bytes: Bytes, emit: &mut dyn FnMut(Unit) -> bool) -> bool {
        let (position, start) = (self.position, self.offset);
        self.offset += bytes.len() as u64;
        let records = lines(&bytes).count() as u64;
        self.position += records;
        // Blank lines alone are no unit.
        records == 0 || emit(unit(self.object, bytes, position, start))
    }

    fn end(mut self, emit: &mut dyn FnMut(Unit) -> bool) -> bool {
        (self.rest.is_empty() && self.skipping.is_none()) || self.line(emit)
    }

    /// The content ends in the middle of a line, or between two: either way a record says so.
    fn damaged(mut self, reason: String, emit: &mut dyn FnMut(Unit) -> bool) -> bool {
        let start = self.skipping.take().map_or(self.offset, |(start, _)| start);
        let mut bytes = self.rest.split().freeze();
        bytes.truncate(EXCERPT);
        self.fault(bytes, start, damaged(reason), emit)
    }
}

#[cfg(test)]
mod tests;
