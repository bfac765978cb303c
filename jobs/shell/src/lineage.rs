//! The lineage of an attempt: two events, kept beside the report and delivered. Nothing here fails a stage.

use chrono::{DateTime, Utc};
use lakehouse_contract::{Lineage, LineageSpec, StageReport, StageSpec, keys};
use lakehouse_lineage::{Delivery, ended, started};
use lakehouse_storage::{LayerStore, Storage};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::layer_of;

/// Records the lineage of one attempt.
pub(crate) struct Recorder {
    to: LineageSpec,
    delivery: Delivery,
    place: Option<(LayerStore, String)>,
    first: Value,
    beginning: JoinHandle<Vec<String>>,
}

impl Recorder {
    /// Records that an attempt begins. The work does not wait for it.
    pub(crate) fn begin(
        spec: &StageSpec,
        to: &LineageSpec,
        storage: &Storage,
        at: DateTime<Utc>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Self {
        lakehouse_storage::init_tls();
        let delivery = Delivery::new(to, environment);
        let first = started(spec, to, at);
        let key = keys::lineage(&spec.pipeline, &spec.run.id, spec.stage(), spec.attempt);
        let place = storage.layer(layer_of(spec.stage())).ok().map(|layer| (layer.clone(), key));
        let beginning = tokio::spawn(record(delivery.clone(), place.clone(), first.clone(), format!("{first}\n")));
        Self { to: to.clone(), delivery, place, first, beginning }
    }

    /// Records how it ended; what is answered is a fault of delivery, for the report.
    pub(crate) async fn end(self, spec: &StageSpec, report: &StageReport, lineage: &Lineage) -> Option<String> {
        // In order: whoever takes the events sees a run begin before it ends.
        let mut faults = self.beginning.await.unwrap_or_else(|error| vec![error.to_string()]);
        let last = ended(spec, &self.to, report, lineage);
        let both = format!("{}\n{last}\n", self.first);
        for fault in record(self.delivery, self.place, last, both).await {
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        faults.extend(lineage.fault.clone());
        if faults.is_empty() {
            return None;
        }
        let text = faults.join("; ");
        tracing::warn!(run = %spec.run.id, stage = %spec.stage(), "{text}");
        Some(text)
    }
}

/// Puts `lines`, all events so far, beside the report and delivers the newest of them; answers what went wrong.
async fn record(delivery: Delivery, place: Option<(LayerStore, String)>, event: Value, lines: String) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some((layer, key)) = place
        && let Err(error) = layer.put(&key, lines).await
    {
        faults.push(error.to_string());
    }
    faults.extend(delivery.send(&event).await.err());
    faults
}
