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
}

impl Stage {
    /// All stages, in the order of execution.
    pub const ALL: [Stage; 3] = [Stage::Ingest, Stage::Silver, Stage::Gold];

    /// The name used in manifests, images, Jobs and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Ingest => "ingest",
            Stage::Silver => "silver",
            Stage::Gold => "gold",
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
            .ok_or_else(|| format!("`{text}` is not a stage: one of ingest, silver, gold"))
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
