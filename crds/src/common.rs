//! What several kinds share: names, durations, the grain of an interval, stages, secret references.

use std::{fmt, str::FromStr, time::Duration};

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A duration as people write it: `30s`, `5m`, `1h`, `7d`. Units: `s`, `m`, `h`, `d`; one number, one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

/// Why a text is no [`HumanDuration`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a duration: write a number and a unit, such as 30s, 5m, 1h or 7d")]
pub struct InvalidDuration(String);

impl HumanDuration {
    /// A duration of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl FromStr for HumanDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidDuration(text.to_owned());
        let unit = text.chars().last().ok_or_else(invalid)?;
        let factor = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(invalid()),
        };
        let digits = &text[..text.len() - 1];
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        let count: u64 = digits.parse().map_err(|_| invalid())?;
        let seconds = count.checked_mul(factor).ok_or_else(invalid)?;
        Ok(Self::seconds(seconds))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        for (factor, unit) in [(86_400, 'd'), (3_600, 'h'), (60, 'm')] {
            if seconds > 0 && seconds.is_multiple_of(factor) {
                return write!(f, "{}{unit}", seconds / factor);
            }
        }
        write!(f, "{seconds}s")
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for HumanDuration {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^[0-9]{1,9}[smhd]$"})
    }
}

/// A size of files in whole mebibytes or gibibytes, as Kubernetes writes quantities: `128Mi`, `1Gi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileSize(u64);

/// Why a text is no [`FileSize`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a file size: write a number and a unit, such as 128Mi or 1Gi")]
pub struct InvalidFileSize(String);

const MEBIBYTE: u64 = 1 << 20;
const GIBIBYTE: u64 = 1 << 30;

impl FileSize {
    /// A size of whole mebibytes.
    pub const fn mebibytes(count: u32) -> Self {
        Self(count as u64 * MEBIBYTE)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for FileSize {
    type Err = InvalidFileSize;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidFileSize(text.to_owned());
        let units = [("Mi", MEBIBYTE), ("Gi", GIBIBYTE)];
        let (digits, unit) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit))).ok_or_else(invalid)?;
        if digits.len() > 4 || digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        digits.parse::<u64>().map(|count| Self(count * unit)).map_err(|_| invalid())
    }
}

impl fmt::Display for FileSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(GIBIBYTE) { write!(f, "{}Gi", self.0 / GIBIBYTE) } else { write!(f, "{}Mi", self.0 / MEBIBYTE) }
    }
}

impl Serialize for FileSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for FileSize {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FileSize".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^[1-9][0-9]{0,3}(Mi|Gi)$"})
    }
}

/// The grain of one run: the length of the interval of data that it covers. Boundaries are those of UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum IntervalGrain {
    /// From one full hour to the next.
    Hourly,
    /// From midnight to midnight.
    #[default]
    Daily,
    /// From the first of a month to the first of the next.
    Monthly,
}

/// A stage of a run, in the order of execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Sources → immutable bronze objects.
    Ingest,
    /// Bronze objects → typed silver tables.
    Silver,
    /// Silver tables → gold models.
    Gold,
    /// Compaction, expiry of snapshots, removal of orphans. Only in runs that name it.
    Maintenance,
}

impl Stage {
    /// All stages, in the order of execution.
    pub const ALL: [Stage; 4] = [Stage::Ingest, Stage::Silver, Stage::Gold, Stage::Maintenance];
    /// The stages of a run that names none, in the order of execution.
    pub const DEFAULT: [Stage; 3] = [Stage::Ingest, Stage::Silver, Stage::Gold];

    /// The name used in manifests, images, Jobs and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Ingest => "ingest",
            Stage::Silver => "silver",
            Stage::Gold => "gold",
            Stage::Maintenance => "maintenance",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Stage {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Stage::ALL
            .into_iter()
            .find(|stage| stage.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a stage: one of ingest, silver, gold, maintenance"))
    }
}

/// One key of a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key within the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// What kind of failure ended an attempt. It decides whether another one is made, how often and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FailureClass {
    /// Store, catalog or source did not answer as they should: exit code 10.
    Retryable,
    /// Something unforeseen: exit code 1 or any other, or a limit of the pod other than that of memory.
    Unexpected,
    /// Memory or disk ran out.
    OutOfMemory,
    /// Not done within `jobs.timeout`.
    Timeout,
    /// The cluster took the pod away: eviction, preemption, a drained or lost node, a deleted pod.
    Disruption,
    /// The pod did not start within `jobs.startDeadline`: no image, no node, no Secret. Not retried: it was waited for already.
    NotStarted,
    /// The definition, the data or a credential is at fault: exit code 20. Never retried.
    Terminal,
}

impl FailureClass {
    /// The name as it stands in a run's status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retryable => "Retryable",
            Self::Unexpected => "Unexpected",
            Self::OutOfMemory => "OutOfMemory",
            Self::Timeout => "Timeout",
            Self::Disruption => "Disruption",
            Self::NotStarted => "NotStarted",
            Self::Terminal => "Terminal",
        }
    }
}

impl std::fmt::Display for FailureClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_sizes_round_trip() {
        for (text, bytes) in [("1Mi", 1 << 20), ("128Mi", 128 << 20), ("9999Gi", 9999 << 30)] {
            let size: FileSize = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string()), (bytes, text.to_owned()));
        }
        for text in ["", "Mi", "0Mi", "12", "12M", "1.5Gi", "-1Mi", "12345Mi"] {
            assert!(text.parse::<FileSize>().is_err(), "{text}");
        }
    }
}
