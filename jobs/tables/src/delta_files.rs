//! Data files of Delta tables: their partition values and statistics, to and from the form that the writer and the rewriting use.

use crate::{Result, TableError};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use delta_commit::{Add, PartitionValues};
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, Literal, PartitionSpec, PrimitiveLiteral, PrimitiveType, Schema,
    Struct, Type,
};
use lakehouse_contract::TableRef;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// The action that adds a file. `path` is relative to the table.
///
/// # Errors
/// [`TableError::Corrupt`] when a partition field has no column.
pub(crate) fn to_add(table: &TableRef, path: &str, file: &DataFile, spec: &PartitionSpec, schema: &Schema, now: i64) -> Result<Add> {
    Ok(Add {
        path: path.to_owned(),
        partition_values: partition_values(table, file, spec, schema)?,
        size: i64::try_from(file.file_size_in_bytes()).unwrap_or(i64::MAX),
        modification_time: now,
        data_change: true,
        stats: Some(stats(file, schema)),
        tags: None,
    })
}

fn partition_values(table: &TableRef, file: &DataFile, spec: &PartitionSpec, schema: &Schema) -> Result<PartitionValues> {
    let mut values = PartitionValues::new();
    for (index, field) in spec.fields().iter().enumerate() {
        let kind = schema.field_by_id(field.source_id).map(|field| field.field_type.as_ref());
        let text = match (&file.partition()[index], kind) {
            (None, _) => None,
            (value, Some(kind)) => Some(field.transform.to_human_string(kind, value.as_ref())),
            (Some(_), None) => {
                return Err(TableError::Corrupt {
                    table: table.clone(),
                    what: format!("partition field {}", field.name),
                    reason: "its column is not in the schema".to_owned(),
                });
            }
        };
        values.insert(field.name.clone(), text);
    }
    Ok(values)
}

/// Statistics as the protocol writes them. Times are cut to milliseconds outwards. Floats are left out: bounds say nothing about NaN.
fn stats(file: &DataFile, schema: &Schema) -> String {
    let (mut lower, mut upper, mut nulls) = (Vec::new(), Vec::new(), Vec::new());
    for field in schema.as_struct().fields() {
        let name = Value::from(field.name.as_str());
        if let Some(count) = file.null_value_counts().get(&field.id) {
            nulls.push(format!("{name}:{count}"));
        }
        if let Some(text) = file.lower_bounds().get(&field.id).and_then(|datum| bound(datum, false)) {
            lower.push(format!("{name}:{text}"));
        }
        if let Some(text) = file.upper_bounds().get(&field.id).and_then(|datum| bound(datum, true)) {
            upper.push(format!("{name}:{text}"));
        }
    }
    // Written by hand: decimals are numbers with more digits than a parsed number keeps.
    format!(
        r#"{{"numRecords":{},"minValues":{{{}}},"maxValues":{{{}}},"nullCount":{{{}}}}}"#,
        file.record_count(),
        lower.join(","),
        upper.join(","),
        nulls.join(",")
    )
}

fn bound(datum: &Datum, is_upper: bool) -> Option<String> {
    let millis = |micros: i64| {
        let up = i64::from(is_upper && micros.rem_euclid(1000) != 0);
        DateTime::from_timestamp_millis(micros.div_euclid(1000) + up)
    };
    Some(match (datum.data_type(), datum.literal()) {
        (PrimitiveType::String, PrimitiveLiteral::String(text)) => Value::from(text.as_str()).to_string(),
        (PrimitiveType::Int, PrimitiveLiteral::Int(number)) => number.to_string(),
        (PrimitiveType::Long, PrimitiveLiteral::Long(number)) => number.to_string(),
        (PrimitiveType::Date, PrimitiveLiteral::Int(days)) => format!("\"{}\"", date(*days)?),
        (PrimitiveType::Timestamptz, PrimitiveLiteral::Long(micros)) => {
            format!("\"{}\"", millis(*micros)?.to_rfc3339_opts(SecondsFormat::Millis, true))
        }
        (PrimitiveType::Timestamp, PrimitiveLiteral::Long(micros)) => format!("\"{}\"", millis(*micros)?.format("%Y-%m-%dT%H:%M:%S%.3f")),
        (PrimitiveType::Decimal { scale, .. }, PrimitiveLiteral::Int128(unscaled)) => decimal(*unscaled, *scale as usize),
        _ => return None,
    })
}

