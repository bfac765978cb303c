//! Streaming upload of one object in parts.

use crate::memory::Parts;
use crate::{LayerStore, Result};
use bytes::Bytes;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

/// Writes one object part by part. The object becomes visible, whole, only when [`Self::finish`] returns.
///
/// Dropping the writer without finishing leaves no object; call [`Self::abort`] to also drop uploaded parts.
pub struct ObjectWriter {
    layer: LayerStore,
    key: String,
    inner: BufWriter,
    sha256: Sha256,
    blake3: blake3::Hasher,
    size: u64,
}

/// What a finished [`ObjectWriter`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenObject {
    /// Key relative to the layer.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// Lower-case hexadecimal SHA-256 of the content.
    pub sha256: String,
    /// Lower-case hexadecimal BLAKE3 of the content.
    pub blake3: String,
}

impl ObjectWriter {
    pub(crate) fn new(layer: LayerStore, key: String, path: Path) -> Self {
        // Whoever writes objects writes one at a time, or few.
        let parts = Parts::here(1);
        let inner = BufWriter::with_capacity(layer.object_store(), path, parts.bytes).with_max_concurrency(parts.in_flight);
        Self { layer, key, inner, sha256: Sha256::new(), blake3: blake3::Hasher::new(), size: 0 }
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends bytes; waits when too many parts are in flight, so memory stays bounded.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.sha256.update(&bytes);
        self.blake3.update(&bytes);
        self.size += bytes.len() as u64;
        self.inner.put(bytes).await.map_err(|error| self.layer.error("write", &self.key, error))
    }

    /// Completes the upload and returns size and digests of the object.
    pub async fn finish(mut self) -> Result<WrittenObject> {
        self.inner.shutdown().await.map_err(|error| self.layer.error("write", &self.key, store_error(error)))?;
        let (sha256, blake3) = (hex::encode(self.sha256.finalize()), self.blake3.finalize().to_hex().to_string());
        Ok(WrittenObject { key: self.key, size: self.size, sha256, blake3 })
    }

    /// Gives the upload up and drops its parts.
    pub async fn abort(mut self) -> Result<()> {
        self.inner.abort().await.map_err(|error| self.layer.error("abort", &self.key, error))
    }
}

/// The store's own error that `AsyncWrite` wrapped.
fn store_error(error: std::io::Error) -> object_store::Error {
    error
        .downcast::<object_store::Error>()
        .unwrap_or_else(|other| object_store::Error::Generic { store: "lakehouse", source: Box::new(other) })
}
