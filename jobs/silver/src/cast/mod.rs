//! Casts: a received value into a typed column, exact or a fault; never a lost digit.

pub(crate) mod number;
pub(crate) mod time;

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder, Int32Builder, Int64Builder,
        StringBuilder, TimestampMicrosecondBuilder,
    },
    datatypes::{DataType, TimeUnit as ArrowUnit},
};
use lakehouse_api::pipeline::TimeUnit;
use lakehouse_contract::ColumnType;

use self::{
    number::{NumberFault, POWERS, scaled},
    time::TimeFault,
};
use crate::json::{
    text,
    value::{Value, Zone},
};

/// The Arrow type of a column.
pub(crate) fn data_type(column: ColumnType) -> DataType {
    match column {
        ColumnType::String | ColumnType::Json => DataType::Utf8,
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Int => DataType::Int32,
        ColumnType::Long => DataType::Int64,
        ColumnType::Float => DataType::Float32,
        ColumnType::Double => DataType::Float64,
        ColumnType::Decimal(precision, scale) => DataType::Decimal128(precision, scale as i8),
        ColumnType::Date => DataType::Date32,
        ColumnType::Timestamp => DataType::Timestamp(ArrowUnit::Microsecond, None),
        ColumnType::Timestamptz => DataType::Timestamp(ArrowUnit::Microsecond, Some("UTC".into())),
    }
}

/// Why a value does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) &'static str);

impl From<NumberFault> for Fault {
    fn from(fault: NumberFault) -> Self {
        Self(match fault {
            NumberFault::Syntax => "is not a number",
            NumberFault::Lossy => "has more digits than the column can hold",
            NumberFault::Overflow => "is beyond the column's range",
        })
    }
}

impl From<TimeFault> for Fault {
    fn from(fault: TimeFault) -> Self {
        Self(match fault {
            TimeFault::Syntax => "is not a time in the form of RFC 3339",
            TimeFault::Range => "is no day or time of day that exists",
            TimeFault::Lossy => "is finer than a microsecond",
        })
    }
}

/// What one appended value became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// A value.
    Value,
    /// Null, because it was null or missing.
    Null,
}

/// Builds one column. Every call of [`Self::append`] adds exactly one entry, null when the value is at fault.
#[derive(Debug)]
pub(crate) struct ColumnBuilder {
    cells: Cells,
    unit: Option<TimeUnit>,
    scratch: String,
}

#[derive(Debug)]
enum Cells {
    String(StringBuilder),
    Json(StringBuilder),
    Boolean(BooleanBuilder),
    Int(Int32Builder),
    Long(Int64Builder),
    Float(Float32Builder),
    Double(Float64Builder),
    Decimal(Decimal128Builder, i32, i128),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    Timestamptz(TimestampMicrosecondBuilder),
}

