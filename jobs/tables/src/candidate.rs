//! Write, audit, publish: a commit that is prepared in full, looked at by nobody but its writer, and then published or not.
//!
//! An Iceberg candidate is a snapshot on a branch `audit-<start of the interval>` beside `main`; publishing moves `main` to it in one commit
//! that writes metadata only. Delta and Parquet have no branches: their candidate is the commit itself, decided and not yet sent, over files
//! that are in the store already. In every format a candidate is published only onto the very state that it was made from.

use crate::ledger::{self, Entry};
use crate::parquet_manifest::Manifest;
use crate::{Commit, Committed};
use datafusion::catalog::TableProvider;
use delta_commit::Change;
use lakehouse_storage::Lease;
use std::fmt;
use std::sync::Arc;

/// Beginning of the names of the branches that candidates are on.
pub(crate) const BRANCH: &str = "audit-";

/// What [`crate::Table::audit`] gives.
#[allow(clippy::large_enum_variant, reason = "a handful per stage")]
#[derive(Debug)]
pub enum Audit {
    /// The token is in the table: there is nothing to publish.
    Already(Committed),
    /// To be looked at, then published or rejected.
    Candidate(Candidate),
}

/// A commit that is prepared in full and that no reader of the table sees.
///
/// It holds the table's lease: audited writers of one table come one after the other.
pub struct Candidate {
    pub(crate) provider: Arc<dyn TableProvider>,
    pub(crate) content: Content,
    pub(crate) lease: Option<Lease>,
}

pub(crate) enum Content {
    Iceberg { branch: String, snapshot_id: i64, parent: Option<i64>, schema_id: i32, entry: Box<Entry> },
    Delta { version: u64, change: Box<Change> },
    Parquet { next: Box<Manifest> },
}

impl Candidate {
    /// The table as it will be: with the rows of the commit, and without those that it replaces.
    pub fn provider(&self) -> Arc<dyn TableProvider> {
        self.provider.clone()
    }

    /// Name of the branch that the candidate is on and stays on when it is rejected; none for a format without branches.
    pub fn branch(&self) -> Option<&str> {
        match &self.content {
            Content::Iceberg { branch, .. } => Some(branch),
            Content::Delta { .. } | Content::Parquet { .. } => None,
        }
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").field("branch", &self.branch()).finish_non_exhaustive()
    }
}

/// The branch of an interval's candidates: one per interval, so that what was rejected gives way to the next attempt.
pub(crate) fn branch_of(commit: &Commit) -> String {
    format!("{BRANCH}{}", ledger::interval_start(commit))
}
