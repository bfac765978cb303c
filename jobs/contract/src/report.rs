//! What a stage says at its end: the full report object, and its short form in the termination message.

use std::{collections::BTreeMap, pin::Pin};

use chrono::{DateTime, Utc};
use lakehouse_api::common::Stage;
use serde::{Deserialize, Serialize};

use crate::{Interval, Reason, RunId, StageFailure};

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
    /// Absent: it succeeded.
    pub failure: Option<StageFailure>,
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
}

/// Result of one expectation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExpectationResult {
    /// Its name.
    pub name: String,
    /// Whether it held.
    pub passed: bool,
    /// Rows that broke it; for a batch expectation 0 or 1.
    pub failed: u64,
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
