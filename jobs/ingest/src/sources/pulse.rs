//! `pulse`: a timestamped heartbeat, one record per tick of the interval. The same interval gives the same bytes.

use std::{collections::BTreeMap, fmt::Write};

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat};
use lakehouse_api::pipeline::PulseSource;
use lakehouse_contract::Reason;
use uuid::Uuid;

use super::{Context, Source, ticks::Ticks};
use crate::{Chunk, IngestError, Sink};

/// Namespace of the `pulse_id`s: the same tick of the same source has the same id in every run.
const NAMESPACE: Uuid = Uuid::from_u128(0x6c61_6b65_686f_7573_8570_756c_7365_0001);
/// Records per chunk.
const CHUNK_RECORDS: i64 = 4096;

/// The heartbeat of one source.
pub struct Pulse<'a> {
    /// Surroundings.
    pub context: Context<'a>,
    /// Time between two ticks.
    pub definition: &'a PulseSource,
}

#[async_trait]
impl Source for Pulse<'_> {
    async fn fetch(&self, sink: &mut Sink<'_>) -> Result<(), IngestError> {
        let every = self.definition.every.0;
        let Some(ticks) = Ticks::of(&self.context.spec.interval, every) else {
            return Err(IngestError::source(Reason::InvalidDefinition, self.context.name, "pulse.every must be at least one second"));
        };
        let source = format!("{}/{}", self.context.spec.pipeline, self.context.name);
        let metadata = BTreeMap::from([("every".to_owned(), self.definition.every.to_string())]);
        sink.generate("ndjson", metadata, move |emit| {
            let mut from = ticks.first;
            while from < ticks.end {
                let to = (from + CHUNK_RECORDS).min(ticks.end);
                let bytes = lines(&source, ticks.seconds, from..to).into();
                if !emit(Chunk { bytes, records: to.abs_diff(from) }) {
                    return;
                }
                from = to;
            }
        })
        .await
    }

    fn expected_records(&self) -> Option<u64> {
        Ticks::of(&self.context.spec.interval, self.definition.every.0).map(|ticks| ticks.end.abs_diff(ticks.first))
    }
}

fn lines(source: &str, seconds: i64, ticks: std::ops::Range<i64>) -> String {
    let mut text = String::new();
    for sequence in ticks {
        let Some(time) = DateTime::from_timestamp(sequence * seconds, 0) else { continue };
        let ts = time.to_rfc3339_opts(SecondsFormat::Secs, true);
        let id = Uuid::new_v5(&NAMESPACE, format!("{source}@{ts}").as_bytes());
        // Writing to a String cannot fail; names hold no character that JSON escapes.
        let _ = writeln!(text, r#"{{"pulse_id":"{id}","ts":"{ts}","sequence":{sequence},"source":"{source}","status":"ok"}}"#);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_json_record_with_the_documented_fields() {
        let text = lines("shop/beat", 60, 28_401_120..28_401_122);
        let records: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.len(), 2);
        assert_eq!(
            records[0],
            serde_json::json!({
                "pulse_id": Uuid::new_v5(&NAMESPACE, b"shop/beat@2024-01-01T00:00:00Z").to_string(),
                "ts": "2024-01-01T00:00:00Z", "sequence": 28_401_120, "source": "shop/beat", "status": "ok",
            })
        );
        assert_ne!(records[0]["pulse_id"], records[1]["pulse_id"]);
    }
}
