//! The commit loop: plan on fresh metadata, write, compare and swap, and find out what happened when no answer comes.

use crate::catalog::ident;
use crate::error::show;
use crate::plan::Plan;
use crate::snapshot::{Prepared, prepare};
use crate::{CommitError, Result, SqlCatalog};
use iceberg::table::Table;
use std::time::Duration;
use uuid::Uuid;

/// Key of the commit token in a snapshot's summary.
pub const COMMIT_TOKEN: &str = "lakehouse.commit-token";

/// Attempts against other writers before a commit gives up.
const ATTEMPTS: u32 = 40;
/// First and longest pause between attempts; a random share of it is waited.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often, and how far apart, a table is read after a lost answer.
const LOOKS: u32 = 8;
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// One attempt of a commit, as its planner sees it.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The table with the metadata that will be replaced.
    pub table: Table,
    /// Identifier of the snapshot that this attempt will add.
    pub snapshot_id: i64,
    /// 1 for the first attempt.
    pub number: u32,
}

/// What a planner decides.
#[derive(Debug)]
pub enum Decision {
    /// Commit this.
    Commit(Box<Plan>),
    /// Nothing is to be done; the table has it already.
    Nothing,
    /// To be asked again with metadata loaded anew: the planner waited for something, and what it was given is old.
    Again,
}

/// What a commit did.
#[derive(Debug)]
pub enum Outcome {
    /// The change is in the table; the metadata after it, and its snapshot if it has one.
    Committed {
        /// The table as this commit left it.
        table: Table,
        /// Identifier of the snapshot.
        snapshot_id: Option<i64>,
    },
    /// The planner decided that nothing is to be done.
    Nothing(Table),
}

impl SqlCatalog {
    /// Commits what `plan` decides to `namespace.name`.
    ///
    /// `plan` is asked before every attempt, with metadata loaded for that attempt; it must look there for its own earlier commit and
    /// answer [`Decision::Nothing`] when it finds it. So a repeated commit, or one whose answer was lost, has its effect once.
    ///
    /// # Errors
    /// An error of `plan`; [`CommitError::Conflict`] when other writers won every attempt; [`CommitError::Database`] when the database does
    /// not answer any more, in which case the outcome may be unknown and asking again is safe.
    pub async fn commit<E, F, Fut>(&self, namespace: &str, name: &str, plan: F) -> Result<Outcome, E>
    where
        E: From<CommitError>,
        F: Fn(Attempt) -> Fut,
        Fut: Future<Output = Result<Decision, E>>,
    {
        let ident = ident(namespace, name);
        let turns = self.turns.of(&show(&ident));
        let _turn = turns.lock().await;
        for number in 1..=ATTEMPTS {
            let base = self.load(&ident).await?;
            let snapshot_id = new_snapshot_id(&base);
            let plan = match plan(Attempt { table: base.clone(), snapshot_id, number }).await? {
                Decision::Nothing => return Ok(Outcome::Nothing(base)),
                Decision::Again => continue,
                Decision::Commit(plan) => *plan,
            };
            let scratch = plan.scratch.clone();
            let prepared = prepare(&base, snapshot_id, plan).await?;
            let from = base.metadata_location().unwrap_or_default();
            match self.swap(&ident, from, &prepared.location).await {
                Ok(true) => return Ok(self.committed(prepared, &ident)?),
                Ok(false) => {
                    tracing::debug!(table = %show(&ident), number, "another writer was faster");
                    self.discard(prepared.written.into_iter().chain(scratch)).await;
                    tokio::time::sleep(pause(number)).await;
                }
                Err(error) => {
                    tracing::warn!(table = %show(&ident), %error, "no answer to a commit, looking whether it happened");
                    if self.landed(&ident, &prepared, error).await? {
                        return Ok(self.committed(prepared, &ident)?);
                    }
                    // It may still land. Nothing it refers to is deleted, and the next attempt starts from what the table says then.
                    tokio::time::sleep(pause(number)).await;
                }
            }
        }
        Err(CommitError::Conflict { table: show(&ident), attempts: ATTEMPTS }.into())
    }

    fn committed(&self, prepared: Prepared, ident: &iceberg::TableIdent) -> Result<Outcome> {
        let table = self.table(ident, prepared.metadata, prepared.location)?;
        Ok(Outcome::Committed { table, snapshot_id: prepared.snapshot_id })
    }

    /// Whether a commit without an answer is in the table. Fails with `cause` when the table cannot be read either.
    async fn landed(&self, ident: &iceberg::TableIdent, prepared: &Prepared, cause: CommitError) -> Result<bool> {
        let mut last = cause;
        for look in 0..LOOKS {
            if look > 0 {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
            match self.load(ident).await {
                Ok(now) => return Ok(is_in(&now, prepared)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Deletes files of an attempt that surely failed. Leaving some behind harms nobody.
    async fn discard(&self, files: impl Iterator<Item = String>) {
        for file in files {
            if let Err(error) = self.file_io().delete(&file).await {
                tracing::debug!(%error, file, "left a file of a failed attempt");
            }
        }
    }
}

fn is_in(now: &Table, prepared: &Prepared) -> bool {
    let metadata = now.metadata();
    now.metadata_location() == Some(prepared.location.as_str())
        || prepared.snapshot_id.is_some_and(|id| metadata.snapshot_by_id(id).is_some())
        || metadata.metadata_log().iter().any(|entry| entry.metadata_file == prepared.location)
}

/// A positive identifier that no snapshot of the table has.
fn new_snapshot_id(table: &Table) -> i64 {
    loop {
        let (high, low) = Uuid::new_v4().as_u64_pair();
        let id = ((high ^ low) & (i64::MAX as u64)) as i64;
        if id != 0 && table.metadata().snapshot_by_id(id).is_none() {
            return id;
        }
    }
}

/// A random share of a pause that doubles with every attempt.
fn pause(number: u32) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << number.min(10)).min(LONGEST_PAUSE);
    let share = (Uuid::new_v4().as_u64_pair().0 % 1000) as u32;
    whole * (share + 1) / 1000
}

#[cfg(test)]
pub(crate) mod tests;