/// A decimal with all its digits and no exponent.
fn decimal(unscaled: i128, scale: usize) -> String {
    let sign = if unscaled < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

fn date(days: i32) -> Option<NaiveDate> {
    NaiveDate::default().checked_add_signed(chrono::TimeDelta::days(days.into()))
}

/// A live file of a Delta table.
#[derive(Clone, Debug)]
pub(crate) struct DeltaFile {
    /// Its path in the log.
    pub(crate) path: String,
    pub(crate) file: DataFile,
}

impl AsRef<DataFile> for DeltaFile {
    fn as_ref(&self) -> &DataFile {
        &self.file
    }
}

/// A file as the rewriting sees it. `location` is absolute.
///
/// # Errors
/// [`TableError::Corrupt`] when its statistics do not say how many rows it has, or a partition value is not of its column's type.
pub(crate) fn of_add(table: &TableRef, add: &Add, location: &str, schema: &Schema, spec: &PartitionSpec) -> Result<DeltaFile> {
    let corrupt = |reason: String| TableError::Corrupt { table: table.clone(), what: location.to_owned(), reason };
    let stats: Map<String, Value> = match add.stats.as_deref() {
        Some(text) => serde_json::from_str(text).map_err(|error| corrupt(format!("its statistics: {error}")))?,
        None => Map::new(),
    };
    let rows =
        stats.get("numRecords").and_then(Value::as_u64).ok_or_else(|| corrupt("the log does not say how many rows it has".to_owned()))?;
    let of = |kind: &str, name: &str| stats.get(kind).and_then(|values| values.get(name));
    let (mut lower, mut upper, mut nulls) = (HashMap::new(), HashMap::new(), HashMap::new());
    for field in schema.as_struct().fields() {
        let Type::Primitive(kind) = field.field_type.as_ref() else { continue };
        if let Some(count) = of("nullCount", &field.name).and_then(Value::as_u64) {
            nulls.insert(field.id, count);
        }
        if let Some(datum) = of("minValues", &field.name).and_then(|value| datum(kind, value)) {
            lower.insert(field.id, datum);
        }
        if let Some(datum) = of("maxValues", &field.name).and_then(|value| datum(kind, value)) {
            upper.insert(field.id, cut_off(datum));
        }
    }
    let mut partition = Vec::with_capacity(spec.fields().len());
    for field in spec.fields() {
        let text = add.partition_values.get(&field.name).and_then(Option::as_deref);
        let kind = schema.field_by_id(field.source_id).map(|field| field.field_type.as_ref());
        let Some(Type::Primitive(kind)) = kind else { return Err(corrupt(format!("there is no partition column {}", field.name))) };
        let value = partition_value(kind, text).map_err(|reason| corrupt(format!("partition column {}: {reason}", field.name)))?;
        // Other programs leave partition columns out of their statistics, as they do out of their files.
        nulls.insert(field.source_id, if value.is_none() { rows } else { 0 });
        if let Some(datum) = text.and_then(|text| partition_datum(kind, text)) {
            lower.insert(field.source_id, datum.clone());
            upper.insert(field.source_id, datum);
        }
        partition.push(value.map(Literal::Primitive));
    }
    let file = DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(location.to_owned())
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::from_iter(partition))
        .partition_spec_id(0)
        .record_count(rows)
        .file_size_in_bytes(add.size.unsigned_abs())
        .null_value_counts(nulls)
        .lower_bounds(lower)
        .upper_bounds(upper)
        .build();
    Ok(DeltaFile { path: add.path.clone(), file: file.map_err(|error| corrupt(error.to_string()))? })
}

/// Other programs cut the upper bound of times to milliseconds inwards: the values may be up to a millisecond later.
fn cut_off(upper: Datum) -> Datum {
    const REST: i64 = 999;
    match (upper.data_type(), upper.literal()) {
        (PrimitiveType::Timestamptz, PrimitiveLiteral::Long(micros)) => Datum::timestamptz_micros(micros.saturating_add(REST)),
        (PrimitiveType::Timestamp, PrimitiveLiteral::Long(micros)) => Datum::timestamp_micros(micros.saturating_add(REST)),
        _ => upper,
    }
}