impl ColumnBuilder {
    /// A builder with room for `rows` rows.
    pub(crate) fn new(column: ColumnType, unit: Option<TimeUnit>, rows: usize) -> Self {
        let cells = match column {
            ColumnType::String => Cells::String(StringBuilder::with_capacity(rows, rows * 16)),
            ColumnType::Json => Cells::Json(StringBuilder::with_capacity(rows, rows * 16)),
            ColumnType::Boolean => Cells::Boolean(BooleanBuilder::with_capacity(rows)),
            ColumnType::Int => Cells::Int(Int32Builder::with_capacity(rows)),
            ColumnType::Long => Cells::Long(Int64Builder::with_capacity(rows)),
            ColumnType::Float => Cells::Float(Float32Builder::with_capacity(rows)),
            ColumnType::Double => Cells::Double(Float64Builder::with_capacity(rows)),
            ColumnType::Decimal(precision, scale) => {
                let builder = Decimal128Builder::with_capacity(rows).with_data_type(data_type(column));
                Cells::Decimal(builder, i32::from(scale), POWERS[usize::from(precision)])
            }
            ColumnType::Date => Cells::Date(Date32Builder::with_capacity(rows)),
            ColumnType::Timestamp => Cells::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows)),
            ColumnType::Timestamptz => Cells::Timestamptz(TimestampMicrosecondBuilder::with_capacity(rows).with_timezone("UTC")),
        };
        Self { cells, unit, scratch: String::new() }
    }

    /// The finished column.
    pub(crate) fn finish(self) -> ArrayRef {
        match self.cells {
            Cells::String(mut b) | Cells::Json(mut b) => Arc::new(b.finish()),
            Cells::Boolean(mut b) => Arc::new(b.finish()),
            Cells::Int(mut b) => Arc::new(b.finish()),
            Cells::Long(mut b) => Arc::new(b.finish()),
            Cells::Float(mut b) => Arc::new(b.finish()),
            Cells::Double(mut b) => Arc::new(b.finish()),
            Cells::Decimal(mut b, ..) => Arc::new(b.finish()),
            Cells::Date(mut b) => Arc::new(b.finish()),
            Cells::Timestamp(mut b) | Cells::Timestamptz(mut b) => Arc::new(b.finish()),
        }
    }

    /// Appends values as [`Self::append`] does, one after the other, and tells what became of each that is not a plain value: its number, the
    /// value, and the outcome.
    ///
    /// What kind of column it is, is asked once for all plain values up to the next other one.
    pub(crate) fn extend<'v>(
        &mut self,
        values: impl Iterator<Item = Value<'v>>,
        mut tell: impl FnMut(usize, Value<'v>, Result<Appended, Fault>),
    ) {
        let (unit, mut values) = (self.unit, values.enumerate());
        // Takes all values that become `Some` and gives the first one that does not.
        macro_rules! plain {
            ($builder:ident, $value:ident => $cast:expr) => {
                values.find(|&(_, $value)| match $cast {
                    Some(cast) => {
                        $builder.append_value(cast);
                        false
                    }
                    None => true,
                })
            };
        }
        loop {
            let other = match &mut self.cells {
                Cells::String(builder) => plain!(builder, value => value.plain_text()),
                Cells::Json(_) | Cells::Boolean(_) => values.next(),
                Cells::Int(builder) => plain!(builder, value => int(value).ok()),
                Cells::Long(builder) => plain!(builder, value => long(value).ok()),
                Cells::Float(builder) => plain!(builder, value => float(value).ok()),
                Cells::Double(builder) => plain!(builder, value => double(value).ok()),
                Cells::Decimal(builder, scale, limit) => plain!(builder, value => decimal(value, *scale, *limit).ok()),
                Cells::Date(builder) => plain!(builder, value => date(value, unit).ok()),
                Cells::Timestamp(builder) => plain!(builder, value => timestamp(value, unit).ok()),
                Cells::Timestamptz(builder) => plain!(builder, value => timestamptz(value, unit).ok()),
            };
            let Some((number, value)) = other else { return };
            tell(number, value, self.append(value));
        }
    }

    /// Appends a value, or null together with a fault.
    pub(crate) fn append(&mut self, value: Value<'_>) -> Result<Appended, Fault> {
        match value {
            Value::Missing | Value::Null => {
                self.append_null();
                Ok(Appended::Null)
            }
            Value::Escaped(raw) => {
                let mut text = std::mem::take(&mut self.scratch);
                text.clear();
                let appended = match (text::unescape(raw, &mut text), &mut self.cells) {
                    (Err(reason), _) => Err(Fault(reason)),
                    // The escapes of JSON text stay as they were received.
                    (Ok(()), Cells::Json(builder)) => {
                        builder.append_value(format!("\"{raw}\""));
                        Ok(())
                    }
                    (Ok(()), _) => self.typed(Value::Text(&text)),
                };
                self.scratch = text;
                self.settle(appended)
            }
            Value::Doubled(raw) => {
                let text = raw.replace("\"\"", "\"");
                let appended = self.typed(Value::Text(&text));
                self.settle(appended)
            }
            value => {
                let appended = self.typed(value);
                self.settle(appended)
            }
        }
    }

    fn settle(&mut self, appended: Result<(), Fault>) -> Result<Appended, Fault> {
        match appended {
            Ok(()) => Ok(Appended::Value),
            Err(fault) => {
                self.append_null();
                Err(fault)
            }
        }
    }

    fn append_null(&mut self) {
        match &mut self.cells {
            Cells::String(b) | Cells::Json(b) => b.append_null(),
            Cells::Boolean(b) => b.append_null(),
            Cells::Int(b) => b.append_null(),
            Cells::Long(b) => b.append_null(),
            Cells::Float(b) => b.append_null(),
            Cells::Double(b) => b.append_null(),
            Cells::Decimal(b, ..) => b.append_null(),
            Cells::Date(b) => b.append_null(),
            Cells::Timestamp(b) | Cells::Timestamptz(b) => b.append_null(),
        }
    }

    /// Appends a present value without escapes; appends nothing when it is at fault.
    fn typed(&mut self, value: Value<'_>) -> Result<(), Fault> {
        let unit = self.unit;
        match &mut self.cells {
            Cells::String(builder) => string(value, builder)?,
            Cells::Json(builder) => json(value, builder, &mut self.scratch)?,
            Cells::Boolean(builder) => builder.append_value(match value {
                Value::Bool(value) => value,
                Value::Text("true") => true,
                Value::Text("false") => false,
                _ => return Err(Fault("is not a boolean")),
            }),
            Cells::Int(builder) => builder.append_value(int(value)?),
            Cells::Long(builder) => builder.append_value(long(value)?),
            Cells::Float(builder) => builder.append_value(float(value)?),
            Cells::Double(builder) => builder.append_value(double(value)?),
            Cells::Decimal(builder, scale, limit) => builder.append_value(decimal(value, *scale, *limit)?),
            Cells::Date(builder) => builder.append_value(date(value, unit)?),
            Cells::Timestamp(builder) => builder.append_value(timestamp(value, unit)?),
            Cells::Timestamptz(builder) => builder.append_value(timestamptz(value, unit)?),
        }
        Ok(())
    }
}

