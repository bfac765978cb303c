//! The stage's tables, from their definitions to what readers see.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use datafusion::catalog::TableProvider;
use futures::{StreamExt, stream};
use lakehouse_api::pipeline::{Otherwise, Outside};
use lakehouse_contract::{
    CommitToken, ExpectationResult, Progress, Reason, ResolvedSilver, SilverInput, StageFailure, StageOutcome, StageSpec, TableRef,
    TableReport, Work, expectations,
};
use lakehouse_quality::{Recorded, Recorder, failure_of, publish::AUDITS};
use lakehouse_storage::Storage;
use lakehouse_tables::{Table, Tables, WriteMode};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
};

use crate::{
    commit::{self, AuditedTable, Published, StagedTable, balanced, report_of, stage, stage_quarantine, table_failure},
    held::{Budget, Rows},
    input::Input,
    memory::Memory,
    partners::Partners,
    quarantine::QUARANTINE,
    read::{Collected, Means, Reading, Sink, joined, read_source},
    replay::{self, Aside},
    row_rules::RowCheck,
    schema::{self, TablePlan},
    unit::RunFacts,
};

/// A table of the stage and how far it is.
struct Target {
    plan: Arc<TablePlan>,
    table: Arc<dyn Table>,
    /// Digest of the source's content; in a replay also of what is in quarantine.
    input_digest: String,
    /// In a replay: the records in quarantine.
    replayed: Option<BTreeSet<Aside>>,
    state: State,
}

#[allow(clippy::large_enum_variant, reason = "a handful per stage")]
enum State {
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
struct Ready {
    rows: ReadyRows,
    aside: Rows,
    /// The records in `aside`, in a replay.
    asides: BTreeSet<Aside>,
    report: TableReport,
}

enum ReadyRows {
    Held(Rows),
    /// In files already, which they went into while they were read.
    Written(Box<StagedTable>),
}

impl Ready {
    /// Gives memory back.
    fn spill(&mut self) -> Result<(), StageFailure> {
        if let ReadyRows::Held(rows) = &mut self.rows {
            rows.spill()?;
        }
        self.aside.spill()
    }
}

/// What goes with the staged rows of a table.
struct StagedPair {
    quarantine: Option<StagedTable>,
    report: TableReport,
}

/// What the steps of a stage share.
struct Stage<'a> {
    spec: &'a StageSpec,
    storage: &'a Storage,
    catalog: Tables,
    input: Input,
    means: Means,
    progress: &'a dyn Progress,
}

