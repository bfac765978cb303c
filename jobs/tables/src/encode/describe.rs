//! What an Iceberg manifest says about a Parquet file, from the file's own metadata.
//!
//! The same that the `iceberg` crate's writer says (its functions for it are private); a test holds them together.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use iceberg::spec::{DataContentType, DataFileBuilder, DataFileFormat, Datum, PrimitiveType, Schema, Struct, Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use std::collections::HashMap;

/// Whether all columns are of types that this module describes: those that a definition can declare.
pub(super) fn describes(schema: &Schema) -> bool {
    use PrimitiveType::{Boolean, Date, Decimal, Double, Float, Int, Long, String, Timestamp, Timestamptz};
    schema.as_struct().fields().iter().all(|field| {
        matches!(
            field.field_type.as_primitive_type(),
            Some(String | Boolean | Int | Long | Float | Double | Date | Timestamp | Timestamptz | Decimal { .. })
        )
    })
}

/// Adds the NaNs of a batch to the counts by field id.
pub(super) fn count_nans(schema: &Schema, batch: &RecordBatch, counts: &mut HashMap<i32, u64>) {
    for (field, column) in schema.as_struct().fields().iter().zip(batch.columns()) {
        let nans = match column.data_type() {
            DataType::Float32 => column.as_primitive::<Float32Type>().iter().flatten().filter(|value| value.is_nan()).count(),
            DataType::Float64 => column.as_primitive::<Float64Type>().iter().flatten().filter(|value| value.is_nan()).count(),
            _ => continue,
        };
        *counts.entry(field.id).or_default() += nans as u64;
    }
}

/// Describes a file of `size` bytes, whose columns are those of the schema in its order.
///
/// # Errors
/// Statistics of another type than the column's.
pub(super) fn describe(
    schema: &Schema,
    metadata: &ParquetMetaData,
    size: u64,
    path: String,
    nans: HashMap<i32, u64>,
) -> Result<DataFileBuilder> {
    let (mut sizes, mut values, mut nulls) = (HashMap::new(), HashMap::new(), HashMap::new());
    let (mut lower, mut upper): (HashMap<i32, Datum>, HashMap<i32, Datum>) = (HashMap::new(), HashMap::new());
    for group in metadata.row_groups() {
        for (field, column) in schema.as_struct().fields().iter().zip(group.columns()) {
            *sizes.entry(field.id).or_insert(0) += column.compressed_size() as u64;
            *values.entry(field.id).or_insert(0) += column.num_values() as u64;
            let (Some(statistics), Type::Primitive(kind)) = (column.statistics(), field.field_type.as_ref()) else { continue };
            if let Some(count) = statistics.null_count_opt() {
                *nulls.entry(field.id).or_insert(0) += count;
            }
            let wrong = || ParquetError::General(format!("column {} of type {kind} has statistics {statistics}", field.name));
            if statistics.min_is_exact() {
                let least = datum(kind, statistics, End::Least).ok_or_else(wrong)?;
                lower
                    .entry(field.id)
                    .and_modify(|own| {
                        if *own > least {
                            *own = least.clone()
                        }
                    })
                    .or_insert(least);
            }
            if statistics.max_is_exact() {
                let greatest = datum(kind, statistics, End::Greatest).ok_or_else(wrong)?;
                upper
                    .entry(field.id)
                    .and_modify(|own| {
                        if *own < greatest {
                            *own = greatest.clone()
                        }
                    })
                    .or_insert(greatest);
            }
        }
    }
    let mut builder = DataFileBuilder::default();
    builder
        .content(DataContentType::Data)
        .file_path(path)
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::empty())
        .record_count(metadata.file_metadata().num_rows() as u64)
        .file_size_in_bytes(size)
        .column_sizes(sizes)
        .value_counts(values)
        .null_value_counts(nulls)
        .nan_value_counts(nans)
        .lower_bounds(lower)
        .upper_bounds(upper)
        .split_offsets(Some(metadata.row_groups().iter().filter_map(|group| group.file_offset()).collect()));
    Ok(builder)
}

#[derive(Clone, Copy)]
enum End {
    Least,
    Greatest,
}

/// The least or greatest value that statistics have; none when they are of another type.
fn datum(kind: &PrimitiveType, statistics: &Statistics, end: End) -> Option<Datum> {
    macro_rules! of {
        ($values:expr) => {
            match end {
                End::Least => $values.min_opt(),
                End::Greatest => $values.max_opt(),
            }
        };
    }
    let decimal = |unscaled: &[u8]| Datum::try_from_bytes(unscaled, kind.clone()).ok();
    Some(match (kind, statistics) {
        (PrimitiveType::Boolean, Statistics::Boolean(values)) => Datum::bool(*of!(values)?),
        (PrimitiveType::Int, Statistics::Int32(values)) => Datum::int(*of!(values)?),
        (PrimitiveType::Date, Statistics::Int32(values)) => Datum::date(*of!(values)?),
        (PrimitiveType::Long, Statistics::Int64(values)) => Datum::long(*of!(values)?),
        (PrimitiveType::Timestamp, Statistics::Int64(values)) => Datum::timestamp_micros(*of!(values)?),
        (PrimitiveType::Timestamptz, Statistics::Int64(values)) => Datum::timestamptz_micros(*of!(values)?),
        (PrimitiveType::Float, Statistics::Float(values)) => Datum::float(*of!(values)?),
        (PrimitiveType::Double, Statistics::Double(values)) => Datum::double(*of!(values)?),
        (PrimitiveType::String, Statistics::ByteArray(values)) => Datum::string(of!(values)?.as_utf8().ok()?),
        (PrimitiveType::Decimal { .. }, Statistics::Int32(values)) => decimal(&of!(values)?.to_be_bytes())?,
        (PrimitiveType::Decimal { .. }, Statistics::Int64(values)) => decimal(&of!(values)?.to_be_bytes())?,
        (PrimitiveType::Decimal { .. }, Statistics::FixedLenByteArray(values)) => decimal(of!(values)?.data())?,
        _ => return None,
    })
}
