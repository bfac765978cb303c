//! What makes the runs of a pipeline: a changed definition, a schedule, or somebody else.

use chrono::{DateTime, Utc};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::HumanDuration;

/// What makes runs. Exactly one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.onApply), has(self.schedule), has(self.external)].filter(given, given).size() == 1").message("trigger: give exactly one of onApply, schedule, external"))]
pub struct Trigger {
    /// One run per changed definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_apply: Option<OnApply>,
    /// Runs at the times of a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Runs are made by someone else: Airflow, the CLI, a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<External>,
}

/// One run per changed definition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.start) || !has(self.interval)").message("onApply: give `interval` or `start`, not both"))]
pub struct OnApply {
    /// Which interval: `lastComplete` (the default) or `current`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<OnApplyInterval>,
    /// The interval that contains this instant instead, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<DateTime<Utc>>,
}

/// Which interval an applied definition runs for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnApplyInterval {
    /// The newest interval that has ended.
    #[default]
    LastComplete,
    /// The interval that contains now; it is not complete.
    Current,
}

/// Runs are made by someone else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct External {}

/// Runs at the times of a cron expression. A run is for the newest interval that is complete at its scheduled time, however late it is made, and there
/// is one run for an interval: of several times that mean the same one the first counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// Minute, hour, day of month, month, day of week, as in cron(5), with names (`MON`, `JAN`), lists, ranges and steps; or `@hourly`, `@daily`, `@weekly`,
    /// `@monthly`, `@yearly`. A day has to match day of month or day of week where both are given.
    #[schemars(length(min = 1, max = 100))]
    pub cron: String,
    /// IANA time zone of these times, such as `Europe/Berlin`. Intervals of data are those of UTC all the same.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
    /// What happens at a time of the schedule while a run that the schedule made is not finished.
    #[serde(default)]
    pub concurrency_policy: ConcurrencyPolicy,
    /// How late a run may be made, at least 10s; a time that was missed for longer is left out. Absent: however late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starting_deadline: Option<HumanDuration>,
    /// What happens to times that were missed, because the operator was down, the schedule suspended or another run at work.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// No runs are made. Times that pass meanwhile count as missed.
    #[serde(default)]
    pub suspend: bool,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// What happens at a time of the schedule while a run that the schedule made is not finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConcurrencyPolicy {
    /// The next run is made beside it; `maxConcurrentRuns` counts.
    #[default]
    Allow,
    /// The next run is made when it is finished, if `startingDeadline` allows.
    Forbid,
    /// It is cancelled, and the next run is made.
    Replace,
}

/// What happens to times that were missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CatchUp {
    /// For how many of them runs are made, beside that of the newest time; the newest are taken, the oldest of these begins. With `Replace` none are.
    #[schemars(range(min = 0, max = 100))]
    pub max: i32,
}
