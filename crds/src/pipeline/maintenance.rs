//! Maintenance of a pipeline's tables: what the stage `maintenance` does. Runs have it only when they name it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{FileSize, HumanDuration};

/// What the stage `maintenance` does to every table of the pipeline, the quarantine tables included, and to its bronze. `{}` does all of it with the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Maintenance {
    /// Small files are rewritten into larger ones, sorted by the table's `sortBy`. The rows stay the same.
    pub compact: Compact,
    /// Old snapshots are forgotten, and the files that only they needed are deleted.
    pub expire_snapshots: ExpireSnapshots,
    /// Files that no snapshot refers to, left by attempts that died, are deleted.
    pub remove_orphans: RemoveOrphans,
    /// Bronze objects and manifests of intervals that ended longer ago than this, in days, are deleted; absent: bronze is kept for ever. Silver
    /// of such an interval cannot be made again from bronze, its tables keep their rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^[1-9][0-9]{0,5}d$"))]
    pub bronze_retention: Option<HumanDuration>,
    /// Only report what `bronzeRetention` would delete.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bronze_retention_dry_run: bool,
}

/// Rewriting of small files. Plain Parquet tables need none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Compact {
    /// Whether it is done.
    pub enabled: bool,
    /// Size that files are brought near to, as a quantity in Mi or Gi.
    pub target_file_size: FileSize,
}

impl Default for Compact {
    fn default() -> Self {
        Self { enabled: true, target_file_size: FileSize::mebibytes(128) }
    }
}

/// Forgetting of old snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExpireSnapshots {
    /// Whether it is done.
    pub enabled: bool,
    /// A snapshot goes when another took its place longer ago than this, in hours or days. Runs that pinned a snapshot need it until they
    /// are done, retries included.
    #[schemars(extend("pattern" = AGE))]
    pub older_than: HumanDuration,
    /// The newest snapshots of a table that stay whatever their age.
    #[schemars(range(min = 1, max = 10_000))]
    pub keep_last: i32,
}

impl Default for ExpireSnapshots {
    fn default() -> Self {
        Self { enabled: true, older_than: HumanDuration::seconds(7 * 86_400), keep_last: 10 }
    }
}

/// Deletion of files that no snapshot refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RemoveOrphans {
    /// Whether it is done.
    pub enabled: bool,
    /// A file goes when it was written longer ago than this, in hours or days. It must be more than the longest time between the first file
    /// of a write and its commit, and so more than `jobs.timeout`.
    #[schemars(extend("pattern" = AGE))]
    pub older_than: HumanDuration,
    /// Only report what would be deleted.
    pub dry_run: bool,
}

impl Default for RemoveOrphans {
    fn default() -> Self {
        Self { enabled: true, older_than: HumanDuration::seconds(3 * 86_400), dry_run: false }
    }
}

/// Ages of at least an hour.
const AGE: &str = "^[1-9][0-9]{0,5}[hd]$";
