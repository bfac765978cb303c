//! Apache Parquet: columns by name, through the same casts as text, so that a value fits exactly or is a fault.

use std::sync::Arc;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray, RecordBatch, StringArray},
    compute::cast,
    datatypes::{
        DataType, Date32Type, Field, Schema, TimeUnit as ArrowUnit, TimestampMicrosecondType, TimestampMillisecondType,
        TimestampNanosecondType, TimestampSecondType,
    },
    error::ArrowError,
    json::LineDelimitedWriter,
};
use lakehouse_api::pipeline::TimeUnit;
use lakehouse_contract::{Reason, StageFailure};

use super::{Raw, malformed, unknown::Collector};
use crate::{
    json::{
        pointer,
        value::{Value, Zone},
    },
    rows::{RowBuilder, Rows, Values},
    schema::{TablePlan, Unknown},
    unit::{RunFacts, Unit},
};

pub(super) fn decode<'u>(plan: &'u TablePlan, unit: &'u Unit, facts: RunFacts) -> Result<(Rows, Raw<'u>), StageFailure> {
    let mut builder = RowBuilder::new(plan, unit, facts, 1024);
    let batches = match read(unit) {
        Ok(batches) => batches,
        Err(error) => {
            // Its bytes are of no use in a text column; the object stays in bronze.
            builder.refuse(malformed(format!("the object is not a readable Parquet file: {error}")));
            let raw: Raw<'u> = Box::new(|_| format!("{} bytes", unit.bytes.len()));
            return Ok((builder.finish(&raw)?, raw));
        }
    };
    let names: Vec<String> = plan
        .record
        .texts()
        .iter()
        .map(|text| pointer::tokens(text).ok().and_then(|tokens| tokens.into_iter().next()).unwrap_or_default())
        .collect();
    let mut unknown = Collector::new(plan.unknown);
    for batch in &batches {
        let others = match plan.unknown {
            Unknown::Ignore => Others::default(),
            Unknown::Capture | Unknown::Fail => Others::of(plan, unit, batch)?,
        };
        let columns: Vec<Cells> = names.iter().map(|name| batch.column_by_name(name).map_or(Cells::Missing, cells)).collect();
        for row in 0..batch.num_rows() {
            let slots: Vec<Value<'_>> = columns.iter().map(|column| column.value(row)).collect();
            let unknown = others.of_row(row, &mut unknown, &builder)?;
            builder.push(Values::one(&slots), &[], unknown)?;
        }
    }
    let raw: Raw<'u> = Box::new(move |ordinal| json_of(&batches, ordinal as usize));
    Ok((builder.finish(&raw)?, raw))
}

/// The columns of a batch that no column of the table takes.
#[derive(Default)]
struct Others {
    names: Vec<(usize, String)>,
    /// Per row a JSON object without its nulls.
    objects: Vec<String>,
}

impl Others {
    /// # Errors
    /// `SchemaMismatch` when they are to be kept and have a type that JSON cannot show.
    fn of(plan: &TablePlan, unit: &Unit, batch: &RecordBatch) -> Result<Self, StageFailure> {
        let names = plan.unknown.columns(batch.schema_ref().fields().iter().map(|field| field.name().as_str()), &plan.record);
        if names.is_empty() || plan.unknown == Unknown::Fail {
            return Ok(Self { names, objects: Vec::new() });
        }
        let indices: Vec<usize> = names.iter().map(|(index, _)| *index).collect();
        let lines = batch.project(&indices).and_then(|others| json_lines(&others)).map_err(|error| {
            let message = format!("{}: object {}: fields that no column takes cannot be kept: {error}", plan.table, unit.object);
            StageFailure::new(Reason::SchemaMismatch, message)
        })?;
        Ok(Self { names, objects: lines.lines().map(str::to_owned).collect() })
    }

    fn of_row<'a>(&'a self, row: usize, unknown: &'a mut Collector, builder: &RowBuilder<'_>) -> Result<Value<'a>, StageFailure> {
        match self.objects.get(row) {
            Some(object) if object == "{}" => Ok(Value::Null),
            Some(object) => Ok(Value::Container(object)),
            // Nothing to keep: the names alone decide.
            None => unknown.of_fields(&self.names, |_| None, builder),
        }
    }
}

