//! Generated lines in real time: at the moments that they tell of, or at a rate.
//!
//! They are put as whole objects, cut by time and size, and of each object a record is kept beside the run
//! ([`keys::bronze_parts`]). An attempt that is told to stop puts what it has read, and one that is killed loses what it had read since the last cut; the
//! next attempt takes the objects that are there and goes on with the line behind them, so that the run has every line once.
//!
//! The records make one chain, each put by conditional write. Of two processes that read for the same run the slower finds a record taken and
//! keeps none from then on; whoever puts the manifest first decides, as ever.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use lakehouse_api::pipeline::Continuous;
use lakehouse_contract::{BronzeObject, Reason, keys};
use lakehouse_shell::stop;
use lakehouse_storage::{Layer, LayerStore, PutOutcome};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, sleep_until},
};

use super::{
    Context,
    lines::{CHUNK_BYTES, LATEST, Lines, PACED_CHUNK, Rate, SHORTEST_SLEEP},
};
use crate::{Chunk, Clock, IngestError, ObjectFacts, Sink};

/// How long lines are gathered for one object.
const PART_TIME: Duration = Duration::from_secs(30);
/// Size at which an object is cut before that.
const PART_BYTES: usize = 16 << 20;
/// Chunks that the generator may be ahead of the store.
const CHUNKS_AHEAD: usize = 4;
/// Longest sleep before the clock is looked at again, which may have been set.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// What is kept of an object that a continuous source has put.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    /// When the first attempt of the run began to read.
    began_at: DateTime<Utc>,
    object: BronzeObject,
}

/// The records of a run's objects.
struct Journal<'a> {
    bronze: &'a LayerStore,
    folder: String,
    began_at: DateTime<Utc>,
    /// Another process of the run was faster: its records count.
    taken: bool,
}

impl<'a> Journal<'a> {
    /// The journal of the run, and the objects that are there already.
    async fn open(context: &Context<'a>) -> Result<(Self, Vec<BronzeObject>), IngestError> {
        let bronze = context.storage.layer(Layer::Bronze)?;
        let folder = keys::bronze_parts(&context.spec.pipeline, &context.spec.run.id, context.name);
        let mut journal = Self { bronze, folder, began_at: (context.options.now)(), taken: false };
        let mut objects = Vec::new();
        while let Some(body) = bronze.get_opt(&journal.key(objects.len())).await? {
            let uri = || bronze.uri(&journal.key(objects.len()));
            let unusable = |error: serde_json::Error| IngestError::Manifest { uri: uri(), message: error.to_string() };
            let part: Part = serde_json::from_slice(&body).map_err(unusable)?;
            journal.began_at = part.began_at;
            objects.push(part.object);
        }
        if !objects.is_empty() {
            let dt = context.spec.interval.label(context.spec.grain);
            let listed = bronze.list(&format!("{}/dt={dt}", keys::bronze_source(&context.spec.pipeline, context.name))).await?;
            // Bronze may have lost some of them since, by retention or an erasing: what comes behind a gap is read again.
            let there = objects.iter().position(|object| !listed.iter().any(|entry| entry.key == object.key));
            objects.truncate(there.unwrap_or(objects.len()));
        }
        Ok((journal, objects))
    }

    fn key(&self, number: usize) -> String {
        format!("{}/{number:06}.json", self.folder)
    }

    async fn keep(&mut self, number: usize, object: &BronzeObject) -> Result<(), IngestError> {
        if self.taken {
            return Ok(());
        }
        let part = Part { began_at: self.began_at, object: object.clone() };
        let body = serde_json::to_vec(&part).map_err(|error| IngestError::Internal(error.to_string()))?;
        let key = self.key(number);
        // A repeated put, of which the first answer was lost, finds its own record.
        if self.bronze.put_if_absent(&key, body.clone()).await? == PutOutcome::Exists && self.bronze.get(&key).await? != body {
            tracing::info!(record = self.bronze.uri(&key), "another process of this run reads the same source; its records count");
            self.taken = true;
        }
        Ok(())
    }
}

/// Lines that are not in an object yet.
#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    records: u64,
    /// When the first of them came.
    since: Option<tokio::time::Instant>,
}

impl Gathered {
    fn add(&mut self, chunk: &Chunk) {
        self.bytes.extend_from_slice(&chunk.bytes);
        self.records += chunk.records;
        self.since.get_or_insert_with(tokio::time::Instant::now);
    }

    async fn put(&mut self, sink: &mut Sink<'_>, journal: &mut Journal<'_>, seed: i64) -> Result<(), IngestError> {
        let Self { bytes, records, .. } = std::mem::take(self);
        if records == 0 {
            return Ok(());
        }
        let metadata = BTreeMap::from([("seed".to_owned(), seed.to_string())]);
        sink.put(bytes.into(), "ndjson", ObjectFacts { records: Some(records), metadata }).await?;
        match sink.objects() {
            [.., last] => journal.keep(sink.objects().len() - 1, last).await,
            [] => Ok(()),
        }
    }
}

