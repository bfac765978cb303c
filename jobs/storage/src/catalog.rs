//! The catalog database: SQLite on a laptop, Postgres in a cluster, through one pool.

use crate::error::{chain, one_line};
use crate::{Result, StorageError, init_tls};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions, install_default_drivers};
use sqlx::{AnyPool, Executor};
use std::str::FromStr;
use std::sync::Once;
use std::time::Duration;

/// Longest wait for a connection, pool and network together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a SQLite writer waits for another one.
const SQLITE_BUSY_MILLISECONDS: u32 = 30_000;
/// Connections of one process.
const MAX_CONNECTIONS: u32 = 8;

static DRIVERS: Once = Once::new();

/// The SQL that a catalog speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// A file, shared by processes of one machine.
    Sqlite,
    /// A server.
    Postgres,
}

/// An open catalog database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CatalogDb {
    pool: AnyPool,
    dialect: Dialect,
    shown: String,
}

impl CatalogDb {
    /// Opens `sqlite:///abs/catalog.db` (created when absent, in WAL mode) or `postgresql://user:password@host/database`.
    ///
    /// # Errors
    /// [`StorageError::Catalog`], within 20 s, with the URI without its password.
    pub async fn connect(uri: &str) -> Result<Self> {
        init_tls();
        DRIVERS.call_once(install_default_drivers);
        let dialect = dialect_of(uri)?;
        let shown = redact_uri(uri);
        let target = match dialect {
            // The driver creates a missing file only when told to.
            Dialect::Sqlite if !uri.contains('?') => format!("{uri}?mode=rwc"),
            Dialect::Sqlite | Dialect::Postgres => uri.to_owned(),
        };
        let failed = |reason: String| StorageError::Catalog { uri: shown.clone(), reason };
        let options = AnyConnectOptions::from_str(&target).map_err(|error| failed(error.to_string()))?;
        let pool = AnyPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(CONNECT_TIMEOUT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if dialect == Dialect::Sqlite {
                        let wait = format!("PRAGMA busy_timeout = {SQLITE_BUSY_MILLISECONDS}");
                        connection.execute(wait.as_str()).await?;
                        connection.execute("PRAGMA synchronous = NORMAL").await?;
                    }
                    Ok(())
                })
            })
            .connect_with(options);
        // The driver retries a refused connection until its deadline; the outer bound also covers a server that accepts and says nothing.
        let pool = tokio::time::timeout(CONNECT_TIMEOUT + Duration::from_secs(3), pool)
            .await
            .map_err(|_| failed(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())))?
            .map_err(|error| failed(reason(uri, &error)))?;
        let db = Self { pool, dialect, shown };
        if dialect == Dialect::Sqlite {
            db.switch_to_wal().await?;
        }
        Ok(db)
    }

    /// The pool, for the users of the database.
    pub fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// The SQL it speaks.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The URI without its password.
    pub fn shown_uri(&self) -> &str {
        &self.shown
    }

    /// Asks the database for an answer.
    ///
    /// # Errors
    /// [`StorageError::Catalog`] within 20 s.
    pub async fn ping(&self) -> Result<()> {
        self.run(sqlx::query("SELECT 1").execute(&self.pool)).await.map(|_| ())
    }

    /// Runs `work` with a bound on its time and translates its error.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = std::result::Result<T, sqlx::Error>>) -> Result<T> {
        match tokio::time::timeout(CONNECT_TIMEOUT + Duration::from_secs(20), work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(StorageError::Catalog { uri: self.shown.clone(), reason: reason("", &error) }),
            Err(_) => Err(StorageError::Catalog { uri: self.shown.clone(), reason: "no answer in time".to_owned() }),
        }
    }

    /// Lets readers and a writer work at once. Only the first opener changes the file, and it needs it alone for a moment.
    async fn switch_to_wal(&self) -> Result<()> {
        const ATTEMPTS: u32 = 50;
        for attempt in 1..=ATTEMPTS {
            match sqlx::query("PRAGMA journal_mode = WAL").fetch_one(&self.pool).await {
                Ok(_) => return Ok(()),
                Err(error) if attempt == ATTEMPTS || !error.to_string().contains("locked") => {
                    return Err(StorageError::Catalog { uri: self.shown.clone(), reason: reason("", &error) });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20 * u64::from(attempt.min(10)))).await,
            }
        }
        Ok(())
    }
}

