//! Leases in the catalog database: one holder per resource at a time, on a laptop and in a cluster alike.
//!
//! A lease is a courtesy that keeps writers of one table from working in vain; what makes a commit safe is its compare-and-swap. It is
//! bounded (20 s by default), renewed by a background task while its guard lives, and free for others when the holder dies. All times
//! are those of the database, so clocks of holders may differ.

use crate::{CatalogDb, Dialect, Result, StorageError};
use sqlx::Row;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::task::JoinHandle;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS lakehouse_leases (
    resource VARCHAR(512) NOT NULL PRIMARY KEY, holder VARCHAR(512) NOT NULL, expires_at BIGINT NOT NULL)";

/// Steps of a random share of a pause.
const JITTERS: u32 = 1_000;

/// How long a lease lasts and how long to wait for one.
#[derive(Clone, Copy, Debug)]
pub struct LeaseOptions {
    /// Time after which a lease that nobody renews is free.
    pub ttl: Duration,
    /// Longest wait for the lease of another holder.
    pub wait: Duration,
    /// Longest pause between two looks whether it is free; half of it or more, so that those who wait do not look all at once.
    pub pause: Duration,
}

impl Default for LeaseOptions {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(20), wait: Duration::from_secs(600), pause: Duration::from_millis(500) }
    }
}

/// A held lease. Dropping it stops the renewal, and the lease ends with its time; [`Self::release`] ends it at once.
#[derive(Debug)]
pub struct Lease {
    db: CatalogDb,
    resource: String,
    holder: String,
    lost: Arc<AtomicBool>,
    renewal: JoinHandle<()>,
}

impl CatalogDb {
    /// Takes the lease on `resource` for `holder` (unique per attempt), waiting for another holder within `options.wait`.
    ///
    /// # Errors
    /// [`StorageError::LeaseBusy`] names the other holder; [`StorageError::Catalog`] when the database does not answer.
    pub async fn acquire_lease(&self, resource: &str, holder: &str, options: LeaseOptions) -> Result<Lease> {
        self.create_leases().await?;
        let started = Instant::now();
        let mut pause = Duration::from_millis(20);
        while !self.try_lease(resource, holder, options.ttl).await? {
            if started.elapsed() >= options.wait {
                return Err(StorageError::LeaseBusy {
                    resource: resource.to_owned(),
                    holder: self.lease_holder(resource).await?.unwrap_or_else(|| "another holder".to_owned()),
                    waited_seconds: started.elapsed().as_secs(),
                });
            }
            // Looking is a read; only who finds it free writes, so that many who wait do not keep the holder from its work.
            loop {
                tokio::time::sleep(pause / 2 + pause / 2 * jitter() / JITTERS).await;
                pause = (pause * 2).min(options.pause);
                if started.elapsed() >= options.wait || self.lease_holder(resource).await?.is_none() {
                    break;
                }
            }
        }
        let lost = Arc::new(AtomicBool::new(false));
        let renewal = tokio::spawn(renew(self.clone(), resource.to_owned(), holder.to_owned(), options.ttl, lost.clone()));
        Ok(Lease { db: self.clone(), resource: resource.to_owned(), holder: holder.to_owned(), lost, renewal })
    }

    /// Who holds the lease on `resource` now.
    pub async fn lease_holder(&self, resource: &str) -> Result<Option<String>> {
        self.create_leases().await?;
        let sql = format!("SELECT holder FROM lakehouse_leases WHERE resource = $1 AND expires_at >= {}", self.now_sql());
        let row = self.run(sqlx::query(&sql).bind(resource).fetch_optional(self.pool())).await?;
        Ok(row.and_then(|row| row.try_get::<String, _>(0).ok()))
    }

    async fn create_leases(&self) -> Result<()> {
        match self.run(sqlx::query(CREATE).execute(self.pool())).await {
            Ok(_) => Ok(()),
            // Postgres lets two concurrent CREATE IF NOT EXISTS collide in its own catalog; the table exists then.
            Err(error) => match self.run(sqlx::query("SELECT 1 FROM lakehouse_leases WHERE 1 = 0").fetch_optional(self.pool())).await {
                Ok(_) => Ok(()),
                Err(_) => Err(error),
            },
        }
    }

    /// Takes or renews the lease in one statement; false when another holder has it.
    async fn try_lease(&self, resource: &str, holder: &str, ttl: Duration) -> Result<bool> {
        let now = self.now_sql();
        let sql = format!(
            "INSERT INTO lakehouse_leases (resource, holder, expires_at) VALUES ($1, $2, {now} + {ttl})
             ON CONFLICT (resource) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
             WHERE lakehouse_leases.expires_at < {now} OR lakehouse_leases.holder = excluded.holder",
            ttl = ttl.as_millis()
        );
        let done = self.run(sqlx::query(&sql).bind(resource).bind(holder).execute(self.pool())).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Milliseconds since 1970 by the clock of the database.
    fn now_sql(&self) -> &'static str {
        match self.dialect() {
            Dialect::Sqlite => "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
            Dialect::Postgres => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
        }
    }
}

impl Lease {
    /// Fails when the lease was lost, so that the holder stops before it commits.
    ///
    /// # Errors
    /// [`StorageError::LeaseLost`].
    pub fn ensure_held(&self) -> Result<()> {
        if self.lost.load(Ordering::Acquire) {
            return Err(StorageError::LeaseLost { resource: self.resource.clone(), reason: "it could not be renewed in time".to_owned() });
        }
        Ok(())
    }

    /// Ends the lease at once.
    pub async fn release(self) -> Result<()> {
        self.renewal.abort();
        let sql = "DELETE FROM lakehouse_leases WHERE resource = $1 AND holder = $2";
        let query = sqlx::query(sql).bind(&self.resource).bind(&self.holder).execute(self.db.pool());
        self.db.run(query).await.map(|_| ())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// A number below [`JITTERS`] that differs from process to process: what is left of the clock's microseconds.
fn jitter() -> u32 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_micros() % JITTERS)
}

/// Renews at a third of the time to live; a failed renewal is tried again until the lease is surely over.
async fn renew(db: CatalogDb, resource: String, holder: String, ttl: Duration, lost: Arc<AtomicBool>) {
    let mut renewed = Instant::now();
    loop {
        tokio::time::sleep(ttl / 3).await;
        let sent = Instant::now();
        match db.try_lease(&resource, &holder, ttl).await {
            Ok(true) => renewed = sent,
            Ok(false) => break,
            Err(error) => tracing::warn!(resource, %error, "cannot renew lease"),
        }
        if renewed.elapsed() >= ttl {
            break;
        }
    }
    lost.store(true, Ordering::Release);
}
