//! Who has started and who has ended, known before the cache knows it.
//!
//! The cache of runs lags behind the operator's own writes. Two runs that are reconciled at the same moment must not
//! both find their interval free, so every start and every end passes through here. Nothing is lost with the process:
//! a new one reads the same from the statuses.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use kube::ResourceExt;
use kube_runtime::reflector::ObjectRef;
use lakehouse_api::{
    LakehouseRun,
    run::{LakehouseRunStatus, RunState},
};

use super::Context;
use crate::{
    conditions::instant,
    plan::{
        admission::{Admission, Candidate, admit, confirm},
        status::finished,
    },
};

/// What this process knows beyond the cache, by UID.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Started,
    /// Its first attempt was confirmed.
    Working,
    Finished,
}

/// Starts and ends of runs in this process.
pub(crate) struct Claims {
    known: Mutex<HashMap<String, Known>>,
    freed: UnboundedSender<ObjectRef<LakehouseRun>>,
}

impl Claims {
    /// The claims, and the runs to look at again because another one ended.
    pub(crate) fn new() -> (Self, UnboundedReceiver<ObjectRef<LakehouseRun>>) {
        let (freed, waiting) = unbounded();
        (Self { known: Mutex::default(), freed }, waiting)
    }

    /// Decides whether `run` may start, and if so counts it as started from now on. If not, nor does an earlier grant count that never was recorded.
    pub(crate) fn start(&self, run: &LakehouseRun, context: &Context, limit: usize) -> Admission {
        let uid = run.uid().unwrap_or_default();
        let mut known = self.lock();
        let admission = admit(&candidate(run, None), &others(&known, run, context), limit);
        match admission {
            Admission::Granted => drop(known.insert(uid, Known::Started)),
            _ => withdraw(&mut known, &uid),
        }
        admission
    }

    /// `run` has not started and does not now: what was granted to it before, and never recorded, keeps nobody out any more.
    pub(crate) fn withdraw(&self, run: &LakehouseRun) {
        withdraw(&mut self.lock(), &run.uid().unwrap_or_default());
    }

    /// Decides whether `run`, which has started, may make its first Job, and if so counts it as at work from now on: the cache may not have
    /// the attempt yet when another run asks.
    pub(crate) fn confirm(&self, run: &LakehouseRun, context: &Context) -> Admission {
        let mut known = self.lock();
        let admission = confirm(&candidate(run, None), &others(&known, run, context));
        if admission == Admission::Granted {
            known.insert(run.uid().unwrap_or_default(), Known::Working);
        }
        admission
    }

    /// `run` has just ended: those that wait for it are looked at.
    pub(crate) fn finish(&self, run: &LakehouseRun, context: &Context) {
        self.lock().insert(run.uid().unwrap_or_default(), Known::Finished);
        let waits = |status: &LakehouseRunStatus| status.definition.is_none() && !finished(status);
        for sibling in context.runs_of(&run.spec.pipeline) {
            if sibling.status.as_ref().is_none_or(waits) {
                // The receiver is gone only when the process ends.
                let _ = self.freed.unbounded_send(ObjectRef::from_obj(sibling.as_ref()));
            }
        }
    }

    /// The end of `run` was seen in a cache: if the shared one has it too, nothing need be known beyond it.
    pub(crate) fn forget(&self, run: &LakehouseRun, context: &Context) {
        let cached = context.runs.get(&ObjectRef::from_obj(run));
        if cached.is_none_or(|cached| cached.uid() != run.uid() || cached.status.as_ref().is_some_and(finished)) {
            self.lock().remove(&run.uid().unwrap_or_default());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        // A panic elsewhere leaves the map whole: each change is one insertion or removal.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn withdraw(known: &mut HashMap<String, Known>, uid: &str) {
    if known.get(uid) == Some(&Known::Started) {
        known.remove(uid);
    }
}

/// The other runs of the pipeline of `run`.
fn others(known: &HashMap<String, Known>, run: &LakehouseRun, context: &Context) -> Vec<Candidate> {
    let all = context.runs_of(&run.spec.pipeline);
    let others = all.iter().filter(|other| other.uid() != run.uid());
    others.map(|other| candidate(other, known.get(&other.uid().unwrap_or_default()).copied())).collect()
}

fn candidate(run: &LakehouseRun, known: Option<Known>) -> Candidate {
    let status = run.status.clone().unwrap_or_default();
    Candidate {
        name: run.name_any(),
        created: run.metadata.creation_timestamp.as_ref().map(instant).unwrap_or_default(),
        interval: (&run.spec.interval).into(),
        started: known.is_some() || status.definition.is_some(),
        working: known == Some(Known::Working) || status.stages.iter().any(|stage| stage.attempt > 0),
        finished: known == Some(Known::Finished) || finished(&status),
        active: run.spec.state == RunState::Active,
    }
}
