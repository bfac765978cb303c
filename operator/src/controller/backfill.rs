//! `LakehouseBackfill`: makes the runs of a range of intervals, some at a time, and counts them.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt;
use kube_runtime::{controller::Action, reflector::ObjectRef};
use lakehouse_api::{Lakehouse, LakehouseBackfill, LakehousePipeline, LakehouseRun, run::RunState};
use lakehouse_contract::resolve;

use super::{
    Context, Error, Result, UNTIL_FILLED, not_there, now,
    pipeline::{cancel, create_once, keep_revision},
    replace_status,
};
use crate::{
    build, names,
    plan::backfill::{Definition, Observed, Step, decide, is_finished},
};

/// Steps of one reconciliation. Each may make a run, so this bounds how many are made before the next look.
const MAX_STEPS: usize = 64;
/// How often what no watch announces is looked at again: a missing pipeline, a name that is taken.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// Pause where everything changes all the time.
const BREATHER: Duration = Duration::from_secs(1);

pub(crate) async fn reconcile(cached: Arc<LakehouseBackfill>, context: Arc<Context>) -> Result<Action> {
    if cached.metadata.deletion_timestamp.is_some() || cached.status.as_ref().is_some_and(is_finished) {
        // The receiver is gone only when the process ends.
        let _ = context.backfilled.unbounded_send(ObjectRef::new(&cached.spec.pipeline).within(&context.namespace));
        return Ok(Action::await_change());
    }
    if !context.filled() {
        return Ok(Action::requeue(UNTIL_FILLED));
    }
    let api = context.api::<LakehouseBackfill>();
    let name = cached.name_any();
    let uid = cached.uid().unwrap_or_default();
    // What this reconciliation made: the cache of runs lags behind.
    let mut made: Vec<String> = Vec::new();
    let mut cancelled: Vec<String> = Vec::new();
    for _ in 0..MAX_STEPS {
        // What is decided on is never older than the last write, whoever made it.
        let found = api.get_opt(&name).await.map_err(Error::api("read LakehouseBackfill", &name))?;
        let Some(backfill) = found.filter(|found| found.metadata.uid == cached.metadata.uid && found.metadata.deletion_timestamp.is_none())
        else {
            return Ok(not_there());
        };
        let (definition, pipeline) = definition(&context, &backfill).await?;
        let runs = context.runs_of(&backfill.spec.pipeline);
        let mut own: Vec<LakehouseRun> = Vec::new();
        let mut others: Vec<&LakehouseRun> = Vec::new();
        for run in &runs {
            if !build::is_owned_by(&run.metadata, &uid) {
                others.push(run);
                continue;
            }
            let mut run = run.as_ref().clone();
            if cancelled.contains(&run.name_any()) {
                run.spec.state = RunState::Cancelled;
            }
            own.push(run);
        }
        let own: Vec<&LakehouseRun> = own.iter().collect();
        let observed = Observed { definition: &definition, own: &own, others: &others, made: &made };
        let step = decide(&backfill, &observed, now());
        tracing::debug!(backfill = name, ?step, "next step");
        match step {
            Step::Record { status, notes } => {
                let changed = LakehouseBackfill { status: Some(*status), ..backfill };
                match replace_status(&api, &changed).await {
                    Ok(written) => context.events.publish(&written, &notes),
                    // Somebody changed it meanwhile: look again.
                    Err(error) if error.is_conflict() => {}
                    Err(error) if error.is_not_found() => return Ok(not_there()),
                    Err(error) => return Err(error),
                }
            }
            Step::KeepDefinition => match &pipeline {
                Some(pipeline) => keep_revision(&context, pipeline).await?,
                None => return Ok(Action::requeue(LOOK_AGAIN)),
            },
            Step::Create(order) => {
                let revision = backfill.status.as_ref().and_then(|status| status.definition.clone()).unwrap_or_default();
                let run = build::backfill_run(&backfill, &revision, &order);
                if let Err(taken) = create_once(&context, &run, &uid).await? {
                    tracing::warn!(backfill = name, "{taken}");
                    return Ok(Action::requeue(LOOK_AGAIN));
                }
                made.push(order.name);
            }
            Step::Cancel { run } => {
                let of = own.iter().find(|known| known.name_any() == run).and_then(|known| known.uid()).unwrap_or_default();
                cancel(&context, &run, &of).await?;
                cancelled.push(run);
            }
            Step::Wait | Step::Done => return Ok(Action::await_change()),
            Step::LookAgain => return Ok(Action::requeue(LOOK_AGAIN)),
        }
    }
    Ok(Action::requeue(BREATHER))
}

/// The definition that the backfill executes: the one it began with, else the pipeline's present one.
async fn definition(context: &Context, backfill: &LakehouseBackfill) -> Result<(Definition, Option<LakehousePipeline>)> {
    let wanted = &backfill.spec.pipeline;
    let found = context.api::<LakehousePipeline>().get_opt(wanted).await.map_err(Error::api("read LakehousePipeline", wanted))?;
    let Some(pipeline) = found else {
        let message = format!("spec.pipeline: there is no LakehousePipeline `{wanted}` in this namespace");
        return Ok((Definition::Missing { reason: "PipelineNotFound", message }, None));
    };
    let began_with = backfill.status.as_ref().and_then(|status| status.definition.clone());
    let current = names::revision(wanted, &build::digest(&pipeline.spec));
    let revision = began_with.clone().unwrap_or_else(|| current.clone());
    let kept = context.api::<ControllerRevision>().get_opt(&revision).await.map_err(Error::api("read ControllerRevision", &revision))?;
    let spec = match (&kept, revision == current) {
        (_, true) => pipeline.spec.clone(),
        (Some(kept), false) => match build::definition_of(kept) {
            Ok(spec) => spec,
            Err(message) => return Ok((Definition::Refused { reason: "InvalidDefinition", message }, None)),
        },
        (None, false) => {
            let message = format!("ControllerRevision {revision}, which holds this backfill's definition, is gone: make a new backfill");
            return Ok((Definition::Refused { reason: "DefinitionNotFound", message }, None));
        }
    };
    let found = context.api::<Lakehouse>().get_opt(&spec.lakehouse).await.map_err(Error::api("read Lakehouse", &spec.lakehouse))?;
    let Some(lakehouse) = found else {
        let message = format!("there is no Lakehouse `{}` in this namespace", spec.lakehouse);
        return Ok((Definition::Missing { reason: "LakehouseNotFound", message }, None));
    };
    // Each run would find out by itself, one after the other.
    if began_with.is_none()
        && let Err(error) = resolve::check(wanted, &spec, &lakehouse.spec, now())
    {
        let message = format!("LakehousePipeline {wanted}: {error}");
        return Ok((Definition::Refused { reason: "InvalidDefinition", message }, None));
    }
    let completed = pipeline.status.as_ref().map(|status| status.completed_intervals.clone()).unwrap_or_default();
    let definition =
        Definition::Known { revision, kept: kept.is_some(), spec: Box::new(spec), lakehouse: Box::new(lakehouse.spec), completed };
    Ok((definition, Some(pipeline)))
}
