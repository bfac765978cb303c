//! What a stage says at its end: the full report object, and its short form in the termination message.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    pin::Pin,
};

use chrono::{DateTime, Utc};
use lakehouse_api::{common::Stage, pipeline::Otherwise, run::StaleIntervals};
use serde::{Deserialize, Serialize};

use crate::{Interval, Lineage, Reason, RunId, StageFailure};

/// The full report of one attempt of a stage; an object in the stage's layer ([`crate::keys::report`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageReport {
    /// [`crate::CONTRACT_VERSION`].
    pub contract: u32,
    /// Pipeline name.
    pub pipeline: String,
    /// The run.
    pub run: RunId,
    /// The stage.
    pub stage: Stage,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// The interval of data.
    pub interval: Interval,
    /// When the attempt began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// Absent: it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ReportedFailure>,
    /// What was read: bronze manifest keys, or `table@snapshot`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// One entry per table (for ingest: per source), in the order of commits. On failure: those that were committed.
    pub tables: Vec<TableReport>,
    /// What gold found stale afterwards; absent in reports of other stages, and where it could not be found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staleness: Option<Staleness>,
    /// Why lineage events of the attempt did not get where they should; absent when they did, or none were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage_fault: Option<String>,
    /// Trace of the run, 32 hexadecimal digits ([`crate::TraceContext`]); absent in reports of older releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// A failure within a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportedFailure {
    /// One word.
    pub reason: Reason,
    /// The line a person reads.
    pub message: String,
    /// Whether another attempt can help.
    pub retryable: bool,
}

impl From<&StageFailure> for ReportedFailure {
    fn from(failure: &StageFailure) -> Self {
        Self { reason: failure.reason, message: failure.message.clone(), retryable: failure.reason.retryable() }
    }
}

/// How the work of a stage ended, before it becomes a report. On failure `tables` holds what was committed all the same.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageOutcome {
    /// See [`StageReport::inputs`].
    pub inputs: Vec<String>,
    /// See [`StageReport::tables`].
    pub tables: Vec<TableReport>,
    /// See [`StageReport::staleness`].
    pub staleness: Option<Staleness>,
    /// Absent: it succeeded.
    pub failure: Option<StageFailure>,
    /// Where the data came from and went; empty unless [`crate::StageSpec::lineage`] asks for it.
    pub lineage: Lineage,
}

/// The work of a stage under way. Boxed where a stage's library ends, so that the work is compiled once, in the library, and not again
/// in every binary that awaits it.
pub type StageFuture<'a> = Pin<Box<dyn Future<Output = StageOutcome> + Send + 'a>>;

/// What happened to one table. `rows_read = rows_written + rows_quarantined + rows_deduplicated + rows_dropped`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TableReport {
    /// `silver.NAME`, `gold.NAME`; for ingest the source's name.
    pub name: String,
    /// Snapshot or generation of the commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The commit was found: an earlier attempt or run with the same input had made it.
    pub already_committed: bool,
    /// Records read.
    pub rows_read: u64,
    /// Rows written.
    pub rows_written: u64,
    /// Rows put into quarantine.
    pub rows_quarantined: u64,
    /// Rows left out as duplicates, or as older than what a merge table holds.
    pub rows_deduplicated: u64,
    /// Rows dropped by an expectation that says so, or as outside the interval.
    pub rows_dropped: u64,
    /// Data files (for ingest: objects) written.
    pub files: u64,
    /// Bytes of them.
    pub bytes_written: u64,
    /// Quarantined rows by reason (a column's cast, an expectation, malformed, outside).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub quarantine_reasons: BTreeMap<String, u64>,
    /// Results of the expectations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expectations: Vec<ExpectationResult>,
    /// Starts of the intervals that gold computed beside the run's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refreshed: Vec<DateTime<Utc>>,
    /// What maintenance did; only in reports of that stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<MaintenanceReport>,
}

/// Which intervals of gold tables were computed from inputs that have changed since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Staleness {
    /// When the looking began: every commit before that was seen. Of runs side by side the one that looked last is right.
    pub observed_at: DateTime<Utc>,
    /// Starts of the intervals by table; tables without any are left out.
    #[serde(default)]
    pub tables: BTreeMap<String, Vec<DateTime<Utc>>>,
}

