//! When a run at work was last looked at, and what was seen.
//!
//! A status that the operator writes comes back to it as a change of the run, and there is nothing to do about it: without this, every second look at a
//! run would be such a one. What is skipped is only a look at what the caches have just as it was when it was decided to wait. Whatever they do not show
//! — pods, and what a watch lost — is looked at when the wait is over, as if nothing had triggered.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kube::ResourceExt;
use kube_runtime::reflector::ObjectRef;
use lakehouse_api::LakehouseRun;
use tokio::time::Instant;

use super::Context;
use crate::plan::{outcome::JobView, run::present_jobs};

/// The last look at each run that waits for its Job, by UID.
#[derive(Default)]
pub(crate) struct Looks(Mutex<HashMap<String, Look>>);

struct Look {
    /// Version of the run.
    run: String,
    /// Name and version of the Job.
    job: (String, String),
    until: Instant,
}

impl Looks {
    /// How long the run can still be left alone, if caches have nothing that was not decided on.
    pub(crate) fn left(&self, cached: &LakehouseRun, context: &Context) -> Option<Duration> {
        let uid = cached.uid().unwrap_or_default();
        let mut looks = self.lock();
        let look = looks.get(&uid)?;
        let (name, version) = &look.job;
        let job = context.own_jobs.get(&ObjectRef::new(name).within(&context.namespace));
        let is_same = cached.resource_version().as_ref() == Some(&look.run)
            && job.is_some_and(|job| job.resource_version().as_ref() == Some(version));
        let left = look.until.saturating_duration_since(Instant::now());
        if is_same && !left.is_zero() {
            return Some(left);
        }
        looks.remove(&uid);
        None
    }

    /// `run` was looked at, with these Jobs, and waits for `wait`.
    pub(crate) fn note(&self, run: &LakehouseRun, jobs: &[JobView], wait: Duration) {
        let Some((name, _)) = present_jobs(run) else { return };
        let Some(job) = jobs.iter().find(|job| job.name == name) else { return };
        let now = Instant::now();
        let look = Look { run: run.resource_version().unwrap_or_default(), job: (name, job.version.resource.clone()), until: now + wait };
        let mut looks = self.lock();
        // Of runs that went, nobody asks any more.
        looks.retain(|_, look| look.until > now);
        looks.insert(run.uid().unwrap_or_default(), look);
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