/// Puts the lines behind those that an earlier attempt put, as their time comes.
///
/// # Errors
/// Those of the store, and [`Reason::Interrupted`] once the process was told to stop and what was read is kept.
pub async fn put(
    context: &Context<'_>,
    sink: &mut Sink<'_>,
    seed: i64,
    continuous: &Continuous,
    mut lines: impl Lines + 'static,
) -> Result<(), IngestError> {
    let mut stopping = stop::listen();
    let (mut journal, objects) = Journal::open(context).await?;
    let mut line = Vec::new();
    for object in objects {
        for _ in 0..object.records.unwrap_or_default() {
            line.clear();
            lines.write_line(&mut line);
        }
        sink.adopt(object);
    }
    let now = context.options.now.clone();
    let left = continuous.duration.as_ref().map(|duration| {
        let end = TimeDelta::from_std(duration.0).ok().and_then(|duration| journal.began_at.checked_add_signed(duration));
        end.map_or(Duration::MAX, |end| (end - now()).to_std().unwrap_or_default())
    });
    let pace = continuous.events_per_second.map_or(Pace::OwnTime(now), |rate| Pace::Rate(Rate::new(rate)));
    let (sender, mut chunks) = mpsc::channel(CHUNKS_AHEAD);
    // Ends with this function, however that ends.
    let mut generating = JoinSet::new();
    generating.spawn(generate(lines, pace, left, sender));
    let mut gathered = Gathered::default();
    let stopped = loop {
        let cut = gathered.since.map(|since| since + PART_TIME);
        tokio::select! {
            biased;
            () = told(&mut stopping) => break true,
            () = sleep_until(cut.unwrap_or_else(tokio::time::Instant::now)), if cut.is_some() => {
                gathered.put(sink, &mut journal, seed).await?;
            }
            chunk = chunks.recv() => match chunk {
                None => break false,
                Some(chunk) => {
                    gathered.add(&chunk);
                    if gathered.bytes.len() >= PART_BYTES {
                        gathered.put(sink, &mut journal, seed).await?;
                    }
                }
            },
        }
    };
    gathered.put(sink, &mut journal, seed).await?;
    if stopped {
        let kept: u64 = sink.objects().iter().filter_map(|object| object.records).sum();
        let message = format!("told to stop; {kept} readings are kept, and a further attempt goes on behind them");
        return Err(IngestError::source(Reason::Interrupted, context.name, message));
    }
    match generating.join_next().await {
        Some(Err(error)) => Err(IngestError::Internal(format!("the generator stopped: {error}"))),
        Some(Ok(())) | None => Ok(()),
    }
}

/// Resolves once the process is told to stop.
async fn told(stopping: &mut watch::Receiver<bool>) {
    if stopping.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}

/// When lines come.
enum Pace {
    /// At this rate.
    Rate(Rate),
    /// At the moments that they tell of, by this clock.
    OwnTime(Clock),
}

impl Pace {
    /// How long line `number` (from 0) has to wait, `elapsed` after the beginning.
    fn wait(&mut self, number: u64, elapsed: Duration, at: Option<DateTime<Utc>>) -> Duration {
        match self {
            Self::Rate(rate) => rate.wait(number, elapsed),
            Self::OwnTime(now) => at.map_or(Duration::ZERO, |at| (at - now()).to_std().unwrap_or_default()),
        }
    }

    /// When line `number` is due after the beginning, of which `elapsed` is over and `wait` still to come.
    fn due(&self, number: u64, elapsed: Duration, wait: Duration) -> Duration {
        match self {
            Self::Rate(rate) => rate.due(number),
            Self::OwnTime(_) => elapsed.saturating_add(wait),
        }
    }
}