/// What maintenance did to a table, or to all of a stage's tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MaintenanceReport {
    /// Live data files before.
    pub files_before: u64,
    /// Live data files afterwards.
    pub files_after: u64,
    /// Their bytes before.
    pub bytes_before: u64,
    /// Their bytes afterwards.
    pub bytes_after: u64,
    /// Manifests of the current snapshot before.
    pub manifests_before: u64,
    /// Manifests of the current snapshot afterwards.
    pub manifests_after: u64,
    /// Data files that compaction put together.
    pub files_compacted: u64,
    /// Groups of files left as they are because another writer changed them meanwhile.
    pub groups_skipped: u64,
    /// Snapshots (Parquet: generations) forgotten.
    pub snapshots_expired: u64,
    /// Snapshots (Parquet: generations) left.
    pub snapshots_left: u64,
    /// Objects deleted that only forgotten snapshots needed.
    pub expired_files_deleted: u64,
    /// Objects deleted that nothing referred to; with `dryRun` those that would be.
    pub orphans_deleted: u64,
    /// Bytes of them.
    pub orphan_bytes: u64,
    /// Objects that could not be deleted; the next maintenance tries again.
    pub not_deleted: u64,
    /// Intervals whose bronze is gone; in a dry run those whose bronze would be.
    #[serde(skip_serializing_if = "is_zero")]
    pub bronze_intervals_retired: u64,
    /// Intervals that are old enough and stay: something of them is young, or an unfinished run pinned it.
    #[serde(skip_serializing_if = "is_zero")]
    pub bronze_intervals_kept: u64,
    /// Bronze objects and manifests deleted; in a dry run those that would be.
    #[serde(skip_serializing_if = "is_zero")]
    pub bronze_objects_deleted: u64,
    /// Bytes of the objects.
    #[serde(skip_serializing_if = "is_zero")]
    pub bronze_bytes_deleted: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl MaintenanceReport {
    /// The sums of both.
    #[must_use]
    pub const fn plus(self, other: &Self) -> Self {
        Self {
            files_before: self.files_before + other.files_before,
            files_after: self.files_after + other.files_after,
            bytes_before: self.bytes_before + other.bytes_before,
            bytes_after: self.bytes_after + other.bytes_after,
            manifests_before: self.manifests_before + other.manifests_before,
            manifests_after: self.manifests_after + other.manifests_after,
            files_compacted: self.files_compacted + other.files_compacted,
            groups_skipped: self.groups_skipped + other.groups_skipped,
            snapshots_expired: self.snapshots_expired + other.snapshots_expired,
            snapshots_left: self.snapshots_left + other.snapshots_left,
            expired_files_deleted: self.expired_files_deleted + other.expired_files_deleted,
            orphans_deleted: self.orphans_deleted + other.orphans_deleted,
            orphan_bytes: self.orphan_bytes + other.orphan_bytes,
            not_deleted: self.not_deleted + other.not_deleted,
            bronze_intervals_retired: self.bronze_intervals_retired + other.bronze_intervals_retired,
            bronze_intervals_kept: self.bronze_intervals_kept + other.bronze_intervals_kept,
            bronze_objects_deleted: self.bronze_objects_deleted + other.bronze_objects_deleted,
            bronze_bytes_deleted: self.bronze_bytes_deleted + other.bronze_bytes_deleted,
        }
    }
}

impl fmt::Display for MaintenanceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deleted = self.expired_files_deleted + self.orphans_deleted;
        write!(
            f,
            "{} files became {}, {} snapshots expired, {deleted} objects deleted",
            self.files_before, self.files_after, self.snapshots_expired
        )?;
        if self.bronze_intervals_retired > 0 {
            write!(f, ", bronze of {} intervals retired", self.bronze_intervals_retired)?;
        }
        for (count, words) in [(self.groups_skipped, "groups of files left to other writers"), (self.not_deleted, "objects not deleted")] {
            if count > 0 {
                write!(f, ", {count} {words}")?;
            }
        }
        Ok(())
    }
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RuleKind {
    /// Every row.
    #[default]
    Row,
    /// The rows of a run together.
    Batch,
    /// The whole table.
    Table,
    /// Values that stand in one row at most.
    Unique,
    /// The age of the newest value.
    Freshness,
    /// Partners in another table.
    References,
    /// Statistics of a column.
    Distribution,
}

impl RuleKind {
    /// The field of an expectation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Row => "row",
            Self::Batch => "batch",
            Self::Table => "table",
            Self::Unique => "unique",
            Self::Freshness => "freshness",
            Self::References => "references",
            Self::Distribution => "distribution",
        }
    }
}

/// Result of one expectation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExpectationResult {
    /// Its name.
    pub name: String,
    /// What it is about.
    pub kind: RuleKind,
    /// What its definition says for when it is broken; absent in reports of older commits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<Otherwise>,
    /// Whether it held.
    pub passed: bool,
    /// Rows that broke it; for one that is not about single rows 0 or 1.
    pub failed: u64,
    /// Rows that it looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checked: Option<u64>,
    /// What was found, where that is a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
    /// What is asked for, as a person reads it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bound: String,
}

