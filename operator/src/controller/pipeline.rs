//! `LakehousePipeline`: checks the definition, keeps its revisions, makes the runs of `trigger`, sums up its runs, deletes those beyond its limits.

mod schedule;

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use kube_runtime::controller::Action;
use lakehouse_api::{LakehousePipeline, LakehouseRun};
use serde_json::json;

use super::{Context, Error, Result, UNTIL_FILLED, cache, not_there, now, replace_status};
use crate::{
    build, conditions, names,
    plan::{
        Note,
        history::expired,
        pipeline::{Finding, READY, begins_soon, finding, handled, has_one_name, prunable, run_interval, status},
    },
};

pub(crate) async fn reconcile(cached: Arc<LakehousePipeline>, context: Arc<Context>) -> Result<Action> {
    let pipeline = context.written.newest(cached);
    if pipeline.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    if !context.filled() {
        return Ok(Action::requeue(UNTIL_FILLED));
    }
    let revision = names::revision(&pipeline.name_any(), &build::digest(&pipeline.spec));
    let is_new = !handled(&pipeline, &revision);
    let lakehouse = context.lakehouse(&pipeline.spec.lakehouse).await?;
    let mut finding = finding(&pipeline, lakehouse.as_deref().map(|lakehouse| &lakehouse.spec), &revision, now());
    let mut notes = Vec::new();
    if is_new && matches!(finding, Finding::Valid(_)) {
        keep_revision(&context, &pipeline).await?;
        if let Err(refused) = trigger(&pipeline, &context, &mut notes).await? {
            finding = Finding::RunRefused(refused);
        }
    }
    let scheduled = match &finding {
        Finding::Valid(_) => match schedule::follow(&pipeline, &context, &mut notes).await? {
            Ok(scheduled) => Some(scheduled),
            Err(refused) => {
                finding = Finding::RunRefused(refused);
                None
            }
        },
        _ => None,
    };
    let runs = context.runs_of(&pipeline.name_any());
    let mut next = status(&pipeline, &finding, runs.iter().map(AsRef::as_ref), now());
    if let Some(scheduled) = &scheduled {
        scheduled.enter(&mut next);
    }
    // A run that was just made begins within moments: one write says both.
    if notes.is_empty()
        && let Some(wait) = begins_soon(pipeline.status.as_ref(), &next, runs.iter().map(AsRef::as_ref), now())
    {
        return Ok(Action::requeue(scheduled.and_then(|scheduled| scheduled.wait).map_or(wait, |due| due.min(wait))));
    }
    let unchanged = pipeline.status.as_ref() == Some(&next);
    if pipeline.status.as_ref() != Some(&next) {
        notes.extend(news(&pipeline, &next.conditions));
        let changed = LakehousePipeline { status: Some(next), ..pipeline.as_ref().clone() };
        match replace_status(&context.api::<LakehousePipeline>(), &changed).await {
            Ok(mut written) => {
                context.events.publish(&written, &notes);
                cache::of_pipeline(&mut written);
                context.written.note(&pipeline, written);
            }
            Err(error) if error.is_not_found() => return Ok(not_there()),
            Err(error) => return Err(error),
        }
        // A pipeline that has just come has no old ones.
        if is_new && pipeline.status.as_ref().is_some_and(|status| status.definition.is_some()) {
            prune(&context, &pipeline, &revision).await?;
        }
    }
    // What is deleted is in the status before: its interval stays known.
    if unchanged {
        delete_expired(&context, &pipeline, runs.iter().map(AsRef::as_ref)).await?;
    }
    Ok(match finding {
        Finding::Valid(_) => scheduled.and_then(|scheduled| scheduled.wait).map_or(Action::await_change(), Action::requeue),
        Finding::Invalid(_) | Finding::LakehouseNotFound(_) => Action::await_change(),
        // The name may become free.
        Finding::RunRefused(_) => Action::requeue(super::AFTER_ERROR),
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
    let now = now();
    let Some(interval) = run_interval(pipeline, now) else { return Ok(Ok(())) };
    let uid = pipeline.uid().unwrap_or_default();
    let api = context.api::<LakehouseRun>();
    let run = build::triggered_run(pipeline, interval);
    let name = run.name_any();
    // Made before a crash, perhaps for what was then the last complete interval: the generation tells, not the name.
    let generation = pipeline.metadata.generation.unwrap_or_default().to_string();
    let is_it = |run: &LakehouseRun| run.labels().get(names::GENERATION) == Some(&generation) && build::is_owned_by(&run.metadata, &uid);
    if context.runs_of(&pipeline.name_any()).iter().any(|run| is_it(run)) {
        return Ok(Ok(()));
    }
    // The cache may not have it yet.
    if !has_one_name(pipeline, now) {
        let selector = format!("{}={},{}={generation}", names::PIPELINE, pipeline.name_any(), names::GENERATION);
        let made = api.list(&ListParams::default().labels(&selector)).await.map_err(Error::api("list runs of", &name))?;
        if made.iter().any(is_it) {
            return Ok(Ok(()));
        }
    }
    match create_once(context, &run, &uid).await? {
        Ok(true) => {
            notes.push(Note::normal("RunCreated", name.clone(), format!("Pipeline {}: made run {name}", pipeline.name_any())));
            Ok(Ok(()))
        }
        Ok(false) => Ok(Ok(())),
        Err(taken) => Ok(Err(taken)),
    }
}

/// Makes a run once: one of its name that has the same owner is the same run. Answers whether it was made now; the inner error is that its name is taken.
pub(super) async fn create_once(context: &Context, run: &LakehouseRun, owner: &str) -> Result<Result<bool, String>> {
    let api = context.api::<LakehouseRun>();
    let name = run.name_any();
    match api.create(&parameters(), run).await.map_err(Error::api("create LakehouseRun", &name)) {
        Ok(_) => Ok(Ok(true)),
        Err(error) if error.is_already_exists() => {
            let there = api.get_metadata_opt(&name).await.map_err(Error::api("read LakehouseRun", &name))?;
            Ok(match there {
                Some(run) if build::is_owned_by(&run.metadata, owner) => Ok(false),
                _ => Err(format!("LakehouseRun {name} exists and belongs to something else: delete it, or make a run yourself")),
            })
        }
        Err(error) => Err(error),
    }
}

/// Has a run cancelled: this very one, by its UID.
pub(super) async fn cancel(context: &Context, name: &str, uid: &str) -> Result<()> {
    let patch = json!({"metadata": {"uid": uid}, "spec": {"state": "Cancelled"}});
    let parameters = PatchParams { field_manager: Some(names::MANAGER.to_owned()), ..PatchParams::default() };
    let patched = context.api::<LakehouseRun>().patch(name, &parameters, &Patch::Merge(&patch)).await;
    match patched.map_err(Error::api("cancel LakehouseRun", name)) {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

/// Deletes runs beyond the limits of the pipeline, some at a time: each deletion is a change of which the next reconciliation comes.
async fn delete_expired<'a>(
    context: &Context,
    pipeline: &LakehousePipeline,
    runs: impl Iterator<Item = &'a LakehouseRun> + Clone,
) -> Result<()> {
    for run in expired(pipeline, runs, &context.unfinished_backfills()) {
        let mut parameters = DeleteParams::background();
        parameters.preconditions = Some(Preconditions { uid: Some(run.uid), resource_version: None });
        let deleted = context.api::<LakehouseRun>().delete(&run.name, &parameters).await;
        match deleted.map_err(Error::api("delete LakehouseRun", &run.name)) {
            // It went, or another one has its name.
            Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
            _ => tracing::info!(run = run.name, pipeline = pipeline.name_any(), "deleted a run beyond historyLimits"),
        }
    }
    Ok(())
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
        .chain(context.definitions_of_backfills(&name))
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
