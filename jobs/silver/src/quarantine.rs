//! Quarantined records: beside every silver table a table that holds what did not fit, raw, with the reason.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};
use lakehouse_contract::TableRef;
use lakehouse_tables::{Declared, PROCESSED_AT, TableDef};

use crate::{schema::timestamptz, unit::RunFacts};

/// Namespace of the quarantine tables.
pub(crate) const QUARANTINE: &str = "quarantine";
/// Column that places quarantined records in time.
pub(crate) const INTERVAL_START: &str = "interval_start";
/// Rows per batch of quarantined records, and bytes of their text: one array of text holds at most 2 GiB.
const BATCH_ROWS: usize = 8_192;
const BATCH_BYTES: usize = 64 << 20;

/// One quarantined record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quarantined {
    /// Bronze key.
    pub(crate) object: Arc<str>,
    /// Number of the record in its object.
    pub(crate) position: u64,
    /// `cast:<column>`, `required:<column>`, `malformed`, `not_an_object`, `too_long`, `outside_interval`, or an expectation's name.
    pub(crate) rule: Cow<'static, str>,
    /// What is wrong, as a person reads it.
    pub(crate) reason: String,
    /// The record as received; bytes that are not UTF-8 are replaced.
    pub(crate) record: String,
}

/// The definition of the quarantine table beside `table`.
pub(crate) fn definition(table: &TableDef) -> TableDef {
    TableDef {
        table: TableRef::new(QUARANTINE, &table.table.name),
        format: table.format,
        schema: schema(),
        partition_by: Vec::new(),
        sort_by: Vec::new(),
        bloom_filters: Vec::new(),
        owner: table.owner.clone(),
        properties: BTreeMap::new(),
        declared: Declared::default(),
    }
}

/// The columns of a quarantine table.
pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(INTERVAL_START, timestamptz(), false),
        Field::new("object", DataType::Utf8, false),
        Field::new("position", DataType::Int64, false),
        Field::new("rule", DataType::Utf8, false),
        Field::new("reason", DataType::Utf8, false),
        Field::new("record", DataType::Utf8, false),
        Field::new(PROCESSED_AT, timestamptz(), false),
    ]))
}

/// The records as batches of the quarantine table.
pub(crate) fn batches(rows: &[Quarantined], facts: RunFacts) -> Result<Vec<RecordBatch>, ArrowError> {
    let constant =
        |micros: i64, rows: usize| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from_value(micros, rows).with_timezone("UTC")) };
    let batch = |rows: &[Quarantined]| {
        let text = |of: fn(&Quarantined) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(of))) };
        let columns: Vec<ArrayRef> = vec![
            constant(facts.interval_start, rows.len()),
            text(|row| &row.object),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.position as i64))),
            text(|row| &row.rule),
            text(|row| &row.reason),
            text(|row| &row.record),
            constant(facts.processed_at, rows.len()),
        ];
        RecordBatch::try_new(schema(), columns)
    };
    chunks(rows).into_iter().map(batch).collect()
}

fn chunks(mut rows: &[Quarantined]) -> Vec<&[Quarantined]> {
    let mut chunks = Vec::new();
    while !rows.is_empty() {
        let mut bytes = 0;
        let fitting = rows.iter().take(BATCH_ROWS).take_while(|row| {
            bytes += row.record.len();
            bytes <= BATCH_BYTES
        });
        // A record that is too large by itself stands alone.
        let (chunk, rest) = rows.split_at(fitting.count().max(1));
        chunks.push(chunk);
        rows = rest;
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_records_stand_alone_and_none_is_lost() {
        let row = |bytes: usize| Quarantined {
            object: "o".into(),
            position: 0,
            rule: "malformed".into(),
            reason: String::new(),
            record: "x".repeat(bytes),
        };
        let rows: Vec<Quarantined> = [1, BATCH_BYTES + 1, 1, BATCH_BYTES / 2, BATCH_BYTES / 2].map(row).into();
        let lengths: Vec<usize> = chunks(&rows).iter().map(|chunk| chunk.len()).collect();
        assert_eq!(lengths, [1, 1, 2, 1]);
        let many: Vec<Quarantined> = (0..BATCH_ROWS + 1).map(|_| row(0)).collect();
        let facts = RunFacts { interval_start: 1, interval_end: 2, processed_at: 3 };
        let batches = batches(&many, facts).unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [BATCH_ROWS, 1]);
    }
}
