//! The schema of a gold table: the columns of its query, in the types that tables hold.

use std::sync::Arc;

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::SqlError;

/// The schema that a table gets from a query's output. Every column is nullable, so that a later definition may leave values out.
///
/// Narrow integers become int, unsigned ones the next wider type, every text string, times microseconds; values are converted when they are
/// written, and one that does not survive fails the stage.
///
/// # Errors
/// [`SqlError::Invalid`] that names a column without a usable name, or with a type that tables cannot hold and what to cast it to.
pub(crate) fn table_schema(output: &Schema) -> Result<SchemaRef, SqlError> {
    let fields: Vec<Field> = output
        .fields()
        .iter()
        .map(|field| {
            check_name(field.name())?;
            let kind = column_type(field.data_type())
                .map_err(|advice| SqlError::Invalid(format!("column `{}` has type {}: {advice}", field.name(), field.data_type())))?;
            Ok(Field::new(field.name(), kind, true))
        })
        .collect::<Result<_, SqlError>>()?;
    if let Some((_, twice)) = fields.iter().enumerate().find(|(index, field)| fields[..*index].iter().any(|f| f.name() == field.name())) {
        return Err(SqlError::Invalid(format!("column `{}` stands twice in the result", twice.name())));
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn check_name(name: &str) -> Result<(), SqlError> {
    let mut characters = name.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_');
    if first && characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        return Ok(());
    }
    Err(SqlError::Invalid(format!("the column `{name}` needs a name of lower case letters, digits and `_`: write `… AS name`")))
}

fn column_type(output: &DataType) -> Result<DataType, String> {
    Ok(match output {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Boolean => DataType::Boolean,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 | DataType::Float32 => DataType::Float32,
        DataType::Float64 => DataType::Float64,
        DataType::Decimal128(precision, scale) if *scale >= 0 => DataType::Decimal128(*precision, *scale),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) if *scale >= 0 => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Decimal256(_, scale) => {
            return Err(format!("cast it to decimal({DECIMAL128_MAX_PRECISION},{scale}), the most digits that tables hold"));
        }
        DataType::Date32 => DataType::Date32,
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(_, Some(zone)) if matches!(zone.as_ref(), "UTC" | "+00:00" | "Z") => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        DataType::Timestamp(..) => return Err("times are kept in UTC: cast it to timestamptz without another zone".to_owned()),
        DataType::Dictionary(_, value) => column_type(value)?,
        DataType::Null => return Err("it is always null: cast it to the type it should have".to_owned()),
        _ => return Err("tables cannot hold it: cast it to text, a number, a date or a time".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema_of(kind: DataType) -> Result<SchemaRef, SqlError> {
        table_schema(&Schema::new(vec![Field::new("c", kind, false)]))
    }

    #[test]
    fn types_become_those_of_tables() {
        for (from, to) in [
            (DataType::Utf8View, DataType::Utf8),
            (DataType::UInt64, DataType::Int64),
            (DataType::Float16, DataType::Float32),
            (
                DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into())),
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            ),
        ] {
            let schema = schema_of(from).unwrap();
            assert_eq!(schema.field(0).data_type(), &to);
            assert!(schema.field(0).is_nullable());
        }
        let error = schema_of(DataType::Decimal256(76, 20)).unwrap_err().to_string();
        assert!(error.contains("column `c`") && error.contains("cast it to decimal(38,20)"), "{error}");
        assert!(schema_of(DataType::Null).unwrap_err().to_string().contains("always null"));
    }

    #[test]
    fn a_column_needs_a_name() {
        let error = table_schema(&Schema::new(vec![Field::new("avg(x.price)", DataType::Float64, true)])).unwrap_err();
        assert!(error.to_string().contains("`avg(x.price)` needs a name"), "{error}");
    }
}
