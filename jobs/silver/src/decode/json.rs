//! One JSON document per object, with an array of records somewhere in it.

use lakehouse_contract::{Decode, StageFailure};

use super::{Raw, malformed, not_an_object, raw_ranges, unknown::Collector, whole_unit};
use crate::{
    json::{elements, record::Reader, value::Value},
    pages::RECORDS,
    rows::{RowBuilder, Rows, Values},
    schema::TablePlan,
    unit::{RunFacts, Unit},
};

pub(super) fn decode<'u>(plan: &'u TablePlan, unit: &'u Unit, facts: RunFacts) -> Result<(Rows, Raw<'u>), StageFailure> {
    let builder = RowBuilder::new(plan, unit, facts, 64);
    let Ok(text) = simdutf8::basic::from_utf8(&unit.bytes) else {
        return whole_unit(builder, malformed("the document is not valid UTF-8"), unit);
    };
    let mut document = vec![Value::Missing; plan.document.len()];
    if let Err(fault) = Reader::new(&plan.document).read(text, &mut document) {
        return whole_unit(builder, malformed(fault), unit);
    }
    let pointer = match &plan.decode {
        Decode::Json { records } => records.as_str(),
        Decode::Html { .. } => RECORDS,
        _ => "",
    };
    let records = match plan.records_slot.map(|slot| document[slot]) {
        Some(Value::Container(records)) if records.starts_with('[') => match elements(records) {
            Ok(elements) => elements,
            Err(fault) => return whole_unit(builder, malformed(fault), unit),
        },
        // The document itself may be one record.
        Some(Value::Container(record)) if pointer.is_empty() => vec![record],
        found => {
            let found = found.unwrap_or(Value::Missing);
            let place = if pointer.is_empty() { "the document".to_owned() } else { format!("`{pointer}` of the document") };
            return whole_unit(builder, malformed(format!("{place} is not an array of records: it is {}", found.shown())), unit);
        }
    };
    rows(plan, unit, builder, text, &records, &document)
}

fn rows<'u>(
    plan: &'u TablePlan,
    unit: &'u Unit,
    mut builder: RowBuilder<'u>,
    text: &str,
    records: &[&str],
    document: &[Value<'_>],
) -> Result<(Rows, Raw<'u>), StageFailure> {
    let mut unknown = Collector::new(plan.unknown);
    let mut reader = unknown.reader(&plan.record);
    let mut slots = vec![Value::Missing; plan.record.len()];
    let mut ranges = Vec::with_capacity(records.len());
    for record in records {
        let start = record.as_ptr().addr() - text.as_ptr().addr();
        ranges.push((start, start + record.len()));
        match reader.read(record, &mut slots) {
            Err(fault) => builder.refuse(malformed(fault)),
            Ok(()) if !record.starts_with('{') => builder.refuse(not_an_object()),
            Ok(()) => {
                let unknown = unknown.of_record(&reader, record, &builder)?;
                builder.push(Values::one(&slots), document, unknown)?;
            }
        }
    }
    let raw = raw_ranges(unit, ranges);
    Ok((builder.finish(&raw)?, raw))
}