/// Sums over the tables of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Totals {
    /// See [`TableReport`].
    pub rows_read: u64,
    /// See [`TableReport`].
    pub rows_written: u64,
    /// See [`TableReport`].
    pub rows_quarantined: u64,
    /// See [`TableReport`].
    pub rows_deduplicated: u64,
    /// See [`TableReport`].
    pub rows_dropped: u64,
    /// See [`TableReport`].
    pub bytes_written: u64,
}

impl StageReport {
    /// Sums over the tables.
    pub fn totals(&self) -> Totals {
        self.tables.iter().fold(Totals::default(), |sum, table| Totals {
            rows_read: sum.rows_read + table.rows_read,
            rows_written: sum.rows_written + table.rows_written,
            rows_quarantined: sum.rows_quarantined + table.rows_quarantined,
            rows_deduplicated: sum.rows_deduplicated + table.rows_deduplicated,
            rows_dropped: sum.rows_dropped + table.rows_dropped,
            bytes_written: sum.bytes_written + table.bytes_written,
        })
    }
}

impl StageReport {
    /// What maintenance did to all tables; none in the report of another stage.
    pub fn maintained(&self) -> Option<MaintenanceReport> {
        self.tables.iter().filter_map(|table| table.maintenance).reduce(|sum, report| sum.plus(&report))
    }
}

impl StageReport {
    /// The intervals that are stale in any table; none where the stage did not look.
    pub fn stale(&self) -> Option<StaleIntervals> {
        let found = self.staleness.as_ref()?;
        let starts: BTreeSet<DateTime<Utc>> = found.tables.values().flatten().copied().collect();
        Some(StaleIntervals {
            count: i64::try_from(starts.len()).unwrap_or(i64::MAX),
            oldest: starts.into_iter().take(STALE_NAMED).collect(),
            observed_at: Some(found.observed_at),
        })
    }
}

/// How many stale intervals a termination message names.
const STALE_NAMED: usize = 16;

/// Most bytes of a termination message; Kubernetes cuts at 4096.
pub const TERMINATION_LIMIT: usize = 2048;

/// Short form of a report, written to the termination message as JSON of at most [`TERMINATION_LIMIT`] bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Termination {
    /// [`crate::CONTRACT_VERSION`].
    pub contract: u32,
    /// Absent: it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ReportedFailure>,
    /// Sums over all tables.
    pub totals: Totals,
    /// What maintenance did to all tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<MaintenanceReport>,
    /// Intervals that gold left stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<StaleIntervals>,
    /// `name`, `snapshot`, rows written; cut where there are too many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<(String, Option<String>, u64)>,
    /// URI of the report object; absent when it could not be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// SHA-256 of the report object, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_digest: Option<String>,
}

impl Termination {
    /// The short form of `report`, which was written to `object` = (URI, SHA-256).
    pub fn of(report: &StageReport, object: Option<(String, String)>) -> Self {
        let (uri, digest) = object.unzip();
        Self {
            contract: report.contract,
            failure: report.failure.clone(),
            totals: report.totals(),
            maintenance: report.maintained(),
            stale: report.stale(),
            tables: report.tables.iter().map(|t| (t.name.clone(), t.snapshot.clone(), t.rows_written)).collect(),
            report: uri,
            report_digest: digest,
        }
    }

    /// JSON of at most [`TERMINATION_LIMIT`] bytes: the list of tables gives way first, then the message.
    pub fn to_message(&self) -> String {
        let mut short = self.clone();
        loop {
            let text = serde_json::to_string(&short).unwrap_or_default();
            if text.len() <= TERMINATION_LIMIT {
                return text;
            }
            if short.tables.pop().is_some() {
                continue;
            }
            match &mut short.failure {
                Some(failure) if failure.message.chars().count() > 1 => {
                    let keep = failure.message.chars().count() / 2;
                    failure.message = failure.message.chars().take(keep).chain(['…']).collect();
                }
                _ => return text,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_termination_message_fits() {
        let termination = Termination {
            contract: 1,
            failure: Some(ReportedFailure { reason: Reason::Internal, message: "ä\"".repeat(5_000), retryable: true }),
            totals: Totals::default(),
            maintenance: Some(MaintenanceReport::default()),
            stale: Some(StaleIntervals {
                count: 10_000,
                oldest: vec![DateTime::default(); STALE_NAMED],
                observed_at: Some(DateTime::default()),
            }),
            tables: (0..200).map(|n| (format!("silver.table_{n}"), Some(n.to_string()), n)).collect(),
            report: Some("s3://silver/report.json".into()),
            report_digest: Some("00".repeat(32)),
        };
        let text = termination.to_message();
        assert!(text.len() <= TERMINATION_LIMIT, "{}", text.len());
        let back: Termination = serde_json::from_str(&text).unwrap();
        assert_eq!(back.report, termination.report);
        assert!(back.failure.unwrap().message.starts_with("ä\""));
    }
}
