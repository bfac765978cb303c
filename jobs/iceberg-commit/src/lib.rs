//! Commits to Apache Iceberg tables (format version 2) on top of the public API of the `iceberg` crate.
//!
//! What that crate leaves out and this one adds: snapshots that replace files ([`Plan`]), manifests that are merged instead of piling up, and
//! a commit loop over the SQL catalog that is a compare-and-swap of the metadata location ([`SqlCatalog::commit`]). The loop asks a planner for
//! the change on *fresh* metadata before every attempt, so what is removed is never stale, and a planner can look for its own earlier commit in
//! the very metadata that it is about to replace. After a lost answer the loop reads the table to learn whether the commit happened; files that
//! a snapshot may reference are never deleted.
//!
//! A snapshot can be added to a branch instead ([`Plan::branch`]), looked at there, and become the current one by a later commit
//! ([`Plan::publish`]) that writes nothing but metadata.
//!
//! For maintenance, [`expirable`] says which snapshots may go, [`Plan::expired`] takes them out in such a commit, and [`references`] names every
//! object that a table still needs.
//!
//! The catalog uses the tables `iceberg_tables` and `iceberg_namespace_properties` (schema V1) that PyIceberg's `SqlCatalog` and the JDBC
//! catalogs of Spark and Trino use, on SQLite and Postgres. Data and metadata move through `object_store` ([`ObjectStoreIo`]).

mod catalog;
mod commit;
mod error;
mod io;
mod live;
mod plan;
mod references;
mod retention;
mod snapshot;
mod turns;

pub use catalog::{NewTable, SqlCatalog};
pub use commit::{Attempt, COMMIT_TOKEN, Decision, Outcome};
pub use error::CommitError;
pub use io::ObjectStoreIo;
pub use live::{LiveFile, live_files};
pub use plan::Plan;
pub use references::{References, files_of_snapshots, references};
pub use retention::{Retention, branches, expirable};
pub use snapshot::manifest_counts;

/// Result of this crate.
pub type Result<T, E = CommitError> = std::result::Result<T, E>;