/// Makes the tables of `spec`; `outcome` has those that are committed, also when the stage fails.
pub(crate) async fn work(
    spec: &StageSpec,
    storage: &Storage,
    catalog_uri: &str,
    progress: &dyn Progress,
    outcome: &mut StageOutcome,
) -> Result<(), StageFailure> {
    let Work::Silver { input, tables, replay } = &spec.work else {
        return Err(StageFailure::new(Reason::InvalidDefinition, format!("the spec is for stage {}, this is silver", spec.stage())));
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let catalog = Tables::connect(storage.clone(), catalog_uri).await.map_err(|error| table_failure(&error))?;
    let input = find_input(spec, input, storage, outcome).await?;
    let memory = Memory::here(threads);
    let means = Means { facts: RunFacts::new(spec), threads, memory, budget: Budget::new(memory.rows) };
    let stage = Stage { spec, storage, catalog, input, means, progress };
    let mut recorder = Recorder::new(spec);
    let made = stage.make(tables, replay.as_deref(), &mut recorder, outcome).await;
    recorder.conclude(made, &stage.catalog, table_failure).await
}

async fn find_input(spec: &StageSpec, input: &SilverInput, storage: &Storage, outcome: &mut StageOutcome) -> Result<Input, StageFailure> {
    let input = Input::find(spec, input, storage).await?;
    outcome.inputs.push(input.key.clone());
    Ok(input)
}

impl Stage<'_> {
    /// Makes the tables: those that others refer to first. Nothing is visible to a reader before all of them are audited.
    async fn make(
        &self,
        tables: &[ResolvedSilver],
        replay: Option<&[String]>,
        recorder: &mut Recorder<'_>,
        outcome: &mut StageOutcome,
    ) -> Result<(), StageFailure> {
        let mut targets = self.open(tables, replay).await?;
        let audited = self.audit(tables, &mut targets, recorder).await;
        if let Err(failure) = audited {
            let kept = reject_all(targets).await;
            return Err(match kept.as_slice() {
                [] => failure,
                kept => StageFailure::new(failure.reason, format!("{} (kept to be looked at: {})", failure.message, kept.join(", "))),
            });
        }
        self.progress.step("commit", None);
        for target in targets.into_iter().filter(|target| !matches!(target.state, State::Untouched)) {
            let report = self.publish(target, recorder).await?;
            recorder.add(recorded(&report));
            outcome.tables.push(report.clone());
            balanced(&report)?;
        }
        Ok(())
    }

    async fn audit(&self, tables: &[ResolvedSilver], targets: &mut [Target], recorder: &mut Recorder<'_>) -> Result<(), StageFailure> {
        let definitions: Vec<_> = tables.iter().map(|table| table.table.clone()).collect();
        let levels = expectations::levels(&definitions).map_err(|fault| StageFailure::new(Reason::InvalidDefinition, fault))?;
        for level in levels {
            let names: BTreeSet<TableRef> = level.into_iter().map(|name| TableRef::new(schema::SILVER, name)).collect();
            self.audit_rows(targets, &names).await?;
            settle(targets, &names);
            let broken = record_rows(targets, &names, recorder);
            broken.map_or(Ok(()), Err)?;
            self.stage_all(targets, &names).await?;
            self.audit_tables(targets, &names, recorder).await?;
        }
        Ok(())
    }

    /// Compiles the definitions, all of them before the first table is touched, and finds what is committed already.
    async fn open(&self, tables: &[ResolvedSilver], replay: Option<&[String]>) -> Result<Vec<Target>, StageFailure> {
        let (spec, catalog) = (self.spec, &self.catalog);
        let mut plans: Vec<TablePlan> = tables.iter().map(|table| TablePlan::new(table, &spec.owner)).collect::<Result<_, _>>()?;
        let definitions: Vec<_> = tables.iter().map(|table| table.table.clone()).collect();
        expectations::check(&definitions).map_err(|fault| StageFailure::new(Reason::InvalidDefinition, fault))?;
        for plan in &mut plans {
            plan.quality.look_back(catalog, &spec.owner, spec.interval.start, table_failure).await?;
        }
        let has_part = |plan: &TablePlan| replay.is_none_or(|names| names.contains(&plan.table.name));
        if plans.len() > 1 {
            // A table that cannot become what its definition says stops the stage before another one is changed.
            for plan in plans.iter().filter(|plan| has_part(plan)) {
                catalog.ensure_fits(&plan.definition).await.map_err(|error| table_failure(&error))?;
            }
        }
        let mut targets = Vec::with_capacity(plans.len());
        for plan in plans {
            if !has_part(&plan) {
                if let Some(table) = catalog.open_table(&plan.table).await.map_err(|error| table_failure(&error))? {
                    let state = State::Untouched;
                    targets.push(Target { plan: Arc::new(plan), table, input_digest: String::new(), replayed: None, state });
                }
                continue;
            }
            let mut input_digest = self.input.source(&plan.source)?.input_digest();
            let mut replayed = None;
            if replay.is_some() {
                let aside = replay::quarantined(spec, catalog, &plan.table.name).await?;
                input_digest = replay::digest(&input_digest, &aside);
                replayed = Some(aside);
            }
            let table = catalog.ensure(&plan.definition).await.map_err(|error| table_failure(&error))?;
            let token = token(spec, &plan.table, &input_digest, &plan);
            let mut committed = table.find_commit(token.as_str()).await.map_err(|error| table_failure(&error))?;
            if replayed.as_ref().is_some_and(|aside| !aside.is_empty()) {
                // The quarantine, which is changed last, still has the records: the rest is to be done.
                committed = None;
            }
            let state = committed.map_or(State::Pending, |committed| State::Committed(report_of(&plan.table.to_string(), &committed)));
            targets.push(Target { plan: Arc::new(plan), table, input_digest, replayed, state });
        }
        Ok(targets)
    }

    /// Reads every source that a pending table of `level` needs, once, and audits the rows of the tables.
    async fn audit_rows(&self, targets: &mut [Target], level: &BTreeSet<TableRef>) -> Result<(), StageFailure> {
        let mut partners = self.partners(targets, level).await?;
        for source in &self.input.manifest.sources {
            let mut pending: Vec<&mut Target> = targets
                .iter_mut()
                .filter(|t| t.plan.source == source.name && level.contains(&t.plan.table) && matches!(t.state, State::Pending))
                .collect();
            if pending.is_empty() {
                continue;
            }
            let mut readings = Vec::with_capacity(pending.len());
            let mut writing = Vec::with_capacity(pending.len());
            for target in &pending {
                let (sink, task) = self.write_at_once(target).unzip();
                writing.push(task);
                readings.push(Reading {
                    plan: target.plan.clone(),
                    partners: Arc::new(partners.remove(&target.plan.table).unwrap_or_default()),
                    replayed: target.replayed.is_some(),
                    sink,
                });
            }
            let read = read_source(self.storage, source, readings, &self.means, self.progress).await;
            let written = all_written(writing).await;
            let collected = match read {
                Ok(collected) => collected,
                // Reading that fails ends all files with what it says. Files that fail end the reading, and know better why.
                Err(failure) => {
                    let own = written.into_iter().filter_map(Result::err).find(|own| *own != failure);
                    return Err(own.unwrap_or(failure));
                }
            };
            let written: Vec<Option<StagedTable>> = written.into_iter().collect::<Result<_, _>>()?;
            for ((target, collected), written) in pending.iter_mut().zip(collected).zip(written) {
                target.state = State::Audited(ready(&target.plan, collected, written, self.means.threads).await?);
            }
            self.make_room(targets).await?;
        }
        Ok(())
    }

    /// Begins to write the files of a table while its rows are read, where no row has to wait for another one: then none is held.
    ///
    /// Not where a run that breaks a rule is to leave nothing, as those files would be left to maintenance.
    fn write_at_once(&self, target: &Target) -> Option<(Sink, JoinHandle<Result<StagedTable, StageFailure>>)> {
        let plan = &target.plan;
        let waits = plan.deduplicate.is_some() || plan.quality.any_of_batch() || target.replayed.is_some();
        let fails = plan.row_rules.iter().any(|rule| rule.otherwise == Otherwise::Fail)
            || plan.interval.as_ref().is_some_and(|interval| interval.outside == Outside::Fail);
        let merges = matches!(plan.mode, WriteMode::Merge { .. } | WriteMode::History { .. });
        if waits || fails || merges {
            return None;
        }
        let (sink, rows) = mpsc::channel(1);
        let rows = stream::unfold(rows, async |mut rows| rows.recv().await.map(|batch| (batch, rows))).boxed();
        let own = token(self.spec, &plan.table, &target.input_digest, plan);
        let (spec, table, mode) = (self.spec.clone(), target.table.clone(), plan.mode.clone());
        Some((sink, tokio::spawn(async move { stage(&spec, table, mode, own, vec![rows]).await })))
    }

    /// Puts rows that are complete to disk when they would leave too little memory to those of the next source.
    async fn make_room(&self, targets: &mut [Target]) -> Result<(), StageFailure> {
        for target in targets {
            if !self.means.budget.is_half_used() {
                return Ok(());
            }
            target.state = match std::mem::replace(&mut target.state, State::Pending) {
                State::Audited(mut ready) => {
                    let spilling = spawn_blocking(move || ready.spill().map(|()| ready));
                    State::Audited(joined(spilling).await?)
                }
                other => other,
            };
        }
        Ok(())
    }

    /// The keys that the pending tables of `level` refer to, of tables as they will be.
    async fn partners(&self, targets: &[Target], level: &BTreeSet<TableRef>) -> Result<BTreeMap<TableRef, Partners>, StageFailure> {
        let mut all = BTreeMap::new();
        for target in targets.iter().filter(|t| level.contains(&t.plan.table) && matches!(t.state, State::Pending)) {
            let mut partners = Partners::default();
            for rule in &target.plan.row_rules {
                let RowCheck::Partner(partner) = &rule.check else { continue };
                let rows = rows_of(targets, &partner.table).await?;
                self.progress.step(&format!("read keys of {}", partner.table), None);
                partners.load(&rule.name, partner, rows).await.map_err(|error| {
                    let text = format!("table {} cannot be read: {}", partner.table, error.strip_backtrace());
                    StageFailure::new(Reason::StoreUnavailable, text)
                })?;
            }
            all.insert(target.plan.table.clone(), partners);
        }
        Ok(all)
    }

    /// Writes the files of every audited table of `level`.
    async fn stage_all(&self, targets: &mut [Target], level: &BTreeSet<TableRef>) -> Result<(), StageFailure> {
        for target in targets.iter_mut().filter(|target| level.contains(&target.plan.table)) {
            let Ready { rows, aside: quarantined, report, .. } = match std::mem::replace(&mut target.state, State::Pending) {
                State::Audited(ready) => ready,
                other => {
                    target.state = other;
                    continue;
                }
            };
            let plan = &target.plan;
            self.progress.step(&format!("write {}", plan.table), Some(report.rows_written));
            let aside = TableRef::new(QUARANTINE, &plan.table.name);
            let aside = token(self.spec, &aside, &target.input_digest, plan);
            let quarantine = stage_quarantine(self.spec, &self.catalog, &plan.definition, aside, quarantined).await?;
            let table = match rows {
                ReadyRows::Written(table) => *table,
                ReadyRows::Held(rows) => {
                    let own = token(self.spec, &plan.table, &target.input_digest, plan);
                    let rows = rows.into_streams(self.means.threads);
                    stage(self.spec, target.table.clone(), plan.mode.clone(), own, rows).await?
                }
            };
            let table = table.with_report(&report)?;
            self.progress.advance(report.rows_written, 0);
            target.state = State::Staged(StagedPair { quarantine, report }, table);
        }
        Ok(())
    }

    /// Prepares the tables of `level` that have rules about the whole of them, or that rows of other tables refer to, and checks the rules.
    async fn audit_tables(
        &self,
        targets: &mut [Target],
        level: &BTreeSet<TableRef>,
        recorder: &mut Recorder<'_>,
    ) -> Result<(), StageFailure> {
        let pending = |target: &Target| matches!(target.state, State::Pending);
        let referred: BTreeSet<TableRef> =
            targets.iter().filter(|target| pending(target)).flat_map(|target| partner_tables(&target.plan)).collect();
        let mut broken = None;
        for target in targets.iter_mut().filter(|target| level.contains(&target.plan.table)) {
            if !target.plan.quality.any_of_table() && !referred.contains(&target.plan.table) {
                continue;
            }
            let (pair, staged) = match std::mem::replace(&mut target.state, State::Pending) {
                State::Staged(pair, staged) => (pair, staged),
                other => {
                    target.state = other;
                    continue;
                }
            };
            self.audit_table(target, pair, staged).await?;
            if let State::Candidate(pair, _) = &target.state {
                recorder.add(recorded(&pair.report));
                broken = broken.or_else(|| failure_of(&target.plan.table, &pair.report.expectations));
            }
        }
        broken.map_or(Ok(()), Err)
    }

    /// Prepares one table and adds the results of its rules to its report.
    async fn audit_table(&self, target: &mut Target, mut pair: StagedPair, staged: StagedTable) -> Result<(), StageFailure> {
        self.progress.step(&format!("audit {}", target.plan.table), None);
        let audited = match commit::audit(staged).await? {
            Ok(audited) => audited,
            Err(report) => {
                target.state = State::Committed(report);
                return Ok(());
            }
        };
        let checked = target.plan.quality.check_table(audited.provider(), &self.spec.interval).await;
        if let Ok(results) = &checked {
            let expectations = &mut pair.report.expectations;
            expectations.retain(|known| !results.iter().any(|result| result.name == known.name));
            expectations.extend(results.iter().cloned());
            in_order(&target.plan, expectations);
        }
        target.state = State::Candidate(pair, audited);
        checked.map(drop)
    }

    /// Publishes one table, after its quarantine: no record is nowhere. Records of a replay are in the quarantine already, and leave it last.
    async fn publish(&self, mut target: Target, recorder: &mut Recorder<'_>) -> Result<TableReport, StageFailure> {
        let replaying = target.replayed.is_some();
        for _ in 0..AUDITS {
            match std::mem::replace(&mut target.state, State::Pending) {
                State::Committed(report) => return Ok(report),
                State::Staged(mut pair, table) => {
                    if !replaying {
                        set_aside(&mut pair).await?;
                    }
                    let report = commit::commit(table).await?;
                    set_aside(&mut pair).await?;
                    return Ok(report);
                }
                State::Candidate(mut pair, audited) => {
                    if !replaying {
                        set_aside(&mut pair).await?;
                    }
                    let staged = match audited.publish(&pair.report).await? {
                        Published::Done(report) => {
                            set_aside(&mut pair).await?;
                            return Ok(report);
                        }
                        Published::Changed(staged) => staged,
                    };
                    self.audit_table(&mut target, pair, staged).await?;
                    let State::Candidate(pair, _) = &target.state else { continue };
                    recorder.add(recorded(&pair.report));
                    if let Some(failure) = failure_of(&target.plan.table, &pair.report.expectations) {
                        reject_all(vec![target]).await;
                        return Err(failure);
                    }
                }
                State::Pending | State::Audited(_) | State::Untouched => {
                    return Err(StageFailure::new(Reason::Internal, format!("{} was not staged", target.plan.table)));
                }
            }
        }
        let text = format!("table {}: other writers changed it during each of {AUDITS} audits", target.plan.table);
        reject_all(vec![target]).await;
        Err(StageFailure::new(Reason::CommitConflict, text))
    }
}

