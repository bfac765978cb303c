//! The Jobs of a run, and their pods.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ContainerState, Pod},
};
use kube::{
    ResourceExt,
    api::{ListParams, LogParams},
};
use kube_runtime::reflector::ObjectRef;
use lakehouse_api::{
    LakehouseRun,
    run::{StageState, StageStatus},
};
use lakehouse_contract::progress::{Position, from_log_line};

use super::{
    super::{Context, Error, Result, now},
    memo::{Memo, read},
    views::{has_ended, job_view, pod_view, state},
};
use crate::{
    build,
    conditions::instant,
    names,
    plan::{
        outcome::{JobEnd, JobView, PodView},
        run::{past_jobs, present_jobs},
        status::{finished, progress_is_due},
    },
};

/// Lines at the end of a pod's log among which its progress is looked for; it is written once a second.
const LOG_LINES: i64 = 64;
/// Longest time for them to come, by way of a kubelet that may be gone.
const LOG_LIMIT: Duration = Duration::from_secs(5);
/// A container that has run for less has no progress to speak of, and is likely to be done before somebody reads it.
const SHORT: TimeDelta = TimeDelta::seconds(10);
/// For how long after its Job was made a pod that does not run is no more than new.
const NEW: TimeDelta = TimeDelta::seconds(10);

/// Whether a finished run has a Job that is at work or that stays longer than it shall, as the cache has it: a creation that came late, an end that was
/// recorded right before a crash, or the Job of a release that gave it no time to live.
///
/// Asked for by their names: to look through all Jobs for each of all runs would take seconds when many are there.
pub(crate) fn has_lasting_jobs(context: &Context, run: &LakehouseRun) -> bool {
    let (name, uid) = (run.name_any(), run.uid().unwrap_or_default());
    // A stage that was skipped may have a first Job that came late.
    let stages = run.status.iter().flat_map(|status| &status.stages);
    let jobs = stages.flat_map(|stage| (1..=stage.attempt.max(1)).map(|attempt| names::job(&name, &uid, stage.name, attempt)));
    any_lasting(context, &uid, jobs)
}

/// Whether one of these Jobs of a run, whose outcomes are recorded, is at work or stays longer than it shall, as the cache has it.
fn any_lasting(context: &Context, uid: &str, jobs: impl Iterator<Item = String>) -> bool {
    let lasting = |job: &Job| {
        let ttl = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
        build::is_owned_by(&job.metadata, uid)
            && job.metadata.deletion_timestamp.is_none()
            && (ttl.is_none_or(|ttl| ttl == build::GOES_SOONER) || !job.status.as_ref().is_some_and(has_ended))
    };
    let mut jobs = jobs;
    jobs.any(|job| cached_job(context, &job).is_some_and(|job| lasting(&job)))
}

fn cached_job(context: &Context, name: &str) -> Option<Arc<Job>> {
    context.own_jobs.get(&ObjectRef::new(name).within(&context.namespace))
}

/// The Jobs of the run that the next step is about; the one of the attempt at work with its pod.
pub(super) async fn jobs(context: &Context, run: &LakehouseRun, memo: &mut Memo) -> Result<Vec<JobView>> {
    let uid = run.uid().unwrap_or_default();
    if run.status.as_ref().is_some_and(finished) || any_lasting(context, &uid, past_jobs(run)) {
        return all_jobs(context, run).await;
    }
    let Some((name, next)) = present_jobs(run) else { return Ok(Vec::new()) };
    let mut views = Vec::new();
    // Its name was recorded a moment ago: it is made next, or found.
    if memo.intended.as_ref() != Some(&name) || memo.jobs.contains_key(&name) {
        if !memo.jobs.contains_key(&name) {
            let found = read::<Job>(context, Some(&name), "read Job").await?;
            memo.jobs
                .extend(found.filter(|job| build::is_owned_by(&job.metadata, &uid)).map(|job| (name.clone(), (job_view(&job), false))));
        }
        let Some((view, looked_at)) = memo.jobs.get_mut(&name) else {
            // Nobody says of a Job that it is lost before a list of all says the same.
            return all_jobs(context, run).await;
        };
        if let (Some(stage), false) = (at_work(run, &name), *looked_at) {
            view.pod = newest_pod(context, view, progress_is_due(stage, now())).await?;
            *looked_at = true;
        }
        views.push(view.clone());
    }
    // One that the cache does not have yet is found when it is to be made.
    if let Some(next) = next {
        let known = memo.jobs.get(&next).map(|(view, _)| view.clone());
        let cached = || cached_job(context, &next).filter(|job| build::is_owned_by(&job.metadata, &uid)).map(|job| job_view(&job));
        views.extend(known.or_else(cached));
    }
    Ok(views)
}

