//! What can go wrong with a log.

/// Errors of this crate; every text names the table or the object.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// The object store failed or did not answer.
    #[error("Delta table {table}: cannot {operation}: {cause}")]
    Store {
        /// Location of the table.
        table: String,
        /// What was tried.
        operation: &'static str,
        /// The cause.
        cause: object_store::Error,
    },
    /// There is no log at the location.
    #[error("there is no Delta table at {table}")]
    NoSuchTable {
        /// Location of the table.
        table: String,
    },
    /// The log does not have the version, or not any more.
    #[error("Delta table {table} has no version {version}; its log may have been cleaned up")]
    NoSuchVersion {
        /// Location of the table.
        table: String,
        /// The version.
        version: u64,
    },
    /// The table needs what this crate does not do.
    #[error("Delta table {table} needs {what}, which is not supported")]
    Unsupported {
        /// Location of the table.
        table: String,
        /// Feature or version.
        what: String,
    },
    /// An object of the log cannot be understood.
    #[error("Delta table {table}: {what} cannot be read: {reason}")]
    Corrupt {
        /// Location of the table.
        table: String,
        /// Which object.
        what: String,
        /// Why.
        reason: String,
    },
    /// A file that was to be removed is not in the table.
    #[error("Delta table {table}: {path} is not in the table and cannot be removed")]
    NotLive {
        /// Location of the table.
        table: String,
        /// Path of the file.
        path: String,
    },
    /// Other writers won every attempt.
    #[error("Delta table {table}: gave up after {attempts} attempts against other writers")]
    Conflict {
        /// Location of the table.
        table: String,
        /// How often it was tried.
        attempts: u32,
    },
}
