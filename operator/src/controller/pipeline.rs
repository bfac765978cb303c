//! `LakehousePipeline`: checks the definition, keeps its revisions, makes the run of `trigger.onApply`, sums up its runs.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use kube_runtime::controller::Action;
use lakehouse_api::{Lakehouse, LakehousePipeline, LakehouseRun};
use lakehouse_contract::resolve;

use super::{Context, Error, Result, UNTIL_FILLED, not_there, now, replace_status};
use crate::{
    build, conditions, names,
    plan::{
        Note,
        pipeline::{Finding, READY, handled, prunable, run_interval, status},
    },
};

pub(crate) async fn reconcile(pipeline: Arc<LakehousePipeline>, context: Arc<Context>) -> Result<Action> {
    if pipeline.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    if !context.filled() {
        return Ok(Action::requeue(UNTIL_FILLED));
    }
    let revision = names::revision(&pipeline.name_any(), &build::digest(&pipeline.spec));
    let is_new = !handled(&pipeline, &revision);
    let mut finding = check(&pipeline, &context, &revision).await?;
    let mut notes = Vec::new();
    if is_new && matches!(finding, Finding::Valid(_)) {
        keep_revision(&context, &pipeline).await?;
        if let Err(refused) = trigger(&pipeline, &context, &mut notes).await? {
            finding = Finding::RunRefused(refused);
        }
    }
    let runs = context.runs_of(&pipeline.name_any());
    let next = status(&pipeline, &finding, runs.iter().map(AsRef::as_ref), now());
    if pipeline.status.as_ref() != Some(&next) {
        notes.extend(news(&pipeline, &next.conditions));
        let changed = LakehousePipeline { status: Some(next), ..pipeline.as_ref().clone() };
        match replace_status(&context.api::<LakehousePipeline>(), &changed).await {
            Ok(written) => context.events.publish(&written, &notes).await,
            Err(error) if error.is_not_found() => return Ok(not_there()),
            Err(error) => return Err(error),
        }
        if is_new {
            prune(&context, &pipeline, &revision).await?;
        }
    }
    Ok(match finding {
        Finding::Valid(_) | Finding::Invalid(_) | Finding::LakehouseNotFound(_) => Action::await_change(),
        // The name may become free.
        Finding::RunRefused(_) => Action::requeue(super::AFTER_ERROR),
    })
}

async fn check(pipeline: &LakehousePipeline, context: &Context, revision: &str) -> Result<Finding> {
    let name = &pipeline.spec.lakehouse;
    let found = context.api::<Lakehouse>().get_opt(name).await.map_err(Error::api("read Lakehouse", name))?;
    let Some(lakehouse) = found else { return Ok(Finding::LakehouseNotFound(name.clone())) };
    Ok(match resolve::check(&pipeline.name_any(), &pipeline.spec, &lakehouse.spec, now()) {
        Ok(()) => Finding::Valid(revision.to_owned()),
        Err(error) => Finding::Invalid(error.to_string()),
    })
}

/// An event when the condition becomes another one.
fn news(pipeline: &LakehousePipeline, next: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]) -> Option<Note> {
    let after = conditions::find(next, READY)?;
    let before = pipeline.status.as_ref().and_then(|s| conditions::find(&s.conditions, READY));
    if before.is_some_and(|b| b.reason == after.reason && b.message == after.message) {
        return None;
    }
    let text = format!("Pipeline {}: {}", pipeline.name_any(), after.message);
    Some(if after.status == "True" {
        Note::normal(after.reason.clone(), "definition", text)
    } else {
        Note::warning(after.reason.clone(), "definition", text)
    })
}

/// Makes sure that the present definition is kept as ControllerRevision.
pub(crate) async fn keep_revision(context: &Context, pipeline: &LakehousePipeline) -> Result<()> {
    let revisions = context.api::<ControllerRevision>();
    let revision = build::revision(pipeline);
    let name = revision.name_any();
    match revisions.create(&parameters(), &revision).await.map_err(Error::api("create ControllerRevision", &name)) {
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// Makes the run of this definition, unless it was made before. The inner error is for the pipeline's author.
async fn trigger(pipeline: &LakehousePipeline, context: &Context, notes: &mut Vec<Note>) -> Result<Result<(), String>> {
    let Some(interval) = run_interval(pipeline, now()) else { return Ok(Ok(())) };
    let uid = pipeline.uid().unwrap_or_default();
    let api = context.api::<LakehouseRun>();
    let run = build::triggered_run(pipeline, interval);
    let name = run.name_any();
    // Made before a crash, perhaps for what was then the last complete interval: the generation tells, not the name.
    let generation = pipeline.metadata.generation.unwrap_or_default();
    let selector = format!("{}={},{}={generation}", names::PIPELINE, pipeline.name_any(), names::GENERATION);
    let made = api.list(&ListParams::default().labels(&selector)).await.map_err(Error::api("list runs of", &name))?;
    if made.iter().any(|run| build::is_owned_by(&run.metadata, &uid)) {
        return Ok(Ok(()));
    }
    match api.create(&parameters(), &run).await.map_err(Error::api("create LakehouseRun", &name)) {
        Ok(_) => {
            notes.push(Note::normal("RunCreated", name.clone(), format!("Pipeline {}: made run {name}", pipeline.name_any())));
            Ok(Ok(()))
        }
        Err(error) if error.is_already_exists() => {
            let there = api.get_metadata_opt(&name).await.map_err(Error::api("read LakehouseRun", &name))?;
            Ok(match there {
                Some(run) if build::is_owned_by(&run.metadata, &uid) => Ok(()),
                _ => Err(format!("LakehouseRun {name} exists and does not belong to this pipeline: delete it, or make a run yourself")),
            })
        }
        Err(error) => Err(error),
    }
}

/// Deletes old revisions that nothing refers to.
async fn prune(context: &Context, pipeline: &LakehousePipeline, current: &str) -> Result<()> {
    let name = pipeline.name_any();
    let uid = pipeline.uid().unwrap_or_default();
    let revisions = context.api::<ControllerRevision>();
    let selector = format!("{}={name},{}={}", names::PIPELINE, names::MANAGED_BY, names::MANAGER);
    let all = revisions.list(&ListParams::default().labels(&selector)).await;
    let all = all.map_err(Error::api("list ControllerRevisions of", &name))?;
    let own = all.iter().filter(|revision| build::is_owned_by(&revision.metadata, &uid));
    let own = own.map(|revision| (revision.name_any(), revision.revision)).collect();
    let referred: BTreeSet<String> = context
        .runs_of(&name)
        .iter()
        .flat_map(|run| {
            let pinned = run.labels().get(names::DEFINITION).cloned();
            [pinned, run.status.as_ref().and_then(|status| status.definition.clone())]
        })
        .flatten()
        .collect();
    for old in prunable(own, current, &referred) {
        match revisions.delete(&old, &DeleteParams::default()).await.map_err(Error::api("delete ControllerRevision", &old)) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => tracing::info!(revision = old, "deleted an old definition"),
        }
    }
    Ok(())
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(names::MANAGER.to_owned()), ..PostParams::default() }
}
