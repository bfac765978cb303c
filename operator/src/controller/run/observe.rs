//! What is known of a run: its definition, its Jobs, their pods.
//!
//! An API server answers to the name of an object at once, and to a list only when its cache is known to be as new as the database, for which it may wait
//! a tenth of a second. So what has a name is asked for by its name, and all of that at the same time. A list is asked for where something is missing
//! or goes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::TimeDelta;
use k8s_openapi::api::{
    apps::v1::ControllerRevision,
    batch::v1::{Job, JobStatus},
    core::v1::{ContainerState, ContainerStatus, Pod},
};
use kube::{
    Resource, ResourceExt,
    api::{ListParams, LogParams},
};
use kube_runtime::reflector::ObjectRef;
use lakehouse_api::{
    Lakehouse, LakehousePipeline, LakehousePipelineSpec, LakehouseRun,
    pipeline::JobSettings,
    run::{LakehouseRunStatus, RunState, StageState, StageStatus},
};
use lakehouse_contract::{
    RunId, StageSpec, StoreLocation,
    progress::{Position, from_log_line},
    resolve,
    resolve::{Request, ResolveError},
};

use super::super::{Context, Error, Result, now};
use crate::{
    build,
    conditions::instant,
    names,
    plan::{
        admission::Admission,
        inputs,
        outcome::{ContainerExit, JobEnd, JobView, PodView, Version},
        run::{Definition, Observed, Obstacle, past_jobs, present_jobs},
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

/// The world around a run, with what the application of a step needs.
pub(crate) struct Scene {
    pub(crate) observed: Observed,
    /// The pipeline as it is now; read only for a run that has not started.
    pub(crate) pipeline: Option<LakehousePipeline>,
    /// Lakehouse, settings and stage specs of the definition, where it can be executed.
    pub(crate) plan: Option<Plan>,
}

/// A definition that can be executed.
pub(crate) struct Plan {
    pub(crate) lakehouse: Lakehouse,
    pub(crate) jobs: JobSettings,
    pub(crate) specs: Vec<StageSpec>,
}

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

/// Whether a Job has ended.
pub(crate) fn has_ended(status: &JobStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|c| c.status == "True" && matches!(c.type_.as_str(), "Complete" | "Failed"))
}

fn cached_job(context: &Context, name: &str) -> Option<Arc<Job>> {
    context.own_jobs.get(&ObjectRef::new(name).within(&context.namespace))
}

/// What one reconciliation reads once: it takes several steps within moments, and none of this changes by them. A definition that is kept never changes.
///
/// What was not there when it was asked for is asked for again before anything is made of that: the answer may be older than that about the run.
#[derive(Default)]
pub(crate) struct Memo {
    pipeline: Option<LakehousePipeline>,
    revision: Option<(String, LakehousePipelineSpec)>,
    lakehouse: Option<Lakehouse>,
    /// Jobs by name, and whether their pods were looked at.
    jobs: HashMap<String, (JobView, bool)>,
    /// The Job whose name this reconciliation recorded, before it makes it.
    intended: Option<String>,
    /// A revision that was not there.
    absent: Option<String>,
}

impl Memo {
    /// The definition of `pipeline` was kept.
    pub(crate) fn keeps(&mut self, pipeline: &LakehousePipeline) {
        let name = names::revision(&pipeline.name_any(), &build::digest(&pipeline.spec));
        self.revision = Some((name, pipeline.spec.clone()));
    }

    /// This status is about to be written.
    pub(crate) fn intends(&mut self, status: &LakehouseRunStatus) {
        let mut stages = status.stages.iter().filter(|stage| stage.state == StageState::Pending && stage.retry_at.is_none());
        self.intended = stages.find_map(|stage| stage.job.clone()).filter(|job| !self.jobs.contains_key(job));
    }

    /// A Job was made, or found made. One that has just been made has no pod to look at.
    pub(crate) fn has(&mut self, job: Option<Job>) {
        if let Some(job) = job {
            let view = job_view(&job);
            let is_new = view.podless && view.end.is_none();
            self.jobs.insert(view.name.clone(), (view, is_new));
        }
    }

    /// A Job is about to go.
    pub(crate) fn forgets(&mut self, job: &str) {
        self.jobs.remove(job);
    }
}

/// Reads a run as it is now, and at the same time what is likely to be needed with it, as the cached one has it.
pub(crate) async fn ask(context: &Context, cached: &LakehouseRun) -> Result<(Option<LakehouseRun>, Memo)> {
    let name = cached.name_any();
    let status = cached.status.as_ref();
    let started = status.and_then(|status| status.definition.clone());
    let pipeline = context.pipelines.get(&ObjectRef::new(&cached.spec.pipeline).within(&context.namespace));
    let revision = started.clone().or_else(|| cached.labels().get(names::DEFINITION).cloned()).or_else(|| {
        let pipeline = pipeline.as_ref()?;
        Some(names::revision(&pipeline.name_any(), &build::digest(&pipeline.spec)))
    });
    let lakehouse = pipeline.as_ref().map(|pipeline| pipeline.spec.lakehouse.clone());
    let job = present_jobs(cached).map(|(job, _)| job);
    let (run, pipeline, kept, lakehouse, job) = tokio::try_join!(
        read::<LakehouseRun>(context, Some(&name), "read LakehouseRun"),
        read::<LakehousePipeline>(context, started.is_none().then_some(&cached.spec.pipeline), "read LakehousePipeline"),
        read::<ControllerRevision>(context, revision.as_ref(), "read ControllerRevision"),
        read::<Lakehouse>(context, lakehouse.as_ref(), "read Lakehouse"),
        read::<Job>(context, job.as_ref(), "read Job"),
    )?;
    let mut memo = Memo { pipeline, lakehouse, ..Memo::default() };
    match (revision, kept.as_ref().map(build::definition_of)) {
        (Some(name), Some(Ok(spec))) => memo.revision = Some((name, spec)),
        (absent, None) => memo.absent = absent,
        _ => {}
    }
    if let Some(job) = job.filter(|job| build::is_owned_by(&job.metadata, &cached.uid().unwrap_or_default())) {
        let view = job_view(&job);
        memo.jobs.insert(view.name.clone(), (view, false));
    }
    Ok((run, memo))
}

/// An object by its name, if there is one.
async fn read<K>(context: &Context, name: Option<&String>, operation: &'static str) -> Result<Option<K>>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    // A label may be empty; a name may not, and asking for it would fail for ever.
    match name.filter(|name| !name.is_empty()) {
        Some(name) => context.api::<K>().get_opt(name).await.map_err(Error::api(operation, name)),
        None => Ok(None),
    }
}

pub(crate) async fn observe(context: &Context, run: &LakehouseRun, obstacle: Option<Obstacle>, memo: &mut Memo) -> Result<Scene> {
    let jobs = jobs(context, run, memo).await?;
    let status = run.status.clone().unwrap_or_default();
    let Found { definition, pipeline, plan, limit } = definition(context, run, memo).await?;
    let waits = !finished(&status) && run.spec.state == RunState::Active && matches!(definition, Definition::Known { .. });
    let admission = match &status.definition {
        None if waits => context.claims.start(run, context, limit),
        Some(_) if waits && status.stages.iter().all(|stage| stage.attempt == 0) => context.claims.confirm(run, context),
        _ => Admission::Granted,
    };
    Ok(Scene { observed: Observed { definition, admission, jobs, obstacle }, pipeline, plan })
}

struct Found {
    definition: Definition,
    pipeline: Option<LakehousePipeline>,
    plan: Option<Plan>,
    limit: usize,
}

impl Found {
    fn of(definition: Definition) -> Self {
        Self { definition, pipeline: None, plan: None, limit: 1 }
    }

    fn refused(reason: &'static str, message: String) -> Self {
        Self::of(Definition::Refused { reason, message })
    }
}

/// The definition that the run executes: the one it started with or is pinned to, else the pipeline's present one.
async fn definition(context: &Context, run: &LakehouseRun, memo: &mut Memo) -> Result<Found> {
    let started = run.status.as_ref().and_then(|status| status.definition.clone());
    let mut pipeline = None;
    let (name, kept, spec) = match started {
        Some(name) => match kept_revision(context, &name, memo).await? {
            Some(spec) => (name, true, spec),
            None => return Ok(gone(&name)),
        },
        None => {
            let wanted = &run.spec.pipeline;
            let found = match memo.pipeline.take() {
                Some(known) => Some(known),
                None => read(context, Some(wanted), "read LakehousePipeline").await?,
            };
            memo.pipeline.clone_from(&found);
            let Some(present) = found else {
                let message = format!("spec.pipeline: there is no LakehousePipeline `{wanted}` in this namespace");
                return Ok(Found::of(Definition::Missing { reason: "PipelineNotFound", message }));
            };
            let current = names::revision(wanted, &build::digest(&present.spec));
            let name = run.labels().get(names::DEFINITION).cloned().unwrap_or_else(|| current.clone());
            // To keep it once more does no harm.
            let is_absent = name == current && memo.absent.take().is_some_and(|absent| absent == name);
            let kept = if is_absent { None } else { kept_revision(context, &name, memo).await? };
            let spec = match (&kept, name == current) {
                (Some(spec), _) => spec.clone(),
                (None, true) => Ok(present.spec.clone()),
                (None, false) => return Ok(gone(&name)),
            };
            pipeline = Some(present);
            (name, kept.is_some(), spec)
        }
    };
    let spec = match spec {
        Ok(spec) => spec,
        Err(message) => return Ok(Found::refused("InvalidDefinition", message)),
    };
    let lakehouse = match memo.lakehouse.take() {
        Some(known) if known.name_any() == spec.lakehouse => Some(known),
        _ => read(context, Some(&spec.lakehouse), "read Lakehouse").await?,
    };
    memo.lakehouse.clone_from(&lakehouse);
    let Some(lakehouse) = lakehouse else {
        let message = format!("there is no Lakehouse `{}` in this namespace", spec.lakehouse);
        return Ok(Found::of(Definition::Missing { reason: "LakehouseNotFound", message }));
    };
    let request = match request(context, run, &lakehouse).await? {
        Ok(request) => request,
        Err(message) => return Ok(Found::refused("InvalidRun", message)),
    };
    let inputs = request.inputs_from.as_ref().map(|id| id.0.clone());
    let specs = match resolve(&spec, &lakehouse.spec, &request) {
        Ok(specs) => specs,
        Err(error) => return Ok(Found::refused(reason(&error), error.to_string())),
    };
    let jobs = spec.jobs.clone().unwrap_or_default();
    Ok(Found {
        definition: Definition::Known {
            revision: name,
            kept,
            stages: specs.iter().map(StageSpec::stage).collect(),
            inputs,
            renders: specs.iter().any(StageSpec::renders),
            jobs: Box::new(jobs.clone()),
        },
        pipeline,
        limit: usize::try_from(spec.max_concurrent_runs).unwrap_or(1),
        plan: Some(Plan { lakehouse, jobs, specs }),
    })
}

fn gone(name: &str) -> Found {
    Found::refused("DefinitionNotFound", format!("ControllerRevision {name}, which holds this run's definition, is gone: make a new run"))
}

async fn kept_revision(context: &Context, name: &str, memo: &mut Memo) -> Result<Option<Result<LakehousePipelineSpec, String>>> {
    if let Some((known, spec)) = &memo.revision
        && known == name
    {
        return Ok(Some(Ok(spec.clone())));
    }
    let found = read::<ControllerRevision>(context, Some(&name.to_owned()), "read ControllerRevision").await?;
    let found = found.as_ref().map(build::definition_of);
    if let Some(Ok(spec)) = &found {
        memo.revision = Some((name.to_owned(), spec.clone()));
    }
    Ok(found)
}

/// What the run asks for; the inner error is for its author.
async fn request(context: &Context, run: &LakehouseRun, lakehouse: &Lakehouse) -> Result<Result<Request, String>> {
    let inputs_from = match inputs_from(context, run).await? {
        Ok(inputs_from) => inputs_from,
        Err(message) => return Ok(Err(message)),
    };
    let spec = &lakehouse.spec;
    Ok(Ok(Request {
        pipeline: run.spec.pipeline.clone(),
        namespace: context.namespace.clone(),
        run_name: run.name_any(),
        run_uid: run.uid().unwrap_or_default(),
        created_at: run.metadata.creation_timestamp.as_ref().map(instant).unwrap_or_default(),
        interval: (&run.spec.interval).into(),
        stages: run.spec.stages.clone().unwrap_or_default(),
        inputs_from,
        refresh: run.spec.refresh,
        parameters: run.spec.parameters.clone(),
        store: StoreLocation::S3 {
            endpoint: spec.object_store.endpoint.clone(),
            region: spec.object_store.region.clone(),
            bronze: spec.buckets.bronze.clone(),
            silver: spec.buckets.silver.clone(),
            gold: spec.buckets.gold.clone(),
            landing: spec.buckets.landing.clone(),
        },
    }))
}

/// The run whose bronze is silver's input, where it is neither the run itself nor whichever is the newest; the inner error is for its author.
///
/// Once it has started it is in the status: the runs that it names may be gone by then.
async fn inputs_from(context: &Context, run: &LakehouseRun) -> Result<Result<Option<RunId>, String>> {
    let status = run.status.clone().unwrap_or_default();
    let started = status.definition.is_some();
    if let (true, Some(id)) = (started, status.inputs_from) {
        return Ok(Ok(Some(RunId(id))));
    }
    let api = context.api::<LakehouseRun>();
    let mut from = Ok(None);
    if let Some(name) = run.spec.retry_of.as_ref().filter(|_| !started) {
        let original = api.get_opt(name).await.map_err(Error::api("read LakehouseRun", name))?;
        from = inputs::retried(run, name, original.as_ref());
    }
    if let (Some(name), Ok(_)) = (&run.spec.inputs_from, &from) {
        let other = api.get_opt(name).await.map_err(Error::api("read LakehouseRun", name))?;
        from = inputs::pinned(run, name, other.as_ref()).map(Some);
    }
    Ok(from)
}

/// Whether the run or the definition is at fault.
fn reason(error: &ResolveError) -> &'static str {
    match error {
        ResolveError::Interval(_) | ResolveError::UnknownParameter(_) | ResolveError::NoSuchStage(_) => "InvalidRun",
        _ => "InvalidDefinition",
    }
}

