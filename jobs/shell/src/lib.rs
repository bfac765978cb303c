//! The shell around a stage's work, shared by the images and the laptop runner.
//!
//! [`execute`] runs the work and writes the report object; [`image_main`] is the whole `main` of an image: read the spec,
//! open the store, execute, write the termination message, exit with the contract's code.

mod image;
mod journal;
mod lineage;
mod log;
mod open;
pub mod stop;

use std::time::Instant;

use chrono::Utc;
use lakehouse_contract::{CONTRACT_VERSION, Progress, StageOutcome, StageReport, StageSpec, Termination, TraceContext, env, keys};
use lakehouse_storage::{Layer, Storage};

use journal::Archive;
use lineage::{Recorder, Watched};

pub use image::image_main;
pub use journal::{JournalWriter, conceal};
pub use lakehouse_storage::memory;
pub use log::{LogProgress, init_json_logs};
pub use open::{open_storage, storage_failure};

/// The layer that a stage writes to; its reports live there too.
pub const fn layer_of(stage: lakehouse_contract::Stage) -> Layer {
    match stage {
        lakehouse_contract::Stage::Ingest => Layer::Bronze,
        lakehouse_contract::Stage::Silver => Layer::Silver,
        lakehouse_contract::Stage::Gold => Layer::Gold,
        // It writes to both; its reports lie beside those of silver, which every pipeline with tables has.
        lakehouse_contract::Stage::Maintenance => Layer::Silver,
    }
}

/// Runs `work` and writes its report into the stage's layer.
///
/// The report is a description, not a commit: when it cannot be written the outcome stands and the termination carries no URI.
pub async fn execute<F>(spec: &StageSpec, storage: &Storage, progress: &dyn Progress, work: F) -> (StageReport, Termination)
where
    F: AsyncFnOnce(&StageSpec, &Storage, &dyn Progress) -> StageOutcome,
{
    execute_in(spec, storage, progress, |name| std::env::var(name).ok(), work).await
}

/// [`execute()`] with an environment of the caller's, which holds the token of the lineage endpoint and the trace context of the attempt.
pub async fn execute_in<F>(
    spec: &StageSpec,
    storage: &Storage,
    progress: &dyn Progress,
    environment: impl Fn(&str) -> Option<String>,
    work: F,
) -> (StageReport, Termination)
where
    F: AsyncFnOnce(&StageSpec, &Storage, &dyn Progress) -> StageOutcome,
{
    memory::suit_allocator();
    let started_at = Utc::now();
    let clock = Instant::now();
    // Whoever starts a job by hand gives it no trace: its run has one all the same.
    let trace = environment(env::TRACEPARENT).and_then(|header| TraceContext::parse(&header));
    let trace = trace.unwrap_or_else(|| TraceContext::of_run(&spec.run.id.0)).trace();
    let archive = Archive::begin(spec, storage, &trace);
    tracing::info!(pipeline = spec.pipeline, run = %spec.run.id, stage = %spec.stage(), attempt = spec.attempt,
        interval_start = %spec.interval.start, "stage begins");
    let watched = Watched::new(progress);
    let recorder = spec.lineage.as_ref().map(|to| Recorder::begin(spec, to, storage, started_at, &watched, environment));
    let outcome = work(spec, storage, &watched).await;
    let mut report = StageReport {
        contract: CONTRACT_VERSION,
        pipeline: spec.pipeline.clone(),
        run: spec.run.id.clone(),
        stage: spec.stage(),
        attempt: spec.attempt,
        interval: spec.interval,
        started_at,
        finished_at: Utc::now(),
        failure: outcome.failure.as_ref().map(Into::into),
        inputs: outcome.inputs,
        tables: outcome.tables,
        staleness: outcome.staleness,
        lineage_fault: None,
        trace_id: Some(trace),
    };
    if let Some(recorder) = recorder {
        report.lineage_fault = recorder.end(spec, &report, &outcome.lineage).await;
    }
    let object = write_report(spec, storage, &report).await;
    let totals = report.totals();
    match &report.failure {
        None => tracing::info!(
            seconds = clock.elapsed().as_secs_f64(),
            rows_read = totals.rows_read,
            rows_written = totals.rows_written,
            rows_quarantined = totals.rows_quarantined,
            "stage succeeded"
        ),
        Some(failure) => tracing::error!(reason = %failure.reason, retryable = failure.retryable, "{}", failure.message),
    }
    archive.end().await;
    let termination = Termination::of(&report, object);
    (report, termination)
}

async fn write_report(spec: &StageSpec, storage: &Storage, report: &StageReport) -> Option<(String, String)> {
    let key = keys::report(&spec.pipeline, &spec.run.id, spec.stage(), spec.attempt);
    let body = match serde_json::to_vec_pretty(report) {
        Ok(body) => body,
        Err(error) => {
            tracing::warn!(%error, "the report cannot be written as JSON");
            return None;
        }
    };
    let digest = lakehouse_storage::sha256(&body);
    let written = async {
        let layer = storage.layer(layer_of(spec.stage()))?;
        layer.put(&key, body).await?;
        Ok::<_, lakehouse_storage::StorageError>(layer.uri(&key))
    };
    match written.await {
        Ok(uri) => Some((uri, digest)),
        Err(error) => {
            tracing::warn!(%error, key, "the report object could not be written");
            None
        }
    }
}
