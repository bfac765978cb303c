//! The tables of a stage, how far each is, and what the steps share.

use std::{collections::BTreeSet, sync::Arc};

use datafusion::catalog::TableProvider;
use lakehouse_contract::{CommitToken, ExpectationResult, Progress, Reason, StageFailure, StageSpec, TableRef, TableReport};
use lakehouse_quality::Recorded;
use lakehouse_storage::Storage;
use lakehouse_tables::{Table, Tables};

use crate::{
    commit::{AuditedTable, StagedTable},
    failure::table_failure,
    held::Rows,
    input::Input,
    read::Means,
    replay::Aside,
    schema::TablePlan,
};

/// A table of the stage and how far it is.
pub(super) struct Target {
    pub(super) plan: Arc<TablePlan>,
    pub(super) table: Arc<dyn Table>,
    /// Digest of the source's content; in a replay also of what is in quarantine.
    pub(super) input_digest: String,
    /// In a replay: the records in quarantine.
    pub(super) replayed: Option<BTreeSet<Aside>>,
    pub(super) state: State,
}

#[allow(clippy::large_enum_variant, reason = "a handful per stage")]
pub(super) enum State {
    /// A table that others refer to in a replay, in which it has no part itself.
    Untouched,
    /// An earlier attempt or run made the commit.
    Committed(TableReport),
    /// Not yet read.
    Pending,
    /// Its rows are audited: what to write.
    Audited(Ready),
    /// Files are written; no reader sees them.
    Staged(StagedPair, StagedTable),
    /// The table as it will be was looked at; no reader sees it.
    Candidate(StagedPair, AuditedTable),
}

/// The rows of a table and the report they will have.
pub(super) struct Ready {
    pub(super) rows: ReadyRows,
    pub(super) aside: Rows,
    /// The records in `aside`, in a replay.
    pub(super) asides: BTreeSet<Aside>,
    pub(super) report: TableReport,
}

pub(super) enum ReadyRows {
    Held(Rows),
    /// In files already, which they went into while they were read.
    Written(Box<StagedTable>),
}

impl Ready {
    /// Gives memory back.
    pub(super) fn spill(&mut self) -> Result<(), StageFailure> {
        if let ReadyRows::Held(rows) = &mut self.rows {
            rows.spill()?;
        }
        self.aside.spill()
    }
}

/// What goes with the staged rows of a table.
pub(super) struct StagedPair {
    pub(super) quarantine: Option<StagedTable>,
    pub(super) report: TableReport,
}

/// What the steps of a stage share.
pub(super) struct Stage<'a> {
    pub(super) spec: &'a StageSpec,
    pub(super) storage: &'a Storage,
    pub(super) catalog: Tables,
    pub(super) input: Input,
    pub(super) means: Means,
    pub(super) progress: &'a dyn Progress,
}

/// The rows of a table as it will be.
pub(super) async fn rows_of(targets: &[Target], table: &TableRef) -> Result<Arc<dyn TableProvider>, StageFailure> {
    let target = targets.iter().find(|target| target.plan.table == *table);
    let Some(target) = target else {
        return Err(StageFailure::new(Reason::InvalidDefinition, format!("the pipeline has no table {table}")));
    };
    match &target.state {
        State::Candidate(_, audited) => Ok(audited.provider()),
        _ => target.table.provider(None).await.map_err(|error| table_failure(&error)),
    }
}

/// What is kept of a table in `quality.results`.
pub(super) fn recorded(report: &TableReport) -> Recorded {
    Recorded {
        interval: None,
        table: report.name.clone(),
        snapshot: report.snapshot.clone(),
        rows_read: report.rows_read,
        results: report.expectations.clone(),
        quarantine_reasons: report.quarantine_reasons.clone(),
    }
}

/// The identity of a commit to `table`.
pub(super) fn token(spec: &StageSpec, table: &TableRef, input_digest: &str, plan: &TablePlan) -> CommitToken {
    CommitToken::new(&spec.pipeline, table, &spec.interval, input_digest, &plan.definition_digest)
}

/// Results in the order of the definition.
pub(super) fn in_order(plan: &TablePlan, results: &mut [ExpectationResult]) {
    results.sort_by_key(|result| plan.rule_names.iter().position(|name| *name == result.name));
}
