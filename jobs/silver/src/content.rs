//! The content of a bronze object as it comes from the store: checked against the manifest, decompressed, in pieces.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use lakehouse_contract::{BronzeObject, Decode, Reason, StageFailure};
use lakehouse_shell::storage_failure;
use lakehouse_storage::{Layer, Storage, StorageError};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

/// Some bytes of the object that is being read, or why there are none.
pub(crate) type Received = Result<Bytes, StageFailure>;

/// Sends the bytes of `objects`, one after the other, each closed by an empty piece. `size` bytes are asked of the store at a time; three such
/// requests' worth are in memory beside what is being decoded.
///
/// Ends early when nobody listens any more. A failure is sent and ends it: `InputCorrupt` when an object is missing or has another
/// length than the manifest says, or what the store says.
pub(crate) async fn fetch(storage: Storage, objects: Vec<BronzeObject>, size: usize, pieces: mpsc::Sender<Received>) {
    for object in &objects {
        let mut start = 0;
        loop {
            let end = object.bytes.min(start + size as u64);
            let received = request(&storage, object, start..end).await;
            let failed = received.is_err();
            if pieces.send(received).await.is_err() || failed {
                return;
            }
            if end == object.bytes {
                break;
            }
            start = end;
        }
        if object.bytes > 0 && pieces.send(Ok(Bytes::new())).await.is_err() {
            return;
        }
    }
}

async fn request(storage: &Storage, object: &BronzeObject, range: std::ops::Range<u64>) -> Received {
    let bronze = storage.layer(Layer::Bronze).map_err(|error| storage_failure(&error))?;
    let has = |bytes: u64| corrupt(object, &format!("has {bytes} bytes, its manifest says {}", object.bytes));
    let read = if range.is_empty() {
        // Nothing can be asked for of an empty object.
        bronze.head(&object.key).await.map(|entry| entry.map(|entry| (entry.size, Bytes::new())))
    } else {
        bronze.get_range(&object.key, range).await.map(Some)
    };
    match read {
        Ok(Some((size, bytes))) if size == object.bytes => Ok(bytes),
        Ok(Some((size, _))) => Err(has(size)),
        Ok(None) | Err(StorageError::NotFound { .. }) => Err(corrupt(object, "is missing")),
        // A range beyond the end of a shorter object is an error like any other.
        Err(error) => match bronze.head(&object.key).await {
            Ok(Some(entry)) if entry.size != object.bytes => Err(has(entry.size)),
            _ => Err(storage_failure(&error)),
        },
    }
}

fn corrupt(object: &BronzeObject, what: &str) -> StageFailure {
    StageFailure::new(Reason::InputCorrupt, format!("bronze object {} {what}", object.key))
}

/// The digest that an object is checked by: the faster one where its manifest has it.
enum Digest<'o> {
    Blake3(Box<blake3::Hasher>, &'o str),
    Sha256(Sha256, &'o str),
}

impl<'o> Digest<'o> {
    fn new(object: &'o BronzeObject) -> Self {
        match &object.blake3 {
            Some(wanted) => Self::Blake3(Box::default(), wanted),
            None => Self::Sha256(Sha256::new(), &object.sha256),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake3(digest, _) => drop(digest.update(bytes)),
            Self::Sha256(digest, _) => digest.update(bytes),
        }
    }

    /// Whether the bytes are those of the manifest; else what to say.
    fn check(self) -> Result<(), String> {
        let (name, digest, wanted) = match self {
            Self::Blake3(digest, wanted) => ("BLAKE3", digest.finalize().to_hex().to_string(), wanted),
            Self::Sha256(digest, wanted) => ("SHA-256", hex::encode(digest.finalize()), wanted),
        };
        if digest.eq_ignore_ascii_case(wanted) {
            return Ok(());
        }
        Err(format!("has {name} {digest}, its manifest says {wanted}"))
    }
}

/// The bytes of one object as they are stored, and their digest so far.
struct Stored<'r> {
    pieces: &'r mut mpsc::Receiver<Received>,
    digest: Digest<'r>,
    /// Received and not yet read.
    ahead: Bytes,
    ended: bool,
    /// Why the bytes ended too soon; it outweighs what a decoder makes of that.
    failure: Option<StageFailure>,
}

