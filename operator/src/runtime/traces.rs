//! One OpenTelemetry trace per run, exported when the run ends.
//!
//! The trace is made of what the status recorded, not of what this process remembers: a run that outlives an operator has one whole trace. Jobs
//! get the same identities (`TRACEPARENT`) and write them into their logs and reports; only the operator exports, so that job images carry no
//! exporter and pods need no way to a collector. The environment configures it as OpenTelemetry's specification says
//! (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, …); without an endpoint nothing is made.

use std::{env, time::SystemTime};

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{Request, Response};
use kube::ResourceExt;
use lakehouse_api::{
    LakehouseRun,
    run::{StageState, StageStatus},
};
use lakehouse_contract::{TraceContext, interval::rfc3339};
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    conditions::{find, instant},
    plan::status::{SUCCEEDED, finished},
};

/// Traces that wait for a collector which is slow or away; further ones are left out, and logged.
const QUEUE: usize = 256;
/// The variables that say where to.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// The variable with the name of the service.
const SERVICE: &str = "OTEL_SERVICE_NAME";

/// Where traces go. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    queue: Option<mpsc::Sender<Vec<SpanData>>>,
}

impl Traces {
    /// An exporter as the environment configures it, and its task, which ends when the last clone is gone and the queue is empty.
    ///
    /// # Errors
    /// For an endpoint that is none.
    pub fn from_environment() -> anyhow::Result<(Self, Option<JoinHandle<()>>)> {
        let is_set = |name: &&str| env::var(name).is_ok_and(|value| !value.trim().is_empty());
        if !ENDPOINTS.iter().any(is_set) || env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok((Self::default(), None));
        }
        let client = reqwest::Client::builder().build().context("OpenTelemetry: no HTTP client")?;
        let exporter = SpanExporter::builder().with_http().with_http_client(Client(client)).build();
        let mut exporter = exporter.with_context(|| format!("OpenTelemetry: {} cannot be used", ENDPOINTS.join(" or ")))?;
        let mut resource = Resource::builder();
        if !is_set(&SERVICE) {
            resource = resource.with_service_name("lakehouse-operator");
        }
        exporter.set_resource(&resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build());
        let (sender, mut queue) = mpsc::channel::<Vec<SpanData>>(QUEUE);
        let task = tokio::spawn(async move {
            while let Some(spans) = queue.recv().await {
                if let Err(error) = exporter.export(spans).await {
                    tracing::warn!(%error, "a trace could not be exported");
                }
            }
        });
        Ok((Self { queue: Some(sender) }, Some(task)))
    }

    /// The outcome of `run` was recorded: its trace is exported. Nothing waits for it.
    pub fn ended(&self, run: &LakehouseRun) {
        let Some(queue) = &self.queue else { return };
        if queue.try_send(spans(run)).is_err() {
            tracing::warn!(run = run.name_any(), "its trace is left out: the collector does not keep up");
        }
    }
}

/// The client that everything else here uses, as the exporter wants it.
#[derive(Debug)]
struct Client(reqwest::Client);

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let response = self.0.execute(request.try_into()?).await?;
        let mut answer = Response::builder().status(response.status());
        if let Some(headers) = answer.headers_mut() {
            headers.clone_from(response.headers());
        }
        Ok(answer.body(response.bytes().await?)?)
    }
}

/// The spans of a run that ended: the run, and each stage that had an attempt. Pure.
fn spans(run: &LakehouseRun) -> Vec<SpanData> {
    let Some(status) = run.status.as_ref().filter(|status| finished(status)) else { return Vec::new() };
    let trace = TraceContext::of_run(&run.uid().unwrap_or_default());
    let verdict = find(&status.conditions, SUCCEEDED);
    let created = run.metadata.creation_timestamp.as_ref().map(instant);
    let end = status.finished_at.or(created).unwrap_or_default();
    let namespace = run.namespace().unwrap_or_default();
    let outcome = match verdict {
        Some(verdict) if verdict.status == "True" => Status::Ok,
        Some(verdict) => Status::error(format!("{}: {}", verdict.reason, verdict.message)),
        None => Status::Unset,
    };
    let attributes = vec![
        KeyValue::new("k8s.namespace.name", namespace),
        KeyValue::new("lakehouse.pipeline", run.spec.pipeline.clone()),
        KeyValue::new("lakehouse.run", run.name_any()),
        KeyValue::new("lakehouse.interval.start", rfc3339(run.spec.interval.start)),
        KeyValue::new("lakehouse.interval.end", rfc3339(run.spec.interval.end)),
        KeyValue::new("lakehouse.reason", verdict.map(|verdict| verdict.reason.clone()).unwrap_or_default()),
    ];
    let name = format!("run {}", run.spec.pipeline);
    let mut all = vec![span(trace, None, name, (created.unwrap_or(end), end), attributes, outcome)];
    all.extend(status.stages.iter().filter_map(|stage| stage_span(trace, stage, end)));
    all
}

