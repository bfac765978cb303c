//! Brings a batch into the order and types of a table, by name, without ever changing a value.

use crate::schema::is_utc;
use crate::{Result, TableError};
use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, SchemaRef};
use lakehouse_contract::TableRef;
use std::sync::Arc;

/// `batch` with exactly the columns of `target`, in its order and with its types.
///
/// Columns are found by name. A nullable column that is absent becomes null. Types are cast only within a family (text, numbers, times),
/// and only when every value survives the way back.
///
/// # Errors
/// [`TableError::Input`] for a column that the table does not have, a required one that is absent or null, and a lossy cast.
pub fn conform(table: &TableRef, batch: &RecordBatch, target: &SchemaRef) -> Result<RecordBatch> {
    let input = |column: &str, reason: String| TableError::Input { table: table.clone(), column: column.to_owned(), reason };
    for field in batch.schema_ref().fields() {
        if target.field_with_name(field.name()).is_err() {
            return Err(input(field.name(), "the table has no such column".to_owned()));
        }
    }
    let mut columns = Vec::with_capacity(target.fields().len());
    for field in target.fields() {
        let column: ArrayRef = match batch.column_by_name(field.name()) {
            Some(column) => lossless(column, field.data_type()).map_err(|reason| input(field.name(), reason))?,
            None if field.is_nullable() => new_null_array(field.data_type(), batch.num_rows()),
            None => return Err(input(field.name(), "it is required and not in the input".to_owned())),
        };
        if !field.is_nullable() && column.null_count() > 0 {
            return Err(input(field.name(), format!("it is required and null in {} rows", column.null_count())));
        }
        columns.push(column);
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(target.clone(), columns, &options).map_err(TableError::arrow(table))
}

fn lossless(column: &ArrayRef, target: &DataType) -> Result<ArrayRef, String> {
    let source = column.data_type();
    if source == target {
        return Ok(column.clone());
    }
    if !same_family(source, target) {
        return Err(format!("cannot take {source} for {target}"));
    }
    let options = CastOptions { safe: false, ..Default::default() };
    let cast = cast_with_options(column, target, &options).map_err(|error| error.to_string())?;
    if !is_always_exact(source, target) {
        let back = cast_with_options(&cast, source, &options).map_err(|error| error.to_string())?;
        let same = not_distinct(&back, column).map_err(|error| error.to_string())?;
        if same.true_count() != column.len() {
            let changed = column.len() - same.true_count();
            return Err(format!("{changed} values of type {source} do not fit {target} without loss"));
        }
    }
    Ok(Arc::clone(&cast))
}

fn same_family(source: &DataType, target: &DataType) -> bool {
    use DataType::{Date32, Date64, Dictionary, Null, Timestamp};
    let text = |kind: &DataType| matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let exact = |kind: &DataType| kind.is_integer() || matches!(kind, DataType::Decimal128(..) | DataType::Decimal256(..));
    match (source, target) {
        (Null, _) => true,
        (Dictionary(_, value), _) => same_family(value, target) || value.as_ref() == target,
        (Timestamp(_, Some(from)), Timestamp(_, Some(to))) => is_utc(from) && is_utc(to),
        (Timestamp(_, None), Timestamp(_, None)) | (Date64, Date32) => true,
        (from, to) if text(from) => text(to),
        (from, to) if exact(from) => exact(to),
        (from, to) => from.is_floating() && to.is_floating(),
    }
}

/// Casts that cannot change a value, so that the way back need not be tried.
fn is_always_exact(source: &DataType, target: &DataType) -> bool {
    use DataType::{Dictionary, Null, Timestamp};
    match (source, target) {
        (Null, _) => true,
        (Dictionary(_, value), _) => value.as_ref() == target || is_always_exact(value, target),
        (Timestamp(from, _), Timestamp(to, _)) => from == to,
        (DataType::LargeUtf8 | DataType::Utf8View | DataType::Utf8, _) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Decimal128Array, Float64Array, Int32Array, Int64Array, StringArray, StringViewArray, TimestampNanosecondArray};
    use arrow::datatypes::{Field, Schema, TimeUnit};

    fn table() -> TableRef {
        TableRef::new("silver", "t")
    }

    fn schema(fields: Vec<Field>) -> SchemaRef {
        Arc::new(Schema::new(fields))
    }

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).expect("a batch")
    }

    #[test]
    fn columns_are_matched_by_name_not_by_position() -> Result<()> {
        let target = schema(vec![Field::new("a", DataType::Utf8, true), Field::new("b", DataType::Utf8, true)]);
        let swapped = batch(vec![("b", Arc::new(StringArray::from(vec!["B"]))), ("a", Arc::new(StringViewArray::from(vec!["A"])))]);
        let conformed = conform(&table(), &swapped, &target)?;
        assert_eq!(conformed.column(0).as_ref(), &StringArray::from(vec!["A"]) as &dyn Array);
        assert_eq!(conformed.column(1).as_ref(), &StringArray::from(vec!["B"]) as &dyn Array);
        Ok(())
    }

    #[test]
    fn a_lossy_cast_is_refused() {
        let refused: Vec<(ArrayRef, DataType)> = vec![
            (Arc::new(Int64Array::from(vec![1 << 40])), DataType::Int32),
            (Arc::new(TimestampNanosecondArray::from(vec![1])), DataType::Timestamp(TimeUnit::Microsecond, None)),
            (Arc::new(Float64Array::from(vec![0.1])), DataType::Decimal128(10, 2)),
            (Arc::new(StringArray::from(vec!["1"])), DataType::Int64),
            (Arc::new(Float64Array::from(vec![0.1])), DataType::Float32),
            (Arc::new(Decimal128Array::from(vec![123]).with_precision_and_scale(10, 3).expect("fits")), DataType::Decimal128(10, 2)),
        ];
        for (column, target) in refused {
            let shown = format!("{} as {target}", column.data_type());
            let outcome = conform(&table(), &batch(vec![("a", column)]), &schema(vec![Field::new("a", target, true)]));
            assert!(matches!(outcome, Err(TableError::Input { .. })), "{shown}: {outcome:?}");
        }
    }

    #[test]
    fn an_exact_cast_is_taken() -> Result<()> {
        let decimal = Decimal128Array::from(vec![1_230]).with_precision_and_scale(10, 3).map_err(TableError::arrow(&table()))?;
        let input = batch(vec![("a", Arc::new(Int32Array::from(vec![7]))), ("d", Arc::new(decimal))]);
        let target = schema(vec![Field::new("a", DataType::Int64, true), Field::new("d", DataType::Decimal128(38, 16), true)]);
        let conformed = conform(&table(), &input, &target)?;
        assert_eq!(conformed.column(0).as_ref(), &Int64Array::from(vec![7]) as &dyn Array);
        let text = arrow::util::display::array_value_to_string(conformed.column(1), 0).map_err(TableError::arrow(&table()))?;
        assert_eq!(text, "1.2300000000000000");
        Ok(())
    }

    #[test]
    fn nulls_and_strangers_are_named() {
        let target = schema(vec![Field::new("a", DataType::Int64, false)]);
        let null = conform(&table(), &batch(vec![("a", Arc::new(Int64Array::from(vec![None])))]), &target);
        assert!(null.expect_err("null").to_string().contains("column a: it is required and null in 1 rows"));
        let missing = conform(&table(), &RecordBatch::new_empty(schema(Vec::new())), &target);
        assert!(missing.expect_err("missing").to_string().contains("column a: it is required and not in the input"));
        let strange = conform(&table(), &batch(vec![("z", Arc::new(Int64Array::from(vec![1])))]), &target);
        assert!(strange.expect_err("strange").to_string().contains("column z: the table has no such column"));
    }
}
