//! Sources: where bronze objects come from. One variant of [`Source`] per kind of source; each has its module in `jobs/ingest`.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{http::HttpSource, scrape::ScrapeSource};
use crate::common::HumanDuration;

/// A source with a name. Exactly one of `http`, `pulse`, `clickstream`, `sensors`, `files`, `scrape`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.http), has(self.pulse), has(self.clickstream), has(self.sensors), has(self.files), has(self.scrape)].filter(x, x).size() == 1").message("a source needs exactly one of http, pulse, clickstream, sensors, files, scrape"))]
pub struct Source {
    /// Name that silver tables refer to; part of the bronze keys.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z]([a-z0-9_-]*[a-z0-9])?$"))]
    pub name: String,
    /// An HTTP API that answers with JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
    /// A timestamped heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulse: Option<PulseSource>,
    /// Generated events of an online shop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clickstream: Option<ClickstreamSource>,
    /// Generated readings of temperature and humidity, or the devices that take them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensors: Option<SensorsSource>,
    /// Files uploaded to the landing bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesSource>,
    /// HTML pages, records by CSS selectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrape: Option<ScrapeSource>,
}

/// A timestamped heartbeat: one record `{"pulse_id", "ts", "sequence", "source", "status"}` per tick of the interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PulseSource {
    /// Time between two ticks.
    #[serde(default = "default_every")]
    pub every: HumanDuration,
}

fn default_every() -> HumanDuration {
    HumanDuration::seconds(60)
}

/// Generated events of an online shop: sessions by a Markov chain view → add_to_cart → purchase.
///
/// Records: event_id, ts, user_id, session_id, event_type, product, price, region. The same seed, source name and interval give the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClickstreamSource {
    /// Events per interval.
    #[serde(default = "default_events")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub events: i64,
    /// Events a second, for a stream that arrives as in life; absent: as fast as the store takes them. The job's timeout must leave time for
    /// `events / eventsPerSecond`. A store that is slower slows the events down; none is lost, and what was late is not made up for in a burst.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub events_per_second: Option<i64>,
    /// Distinct users.
    #[serde(default = "default_users")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub users: i32,
    /// Distinct products.
    #[serde(default = "default_products")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub products: i32,
    /// Seed of the generator.
    #[serde(default)]
    pub seed: i64,
    /// Of 10,000 events, how many are sent twice, as at-least-once delivery does.
    #[serde(default = "default_duplicates")]
    #[schemars(range(min = 0, max = 10_000))]
    pub duplicates_per_ten_thousand: i32,
    /// Of 10,000 events, how many carry a fault (missing user, unparsable price, negative price, unknown event type).
    #[serde(default = "default_faults")]
    #[schemars(range(min = 0, max = 10_000))]
    pub faults_per_ten_thousand: i32,
}

fn default_events() -> i64 {
    10_000
}
fn default_users() -> i32 {
    500
}
fn default_products() -> i32 {
    40
}
fn default_duplicates() -> i32 {
    100
}
fn default_faults() -> i32 {
    20
}

/// Generated readings of temperature and humidity sensors, or the register of these devices.
///
/// Readings: device_id, ts, temperature (°C), humidity (%), anomaly (`spike`, `stuck`, `offset`, or null: the label of an injected anomaly).
/// Devices: device_id, model, site, installed_at, firmware, firmware_since, seen_at. The same seed, source and interval give the same bytes; a device is
/// the same in both streams and in every interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.continuous) || self.stream == 'readings'").message("continuous is for stream readings: what is known of the devices is there at once"))]
pub struct SensorsSource {
    /// What the records are.
    #[serde(default)]
    pub stream: SensorStream,
    /// Number of devices.
    #[serde(default = "default_devices")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub devices: i32,
    /// Time between two readings of a device.
    #[serde(default = "default_every")]
    pub every: HumanDuration,
    /// Seed of the generator.
    #[serde(default)]
    pub seed: i64,
    /// Of 10,000 readings, about how many never arrive; they are missing in bursts.
    #[serde(default = "default_dropouts")]
    #[schemars(range(min = 0, max = 5_000))]
    pub dropouts_per_ten_thousand: i32,
    /// Of 10,000 readings, about how many are anomalous, and labelled.
    #[serde(default = "default_anomalies")]
    #[schemars(range(min = 0, max = 5_000))]
    pub anomalies_per_ten_thousand: i32,
    /// The readings come in real time, one after the other; absent: those of the interval are there at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuous: Option<Continuous>,
}

/// A stream in real time. It ends with the readings of the interval, or after `duration`; the job's timeout must leave time for it.
///
/// A reading comes when its time (`ts`) has come, those whose time is past at once; with `eventsPerSecond` at that rate, whatever their
/// times are: what a slower store delayed is then not made up for in a burst. None is lost. An attempt that is stopped keeps what it read, and the
/// next one goes on behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Continuous {
    /// Readings a second, of all devices together; absent: each at its own time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub events_per_second: Option<i64>,
    /// How long the stream is read, over all attempts of the run; absent: to the end of the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<HumanDuration>,
}

fn default_devices() -> i32 {
    20
}
fn default_dropouts() -> i32 {
    50
}
fn default_anomalies() -> i32 {
    20
}

/// What the records of a `sensors` source are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SensorStream {
    /// One record per device and tick of the interval, in the order of time.
    #[default]
    Readings,
    /// One record per device: what is known of it at the start of the interval.
    Devices,
}

/// Files under the Lakehouse's landing bucket; bytes are kept as they are. Files compressed with gzip or zstd are recognised by their content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilesSource {
    /// Key or glob (`*` within a folder, `**` across) relative to the landing location; takes the templates of `http.path`, not URL-encoded.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^[^/].*$"))]
    pub path: String,
    /// How silver decodes the files.
    pub format: FileFormat,
    /// For `json`: JSON Pointer to the array of records in each document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = "^(/.*)?$"))]
    pub records: Option<String>,
    /// Accept that no file matches. Without this it fails the run with reason EmptyResponse.
    #[serde(default)]
    pub allow_empty: bool,
    /// For `ndjson`: longest record in bytes, decompressed. A longer one goes to quarantine, which keeps its place, its digest and its beginning.
    #[serde(default = "default_max_record_bytes")]
    #[schemars(range(min = 1024, max = 1_073_741_824))]
    pub max_record_bytes: i64,
}

/// [`FilesSource::max_record_bytes`] where nothing is said: 16 MiB.
pub const fn default_max_record_bytes() -> i64 {
    16 << 20
}

/// How a file is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum FileFormat {
    /// One JSON document per file.
    Json,
    /// One JSON record per line.
    Ndjson,
    /// Comma-separated values with a header line (RFC 4180); every field is a string, an empty unquoted one is null.
    Csv,
    /// Apache Parquet.
    Parquet,
}
