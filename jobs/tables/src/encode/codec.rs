//! Compression of pages, with one context and one pair of buffers for all text columns of a file.

use bytes::Bytes;
use parquet::errors::Result;

/// Compresses by zstd.
pub(super) struct Codec {
    compressor: zstd::bulk::Compressor<'static>,
    /// A page as it is put together.
    raw: Vec<u8>,
    compressed: Vec<u8>,
}

impl Codec {
    /// With this level of zstd.
    pub(super) fn new(level: i32) -> Result<Self> {
        Ok(Self { compressor: zstd::bulk::Compressor::new(level)?, raw: Vec::new(), compressed: Vec::new() })
    }

    /// Compresses what `build` puts into an empty buffer; the length of that, and what became of it.
    pub(super) fn compress(&mut self, build: impl FnOnce(&mut Vec<u8>)) -> Result<(usize, Bytes)> {
        self.raw.clear();
        build(&mut self.raw);
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(self.raw.len()));
        self.compressor.compress_to_buffer(&self.raw, &mut self.compressed)?;
        Ok((self.raw.len(), Bytes::copy_from_slice(&self.compressed)))
    }
}