/// A partition value from its text in the log. An empty text is null, as for every reader of Delta.
fn partition_value(kind: &PrimitiveType, text: Option<&str>) -> std::result::Result<Option<PrimitiveLiteral>, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let wrong = || format!("{text:?} is no {kind}");
    Ok(Some(match kind {
        PrimitiveType::String => PrimitiveLiteral::String(text.to_owned()),
        PrimitiveType::Boolean => PrimitiveLiteral::Boolean(text.parse().map_err(|_| wrong())?),
        PrimitiveType::Int => PrimitiveLiteral::Int(text.parse().map_err(|_| wrong())?),
        PrimitiveType::Long => PrimitiveLiteral::Long(text.parse().map_err(|_| wrong())?),
        PrimitiveType::Date => PrimitiveLiteral::Int(days(text).ok_or_else(wrong)?),
        _ => return Err(format!("partitions by {kind} are not supported")),
    }))
}

/// A partition value as a bound of all rows of a file.
fn partition_datum(kind: &PrimitiveType, text: &str) -> Option<Datum> {
    Some(match (kind, partition_value(kind, Some(text)).ok()??) {
        (PrimitiveType::String, PrimitiveLiteral::String(text)) => Datum::string(text),
        (PrimitiveType::Int, PrimitiveLiteral::Int(number)) => Datum::int(number),
        (PrimitiveType::Long, PrimitiveLiteral::Long(number)) => Datum::long(number),
        (PrimitiveType::Date, PrimitiveLiteral::Int(days)) => Datum::date(days),
        _ => return None,
    })
}

fn days(text: &str) -> Option<i32> {
    i32::try_from(text.parse::<NaiveDate>().ok()?.signed_duration_since(NaiveDate::default()).num_days()).ok()
}

/// The partition values of a file for columns of `shown`, by name.
pub(crate) fn partition_scalars(file: &DataFile, spec: &PartitionSpec, shown: &SchemaRef) -> HashMap<String, ScalarValue> {
    let mut scalars = HashMap::new();
    for (index, field) in spec.fields().iter().enumerate() {
        let Ok(column) = shown.field_with_name(&field.name) else { continue };
        // A file of ours that is not live any more is read without the values of the log.
        let Some(value) = file.partition().fields().get(index) else { continue };
        let value = match value {
            Some(Literal::Primitive(literal)) => scalar(literal, column.data_type()),
            _ => ScalarValue::try_from(column.data_type()).ok(),
        };
        scalars.extend(value.map(|value| (field.name.clone(), value)));
    }
    scalars
}

/// A file of which only its length is known, without partition values: it has all columns inside.
pub(crate) fn of_rows(location: &str, rows: u64, size: u64) -> std::result::Result<DataFile, String> {
    let file = DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(location.to_owned())
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::empty())
        .record_count(rows)
        .file_size_in_bytes(size)
        .build();
    file.map_err(|error| error.to_string())
}

fn datum(kind: &PrimitiveType, value: &Value) -> Option<Datum> {
    Some(match kind {
        PrimitiveType::String => Datum::string(value.as_str()?),
        PrimitiveType::Int => Datum::int(i32::try_from(value.as_i64()?).ok()?),
        PrimitiveType::Long => Datum::long(value.as_i64()?),
        PrimitiveType::Date => Datum::date(days(value.as_str()?)?),
        PrimitiveType::Timestamptz => Datum::timestamptz_micros(DateTime::parse_from_rfc3339(value.as_str()?).ok()?.timestamp_micros()),
        PrimitiveType::Timestamp => {
            let text = value.as_str()?.trim_end_matches('Z');
            Datum::timestamp_micros(text.parse::<NaiveDateTime>().ok()?.and_utc().timestamp_micros())
        }
        _ => return None,
    })
}

