//! `LakehouseRun`: one execution of a pipeline for one interval. Made by the operator, Airflow, the CLI or a person.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{FailureClass, Stage};

/// One execution of a pipeline for one interval. Everything but `state` is immutable; a retry is a new run with `retryOf`.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "lakehouse.rs",
    version = "v1alpha1",
    kind = "LakehouseRun",
    plural = "lakehouseruns",
    shortname = "lhr",
    category = "lakehouse",
    namespaced,
    status = "LakehouseRunStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name must have at most 63 characters: shorten the run's name"),
    validation = Rule::new("!has(self.spec.retryOf) || self.spec.retryOf != self.metadata.name").message("retryOf: a run cannot retry itself"),
    printcolumn(name = "Pipeline", type_ = "string", json_path = ".spec.pipeline"),
    printcolumn(name = "Interval", type_ = "string", json_path = ".spec.interval.start"),
    printcolumn(name = "Phase", type_ = "string", json_path = r#".status.conditions[?(@.type=="Succeeded")].reason"#),
    printcolumn(name = "Stage", type_ = "string", json_path = ".status.currentStage"),
    printcolumn(name = "Read", type_ = "integer", json_path = ".status.rowsRead"),
    printcolumn(name = "Written", type_ = "integer", json_path = ".status.rowsWritten"),
    printcolumn(name = "Quarantined", type_ = "integer", json_path = ".status.rowsQuarantined"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Step", type_ = "string", json_path = r#".status.stages[?(@.state=="Running")].progress.step"#, priority = 1),
    printcolumn(name = "Rows", type_ = "integer", json_path = r#".status.stages[?(@.state=="Running")].progress.rows"#, priority = 1),
    printcolumn(name = "Percent", type_ = "integer", json_path = r#".status.stages[?(@.state=="Running")].progress.percent"#, priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.pipeline == oldSelf.pipeline").message("pipeline is immutable: make a new run"))]
#[x_kube(validation = Rule::new("self.interval == oldSelf.interval").message("interval is immutable: make a new run"))]
#[x_kube(validation = Rule::new("has(self.stages) == has(oldSelf.stages) && (!has(self.stages) || self.stages == oldSelf.stages)").message("stages is immutable: make a new run with retryOf"))]
#[x_kube(validation = Rule::new("has(self.parameters) == has(oldSelf.parameters) && (!has(self.parameters) || self.parameters == oldSelf.parameters)").message("parameters is immutable: make a new run"))]
#[x_kube(validation = Rule::new("has(self.inputsFrom) == has(oldSelf.inputsFrom) && (!has(self.inputsFrom) || self.inputsFrom == oldSelf.inputsFrom)").message("inputsFrom is immutable: make a new run"))]
#[x_kube(validation = Rule::new("has(self.retryOf) == has(oldSelf.retryOf) && (!has(self.retryOf) || self.retryOf == oldSelf.retryOf)").message("retryOf is immutable: make a new run"))]
#[x_kube(validation = Rule::new("has(self.refresh) == has(oldSelf.refresh) && (!has(self.refresh) || self.refresh == oldSelf.refresh)").message("refresh is immutable: make a new run"))]
#[x_kube(validation = Rule::new("!has(self.refresh) || !has(self.stages) || self.stages.exists(s, s == 'gold')").message("refresh: it is the gold stage that refreshes, and stages leaves it out"))]
#[x_kube(validation = Rule::new("!has(oldSelf.state) || oldSelf.state != 'Cancelled' || (has(self.state) && self.state == 'Cancelled')").message("state: a Cancelled run stays Cancelled"))]
#[x_kube(validation = Rule::new("!has(self.stages) || self.stages.all(s, self.stages.exists_one(t, t == s))").message("stages: each stage may stand once"))]
pub struct LakehouseRunSpec {
    /// Name of the LakehousePipeline, in the same namespace.
    #[schemars(length(min = 1, max = 52))]
    pub pipeline: String,
    /// The interval of data that the run covers: start inclusive, end exclusive.
    pub interval: RunInterval,
    /// Stages to run; default ingest, silver and gold. `maintenance` runs only when it is named. A subset takes its input from the newest complete stage before it, or from `inputsFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4))]
    pub stages: Option<Vec<Stage>>,
    /// A run whose bronze objects are the input of this one's silver stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub inputs_from: Option<String>,
    /// Which intervals the gold stage computes beside that of the run. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Refresh>,
    /// Values that replace the pipeline's parameters of the same name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub parameters: BTreeMap<String, String>,
    /// The run whose failure this one retries: one of the same pipeline and interval that failed or was cancelled. Without `ingest` among `stages`, silver reads what that run read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub retry_of: Option<String>,
    /// The only mutable field: Active, Suspended (no further Job is made) or Cancelled (running Jobs are stopped; final).
    #[serde(default)]
    pub state: RunState,
}

/// An interval of time, start inclusive, end exclusive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.start < self.end").message("interval: start must be before end"))]
pub struct RunInterval {
    /// First instant of the interval, RFC 3339, such as 2024-01-01T00:00:00Z.
    pub start: DateTime<Utc>,
    /// First instant after the interval.
    pub end: DateTime<Utc>,
}

/// Which intervals the gold stage computes beside that of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Refresh {
    /// Those that a model computed from inputs which have changed since, the oldest first.
    Stale,
    /// All that the tables have, the oldest first, whether anything changed or not. The run's own interval is computed only if it is among them.
    Full,
}

/// What is wanted of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunState {
    /// Run to the end.
    #[default]
    Active,
    /// Make no further Job; a running one ends.
    Suspended,
    /// Stop running Jobs and end with reason `Cancelled`.
    Cancelled,
}

/// What happened so far. Outcomes live here: a Job that was cleaned up is never run again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LakehouseRunStatus {
    /// `Succeeded`: `Unknown` while it runs, `True` or `False` at the end, with a documented reason.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The generation these conditions speak of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Name of the ControllerRevision that holds the resolved definition this run executes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
    /// Identity in the store (`<name>-<first 8 of the UID>`) of the run whose bronze objects are silver's input, fixed at the start by `inputsFrom` or `retryOf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs_from: Option<String>,
    /// The stage that is running or waits for its next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_stage: Option<Stage>,
    /// When the first Job was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When the outcome was known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    /// One entry per stage of the run, in order.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub stages: Vec<StageStatus>,
    /// Rows read by the silver stage.
    pub rows_read: i64,
    /// Rows written by the silver stage.
    pub rows_written: i64,
    /// Rows put into quarantine by the silver stage.
    pub rows_quarantined: i64,
}

/// What happened in one stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageStatus {
    /// Which stage.
    pub name: Stage,
    /// Where it stands.
    pub state: StageState,
    /// Number of the current or last attempt, from 1; 0 before the first.
    #[serde(default)]
    pub attempt: i32,
    /// Attempts that ended because their Job was deleted before its outcome was known; they do not count as retries.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: i32,
    /// Attempts that failed and were followed by another one, by class of failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["class"]))]
    pub retries: Vec<StageRetries>,
    /// Name of the Job of that attempt. While `state` is Pending and `retryAt` is absent: the Job that is about to be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// When the first attempt's Job was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When the outcome was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    /// Not before this time is the next attempt made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<DateTime<Utc>>,
    /// One word for how the last attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The line a person reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// URI of the full report object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// SHA-256 of the report object, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_digest: Option<String>,
    /// Rows (for ingest: records) read.
    #[serde(default)]
    pub rows_read: i64,
    /// Rows written.
    #[serde(default)]
    pub rows_written: i64,
    /// Rows put into quarantine.
    #[serde(default)]
    pub rows_quarantined: i64,
    /// Rows left out as duplicates or as older than what the table holds.
    #[serde(default)]
    pub rows_deduplicated: i64,
    /// Rows dropped by an expectation that says so.
    #[serde(default)]
    pub rows_dropped: i64,
    /// Bytes written to the object store.
    #[serde(default)]
    pub bytes_written: i64,
    /// How far the running attempt is, as its log says; at most every 30 s. Absent: it has not begun, has said nothing yet, or has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<StageProgress>,
    /// After a gold stage: intervals of its models whose inputs have changed since they were computed. Absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<StaleIntervals>,
    /// The tables this stage committed to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableStatus>,
}

