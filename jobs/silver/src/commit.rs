//! Staging and committing one table with its quarantine, and the report that travels in the commit.

use std::{collections::BTreeMap, sync::Arc};

use datafusion::{catalog::TableProvider, prelude::SessionContext, scalar::ScalarValue};
use lakehouse_contract::{CommitToken, Reason, StageFailure, StageSpec, TableReport};
use lakehouse_quality::publish::{self, Audited, Judge, Outcome};
use lakehouse_tables::{BatchStream, Commit, Committed, Table, TableDef, TableError, Tables, WriteMode};

use crate::{
    failure::table_failure,
    held::Rows,
    quarantine::{self, INTERVAL_START},
};

/// Key of the report within a commit's summary.
const REPORT: &str = "report";

/// A table's rows, staged: no reader sees them yet.
pub(crate) struct StagedTable(publish::StagedTable);

/// Staged rows and the table as it will be with them; no reader sees either.
pub(crate) struct AuditedTable(publish::AuditedTable);

/// The report of a commit that an earlier attempt or run made.
pub(crate) fn report_of(name: &str, committed: &Committed) -> TableReport {
    let report = committed.summary.get(REPORT).and_then(|text| serde_json::from_str::<TableReport>(text).ok());
    // Once the snapshot expired only the table's own counts are left.
    let report =
        report.unwrap_or_else(|| TableReport { rows_read: committed.rows_written + committed.rows_superseded, ..TableReport::default() });
    TableReport { already_committed: true, ..completed(report, name, committed) }
}

/// A report with what only the commit knows.
pub(crate) fn completed(report: TableReport, name: &str, committed: &Committed) -> TableReport {
    TableReport {
        name: name.to_owned(),
        snapshot: Some(committed.snapshot.clone()),
        already_committed: committed.already,
        rows_written: committed.rows_written,
        rows_deduplicated: report.rows_deduplicated + committed.rows_superseded,
        files: committed.files,
        bytes_written: committed.bytes,
        ..report
    }
}

/// Checks the invariant of a report.
pub(crate) fn balanced(report: &TableReport) -> Result<(), StageFailure> {
    let accounted = report.rows_written + report.rows_quarantined + report.rows_deduplicated + report.rows_dropped;
    if accounted == report.rows_read {
        return Ok(());
    }
    Err(StageFailure::new(
        Reason::Internal,
        format!(
            "{}: {} records were read, but {accounted} are accounted for: {} written, {} quarantined, {} deduplicated, {} dropped",
            report.name, report.rows_read, report.rows_written, report.rows_quarantined, report.rows_deduplicated, report.rows_dropped
        ),
    ))
}

/// Writes the rows of a table as files that no reader sees; they are committed with the report of [`StagedTable::with_report`].
pub(crate) async fn stage(
    spec: &StageSpec,
    table: Arc<dyn Table>,
    mode: WriteMode,
    token: CommitToken,
    rows: Vec<BatchStream>,
) -> Result<StagedTable, StageFailure> {
    let commit = Commit { token: token.0, interval: spec.interval, mode, origin: None, summary: BTreeMap::new() };
    let staged = table.stage(rows, &commit).await.map_err(|error| table_failure(&error))?;
    Ok(StagedTable(publish::StagedTable { table, staged, commit }))
}

impl StagedTable {
    /// With the report that goes into the commit's summary.
    pub(crate) fn with_report(mut self, report: &TableReport) -> Result<Self, StageFailure> {
        self.0.commit.summary = summary(report)?;
        Ok(self)
    }

    /// Rows in it.
    pub(crate) fn rows(&self) -> u64 {
        self.0.staged.rows()
    }
}

/// The report as a fact for the commit's summary.
pub(crate) fn summary(report: &TableReport) -> Result<BTreeMap<String, String>, StageFailure> {
    let text = serde_json::to_string(report).map_err(|error| StageFailure::new(Reason::Internal, error))?;
    Ok(BTreeMap::from([(REPORT.to_owned(), text)]))
}

/// Prepares a commit in full; the report where the table has it already.
pub(crate) async fn audit(staged: StagedTable) -> Result<Result<AuditedTable, TableReport>, StageFailure> {
    let name = staged.0.table.table().to_string();
    Ok(match staged.0.audit().await.map_err(|error| table_failure(&error))? {
        Audited::Candidate(candidate) => Ok(AuditedTable(candidate)),
        Audited::Already(committed) => Err(report_of(&name, &committed)),
    })
}

impl AuditedTable {
    /// The table as it will be.
    pub(crate) fn provider(&self) -> Arc<dyn TableProvider> {
        self.0.provider()
    }

    /// Publishes it, after another look of `judge` where the table is another by now.
    pub(crate) async fn publish(self, judge: &mut impl Judge) -> Result<Outcome, StageFailure> {
        self.0.publish(judge).await
    }

    /// Publishes nothing. The branch that it stays on, if its format has branches.
    pub(crate) async fn reject(self) -> Option<String> {
        self.0.reject().await
    }
}

/// Stages the quarantined records of a table; none when there is nothing to write and nothing to clear.
pub(crate) async fn stage_quarantine(
    spec: &StageSpec,
    tables: &Tables,
    definition: &TableDef,
    token: CommitToken,
    rows: Rows,
) -> Result<Option<StagedTable>, StageFailure> {
    let definition = quarantine::definition(definition);
    if rows.count() == 0 && !holds_rows(spec, tables, &definition).await? {
        return Ok(None);
    }
    let table = tables.ensure(&definition).await.map_err(|error| table_failure(&error))?;
    let mode = WriteMode::ReplaceInterval { column: INTERVAL_START.to_owned() };
    let report = TableReport { name: definition.table.to_string(), ..TableReport::default() };
    stage(spec, table, mode, token, rows.into_streams(1)).await?.with_report(&report).map(Some)
}

/// Whether the quarantine table exists with rows of the run's interval.
async fn holds_rows(spec: &StageSpec, tables: &Tables, definition: &TableDef) -> Result<bool, StageFailure> {
    let failure = |error: TableError| table_failure(&error);
    let Some(table) = tables.open_table(&definition.table).await.map_err(failure)? else { return Ok(false) };
    if table.snapshot().await.map_err(failure)?.is_none() {
        return Ok(false);
    }
    let provider = table.provider(None).await.map_err(failure)?;
    let start = ScalarValue::TimestampMicrosecond(Some(spec.interval.start.timestamp_micros()), Some("UTC".into()));
    let context = SessionContext::new();
    let found = async {
        let condition = datafusion::prelude::col(INTERVAL_START).eq(datafusion::prelude::lit(start));
        context.read_table(provider)?.filter(condition)?.limit(0, Some(1))?.count().await
    };
    found.await.map(|rows| rows > 0).map_err(|error| {
        StageFailure::new(Reason::StoreUnavailable, format!("table {} cannot be read: {}", definition.table, error.strip_backtrace()))
    })
}

/// Publishes staged rows and gives the table's report.
pub(crate) async fn commit(staged: StagedTable) -> Result<TableReport, StageFailure> {
    let (name, summary) = (staged.0.table.table().to_string(), staged.0.commit.summary.clone());
    let committed = staged.0.commit().await.map_err(|error| table_failure(&error))?;
    let report = summary.get(REPORT).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    Ok(completed(report, &name, &committed))
}
