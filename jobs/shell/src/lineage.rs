//! The lineage of an attempt: how it began, how far it is, how it ended; kept beside the report and delivered. Nothing here fails or delays a stage.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, Utc};
use lakehouse_contract::{Lineage, LineageSpec, Progress, StageReport, StageSpec, keys, progress::Position};
use lakehouse_lineage::{Delivery, ended, running, started};
use lakehouse_storage::{LayerStore, Storage};
use serde_json::Value;
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};

use crate::layer_of;

/// Where an attempt is.
type Shared = Arc<Mutex<Option<Position>>>;

/// Passes progress on and remembers where it is.
pub(crate) struct Watched<'a> {
    progress: &'a dyn Progress,
    position: Shared,
}

impl<'a> Watched<'a> {
    pub(crate) fn new(progress: &'a dyn Progress) -> Self {
        Self { progress, position: Shared::default() }
    }
}

impl Progress for Watched<'_> {
    fn step(&self, name: &str, total: Option<u64>) {
        if let Ok(mut position) = self.position.lock() {
            *position = Some(Position { step: name.to_owned(), rows: 0, bytes: 0, total });
        }
        self.progress.step(name, total);
    }

    fn advance(&self, rows: u64, bytes: u64) {
        if let Ok(mut position) = self.position.lock()
            && let Some(position) = position.as_mut()
        {
            position.rows += rows;
            position.bytes += bytes;
        }
        self.progress.advance(rows, bytes);
    }
}

/// Records the lineage of one attempt.
pub(crate) struct Recorder {
    sink: Sink,
    first: Value,
    /// Ends the events of the work; dropped, it does so too.
    done: oneshot::Sender<()>,
    /// Faults until then, and the newest event of the work.
    telling: JoinHandle<(Vec<String>, Option<Value>)>,
}

impl Recorder {
    /// Records that an attempt begins, and every [`LineageSpec::running_seconds`] how far it is. The work does not wait for it.
    pub(crate) fn begin(
        spec: &StageSpec,
        to: &LineageSpec,
        storage: &Storage,
        at: DateTime<Utc>,
        watched: &Watched<'_>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Self {
        lakehouse_storage::init_tls();
        let key = keys::lineage(&spec.pipeline, &spec.run.id, spec.stage(), spec.attempt);
        let place = storage.layer(layer_of(spec.stage())).ok().map(|layer| (layer.clone(), key));
        let sink = Sink { to: to.clone(), delivery: Delivery::new(to, environment), place };
        let first = started(spec, to, at);
        let (done, ending) = oneshot::channel();
        let telling = tokio::spawn(tell(sink.clone(), first.clone(), spec.clone(), watched.position.clone(), ending));
        Self { sink, first, done, telling }
    }

    /// Records how it ended; what is answered is a fault of delivery, for the report.
    pub(crate) async fn end(self, spec: &StageSpec, report: &StageReport, lineage: &Lineage) -> Option<String> {
        // It has ended by itself where nobody listens.
        let _ = self.done.send(());
        // In order: whoever takes the events sees a run begin before it ends.
        let (mut faults, newest) = self.telling.await.unwrap_or_else(|error| (vec![error.to_string()], None));
        let last = ended(spec, &self.sink.to, report, lineage);
        let between = newest.map(|event| format!("{event}\n")).unwrap_or_default();
        let lines = format!("{}\n{between}{last}\n", self.first);
        add(&mut faults, self.sink.record(&last, lines).await);
        faults.extend(lineage.fault.clone());
        if faults.is_empty() {
            return None;
        }
        let text = faults.join("; ");
        tracing::warn!(run = %spec.run.id, stage = %spec.stage(), "{text}");
        Some(text)
    }
}

/// Tells the beginning, and how far the work is until it is `ending`: then an event on its way is given up. The object beside the report keeps
/// the newest of these only, so that it does not grow with the time.
async fn tell(
    sink: Sink,
    first: Value,
    spec: StageSpec,
    position: Shared,
    mut ending: oneshot::Receiver<()>,
) -> (Vec<String>, Option<Value>) {
    let mut faults = sink.record(&first, format!("{first}\n")).await;
    let mut newest = None;
    loop {
        tokio::select! {
            biased;
            _ = &mut ending => return (faults, newest),
            () = sleep(Duration::from_secs(sink.to.running_seconds)) => {}
        }
        let Some(position) = position.lock().ok().and_then(|position| position.clone()) else { continue };
        let event = running(&spec, &sink.to, Utc::now(), &position);
        newest = Some(event.clone());
        tokio::select! {
            biased;
            _ = &mut ending => return (faults, newest),
            more = sink.record(&event, format!("{first}\n{event}\n")) => add(&mut faults, more),
        }
    }
}

fn add(faults: &mut Vec<String>, more: Vec<String>) {
    for fault in more {
        if !faults.contains(&fault) {
            faults.push(fault);
        }
    }
}

/// Where the events of an attempt go.
#[derive(Clone)]
struct Sink {
    to: LineageSpec,
    delivery: Delivery,
    place: Option<(LayerStore, String)>,
}

impl Sink {
    /// Puts `lines` beside the report and delivers `event`; answers what went wrong.
    async fn record(&self, event: &Value, lines: String) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some((layer, key)) = &self.place
            && let Err(error) = layer.put(key, lines).await
        {
            faults.push(error.to_string());
        }
        faults.extend(self.delivery.send(event).await.err());
        faults
    }
}
