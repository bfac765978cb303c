//! What the caches hold, summed up at each scrape.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use chrono::{DateTime, Utc};
use kube::ResourceExt;
use lakehouse_api::{
    Lakehouse, LakehousePipeline, LakehouseRun,
    run::{LakehouseRunStatus, RunState},
};
use lakehouse_contract::{Interval, Stage};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

use super::Caches;
use crate::{
    conditions::{find, instant},
    plan::{
        pipeline::READY,
        status::{finished, phase, succeeded},
    },
};

/// Where runs may stand.
const STATES: [&str; 8] = ["Pending", "Waiting", "Running", "Retrying", "Suspended", "Succeeded", "Failed", "Cancelled"];
/// Conditions of a Lakehouse.
const SERVICES: [&str; 2] = ["StoreReady", "CatalogReady"];

/// Reads the caches of all namespaces.
pub(super) struct World {
    caches: Arc<RwLock<Vec<Caches>>>,
    limit: usize,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl World {
    pub(super) const fn new(caches: Arc<RwLock<Vec<Caches>>>, limit: usize) -> Self {
        Self { caches, limit }
    }
}

impl Collector for World {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let now = Utc::now();
        let caches = self.caches.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut seen = Seen::default();
        for cache in &caches {
            let lakehouses = cache.lakehouses.state();
            seen.lakehouses(&cache.namespace, lakehouses.iter().map(AsRef::as_ref));
            let (runs, pipelines) = (cache.runs.state(), cache.pipelines.state());
            let facts = seen.runs(&cache.namespace, runs.iter().map(AsRef::as_ref), now);
            seen.pipelines(&cache.namespace, pipelines.iter().map(AsRef::as_ref), &facts, now);
        }
        seen.limit(self.limit);
        seen.encode(encoder)
    }
}

type Name = (String, String);

/// What is told of one pipeline.
#[derive(Clone, Debug, Default, PartialEq)]
struct PipelineFacts {
    ready: bool,
    interval_seconds: f64,
    freshness_seconds: Option<f64>,
    last_run_succeeded: Option<bool>,
    active_runs: usize,
    stale_intervals: i64,
}

/// What the runs of a pipeline say.
#[derive(Clone, Copy, Debug, Default)]
struct RunFacts {
    last_end: Option<(DateTime<Utc>, bool)>,
    active: usize,
}

/// Everything that is told.
#[derive(Debug, Default)]
struct Seen {
    runs: BTreeMap<Name, u64>,
    oldest: BTreeMap<String, f64>,
    pipelines: BTreeMap<Name, PipelineFacts>,
    total: usize,
    without_series: usize,
    services: BTreeMap<(String, String, &'static str), bool>,
}

/// One word for where a run stands.
fn state(run: &LakehouseRun, status: &LakehouseRunStatus) -> &'static str {
    match phase(status) {
        _ if succeeded(status) => "Succeeded",
        "Cancelled" if finished(status) => "Cancelled",
        _ if finished(status) => "Failed",
        "Running" => "Running",
        "Retrying" => "Retrying",
        "IntervalBusy" | "WaitingForSlot" => "Waiting",
        _ if run.spec.state == RunState::Suspended => "Suspended",
        // Nobody has looked at it yet, or something it needs is missing.
        _ => "Pending",
    }
}