/// Publishes the quarantine of a table, once.
async fn set_aside(pair: &mut StagedPair) -> Result<(), StageFailure> {
    match pair.quarantine.take() {
        Some(quarantine) => commit::commit(quarantine).await.map(drop),
        None => Ok(()),
    }
}

/// Ends the replay of tables of which the very same records would go to quarantine again.
fn settle(targets: &mut [Target], level: &BTreeSet<TableRef>) {
    for target in targets.iter_mut().filter(|target| level.contains(&target.plan.table)) {
        let (State::Audited(ready), Some(replayed)) = (&target.state, &target.replayed) else { continue };
        if ready.asides == *replayed {
            let name = target.plan.table.to_string();
            target.state = State::Committed(TableReport { name, already_committed: true, ..TableReport::default() });
        }
    }
}

/// Gives up what was prepared. The branches that stay, as a person names them.
async fn reject_all(targets: Vec<Target>) -> Vec<String> {
    let mut kept = Vec::new();
    for target in targets {
        if let State::Candidate(_, audited) = target.state
            && let Some(branch) = audited.reject().await
        {
            kept.push(format!("{} at branch {branch}", target.plan.table));
        }
    }
    kept
}

/// The rows of a table as it will be.
async fn rows_of(targets: &[Target], table: &TableRef) -> Result<Arc<dyn TableProvider>, StageFailure> {
    let target = targets.iter().find(|target| target.plan.table == *table);
    let Some(target) = target else {
        return Err(StageFailure::new(Reason::InvalidDefinition, format!("the pipeline has no table {table}")));
    };
    match &target.state {
        State::Candidate(_, audited) => Ok(audited.provider()),
        _ => target.table.provider(None).await.map_err(|error| table_failure(&error)),
    }
}

