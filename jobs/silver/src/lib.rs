//! The silver stage: bronze objects to typed tables.
//!
//! Every record becomes exactly one of: a written row, a quarantined record with its reason, a duplicate, a dropped row.
//! Every table is audited before any is committed; each commit carries its token, so that a repetition finds it.

mod audit;
mod cast;
mod commit;
mod content;
mod cut;
mod decode;
mod deduplicate;
mod expectations;
mod input;
mod interval;
mod lineage;
mod quarantine;
mod read;
pub mod redact;
mod rows;
mod schema;
mod unit;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use lakehouse_contract::{
    CommitToken, Progress, Reason, ResolvedSilver, SilverInput, StageFailure, StageFuture, StageOutcome, StageSpec, TableRef, TableReport,
    Work,
};
use lakehouse_storage::Storage;
use lakehouse_tables::{Table, TableDef, Tables};
use tokio::task::spawn_blocking;

use crate::{
    audit::Audited,
    commit::{StagedTable, balanced, report_of, stage, stage_quarantine, table_failure},
    deduplicate::deduplicate,
    input::Input,
    quarantine::{QUARANTINE, Quarantined},
    read::{joined, read_source},
    schema::TablePlan,
    unit::RunFacts,
};

/// Does the work of a silver stage.
///
/// The outcome's tables are in the order of the definition. On failure they are those that are committed all the same;
/// nothing else is visible to a reader.
pub fn run<'a>(spec: &'a StageSpec, storage: &'a Storage, catalog_uri: &'a str, progress: &'a dyn Progress) -> StageFuture<'a> {
    Box::pin(async move {
        let mut outcome = StageOutcome::default();
        if let Err(failure) = work(spec, storage, catalog_uri, progress, &mut outcome).await {
            outcome.failure = Some(failure);
        }
        if spec.lineage.is_some() {
            match lineage::of(spec, storage, catalog_uri, &outcome).await {
                Ok(lineage) => outcome.lineage = lineage,
                Err(failure) => outcome.lineage.fault = Some(format!("the lineage is not known: {failure}")),
            }
        }
        outcome
    })
}

/// Compiles a table's definition as the stage does and answers the schema that its table has; nothing is read.
///
/// # Errors
/// `InvalidDefinition` or `InvalidSql`, naming the table and the column or expectation.
pub fn check(table: &ResolvedSilver) -> Result<SchemaRef, StageFailure> {
    TablePlan::new(table, "").map(|plan| plan.schema)
}

/// The table that the stage makes for `owner`, and the quarantine table beside it, which is made when a record first needs it.
///
/// # Errors
/// As [`check`].
pub fn tables_of(table: &ResolvedSilver, owner: &str) -> Result<(TableDef, TableDef), StageFailure> {
    let own = TablePlan::new(table, owner)?.definition;
    let quarantine = quarantine::definition(&own);
    Ok((own, quarantine))
}

/// A table of the stage and how far it is.
struct Target {
    plan: Arc<TablePlan>,
    table: Arc<dyn Table>,
    /// Digest of the source's content.
    input_digest: String,
    state: State,
}

enum State {
    /// An earlier attempt or run made the commit.
    Committed(TableReport),
    /// Not yet read.
    Pending,
    /// Audited: what to write.
    Audited(Ready),
    /// Files are written; no reader sees them.
    Staged { quarantine: Option<StagedTable>, table: StagedTable },
}

/// The rows of a table and the report they will have.
struct Ready {
    batches: Vec<arrow::array::RecordBatch>,
    quarantined: Vec<Quarantined>,
    report: TableReport,
}

