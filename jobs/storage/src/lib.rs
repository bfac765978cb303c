//! Object store and catalog database of a lakehouse.
//!
//! The same code serves a local directory and S3: a [`Storage`] has one [`LayerStore`] per [`Layer`] (bronze, silver, gold, landing), which
//! reads and writes keys relative to the layer and knows the absolute URI of each. [`CatalogDb`] is the SQL database (SQLite on a laptop,
//! Postgres in a cluster) that holds the table catalog and the [`leases`]. Nothing here links a data engine.

pub mod catalog;
pub mod credentials;
mod error;
pub mod layer;
pub mod leases;
pub mod memory;
mod s3admin;
mod storage;
mod writer;

pub use catalog::{CatalogDb, Dialect, redact_uri};
pub use credentials::Credentials;
pub use error::{StorageError, chain};
pub use layer::{Layer, LayerStore, ObjectEntry, PutOutcome};
pub use leases::{Lease, LeaseOptions};
pub use storage::{Bucket, S3Options, Storage};
pub use writer::{ObjectWriter, WrittenObject};

use sha2::{Digest, Sha256};
use std::sync::Once;

/// Result of this crate.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

static TLS: Once = Once::new();

/// Installs `ring` as the process-wide TLS provider, once; every client of the workspace relies on it.
///
/// Safe to call from several threads and several times. A provider that the embedding process installed before stays in place.
pub fn init_tls() {
    TLS.call_once(|| {
        // An error means that the embedding process chose a provider already, which is as good.
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("a TLS provider was installed already");
        }
    });
}

/// Lower-case hexadecimal BLAKE3 of `bytes` (64 characters).
pub fn blake3(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Lower-case hexadecimal SHA-256 of `bytes` (64 characters).
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