/// Sends lines as they are due, until there is none or the time that is `left` is over. A full channel holds it back.
async fn generate(mut lines: impl Lines, mut pace: Pace, left: Option<Duration>, sender: mpsc::Sender<Chunk>) {
    let start = Instant::now();
    let (mut line, mut buffer, mut records, mut number, mut sent) = (Vec::new(), Vec::new(), 0, 0, Duration::ZERO);
    // A line that was due within the time belongs to it, though a busy machine is a little late with it.
    let is_over = |due: Duration, elapsed: Duration| left.is_some_and(|left| due >= left || elapsed >= left.saturating_add(LATEST));
    loop {
        line.clear();
        if !lines.write_line(&mut line) {
            break;
        }
        let mut elapsed = start.elapsed();
        let mut wait = pace.wait(number, elapsed, lines.at());
        // Those before it do not wait with it.
        if records > 0 && (elapsed + wait).saturating_sub(sent) >= PACED_CHUNK {
            if sender.send(Chunk { bytes: std::mem::take(&mut buffer).into(), records: std::mem::take(&mut records) }).await.is_err() {
                return;
            }
            // It may have waited for the store.
            sent = start.elapsed();
            elapsed = sent;
            wait = pace.wait(number, elapsed, lines.at());
        }
        while wait > SHORTEST_SLEEP && !is_over(pace.due(number, elapsed, wait), elapsed) {
            sleep(wait.min(LONGEST_SLEEP)).await;
            elapsed = start.elapsed();
            wait = pace.wait(number, elapsed, lines.at());
        }
        if is_over(pace.due(number, elapsed, wait), elapsed) {
            break;
        }
        buffer.extend_from_slice(&line);
        records += 1;
        number += 1;
        if buffer.len() >= CHUNK_BYTES {
            if sender.send(Chunk { bytes: std::mem::take(&mut buffer).into(), records: std::mem::take(&mut records) }).await.is_err() {
                return;
            }
            sent = start.elapsed();
        }
    }
    if records > 0 {
        // Whoever does not take them has ended.
        let _ = sender.send(Chunk { bytes: buffer.into(), records }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// The numbers from 0 on, each of which tells of a moment so many milliseconds after the one before.
    struct Numbers {
        next: u64,
        end: u64,
        from: DateTime<Utc>,
        apart: i64,
    }

    impl Lines for Numbers {
        fn write_line(&mut self, out: &mut Vec<u8>) -> bool {
            if self.next == self.end {
                return false;
            }
            out.extend_from_slice(format!("{}\n", self.next).as_bytes());
            self.next += 1;
            true
        }

        fn at(&self) -> Option<DateTime<Utc>> {
            Some(self.from + TimeDelta::milliseconds(self.apart * (self.next.cast_signed() - 1)))
        }
    }

    fn numbers(end: u64, from: DateTime<Utc>) -> Numbers {
        Numbers { next: 0, end, from, apart: 100 }
    }

    /// What comes, each chunk with the time after the beginning; whoever takes them needs `pause` for each.
    async fn taken(lines: Numbers, pace: Pace, left: Option<Duration>, pause: Duration) -> Vec<(Duration, Vec<u64>)> {
        let (sender, mut chunks) = mpsc::channel(CHUNKS_AHEAD);
        let generating = tokio::spawn(generate(lines, pace, left, sender));
        let (start, mut all) = (Instant::now(), Vec::new());
        while let Some(chunk) = chunks.recv().await {
            let text = String::from_utf8(chunk.bytes.to_vec()).unwrap();
            let numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
            assert_eq!(numbers.len() as u64, chunk.records);
            all.push((start.elapsed(), numbers));
            sleep(pause).await;
        }
        generating.await.unwrap();
        all
    }

    fn every(all: &[(Duration, Vec<u64>)]) -> Vec<u64> {
        all.iter().flat_map(|(_, numbers)| numbers.clone()).collect()
    }

    #[tokio::test]
    async fn a_rate_is_kept_for_as_long_as_was_asked() {
        let second = Duration::from_secs(1);
        let all = taken(numbers(u64::MAX, Utc::now()), Pace::Rate(Rate::new(2_000)), Some(second), Duration::ZERO).await;
        let came = every(&all);
        assert!((1_900..=2_100).contains(&came.len()), "{}", came.len());
        assert!(came.iter().copied().eq(0..came.len() as u64), "in order, none twice");
        assert!(all.len() >= 2, "they come while they are read, not at the end: {} chunks", all.len());
    }

    #[tokio::test]
    async fn a_slow_store_holds_the_readings_back_and_loses_none() {
        let (rate, pause) = (Pace::Rate(Rate::new(10_000)), Duration::from_millis(500));
        let all = taken(numbers(u64::MAX, Utc::now()), rate, Some(Duration::from_millis(1_500)), pause).await;
        let came = every(&all);
        assert!(came.iter().copied().eq(0..came.len() as u64));
        assert!((5_000..=15_000).contains(&came.len()), "{}", came.len());
    }

    #[tokio::test]
    async fn readings_come_when_their_time_has_come_and_those_of_the_past_at_once() {
        let now: Clock = Arc::new(Utc::now);
        let all = taken(numbers(16, Utc::now() - TimeDelta::milliseconds(950)), Pace::OwnTime(now), None, Duration::ZERO).await;
        assert_eq!(every(&all), (0..16).collect::<Vec<_>>());
        let first = &all[0];
        assert!(first.1.len() >= 9, "{all:?}");
        for (came, numbers) in &all {
            for number in numbers {
                let due = Duration::from_millis(100 * number).saturating_sub(Duration::from_millis(950));
                assert!(*came + SHORTEST_SLEEP >= due, "{number} came {came:?} after the beginning, it was due {due:?} after it");
            }
        }
    }
}