async fn work(
    spec: &StageSpec,
    storage: &Storage,
    catalog_uri: &str,
    progress: &dyn Progress,
    outcome: &mut StageOutcome,
) -> Result<(), StageFailure> {
    let Work::Silver { input, tables } = &spec.work else {
        return Err(StageFailure::new(Reason::InvalidDefinition, format!("the spec is for stage {}, this is silver", spec.stage())));
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let facts = RunFacts::new(spec);
    let catalog = Tables::connect(storage.clone(), catalog_uri).await.map_err(|error| table_failure(&error))?;
    let input = find_input(spec, input, storage, outcome).await?;
    let mut targets = open(spec, tables, &input, &catalog).await?;
    audit_all(storage, &input, &mut targets, facts, threads, progress).await?;
    stage_all(spec, &catalog, &mut targets, facts, threads, progress).await?;
    progress.step("commit", None);
    for target in targets {
        let report = match target.state {
            State::Committed(report) => report,
            State::Staged { quarantine, table } => {
                if let Some(quarantine) = quarantine {
                    commit::commit(quarantine).await?;
                }
                commit::commit(table).await?
            }
            State::Pending | State::Audited(_) => {
                return Err(StageFailure::new(Reason::Internal, format!("{} was not staged", target.plan.table)));
            }
        };
        outcome.tables.push(report.clone());
        balanced(&report)?;
    }
    Ok(())
}

async fn find_input(spec: &StageSpec, input: &SilverInput, storage: &Storage, outcome: &mut StageOutcome) -> Result<Input, StageFailure> {
    let input = Input::find(spec, input, storage).await?;
    outcome.inputs.push(input.key.clone());
    Ok(input)
}

/// Compiles the definitions, all of them before the first table is touched, and finds what is committed already.
async fn open(spec: &StageSpec, tables: &[ResolvedSilver], input: &Input, catalog: &Tables) -> Result<Vec<Target>, StageFailure> {
    let plans: Vec<TablePlan> = tables.iter().map(|table| TablePlan::new(table, &spec.owner)).collect::<Result<_, _>>()?;
    if plans.len() > 1 {
        // A table that cannot become what its definition says stops the stage before another one is changed.
        for plan in &plans {
            catalog.ensure_fits(&plan.definition).await.map_err(|error| table_failure(&error))?;
        }
    }
    let mut targets = Vec::with_capacity(plans.len());
    for plan in plans {
        let input_digest = input.source(&plan.source)?.input_digest();
        let table = catalog.ensure(&plan.definition).await.map_err(|error| table_failure(&error))?;
        let token = token(spec, &plan.table, &input_digest, &plan);
        let committed = table.find_commit(token.as_str()).await.map_err(|error| table_failure(&error))?;
        let state = committed.map_or(State::Pending, |committed| State::Committed(report_of(&plan.table.to_string(), &committed)));
        targets.push(Target { plan: Arc::new(plan), table, input_digest, state });
    }
    Ok(targets)
}

fn token(spec: &StageSpec, table: &TableRef, input_digest: &str, plan: &TablePlan) -> CommitToken {
    CommitToken::new(&spec.pipeline, table, &spec.interval, input_digest, &plan.definition_digest)
}

/// Reads every source that a pending table needs, once, and audits the tables.
async fn audit_all(
    storage: &Storage,
    input: &Input,
    targets: &mut [Target],
    facts: RunFacts,
    threads: usize,
    progress: &dyn Progress,
) -> Result<(), StageFailure> {
    for source in &input.manifest.sources {
        let mut pending: Vec<&mut Target> =
            targets.iter_mut().filter(|t| t.plan.source == source.name && matches!(t.state, State::Pending)).collect();
        if pending.is_empty() {
            continue;
        }
        let plans = pending.iter().map(|target| target.plan.clone()).collect();
        let audited = read_source(storage, source, plans, facts, threads, progress).await?;
        for (target, audited) in pending.iter_mut().zip(audited) {
            target.state = State::Audited(ready(&target.plan, audited, threads).await?);
        }
    }
    Ok(())
}

/// Deduplicates, checks the batch expectations, and counts.
async fn ready(plan: &Arc<TablePlan>, audited: Audited, threads: usize) -> Result<Ready, StageFailure> {
    let mut expectations = audited.row_results(plan)?;
    let Audited { batches, hashes, quarantined, read, dropped, .. } = audited;
    let (batches, removed) = match &plan.deduplicate {
        None => (batches, 0),
        Some(rule) => {
            let rule = rule.clone();
            let task = spawn_blocking(move || deduplicate(batches, hashes, &rule.key, rule.keep, threads));
            let deduplicated = joined(task).await?;
            (deduplicated.batches, deduplicated.removed)
        }
    };
    plan.expectations.check_batch(&plan.schema, &batches, &mut expectations).await?;
    let mut report = TableReport {
        name: plan.table.to_string(),
        rows_read: read,
        rows_written: batches.iter().map(|batch| batch.num_rows() as u64).sum(),
        rows_quarantined: quarantined.len() as u64,
        rows_deduplicated: removed,
        rows_dropped: dropped,
        expectations,
        ..TableReport::default()
    };
    for row in &quarantined {
        *report.quarantine_reasons.entry(row.rule.clone().into_owned()).or_default() += 1;
    }
    balanced(&report)?;
    Ok(Ready { batches, quarantined, report })
}

/// Writes the files of every audited table.
async fn stage_all(
    spec: &StageSpec,
    catalog: &Tables,
    targets: &mut [Target],
    facts: RunFacts,
    threads: usize,
    progress: &dyn Progress,
) -> Result<(), StageFailure> {
    for target in targets {
        let ready = match std::mem::replace(&mut target.state, State::Pending) {
            State::Audited(ready) => ready,
            other => {
                target.state = other;
                continue;
            }
        };
        let plan = &target.plan;
        progress.step(&format!("write {}", plan.table), Some(ready.report.rows_written));
        let aside = TableRef::new(QUARANTINE, &plan.table.name);
        let aside = token(spec, &aside, &target.input_digest, plan);
        let quarantine = stage_quarantine(spec, catalog, &plan.definition, aside, ready.quarantined, facts).await?;
        let own = token(spec, &plan.table, &target.input_digest, plan);
        let table = stage(spec, target.table.clone(), plan.mode.clone(), own, ready.batches, &ready.report, threads).await?;
        progress.advance(ready.report.rows_written, 0);
        target.state = State::Staged { quarantine, table };
    }
    Ok(())
}
