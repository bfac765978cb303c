//! Why an ingest fails, as the contract's [`StageFailure`].

use lakehouse_contract::{Reason, StageFailure};
use lakehouse_shell::storage_failure;
use lakehouse_storage::StorageError;

/// Why an ingest fails. Texts name source, request or object, and never hold a credential.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// A source does not give what the definition says.
    #[error("source {source_name}: {message}")]
    Source {
        /// One word.
        reason: Reason,
        /// Name of the source.
        source_name: String,
        /// One line.
        message: String,
    },
    /// Bronze or landing cannot be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The manifest that this run committed earlier cannot be used.
    #[error("bronze manifest {uri}: {message}")]
    Manifest {
        /// Absolute URI of the manifest.
        uri: String,
        /// What is wrong.
        message: String,
    },
    /// The spec is for another stage.
    #[error("the spec is for {0}, not for ingest")]
    WrongStage(lakehouse_contract::Stage),
    /// A fault of this software.
    #[error("{0}")]
    Internal(String),
}

impl IngestError {
    /// An error of the source `source_name`.
    pub fn source(reason: Reason, source_name: &str, message: impl Into<String>) -> Self {
        Self::Source { reason, source_name: source_name.to_owned(), message: message.into() }
    }

    /// Whether it is no fault: the process was told to stop, and what was read is kept.
    pub fn is_stop(&self) -> bool {
        matches!(self, Self::Source { reason: Reason::Interrupted, .. })
    }

    /// The stage's failure.
    pub fn failure(&self) -> StageFailure {
        let reason = match self {
            Self::Storage(error) => return storage_failure(error),
            Self::Source { reason, .. } => *reason,
            Self::Manifest { .. } => Reason::InputCorrupt,
            Self::WrongStage(_) => Reason::InvalidDefinition,
            Self::Internal(_) => Reason::Internal,
        };
        StageFailure::new(reason, self)
    }
}
