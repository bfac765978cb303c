//! The bronze manifest: the one object that makes an ingest exist.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Interval, RunId, token::digest_json};

/// What one run ingested. Put once, by conditional write, after every object it names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BronzeManifest {
    /// [`crate::CONTRACT_VERSION`].
    pub contract: u32,
    /// Pipeline name.
    pub pipeline: String,
    /// The run.
    pub run: RunId,
    /// The attempt that wrote it.
    pub attempt: u32,
    /// The interval of data.
    pub interval: Interval,
    /// When it was put; the newest manifest of an interval is the one with the highest (`committed_at`, `run`).
    pub committed_at: DateTime<Utc>,
    /// One entry per source of the pipeline.
    pub sources: Vec<SourceManifest>,
}

/// What is left of an interval whose bronze was retired by `maintenance.bronzeRetention`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retired {
    /// When.
    pub at: DateTime<Utc>,
    /// The run that did it.
    pub run: RunId,
    /// Cursors of the interval's newest manifest by source: a later interval goes on from there, however long it was paused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cursors: BTreeMap<String, String>,
}

/// The objects of one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceManifest {
    /// Source name.
    pub name: String,
    /// The objects, in the order of their records.
    pub objects: Vec<BronzeObject>,
    /// For a source that loads only what is new: the greatest value of its cursor so far, as it was received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// One immutable object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BronzeObject {
    /// Key within the bronze layer.
    pub key: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the bytes, hexadecimal.
    pub sha256: String,
    /// BLAKE3 of the bytes, hexadecimal: what readers check, at several times the speed of SHA-256. Objects of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// Number of records, where ingest counted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// When the bytes were received.
    pub captured_at: DateTime<Utc>,
    /// Facts of the source's answer: URL without credentials, status, content type, ETag, or the file's own key and modification time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

impl BronzeManifest {
    /// The cursors of its sources that have one.
    pub fn cursors(&self) -> BTreeMap<String, String> {
        self.sources.iter().filter_map(|source| Some((source.name.clone(), source.cursor.clone()?))).collect()
    }

    /// Of two manifests of an interval the one with the higher rank is the newer.
    pub fn rank(&self) -> (DateTime<Utc>, &RunId) {
        (self.committed_at, &self.run)
    }
}

impl SourceManifest {
    /// Digest of the content: equal bytes in equal order give equal digests, whoever fetched them and when.
    pub fn input_digest(&self) -> String {
        let contents: Vec<&str> = self.objects.iter().map(|o| o.sha256.as_str()).collect();
        digest_json(&contents)
    }
}