impl Seen {
    fn lakehouses<'a>(&mut self, namespace: &str, all: impl Iterator<Item = &'a Lakehouse>) {
        for lakehouse in all {
            let conditions = lakehouse.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            for service in SERVICES {
                if let Some(condition) = find(conditions, service) {
                    self.services.insert((namespace.to_owned(), lakehouse.name_any(), service), condition.status == "True");
                }
            }
        }
    }

    fn runs<'a>(&mut self, namespace: &str, all: impl Iterator<Item = &'a LakehouseRun>, now: DateTime<Utc>) -> HashMap<String, RunFacts> {
        let mut facts: HashMap<String, RunFacts> = HashMap::new();
        for word in STATES {
            self.runs.insert((namespace.to_owned(), word.to_owned()), 0);
        }
        let mut oldest = 0.0_f64;
        for run in all {
            let nothing = LakehouseRunStatus::default();
            let status = run.status.as_ref().unwrap_or(&nothing);
            let word = state(run, status);
            *self.runs.entry((namespace.to_owned(), word.to_owned())).or_default() += 1;
            if matches!(word, "Pending" | "Waiting") && status.definition.is_none() {
                let created = run.metadata.creation_timestamp.as_ref().map_or(now, instant);
                oldest = oldest.max(seconds(now - created));
            }
            let known = facts.entry(run.spec.pipeline.clone()).or_default();
            let brings_data = run.spec.stages.as_deref() != Some(&[Stage::Maintenance]);
            match status.finished_at {
                Some(end) if finished(status) && word != "Cancelled" && brings_data => {
                    known.last_end = known.last_end.max(Some((end, succeeded(status))));
                }
                _ if !finished(status) => known.active += 1,
                _ => {}
            }
        }
        self.oldest.insert(namespace.to_owned(), oldest);
        facts
    }

    fn pipelines<'a>(
        &mut self,
        namespace: &str,
        all: impl Iterator<Item = &'a LakehousePipeline>,
        facts: &HashMap<String, RunFacts>,
        now: DateTime<Utc>,
    ) {
        for pipeline in all {
            let (name, status) = (pipeline.name_any(), pipeline.status.clone().unwrap_or_default());
            let grain = pipeline.spec.interval;
            let current = Interval::containing(grain, now);
            let runs = facts.get(&name).copied().unwrap_or_default();
            let told = PipelineFacts {
                ready: find(&status.conditions, READY).is_some_and(|condition| condition.status == "True"),
                interval_seconds: seconds(current.end - current.start),
                freshness_seconds: status.last_succeeded_interval.map(|start| seconds(now - Interval::containing(grain, start).end)),
                last_run_succeeded: runs.last_end.map(|(_, succeeded)| succeeded),
                active_runs: runs.active,
                stale_intervals: status.stale_intervals.as_ref().map_or(0, |stale| stale.intervals.count),
            };
            self.total += 1;
            self.pipelines.insert((namespace.to_owned(), name), told);
        }
    }

    /// Leaves out the series of pipelines beyond the first `limit`, by namespace and name.
    fn limit(&mut self, limit: usize) {
        if let Some(first) = self.pipelines.keys().nth(limit).cloned() {
            self.without_series = self.pipelines.split_off(&first).len();
        }
    }

    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let runs = self.runs.iter().map(|((namespace, state), count)| ([("namespace", namespace), ("state", state)], *count as f64));
        gauge(&mut encoder, "lakehouse_runs", "Runs that exist, by state", runs)?;
        let oldest = self.oldest.iter().map(|(namespace, age)| ([("namespace", namespace)], *age));
        gauge(
            &mut encoder,
            "lakehouse_oldest_unstarted_run_age_seconds",
            "Age of the oldest run that waits for its first Job and was not suspended; 0: none waits",
            oldest,
        )?;
        let services = self.services.iter().map(|((namespace, name, service), ready)| {
            ([("namespace", namespace.as_str()), ("lakehouse", name.as_str()), ("condition", *service)], one(*ready))
        });
        gauge(&mut encoder, "lakehouse_ready", "Whether store and catalog of a Lakehouse answer", services)?;
        let total = std::iter::once(([("", ""); 0], self.total as f64));
        gauge(&mut encoder, "lakehouse_pipelines", "Pipelines that exist", total)?;
        let without = std::iter::once(([("", ""); 0], self.without_series as f64));
        gauge(&mut encoder, "lakehouse_pipelines_without_series", "Pipelines beyond the limit of those with series of their own", without)?;
        self.each(&mut encoder, "lakehouse_pipeline_ready", "Whether the definition can be executed", |facts| Some(one(facts.ready)))?;
        self.each(&mut encoder, "lakehouse_pipeline_interval_seconds", "Length of the present interval", |facts| {
            Some(facts.interval_seconds)
        })?;
        self.each(
            &mut encoder,
            "lakehouse_pipeline_freshness_seconds",
            "Time since the end of the newest interval that a run completed with success; negative within that interval",
            |facts| facts.freshness_seconds,
        )?;
        self.each(&mut encoder, "lakehouse_pipeline_last_run_succeeded", "Whether the run that ended last succeeded", |facts| {
            facts.last_run_succeeded.map(one)
        })?;
        self.each(&mut encoder, "lakehouse_pipeline_active_runs", "Runs without an outcome", |facts| Some(facts.active_runs as f64))?;
        self.each(&mut encoder, "lakehouse_pipeline_stale_intervals", "Intervals of gold models whose inputs changed since", |facts| {
            Some(facts.stale_intervals as f64)
        })
    }

    fn each(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: impl Fn(&PipelineFacts) -> Option<f64>,
    ) -> std::fmt::Result {
        let values = self
            .pipelines
            .iter()
            .filter_map(|((namespace, pipeline), facts)| Some(([("namespace", namespace), ("pipeline", pipeline)], value(facts)?)));
        gauge(encoder, name, help, values)
    }
}

fn gauge<S: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (S, f64)>,
) -> std::fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn seconds(span: chrono::TimeDelta) -> f64 {
    span.num_milliseconds() as f64 / 1000.0
}

