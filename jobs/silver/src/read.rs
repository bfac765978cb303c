//! Reads a source once for all tables made from it, on all cores: every object is fetched, checked against its digest,
//! decompressed, cut into units as it comes, and every unit is audited for every table.

use std::{collections::VecDeque, sync::Arc};

use lakehouse_contract::{Progress, Reason, SourceManifest, StageFailure};
use lakehouse_storage::Storage;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
};

use crate::{
    audit::{Audited, audit},
    content::fetch,
    cut::cut,
    decode::html::extracted,
    deduplicate::Hasher,
    partners::Partners,
    schema::TablePlan,
    unit::{RunFacts, Unit},
};

type Task<T> = JoinHandle<Result<T, StageFailure>>;

/// A table whose rows are read, with the keys that they refer to.
pub(crate) struct Reading {
    pub(crate) plan: Arc<TablePlan>,
    pub(crate) partners: Arc<Partners>,
}

/// What all units of a source share.
struct Work {
    readings: Vec<Reading>,
    facts: RunFacts,
    hasher: Hasher,
}

/// Reads the objects of `source` and audits their records for each of `readings`, which all are made from it.
///
/// # Errors
/// The first failure in the order of objects and records; a broken digest fails before anything is written.
pub(crate) async fn read_source(
    storage: &Storage,
    source: &SourceManifest,
    readings: Vec<Reading>,
    facts: RunFacts,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Vec<Audited>, StageFailure> {
    let mut collected: Vec<Audited> = readings.iter().map(|_| Audited::default()).collect();
    let Some(first) = readings.first().map(|reading| reading.plan.clone()) else { return Ok(collected) };
    let (decode, max_record_bytes) = (first.decode.clone(), first.max_record_bytes);
    let work = Arc::new(Work { readings, facts, hasher: Hasher::default() });
    progress.step(&format!("read {}", source.name), source.objects.iter().map(|object| object.records).sum());
    // One request and one unit are made ahead: beside the rows, memory holds a few units, however large the objects are.
    let (pieces_in, pieces) = mpsc::channel(1);
    let (units_in, mut units) = mpsc::channel(1);
    let fetching = tokio::spawn(fetch(storage.clone(), source.objects.clone(), pieces_in));
    let objects = source.objects.clone();
    let cutting: Task<()> = spawn_blocking(move || cut(&objects, &decode, max_record_bytes, pieces, &units_in));
    let mut running: VecDeque<(u64, Task<Vec<Audited>>)> = VecDeque::new();
    while let Some(unit) = units.recv().await {
        // One unit more than threads, so that no thread waits for this one.
        while running.len() > threads {
            collect(&mut running, &mut collected, progress).await?;
        }
        let work = work.clone();
        let size = unit.bytes.len() as u64;
        running.push_back((size, spawn_blocking(move || audit_all(&work, unit))));
    }
    while !running.is_empty() {
        collect(&mut running, &mut collected, progress).await?;
    }
    joined(cutting).await?;
    fetching.await.map_err(ended)?;
    Ok(collected)
}

fn audit_all(work: &Work, unit: Unit) -> Result<Vec<Audited>, StageFailure> {
    let unit = match work.readings.first().and_then(|reading| reading.plan.rules.as_ref()) {
        Some(rules) => extracted(rules, unit),
        None => unit,
    };
    work.readings.iter().map(|reading| audit(&reading.plan, &reading.partners, &unit, work.facts, &work.hasher)).collect()
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
    task.await.map_err(ended)?
}

fn ended(error: tokio::task::JoinError) -> StageFailure {
    StageFailure::new(Reason::Internal, format!("a task ended unexpectedly: {error}"))
}
