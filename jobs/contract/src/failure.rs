//! How a stage fails: a documented reason, one readable line, and whether another attempt can help.

use serde::{Deserialize, Serialize};

/// Exit codes of the job images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The stage is done.
    Succeeded = 0,
    /// Something unforeseen; another attempt is made.
    Unexpected = 1,
    /// Store, catalog or source did not answer as they should; another attempt can help.
    Retryable = 10,
    /// The definition, the data or a credential is at fault; another attempt ends the same.
    Terminal = 20,
}

/// Why a stage failed. One word each; they appear in conditions, reports and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// The spec cannot be executed: an unknown template, a column that does not exist.
    InvalidDefinition,
    /// Operator and job are of releases that do not work together; the message says which to upgrade.
    IncompatibleVersion,
    /// The object store does not answer.
    StoreUnavailable,
    /// The object store refuses the credentials.
    StoreAccessDenied,
    /// The catalog does not answer.
    CatalogUnavailable,
    /// The source did not answer, or with 429 or 5xx, until the retries were used up.
    SourceUnavailable,
    /// The source refused the request (a 4xx other than 429).
    SourceRefused,
    /// The source answered with something that is not what the definition says.
    InvalidResponse,
    /// The source had no record.
    EmptyResponse,
    /// The source knows only "now" and the interval is over for too long.
    NoHistory,
    /// No bronze manifest exists for the interval.
    NoInput,
    /// A bronze object is missing or its digest is not the manifest's.
    InputCorrupt,
    /// A value does not fit its column and the column says `onError: fail`.
    CastFailed,
    /// An expectation with `otherwise: fail` is broken, or a row lies outside the interval and `outside: fail`.
    ExpectationFailed,
    /// Two different rows have the same key and the same sequence.
    MergeTie,
    /// The table belongs to another pipeline.
    TableOwnedByOther,
    /// The table's schema or partitioning does not fit the definition.
    SchemaMismatch,
    /// SQL cannot be planned: syntax, an unknown table or column, a statement that is not allowed.
    InvalidSql,
    /// SQL failed while it ran, such as by an overflow.
    SqlFailed,
    /// The commit met conflicts until the retries were used up.
    CommitConflict,
    /// Stopped by a signal.
    Interrupted,
    /// Memory or disk ran out.
    ResourcesExhausted,
    /// Anything else: a fault of this software.
    Internal,
}

impl Reason {
    /// Whether another attempt can help.
    pub const fn retryable(self) -> bool {
        matches!(
            self,
            Reason::StoreUnavailable
                | Reason::CatalogUnavailable
                | Reason::SourceUnavailable
                | Reason::CommitConflict
                | Reason::Interrupted
                | Reason::ResourcesExhausted
                | Reason::Internal
        )
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// A stage's failure, as a person reads it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct StageFailure {
    /// One word.
    pub reason: Reason,
    /// One line that names the resource, field, object or row. Never holds a credential.
    pub message: String,
}

impl StageFailure {
    /// A failure; line breaks in `message` become spaces.
    pub fn new(reason: Reason, message: impl std::fmt::Display) -> Self {
        let message = message.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { reason, message }
    }

    /// The exit code for this failure.
    pub const fn exit_code(&self) -> ExitCode {
        match self.reason {
            Reason::Internal => ExitCode::Unexpected,
            reason if reason.retryable() => ExitCode::Retryable,
            _ => ExitCode::Terminal,
        }
    }
}