fn partner_tables(plan: &TablePlan) -> impl Iterator<Item = TableRef> + '_ {
    plan.row_rules.iter().filter_map(|rule| match &rule.check {
        RowCheck::Partner(partner) => Some(partner.table.clone()),
        RowCheck::Condition { .. } => None,
    })
}

/// Notes the results of the audited tables of `level`; the first failure that they mean.
fn record_rows(targets: &[Target], level: &BTreeSet<TableRef>, recorder: &mut Recorder<'_>) -> Option<StageFailure> {
    let mut broken = None;
    for target in targets.iter().filter(|target| level.contains(&target.plan.table)) {
        let State::Audited(ready) = &target.state else { continue };
        recorder.add(recorded(&ready.report));
        broken = broken.or_else(|| failure_of(&target.plan.table, &ready.report.expectations));
    }
    broken
}

fn recorded(report: &TableReport) -> Recorded {
    Recorded {
        interval: None,
        table: report.name.clone(),
        snapshot: report.snapshot.clone(),
        rows_read: report.rows_read,
        results: report.expectations.clone(),
        quarantine_reasons: report.quarantine_reasons.clone(),
    }
}

fn token(spec: &StageSpec, table: &TableRef, input_digest: &str, plan: &TablePlan) -> CommitToken {
    CommitToken::new(&spec.pipeline, table, &spec.interval, input_digest, &plan.definition_digest)
}

