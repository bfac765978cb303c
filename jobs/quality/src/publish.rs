//! Write, audit, publish of one commit: what silver and gold do with the rows of a table whose rules are about the whole of it.

use std::{collections::BTreeMap, sync::Arc};

use datafusion::catalog::TableProvider;
use lakehouse_tables::{Audit, Candidate, Commit, Committed, Staged, Table, TableError};

/// How often a table is audited anew because another writer changed it meanwhile.
pub const AUDITS: u32 = 20;

/// A table's rows, staged: no reader sees them yet.
#[derive(Debug)]
pub struct StagedTable {
    /// The table.
    pub table: Arc<dyn Table>,
    /// Its rows.
    pub staged: Staged,
    /// Identity of the commit.
    pub commit: Commit,
}

/// Staged rows and the table as it will be with them; no reader sees either.
#[derive(Debug)]
pub struct AuditedTable {
    staged: StagedTable,
    candidate: Candidate,
}

/// What preparing a commit gives.
#[allow(clippy::large_enum_variant, reason = "a handful per stage")]
#[derive(Debug)]
pub enum Audited {
    /// To be looked at, then published or rejected.
    Candidate(AuditedTable),
    /// The table has the commit already.
    Already(Committed),
}

/// What publishing came to.
#[allow(clippy::large_enum_variant, reason = "a handful per stage")]
#[derive(Debug)]
pub enum Published {
    /// The table has the rows.
    Done(Committed),
    /// The table changed since it was audited: that has to be done again.
    Changed(StagedTable),
}

impl StagedTable {
    /// Prepares the commit in full.
    ///
    /// # Errors
    /// As [`Table::audit`].
    pub async fn audit(self) -> Result<Audited, TableError> {
        Ok(match self.table.audit(&self.staged, &self.commit).await? {
            Audit::Candidate(candidate) => Audited::Candidate(AuditedTable { staged: self, candidate }),
            Audit::Already(committed) => Audited::Already(committed),
        })
    }

    /// Publishes the rows without looking at the table.
    ///
    /// # Errors
    /// As [`Table::commit`].
    pub async fn commit(self) -> Result<Committed, TableError> {
        self.table.commit(self.staged, &self.commit).await
    }
}

impl AuditedTable {
    /// The table as it will be.
    pub fn provider(&self) -> Arc<dyn TableProvider> {
        self.candidate.provider()
    }

    /// Publishes it with the facts of `summary`, unless the table is another by now.
    ///
    /// # Errors
    /// As [`Table::publish`].
    pub async fn publish(self, summary: BTreeMap<String, String>) -> Result<Published, TableError> {
        let Self { mut staged, candidate } = self;
        staged.commit.summary = summary;
        let published = staged.table.publish(candidate, &staged.commit).await?;
        Ok(published.map_or_else(|| Published::Changed(staged), Published::Done))
    }

    /// Publishes nothing. The branch that it stays on, if its format has branches.
    pub async fn reject(self) -> Option<String> {
        let branch = self.candidate.branch().map(str::to_owned);
        self.staged.table.reject(self.candidate, self.staged.staged).await;
        branch
    }
}
