//! Rows of one unit while they are built: values in, columns out, faults on the side.

mod block;

use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray},
    compute::{and, filter_record_batch},
    datatypes::{Schema, SchemaRef},
};
use lakehouse_api::pipeline::{CastError, TimeUnit};
use lakehouse_contract::{Reason, StageFailure};

use self::block::Faulty;
pub(crate) use self::block::{Block, Values};
use crate::{
    cast::{Appended, ColumnBuilder},
    json::value::{Value, Zone, shorten},
    quarantine::Quarantined,
    schema::{Origin, TablePlan},
    unit::{Refused, RunFacts, Unit},
};

/// Builds the rows of one table from one unit.
pub(crate) struct RowBuilder<'p> {
    plan: &'p TablePlan,
    unit: &'p Unit,
    facts: RunFacts,
    builders: Vec<ColumnBuilder>,
    /// Per built row: the record's number within the unit.
    ordinals: Vec<u32>,
    /// Built rows that are refused.
    refused_rows: Vec<usize>,
    /// Records seen.
    read: u64,
    quarantined: Vec<(u32, Refused)>,
}

impl<'p> RowBuilder<'p> {
    pub(crate) fn new(plan: &'p TablePlan, unit: &'p Unit, facts: RunFacts, expected_rows: usize) -> Self {
        let builders = plan.columns.iter().map(|column| ColumnBuilder::new(column.type_, column.unit, expected_rows)).collect();
        Self {
            plan,
            unit,
            facts,
            builders,
            ordinals: Vec::with_capacity(expected_rows),
            refused_rows: Vec::new(),
            read: 0,
            quarantined: Vec::new(),
        }
    }

    /// Adds the next records as rows, column by column; `document` and `unknown` are those of all of them. Values with a value that does not fit
    /// are quarantined.
    ///
    /// # Errors
    /// `CastFailed` when the column says `onError: fail`.
    pub(crate) fn push(&mut self, records: Values<'_, '_>, document: &[Value<'_>], unknown: Value<'_>) -> Result<(), StageFailure> {
        let (first, count) = (self.read as u32, records.count());
        let mut faulty = Faulty::default();
        for (index, builder) in self.builders.iter_mut().enumerate() {
            let column = &self.plan.columns[index];
            let mut tell = |row: usize, value, appended| match appended {
                Ok(Appended::Value) => {}
                Ok(Appended::Null) if !column.required => {}
                Ok(Appended::Null) => faulty.add(row, index, value, None),
                Err(_) if column.on_error == CastError::Null && !column.required => {}
                Err(fault) => faulty.add(row, index, value, Some(fault)),
            };
            let value = match column.origin {
                Origin::Record(slot) => {
                    builder.extend(records.column(slot), tell);
                    continue;
                }
                Origin::Position => {
                    // The number has to live as text for the cast: positions are rare columns.
                    for row in 0..count {
                        let text = (self.unit.first_position + u64::from(first) + row as u64).to_string();
                        tell(row, Value::Missing, builder.append(Value::Number(&text)));
                    }
                    continue;
                }
                Origin::Document(slot) => document[slot],
                Origin::Unknown => unknown,
                Origin::IntervalStart => instant(self.facts.interval_start),
                Origin::IntervalEnd => instant(self.facts.interval_end),
                Origin::CapturedAt => instant(self.unit.captured_at.timestamp_micros()),
                Origin::Object => Value::Text(&self.unit.object),
            };
            builder.extend(std::iter::repeat_n(value, count), tell);
        }
        for (row, index, value, fault) in faulty.in_order() {
            let ordinal = first + row as u32;
            let column = &self.plan.columns[index];
            let refused = match fault {
                None => Refused {
                    rule: format!("required:{}", column.name),
                    reason: format!("column {} is required and the record has {} there", column.name, value.shown()),
                },
                Some(fault) => Refused {
                    rule: format!("cast:{}", column.name),
                    reason: format!("column {}: {} {}; its type is {}", column.name, value.shown(), fault.0, column.type_),
                },
            };
            if column.on_error == CastError::Fail {
                return Err(StageFailure::new(
                    Reason::CastFailed,
                    format!("{}: object {}, record {}: {}", self.plan.table, self.unit.object, self.position(ordinal), refused.reason),
                ));
            }
            self.refused_rows.push(self.ordinals.len() + row);
            self.quarantined.push((ordinal, refused));
        }
        self.ordinals.extend(first..first + count as u32);
        self.read += count as u64;
        Ok(())
    }

    /// Counts the next record as one that is no row at all.
    pub(crate) fn refuse(&mut self, refused: Refused) {
        self.quarantined.push((self.read as u32, refused));
        self.read += 1;
    }

    /// The failure for a field of the next record that no column takes.
    #[cold]
    pub(crate) fn unknown_field(&self, name: &str) -> StageFailure {
        let message = format!(
            "{}: object {}, record {}: no column takes the field `{}`, and unknownFields says fail",
            self.plan.table,
            self.unit.object,
            self.position(self.read as u32),
            shorten(name)
        );
        StageFailure::new(Reason::SchemaMismatch, message)
    }

    fn position(&self, ordinal: u32) -> u64 {
        self.unit.first_position + u64::from(ordinal)
    }

    /// The rows, the refused ones marked. `raw` gives the text of a record by its number within the unit.
    ///
    /// # Errors
    /// `Internal` when the columns do not make a batch.
    pub(crate) fn finish(self, raw: &dyn Fn(u32) -> String) -> Result<Rows, StageFailure> {
        let first = self.unit.first_position;
        let quarantined = self
            .quarantined
            .into_iter()
            .map(|(ordinal, refused)| Quarantined {
                object: self.unit.object.clone(),
                position: first + u64::from(ordinal),
                rule: refused.rule.into(),
                reason: refused.reason,
                record: raw(ordinal),
            })
            .collect();
        let schema = &self.plan.schema;
        let mut columns: Vec<ArrayRef> = self.builders.into_iter().map(ColumnBuilder::finish).collect();
        let processed = TimestampMicrosecondArray::from_value(self.facts.processed_at, self.ordinals.len()).with_timezone("UTC");
        columns.push(std::sync::Arc::new(processed));
        let batch = batch(&nullable(schema), columns)?;
        let mut rows = Rows { batch, schema: schema.clone(), keep: None, ordinals: self.ordinals, read: self.read, quarantined };
        if !self.refused_rows.is_empty() {
            let mut keep = vec![true; rows.ordinals.len()];
            for row in self.refused_rows {
                keep[row] = false;
            }
            rows.retain(&BooleanArray::from(keep))?;
        }
        Ok(rows)
    }
}

fn instant(micros: i64) -> Value<'static> {
    Value::Time { value: micros, unit: TimeUnit::Microseconds, zone: Zone::Either }
}