fn read(unit: &Unit) -> Result<Vec<RecordBatch>, ArrowError> {
    ParquetRecordBatchReaderBuilder::try_new(unit.bytes.clone())?.with_batch_size(8_192).build()?.collect()
}

/// The values of one column of one batch.
enum Cells {
    Missing,
    Text(StringArray),
    Number(StringArray),
    Boolean(BooleanArray),
    Date(PrimitiveArray<Date32Type>),
    Time { values: Vec<Option<i64>>, unit: TimeUnit, zone: Zone },
    Json(Vec<Option<String>>),
    Other(ArrayRef, String),
}

/// Prepares a column once per batch.
fn cells(array: &ArrayRef) -> Cells {
    let other = || Cells::Other(array.clone(), array.data_type().to_string());
    let text = |wrap: fn(StringArray) -> Cells| match cast(array, &DataType::Utf8) {
        Ok(text) => wrap(text.as_string::<i32>().clone()),
        Err(_) => other(),
    };
    match array.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => text(Cells::Text),
        DataType::Dictionary(_, values) if matches!(**values, DataType::Utf8 | DataType::LargeUtf8) => text(Cells::Text),
        kind if kind.is_numeric() && !matches!(kind, DataType::Float16) => text(Cells::Number),
        DataType::Boolean => Cells::Boolean(array.as_boolean().clone()),
        DataType::Date32 => Cells::Date(array.as_primitive::<Date32Type>().clone()),
        DataType::Timestamp(unit, zone) => {
            let zone = if zone.is_some() { Zone::Utc } else { Zone::None };
            let (unit, values) = match unit {
                ArrowUnit::Second => (TimeUnit::Seconds, array.as_primitive::<TimestampSecondType>().iter().collect()),
                ArrowUnit::Millisecond => (TimeUnit::Milliseconds, array.as_primitive::<TimestampMillisecondType>().iter().collect()),
                ArrowUnit::Microsecond => (TimeUnit::Microseconds, array.as_primitive::<TimestampMicrosecondType>().iter().collect()),
                ArrowUnit::Nanosecond => (TimeUnit::Nanoseconds, array.as_primitive::<TimestampNanosecondType>().iter().collect()),
            };
            Cells::Time { values, unit, zone }
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) | DataType::Struct(_) | DataType::Map(..) => {
            json_column(array).map_or_else(|_| other(), Cells::Json)
        }
        _ => other(),
    }
}

impl Cells {
    fn value(&self, row: usize) -> Value<'_> {
        match self {
            Cells::Missing => Value::Missing,
            Cells::Text(values) if values.is_valid(row) => Value::Text(values.value(row)),
            Cells::Number(values) if values.is_valid(row) => Value::Number(values.value(row)),
            Cells::Boolean(values) if values.is_valid(row) => Value::Bool(values.value(row)),
            Cells::Date(values) if values.is_valid(row) => Value::Date(values.value(row)),
            Cells::Time { values, unit, zone } => match values[row] {
                Some(value) => Value::Time { value, unit: *unit, zone: *zone },
                None => Value::Null,
            },
            Cells::Json(values) => values[row].as_deref().map_or(Value::Null, Value::Container),
            Cells::Other(values, name) if values.is_valid(row) => Value::Other(name),
            _ => Value::Null,
        }
    }
}

/// Nested values as JSON texts.
fn json_column(array: &ArrayRef) -> Result<Vec<Option<String>>, ArrowError> {
    const NAME: &str = "v";
    let schema = Arc::new(Schema::new(vec![Field::new(NAME, array.data_type().clone(), true)]));
    let lines = json_lines(&RecordBatch::try_new(schema, vec![array.clone()])?)?;
    // Each line is `{"v":…}`; a null value has no key.
    Ok(lines.lines().map(|line| line.strip_prefix("{\"v\":").and_then(|rest| rest.strip_suffix('}')).map(str::to_owned)).collect())
}

fn json_lines(batch: &RecordBatch) -> Result<String, ArrowError> {
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    String::from_utf8(writer.into_inner()).map_err(|error| ArrowError::JsonError(error.to_string()))
}

/// The row with this number over all batches, as JSON.
fn json_of(batches: &[RecordBatch], mut row: usize) -> String {
    for batch in batches {
        if row < batch.num_rows() {
            return json_lines(&batch.slice(row, 1)).map_or_else(|error| error.to_string(), |text| text.trim_end().to_owned());
        }
        row -= batch.num_rows();
    }
    String::new()
}
