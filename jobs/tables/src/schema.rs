//! Schemas: from a definition to Iceberg, back to what readers see, and what may change of an existing one.

use crate::evolution::{Existing, ExistingPartition, PlannedColumn};
use crate::{PartitionField, Result, TableDef, TableError, TableFormat};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef, TimeUnit};
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::spec::{
    NestedField, NullOrder, PartitionField as PartitionFieldOf, PrimitiveType, Schema, SortDirection, SortField, SortOrder, Transform,
    Type, UnboundPartitionSpec,
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

/// A schema without some of its columns.
pub(crate) fn without_columns(schema: &SchemaRef, names: &[&str]) -> SchemaRef {
    let fields = schema.fields().iter().filter(|field| !names.contains(&field.name().as_str())).cloned();
    Arc::new(ArrowSchema::new(fields.collect::<Vec<_>>()))
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

/// An existing table as the planner of changes sees it.
pub(crate) fn existing(
    format: TableFormat,
    table: &TableRef,
    schema: &Schema,
    partitions: &[PartitionFieldOf],
    sort_by: Vec<String>,
    bloom_filters: Vec<String>,
) -> Result<Existing> {
    let columns = reader_schema(file_schema(table, schema)?.as_ref()).fields().iter().cloned().collect();
    let partitions = partitions.iter().map(|field| ExistingPartition {
        name: field.name.clone(),
        column: schema.name_by_field_id(field.source_id).unwrap_or("?").to_owned(),
        transform: PartitionField::transform_of(field.transform),
    });
    Ok(Existing { format, columns, partitions: partitions.collect(), sort_by, bloom_filters })
}

/// The schema with the planned columns: those of the table keep their ids, new ones get ids that no column of the table ever had.
pub(crate) fn evolved(definition: &TableDef, existing: &Schema, last_column_id: i32, columns: &[PlannedColumn]) -> Result<Schema> {
    let table = &definition.table;
    let before = existing.as_struct().fields();
    let mut new_ids = last_column_id + 1..;
    let mut fields = Vec::with_capacity(columns.len());
    for column in columns {
        let wanted = &column.field;
        let kind = Type::Primitive(primitive(table, wanted)?);
        fields.push(match column.source.and_then(|source| before.get(source)) {
            Some(old) => {
                let mut field = old.as_ref().clone();
                field.name.clone_from(wanted.name());
                field.required = !wanted.is_nullable();
                *field.field_type = kind;
                Arc::new(field)
            }
            None => Arc::new(NestedField::new(new_ids.next().unwrap_or_default(), wanted.name(), kind, !wanted.is_nullable())),
        });
    }
    Schema::builder().with_fields(fields).build().map_err(TableError::iceberg(table))
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
