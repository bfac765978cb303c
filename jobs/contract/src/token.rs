//! Commit tokens: the identity of an effect, so that it happens once.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Interval, TableRef};

/// SHA-256 of `value` as JSON, hexadecimal. Fields are in the order of their type, so equal values give equal digests.
pub fn digest_json(value: &impl Serialize) -> String {
    // Serialization of our own types to JSON cannot fail: string keys, no maps with other keys.
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    hex::encode(Sha256::digest(bytes))
}

/// Token of one commit: hash of pipeline, table, interval, input digest and definition digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommitToken(pub String);

impl CommitToken {
    /// The token for writing `input` under `definition` into `table` for `interval`.
    pub fn new(pipeline: &str, table: &TableRef, interval: &Interval, input: &str, definition: &str) -> Self {
        Self(digest_json(&(pipeline, table, interval, input, definition)))
    }

    /// The token as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