/// Bounds of a file's rows, for the columns of `shown` in their order: to skip files with, and for nothing else.
///
/// The bounds are called exact, since pruning looks at no others. They may be wider than the values, so they must not reach an optimizer
/// that would answer `min` or `max` from them.
pub(crate) fn statistics(file: &DataFile, schema: &Schema, shown: &SchemaRef) -> Statistics {
    let columns = shown.fields().iter().map(|field| {
        let Some(id) = schema.field_id_by_name(field.name()) else { return ColumnStatistics::new_unknown() };
        let value = |bounds: &HashMap<i32, Datum>| {
            let scalar = bounds.get(&id).and_then(|datum| scalar(datum.literal(), field.data_type()));
            // Without a bound a null of the column's type: one that is unknown must not hide those of other files.
            scalar.or_else(|| ScalarValue::try_from(field.data_type()).ok()).map_or(Precision::Absent, Precision::Exact)
        };
        let nulls = file.null_value_counts().get(&id);
        ColumnStatistics {
            null_count: nulls.map_or(Precision::Absent, |count| Precision::Exact(usize::try_from(*count).unwrap_or(usize::MAX))),
            min_value: value(file.lower_bounds()),
            max_value: value(file.upper_bounds()),
            ..ColumnStatistics::new_unknown()
        }
    });
    let rows = usize::try_from(file.record_count()).unwrap_or(usize::MAX);
    Statistics { num_rows: Precision::Exact(rows), total_byte_size: Precision::Absent, column_statistics: columns.collect() }
}

fn scalar(literal: &PrimitiveLiteral, kind: &DataType) -> Option<ScalarValue> {
    Some(match (literal, kind) {
        (PrimitiveLiteral::String(text), DataType::Utf8) => ScalarValue::Utf8(Some(text.clone())),
        (PrimitiveLiteral::Boolean(flag), DataType::Boolean) => ScalarValue::Boolean(Some(*flag)),
        (PrimitiveLiteral::Int(number), DataType::Int32) => ScalarValue::Int32(Some(*number)),
        (PrimitiveLiteral::Int(days), DataType::Date32) => ScalarValue::Date32(Some(*days)),
        (PrimitiveLiteral::Long(number), DataType::Int64) => ScalarValue::Int64(Some(*number)),
        (PrimitiveLiteral::Long(micros), DataType::Timestamp(TimeUnit::Microsecond, zone)) => {
            ScalarValue::TimestampMicrosecond(Some(*micros), zone.as_ref().map(Arc::clone))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_keep_their_digits() {
        assert_eq!(decimal(-5, 16), "-0.0000000000000005");
        assert_eq!(decimal(12_345, 2), "123.45");
        assert_eq!(decimal(-7, 0), "-7");
        assert_eq!(decimal(i128::from(u64::MAX) * 1_000_000_000_000, 30), "18.446744073709551615000000000000");
    }

    #[test]
    fn bounds_of_times_are_cut_outwards() {
        let micros = -1_500;
        assert_eq!(bound(&Datum::timestamptz_micros(micros), false), Some("\"1969-12-31T23:59:59.998Z\"".to_owned()));
        assert_eq!(bound(&Datum::timestamptz_micros(micros), true), Some("\"1969-12-31T23:59:59.999Z\"".to_owned()));
        assert_eq!(bound(&Datum::timestamp_micros(1_000), true), Some("\"1970-01-01T00:00:00.001\"".to_owned()));
        assert_eq!(bound(&Datum::double(1.5), true), None);
    }

    #[test]
    fn partition_values_are_read_as_every_reader_reads_them() {
        assert_eq!(partition_value(&PrimitiveType::String, Some("")), Ok(None));
        assert_eq!(partition_value(&PrimitiveType::Date, Some("1970-01-03")), Ok(Some(PrimitiveLiteral::Int(2))));
        assert_eq!(partition_value(&PrimitiveType::Boolean, Some("true")), Ok(Some(PrimitiveLiteral::Boolean(true))));
        assert_eq!(partition_value(&PrimitiveType::Int, Some("x")), Err("\"x\" is no int".to_owned()));
    }

    #[test]
    fn bounds_come_back() {
        for written in [Datum::long(-7), Datum::int(7), Datum::date(-1), Datum::string("é\"\\"), Datum::timestamptz_micros(1_000_000)] {
            let text = bound(&written, false).unwrap_or_default();
            let value: Value = serde_json::from_str(&text).unwrap_or_default();
            assert_eq!(datum(written.data_type(), &value), Some(written), "{text}");
        }
    }
}
