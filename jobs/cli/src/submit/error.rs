//! Why `submit` fails, each one line, and the exit code for it.

use std::path::PathBuf;

use lakehouse_api::common::HumanDuration;

use super::{decide::Conflict, signals::Cause};

/// Why `submit` fails.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// Options, or a definition, that the cluster or we refuse.
    #[error("{0}")]
    Refused(String),
    /// The run to adopt was asked for something else.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// No API server, or none that answers.
    #[error("{0}")]
    Unreachable(String),
    /// The run ended without success.
    #[error("{0}")]
    Failed(String),
    /// Somebody deleted the run.
    #[error("run {0}: it was deleted before it had ended")]
    Deleted(String),
    /// The run did not end in time.
    #[error("run {run}: not finished within {limit} (--timeout), it goes on; last seen: {seen}")]
    TimedOut {
        /// Name of the run.
        run: String,
        /// The limit.
        limit: HumanDuration,
        /// What was seen of it last.
        seen: String,
    },
    /// Something else than a run did not end in time.
    #[error("{0}")]
    Unfinished(String),
    /// A signal came.
    #[error("stopped by {}: {fate}", .cause.name())]
    Stopped {
        /// Which.
        cause: Cause,
        /// What becomes of the run.
        fate: String,
    },
    /// Signals cannot be listened to.
    #[error("cannot listen to signals: {0}")]
    Signals(std::io::Error),
    /// The outcome cannot be written.
    #[error("--outcome-file {}: {source}", path.display())]
    OutcomeFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl SubmitError {
    /// The exit code: 1 the run failed, 2 refused, 3 no cluster, 4 timed out, 128 + signal.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Deleted(_) | Self::Signals(_) | Self::OutcomeFile { .. } => 1,
            Self::Refused(_) | Self::Conflict(_) => 2,
            Self::Unreachable(_) => 3,
            Self::TimedOut { .. } | Self::Unfinished(_) => 4,
            Self::Stopped { cause, .. } => cause.exit_code(),
        }
    }
}