fn internal(error: impl std::fmt::Display) -> StageFailure {
    StageFailure::new(Reason::Internal, error)
}

/// Rows of which none is to go, in the table's schema.
///
/// # Errors
/// `Internal` when a required column has a null.
pub(crate) fn strict(schema: &SchemaRef, rows: &RecordBatch) -> Result<RecordBatch, StageFailure> {
    batch(schema, rows.columns().to_vec())
}

fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>) -> Result<RecordBatch, StageFailure> {
    RecordBatch::try_new(schema.clone(), columns).map_err(internal)
}

/// Refused rows may hold nulls in required columns until they are taken out.
fn nullable(schema: &SchemaRef) -> SchemaRef {
    Schema::new(schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<_>>()).into()
}

/// The rows of one unit. Rows that go are marked, and moved out once, by whoever has the last word: most units have a few of them, and
/// every filter copies all others.
#[derive(Debug)]
pub(crate) struct Rows {
    /// The rows. Those that go may have nulls in required columns.
    pub(crate) batch: RecordBatch,
    /// The table's schema.
    schema: SchemaRef,
    /// Which rows stay; all, where it is absent.
    pub(crate) keep: Option<BooleanArray>,
    /// Per row: the record's number within the unit.
    pub(crate) ordinals: Vec<u32>,
    /// Values that were read.
    pub(crate) read: u64,
    /// Values that went aside.
    pub(crate) quarantined: Vec<Quarantined>,
}

impl Rows {
    /// Keeps, of those that stay so far, the rows where `keep` is true.
    pub(crate) fn retain(&mut self, keep: &BooleanArray) -> Result<(), StageFailure> {
        self.keep = Some(match &self.keep {
            None => keep.clone(),
            Some(known) => and(known, keep).map_err(internal)?,
        });
        Ok(())
    }

    /// Whether a row stays so far.
    pub(crate) fn stays(&self, row: usize) -> bool {
        self.keep.as_ref().is_none_or(|keep| keep.value(row))
    }

    /// How many stay so far.
    pub(crate) fn staying(&self) -> usize {
        self.keep.as_ref().map_or(self.batch.num_rows(), BooleanArray::true_count)
    }

    /// Moves the rows out that do not stay.
    pub(crate) fn settle(&mut self) -> Result<(), StageFailure> {
        if let Some(keep) = self.keep.take() {
            self.batch = filter_record_batch(&self.batch, &keep).map_err(internal)?;
            let mut kept = keep.values().iter();
            self.ordinals.retain(|_| kept.next().unwrap_or(false));
        }
        self.batch = strict(&self.schema, &self.batch)?;
        Ok(())
    }
}