/// Results in the order of the definition.
fn in_order(plan: &TablePlan, results: &mut [ExpectationResult]) {
    results.sort_by_key(|result| plan.rule_names.iter().position(|name| *name == result.name));
}

/// Waits for the tables whose files were written while their rows were read.
async fn all_written(
    writing: Vec<Option<JoinHandle<Result<StagedTable, StageFailure>>>>,
) -> Vec<Result<Option<StagedTable>, StageFailure>> {
    let mut written = Vec::with_capacity(writing.len());
    for task in writing {
        written.push(match task {
            None => Ok(None),
            Some(task) => joined(task).await.map(Some),
        });
    }
    written
}

/// Deduplicates, checks the rules about the rows of the run, and counts.
async fn ready(plan: &Arc<TablePlan>, collected: Collected, written: Option<StagedTable>, threads: usize) -> Result<Ready, StageFailure> {
    let Collected { rows, sent, aside, reasons, asides, tally, .. } = collected;
    let mut expectations = tally.row_results(plan);
    if let Some(failure) = tally.outside_failure(plan) {
        return Err(failure);
    }
    let finished = spawn_blocking(move || Ok((rows.finish(threads)?, aside.finish(threads)?)));
    let ((rows, removed), (aside, _)) = joined(finished).await?;
    if plan.quality.any_of_batch() {
        expectations.extend(plan.quality.check_batch(rows.provider()?).await?);
    }
    in_order(plan, &mut expectations);
    let rows_written = match &written {
        None => rows.count(),
        Some(written) if written.rows() == sent => sent,
        Some(written) => {
            let text = format!("{}: {sent} rows were read, {} are in its files", plan.table, written.rows());
            return Err(StageFailure::new(Reason::Internal, text));
        }
    };
    let report = TableReport {
        name: plan.table.to_string(),
        rows_read: tally.read,
        rows_written,
        rows_quarantined: aside.count(),
        rows_deduplicated: removed,
        rows_dropped: tally.dropped,
        quarantine_reasons: reasons,
        expectations,
        ..TableReport::default()
    };
    balanced(&report)?;
    Ok(Ready { rows: written.map_or(ReadyRows::Held(rows), |table| ReadyRows::Written(Box::new(table))), aside, asides, report })
}
