//! The spec of a stage: everything that a job needs to know, with templates rendered and names resolved. No secrets.

use chrono::{DateTime, Utc};
use lakehouse_api::{
    common::{IntervalGrain, Stage},
    pipeline::{
        ClickstreamSource, FileFormat, GoldModel, History, Incremental, Maintenance, Paging, PulseSource, Robots, ScrapeField,
        ScrapePaging, SensorsSource, SilverTable,
    },
    run::Refresh,
};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{Interval, LineageSpec, RunId, TableRef};

/// What one attempt of one stage has to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageSpec {
    /// [`crate::CONTRACT_VERSION`]; which ones a job executes: [`crate::version`].
    pub contract: u32,
    /// Pipeline name.
    pub pipeline: String,
    /// Owner of the tables: `namespace/pipeline`; on a laptop the namespace is `local`.
    pub owner: String,
    /// The run.
    pub run: RunRef,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// The interval of data.
    pub interval: Interval,
    /// Its grain.
    pub grain: IntervalGrain,
    /// Where data lives.
    pub store: StoreLocation,
    /// Where the stage's lineage goes; absent: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<LineageSpec>,
    /// The work.
    pub work: Work,
}

/// The run that a stage belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRef {
    /// Name of the LakehouseRun.
    pub name: String,
    /// Identity in the object store.
    pub id: RunId,
    /// Creation time of the run: `processed_at` of every row.
    pub created_at: DateTime<Utc>,
}

/// Where the layers live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StoreLocation {
    /// Folders `bronze`, `silver`, `gold`, `landing` of an absolute local path.
    Local {
        /// The path.
        root: String,
        /// Where `files` sources read, if not `root/landing`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        landing: Option<String>,
    },
    /// Buckets of an S3-compatible store; each value is `bucket` or `bucket/prefix`. Credentials come from the environment.
    S3 {
        /// URL; absent: AWS.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
        /// Region that requests are signed for.
        region: String,
        /// Bronze location.
        bronze: String,
        /// Silver location.
        silver: String,
        /// Gold location.
        gold: String,
        /// Landing location.
        landing: String,
    },
}

/// The work of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Work {
    /// Fetch sources.
    #[serde(rename_all = "camelCase")]
    Ingest {
        /// The sources.
        sources: Vec<ResolvedSource>,
    },
    /// Make silver tables.
    #[serde(rename_all = "camelCase")]
    Silver {
        /// Which bronze manifest is the input.
        input: SilverInput,
        /// The tables.
        tables: Vec<ResolvedSilver>,
        /// Names of the tables whose quarantined records are to be tried again, and only those; absent: all tables are made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replay: Option<Vec<String>>,
    },
    /// Compute gold models.
    #[serde(rename_all = "camelCase")]
    Gold {
        /// The models, in the order of the definition; the job orders them by what they read.
        models: Vec<ResolvedGold>,
        /// Which intervals are computed beside the run's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refresh: Option<Refresh>,
    },
    /// Maintain tables.
    #[serde(rename_all = "camelCase")]
    Maintenance {
        /// The tables that the definition may write to; those that do not exist yet are passed over.
        tables: Vec<TableRef>,
        /// What to do to them.
        settings: Maintenance,
    },
}

/// A source, ready to be fetched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedSource {
    /// Source name.
    pub name: String,
    /// What to fetch.
    pub source: IngestSource,
}

