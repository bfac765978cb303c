//! What a fuzzer reaches: the bytes of one object to rows and refused records, cut and decoded as the stage does, without a store.

use arrow::array::RecordBatch;
use bytes::Bytes;
use chrono::DateTime;
use lakehouse_contract::{BronzeObject, Reason, ResolvedSilver, StageFailure};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::{cut::cut, decode::decode, pages::extracted, schema::TablePlan, unit::RunFacts};

/// Bytes of a range of lines.
const RANGE: usize = 4 << 20;

/// A record that went aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Number of the record within the object.
    pub position: u64,
    /// The rule that it broke.
    pub rule: String,
    /// Why, as a person reads it.
    pub reason: String,
    /// The record, or its beginning.
    pub record: String,
}

/// What became of an object.
#[derive(Debug, Default, PartialEq)]
pub struct Decoded {
    /// Records that were read.
    pub read: u64,
    /// The rows, a batch per unit.
    pub batches: Vec<RecordBatch>,
    /// The records that are no rows.
    pub refused: Vec<Refused>,
}

/// Decodes an object of `bytes` that comes in pieces of `piece` bytes.
///
/// # Errors
/// As the stage: `CastFailed` for a column with `onError: fail`, `InvalidDefinition` for the table.
pub fn decode_object(table: &ResolvedSilver, bytes: &[u8], piece: usize) -> Result<Decoded, StageFailure> {
    let plan = TablePlan::new(table, "fuzz/fuzz")?;
    let facts = RunFacts { interval_start: 0, interval_end: 86_400_000_000, processed_at: 0 };
    let object = BronzeObject {
        key: "object".into(),
        bytes: bytes.len() as u64,
        sha256: hex::encode(Sha256::digest(bytes)),
        blake3: None,
        records: None,
        captured_at: DateTime::UNIX_EPOCH,
        metadata: Default::default(),
    };
    let received: Vec<Bytes> = bytes.chunks(piece.max(1)).map(Bytes::copy_from_slice).collect();
    let (pieces_in, pieces) = mpsc::channel(received.len() + 1);
    for bytes in received.into_iter().chain([Bytes::new()]) {
        pieces_in.try_send(Ok(bytes)).map_err(internal)?;
    }
    let (units_in, mut units) = mpsc::channel(1);
    std::thread::scope(|scope| {
        let (decode_as, objects) = (plan.decode.clone(), std::slice::from_ref(&object));
        let limit = table.max_record_bytes;
        let cutting = scope.spawn(move || cut(objects, &decode_as, limit, RANGE, pieces, &units_in));
        let mut decoded = Decoded::default();
        while let Some(unit) = units.blocking_recv() {
            let unit = match &plan.rules {
                Some(rules) => extracted(rules, unit),
                None => unit,
            };
            let (mut rows, _) = decode(&plan, &unit, facts)?;
            rows.settle()?;
            decoded.read += rows.read;
            decoded.refused.extend(rows.quarantined.into_iter().map(|row| Refused {
                position: row.position,
                rule: row.rule.into_owned(),
                reason: row.reason,
                record: row.record,
            }));
            decoded.batches.push(rows.batch);
        }
        cutting.join().map_err(|_| internal("the cutting thread ended unexpectedly"))??;
        Ok(decoded)
    })
}

fn internal(error: impl std::fmt::Display) -> StageFailure {
    StageFailure::new(Reason::Internal, error)
}
