//! Write, audit, publish of one commit: what silver and gold do with the rows of a table whose rules are about the whole of it.

use std::{collections::BTreeMap, sync::Arc};

use datafusion::catalog::TableProvider;
use lakehouse_contract::{Reason, StageFailure};
use lakehouse_tables::{Audit, Candidate, Commit, Committed, Staged, Table, TableError};

/// How often a table is audited anew because another writer changed it meanwhile.
const AUDITS: u32 = 20;

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

/// What publishing once came to.
#[allow(clippy::large_enum_variant, reason = "a handful per stage")]
#[derive(Debug)]
enum Published {
    /// The table has the rows.
    Done(Committed),
    /// The table changed since it was audited: that has to be done again.
    Changed(StagedTable),
}

/// The end of a commit that somebody looked at.
#[derive(Debug)]
pub enum Outcome {
    /// The rows were published, with what the judge found.
    Published(Committed),
    /// The table had the commit already, with what was found then.
    Already(Committed),
}

/// Who looks at a table as it will be, and says whether it may be published.
pub trait Judge: Send {
    /// Looks at the rows of the table as the commit would make it, and keeps what it finds; asked anew when the table changed meanwhile.
    ///
    /// # Errors
    /// Why the table must not be published.
    fn look(&mut self, rows: Arc<dyn TableProvider>) -> impl Future<Output = Result<(), StageFailure>> + Send;

    /// What was found, as facts for the commit's summary.
    ///
    /// # Errors
    /// `Internal` when it cannot be written down.
    fn summary(&self) -> Result<BTreeMap<String, String>, StageFailure>;

    /// The failure that a table's error means for the stage.
    fn failure(&self, error: &TableError) -> StageFailure;
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

    /// Prepares the commit in full, lets `judge` look at the table as it will be, and publishes it.
    ///
    /// # Errors
    /// What the judge says, with the branch that the rows stay on, if the format has branches; else as [`AuditedTable::publish`].
    pub async fn publish<J: Judge>(self, judge: &mut J) -> Result<Outcome, StageFailure> {
        match self.judged(judge).await? {
            Audited::Candidate(audited) => audited.publish(judge).await,
            Audited::Already(committed) => Ok(Outcome::Already(committed)),
        }
    }

    async fn judged<J: Judge>(self, judge: &mut J) -> Result<Audited, StageFailure> {
        let table = self.table.table().clone();
        let audited = match self.audit().await.map_err(|error| judge.failure(&error))? {
            Audited::Candidate(audited) => audited,
            already => return Ok(already),
        };
        if let Err(failure) = judge.look(audited.provider()).await {
            let kept = audited.reject().await.map(|branch| format!(" (kept to be looked at: {table} at branch {branch})"));
            return Err(StageFailure::new(failure.reason, format!("{}{}", failure.message, kept.unwrap_or_default())));
        }
        Ok(Audited::Candidate(audited))
    }
}

impl AuditedTable {
    /// The table as it will be.
    pub fn provider(&self) -> Arc<dyn TableProvider> {
        self.candidate.provider()
    }

    /// Publishes the table, which `judge` has looked at; where other writers changed it meanwhile, it is prepared and looked at anew.
    ///
    /// # Errors
    /// What the judge says of the table as it is by then, what the table says, or `CommitConflict` where it changed again and again.
    pub async fn publish<J: Judge>(mut self, judge: &mut J) -> Result<Outcome, StageFailure> {
        let table = self.staged.table.table().clone();
        for audit in 1..=AUDITS {
            let staged = match self.publish_once(judge.summary()?).await.map_err(|error| judge.failure(&error))? {
                Published::Done(committed) => return Ok(Outcome::Published(committed)),
                Published::Changed(staged) => staged,
            };
            if audit == AUDITS {
                break;
            }
            self = match staged.judged(judge).await? {
                Audited::Candidate(audited) => audited,
                Audited::Already(committed) => return Ok(Outcome::Already(committed)),
            };
        }
        let text = format!("table {table}: other writers changed it during each of {AUDITS} audits");
        Err(StageFailure::new(Reason::CommitConflict, text))
    }

    async fn publish_once(self, summary: BTreeMap<String, String>) -> Result<Published, TableError> {
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
