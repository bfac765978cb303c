//! `LakehouseBackfill`: a range of intervals, cut into runs. Made by a person or the CLI.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    common::Stage,
    run::{Refresh, RunInterval, RunState},
};

/// Runs of a pipeline for every interval of a range. Only `state` and `maxParallel` can be changed.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "lakehouse.rs",
    version = "v1alpha1",
    kind = "LakehouseBackfill",
    plural = "lakehousebackfills",
    shortname = "lhb",
    category = "lakehouse",
    namespaced,
    status = "LakehouseBackfillStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name must have at most 63 characters: names of runs are derived from it"),
    printcolumn(name = "Pipeline", type_ = "string", json_path = ".spec.pipeline"),
    printcolumn(name = "Phase", type_ = "string", json_path = r#".status.conditions[?(@.type=="Succeeded")].reason"#),
    printcolumn(name = "From", type_ = "string", json_path = ".spec.range.start"),
    printcolumn(name = "To", type_ = "string", json_path = ".spec.range.end"),
    printcolumn(name = "Planned", type_ = "integer", json_path = ".status.planned"),
    printcolumn(name = "Skipped", type_ = "integer", json_path = ".status.skipped"),
    printcolumn(name = "Active", type_ = "integer", json_path = ".status.active"),
    printcolumn(name = "Succeeded", type_ = "integer", json_path = ".status.succeeded"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.failed"),
    printcolumn(name = "Remaining", type_ = "integer", json_path = ".status.remaining"),
    printcolumn(name = "Estimated End", type_ = "string", json_path = ".status.estimatedCompletion"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.pipeline == oldSelf.pipeline").message("pipeline is immutable: make a new backfill"))]
#[x_kube(validation = Rule::new("self.range == oldSelf.range").message("range is immutable: make a new backfill"))]
#[x_kube(validation = Rule::new("self.order == oldSelf.order").message("order is immutable: make a new backfill"))]
#[x_kube(validation = Rule::new("self.rerun == oldSelf.rerun").message("rerun is immutable: make a new backfill"))]
#[x_kube(validation = Rule::new("self.dryRun == oldSelf.dryRun").message("dryRun is immutable: make a new backfill"))]
#[x_kube(validation = Rule::new("has(self.maxFailed) == has(oldSelf.maxFailed) && (!has(self.maxFailed) || self.maxFailed == oldSelf.maxFailed)").message("maxFailed is immutable: make a new backfill"))]
#[x_kube(validation = Rule::new("has(self.stages) == has(oldSelf.stages) && (!has(self.stages) || self.stages == oldSelf.stages)").message("stages is immutable: make a new backfill"))]
#[x_kube(validation = Rule::new("has(self.parameters) == has(oldSelf.parameters) && (!has(self.parameters) || self.parameters == oldSelf.parameters)").message("parameters is immutable: make a new backfill"))]
#[x_kube(validation = Rule::new("has(self.refresh) == has(oldSelf.refresh) && (!has(self.refresh) || self.refresh == oldSelf.refresh)").message("refresh is immutable: make a new backfill"))]
#[x_kube(validation = Rule::new("oldSelf.state != 'Cancelled' || self.state == 'Cancelled'").message("state: a Cancelled backfill stays Cancelled"))]
#[x_kube(validation = Rule::new("!has(self.stages) || self.stages.all(s, s != 'maintenance' && self.stages.exists_one(t, t == s))").message("stages: ingest, silver and gold, each once; maintenance is about tables, not about intervals"))]
#[x_kube(validation = Rule::new("!has(self.refresh) || !has(self.stages) || self.stages.exists(s, s == 'gold')").message("refresh: it is the gold stage that refreshes, and stages leaves it out"))]
pub struct LakehouseBackfillSpec {
    /// Name of the LakehousePipeline, in the same namespace. Every run executes the definition that it has when the backfill begins.
    #[schemars(length(min = 1, max = 52))]
    pub pipeline: String,
    /// From the start of the first interval to the end of the last one, on the boundaries of the pipeline's grain; at most 10000 intervals.
    pub range: RunInterval,
    /// For how many intervals runs may be at work at the same time. They share the pipeline's `maxConcurrentRuns` with all others.
    #[serde(default = "default_max_parallel")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_parallel: i32,
    /// Which interval goes first. Gold goes forward in any case where one of its models has a `lookback` or overwrites.
    #[serde(default)]
    pub order: Order,
    /// What happens to intervals that have run already.
    #[serde(default)]
    pub rerun: Rerun,
    /// How many intervals may fail; when more have, no further run is made. Absent: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub max_failed: Option<i32>,
    /// Stages of the runs. Default: ingest, silver and gold, but without ingest for intervals that a source with `history: none` can no longer be
    /// asked for: their newest bronze is replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 3))]
    pub stages: Option<Vec<Stage>>,
    /// Values that replace the pipeline's parameters of the same name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub parameters: BTreeMap<String, String>,
    /// What gold computes in one more run at the end, beside the intervals of the range. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Refresh>,
    /// Say in the status what would be run, and make nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Active, Suspended (no further run is made; those at work end) or Cancelled (runs at work are cancelled; final).
    #[serde(default)]
    pub state: RunState,
}

fn default_max_parallel() -> i32 {
    2
}

/// Which interval goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Order {
    /// The oldest.
    #[default]
    Forward,
    /// The newest.
    Backward,
}

/// What happens to intervals that have run already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Rerun {
    /// They are left alone, also where the run failed.
    #[default]
    Skip,
    /// They are run again unless a run succeeded.
    Failed,
    /// They are run again.
    All,
}

/// How far a backfill is. All counts are of intervals.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LakehouseBackfillStatus {
    /// `Succeeded`: `Unknown` while it is at work, `True` or `False` at the end, with a documented reason.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The generation these conditions speak of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Name of the ControllerRevision that holds the definition which the runs execute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When the outcome was known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    /// To be run: those of the range without the skipped ones.
    pub planned: i32,
    /// Left alone, as `rerun` says.
    pub skipped: i32,
    /// With a run that is not finished.
    pub active: i32,
    /// Done.
    pub succeeded: i32,
    /// With a run that failed or was cancelled.
    pub failed: i32,
    /// The others: planned, neither active nor done nor failed.
    pub remaining: i32,
    /// Start of the interval whose run is made next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_interval: Option<DateTime<Utc>>,
    /// When it will be done if runs go on to take as long as the median of those that succeeded. Absent before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_completion: Option<DateTime<Utc>>,
    /// Runs that failed, at most 16, the oldest interval first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub failed_runs: Vec<String>,
    /// Of a dry run: the starts of the intervals that would be run, in their order, at most 100.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub intervals: Vec<DateTime<Utc>>,
}