impl Stored<'_> {
    /// The next bytes; none at the end of the object.
    fn piece(&mut self) -> Bytes {
        if !self.ahead.is_empty() {
            return std::mem::take(&mut self.ahead);
        }
        if self.ended {
            return Bytes::new();
        }
        match self.pieces.blocking_recv() {
            Some(Ok(bytes)) if !bytes.is_empty() => {
                self.digest.update(&bytes);
                return bytes;
            }
            Some(Ok(_)) => {}
            Some(Err(failure)) => self.failure = Some(failure),
            None => self.failure = Some(StageFailure::new(Reason::Internal, "the task that fetches objects ended unexpectedly")),
        }
        self.ended = true;
        Bytes::new()
    }
}

impl Read for Stored<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut piece = self.piece();
        if piece.is_empty() && self.failure.is_some() {
            return Err(io::Error::other("the object could not be fetched"));
        }
        let taken = piece.split_to(piece.len().min(buffer.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        self.ahead = piece;
        Ok(taken.len())
    }
}

/// How an object is compressed, by its first bytes: no text and no JSON begins like these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstandard,
}

impl Compression {
    fn of(first: &[u8], decode: &Decode) -> Self {
        match first {
            // Parquet compresses inside.
            _ if *decode == Decode::Parquet => Self::None,
            // RFC 1952, 2.3.1
            [0x1F, 0x8B, ..] => Self::Gzip,
            // RFC 8878, 3.1.1
            [0x28, 0xB5, 0x2F, 0xFD, ..] => Self::Zstandard,
            _ => Self::None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::None => "plain",
            Self::Gzip => "gzip",
            Self::Zstandard => "zstd",
        }
    }
}

/// The decompressed content of one object.
pub(crate) struct Content<'r> {
    object: &'r BronzeObject,
    /// Bytes of decompressed content handed on at a time.
    size: usize,
    compression: Compression,
    source: Source<'r>,
}

enum Source<'r> {
    Plain(Stored<'r>),
    Gzip(Box<MultiGzDecoder<Stored<'r>>>),
    Zstandard(Box<zstd::stream::read::Decoder<'static, io::BufReader<Stored<'r>>>>),
}

/// What reading on brought.
pub(crate) enum Piece {
    /// The next bytes.
    Bytes(Bytes),
    /// The end of the content.
    End,
    /// The compressed data cannot be read any further; these bytes came before.
    Damaged(Bytes, String),
}

impl<'r> Content<'r> {
    /// The content of `object`, the bytes of which come next from `pieces`, decompressed in pieces of `size` bytes.
    ///
    /// # Errors
    /// `Internal` when no decoder can be made.
    pub(crate) fn new(
        object: &'r BronzeObject,
        decode: &Decode,
        size: usize,
        pieces: &'r mut mpsc::Receiver<Received>,
    ) -> Result<Self, StageFailure> {
        let mut stored = Stored { pieces, digest: Digest::new(object), ahead: Bytes::new(), ended: false, failure: None };
        stored.ahead = stored.piece();
        let compression = Compression::of(&stored.ahead, decode);
        let source = match compression {
            Compression::None => Source::Plain(stored),
            Compression::Gzip => Source::Gzip(Box::new(MultiGzDecoder::new(stored))),
            Compression::Zstandard => {
                let decoder = zstd::stream::read::Decoder::new(stored).map_err(|error| StageFailure::new(Reason::Internal, error))?;
                Source::Zstandard(Box::new(decoder))
            }
        };
        Ok(Self { object, size, compression, source })
    }

    /// Reads on.
    pub(crate) fn piece(&mut self) -> Piece {
        let decoder: &mut dyn Read = match &mut self.source {
            Source::Plain(stored) => {
                let bytes = stored.piece();
                return if bytes.is_empty() { Piece::End } else { Piece::Bytes(bytes) };
            }
            Source::Gzip(decoder) => decoder,
            Source::Zstandard(decoder) => decoder,
        };
        let mut piece = Vec::with_capacity(self.size);
        match decoder.take(self.size as u64).read_to_end(&mut piece) {
            Ok(0) => Piece::End,
            Ok(_) => Piece::Bytes(piece.into()),
            Err(error) => Piece::Damaged(piece.into(), format!("the {} data is damaged or cut off: {error}", self.compression.name())),
        }
    }

    /// Reads what a decoder left and checks the object against the manifest.
    ///
    /// # Errors
    /// What ended the transfer, or `InputCorrupt` when the digest differs.
    pub(crate) fn finish(self) -> Result<(), StageFailure> {
        let mut stored = match self.source {
            Source::Plain(stored) => stored,
            Source::Gzip(decoder) => decoder.into_inner(),
            Source::Zstandard(decoder) => decoder.finish().into_inner(),
        };
        while !stored.piece().is_empty() {}
        if let Some(failure) = stored.failure {
            return Err(failure);
        }
        stored.digest.check().map_err(|what| corrupt(self.object, &what))
    }
}
