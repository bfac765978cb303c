//! What Prometheus reads from the operator, in the OpenMetrics text format.
//!
//! What *is* (runs by state, freshness of pipelines) is computed from the caches at each scrape ([`world`]): it needs no write, survives a
//! restart and forgets what is deleted. What *happened* (durations, rows, retries) is counted at the moment it is recorded ([`transitions`]);
//! such counters begin at zero with the process, which `rate()` and `increase()` know. No series is made per run, and those per pipeline have a
//! limit: the number of series does not grow with time.

mod api;
mod process;
mod transitions;
mod world;

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use kube_runtime::reflector::Store;
use lakehouse_api::{Lakehouse, LakehousePipeline, LakehouseRun, run::LakehouseRunStatus};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

pub use api::CountRequests;
use transitions::Transition;

/// Content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Labels whose values are words of ours.
type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Reconciliations take milliseconds, or as long as an API server takes to answer. Finest around what an API server under load takes: what a p99 is known
/// by is the bound above it.
const RECONCILE_BUCKETS: [f64; 16] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 1.0, 2.5, 10.0, 60.0];
/// Stages take seconds to hours.
const STAGE_BUCKETS: [f64; 12] = [1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 150.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0];

/// An error that says in one word of few what it is, so that it can be counted.
pub trait Classed {
    /// The word; a label.
    fn class(&self) -> &'static str;
}

/// The caches of one namespace.
#[derive(Clone)]
pub struct Caches {
    /// The namespace.
    pub namespace: String,
    /// Its runs.
    pub runs: Store<LakehouseRun>,
    /// Its pipelines.
    pub pipelines: Store<LakehousePipeline>,
    /// Its Lakehouses.
    pub lakehouses: Store<Lakehouse>,
}

/// The operator's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    shared: Arc<Shared>,
}

