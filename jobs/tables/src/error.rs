//! What can go wrong with a table, in one line that names the table, column or row.

use crate::BoxError;
use lakehouse_contract::{Reason, TableRef};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Another pipeline owns the table.
    #[error("TableOwnedByOther: table {table} belongs to pipeline {owner}, not to {asking}")]
    OwnedByOther {
        /// The table.
        table: TableRef,
        /// Its owner.
        owner: String,
        /// Who wanted to write.
        asking: String,
    },
    /// The definition itself cannot be used.
    #[error("table {table}: {reason}")]
    Definition {
        /// The table.
        table: TableRef,
        /// What is wrong, naming the column.
        reason: String,
    },
    /// The table exists and cannot become what the definition says.
    #[error("table {table} cannot become what the definition says: {}", .refused.join("; "))]
    SchemaMismatch {
        /// The table.
        table: TableRef,
        /// Every reason; each names the column and what to do.
        refused: Vec<String>,
    },
    /// Rows were staged for a column that has been dropped since.
    #[error(
        "table {table}: a column was dropped while rows with it were on their way (field {field_id}): run again with the definition that dropped it"
    )]
    ColumnGone {
        /// The table.
        table: TableRef,
        /// The column's id in the table's metadata.
        field_id: i32,
    },
    /// Input rows do not fit the table.
    #[error("table {table}: column {column}: {reason}")]
    Input {
        /// The table.
        table: TableRef,
        /// The column.
        column: String,
        /// What is wrong.
        reason: String,
    },
    /// A row of a `replaceInterval` write lies outside of the interval.
    #[error("table {table}: column {column}: row with {value} lies outside of the interval {interval}")]
    OutsideInterval {
        /// The table.
        table: TableRef,
        /// The column that places rows in time.
        column: String,
        /// Value of the first such row.
        value: String,
        /// The interval, `[start, end)`.
        interval: Box<str>,
    },
    /// Two different rows with the same key and sequence.
    #[error("MergeTie: table {table}: two different rows have key {key} and sequence {sequence}")]
    MergeTie {
        /// The table.
        table: TableRef,
        /// `column=value` of every key column.
        key: String,
        /// `column=value` of every sequence column.
        sequence: String,
    },
    /// The table's format cannot do this.
    #[error("table {table}: {format} tables do not support {operation}")]
    Unsupported {
        /// The table.
        table: TableRef,
        /// The format.
        format: &'static str,
        /// The operation.
        operation: &'static str,
    },
    /// What an earlier append wrote can no longer be told apart, so it cannot be replaced.
    #[error(
        "table {table}: {expected} rows were appended for the interval {interval}, of which {found} are in files of that append: cannot replace them exactly"
    )]
    AppendRewritten {
        /// The table.
        table: TableRef,
        /// Start of the interval.
        interval: String,
        /// Rows that the append wrote.
        expected: u64,
        /// Rows still in its own files.
        found: u64,
    },
    /// A state of the table that is asked for is not there any more.
    #[error("table {table}: there is no snapshot {snapshot}; it may have expired")]
    NoSuchSnapshot {
        /// The table.
        table: TableRef,
        /// The snapshot (Iceberg) or generation (Parquet).
        snapshot: String,
    },
    /// Other writers won every attempt.
    #[error("table {table}: gave up after {attempts} attempts against other writers")]
    Conflict {
        /// The table.
        table: TableRef,
        /// How often it was tried.
        attempts: u32,
    },
    /// A stored description of a table cannot be read.
    #[error("table {table}: {what} cannot be read: {reason}")]
    Corrupt {
        /// The table.
        table: TableRef,
        /// Which object or property.
        what: String,
        /// Why.
        reason: String,
    },
    /// The stream of input rows failed.
    #[error("table {table}: reading its input failed: {cause}")]
    Source {
        /// The table.
        table: TableRef,
        /// The cause, as the producer of the stream gave it.
        cause: BoxError,
    },
    /// The catalog or a commit failed.
    #[error(transparent)]
    Commit(#[from] iceberg_commit::CommitError),
    /// The log of a Delta table failed.
    #[error("table {table}: {cause}")]
    Delta {
        /// The table.
        table: TableRef,
        /// The cause.
        cause: Box<delta_commit::DeltaError>,
    },
    /// Object store, catalog database or lease.
    #[error(transparent)]
    Storage(#[from] lakehouse_storage::StorageError),
    /// Reading or writing Iceberg files failed.
    #[error("table {table}: {cause}")]
    Iceberg {
        /// The table.
        table: TableRef,
        /// The cause.
        cause: Box<iceberg::Error>,
    },
    /// Rows that are beyond the memory cannot wait on disk.
    #[error("table {table}: {cause}")]
    Scratch {
        /// The table.
        table: TableRef,
        /// The cause.
        cause: crate::ScratchError,
    },
    /// An Arrow operation failed.
    #[error("table {table}: {cause}")]
    Arrow {
        /// The table.
        table: TableRef,
        /// The cause.
        cause: arrow::error::ArrowError,
    },
    /// A background task ended without a result.
    #[error("table {table}: a writer task ended unexpectedly: {reason}")]
    Task {
        /// The table.
        table: TableRef,
        /// Why.
        reason: String,
    },
}

impl TableError {
    /// Wraps an Iceberg error about `table`.
    pub(crate) fn iceberg(table: &TableRef) -> impl Fn(iceberg::Error) -> Self + '_ {
        move |cause| Self::Iceberg { table: table.clone(), cause: Box::new(cause) }
    }

    /// Wraps an error of a Delta log about `table`.
    pub(crate) fn delta(table: &TableRef) -> impl Fn(delta_commit::DeltaError) -> Self + '_ {
        move |cause| match cause {
            delta_commit::DeltaError::Conflict { attempts, .. } => Self::Conflict { table: table.clone(), attempts },
            cause => Self::Delta { table: table.clone(), cause: Box::new(cause) },
        }
    }

    /// Wraps an error of rows that wait on disk about `table`.
    pub(crate) fn scratch(table: &TableRef) -> impl Fn(crate::ScratchError) -> Self + '_ {
        move |cause| Self::Scratch { table: table.clone(), cause }
    }

    /// Wraps an Arrow error about `table`.
    pub(crate) fn arrow(table: &TableRef) -> impl Fn(arrow::error::ArrowError) -> Self + '_ {
        move |cause| Self::Arrow { table: table.clone(), cause }
    }
}

/// The reason that an error of a Delta log means for a stage.
pub fn delta_reason(error: &delta_commit::DeltaError) -> Reason {
    use delta_commit::DeltaError;
    match error {
        DeltaError::Store { .. } => Reason::StoreUnavailable,
        DeltaError::Conflict { .. } => Reason::CommitConflict,
        DeltaError::NoSuchTable { .. } | DeltaError::Unsupported { .. } => Reason::InvalidDefinition,
        DeltaError::NoSuchVersion { .. } | DeltaError::Corrupt { .. } => Reason::InputCorrupt,
        DeltaError::NotLive { .. } => Reason::Internal,
    }
}