const fn one(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube_runtime::{reflector, watcher};
    use serde_json::{Value, json};

    fn run(name: &str, spec: Value, condition: Option<(&str, &str)>) -> LakehouseRun {
        let conditions: Vec<Value> = condition
            .map(|(status, reason)| json!({"type": "Succeeded", "status": status, "reason": reason, "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z"}))
            .into_iter()
            .collect();
        let end = condition.filter(|(status, _)| *status != "Unknown").map(|_| "2024-01-02T01:00:00Z");
        let mut full = json!({"pipeline": "p", "interval": {"start": "2024-01-01T00:00:00Z", "end": "2024-01-02T00:00:00Z"}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            full[key] = value.clone();
        }
        serde_json::from_value(json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehouseRun",
            "metadata": {"name": name, "namespace": "ns", "creationTimestamp": "2024-01-02T00:00:00Z"},
            "spec": full, "status": {"conditions": conditions, "finishedAt": end}
        }))
        .expect("it is a run")
    }

    fn pipeline(name: &str) -> LakehousePipeline {
        serde_json::from_value(json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehousePipeline", "metadata": {"name": name, "namespace": "ns"},
            "spec": {"lakehouse": "main", "ingest": [{"name": "s", "pulse": {}}]},
            "status": {"lastSucceededInterval": "2024-01-01T00:00:00Z", "conditions": [
                {"type": "Ready", "status": "True", "reason": "Valid", "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z"}]}
        }))
        .expect("it is a pipeline")
    }

    #[test]
    fn a_run_is_in_one_state() {
        for (condition, spec, word) in [
            (None, json!({}), "Pending"),
            (Some(("Unknown", "PipelineNotFound")), json!({}), "Pending"),
            (Some(("Unknown", "IntervalBusy")), json!({}), "Waiting"),
            (Some(("Unknown", "Running")), json!({}), "Running"),
            (Some(("Unknown", "Retrying")), json!({}), "Retrying"),
            (Some(("Unknown", "Suspended")), json!({"state": "Suspended"}), "Suspended"),
            (Some(("True", "Completed")), json!({}), "Succeeded"),
            (Some(("False", "CastFailed")), json!({}), "Failed"),
            (Some(("False", "Cancelled")), json!({"state": "Cancelled"}), "Cancelled"),
        ] {
            let run = run("r", spec, condition);
            assert_eq!(state(&run, &run.status.clone().unwrap_or_default()), word);
            assert!(STATES.contains(&word));
        }
    }

    #[test]
    fn freshness_is_the_time_since_the_end_of_the_last_interval() {
        let now: DateTime<Utc> = "2024-01-02T06:00:00Z".parse().expect("it is a time");
        let mut seen = Seen::default();
        let failed = run("b", json!({}), Some(("False", "CastFailed")));
        let maintained = run("c", json!({"stages": ["maintenance"]}), Some(("True", "Completed")));
        let waiting = run("a", json!({}), None);
        let facts = seen.runs("ns", [&failed, &maintained, &waiting].into_iter(), now);
        let all: Vec<LakehousePipeline> = ["p", "q", "r"].into_iter().map(pipeline).collect();
        seen.pipelines("ns", all.iter(), &facts, now);
        let told = &seen.pipelines[&("ns".to_owned(), "p".to_owned())];
        let expected = PipelineFacts {
            ready: true,
            interval_seconds: 86_400.0,
            freshness_seconds: Some(6.0 * 3600.0),
            last_run_succeeded: Some(false),
            active_runs: 1,
            stale_intervals: 0,
        };
        assert_eq!(told, &expected);
        assert_eq!(seen.oldest["ns"], 6.0 * 3600.0);
        seen.limit(2);
        assert_eq!((seen.pipelines.len(), seen.without_series, seen.total), (2, 1, 3));
    }

    #[test]
    fn a_scrape_reads_the_caches_as_they_are() {
        let (runs, mut runs_writer) = reflector::store();
        let (pipelines, mut pipelines_writer) = reflector::store();
        let (lakehouses, _lakehouses_writer) = reflector::store();
        let metrics = super::super::Metrics::new(10);
        metrics.watch(Caches { namespace: "ns".to_owned(), runs, pipelines, lakehouses });
        assert!(metrics.text().contains("lakehouse_runs{namespace=\"ns\",state=\"Failed\"} 0"));
        let failed = run("b", json!({}), Some(("False", "CastFailed")));
        runs_writer.apply_watcher_event(&watcher::Event::Apply(failed.clone()));
        pipelines_writer.apply_watcher_event(&watcher::Event::Apply(pipeline("p")));
        let text = metrics.text();
        assert!(text.contains("lakehouse_runs{namespace=\"ns\",state=\"Failed\"} 1"), "{text}");
        assert!(text.contains("lakehouse_pipeline_last_run_succeeded{namespace=\"ns\",pipeline=\"p\"} 0"), "{text}");
        assert!(!text.contains("run=\"b\""), "no series per run");
        runs_writer.apply_watcher_event(&watcher::Event::Delete(failed));
        assert!(metrics.text().contains("lakehouse_runs{namespace=\"ns\",state=\"Failed\"} 0"));
    }
}
