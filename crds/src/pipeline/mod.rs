//! `LakehousePipeline`: a definition. Sources → silver tables → gold models.

pub mod expectation;
pub mod gold;
pub mod history;
pub mod http;
pub mod jobs;
pub mod maintenance;
pub mod retries;
pub mod scrape;
pub mod silver;
pub mod source;
pub mod table;
pub mod trigger;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::IntervalGrain;
pub use expectation::{Bounds, DEFAULT_AGAINST, Distribution, Expectation, Freshness, Otherwise, Quantile, References};
pub use gold::{GoldModel, ModelTest, TestRow};
pub use history::HistoryLimits;
pub use http::{
    CursorPaging, CursorType, CursorValue, History, HttpSource, Incremental, LinkPaging, NextPaging, OffsetPaging, PagePaging, Paging,
};
pub use jobs::{JobSettings, Resources, StageSettings};
pub use maintenance::{Compact, ExpireSnapshots, Maintenance, RemoveOrphans};
pub use retries::{ClassLimits, ClassPolicy, RetryPolicy};
pub use scrape::{Chromium, Render, Robots, ScrapeField, ScrapeNext, ScrapePaging, ScrapeSource};
pub use silver::{CastError, Column, Deduplicate, Keep, SilverTable, TimeUnit};
pub use source::{ClickstreamSource, Continuous, FileFormat, FilesSource, PulseSource, SensorStream, SensorsSource, Source};
pub use table::{Append, Merge, Outside, Overwrite, ReplaceInterval, TableFormat, TableLayout, WriteMode};
pub use trigger::{CatchUp, ConcurrencyPolicy, External, OnApply, OnApplyInterval, Schedule, Trigger};

/// A medallion pipeline: what to fetch, how it becomes typed tables, which models are computed from them.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "lakehouse.rs",
    version = "v1alpha1",
    kind = "LakehousePipeline",
    plural = "lakehousepipelines",
    shortname = "lhp",
    category = "lakehouse",
    namespaced,
    status = "LakehousePipelineStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must have at most 52 characters: names of runs and Jobs are derived from it"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.lastRun.phase"),
    printcolumn(name = "Interval", type_ = "string", json_path = ".status.lastRun.interval.start"),
    printcolumn(name = "Rows", type_ = "integer", json_path = ".status.lastRun.rowsWritten"),
    printcolumn(name = "Stale", type_ = "integer", json_path = ".status.staleIntervals.count"),
    printcolumn(name = "Active", type_ = "integer", json_path = ".status.activeRuns"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextScheduledTime"),
    printcolumn(name = "Last Run", type_ = "string", json_path = ".status.lastRun.name"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.silver) || self.silver.all(s, self.ingest.exists(i, i.name == s.from))").message("silver: `from` must name a source of ingest"))]
pub struct LakehousePipelineSpec {
    /// Name of the Lakehouse, in the same namespace.
    #[schemars(length(min = 1, max = 63))]
    pub lakehouse: String,
    /// The grain of one run: hourly, daily or monthly, in UTC.
    #[serde(default)]
    pub interval: IntervalGrain,
    /// What makes runs: `onApply`, `schedule` or `external`. Default: external, that is Airflow, the CLI or a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// Defaults for `{{ parameters.NAME }}` in sources; a run may replace them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub parameters: BTreeMap<String, String>,
    /// Sources, each fetched into immutable bronze objects.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub ingest: Vec<Source>,
    /// Typed tables made from the sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub silver: Vec<SilverTable>,
    /// Models computed by SQL from silver tables and from each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub gold: Vec<GoldModel>,
    /// What the stage `maintenance` does to the tables. Absent: the pipeline has no such stage. It is no part of what decides rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
    /// Retries, timeouts and resources of the Jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<JobSettings>,
    /// How many runs of this pipeline may have Jobs at the same time.
    #[serde(default = "default_max_concurrent_runs")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_concurrent_runs: i32,
    /// How many finished runs are kept. Default: 30 that succeeded and 10 that did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_limits: Option<HistoryLimits>,
}

fn default_max_concurrent_runs() -> i32 {
    4
}

/// What the operator says of a definition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LakehousePipelineStatus {
    /// `Ready`: the definition is valid and its Lakehouse exists. With `trigger.schedule` also `Scheduled`: `False` while times of the schedule were left
    /// out, or cannot have their run.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The generation these conditions speak of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Name of the ControllerRevision of the current definition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
    /// Runs without an outcome.
    pub active_runs: i32,
    /// The newest run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run: Option<LastRun>,
    /// Start of the newest interval that a run completed with success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_succeeded_interval: Option<DateTime<Utc>>,
    /// What the gold stage that ended last found stale. Absent: no gold stage has said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_intervals: Option<StaleStatus>,
    /// Intervals for which a run completed the last stage of the definition, joined where they touch; the newest 32 stretches. It outlives the runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub completed_intervals: Vec<crate::run::RunInterval>,
    /// The schedule that the two times below belong to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ObservedSchedule>,
    /// The newest time of the schedule that was dealt with: its run was made, or was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_scheduled_time: Option<DateTime<Utc>>,
    /// When the schedule makes its next run. Absent while it is suspended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_scheduled_time: Option<DateTime<Utc>>,
}

/// A schedule as the operator follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObservedSchedule {
    /// Its `cron`.
    pub cron: String,
    /// Its `timeZone`.
    pub time_zone: String,
    /// When the operator first saw it: times before are none of its.
    pub since: DateTime<Utc>,
}

/// Intervals of gold models to be computed again: a run with `stages: [gold]` for one of them, or with `refresh: Stale`, does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StaleStatus {
    /// How many there are, the oldest, and since when that is known.
    #[serde(flatten)]
    pub intervals: crate::run::StaleIntervals,
    /// The run whose gold stage said so: of all, the one that looked last.
    pub run: String,
}

/// The newest run of a pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastRun {
    /// Name of the LakehouseRun.
    pub name: String,
    /// Its interval.
    pub interval: crate::run::RunInterval,
    /// Reason of its `Succeeded` condition.
    pub phase: String,
    /// Rows its silver stage wrote.
    pub rows_written: i64,
}
