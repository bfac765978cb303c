//! How many finished runs of a pipeline are kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many finished runs of the pipeline are kept, whoever made them; the oldest of the others are deleted, with their Jobs. What a run brought into
/// tables stays, and `status.completedIntervals` goes on to name its interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HistoryLimits {
    /// Runs that succeeded. More stay where one is still needed: as the input of later stages, by an unfinished backfill, or by a run that waits.
    #[schemars(range(min = 0, max = 100_000))]
    pub succeeded: i32,
    /// Runs that failed or were cancelled.
    #[schemars(range(min = 0, max = 100_000))]
    pub failed: i32,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self { succeeded: 30, failed: 10 }
    }
}