fn stage_span(run: TraceContext, stage: &StageStatus, run_end: DateTime<Utc>) -> Option<SpanData> {
    let start = stage.started_at?;
    let outcome = match stage.state {
        StageState::Succeeded => Status::Ok,
        StageState::Failed => {
            Status::error(format!("{}: {}", stage.reason.as_deref().unwrap_or_default(), stage.message.as_deref().unwrap_or_default()))
        }
        StageState::Pending | StageState::Running | StageState::Skipped => Status::Unset,
    };
    let mut attributes = vec![
        KeyValue::new("lakehouse.stage", stage.name.as_str()),
        KeyValue::new("lakehouse.attempts", i64::from(stage.attempt)),
        KeyValue::new("lakehouse.rows.read", stage.rows_read),
        KeyValue::new("lakehouse.rows.written", stage.rows_written),
        KeyValue::new("lakehouse.rows.quarantined", stage.rows_quarantined),
        KeyValue::new("lakehouse.bytes.written", stage.bytes_written),
    ];
    attributes.extend(stage.job.clone().map(|job| KeyValue::new("k8s.job.name", job)));
    attributes.extend(stage.report.clone().map(|report| KeyValue::new("lakehouse.report", report)));
    // The last attempt's identity is what the logs of the pod that ended the stage have.
    let of = run.attempt(stage.name, stage.attempt.unsigned_abs());
    Some(span(of, Some(run), stage.name.to_string(), (start, stage.finished_at.unwrap_or(run_end)), attributes, outcome))
}

fn span(
    of: TraceContext,
    parent: Option<TraceContext>,
    name: String,
    (start, end): (DateTime<Utc>, DateTime<Utc>),
    attributes: Vec<KeyValue>,
    status: Status,
) -> SpanData {
    let trace = TraceId::from_bytes(of.trace_id);
    SpanData {
        span_context: SpanContext::new(trace, SpanId::from_bytes(of.span_id), TraceFlags::SAMPLED, false, TraceState::default()),
        parent_span_id: parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.span_id)),
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time: SystemTime::from(start),
        end_time: SystemTime::from(end.max(start)),
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status,
        instrumentation_scope: InstrumentationScope::builder("lakehouse-operator").with_version(env!("CARGO_PKG_VERSION")).build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const UID: &str = "0f0e0d0c-0b0a-4908-8706-050403020100";

    fn run(status: &str, reason: &str) -> LakehouseRun {
        serde_json::from_value(json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseRun",
            "metadata": {"name": "crypto-1", "namespace": "ns", "uid": UID, "creationTimestamp": "2024-01-02T00:00:00Z"},
            "spec": {"pipeline": "crypto", "interval": {"start": "2024-01-01T00:00:00Z", "end": "2024-01-02T00:00:00Z"}},
            "status": {
                "conditions": [{"type": "Succeeded", "status": status, "reason": reason, "message": "why", "lastTransitionTime": "2024-01-02T00:05:00Z"}],
                "finishedAt": "2024-01-02T00:05:00Z",
                "stages": [
                    {"name": "ingest", "state": "Succeeded", "attempt": 1, "job": "j", "startedAt": "2024-01-02T00:00:10Z",
                        "finishedAt": "2024-01-02T00:01:00Z", "rowsRead": 20, "rowsWritten": 20},
                    {"name": "silver", "state": "Failed", "attempt": 3, "reason": "CastFailed", "message": "row 7",
                        "startedAt": "2024-01-02T00:01:00Z", "finishedAt": "2024-01-02T00:05:00Z"},
                    {"name": "gold", "state": "Skipped"}
                ]
            }
        }))
        .expect("it is a run")
    }

    #[test]
    fn a_run_is_one_trace_with_a_span_per_stage() {
        let all = spans(&run("False", "CastFailed"));
        let names: Vec<&str> = all.iter().map(|span| span.name.as_ref()).collect();
        assert_eq!(names, ["run crypto", "ingest", "silver"]);
        let trace = TraceContext::of_run(UID);
        assert!(all.iter().all(|span| span.span_context.trace_id().to_string() == trace.trace()));
        assert_eq!(all[0].parent_span_id, SpanId::INVALID);
        assert!(all[1..].iter().all(|span| span.parent_span_id == all[0].span_context.span_id()));
        assert_eq!(all[2].span_context.span_id().to_string(), trace.attempt(lakehouse_contract::Stage::Silver, 3).span());
        assert_eq!((&all[1].status, &all[2].status), (&Status::Ok, &Status::error("CastFailed: row 7")));
        assert_eq!(all[1].end_time.duration_since(all[1].start_time).expect("forward").as_secs(), 50);
        assert!(spans(&run("Unknown", "Running")).is_empty());
    }
}
