//! Suspending, resuming and cancelling a pipeline's schedule or a backfill on a cluster, for [`super::state`].

use lakehouse_api::{LakehouseBackfill, LakehousePipeline, run::RunState};
use serde_json::json;

use crate::submit::{SubmitError, cluster::Cluster};

/// The word for what was done.
pub(super) const fn word(state: RunState) -> &'static str {
    match state {
        RunState::Active => "resumed",
        RunState::Suspended => "suspended",
        RunState::Cancelled => "cancelled",
    }
}

/// Suspends or resumes the schedule of a pipeline; answers the line that says so.
///
/// # Errors
/// [`SubmitError::Refused`] where there is no such pipeline, or it has no schedule; [`SubmitError::Unreachable`].
pub async fn of_pipeline(cluster: &Cluster, name: &str, suspend: bool) -> Result<String, SubmitError> {
    let pipeline = cluster.pipeline(name).await?;
    if pipeline.spec.trigger.as_ref().is_none_or(|trigger| trigger.schedule.is_none()) {
        let message = format!("LakehousePipeline {name}: it has no spec.trigger.schedule: what makes its runs is elsewhere");
        return Err(SubmitError::Refused(message));
    }
    // With the version that was read: a trigger that was changed meanwhile is not given a schedule.
    let version = pipeline.metadata.resource_version;
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"trigger": {"schedule": {"suspend": suspend}}}});
    cluster.merge::<LakehousePipeline>(name, &patch).await?;
    let state = if suspend { RunState::Suspended } else { RunState::Active };
    Ok(format!("lakehousepipeline.lakehouse.rs/{name} {}", word(state)))
}

/// Asks for a state of a backfill; answers the line that says so.
///
/// # Errors
/// [`SubmitError::Refused`] where there is no such backfill, or it was cancelled; [`SubmitError::Unreachable`].
pub async fn of_backfill(cluster: &Cluster, name: &str, state: RunState) -> Result<String, SubmitError> {
    cluster.merge::<LakehouseBackfill>(name, &json!({"spec": {"state": state}})).await?;
    Ok(format!("lakehousebackfill.lakehouse.rs/{name} {}", word(state)))
}