/// The text of a number, or of a string that may hold one.
#[inline]
fn numeric(value: Value<'_>) -> Result<&str, Fault> {
    match value {
        Value::Number(text) | Value::Text(text) => Ok(text),
        _ => Err(Fault("is not a number")),
    }
}

#[inline]
fn int(value: Value<'_>) -> Result<i32, Fault> {
    Ok(i32::try_from(scaled(numeric(value)?, 0)?).map_err(|_| NumberFault::Overflow)?)
}

#[inline]
fn long(value: Value<'_>) -> Result<i64, Fault> {
    Ok(i64::try_from(scaled(numeric(value)?, 0)?).map_err(|_| NumberFault::Overflow)?)
}

#[inline]
fn float(value: Value<'_>) -> Result<f32, Fault> {
    Ok(number::float(numeric(value)?)?)
}

#[inline]
fn double(value: Value<'_>) -> Result<f64, Fault> {
    Ok(number::double(numeric(value)?)?)
}

/// The value × 10^`scale`, which has to be nearer to zero than `limit`.
#[inline]
fn decimal(value: Value<'_>, scale: i32, limit: i128) -> Result<i128, Fault> {
    let unscaled = scaled(numeric(value)?, scale)?;
    if unscaled <= -limit || unscaled >= limit { Err(NumberFault::Overflow.into()) } else { Ok(unscaled) }
}

fn string(value: Value<'_>, builder: &mut StringBuilder) -> Result<(), Fault> {
    match value {
        Value::Text(text) | Value::Number(text) => builder.append_value(text),
        Value::Bool(value) => builder.append_value(if value { "true" } else { "false" }),
        Value::Date(days) => {
            let day = chrono::NaiveDate::from_num_days_from_ce_opt(days.saturating_add(719_163)).ok_or(NumberFault::Overflow)?;
            builder.append_value(day.to_string());
        }
        Value::Time { value, unit, zone } => {
            let instant = chrono::DateTime::from_timestamp_micros(time::micros_of(value, unit)?).ok_or(NumberFault::Overflow)?;
            match zone {
                Zone::None => builder.append_value(instant.format("%Y-%m-%dT%H:%M:%S%.f").to_string()),
                Zone::Utc | Zone::Either => builder.append_value(lakehouse_contract::interval::rfc3339(instant)),
            }
        }
        Value::Container(_) => return Err(Fault("is an array or object: declare the column as json to keep it")),
        _ => return Err(Fault("is not text")),
    }
    Ok(())
}