/// What to fetch, templates rendered.
#[allow(clippy::large_enum_variant, reason = "a handful per stage")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum IngestSource {
    /// An HTTP API.
    #[serde(rename_all = "camelCase")]
    Http {
        /// URL of the first request (without a page parameter).
        url: Url,
        /// The connection it goes through.
        connection: HttpConnection,
        /// JSON Pointer to the records, `""` for the document itself.
        records: String,
        /// How the next page is found.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        paging: Option<Paging>,
        /// Load only what is new.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incremental: Option<Incremental>,
        /// What the source knows of the past.
        history: History,
        /// Accept no record.
        allow_empty: bool,
        /// Seconds one request may take.
        timeout_seconds: u64,
        /// Further requests after a failed one.
        retries: u32,
    },
    /// A heartbeat.
    Pulse(PulseSource),
    /// Generated shop events.
    Clickstream(ClickstreamSource),
    /// Generated sensor readings.
    Sensors(SensorsSource),
    /// Uploaded files.
    #[serde(rename_all = "camelCase")]
    Files {
        /// Key or glob relative to the landing location.
        path: String,
        /// Format; decides the extension of the bronze objects.
        format: FileFormat,
        /// Accept that nothing matches.
        allow_empty: bool,
    },
    /// HTML pages.
    #[serde(rename_all = "camelCase")]
    Scrape {
        /// URL of the first page.
        url: Url,
        /// The connection it goes through.
        connection: HttpConnection,
        /// CSS selector of the records; silver has those of their fields.
        records: String,
        /// How the next page is found.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        paging: Option<ScrapePaging>,
        /// What the source knows of the past.
        history: History,
        /// Accept pages without a record.
        allow_empty: bool,
        /// Shortest time between the starts of two requests, in milliseconds.
        request_interval_millis: u64,
        /// Whether robots.txt is obeyed.
        robots: Robots,
        /// Seconds one request may take.
        timeout_seconds: u64,
        /// Further requests after a failed one.
        retries: u32,
        /// Have a browser make the pages.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        render: Option<Rendering>,
    },
}

impl IngestSource {
    /// The connection that it goes through, whose token its job needs.
    pub const fn connection(&self) -> Option<&HttpConnection> {
        match self {
            Self::Http { connection, .. } | Self::Scrape { connection, .. } => Some(connection),
            Self::Pulse(_) | Self::Clickstream(_) | Self::Sensors(_) | Self::Files { .. } => None,
        }
    }
}

/// The connection of a source that asks a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpConnection {
    /// Name of the connection.
    pub name: String,
    /// Environment variable with the bearer token; absent: none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// Networks in CIDR notation that its host may have addresses in, beside those that everybody may reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_networks: Vec<String>,
    /// Further hosts, some with a port, from which its pages may load what is no page, when they are rendered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resource_hosts: Vec<String>,
}

/// How a browser makes a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rendering {
    /// CSS selector of an element that says that the page is made; absent: nothing is under way any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_for: Option<String>,
    /// Seconds until then.
    pub timeout_seconds: u64,
}

/// Which bronze manifest silver reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SilverInput {
    /// The one of this run.
    Run(RunId),
    /// The newest of the interval, pinned by the first attempt.
    Newest,
}

/// A silver table, with how its source is decoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedSilver {
    /// The table's definition.
    pub table: SilverTable,
    /// How objects of its source are decoded.
    pub decode: Decode,
    /// Longest NDJSON record of its source, in bytes; a longer one is quarantined.
    #[serde(default = "default_max_record_bytes")]
    pub max_record_bytes: u64,
    /// Digest of what decides its rows: the definition, `decode` and `max_record_bytes`.
    pub definition_digest: String,
}

/// [`ResolvedSilver::max_record_bytes`] of sources that do not say it.
pub const fn default_max_record_bytes() -> u64 {
    lakehouse_api::pipeline::source::default_max_record_bytes().unsigned_abs()
}

/// How bronze objects become records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Decode {
    /// One JSON document per object; the pointer leads to the array of records (`""`: the document itself, an array or one record).
    Json {
        /// JSON Pointer.
        records: String,
    },
    /// One JSON record per line.
    Ndjson,
    /// RFC 4180 with header.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// One HTML page per object.
    Html {
        /// CSS selector of the records.
        records: String,
        /// What to take of each.
        fields: Vec<ScrapeField>,
    },
}

/// A gold model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedGold {
    /// The model's definition.
    pub model: GoldModel,
    /// `$readStart`.
    pub read_start: DateTime<Utc>,
    /// Digest of the definition.
    pub definition_digest: String,
}

impl StageSpec {
    /// The stage that this spec is for.
    pub const fn stage(&self) -> Stage {
        match self.work {
            Work::Ingest { .. } => Stage::Ingest,
            Work::Silver { .. } => Stage::Silver,
            Work::Gold { .. } => Stage::Gold,
            Work::Maintenance { .. } => Stage::Maintenance,
        }
    }

    /// Whether it needs a browser: a source has pages that are rendered.
    pub fn renders(&self) -> bool {
        let Work::Ingest { sources } = &self.work else { return false };
        sources.iter().any(|source| matches!(source.source, IngestSource::Scrape { render: Some(_), .. }))
    }

    /// The same work as another attempt.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }
}
