//! Runs of this machine, kept in the catalog database (table `lakehouse_runs`).
//!
//! A run is identified by its UID. Its identity digest says what it was asked to do (pipeline, interval, definition, parameters, stages): the same
//! request finds the same run again, to go on with it or to learn that it is done.

use chrono::{DateTime, Utc};
use lakehouse_contract::{Stage, StageReport};
use lakehouse_storage::CatalogDb;
use serde::{Deserialize, Serialize};
use sqlx::Row;

use crate::CliError;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS lakehouse_runs (
    uid VARCHAR(64) NOT NULL PRIMARY KEY, name VARCHAR(255) NOT NULL, pipeline VARCHAR(255) NOT NULL, interval_label VARCHAR(32) NOT NULL,
    identity VARCHAR(64) NOT NULL, state VARCHAR(16) NOT NULL, stages TEXT NOT NULL, created_at VARCHAR(40) NOT NULL, finished_at VARCHAR(40))";
const COLUMNS: &str = "uid, name, pipeline, interval_label, identity, state, stages, created_at, finished_at";

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Begun and not ended; when nobody holds its lease, it was interrupted.
    Running,
    /// Every stage succeeded.
    Succeeded,
    /// A stage failed.
    Failed,
}

impl RunState {
    /// The word in the database and on the screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "Succeeded" => Self::Succeeded,
            "Failed" => Self::Failed,
            _ => Self::Running,
        }
    }
}

/// A stage of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// Which one.
    pub stage: Stage,
    /// Number of the last attempt that began; 0 before the first.
    pub attempt: u32,
    /// Report of the last attempt that ended.
    pub report: Option<StageReport>,
}

impl StageRecord {
    /// Whether an attempt succeeded.
    pub fn succeeded(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.failure.is_none())
    }
}

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRecord {
    /// UUID.
    pub uid: String,
    /// `<pipeline>-<interval>`, in lower case.
    pub name: String,
    /// Pipeline name.
    pub pipeline: String,
    /// Label of the interval.
    pub interval: String,
    /// Digest of what was asked for.
    pub identity: String,
    /// How it stands.
    pub state: RunState,
    /// Its stages, in order.
    pub stages: Vec<StageRecord>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// The runs in one catalog database.
#[derive(Clone, Debug)]
pub struct Runs {
    db: CatalogDb,
}

impl Runs {
    /// Opens the runs; makes their table when it is absent.
    ///
    /// # Errors
    /// [`CliError::Runs`].
    pub async fn open(db: CatalogDb) -> Result<Self, CliError> {
        sqlx::query(CREATE).execute(db.pool()).await?;
        Ok(Self { db })
    }

    /// The newest run that was asked for the same.
    ///
    /// # Errors
    /// [`CliError::Runs`], [`CliError::Record`].
    pub async fn newest(&self, identity: &str) -> Result<Option<RunRecord>, CliError> {
        let sql = format!("SELECT {COLUMNS} FROM lakehouse_runs WHERE identity = $1 ORDER BY created_at DESC LIMIT 1");
        let row = sqlx::query(&sql).bind(identity).fetch_optional(self.db.pool()).await?;
        row.map(|row| record(&row)).transpose()
    }

    /// Runs, newest first; with `name` only those whose name, UID or identity in the store begins with it.
    ///
    /// # Errors
    /// As [`Self::newest`].
    pub async fn list(&self, name: Option<&str>) -> Result<Vec<RunRecord>, CliError> {
        let sql = format!("SELECT {COLUMNS} FROM lakehouse_runs ORDER BY created_at DESC");
        let rows = sqlx::query(&sql).fetch_all(self.db.pool()).await?;
        let all: Vec<RunRecord> = rows.iter().map(record).collect::<Result<_, _>>()?;
        let wanted = |run: &RunRecord| name.is_none_or(|name| run.id().0.starts_with(name) || run.uid.starts_with(name));
        Ok(all.into_iter().filter(wanted).collect())
    }

    /// Writes a run, new or known.
    ///
    /// # Errors
    /// As [`Self::newest`].
    pub async fn put(&self, run: &RunRecord) -> Result<(), CliError> {
        let stages = serde_json::to_string(&run.stages).map_err(|source| CliError::Record { run: run.name.clone(), source })?;
        let sql = format!(
            "INSERT INTO lakehouse_runs ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (uid) DO UPDATE SET state = excluded.state, stages = excluded.stages, finished_at = excluded.finished_at"
        );
        sqlx::query(&sql)
            .bind(&run.uid)
            .bind(&run.name)
            .bind(&run.pipeline)
            .bind(&run.interval)
            .bind(&run.identity)
            .bind(run.state.as_str())
            .bind(stages)
            .bind(run.created_at.to_rfc3339())
            .bind(run.finished_at.map(|time| time.to_rfc3339()))
            .execute(self.db.pool())
            .await?;
        Ok(())
    }
}

impl RunRecord {
    /// Identity in the object store.
    pub fn id(&self) -> lakehouse_contract::RunId {
        lakehouse_contract::RunId::new(&self.name, &self.uid)
    }
}

fn record(row: &sqlx::any::AnyRow) -> Result<RunRecord, CliError> {
    let text = |column: &str| row.try_get::<String, _>(column);
    let name = text("name")?;
    let time = |text: &str| DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()).unwrap_or_default();
    let stages = serde_json::from_str(&text("stages")?).map_err(|source| CliError::Record { run: name.clone(), source })?;
    Ok(RunRecord {
        uid: text("uid")?,
        name,
        pipeline: text("pipeline")?,
        interval: text("interval_label")?,
        identity: text("identity")?,
        state: RunState::parse(&text("state")?),
        stages,
        created_at: time(&text("created_at")?),
        finished_at: row.try_get::<Option<String>, _>("finished_at")?.as_deref().map(time),
    })
}
