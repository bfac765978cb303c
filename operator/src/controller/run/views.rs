//! Jobs and pods as the plan sees them.

use k8s_openapi::api::{
    batch::v1::{Job, JobStatus},
    core::v1::{ContainerState, ContainerStatus, Pod},
};
use kube::ResourceExt;

use crate::{
    conditions::instant,
    plan::outcome::{ContainerExit, JobEnd, JobView, PodView, Version},
};

/// Whether a Job has ended.
pub(crate) fn has_ended(status: &JobStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|c| c.status == "True" && matches!(c.type_.as_str(), "Complete" | "Failed"))
}

/// A Job without what its pod says.
pub(super) fn job_view(job: &Job) -> JobView {
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

/// Whether the container of a pod is so.
pub(super) fn state(pod: &Pod, is: impl Fn(&ContainerState) -> bool) -> bool {
    container(pod).and_then(|container| container.state.as_ref()).is_some_and(is)
}

/// A pod without its progress.
pub(super) fn pod_view(pod: &Pod) -> PodView {
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

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}
