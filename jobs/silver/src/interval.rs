//! Which rows lie inside of the run's interval.

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray},
    compute::prep_null_mask_filter,
    datatypes::{DataType, Date32Type, TimestampMicrosecondType},
};

use crate::{cast::time::DAY, unit::RunFacts};

/// Per row: whether the value lies in [start, end). Null does not. `column` is of type date or timestamp.
pub(crate) fn inside(column: &ArrayRef, facts: RunFacts) -> BooleanArray {
    let within = |micros: i64| micros >= facts.interval_start && micros < facts.interval_end;
    let inside = match column.data_type() {
        DataType::Date32 => BooleanArray::from_unary(column.as_primitive::<Date32Type>(), |days| within(i64::from(days) * DAY)),
        _ => BooleanArray::from_unary(column.as_primitive::<TimestampMicrosecondType>(), within),
    };
    if inside.null_count() > 0 { prep_null_mask_filter(&inside) } else { inside }
}