/// The Jobs of the run that the next step is about; the one of the attempt at work with its pod.
async fn jobs(context: &Context, run: &LakehouseRun, memo: &mut Memo) -> Result<Vec<JobView>> {
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

fn job_view(job: &Job) -> JobView {
    let status = job.status.clone().unwrap_or_default();
    let end = status.conditions.iter().flatten().filter(|c| c.status == "True").find_map(|c| match c.type_.as_str() {
        "Complete" => Some(JobEnd::Complete),
        "Failed" => Some(JobEnd::Failed { reason: c.reason.clone().unwrap_or_default(), message: c.message.clone().unwrap_or_default() }),
        _ => None,
    });
    let counts = [status.active, status.ready, status.failed, status.succeeded, status.terminating];
    let uncounted = status.uncounted_terminated_pods.unwrap_or_default();
    let podless =
        counts.iter().flatten().all(|count| *count == 0) && [uncounted.failed, uncounted.succeeded].iter().flatten().all(Vec::is_empty);
    JobView {
        name: job.name_any(),
        version: Version { uid: job.uid().unwrap_or_default(), resource: job.resource_version().unwrap_or_default() },
        created: job.metadata.creation_timestamp.as_ref().map(instant).unwrap_or_default(),
        deleting: job.metadata.deletion_timestamp.is_some(),
        ttl: job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished),
        podless,
        end,
        pod: None,
    }
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

/// Whether the container of a pod is so.
fn state(pod: &Pod, is: impl Fn(&ContainerState) -> bool) -> bool {
    container(pod).and_then(|container| container.state.as_ref()).is_some_and(is)
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

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

fn pod_view(pod: &Pod) -> PodView {
    let status = pod.status.clone().unwrap_or_default();
    let state = container(pod).and_then(|container| container.state.clone()).unwrap_or_default();
    let pending = status.phase.as_deref().is_none_or(|phase| phase == "Pending") && state.running.is_none() && state.terminated.is_none();
    let exit = state.terminated.map(|end| ContainerExit { code: end.exit_code, reason: end.reason, message: end.message });
    // Reasons that pass by themselves within moments are no news.
    let stuck = state.waiting.and_then(|waiting| {
        let reason = waiting.reason.filter(|r| r != "ContainerCreating" && r != "PodInitializing")?;
        Some((reason, waiting.message.unwrap_or_default()))
    });
    let condition = |type_: &str, value: &str| {
        let found = status.conditions.iter().flatten().find(|c| c.type_ == type_ && c.status == value);
        found.map(|c| (c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default()))
    };
    PodView {
        created: pod.metadata.creation_timestamp.as_ref().map(instant).unwrap_or_default(),
        image: pod.spec.as_ref().and_then(|spec| spec.containers.first()?.image.clone()).unwrap_or_default(),
        disruption: condition("DisruptionTarget", "True"),
        waiting: if exit.is_some() { None } else { stuck.or_else(|| condition("PodScheduled", "False")) },
        reason: status.reason,
        message: status.message,
        pending,
        exit,
        progress: None,
    }
}
