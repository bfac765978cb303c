//! Tables behind one trait: Iceberg, Delta and plain Parquet, written once per commit token and read through DataFusion.
//!
//! [`Tables`] opens the tables of one lakehouse. A writer calls [`Tables::ensure`] with a [`TableDef`], then [`Table::stage`], which writes
//! data files that no reader sees, and [`Table::commit`], which publishes them atomically together with the commit token. A token that is
//! in the table already is not committed again, whichever process asks, so every step can be repeated after a crash.
//!
//! ```text
//! let table = tables.ensure(&definition).await?;
//! if table.find_commit(&commit.token).await?.is_none() {
//!     let staged = table.stage(input, &commit).await?;   // nothing is published
//!     table.commit(staged, &commit).await?;              // all or nothing, once
//! }
//! ```
//!
//! Where rows must be looked at in the table that they will make, [`Table::audit`] stands between the two, and [`Table::publish`] or
//! [`Table::reject`] in the place of the commit.

mod best;
mod blooms;
mod candidate;
mod changes;
mod compact;
mod conform;
mod definition;
mod delta_erase;
mod delta_files;
mod delta_maintenance;
mod delta_rewritten;
mod delta_rows;
mod delta_table;
mod encode;
mod erase;
mod error;
mod evolution;
mod filter;
mod folder;
mod history;
mod iceberg_erase;
mod iceberg_maintenance;
mod iceberg_table;
mod lease;
mod ledger;
mod live;
mod maintenance;
mod merge;
mod parallel;
mod parquet_erase;
mod parquet_maintenance;
mod parquet_manifest;
mod parquet_provider;
mod parquet_table;
mod partitions;
mod provider;
mod record;
mod registry;
mod replace;
mod rows;
mod schema;
mod scratch;
mod segments;
mod table;
mod tables;
mod turn;
mod winners;
mod writer;

pub use candidate::{Audit, Candidate};
pub use conform::conform;
pub use definition::{InvalidPartitionField, PartitionField, TableDef, TableFormat, Transform};
pub use erase::{Doomed, Erased, Judge, without};
pub use error::{TableError, delta_reason};
pub use evolution::{Change, Declared, Evolution};
pub use history::{HISTORY, IS_CURRENT, VALID_FROM, VALID_TO, with_history};
pub use maintenance::{Compaction, Expiry, Maintained, Maintenance, Orphans, SHORTEST_GRACE};
pub use parallel::in_parallel;
pub use scratch::{Block, Scratch, ScratchError};
pub use table::{BatchStream, BoxError, Commit, Committed, IntervalCommit, Origin, Staged, Table, WriteMode, one_stream};
pub use tables::{CATALOG_NAME, Registered, Registration, Tables};

/// Column that is left out when two versions of a row are compared: when a row was processed is not part of its content.
pub const PROCESSED_AT: &str = "processed_at";

/// Result of this crate.
pub type Result<T, E = TableError> = std::result::Result<T, E>;
