//! Decoding: the bytes of a unit to rows, straight into Arrow columns.

pub(crate) mod csv;
mod json;
mod ndjson;
mod parquet;
mod unknown;

use lakehouse_contract::{Decode, StageFailure};

use crate::{
    rows::{RowBuilder, Rows},
    schema::TablePlan,
    unit::{Refused, RunFacts, Unit},
};

/// Gives the text of a record by its number within the unit.
pub(crate) type Raw<'u> = Box<dyn Fn(u32) -> String + 'u>;

/// Decodes a unit for one table. The second value gives the records' raw text, for rows that are refused later.
///
/// # Errors
/// `CastFailed` when a value does not fit and its column says `onError: fail`.
pub(crate) fn decode<'u>(plan: &'u TablePlan, unit: &'u Unit, facts: RunFacts) -> Result<(Rows, Raw<'u>), StageFailure> {
    if let Some(fault) = &unit.fault {
        return whole_unit(RowBuilder::new(plan, unit, facts, 0), fault.clone(), unit);
    }
    match plan.decode {
        Decode::Ndjson => ndjson::decode(plan, unit, facts),
        // Of a page the unit holds what was extracted.
        Decode::Json { .. } | Decode::Html { .. } => json::decode(plan, unit, facts),
        Decode::Csv => csv::decode(plan, unit, facts),
        Decode::Parquet => parquet::decode(plan, unit, facts),
    }
}

/// A record that cannot be read.
fn malformed(reason: impl std::fmt::Display) -> Refused {
    Refused { rule: "malformed".to_owned(), reason: reason.to_string() }
}

/// A record that is valid JSON and no object.
fn not_an_object() -> Refused {
    Refused { rule: "not_an_object".to_owned(), reason: "the record is not an object".to_owned() }
}

/// A unit without a single record, because its bytes cannot be read as what they should be: it is quarantined whole.
fn whole_unit<'u>(mut builder: RowBuilder<'u>, refused: Refused, unit: &'u Unit) -> Result<(Rows, Raw<'u>), StageFailure> {
    builder.refuse(refused);
    let raw: Raw<'u> = Box::new(|_| String::from_utf8_lossy(&unit.bytes).into_owned());
    Ok((builder.finish(&raw)?, raw))
}

/// The text of byte ranges of a unit.
fn raw_ranges(unit: &Unit, ranges: Vec<(usize, usize)>) -> Raw<'_> {
    Box::new(move |ordinal| {
        let (start, end) = ranges.get(ordinal as usize).copied().unwrap_or_default();
        String::from_utf8_lossy(unit.bytes.get(start..end).unwrap_or_default()).into_owned()
    })
}

#[cfg(test)]
mod tests;