fn json(value: Value<'_>, builder: &mut StringBuilder, scratch: &mut String) -> Result<(), Fault> {
    match value {
        Value::Number(text) => builder.append_value(text),
        Value::Bool(value) => builder.append_value(if value { "true" } else { "false" }),
        Value::Text(plain) => {
            scratch.clear();
            text::quote(plain, scratch);
            builder.append_value(&scratch);
        }
        Value::Container(raw) => {
            scratch.clear();
            text::compact(raw, scratch);
            builder.append_value(&scratch);
        }
        _ => return Err(Fault("has no JSON text")),
    }
    Ok(())
}

fn date(value: Value<'_>, unit: Option<TimeUnit>) -> Result<i32, Fault> {
    let day = |micros: Result<i64, NumberFault>| {
        micros.and_then(time::whole_days).map_err(|fault| match fault {
            NumberFault::Lossy => Fault("has a time of day, which a date would lose"),
            other => other.into(),
        })
    };
    match (value, unit) {
        (Value::Date(days), _) => Ok(days),
        (Value::Time { value, unit, .. }, _) => day(time::micros_of(value, unit)),
        (Value::Number(text), Some(unit)) => day(time::micros_of_text(text, unit)),
        (Value::Text(text), Some(unit)) if is_number(text) => day(time::micros_of_text(text, unit)),
        (Value::Number(_), None) => Err(Fault("is a number: the column needs a unit to read it as a date")),
        (Value::Text(text), _) => time::date(text).map_err(|fault| match fault {
            TimeFault::Range => fault.into(),
            _ => Fault("is not a date in the form 2024-01-31"),
        }),
        _ => Err(Fault("is not a date")),
    }
}

fn is_number(text: &str) -> bool {
    !matches!(scaled(text, 0), Err(NumberFault::Syntax))
}

#[inline]
fn timestamptz(value: Value<'_>, unit: Option<TimeUnit>) -> Result<i64, Fault> {
    match (value, unit) {
        (Value::Text(text), None) => instant(text),
        (Value::Text(text), Some(unit)) if is_number(text) => Ok(time::micros_of_text(text, unit)?),
        (Value::Text(text), Some(_)) => instant(text),
        (Value::Number(text), Some(unit)) => Ok(time::micros_of_text(text, unit)?),
        (Value::Number(_), None) => Err(Fault("is a number: the column needs a unit to read it as a time")),
        (Value::Time { zone: Zone::None, .. }, _) => Err(Fault("has no offset, so it is no instant: declare the column as timestamp")),
        (Value::Time { value, unit, .. }, _) => Ok(time::micros_of(value, unit)?),
        _ => Err(Fault("is not a time")),
    }
}

#[inline]
fn instant(text: &str) -> Result<i64, Fault> {
    let written = time::date_time(text)?;
    let offset = written.offset.ok_or(Fault("has no offset, so it is no instant: declare the column as timestamp"))?;
    Ok(written.wall - i64::from(offset) * 60_000_000)
}

fn timestamp(value: Value<'_>, unit: Option<TimeUnit>) -> Result<i64, Fault> {
    match (value, unit) {
        (Value::Text(text), Some(unit)) if is_number(text) => Ok(time::micros_of_text(text, unit)?),
        (Value::Text(text), _) => {
            let written = time::date_time(text)?;
            match written.offset {
                None => Ok(written.wall),
                Some(_) => Err(Fault("has an offset, which a timestamp would lose: declare the column as timestamptz")),
            }
        }
        (Value::Number(text), Some(unit)) => Ok(time::micros_of_text(text, unit)?),
        (Value::Number(_), None) => Err(Fault("is a number: the column needs a unit to read it as a time")),
        (Value::Time { zone: Zone::Utc, .. }, _) => {
            Err(Fault("is an instant, whose zone a timestamp would lose: declare the column as timestamptz"))
        }
        (Value::Time { value, unit, .. }, _) => Ok(time::micros_of(value, unit)?),
        _ => Err(Fault("is not a time")),
    }
}

#[cfg(test)]
mod tests;
