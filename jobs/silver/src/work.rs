//! The stage's tables, from their definitions to what readers see.

mod audit;
mod publish;
mod target;

use std::{collections::BTreeSet, sync::Arc};

use lakehouse_contract::{
    Progress, Reason, ResolvedSilver, SilverInput, StageFailure, StageOutcome, StageSpec, TableRef, Work, expectations,
};
use lakehouse_quality::Recorder;
use lakehouse_storage::Storage;
use lakehouse_tables::Tables;
use tokio::task::spawn_blocking;

use self::{
    audit::{record_rows, settle},
    publish::reject_all,
    target::{Stage, State, Target, recorded, token},
};
use crate::{
    commit::{balanced, report_of},
    failure::table_failure,
    held::Budget,
    input::Input,
    memory::Memory,
    read::{Means, joined},
    replay,
    schema::{self, TablePlan},
    unit::RunFacts,
};

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
    // The catalog answers, the manifest comes and the definitions are compiled at the same time.
    let (definitions, owner) = (tables.clone(), spec.owner.clone());
    let plans = spawn_blocking(move || definitions.iter().map(|table| TablePlan::new(table, &owner)).collect());
    let (catalog, input, plans) =
        tokio::join!(Tables::connect(storage.clone(), catalog_uri), find_input(spec, input, storage, outcome), joined(plans));
    let (catalog, input, plans) = (catalog.map_err(|error| table_failure(&error))?, input?, plans?);
    let memory = Memory::here();
    let means = Means { facts: RunFacts::new(spec), memory, budget: Budget::new(memory.rows) };
    let stage = Stage { spec, storage, catalog, input, means, progress };
    let mut recorder = Recorder::new(spec);
    let made = stage.make(tables, plans, replay.as_deref(), &mut recorder, outcome).await;
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
        plans: Vec<TablePlan>,
        replay: Option<&[String]>,
        recorder: &mut Recorder<'_>,
        outcome: &mut StageOutcome,
    ) -> Result<(), StageFailure> {
        let mut targets = self.open(tables, plans, replay).await?;
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

    /// Opens the tables of the compiled definitions, and finds what is committed already.
    async fn open(
        &self,
        tables: &[ResolvedSilver],
        mut plans: Vec<TablePlan>,
        replay: Option<&[String]>,
    ) -> Result<Vec<Target>, StageFailure> {
        let (spec, catalog) = (self.spec, &self.catalog);
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
}
