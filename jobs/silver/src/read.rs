//! Reads a source once for all tables made from it, on all cores: every object is fetched, checked against its digest,
//! cut into units, and every unit is audited for every table.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use lakehouse_contract::{BronzeObject, Decode, Progress, Reason, SourceManifest, StageFailure};
use lakehouse_storage::Storage;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::{
    audit::{Audited, audit},
    deduplicate::Hasher,
    input::{fetch, verify},
    schema::TablePlan,
    unit::{RunFacts, Unit, units},
};

type Task<T> = JoinHandle<Result<T, StageFailure>>;

/// What all units of a source share.
struct Work {
    plans: Vec<Arc<TablePlan>>,
    facts: RunFacts,
    hasher: Hasher,
}

/// Reads the objects of `source` and audits their records for each of `plans`, which all are made from it.
///
/// # Errors
/// The first failure in the order of objects and records; a broken digest fails before anything is written.
pub(crate) async fn read_source(
    storage: &Storage,
    source: &SourceManifest,
    plans: Vec<Arc<TablePlan>>,
    facts: RunFacts,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Vec<Audited>, StageFailure> {
    let mut collected: Vec<Audited> = plans.iter().map(|_| Audited::default()).collect();
    let decode = plans.first().map_or(Decode::Ndjson, |plan| plan.decode.clone());
    let work = Arc::new(Work { plans, facts, hasher: Hasher::default() });
    progress.step(&format!("read {}", source.name), source.objects.iter().map(|object| object.records).sum());
    let mut running: VecDeque<(u64, Task<Vec<Audited>>)> = VecDeque::new();
    let mut checks: VecDeque<Task<()>> = VecDeque::new();
    let mut fetching = source.objects.first().map(|object| start_fetch(storage, object));
    for (index, object) in source.objects.iter().enumerate() {
        let Some(fetched) = fetching.take() else { break };
        let bytes = joined(fetched).await?;
        // The next object comes while this one is worked on: at most two are in memory.
        fetching = source.objects.get(index + 1).map(|next| start_fetch(storage, next));
        checks.push_back(start_check(object, &bytes));
        let cut = {
            let (object, decode) = (object.clone(), decode.clone());
            spawn_blocking(move || Ok(units(&object, bytes, &decode)))
        };
        for unit in joined(cut).await? {
            // One unit more than threads, so that no thread waits for this one.
            while running.len() > threads {
                collect(&mut running, &mut collected, progress).await?;
            }
            let work = work.clone();
            let size = unit.bytes.len() as u64;
            running.push_back((size, spawn_blocking(move || audit_all(&work, &unit))));
        }
        while checks.len() > 1 {
            let check = checks.pop_front();
            finish_check(check).await?;
        }
    }
    while !running.is_empty() {
        collect(&mut running, &mut collected, progress).await?;
    }
    finish_check(checks.pop_front()).await?;
    Ok(collected)
}

fn start_fetch(storage: &Storage, object: &BronzeObject) -> Task<Bytes> {
    let (storage, object) = (storage.clone(), object.clone());
    tokio::spawn(async move { fetch(&storage, &object).await })
}

fn start_check(object: &BronzeObject, bytes: &Bytes) -> Task<()> {
    let (object, bytes) = (object.clone(), bytes.clone());
    spawn_blocking(move || verify(&object, &bytes))
}

async fn finish_check(check: Option<Task<()>>) -> Result<(), StageFailure> {
    match check {
        Some(check) => joined(check).await,
        None => Ok(()),
    }
}

fn audit_all(work: &Work, unit: &Unit) -> Result<Vec<Audited>, StageFailure> {
    work.plans.iter().map(|plan| audit(plan, unit, work.facts, &work.hasher)).collect()
}

/// Takes the result of the oldest unit; units are collected in the order of records.
async fn collect(
    running: &mut VecDeque<(u64, Task<Vec<Audited>>)>,
    collected: &mut [Audited],
    progress: &dyn Progress,
) -> Result<(), StageFailure> {
    let Some((bytes, task)) = running.pop_front() else { return Ok(()) };
    let audited = joined(task).await?;
    progress.advance(audited.first().map_or(0, |first| first.read), bytes);
    for (sum, next) in collected.iter_mut().zip(audited) {
        sum.merge(next);
    }
    Ok(())
}

/// The result of a task; a panic in it is an `Internal` failure, not the end of the process.
pub(crate) async fn joined<T>(task: Task<T>) -> Result<T, StageFailure> {
    task.await.map_err(|error| StageFailure::new(Reason::Internal, format!("a task ended unexpectedly: {error}")))?
}
