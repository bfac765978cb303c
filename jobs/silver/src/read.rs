//! Reads a source once for all tables made from it, on all cores: every object is fetched, checked against its digest,
//! decompressed, cut into units as it comes, and every unit is audited for every table.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use arrow::array::RecordBatch;
use lakehouse_contract::{Progress, Reason, SourceManifest, StageFailure};
use lakehouse_storage::Storage;
use lakehouse_tables::BoxError;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
};

use crate::{
    audit::{Audited, Tally, audit},
    content::fetch,
    cut::cut,
    deduplicate::Hasher,
    held::{Budget, Held},
    memory::Memory,
    pages::extracted,
    partners::Partners,
    quarantine,
    replay::{self, Aside},
    schema::TablePlan,
    unit::{RunFacts, Unit},
};

type Task<T> = JoinHandle<Result<T, StageFailure>>;

/// A table whose rows are read, with the keys that they refer to.
pub(crate) struct Reading {
    pub(crate) plan: Arc<TablePlan>,
    pub(crate) partners: Arc<Partners>,
    /// Whether it is to be told which records went aside.
    pub(crate) replayed: bool,
    /// Where the rows go at once, if they need not be complete for anything.
    pub(crate) sink: Option<Sink>,
}

/// Rows on their way to the files of a table. An error ends the files, so that what was read in part is never taken for all.
pub(crate) type Sink = mpsc::Sender<Result<RecordBatch, BoxError>>;

/// What all steps of reading share.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    pub(crate) facts: RunFacts,
    pub(crate) memory: Memory,
    pub(crate) budget: Arc<Budget>,
}

/// What all units of a source share.
struct Work {
    readings: Vec<(Arc<TablePlan>, Arc<Partners>)>,
    facts: RunFacts,
    hasher: Hasher,
}

/// What came out of a source for one table.
#[derive(Debug)]
pub(crate) struct Collected {
    /// Rows to write; none where they went elsewhere at once.
    pub(crate) rows: Held,
    /// Rows that went elsewhere.
    pub(crate) sent: u64,
    /// Records that go to quarantine, as rows of its table.
    pub(crate) aside: Held,
    /// How many of them by rule.
    pub(crate) reasons: BTreeMap<String, u64>,
    /// Which they are, in a replay.
    pub(crate) asides: BTreeSet<Aside>,
    pub(crate) tally: Tally,
    sink: Option<Sink>,
    replayed: bool,
}

/// Reads the objects of `source` and audits their records for each of `readings`, which all are made from it.
///
/// # Errors
/// The first failure in the order of objects and records; a broken digest fails before anything is published.
pub(crate) async fn read_source(
    storage: &Storage,
    source: &SourceManifest,
    readings: Vec<Reading>,
    means: &Means,
    progress: &dyn Progress,
) -> Result<Vec<Collected>, StageFailure> {
    let hasher = Hasher::default();
    let mut collected: Vec<Collected> = Vec::with_capacity(readings.len());
    let mut shared = Vec::with_capacity(readings.len());
    for Reading { plan, partners, replayed, sink } in readings {
        let deduplicate = plan.deduplicate.clone().map(|rule| (rule, hasher.clone()));
        collected.push(Collected {
            rows: Held::new(plan.schema.clone(), deduplicate, &means.budget),
            sent: 0,
            aside: Held::new(quarantine::schema(), None, &means.budget),
            reasons: BTreeMap::new(),
            asides: BTreeSet::new(),
            tally: Tally::default(),
            sink,
            replayed,
        });
        shared.push((plan, partners));
    }
    let Some((first, _)) = shared.first().cloned() else { return Ok(collected) };
    let work = Arc::new(Work { readings: shared, facts: means.facts, hasher });
    progress.step(&format!("read {}", source.name), source.objects.iter().map(|object| object.records).sum());
    let read = units(storage, source, &first, work, &mut collected, means, progress).await;
    if let Err(failure) = &read {
        for sink in collected.iter().filter_map(|table| table.sink.as_ref()) {
            // Nobody listens any more where the files failed by themselves.
            let _ = sink.send(Err(failure.clone().into())).await;
        }
    }
    for table in &mut collected {
        table.sink = None;
    }
    read.map(|()| collected)
}

