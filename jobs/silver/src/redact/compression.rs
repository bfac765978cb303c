//! The content of a stored object, and the way back.

use std::io::{Read, Write};

/// Largest content that is cut, decompressed, in bytes.
const LARGEST: u64 = 1 << 30;

/// Compresses content as the object was compressed.
pub(super) type Compress = fn(&[u8]) -> std::io::Result<Vec<u8>>;

/// The decompressed content, and how it is compressed again.
pub(super) fn plain(stored: &[u8]) -> Result<(Vec<u8>, Compress), String> {
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

pub(super) fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}