/// The stage whose attempt is at work as this Job.
fn at_work<'a>(run: &'a LakehouseRun, job: &str) -> Option<&'a StageStatus> {
    let mut stages = run.status.iter().flat_map(|status| &status.stages);
    stages.find(|stage| stage.state == StageState::Running && stage.job.as_deref() == Some(job))
}

/// All Jobs that the run owns; the one of the attempt at work with its pod.
async fn all_jobs(context: &Context, run: &LakehouseRun) -> Result<Vec<JobView>> {
    let uid = run.uid().unwrap_or_default();
    let selector = format!("{}={uid}", names::RUN_UID);
    let listed = context.api::<Job>().list(&ListParams::default().labels(&selector)).await;
    let listed = listed.map_err(Error::api("list Jobs of LakehouseRun", &run.name_any()))?;
    let mut views = Vec::new();
    for job in listed.iter().filter(|job| build::is_owned_by(&job.metadata, &uid)) {
        let mut view = job_view(job);
        if let Some(stage) = at_work(run, &view.name) {
            view.pod = newest_pod(context, &view, progress_is_due(stage, now())).await?;
        }
        views.push(view);
    }
    Ok(views)
}

/// The newest pod of a Job, and how far it is if that `is_due`.
async fn newest_pod(context: &Context, job: &JobView, is_due: bool) -> Result<Option<PodView>> {
    let pods = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={}", job.name));
    // As the API server's cache has them, which may lag behind: that a container ended does not become untrue. Of a failure everything counts that is
    // said of the pod, and of a Job at work that its pod does not run only when somebody has waited for it.
    let is_enough = |pod: Option<&Pod>| match &job.end {
        Some(JobEnd::Failed { .. }) => false,
        Some(JobEnd::Complete) => pod.is_some_and(|pod| state(pod, |state| state.terminated.is_some())),
        None => {
            now() - job.created < NEW || pod.is_some_and(|pod| state(pod, |state| state.running.is_some() || state.terminated.is_some()))
        }
    };
    let mut newest = None;
    if !matches!(job.end, Some(JobEnd::Failed { .. })) {
        let lagging = newest_of(context, job, &pods.clone().match_any()).await?;
        newest = lagging.filter(|pod| build::is_owned_by(&pod.metadata, &job.version.uid));
    }
    if !is_enough(newest.as_ref()) {
        newest = newest_of(context, job, &pods).await?;
    }
    let Some(pod) = newest else { return Ok(None) };
    let started = |state: &ContainerState| state.running.as_ref().map(|running| running.started_at.as_ref().map(instant));
    let has_run = state(&pod, |state| started(state).is_some_and(|at| at.is_none_or(|at| now() - at >= SHORT)));
    let progress = if is_due && has_run { progress(context, &pod.name_any()).await } else { None };
    Ok(Some(PodView { progress, ..pod_view(&pod) }))
}

async fn newest_of(context: &Context, job: &JobView, parameters: &ListParams) -> Result<Option<Pod>> {
    let pods = context.api::<Pod>().list(parameters).await.map_err(Error::api("list pods of Job", &job.name))?;
    let ended = |pod: &Pod| state(pod, |state| state.terminated.is_some());
    Ok(pods.items.into_iter().max_by_key(|pod| (ended(pod), pod.metadata.creation_timestamp.as_ref().map(instant))))
}

/// How far a pod is, from the end of its log. A service: a log that cannot be read is no fault of the run.
async fn progress(context: &Context, pod: &str) -> Option<Position> {
    let parameters = LogParams { tail_lines: Some(LOG_LINES), ..LogParams::default() };
    let pods = context.api::<Pod>();
    match tokio::time::timeout(LOG_LIMIT, pods.logs(pod, &parameters)).await {
        Ok(Ok(text)) => text.lines().rev().find_map(from_log_line),
        Ok(Err(error)) => {
            tracing::debug!(pod, %error, "its log cannot be read");
            None
        }
        Err(_) => {
            tracing::debug!(pod, "its log does not come");
            None
        }
    }
}