async fn units(
    storage: &Storage,
    source: &SourceManifest,
    plan: &TablePlan,
    work: Arc<Work>,
    collected: &mut Vec<Collected>,
    means: &Means,
    progress: &dyn Progress,
) -> Result<(), StageFailure> {
    let (decode, max_record_bytes, size) = (plan.decode.clone(), plan.max_record_bytes, means.memory.unit);
    // One request and one unit are made ahead: beside the rows, memory holds a few units, however large the objects are.
    let (pieces_in, pieces) = mpsc::channel(1);
    let (units_in, mut units) = mpsc::channel(1);
    let fetching = tokio::spawn(fetch(storage.clone(), source.objects.clone(), 2 * size, pieces_in));
    let objects = source.objects.clone();
    let cutting: Task<()> = spawn_blocking(move || cut(&objects, &decode, max_record_bytes, size, pieces, &units_in));
    let mut running: VecDeque<(u64, Task<Vec<Audited>>)> = VecDeque::new();
    while let Some(unit) = units.recv().await {
        // One unit more than threads, so that no thread waits for this one.
        while running.len() > means.memory.threads {
            collect(&mut running, collected, means, progress).await?;
        }
        let work = work.clone();
        let size = unit.bytes.len() as u64;
        running.push_back((size, spawn_blocking(move || audit_all(&work, unit))));
    }
    while !running.is_empty() {
        collect(&mut running, collected, means, progress).await?;
    }
    joined(cutting).await?;
    fetching.await.map_err(ended)
}

fn audit_all(work: &Work, unit: Unit) -> Result<Vec<Audited>, StageFailure> {
    let unit = match work.readings.first().and_then(|(plan, _)| plan.rules.as_ref()) {
        Some(rules) => extracted(rules, unit),
        None => unit,
    };
    work.readings.iter().map(|(plan, partners)| audit(plan, partners, &unit, work.facts, &work.hasher)).collect()
}

/// Takes the result of the oldest unit; units are collected in the order of records.
async fn collect(
    running: &mut VecDeque<(u64, Task<Vec<Audited>>)>,
    collected: &mut Vec<Collected>,
    means: &Means,
    progress: &dyn Progress,
) -> Result<(), StageFailure> {
    let Some((bytes, task)) = running.pop_front() else { return Ok(()) };
    let audited = joined(task).await?;
    progress.advance(audited.first().map_or(0, |first| first.tally.read), bytes);
    for (table, next) in collected.iter_mut().zip(audited) {
        table.add(next, means.facts).await?;
    }
    if means.budget.is_over() {
        spill_largest(collected, means).await?;
    }
    Ok(())
}

impl Collected {
    async fn add(&mut self, next: Audited, facts: RunFacts) -> Result<(), StageFailure> {
        self.tally.merge(next.tally);
        for row in &next.quarantined {
            match self.reasons.get_mut(row.rule.as_ref()) {
                Some(count) => *count += 1,
                None => drop(self.reasons.insert(row.rule.clone().into_owned(), 1)),
            }
        }
        if self.replayed {
            self.asides.extend(replay::asides(&next.quarantined));
        }
        let aside = quarantine::batches(&next.quarantined, facts).map_err(|error| StageFailure::new(Reason::Internal, error))?;
        aside.into_iter().for_each(|batch| self.aside.push(batch, None, None));
        let Some(sink) = &self.sink else {
            self.rows.push(next.batch, next.keep, next.hashes);
            return Ok(());
        };
        self.sent += next.batch.num_rows() as u64;
        if sink.send(Ok(next.batch)).await.is_err() {
            // Whoever made the sink knows why, and says so instead.
            return Err(StageFailure::new(Reason::Internal, "the files of a table ended before its rows"));
        }
        Ok(())
    }
}

/// Puts the rows of the table with most of them in memory to disk.
async fn spill_largest(collected: &mut Vec<Collected>, means: &Means) -> Result<(), StageFailure> {
    let mut all = std::mem::take(collected);
    let threads = means.memory.threads;
    let spilling: Task<Vec<Collected>> = spawn_blocking(move || {
        let largest = all.iter_mut().flat_map(|table| [&mut table.rows, &mut table.aside]).max_by_key(|held| held.bytes());
        largest.map_or(Ok(()), |held| held.spill(threads))?;
        Ok(all)
    });
    *collected = joined(spilling).await?;
    Ok(())
}

/// The result of a task; a panic in it is an `Internal` failure, not the end of the process.
pub(crate) async fn joined<T>(task: Task<T>) -> Result<T, StageFailure> {
    task.await.map_err(ended)?
}

fn ended(error: tokio::task::JoinError) -> StageFailure {
    StageFailure::new(Reason::Internal, format!("a task ended unexpectedly: {error}"))
}
