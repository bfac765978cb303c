//! Turns for writers of one table that keep losing against each other.
//!
//! A commit that lost a race was work for nothing, and with many writers nearly all of them lose nearly every time; a slow writer beside fast
//! ones loses always. So whoever lost twice waits for a turn before it tries again, and holds it until it has committed. Others see that
//! there are turns and wait for theirs. What makes a commit safe is its compare-and-swap alone: who gets no turn in time goes on without one.

use lakehouse_contract::TableRef;
use lakehouse_storage::{CatalogDb, Lease, LeaseOptions};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use uuid::Uuid;

/// Attempts before a writer asks for a turn.
const FREE: u32 = 2;
/// A holder that died keeps the others waiting for so long.
const TTL: Duration = Duration::from_secs(10);
/// Longest wait for a turn.
const WAIT: Duration = Duration::from_secs(60);

/// Longest pause between two looks whether it is one's turn.
const PAUSE: Duration = Duration::from_millis(200);

/// One commit's turn.
pub(crate) struct Turn<'a> {
    db: &'a CatalogDb,
    table: &'a TableRef,
    attempts: AtomicU32,
    held: Mutex<Option<Lease>>,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(db: &'a CatalogDb, table: &'a TableRef) -> Self {
        Self { db, table, attempts: AtomicU32::new(0), held: Mutex::new(None) }
    }

    /// To be asked before every attempt: waits for a turn when it is time to. True when it waited, so that what was loaded before is old.
    pub(crate) async fn waited(&self) -> bool {
        let mut held = self.held.lock().await;
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        if held.is_some() {
            return false;
        }
        let resource = format!("commit:{}", self.table);
        // Without an answer there are no turns: they are a courtesy.
        let taken = matches!(self.db.lease_holder(&resource).await, Ok(Some(_)));
        if attempt < FREE && !taken {
            return false;
        }
        let holder = Uuid::new_v4().simple().to_string();
        match self.db.acquire_lease(&resource, &holder, LeaseOptions { ttl: TTL, wait: WAIT, pause: PAUSE }).await {
            Ok(lease) => *held = Some(lease),
            Err(error) => tracing::debug!(table = %self.table, %error, "no turn for a commit, which goes on without"),
        }
        true
    }

    /// Gives the turn to the next.
    pub(crate) async fn end(self) {
        crate::lease::release(self.table, self.held.into_inner()).await;
    }
}
