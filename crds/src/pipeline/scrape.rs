//! The source `scrape`: HTML pages, records by CSS selectors.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::http::{History, default_http_retries, default_max_pages, default_timeout};
use crate::common::HumanDuration;

/// HTML pages, whose records are found by CSS selectors.
///
/// Bronze keeps the pages as they came; the selectors are applied by silver, so that a changed one is replayed from bronze. Pages are taken
/// as the server sends them; with `render` a browser loads them first and executes their scripts. `path` takes the templates of `http.path`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScrapeSource {
    /// Name of a connection of the Lakehouse.
    #[schemars(length(min = 1, max = 63))]
    pub connection: String,
    /// Path and query of the first page, appended to the connection's base URL.
    #[schemars(length(min = 1, max = 2048), regex(pattern = "^/[^ #]*.*$"))]
    pub path: String,
    /// CSS selector of the elements that are records, in the order of the page.
    #[schemars(length(min = 1, max = 512))]
    pub records: String,
    /// The fields of a record. A column takes one by `from: /NAME`.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub fields: Vec<ScrapeField>,
    /// How the next page is found; absent: one page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paging: Option<ScrapePaging>,
    /// What the source knows of the past.
    #[serde(default)]
    pub history: History,
    /// Accept pages without any record. Without this one fails the run with reason EmptyResponse.
    #[serde(default)]
    pub allow_empty: bool,
    /// Shortest time from the start of one request to that of the next, tries and redirects included; a longer Crawl-delay of robots.txt counts
    /// instead, up to one minute.
    #[serde(default = "default_request_interval")]
    pub request_interval: HumanDuration,
    /// Whether the robots.txt of the connection's host is obeyed.
    #[serde(default)]
    pub robots: Robots,
    /// Longest time one request may take, up to the last byte.
    #[serde(default = "default_timeout")]
    pub timeout: HumanDuration,
    /// How often a request that met 429, 5xx, a timeout or a broken connection is sent again, with exponential backoff, jitter and Retry-After.
    #[serde(default = "default_http_retries")]
    #[schemars(range(min = 0, max = 20))]
    pub retries: i32,
    /// Have pages made by their scripts; absent: scripts are not executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub render: Option<Render>,
}

/// What executes the scripts of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Render {
    /// A headless Chromium. Bronze keeps the document that it made of the page.
    pub chromium: Chromium,
}

/// When a page that Chromium loads is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Chromium {
    /// CSS selector of an element that the page has when it is made; absent: the page is taken when it has loaded and nothing was under way for
    /// half a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub wait_for: Option<String>,
    /// Longest time until then, from the first request of the page on; waits for `requestInterval` do not count.
    #[serde(default = "default_timeout")]
    pub timeout: HumanDuration,
}

fn default_request_interval() -> HumanDuration {
    HumanDuration::seconds(1)
}

/// A field of a record: text or an attribute of the first element that a selector finds within the record, or of all of them.
///
/// Text is that of the element and all within it, with white space as a browser shows it: at the ends none, else single spaces. Where nothing
/// is found the field is null (with `all`: an empty list).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.resolve) || !self.resolve || has(self.attribute)").message("resolve needs attribute: text is no URL"))]
pub struct ScrapeField {
    /// Name of the field.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z_][A-Za-z0-9_-]*$"))]
    pub name: String,
    /// CSS selector of elements within the record (`:scope` is the record); absent: the record itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub select: Option<String>,
    /// Name of the attribute to take, as it is written; absent: the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r#"^[^\s"'>/=]+$"#))]
    pub attribute: Option<String>,
    /// A list of what all elements give, instead of what the first one gives.
    #[serde(default)]
    pub all: bool,
    /// The attribute is a URL: make it absolute, from the page's URL or its `<base>`. What is no URL stays as it is.
    #[serde(default)]
    pub resolve: bool,
    /// Regular expression (linear time: no look-around, no back-references) to be found in the text or attribute; what it matches is taken, or
    /// what its first group matches. No match: null (with `all`: left out of the list).
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub match_: Option<String>,
}

/// How the next page is found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScrapePaging {
    /// A link in the page.
    pub next: ScrapeNext,
    /// More pages than this fail the run: a guard against an endless source.
    #[serde(default = "default_max_pages")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_pages: i32,
}

/// A link in the page that leads to the next one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScrapeNext {
    /// CSS selector of the link, on the whole page; the `href` of the first one counts, absolute (same host only) or relative. None: the last
    /// page.
    #[schemars(length(min = 1, max = 512))]
    pub select: String,
}

/// Whether robots.txt (RFC 9309) is obeyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Robots {
    /// A page that it disallows fails the run with reason SourceRefused. It is read once per run and source.
    #[default]
    Obey,
    /// It is not read: the owner of the host agreed, or it is our own.
    Ignore,
}