/// How far a running attempt is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageProgress {
    /// The step of the stage that is under way, such as `write silver.coins`.
    #[schemars(length(max = 128))]
    pub step: String,
    /// Rows or records handled within this step.
    pub rows: i64,
    /// Bytes handled within this step.
    pub bytes: i64,
    /// Rows or records that the step will handle, where that is known beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
    /// Share of `total` that is done, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i32>,
    /// When this was observed.
    pub updated_at: DateTime<Utc>,
}

/// Retries of a stage after failures of one class. When the next attempt begins is in the stage's `retryAt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageRetries {
    /// The class of failure.
    pub class: FailureClass,
    /// Attempts made, or about to be made, after failures of this class.
    pub count: i32,
    /// How many there may be.
    pub limit: i32,
}

/// Intervals that gold models computed from inputs which have changed since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StaleIntervals {
    /// How many there are.
    pub count: i64,
    /// Starts of the oldest ones, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub oldest: Vec<DateTime<Utc>>,
    /// When the stage began to look; what was committed before that is in the count. Absent in what older releases said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<DateTime<Utc>>,
}

fn is_zero(count: &i32) -> bool {
    *count == 0
}

/// A table that a stage committed to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TableStatus {
    /// Namespace and name, such as `silver.price_snapshots`.
    pub name: String,
    /// Snapshot (Iceberg) or generation (Parquet) that the commit made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Rows written.
    #[serde(default)]
    pub rows_written: i64,
}

/// Where a stage stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StageState {
    /// Not begun, or waiting for its next attempt.
    Pending,
    /// A Job of it exists and has no outcome yet.
    Running,
    /// Done.
    Succeeded,
    /// Ended without success; no further attempt.
    Failed,
    /// Not executed, because a stage before it failed or the run was cancelled.
    Skipped,
}
