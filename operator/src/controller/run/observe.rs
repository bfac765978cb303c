//! What is known of a run: its definition, and its Jobs with their pods.

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt;
use lakehouse_api::{Lakehouse, LakehousePipeline, LakehousePipelineSpec, LakehouseRun, pipeline::JobSettings, run::RunState};
use lakehouse_contract::{
    RunId, StageSpec, StoreLocation, resolve,
    resolve::{Request, ResolveError},
};

use super::{
    super::{Context, Error, Result},
    jobs::jobs,
    memo::{Memo, read},
};
use crate::{
    build,
    conditions::instant,
    names,
    plan::{
        admission::Admission,
        inputs,
        run::{Definition, Observed, Obstacle},
        status::finished,
    },
};

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

pub(crate) async fn observe(context: &Context, run: &LakehouseRun, obstacle: Option<Obstacle>, memo: &mut Memo) -> Result<Scene> {
    let jobs = jobs(context, run, memo).await?;
    let status = run.status.clone().unwrap_or_default();
    let Found { definition, pipeline, plan, limit } = definition(context, run, memo).await?;
    let waits = !finished(&status) && run.spec.state == RunState::Active && matches!(definition, Definition::Known { .. });
    let admission = match &status.definition {
        None if waits => context.claims.start(run, context, limit),
        None => {
            context.claims.withdraw(run);
            Admission::Granted
        }
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