struct Shared {
    registry: Registry,
    caches: Arc<RwLock<Vec<Caches>>>,
    reconciliations: Family<Labels<1>, Histogram, fn() -> Histogram>,
    reconcile_errors: Family<Labels<2>, Counter>,
    reconciling: Family<Labels<1>, Gauge>,
    stages: Family<Labels<2>, Histogram, fn() -> Histogram>,
    rows: Family<Labels<2>, Counter>,
    retries: Family<Labels<2>, Counter>,
    runs: Family<Labels<1>, Counter>,
    requests: Family<[(&'static str, String); 2], Counter>,
    request_seconds: Family<Labels<1>, Histogram, fn() -> Histogram>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn reconcile_histogram() -> Histogram {
    Histogram::new(RECONCILE_BUCKETS)
}

fn stage_histogram() -> Histogram {
    Histogram::new(STAGE_BUCKETS)
}

impl Metrics {
    /// Metrics with series for at most `pipelines` pipelines, in the order of their names.
    pub fn new(pipelines: usize) -> Self {
        let mut registry = Registry::default();
        let caches = Arc::new(RwLock::new(Vec::new()));
        let reconciliations = Family::new_with_constructor(reconcile_histogram as fn() -> Histogram);
        let request_seconds = Family::new_with_constructor(reconcile_histogram as fn() -> Histogram);
        let stages = Family::new_with_constructor(stage_histogram as fn() -> Histogram);
        let shared = Shared {
            reconciliations,
            request_seconds,
            stages,
            caches: Arc::clone(&caches),
            reconcile_errors: Family::default(),
            reconciling: Family::default(),
            rows: Family::default(),
            retries: Family::default(),
            runs: Family::default(),
            requests: Family::default(),
            registry: Registry::default(),
        };
        registry.register(
            "lakehouse_reconcile_duration_seconds",
            "Reconciliations by kind of object, and how long they took",
            shared.reconciliations.clone(),
        );
        registry.register(
            "lakehouse_reconcile_errors",
            "Reconciliations that failed and are tried again, by kind of object and reason",
            shared.reconcile_errors.clone(),
        );
        registry.register("lakehouse_reconciling", "Reconciliations under way, by kind of object", shared.reconciling.clone());
        registry.register(
            "lakehouse_stage_duration_seconds",
            "Stages that ended, from their first Job to their outcome with all attempts, by stage and outcome",
            shared.stages.clone(),
        );
        registry.register(
            "lakehouse_rows",
            "Rows of stages that ended, by layer and by what became of them: read = written + quarantined + deduplicated + dropped",
            shared.rows.clone(),
        );
        registry.register(
            "lakehouse_stage_retries",
            "Attempts that were followed by another one, by stage and class of failure",
            shared.retries.clone(),
        );
        registry.register("lakehouse_runs_finished", "Runs that ended, by outcome", shared.runs.clone());
        registry.register(
            "lakehouse_api_requests",
            "Requests to the API server by verb and status code; code none: no answer",
            shared.requests.clone(),
        );
        registry.register(
            "lakehouse_api_request_duration_seconds",
            "Time from a request to the API server to the head of its answer, by verb",
            shared.request_seconds.clone(),
        );
        registry.register_collector(Box::new(world::World::new(caches, pipelines)));
        registry.register_collector(Box::new(process::Process));
        let metrics = Self { shared: Arc::new(Shared { registry, ..shared }) };
        metrics.begin();
        metrics
    }

    /// Series that are to be there before anything happened: what appears with its first event has no increase.
    fn begin(&self) {
        for transition in Transition::possible() {
            self.count(&transition, 0.0, true);
        }
    }

    /// The caches of a namespace are part of what is told from now on.
    pub fn watch(&self, caches: Caches) {
        self.shared.caches.write().unwrap_or_else(PoisonError::into_inner).push(caches);
    }

    /// All metrics as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // A String takes everything that is written to it.
        let _ = encode(&mut text, &self.shared.registry);
        text
    }

    /// Counts and measures a reconciliation.
    pub async fn reconciliation<T, E: Classed>(self, kind: &'static str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let under_way = UnderWay::begin(self.shared.reconciling.get_or_create_owned(&[("kind", kind)]));
        let clock = Instant::now();
        let outcome = work.await;
        drop(under_way);
        self.shared.reconciliations.get_or_create(&[("kind", kind)]).observe(clock.elapsed().as_secs_f64());
        if let Err(error) = &outcome {
            self.shared.reconcile_errors.get_or_create(&[("kind", kind), ("reason", error.class())]).inc();
        }
        outcome
    }

    /// Counts what is new in the status of a run, which was just written.
    pub fn recorded(&self, before: Option<&LakehouseRunStatus>, after: &LakehouseRunStatus) {
        for (transition, amount) in transitions::between(before, after) {
            self.count(&transition, amount, false);
        }
    }

    fn count(&self, transition: &Transition, amount: f64, only_make: bool) {
        let shared = &self.shared;
        // Counts are whole and positive.
        let whole = if only_make { 0 } else { amount as u64 };
        match *transition {
            Transition::StageEnded { stage, outcome } => {
                let histogram = shared.stages.get_or_create_owned(&[("stage", stage), ("outcome", outcome)]);
                if !only_make {
                    histogram.observe(amount);
                }
            }
            Transition::Rows { layer, kind } => {
                shared.rows.get_or_create(&[("layer", layer), ("kind", kind)]).inc_by(whole);
            }
            Transition::Retried { stage, class } => {
                shared.retries.get_or_create(&[("stage", stage), ("class", class)]).inc_by(whole);
            }
            Transition::RunEnded { outcome } => {
                shared.runs.get_or_create(&[("outcome", outcome)]).inc_by(whole);
            }
        }
    }
}

/// A reconciliation that counts as under way until it is dropped, also when it is cancelled.
struct UnderWay(Gauge);

impl UnderWay {
    fn begin(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Refused;

    impl Classed for Refused {
        fn class(&self) -> &'static str {
            "Conflict"
        }
    }

    #[tokio::test]
    async fn reconciliations_are_counted_with_their_errors() {
        let metrics = Metrics::new(10);
        metrics.clone().reconciliation("LakehouseRun", async { Ok::<_, Refused>(()) }).await.expect("it succeeds");
        assert!(metrics.clone().reconciliation::<(), _>("LakehouseRun", async { Err(Refused) }).await.is_err());
        let text = metrics.text();
        for line in [
            "lakehouse_reconcile_duration_seconds_count{kind=\"LakehouseRun\"} 2",
            "lakehouse_reconcile_errors_total{kind=\"LakehouseRun\",reason=\"Conflict\"} 1",
            "lakehouse_reconciling{kind=\"LakehouseRun\"} 0",
            "lakehouse_stage_retries_total{stage=\"silver\",class=\"OutOfMemory\"} 0",
            "lakehouse_rows_total{layer=\"gold\",kind=\"written\"} 0",
        ] {
            assert!(text.lines().any(|there| there == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
