//! Merges of one table take turns, also between processes: each would only invalidate the rewriting of the others.

use crate::{Commit, Result, WriteMode};
use lakehouse_contract::TableRef;
use lakehouse_storage::{CatalogDb, Lease, LeaseOptions};
use uuid::Uuid;

/// The turn of a merge; other modes need none.
pub(crate) async fn of_commit(db: &CatalogDb, table: &TableRef, commit: &Commit) -> Result<Option<Lease>> {
    match commit.mode {
        WriteMode::Merge { .. } | WriteMode::History { .. } => Ok(Some(acquire(db, table, &commit.token).await?)),
        _ => Ok(None),
    }
}

/// The turn of a merge, for `who`.
pub(crate) async fn acquire(db: &CatalogDb, table: &TableRef, who: &str) -> Result<Lease> {
    let holder = format!("{who}-{}", Uuid::new_v4().simple());
    Ok(db.acquire_lease(&format!("table:{table}"), &holder, LeaseOptions::default()).await?)
}

/// Ends a turn.
pub(crate) async fn release(table: &TableRef, lease: Option<Lease>) {
    if let Some(lease) = lease
        && let Err(error) = lease.release().await
    {
        tracing::warn!(%table, %error, "a lease was not released and ends with its time");
    }
}
