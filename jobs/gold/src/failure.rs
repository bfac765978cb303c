//! From errors to stage failures: a documented reason and one line that names the model.

use std::error::Error;

use datafusion::common::DataFusionError;
use lakehouse_contract::{Reason, StageFailure, TableRef};
use lakehouse_shell::storage_failure;
use lakehouse_tables::{ScratchError, TableError, delta_reason};

use crate::SqlError;

/// The failure of the model `table` by its SQL.
pub(crate) fn sql_failure(table: &TableRef, error: &SqlError) -> StageFailure {
    if let SqlError::Read(cause) = error
        && let Some(known) = known_cause(cause.as_ref())
    {
        return StageFailure::new(known.reason, format!("{table}: {}", known.message));
    }
    StageFailure::new(error.reason(), format!("{table}: {error}"))
}

/// A table's error that the engine wrapped on its way up.
fn known_cause(cause: &(dyn Error + 'static)) -> Option<StageFailure> {
    let mut cause = Some(cause);
    while let Some(error) = cause {
        if let Some(table) = error.downcast_ref::<TableError>() {
            return Some(table_failure(table));
        }
        cause = error.source();
    }
    None
}

/// The failure that an error of a table means.
pub(crate) fn table_failure(error: &TableError) -> StageFailure {
    let reason = match error {
        TableError::Storage(error) => return storage_failure(error),
        TableError::Source { table, cause } => return source_failure(table, cause.as_ref()),
        TableError::OutsideInterval { table, column, value, interval } => {
            return StageFailure::new(
                Reason::ExpectationFailed,
                format!(
                    "{table}: column {column}: the query gives a row with {value}, outside of the interval {interval}: filter by $start and $end"
                ),
            );
        }
        TableError::OwnedByOther { .. } => Reason::TableOwnedByOther,
        TableError::SchemaMismatch { .. } | TableError::ColumnGone { .. } => Reason::SchemaMismatch,
        TableError::Definition { .. } | TableError::Unsupported { .. } => Reason::InvalidDefinition,
        TableError::Input { .. } => Reason::CastFailed,
        TableError::MergeTie { .. } => Reason::MergeTie,
        TableError::Conflict { .. } => Reason::CommitConflict,
        TableError::Commit(error) => commit_reason(error),
        TableError::Corrupt { .. } | TableError::AppendRewritten { .. } | TableError::NoSuchSnapshot { .. } => Reason::InputCorrupt,
        TableError::Iceberg { .. } => Reason::StoreUnavailable,
        TableError::Delta { cause, .. } => delta_reason(cause),
        TableError::Scratch { .. } => Reason::ResourcesExhausted,
        TableError::Arrow { .. } | TableError::Task { .. } => Reason::Internal,
    };
    StageFailure::new(reason, error)
}

fn commit_reason(error: &iceberg_commit::CommitError) -> Reason {
    use iceberg_commit::CommitError;
    match error {
        CommitError::Database { .. } => Reason::CatalogUnavailable,
        CommitError::Conflict { .. } => Reason::CommitConflict,
        CommitError::NoSuchTable { .. } => Reason::InvalidDefinition,
        CommitError::NotLive { .. } => Reason::Internal,
        CommitError::Iceberg { .. } => Reason::StoreUnavailable,
    }
}

fn source_failure(table: &TableRef, cause: &(dyn Error + Send + Sync + 'static)) -> StageFailure {
    match cause.downcast_ref::<DataFusionError>() {
        Some(error) => {
            if let DataFusionError::External(inner) = error.find_root()
                && let Some(known) = known_cause(inner.as_ref())
            {
                return StageFailure::new(known.reason, format!("{table}: {}", known.message));
            }
            sql_failure(table, &SqlError::shared_of(error))
        }
        None if cause.is::<ScratchError>() => StageFailure::new(Reason::ResourcesExhausted, format!("{table}: {cause}")),
        None => StageFailure::new(Reason::Internal, format!("{table}: {cause}")),
    }
}
