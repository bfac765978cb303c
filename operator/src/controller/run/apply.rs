//! Steps that touch Jobs: make, delete, let expire.

use std::fmt::Debug;

use k8s_openapi::{
    NamespaceResourceScope,
    api::{batch::v1::Job, core::v1::ConfigMap},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use lakehouse_api::LakehouseRun;
use lakehouse_contract::Stage;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    super::{Context, Error, Result},
    observe::Scene,
};
use crate::{
    build::{self, Attempt},
    names,
    plan::{outcome::Version, run::Obstacle},
};

/// Makes the Job of an attempt, and its ConfigMap where there is none yet, or adopts those that an earlier try made. Answers with the Job, unless an
/// earlier one went meanwhile.
pub(crate) async fn create(
    context: &Context,
    run: &LakehouseRun,
    scene: &Scene,
    stage: Stage,
    attempt: i32,
    name: &str,
) -> Result<Result<Option<Job>, Obstacle>> {
    let found = scene.plan.as_ref().and_then(|plan| Some((plan, plan.specs.iter().find(|spec| spec.stage() == stage)?)));
    let Some((plan, spec)) = found else {
        return Ok(Err(Obstacle::Invalid(format!("the definition has no {stage} stage"))));
    };
    let spec = spec.clone().with_attempt(attempt.unsigned_abs());
    let uid = run.uid().unwrap_or_default();
    let of = Attempt {
        run: &run.name_any(),
        namespace: &context.namespace,
        uid: &uid,
        pipeline: &run.spec.pipeline,
        stage,
        renders: spec.renders(),
        attempt,
        name,
        shares: build::is_shared(attempt, &plan.specs),
        settings: &plan.jobs.effective(stage),
        lakehouse: &plan.lakehouse.spec,
        config: &context.jobs,
    };
    let job = build::job(&of, &spec);
    if let Err(breach) = build::check(&job, &of) {
        tracing::error!(run = of.run, "{breach}");
        return Ok(Err(Obstacle::Invalid(breach.to_string())));
    }
    let config_maps = context.api::<ConfigMap>();
    // The first stage makes it for those that follow.
    let is_first = plan.specs.first().is_some_and(|first| first.stage() == stage);
    let shared = if of.shares && !is_first { config_maps.get_metadata_opt(&of.config_map()).await } else { Ok(None) };
    let shared = shared.map_err(Error::api("read ConfigMap", &of.config_map()))?;
    if !shared.is_some_and(|there| build::is_owned_by(&there.metadata, &uid)) {
        let config_map = if of.shares { build::shared_config_map(&of, &plan.specs) } else { build::config_map(&of, &spec) };
        if let Err(obstacle) = ensure(&config_maps, &config_map, &uid, "create ConfigMap").await? {
            return Ok(Err(obstacle));
        }
    }
    ensure(&context.api::<Job>(), &job, &uid, "create Job").await
}

/// Creates `object`, once: one that is there is adopted if it belongs to the run, and left as it is. Answers with what is there.
async fn ensure<K>(api: &Api<K>, object: &K, uid: &str, operation: &'static str) -> Result<Result<Option<K>, Obstacle>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = object.name_any();
    let parameters = PostParams { field_manager: Some(names::MANAGER.to_owned()), ..PostParams::default() };
    let error = match api.create(&parameters, object).await.map_err(Error::api(operation, &name)) {
        Ok(made) => return Ok(Ok(Some(made))),
        Err(error) => error,
    };
    if error.is_already_exists() {
        let there = api.get_opt(&name).await.map_err(Error::api("read", &name))?;
        return Ok(match there {
            Some(there) if !build::is_owned_by(there.meta(), uid) => {
                Err(Obstacle::NameTaken(format!("{} {name} exists and belongs to something else", K::kind(&()))))
            }
            there => Ok(there),
        });
    }
    match error.status() {
        Some(status) if matches!(status.code, 400 | 413 | 422) => Ok(Err(Obstacle::Invalid(status.message.clone()))),
        Some(status) if status.is_forbidden() => Ok(Err(Obstacle::Refused(status.message.clone()))),
        _ => Err(error),
    }
}

/// Deletes a Job; it goes after its pods. Another Job of the name, or with `unchanged` one that has changed since, is left alone.
pub(crate) async fn delete(context: &Context, job: &str, version: Version, unchanged: bool) -> Result<()> {
    let resource_version = unchanged.then_some(version.resource);
    let this = DeleteParams::foreground().preconditions(Preconditions { uid: Some(version.uid), resource_version });
    let deleted = context.api::<Job>().delete(job, &this).await.map_err(Error::api("delete Job", job));
    gone_or_changed_is_fine(deleted.map(drop))
}

/// Lets the ended Job with this UID go sooner.
pub(crate) async fn expire(context: &Context, job: &str, uid: &str, seconds: i32) -> Result<()> {
    // A UID in a patch is a precondition: another one is a conflict.
    let patch = json!({"metadata": {"uid": uid}, "spec": {"ttlSecondsAfterFinished": seconds}});
    let parameters = PatchParams { field_manager: Some(names::MANAGER.to_owned()), ..PatchParams::default() };
    let patched = context.api::<Job>().patch(job, &parameters, &Patch::Merge(&patch)).await;
    gone_or_changed_is_fine(patched.map(drop).map_err(Error::api("patch Job", job)))
}

/// Whoever decided looks again.
fn gone_or_changed_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        other => other,
    }
}
