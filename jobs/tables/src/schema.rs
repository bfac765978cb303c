//! Schemas: from a definition to Iceberg, back to what readers see, and what may change of an existing one.

use crate::{Result, TableDef, TableError};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef, TimeUnit};
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::spec::{
    NestedField, NullOrder, PartitionSpec, PrimitiveType, Schema, SortDirection, SortField, SortOrder, Transform, Type,
    UnboundPartitionSpec,
};
use lakehouse_contract::TableRef;
use std::sync::Arc;

/// The zone name that readers see.
const UTC: &str = "UTC";

/// The Iceberg type of a logical Arrow type.
fn primitive(table: &TableRef, field: &Field) -> Result<PrimitiveType> {
    Ok(match field.data_type() {
        DataType::Utf8 => PrimitiveType::String,
        DataType::Boolean => PrimitiveType::Boolean,
        DataType::Int32 => PrimitiveType::Int,
        DataType::Int64 => PrimitiveType::Long,
        DataType::Float32 => PrimitiveType::Float,
        DataType::Float64 => PrimitiveType::Double,
        DataType::Decimal128(precision, scale) if *scale >= 0 => {
            PrimitiveType::Decimal { precision: u32::from(*precision), scale: scale.unsigned_abs().into() }
        }
        DataType::Date32 => PrimitiveType::Date,
        DataType::Timestamp(TimeUnit::Microsecond, None) => PrimitiveType::Timestamp,
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if is_utc(zone) => PrimitiveType::Timestamptz,
        other => {
            return Err(TableError::Definition {
                table: table.clone(),
                reason: format!("column {} has type {other}, which tables cannot hold", field.name()),
            });
        }
    })
}

pub(crate) fn is_utc(zone: &str) -> bool {
    matches!(zone, "UTC" | "+00:00" | "Z" | "Etc/UTC")
}

/// The Iceberg schema of a definition, with field ids 1, 2, …
pub(crate) fn to_iceberg(definition: &TableDef) -> Result<Schema> {
    of_arrow(&definition.table, &definition.schema)
}

/// The Iceberg schema of an Arrow schema, with field ids 1, 2, …
pub(crate) fn of_arrow(table: &TableRef, schema: &ArrowSchema) -> Result<Schema> {
    let mut fields = Vec::new();
    for (id, field) in (1..).zip(schema.fields()) {
        let primitive = Type::Primitive(primitive(table, field)?);
        fields.push(Arc::new(NestedField::new(id, field.name(), primitive, !field.is_nullable())));
    }
    Schema::builder().with_fields(fields).build().map_err(TableError::iceberg(table))
}

/// The partition fields of a definition, bound to the ids of `schema`.
pub(crate) fn partitions(definition: &TableDef, schema: &Schema) -> Result<UnboundPartitionSpec> {
    let mut builder = UnboundPartitionSpec::builder();
    for field in &definition.partition_by {
        let source = schema.field_id_by_name(&field.column).ok_or_else(|| TableError::Definition {
            table: definition.table.clone(),
            reason: format!("partitionBy names column {}, which it does not have", field.column),
        })?;
        builder = builder.add_partition_field(source, field.name(), field.iceberg_transform()).map_err(|error| TableError::Definition {
            table: definition.table.clone(),
            reason: format!("partition field {field}: {error}"),
        })?;
    }
    Ok(builder.build())
}

/// The sort order of a definition.
pub(crate) fn sort_order(definition: &TableDef, schema: &Schema) -> Result<SortOrder> {
    if definition.sort_by.is_empty() {
        return Ok(SortOrder::unsorted_order());
    }
    let fields = definition.sort_by.iter().filter_map(|column| schema.field_id_by_name(column)).map(|source_id| {
        SortField::builder()
            .source_id(source_id)
            .transform(Transform::Identity)
            .direction(SortDirection::Ascending)
            .null_order(NullOrder::First)
            .build()
    });
    let order = SortOrder::builder().with_order_id(1).with_fields(fields.collect()).build(schema);
    order.map_err(TableError::iceberg(&definition.table))
}

/// The partition fields of an existing spec, written as in a definition.
pub(crate) fn show_spec(spec: &PartitionSpec, schema: &Schema) -> String {
    crate::definition::show_partitions(spec.fields().iter().map(|field| {
        let column = schema.name_by_field_id(field.source_id).unwrap_or("?");
        match field.transform {
            Transform::Identity => column.to_owned(),
            Transform::Bucket(buckets) => format!("bucket({buckets}, {column})"),
            Transform::Truncate(width) => format!("truncate({width}, {column})"),
            other => format!("{other}({column})"),
        }
    }))
}

/// The schema that `definition` asks of a table with `existing`: none when nothing is to change.
///
/// # Errors
/// [`TableError::SchemaMismatch`] for a column that is missing or has another type, or a new one that is required.
pub(crate) fn evolve(definition: &TableDef, existing: &Schema, last_column_id: i32) -> Result<Option<Schema>> {
    let mismatch = |reason: String| TableError::SchemaMismatch { table: definition.table.clone(), reason };
    let wanted = to_iceberg(definition)?;
    for field in existing.as_struct().fields() {
        let Some(same) = wanted.field_by_name(&field.name) else {
            return Err(mismatch(format!("column {} of the table is not in the definition", field.name)));
        };
        if same.field_type != field.field_type {
            return Err(mismatch(format!("column {} is {}, the definition says {}", field.name, field.field_type, same.field_type)));
        }
    }
    let added: Vec<_> = wanted.as_struct().fields().iter().filter(|field| existing.field_by_name(&field.name).is_none()).collect();
    if added.is_empty() {
        return Ok(None);
    }
    let mut fields = existing.as_struct().fields().to_vec();
    for (id, field) in (last_column_id + 1..).zip(added) {
        if field.required {
            return Err(mismatch(format!("new column {} is required, but the table has rows without it", field.name)));
        }
        fields.push(Arc::new(NestedField::optional(id, &field.name, field.field_type.as_ref().clone())));
    }
    Schema::builder().with_fields(fields).build().map(Some).map_err(TableError::iceberg(&definition.table))
}

/// The Arrow schema that files are written with: field ids in the metadata, zone `+00:00`.
pub(crate) fn file_schema(table: &TableRef, schema: &Schema) -> Result<SchemaRef> {
    schema_to_arrow_schema(schema).map(Arc::new).map_err(TableError::iceberg(table))
}

/// The Arrow schema that readers see: that of the definition, zone `UTC`.
pub(crate) fn reader_schema(file_schema: &ArrowSchema) -> SchemaRef {
    let fields = file_schema.fields().iter().map(|field| {
        let data_type = match field.data_type() {
            DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some(UTC.into())),
            other => other.clone(),
        };
        Field::new(field.name(), data_type, field.is_nullable())
    });
    Arc::new(ArrowSchema::new(fields.collect::<Vec<_>>()))
}
