//! The rows of the tables: read, audited, counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt, stream};
use lakehouse_api::pipeline::{Otherwise, Outside};
use lakehouse_contract::{Reason, StageFailure, TableRef, TableReport};
use lakehouse_quality::{Recorder, failure_of};
use lakehouse_tables::WriteMode;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
};

use super::target::{Ready, ReadyRows, Stage, State, Target, in_order, recorded, rows_of, token};
use crate::{
    commit::{StagedTable, balanced, stage},
    partners::Partners,
    read::{Collected, Reading, Sink, joined, read_source},
    row_rules::RowCheck,
    schema::TablePlan,
};

impl Stage<'_> {
    /// Reads every source that a pending table of `level` needs, once, and audits the rows of the tables.
    pub(super) async fn audit_rows(&self, targets: &mut [Target], level: &BTreeSet<TableRef>) -> Result<(), StageFailure> {
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
                target.state = State::Audited(ready(&target.plan, collected, written, self.means.memory.threads).await?);
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
}

/// Ends the replay of tables of which the very same records would go to quarantine again.
pub(super) fn settle(targets: &mut [Target], level: &BTreeSet<TableRef>) {
    for target in targets.iter_mut().filter(|target| level.contains(&target.plan.table)) {
        let (State::Audited(ready), Some(replayed)) = (&target.state, &target.replayed) else { continue };
        if ready.asides == *replayed {
            let name = target.plan.table.to_string();
            target.state = State::Committed(TableReport { name, already_committed: true, ..TableReport::default() });
        }
    }
}

/// Notes the results of the audited tables of `level`; the first failure that they mean.
pub(super) fn record_rows(targets: &[Target], level: &BTreeSet<TableRef>, recorder: &mut Recorder<'_>) -> Option<StageFailure> {
    let mut broken = None;
    for target in targets.iter().filter(|target| level.contains(&target.plan.table)) {
        let State::Audited(ready) = &target.state else { continue };
        recorder.add(recorded(&ready.report));
        broken = broken.or_else(|| failure_of(&target.plan.table, &ready.report.expectations));
    }
    broken
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