/// Checks that a catalog answers: connects, asks, disconnects.
///
/// # Errors
/// [`StorageError::Catalog`] within 20 s, naming the URI without its password.
pub async fn check(uri: &str) -> Result<()> {
    let db = CatalogDb::connect(uri).await?;
    let answer = db.ping().await;
    db.pool.close().await;
    answer
}

/// `uri` with everything that can be a credential replaced by `***`: the password, and values of parameters that are not known to be harmless.
///
/// It is not parsed as a URI: one that is malformed, such as by a character of its password that was not encoded, must not be shown either.
pub fn redact_uri(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return "***".to_owned() };
    // The last one: a password may hold whatever separates other parts.
    let (user, rest) = rest.rsplit_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
    let (address, query) = rest.split_once('?').map_or((rest, None), |(address, query)| (address, Some(query)));
    let host = address.split('/').next().unwrap_or_default();
    let port = host.rsplit_once(':').map_or("", |(_, port)| port);
    // What looks like host and port may be name and password of a URI that ends there.
    let address = if host.ends_with(']') || port.bytes().all(|b| b.is_ascii_digit()) { address } else { "***" };
    let user = user.map_or(String::new(), |user| match user.split_once(':') {
        Some((name, _)) => format!("{name}:***@"),
        None => format!("{user}@"),
    });
    let query = query.map_or(String::new(), |query| format!("?{}", query.split('&').map(redact_pair).collect::<Vec<_>>().join("&")));
    format!("{scheme}://{user}{address}{query}")
}

fn redact_pair(pair: &str) -> String {
    match pair.split_once('=') {
        Some(("mode" | "sslmode" | "ssl-mode" | "application_name", _)) => pair.to_owned(),
        Some((name, _)) => format!("{name}=***"),
        None => "***".to_owned(),
    }
}

fn dialect_of(uri: &str) -> Result<Dialect> {
    match uri.split_once(':').map(|(scheme, _)| scheme) {
        Some("sqlite") => Ok(Dialect::Sqlite),
        Some("postgres" | "postgresql") => Ok(Dialect::Postgres),
        _ => Err(StorageError::Catalog { uri: redact_uri(uri), reason: "a catalog URI starts with sqlite:// or postgresql://".to_owned() }),
    }
}

/// What the driver said on one line, without the password should it echo the URI.
fn reason(uri: &str, error: &sqlx::Error) -> String {
    let text = match error {
        sqlx::Error::PoolTimedOut => "no answer in time".to_owned(),
        other => one_line(&chain(other)),
    };
    match url::Url::parse(uri).ok().and_then(|parsed| parsed.password().map(str::to_owned)) {
        Some(password) if !password.is_empty() => text.replace(&password, "***"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_wherever_they_stand() {
        assert_eq!(redact_uri("postgresql://me:s3cr@t@db:5432/x"), "postgresql://me:***@db:5432/x");
        assert_eq!(redact_uri("postgresql://me@db/x?password=s3cret&sslmode=off"), "postgresql://me@db/x?password=***&sslmode=off");
        assert_eq!(redact_uri("sqlite:///tmp/catalog.db"), "sqlite:///tmp/catalog.db");
        assert_eq!(redact_uri("no uri at all"), "***");
        assert_eq!(redact_uri("sqlite:///tmp/catalog.db?mode=rwc"), "sqlite:///tmp/catalog.db?mode=rwc");
        assert_eq!(redact_uri("postgresql://me@[::1]:5432/x"), "postgresql://me@[::1]:5432/x");
        let malformed =
            ["me:s3cret@@db:port/x?y=s3cret", "me:a?s3cret@db/x", "me:a/s3cret@db", "me:s3cret", "me@db/x?s3cret", "me:a#s3cret@db"];
        for uri in malformed {
            let shown = redact_uri(&format!("postgresql://{uri}"));
            assert!(!shown.contains("s3cret") && shown.starts_with("postgresql://me") | shown.contains("***"), "{shown}");
        }
    }

    #[tokio::test]
    async fn an_unreachable_catalog_is_named_without_its_password() {
        let text = check("postgresql://me:s3cret@127.0.0.1:9/x").await.expect_err("nothing listens there").to_string();
        assert!(text.contains("postgresql://me:***@127.0.0.1:9/x") && !text.contains("s3cret"), "{text}");
    }

    #[tokio::test]
    async fn an_unknown_scheme_is_refused() {
        let text = check("mysql://me:s3cret@host/x").await.expect_err("not supported").to_string();
        assert!(text.contains("sqlite://") && !text.contains("s3cret"), "{text}");
    }
}
