//! The source `http`: JSON documents from an API.

use chrono::{DateTime, Utc};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::HumanDuration;

/// An HTTP API that answers with JSON documents.
///
/// Templates in `path`: `{{ interval.start }}`, `{{ interval.end }}` (RFC 3339), `{{ interval.date }}` (YYYY-MM-DD),
/// `{{ interval.startMillis }}`, `{{ interval.endMillis }}`, `{{ parameters.NAME }}`; values are URL-encoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.incremental) || self.history == 'none'").message("incremental goes with history: none; a source that can be asked for an interval takes {{ interval.start }} and {{ interval.end }} in its path"))]
pub struct HttpSource {
    /// Name of a connection of the Lakehouse.
    #[schemars(length(min = 1, max = 63))]
    pub connection: String,
    /// Path and query, appended to the connection's base URL.
    #[schemars(length(min = 1, max = 2048), regex(pattern = "^/[^ #]*.*$"))]
    pub path: String,
    /// JSON Pointer (RFC 6901) to the array of records in each response; absent: the document itself (an array of records, or one record).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = "^(/.*)?$"))]
    pub records: Option<String>,
    /// How the next page is found; absent: one response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paging: Option<Paging>,
    /// Load only what is new since the interval before; absent: all that the source answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incremental: Option<Incremental>,
    /// What the source knows of the past.
    #[serde(default)]
    pub history: History,
    /// Accept a first response without any record. Without this it fails the run with reason EmptyResponse, unless an `incremental` source was
    /// asked for what is new.
    #[serde(default)]
    pub allow_empty: bool,
    /// Longest time one request may take, up to the last byte.
    #[serde(default = "default_timeout")]
    pub timeout: HumanDuration,
    /// How often a request that met 429, 5xx, a timeout or a broken connection is sent again, with exponential backoff, jitter and Retry-After.
    #[serde(default = "default_http_retries")]
    #[schemars(range(min = 0, max = 20))]
    pub retries: i32,
}

pub(super) fn default_timeout() -> HumanDuration {
    HumanDuration::seconds(30)
}

pub(super) fn default_http_retries() -> i32 {
    4
}

/// What a source knows of the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum History {
    /// Only "now": a run for an interval that ended longer ago than one grain plus an hour is refused with reason NoHistory.
    #[default]
    None,
    /// The request carries the interval; any interval may be asked for.
    ByInterval,
}

/// How the next page is found. Exactly one of `page`, `offset`, `cursor`, `next`, `link`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.page), has(self.offset), has(self.cursor), has(self.next), has(self.link)].filter(x, x).size() == 1").message("paging: give exactly one of page, offset, cursor, next, link"))]
pub struct Paging {
    /// A page number in a query parameter; ends with the first page without records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<PagePaging>,
    /// The number of records to pass over in a query parameter; ends with the first page without records, or with fewer than `pageSize`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<OffsetPaging>,
    /// The response holds a cursor, which goes into a query parameter of the next request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<CursorPaging>,
    /// The response holds the URL of the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextPaging>,
    /// The response has a `Link` header (RFC 8288) with the URL of the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkPaging>,
    /// More pages than this fail the run: a guard against an endless source.
    #[serde(default = "default_max_pages")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_pages: i32,
}

pub(super) fn default_max_pages() -> i32 {
    1000
}

/// A page number in a query parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PagePaging {
    /// Name of the query parameter.
    #[schemars(length(min = 1, max = 64))]
    pub parameter: String,
    /// Number of the first page.
    #[serde(default = "default_first_page")]
    pub first: i32,
}

fn default_first_page() -> i32 {
    1
}

/// The number of records to pass over in a query parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OffsetPaging {
    /// Name of the query parameter.
    #[schemars(length(min = 1, max = 64))]
    pub parameter: String,
    /// Records of a full page, as `path` asks for it: a page with fewer is the last. Absent: only a page without records is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub page_size: Option<i32>,
}

/// A cursor in the response that goes into a query parameter of the next request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CursorPaging {
    /// JSON Pointer to the cursor, a string or a whole number; null, absent or empty: the last page.
    #[schemars(length(min = 1, max = 256), regex(pattern = "^/.*$"))]
    pub pointer: String,
    /// Name of the query parameter.
    #[schemars(length(min = 1, max = 64))]
    pub parameter: String,
}

/// The response has a `Link` header with the URL of the next page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkPaging {
    /// Relation of the link to follow; absolute (same host only) or relative. No such link: the last page.
    #[serde(default = "default_rel")]
    #[schemars(length(min = 1, max = 64))]
    pub rel: String,
}

fn default_rel() -> String {
    "next".to_owned()
}

/// The response holds the URL of the next page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NextPaging {
    /// JSON Pointer to the URL, absolute (same host only) or relative; null, absent or empty: the last page.
    #[schemars(length(min = 1, max = 256), regex(pattern = "^/.*$"))]
    pub pointer: String,
}

/// Load only what is new: the greatest value of a field of all records so far goes into a query parameter of the first request.
///
/// The value is kept in the manifest of each interval. A run takes the one of the newest interval before its own, so that a run repeated asks
/// for the same again. Whether the record with that very value is sent again is the source's affair: deduplicate or merge by key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Incremental {
    /// JSON Pointer (RFC 6901) within each record to the value that grows, such as `/updated_at`. Records without it say nothing.
    #[schemars(length(min = 1, max = 256), regex(pattern = "^/.*$"))]
    pub cursor: String,
    /// Name of the query parameter, such as `updated_since`.
    #[schemars(length(min = 1, max = 64))]
    pub parameter: String,
    /// Value of the parameter as long as nothing was loaded; absent: the first request goes without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub initial: Option<String>,
    /// How values compare.
    #[serde(default, rename = "type")]
    pub cursor_type: CursorType,
}

/// How the values of a cursor compare. They are sent as they were received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CursorType {
    /// As instants, RFC 3339 with an offset.
    #[default]
    Timestamptz,
    /// As whole numbers.
    Long,
    /// As texts, by their UTF-8 bytes.
    String,
}

/// A value of a cursor, in the order of its type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CursorValue {
    /// An instant.
    Timestamptz(DateTime<Utc>),
    /// A whole number.
    Long(i64),
    /// A text.
    String(String),
}

impl CursorType {
    /// The value that `text` is.
    ///
    /// # Errors
    /// What it is not.
    pub fn parse(self, text: &str) -> Result<CursorValue, &'static str> {
        match self {
            Self::Timestamptz => DateTime::parse_from_rfc3339(text)
                .map(|at| CursorValue::Timestamptz(at.to_utc()))
                .map_err(|_| "no time with an offset, such as 2024-01-01T00:00:00Z (type: timestamptz)"),
            Self::Long => text.parse().map(CursorValue::Long).map_err(|_| "no whole number of 64 bits (type: long)"),
            Self::String => Ok(CursorValue::String(text.to_owned())),
        }
    }
}
