//! Schemas: Arrow types as the log writes them, and which protocol they need.

use crate::actions::Protocol;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use serde_json::{Map, Value, json};

/// The one feature beyond reader version 1 and writer version 2.
pub(crate) const TIMESTAMP_NTZ: &str = "timestampNtz";

/// The schema as it stands in [`crate::Metadata::schema_string`].
///
/// # Errors
/// A line that names the column whose type Delta does not have.
pub fn to_schema_string(schema: &Schema) -> Result<String, String> {
    let mut fields = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        fields.push(json!({"name": field.name(), "type": type_name(field)?, "nullable": field.is_nullable(), "metadata": {}}));
    }
    Ok(json!({"type": "struct", "fields": fields}).to_string())
}

/// The Arrow schema of a schema string. Times are in microseconds, the zone is `UTC`.
///
/// # Errors
/// A line that names the column whose type is not supported.
pub fn from_schema_string(text: &str) -> Result<Schema, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let fields = value.get("fields").and_then(Value::as_array).ok_or("it has no fields")?;
    let fields: Result<Vec<Field>, String> = fields.iter().map(field).collect();
    Ok(Schema::new(fields?))
}

fn field(value: &Value) -> Result<Field, String> {
    let name = value.get("name").and_then(Value::as_str).ok_or("a field has no name")?;
    let nullable = value.get("nullable").and_then(Value::as_bool).unwrap_or(true);
    let refused = || format!("column {name} has type {}", value.get("type").unwrap_or(&Value::Null));
    if value.get("metadata").and_then(Value::as_object).is_some_and(has_rules) {
        return Err(format!("column {name} has rules of another writer"));
    }
    let kind = value.get("type").and_then(Value::as_str).ok_or_else(refused)?;
    Ok(Field::new(name, data_type(kind).ok_or_else(refused)?, nullable))
}

/// Invariants, generated and identity columns, column mapping: what a writer would have to respect.
fn has_rules(metadata: &Map<String, Value>) -> bool {
    metadata.keys().any(|key| key.starts_with("delta."))
}

fn type_name(field: &Field) -> Result<String, String> {
    Ok(match field.data_type() {
        DataType::Utf8 => "string".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int32 => "integer".to_owned(),
        DataType::Int64 => "long".to_owned(),
        DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Decimal128(precision, scale) if *scale >= 0 => format!("decimal({precision},{scale})"),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamp".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, None) => "timestamp_ntz".to_owned(),
        other => return Err(format!("column {} has type {other}, which Delta tables cannot hold", field.name())),
    })
}

fn data_type(name: &str) -> Option<DataType> {
    Some(match name {
        "string" => DataType::Utf8,
        "boolean" => DataType::Boolean,
        "integer" => DataType::Int32,
        "long" => DataType::Int64,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "timestamp_ntz" => DataType::Timestamp(TimeUnit::Microsecond, None),
        other => {
            let (precision, scale) = other.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
            DataType::Decimal128(precision.trim().parse().ok()?, scale.trim().parse().ok()?)
        }
    })
}

/// The least protocol for a table with these columns.
pub fn protocol_of(schema: &Schema) -> Protocol {
    let has_ntz = schema.fields().iter().any(|field| matches!(field.data_type(), DataType::Timestamp(_, None)));
    let features = || Some(vec![TIMESTAMP_NTZ.to_owned()]);
    if has_ntz {
        return Protocol { min_reader_version: 3, min_writer_version: 7, reader_features: features(), writer_features: features() };
    }
    Protocol { min_reader_version: 1, min_writer_version: 2, reader_features: None, writer_features: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_the_way_through_the_log() {
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let types = [
            DataType::Utf8,
            DataType::Boolean,
            DataType::Int32,
            DataType::Int64,
            DataType::Float32,
            DataType::Float64,
            DataType::Date32,
            DataType::Decimal128(38, 16),
            utc,
            DataType::Timestamp(TimeUnit::Microsecond, None),
        ];
        let fields: Vec<Field> =
            types.iter().enumerate().map(|(index, kind)| Field::new(format!("c{index}"), kind.clone(), index % 2 == 0)).collect();
        let schema = Schema::new(fields);
        let text = to_schema_string(&schema).expect("all are supported");
        assert_eq!(from_schema_string(&text), Ok(schema));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let schema = Schema::new(vec![Field::new("b", DataType::Binary, true)]);
        assert_eq!(to_schema_string(&schema), Err("column b has type Binary, which Delta tables cannot hold".to_owned()));
        let nested = r#"{"type":"struct","fields":[{"name":"a","type":{"type":"array","elementType":"long"},"nullable":true}]}"#;
        assert!(from_schema_string(nested).is_err_and(|reason| reason.starts_with("column a has type")));
        let generated = r#"{"type":"struct","fields":[{"name":"d","type":"date","metadata":{"delta.generationExpression":"x"}}]}"#;
        assert_eq!(from_schema_string(generated), Err("column d has rules of another writer".to_owned()));
    }

    #[test]
    fn only_times_without_zone_need_a_feature() {
        let plain = Schema::new(vec![Field::new("a", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true)]);
        assert_eq!(protocol_of(&plain).min_reader_version, 1);
        let local = Schema::new(vec![Field::new("a", DataType::Timestamp(TimeUnit::Microsecond, None), true)]);
        assert_eq!(protocol_of(&local).reader_features, Some(vec!["timestampNtz".to_owned()]));
    }
}
