//! `LakehouseRun`: one Job per (stage, attempt), outcomes into the status, one step at a time.

mod apply;
mod claims;
mod jobs;
mod looks;
mod memo;
mod observe;
mod views;

use std::{sync::Arc, time::Duration};

use kube::ResourceExt;
use kube_runtime::controller::Action;
use lakehouse_api::LakehouseRun;
use lakehouse_contract::TraceContext;
use tracing::Instrument;

pub(crate) use claims::Claims;
pub(crate) use looks::Looks;

use super::{Context, Error, Result, UNTIL_FILLED, not_there, now, replace_status};
use crate::plan::{
    run::{Obstacle, Step, decide},
    status::finished,
};

/// Steps of one reconciliation; a run needs fewer than this per stage, so reaching it means that something changes all the time.
const MAX_STEPS: usize = 16;
/// Pause after that.
const BREATHER: Duration = Duration::from_secs(5);

/// [`proceed`], in a span whose trace is that of the run: its log lines have the trace of its Jobs.
pub(crate) fn reconcile(cached: Arc<LakehouseRun>, context: Arc<Context>) -> impl Future<Output = Result<Action>> {
    let trace = TraceContext::of_run(&cached.uid().unwrap_or_default()).trace();
    let span = tracing::info_span!("run", run = cached.name_any(), trace_id = trace);
    proceed(cached, context).instrument(span)
}

async fn proceed(cached: Arc<LakehouseRun>, context: Arc<Context>) -> Result<Action> {
    if cached.metadata.deletion_timestamp.is_some() {
        context.claims.finish(&cached, &context);
        context.looks.forget(&cached);
        return Ok(Action::await_change());
    }
    if !context.filled() {
        return Ok(Action::requeue(UNTIL_FILLED));
    }
    // The many runs of the past cost no request.
    if cached.status.as_ref().is_some_and(finished) && !jobs::has_lasting_jobs(&context, &cached) {
        context.claims.forget(&cached, &context);
        context.looks.forget(&cached);
        return Ok(Action::await_change());
    }
    // As it was decided on a moment ago: what triggers is mostly an own write that comes back.
    if let Some(left) = context.looks.left(&cached, &context) {
        return Ok(Action::requeue(left));
    }
    let api = context.api::<LakehouseRun>();
    let name = cached.name_any();
    let mut obstacle: Option<Obstacle> = None;
    let (first, mut memo) = memo::ask(&context, &cached).await?;
    // What is decided on is not the cache's: it is what was read above, or the answer to the last write.
    let mut known = Some(first);
    for _ in 0..MAX_STEPS {
        let found = match known.take() {
            Some(found) => found,
            None => api.get_opt(&name).await.map_err(Error::api("read LakehouseRun", &name))?,
        };
        let Some(run) = found.filter(|run| run.metadata.uid == cached.metadata.uid && run.metadata.deletion_timestamp.is_none()) else {
            return Ok(not_there());
        };
        let scene = observe::observe(&context, &run, obstacle.take(), &mut memo).await?;
        let step = decide(&run, &scene.observed, now());
        tracing::debug!(run = name, ?step, "next step");
        match step {
            Step::Record { status, notes } => {
                memo.intends(&status);
                let ends = finished(&status);
                let before = run.status.clone();
                let changed = LakehouseRun { status: Some(*status), ..run };
                match replace_status(&api, &changed).await {
                    Ok(written) => {
                        if let Some(status) = &written.status {
                            context.telling.metrics.recorded(before.as_ref(), status);
                        }
                        if ends {
                            context.claims.finish(&written, &context);
                            context.telling.traces.ended(&written);
                        }
                        context.events.publish(&written, &notes);
                        if ends && !jobs::has_lasting_jobs(&context, &written) {
                            context.looks.forget(&written);
                            return Ok(Action::await_change());
                        }
                        known = Some(Some(written));
                    }
                    // Somebody changed the run meanwhile: look again.
                    Err(error) if error.is_conflict() => {}
                    Err(error) if error.is_not_found() => return Ok(not_there()),
                    Err(error) => return Err(error),
                }
            }
            Step::KeepDefinition => match &scene.pipeline {
                Some(pipeline) => {
                    super::pipeline::keep_revision(&context, pipeline).await?;
                    memo.keeps(pipeline);
                    known = Some(Some(run));
                }
                None => return Ok(Action::requeue(BREATHER)),
            },
            Step::Create { stage, attempt, job } => {
                match apply::create(&context, &run, &scene, stage, attempt, &job).await? {
                    Ok(made) => memo.has(made),
                    Err(met) => obstacle = Some(met),
                }
                known = Some(Some(run));
            }
            Step::Delete { job, version, unchanged } => {
                memo.forgets(&job);
                apply::delete(&context, &job, version, unchanged).await?;
            }
            Step::Expire { job, uid, seconds } => apply::expire(&context, &job, &uid, seconds).await?,
            Step::Wait(wait) => {
                return Ok(Action::requeue(context.looks.note(&run, &scene.observed.jobs, wait)));
            }
            Step::Done => return Ok(Action::await_change()),
        }
    }
    Ok(Action::requeue(BREATHER))
}
