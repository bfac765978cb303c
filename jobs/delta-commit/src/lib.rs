//! The transaction log of Delta tables: replay, exactly one commit per version, checkpoints.
//!
//! Follows the Delta transaction log protocol (`PROTOCOL.md` of delta-io/delta) for tables of reader version 1 and writer version 2, and
//! for those of versions 3 and 7 whose only feature beyond is `timestampNtz`. Tables with deletion vectors, column mapping or any other
//! feature are refused by name instead of being read wrong.
//!
//! ```text
//! let log = DeltaLog::new(store, root, "s3://silver/events");
//! let outcome = log.commit(|snapshot| async move {
//!     // Looks at the very state that the commit will follow, and is asked again when another writer was faster.
//!     Ok::<_, DeltaError>(Decision::Commit(Box::new(change)))
//! }).await?;
//! ```

mod actions;
mod checkpoint;
mod commit;
mod error;
mod history;
mod log;
mod schema;
mod snapshot;

pub use actions::{Add, Format, Metadata, PartitionValues, Protocol, Txn};
pub use commit::{Change, Decision, Outcome};
pub use error::DeltaError;
pub use history::{History, parse_interval, version_of};
pub use log::DeltaLog;
pub use schema::{from_schema_string, protocol_of, to_schema_string};
pub use snapshot::Snapshot;

/// Result of this crate.
pub type Result<T, E = DeltaError> = std::result::Result<T, E>;
