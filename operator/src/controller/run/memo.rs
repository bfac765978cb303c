//! What a reconciliation reads of a run, and does not read again.
//!
//! An API server answers to the name of an object at once, and to a list only when its cache is known to be as new as the database, for which it may wait
//! a tenth of a second. So what has a name is asked for by its name, and all of that at the same time. A list is asked for where something is missing
//! or goes.

use std::collections::HashMap;

use k8s_openapi::api::{apps::v1::ControllerRevision, batch::v1::Job};
use kube::{Resource, ResourceExt};
use kube_runtime::reflector::ObjectRef;
use lakehouse_api::{
    Lakehouse, LakehousePipeline, LakehousePipelineSpec, LakehouseRun,
    run::{LakehouseRunStatus, StageState},
};

use super::{
    super::{Context, Error, Result},
    views::job_view,
};
use crate::{
    build, names,
    plan::{outcome::JobView, run::present_jobs},
};

/// What one reconciliation reads once: it takes several steps within moments, and none of this changes by them. A definition that is kept never changes.
///
/// What was not there when it was asked for is asked for again before anything is made of that: the answer may be older than that about the run.
#[derive(Default)]
pub(crate) struct Memo {
    pub(super) pipeline: Option<LakehousePipeline>,
    pub(super) revision: Option<(String, LakehousePipelineSpec)>,
    pub(super) lakehouse: Option<Lakehouse>,
    /// Jobs by name, and whether their pods were looked at.
    pub(super) jobs: HashMap<String, (JobView, bool)>,
    /// The Job whose name this reconciliation recorded, before it makes it.
    pub(super) intended: Option<String>,
    /// A revision that was not there.
    pub(super) absent: Option<String>,
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
pub(super) async fn read<K>(context: &Context, name: Option<&String>, operation: &'static str) -> Result<Option<K>>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    // A label may be empty; a name may not, and asking for it would fail for ever.
    match name.filter(|name| !name.is_empty()) {
        Some(name) => context.api::<K>().get_opt(name).await.map_err(Error::api(operation, name)),
        None => Ok(None),
    }
}
