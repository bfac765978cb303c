//! When a run at work was last looked at, and what was seen.
//!
//! A status that the operator writes comes back to it as a change of the run, and a Job changes when its pod is made and when that is ready: there is
//! nothing to do about either, and they would be most of the looks at a run. What is skipped is only a look at a run that is just as it was when it was
//! decided to wait for its Job, while that is at work. Whatever the caches do not show — pods, and what a watch lost — is looked at when the wait is over,
//! as if nothing had triggered.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube_runtime::reflector::ObjectRef;
use lakehouse_api::LakehouseRun;
use tokio::time::Instant;

use super::{Context, views::has_ended};
use crate::plan::{outcome::JobView, run::present_jobs};

/// The last look at each run that waits for its Job, by UID.
#[derive(Default)]
pub(crate) struct Looks(Mutex<HashMap<String, Look>>);

struct Look {
    /// Version of the run.
    run: String,
    /// Name of the Job.
    job: String,
    seen: Seen,
    until: Instant,
}

/// What was seen of a Job.
enum Seen {
    /// The one with this UID is at work, and nothing is wrong with it.
    AtWork(String),
    /// Something about this version of it is waited for.
    Version(String),
}

/// How soon a Job that has just been made is looked at once more: for what keeps its pod from starting.
const FIRST: Duration = Duration::from_secs(5);

impl Looks {
    /// How long the run can still be left alone, if caches have nothing that was not decided on.
    pub(crate) fn left(&self, cached: &LakehouseRun, context: &Context) -> Option<Duration> {
        let uid = cached.uid().unwrap_or_default();
        let mut looks = self.lock();
        let look = looks.get(&uid)?;
        let job = context.own_jobs.get(&ObjectRef::new(&look.job).within(&context.namespace));
        let is_same = cached.resource_version().as_ref() == Some(&look.run) && job.is_some_and(|job| look.seen.is(&job));
        let left = look.until.saturating_duration_since(Instant::now());
        if is_same && !left.is_zero() {
            return Some(left);
        }
        looks.remove(&uid);
        None
    }

    /// `run` was looked at, with these Jobs, and waits for `wait`. Answers how long it can be left alone.
    pub(crate) fn note(&self, run: &LakehouseRun, jobs: &[JobView], wait: Duration) -> Duration {
        let Some((name, _)) = present_jobs(run) else { return wait };
        let Some(job) = jobs.iter().find(|job| job.name == name) else { return wait };
        let wait = if job.pod.is_none() { wait.min(FIRST) } else { wait };
        let is_well = job.end.is_none() && !job.deleting && job.pod.as_ref().is_none_or(|pod| pod.waiting.is_none());
        let seen = if is_well { Seen::AtWork(job.version.uid.clone()) } else { Seen::Version(job.version.resource.clone()) };
        let now = Instant::now();
        let look = Look { run: run.resource_version().unwrap_or_default(), job: name, seen, until: now + wait };
        let mut looks = self.lock();
        // Of runs that went, nobody asks any more.
        looks.retain(|_, look| look.until > now);
        looks.insert(run.uid().unwrap_or_default(), look);
        wait
    }

    /// Nobody waits for anything of `run` any more.
    pub(crate) fn forget(&self, run: &LakehouseRun) {
        self.lock().remove(&run.uid().unwrap_or_default());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Look>> {
        // A panic elsewhere leaves the map whole: each change is one insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Whether `job` is as it was seen.
    fn is(&self, job: &Job) -> bool {
        match self {
            Self::AtWork(uid) => {
                job.uid().as_ref() == Some(uid) && job.metadata.deletion_timestamp.is_none() && !job.status.as_ref().is_some_and(has_ended)
            }
            Self::Version(version) => job.resource_version().as_ref() == Some(version),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_at_work_is_the_same_until_it_ends_or_goes() {
        let job = |uid: &str, version: &str, more: serde_json::Value| -> Job {
            let mut it = json!({"metadata": {"name": "j", "uid": uid, "resourceVersion": version}, "status": {"active": 1}});
            it.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value(it).unwrap()
        };
        let well = Seen::AtWork("u".to_owned());
        assert!(well.is(&job("u", "2", json!({}))));
        assert!(!well.is(&job("another", "2", json!({}))));
        assert!(!well.is(&job("u", "3", json!({"status": {"conditions": [{"type": "Complete", "status": "True"}]}}))));
        let going = json!({"metadata": {"name": "j", "uid": "u", "deletionTimestamp": "2024-01-01T00:00:00Z"}});
        assert!(!well.is(&job("u", "3", going)));
        // Its pod does not start: whatever changes may be that it does.
        let stuck = Seen::Version("2".to_owned());
        assert!(stuck.is(&job("u", "2", json!({}))) && !stuck.is(&job("u", "3", json!({}))));
    }
}
