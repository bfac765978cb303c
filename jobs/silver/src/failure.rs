//! What the errors of tables and of the disk mean for the stage.

use iceberg_commit::CommitError;
use lakehouse_contract::{Reason, StageFailure};
use lakehouse_shell::storage_failure;
use lakehouse_tables::{ScratchError, TableError, delta_reason};

/// The failure that a table's error means for the stage.
pub(crate) fn table_failure(error: &TableError) -> StageFailure {
    // What the rows' own source says.
    if let TableError::Source { cause, .. } = error
        && let Some(failure) = cause.downcast_ref::<StageFailure>()
    {
        return failure.clone();
    }
    let reason = match error {
        TableError::OwnedByOther { .. } => Reason::TableOwnedByOther,
        TableError::Definition { .. } | TableError::Unsupported { .. } => Reason::InvalidDefinition,
        TableError::SchemaMismatch { .. } | TableError::ColumnGone { .. } | TableError::Input { .. } => Reason::SchemaMismatch,
        TableError::MergeTie { .. } => Reason::MergeTie,
        TableError::Conflict { .. } => Reason::CommitConflict,
        TableError::Storage(error) => return storage_failure(error),
        TableError::Source { cause, .. } if cause.is::<ScratchError>() => Reason::ResourcesExhausted,
        TableError::Scratch { .. } => Reason::ResourcesExhausted,
        TableError::Delta { cause, .. } => delta_reason(cause),
        TableError::Commit(CommitError::Database { .. }) => Reason::CatalogUnavailable,
        TableError::Commit(CommitError::Conflict { .. }) => Reason::CommitConflict,
        // Files and metadata of a table are read and written through the object store.
        TableError::Commit(CommitError::Iceberg { .. }) | TableError::Iceberg { .. } => Reason::StoreUnavailable,
        _ => Reason::Internal,
    };
    let text = error.to_string();
    // The reason stands in front of the message already.
    StageFailure::new(reason, text.strip_prefix(&format!("{reason}: ")).unwrap_or(&text))
}

/// The failure of a disk.
pub(crate) fn scratch_failure(error: ScratchError) -> StageFailure {
    StageFailure::new(Reason::ResourcesExhausted, error)
}
