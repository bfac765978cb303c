//! From audited rows to what readers see: files, the table as it will be, the commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use datafusion::catalog::TableProvider;
use lakehouse_contract::{Interval, Progress, Reason, StageFailure, TableRef, TableReport};
use lakehouse_quality::{
    Recorder, failure_of,
    publish::{Judge, Outcome},
};
use lakehouse_tables::TableError;

use super::target::{Ready, ReadyRows, Stage, StagedPair, State, Target, in_order, recorded, token};
use crate::{
    commit::{self, StagedTable, stage, stage_quarantine},
    failure::table_failure,
    quarantine::QUARANTINE,
    row_rules::RowCheck,
    schema::TablePlan,
};

impl Stage<'_> {
    /// Writes the files of every audited table of `level`.
    pub(super) async fn stage_all(&self, targets: &mut [Target], level: &BTreeSet<TableRef>) -> Result<(), StageFailure> {
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
            let quarantine = stage_quarantine(self.spec, &self.catalog, &plan.definition, aside, quarantined);
            let table = async {
                match rows {
                    ReadyRows::Written(table) => Ok(*table),
                    ReadyRows::Held(rows) => {
                        let own = token(self.spec, &plan.table, &target.input_digest, plan);
                        let rows = rows.into_streams(self.means.memory.threads);
                        stage(self.spec, target.table.clone(), plan.mode.clone(), own, rows).await
                    }
                }
            };
            // Neither is visible to a reader, so neither waits for the other.
            let (quarantine, table) = tokio::join!(quarantine, table);
            let quarantine = quarantine?;
            let table = table?.with_report(&report)?;
            self.progress.advance(report.rows_written, 0);
            target.state = State::Staged(StagedPair { quarantine, report }, table);
        }
        Ok(())
    }

    /// Prepares the tables of `level` that have rules about the whole of them, or that rows of other tables refer to, and checks the rules.
    pub(super) async fn audit_tables(
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
        let checked = check(&target.plan, audited.provider(), &self.spec.interval, &mut pair.report).await;
        target.state = State::Candidate(pair, audited);
        checked
    }

    /// Publishes one table, after its quarantine: no record is nowhere. Records of a replay are in the quarantine already, and leave it last.
    pub(super) async fn publish(&self, target: Target, recorder: &mut Recorder<'_>) -> Result<TableReport, StageFailure> {
        let Target { plan, replayed, state, .. } = target;
        let quarantine_first = replayed.is_none();
        match state {
            State::Committed(report) => Ok(report),
            State::Staged(pair, table) => in_turn(pair.quarantine, quarantine_first, commit::commit(table)).await,
            State::Candidate(pair, audited) => {
                let StagedPair { quarantine, report } = pair;
                let table = async {
                    let mut judge = Again { plan: &plan, interval: &self.spec.interval, progress: self.progress, recorder, report };
                    let outcome = audited.publish(&mut judge).await?;
                    Ok(match outcome {
                        Outcome::Published(committed) => commit::completed(judge.report, &plan.table.to_string(), &committed),
                        Outcome::Already(committed) => commit::report_of(&plan.table.to_string(), &committed),
                    })
                };
                in_turn(quarantine, quarantine_first, table).await
            }
            State::Pending | State::Audited(_) | State::Untouched => {
                Err(StageFailure::new(Reason::Internal, format!("{} was not staged", plan.table)))
            }
        }
    }
}

/// Publishes a table and its quarantine, one after the other.
async fn in_turn(
    quarantine: Option<StagedTable>,
    quarantine_first: bool,
    table: impl Future<Output = Result<TableReport, StageFailure>>,
) -> Result<TableReport, StageFailure> {
    if quarantine_first {
        set_aside(quarantine).await?;
        return table.await;
    }
    let report = table.await?;
    set_aside(quarantine).await.map(|()| report)
}

/// Looks at a table again that other writers changed between its audit and its commit.
struct Again<'a, 'r> {
    plan: &'a TablePlan,
    interval: &'a Interval,
    progress: &'a dyn Progress,
    recorder: &'a mut Recorder<'r>,
    report: TableReport,
}

impl Judge for Again<'_, '_> {
    async fn look(&mut self, rows: Arc<dyn TableProvider>) -> Result<(), StageFailure> {
        self.progress.step(&format!("audit {}", self.plan.table), None);
        check(self.plan, rows, self.interval, &mut self.report).await?;
        self.recorder.add(recorded(&self.report));
        failure_of(&self.plan.table, &self.report.expectations).map_or(Ok(()), Err)
    }

    fn summary(&self) -> Result<BTreeMap<String, String>, StageFailure> {
        commit::summary(&self.report)
    }

    fn failure(&self, error: &TableError) -> StageFailure {
        table_failure(error)
    }
}

/// Checks the rules about a whole table, of which `rows` are all rows, and puts their results into its report.
async fn check(plan: &TablePlan, rows: Arc<dyn TableProvider>, interval: &Interval, report: &mut TableReport) -> Result<(), StageFailure> {
    let results = plan.quality.check_table(rows, interval).await?;
    report.expectations.retain(|known| !results.iter().any(|result| result.name == known.name));
    report.expectations.extend(results);
    in_order(plan, &mut report.expectations);
    Ok(())
}

async fn set_aside(quarantine: Option<StagedTable>) -> Result<(), StageFailure> {
    match quarantine {
        Some(quarantine) => commit::commit(quarantine).await.map(drop),
        None => Ok(()),
    }
}

/// Gives up what was prepared. The branches that stay, as a person names them.
pub(super) async fn reject_all(targets: Vec<Target>) -> Vec<String> {
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

fn partner_tables(plan: &TablePlan) -> impl Iterator<Item = TableRef> + '_ {
    plan.row_rules.iter().filter_map(|rule| match &rule.check {
        RowCheck::Partner(partner) => Some(partner.table.clone()),
        RowCheck::Condition { .. } => None,
    })
}
