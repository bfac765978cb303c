//! One JSON record per line.

use lakehouse_contract::StageFailure;

use super::{Raw, malformed, not_an_object, raw_ranges, unknown::Collector};
use crate::{
    json::value::Value,
    rows::{Block, RowBuilder, Rows},
    schema::TablePlan,
    unit::{EXCERPT, Refused, RunFacts, Unit, line, too_long},
};

/// Bytes of a line by which the number of rows is guessed.
const LINE: usize = 160;

pub(super) fn decode<'u>(plan: &'u TablePlan, unit: &'u Unit, facts: RunFacts) -> Result<(Rows, Raw<'u>), StageFailure> {
    let bytes: &[u8] = &unit.bytes;
    let mut builder = RowBuilder::new(plan, unit, facts, bytes.len() / LINE + 1);
    let mut unknown = Collector::new(plan.unknown);
    let mut reader = unknown.reader(&plan.record);
    let mut block = Block::new(plan.record.len());
    let mut ranges = Vec::with_capacity(bytes.len() / LINE + 1);
    // Checked once as a whole; only when that fails is every line checked by itself.
    let whole = simdutf8::basic::from_utf8(bytes).ok();
    let mut at = 0;
    loop {
        // Most records are like the one before: these are read before anybody looks for the end of their line.
        let usual = whole.and_then(|text| {
            let end = reader.usual(text, at, block.next())?;
            let next = next_line(bytes, end)?;
            ((next - 1 - at) as u64 <= plan.max_record_bytes).then_some((end, next))
        });
        if let Some((end, next)) = usual {
            ranges.push((at, end));
            // It has no field beside those that are remembered, so none that no column takes.
            if block.keep() {
                builder.push(block.take(), &[], Value::Missing)?;
            }
            at = next;
            continue;
        }
        builder.push(block.take(), &[], Value::Missing)?;
        let Some((start, end)) = line(bytes, at) else { break };
        at = end + 1;
        if (end - start) as u64 > plan.max_record_bytes {
            ranges.push((start, start + EXCERPT.min(end - start)));
            builder.refuse(refused_for_length(plan, unit, start, end));
            continue;
        }
        let end = if bytes[start..end].ends_with(b"\r") { end - 1 } else { end };
        ranges.push((start, end));
        let line = match whole {
            Some(text) => text.get(start..end),
            None => simdutf8::basic::from_utf8(&bytes[start..end]).ok(),
        };
        let Some(line) = line else {
            builder.refuse(malformed("the line is not valid UTF-8"));
            continue;
        };
        match reader.read(line, block.next()) {
            Err(fault) => builder.refuse(malformed(fault)),
            Ok(()) if !line.trim_start().starts_with('{') => builder.refuse(not_an_object()),
            Ok(()) => {
                let unknown = unknown.of_record(&reader, line, &builder)?;
                block.keep();
                builder.push(block.take(), &[], unknown)?;
            }
        }
    }
    let raw = raw_ranges(unit, ranges);
    Ok((builder.finish(&raw)?, raw))
}

/// Where the next line begins, when a line ends at `end`, with or without a carriage return.
#[inline]
fn next_line(bytes: &[u8], end: usize) -> Option<usize> {
    match bytes.get(end..) {
        Some([b'\n', ..]) => Some(end + 1),
        Some([b'\r', b'\n', ..]) => Some(end + 2),
        _ => None,
    }
}

fn refused_for_length(plan: &TablePlan, unit: &Unit, start: usize, end: usize) -> Refused {
    let at = |offset: usize| unit.first_byte + offset as u64;
    let digest = lakehouse_storage::sha256(&unit.bytes[start..end]);
    too_long(at(start), at(end), &digest, &format!("maxRecordBytes {}", plan.max_record_bytes))
}
