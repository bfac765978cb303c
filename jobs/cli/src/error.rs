//! Errors of the command, each one line (a list of faults: one line each).

use std::path::PathBuf;

use lakehouse_contract::{ExitCode, StageFailure};
use lakehouse_gold::SqlError;
use lakehouse_storage::StorageError;
use lakehouse_tables::TableError;

use crate::submit::SubmitError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Options or manifests that cannot be executed.
    #[error("{0}")]
    Invalid(String),
    /// Faults of manifests; each names file, object and field.
    #[error("{} in the manifests\n{}", count(.0.len()), .0.join("\n"))]
    Faults(Vec<String>),
    /// A stage failed.
    #[error("pipeline {pipeline}, run {run}, stage {stage}: {failure}")]
    Stage {
        /// Pipeline name.
        pipeline: String,
        /// Identity of the run.
        run: String,
        /// Stage name.
        stage: String,
        /// What happened.
        failure: StageFailure,
    },
    /// Another process has a run of this pipeline and interval.
    #[error("IntervalBusy: pipeline {pipeline}, interval {interval}: {holder} is at work on it; wait for it with --wait")]
    Busy {
        /// Pipeline name.
        pipeline: String,
        /// Label of the interval.
        interval: String,
        /// Who.
        holder: String,
    },
    /// A signal came.
    #[error("interrupted; the same command goes on where this one stopped")]
    Interrupted,
    /// A query.
    #[error("{}: {}", .0.reason(), .0)]
    Sql(#[from] SqlError),
    /// Store or catalog.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The database of runs.
    #[error("runs in the catalog: {0}")]
    Runs(#[from] sqlx::Error),
    /// Something kept in the database of runs cannot be read.
    #[error("run {run}: its record cannot be read: {source}")]
    Record {
        /// The run.
        run: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A result cannot be shown.
    #[error("the result cannot be shown: {0}")]
    Show(#[from] arrow::error::ArrowError),
    /// A run on a cluster.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// Standard output cannot be written.
    #[error("standard output: {0}")]
    Output(std::io::Error),
}

fn count(faults: usize) -> String {
    if faults == 1 { "1 fault".to_owned() } else { format!("{faults} faults") }
}

impl CliError {
    /// The exit code for this error.
    pub fn exit_code(&self) -> u8 {
        let code = match self {
            Self::Submit(error) => return error.exit_code(),
            Self::Stage { failure, .. } => failure.exit_code(),
            Self::Busy { .. } | Self::Interrupted => ExitCode::Retryable,
            Self::Sql(error) => StageFailure::new(error.reason(), "").exit_code(),
            Self::Storage(error) => lakehouse_shell::storage_failure(error).exit_code(),
            Self::File { .. } | Self::Invalid(_) | Self::Faults(_) => ExitCode::Terminal,
            Self::Table(_) | Self::Runs(_) | Self::Record { .. } | Self::Show(_) | Self::Output(_) => ExitCode::Unexpected,
        };
        code as u8
    }
}
