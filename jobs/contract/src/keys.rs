//! Names and object keys. All keys are relative to their layer's location.

use std::fmt;

use lakehouse_api::common::{IntervalGrain, Stage};
use serde::{Deserialize, Serialize};

use crate::Interval;

/// Identity of a run in the object store: `<name>-<first 8 of the UID>`, so that a run deleted and made again is another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub String);

impl RunId {
    /// The identity of the run `name` with Kubernetes UID (or, on a laptop, UUID) `uid`.
    pub fn new(name: &str, uid: &str) -> Self {
        let short: String = uid.chars().filter(|c| *c != '-').take(8).collect();
        Self(format!("{name}-{short}"))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A table: namespace and name. Namespaces: `silver`, `quarantine` (both in the silver layer), `gold`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableRef {
    /// `silver`, `quarantine` or `gold`.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
}

/// Owner of the tables of the namespace `quality`: every pipeline adds to them. No pipeline has this name, there is no slash in it.
pub const SHARED_OWNER: &str = "shared";

impl TableRef {
    /// The table `namespace.name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for TableRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace, self.name)
    }
}

/// Folder of the manifests of a pipeline, beside those of its sources.
pub const MANIFESTS: &str = "_manifests";

/// Folder of all bronze objects of one source, without a slash at the end.
pub fn bronze_source(pipeline: &str, source: &str) -> String {
    format!("{pipeline}/{source}")
}

/// Folder of the bronze objects of one attempt for one source, without a slash at the end.
pub fn bronze_folder(pipeline: &str, source: &str, dt: &str, run: &RunId, attempt: u32) -> String {
    format!("{}/dt={dt}/run={run}-{attempt}", bronze_source(pipeline, source))
}

/// Claim of the bronze folders of one attempt, in the bronze layer; put by conditional write. A process that finds it taken (a second
/// pod of the attempt, or a laptop run after a crash) gives its objects other names, so that no object is ever written twice.
pub fn bronze_claim(pipeline: &str, run: &RunId, attempt: u32) -> String {
    format!("_lakehouse/runs/{pipeline}/{run}/{}-{attempt}.claim", Stage::Ingest)
}

/// Folder of the records that a continuous source of a run keeps of the objects that it has put so far, for a further attempt to go on from.
pub fn bronze_parts(pipeline: &str, run: &RunId, source: &str) -> String {
    format!("_lakehouse/runs/{pipeline}/{run}/{}-{source}.parts", Stage::Ingest)
}

/// Folder of the manifests of all intervals.
pub fn all_bronze_manifests(pipeline: &str) -> String {
    format!("{pipeline}/{MANIFESTS}")
}

/// Folder of the manifests of one interval.
pub fn bronze_manifests(pipeline: &str, interval: &Interval, grain: IntervalGrain) -> String {
    bronze_manifests_labelled(pipeline, &interval.label(grain))
}

/// Folder of the manifests of the interval with this label.
pub fn bronze_manifests_labelled(pipeline: &str, label: &str) -> String {
    format!("{}/dt={label}", all_bronze_manifests(pipeline))
}

/// The mark that maintenance leaves in the folder of an interval's manifests when it retires them: a [`crate::Retired`]. No manifest, by its name.
pub fn bronze_retired(manifests: &str) -> String {
    format!("{manifests}/retired")
}

/// The manifest of one run: without it its ingest does not exist.
pub fn bronze_manifest(pipeline: &str, interval: &Interval, grain: IntervalGrain, run: &RunId) -> String {
    format!("{}/run={run}.json", bronze_manifests(pipeline, interval, grain))
}

/// The report of one attempt of a stage, in the stage's own layer.
pub fn report(pipeline: &str, run: &RunId, stage: Stage, attempt: u32) -> String {
    format!("_lakehouse/runs/{pipeline}/{run}/{stage}-{attempt}.json")
}

/// The log of one attempt of a stage, beside its report: one JSON object per line.
pub fn log(pipeline: &str, run: &RunId, stage: Stage, attempt: u32) -> String {
    format!("{}.log.ndjson", report(pipeline, run, stage, attempt).trim_end_matches(".json"))
}

/// The lineage events of one attempt of a stage, beside its report: one JSON object per line.
pub fn lineage(pipeline: &str, run: &RunId, stage: Stage, attempt: u32) -> String {
    format!("_lakehouse/runs/{pipeline}/{run}/{stage}-{attempt}.lineage.ndjson")
}

/// The inputs that a stage pinned on its first attempt, in the stage's own layer; put by conditional write.
pub fn pins(pipeline: &str, run: &RunId, stage: Stage) -> String {
    format!("_lakehouse/runs/{pipeline}/{run}/{stage}-inputs.json")
}
