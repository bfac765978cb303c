//! What can go wrong in the catalog or a commit.

/// Errors of this crate; every text names the table or the catalog.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The catalog database failed or did not answer.
    #[error("catalog `{catalog}`: cannot {operation}: {reason}")]
    Database {
        /// Name of the catalog.
        catalog: String,
        /// What was tried.
        operation: &'static str,
        /// What the driver said.
        reason: String,
    },
    /// There is no such table.
    #[error("table {table} does not exist")]
    NoSuchTable {
        /// `namespace.name`.
        table: String,
    },
    /// Another writer won every attempt.
    #[error("table {table}: gave up after {attempts} attempts against other writers")]
    Conflict {
        /// `namespace.name`.
        table: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// A file that was to be removed is not a live file of the current snapshot.
    #[error("table {table}: {path} is not a live file and cannot be removed")]
    NotLive {
        /// `namespace.name`.
        table: String,
        /// Location of the file.
        path: String,
    },
    /// Reading or writing table metadata failed.
    #[error("table {table}: {cause}")]
    Iceberg {
        /// `namespace.name`.
        table: String,
        /// The cause.
        cause: Box<iceberg::Error>,
    },
}

impl CommitError {
    pub(crate) fn iceberg(table: &iceberg::TableIdent) -> impl Fn(iceberg::Error) -> Self + '_ {
        move |cause| Self::Iceberg { table: show(table), cause: Box::new(cause) }
    }
}

/// `namespace.name`.
pub(crate) fn show(table: &iceberg::TableIdent) -> String {
    format!("{}.{}", table.namespace().join("."), table.name())
}
