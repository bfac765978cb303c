//! What a stage says about where its data came from and went. Lineage events are made of it and of the report.

use std::collections::{BTreeMap, BTreeSet};

use lakehouse_api::lineage::DEFAULT_RUNNING_INTERVAL;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::TableRef;

/// Where the lineage of a stage goes. Always into an object beside the report ([`crate::keys::lineage`]), and from there on:
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LineageSpec {
    /// Namespace of jobs in the events.
    pub namespace: String,
    /// An endpoint that each event is posted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<LineageEndpoint>,
    /// A file of this machine that events are added to, one per line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Seconds between two events of an attempt that is at work, at least one.
    #[serde(default = "default_running_seconds")]
    pub running_seconds: u64,
}

fn default_running_seconds() -> u64 {
    DEFAULT_RUNNING_INTERVAL.0.as_secs()
}

/// An endpoint that takes events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LineageEndpoint {
    /// The whole URL.
    pub url: Url,
    /// Environment variable with the bearer token; absent: none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// Longest time for one event in seconds, further tries included.
    pub timeout_seconds: u64,
}

/// Datasets that a stage read and wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// What it read.
    pub inputs: Vec<Input>,
    /// What it writes, whether it came to that or not: the report has what was committed.
    pub outputs: Vec<Output>,
    /// Why nothing is known.
    pub fault: Option<String>,
}

/// A dataset: a table, a folder of objects, or what a URL answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dataset {
    /// Absolute location, by which columns refer to it too.
    pub uri: String,
    /// Its name among the tables.
    pub table: Option<TableRef>,
    /// `iceberg`, `delta` or `parquet`.
    pub format: Option<String>,
    /// The state that was read; of an output, see the report.
    pub version: Option<String>,
    /// Names and types of its columns, or of the fields that are read of it; a type may be unknown.
    pub fields: Vec<(String, Option<String>)>,
}

/// A dataset that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// The dataset.
    pub dataset: Dataset,
    /// Bytes read, where they are known.
    pub bytes: Option<u64>,
    /// Objects read, where they are known.
    pub files: Option<u64>,
    /// The tables of the report that are made from it, in whose words it was read and judged.
    pub judged_as: Vec<String>,
}

/// A dataset that is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Name of its entry in the report.
    pub report: String,
    /// It is the quarantine beside that table: its rows are the quarantined ones of the entry.
    pub quarantine: bool,
    /// The dataset.
    pub dataset: Dataset,
    /// Where the values of each column come from.
    pub columns: BTreeMap<String, Vec<Origin>>,
    /// What decides which rows there are, and in what order.
    pub rows: Vec<Origin>,
}

/// A field of an input, and what it does to a column or to the rows of an output.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// [`Dataset::uri`] of the input.
    pub uri: String,
    /// Name of the field.
    pub field: String,
    /// How.
    pub effects: BTreeSet<Effect>,
}

/// What a field does to a column or to rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Effect {
    /// The kind.
    pub kind: EffectKind,
    /// The value cannot be had back: it was hashed or counted.
    pub masking: bool,
}

/// Kinds of effects, those of OpenLineage's facet `columnLineage`. The first three are direct: the value itself goes into the column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EffectKind {
    /// The value as it is.
    Identity,
    /// A function of the value.
    Transformation,
    /// An aggregate of values.
    Aggregation,
    /// Rows are joined by it.
    Join,
    /// Rows are grouped by it.
    GroupBy,
    /// Rows are left out by it.
    Filter,
    /// Rows are ordered by it.
    Sort,
    /// A window is made by it.
    Window,
    /// It decides between values.
    Conditional,
}

impl EffectKind {
    /// Whether the value itself goes into the column.
    pub const fn is_direct(self) -> bool {
        matches!(self, Self::Identity | Self::Transformation | Self::Aggregation)
    }

    /// The subtype's name in OpenLineage.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "IDENTITY",
            Self::Transformation => "TRANSFORMATION",
            Self::Aggregation => "AGGREGATION",
            Self::Join => "JOIN",
            Self::GroupBy => "GROUP_BY",
            Self::Filter => "FILTER",
            Self::Sort => "SORT",
            Self::Window => "WINDOW",
            Self::Conditional => "CONDITIONAL",
        }
    }
}
