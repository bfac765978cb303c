//! Definition of a table: schema, partitions, order, owner.

use crate::{Declared, Result, TableError};
use arrow::datatypes::{DataType, SchemaRef};
use lakehouse_contract::TableRef;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// How a table is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFormat {
    /// Apache Iceberg, format version 2, in the SQL catalog.
    Iceberg,
    /// Plain Parquet files with a manifest of ours.
    Parquet,
    /// Delta Lake, at its location.
    Delta,
}

impl TableFormat {
    /// `iceberg`, `parquet` or `delta`.
    pub fn name(self) -> &'static str {
        match self {
            TableFormat::Iceberg => "iceberg",
            TableFormat::Parquet => "parquet",
            TableFormat::Delta => "delta",
        }
    }
}

impl fmt::Display for TableFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a table must be. [`crate::Tables::ensure`] creates it or checks it against what exists.
#[derive(Clone, Debug)]
pub struct TableDef {
    /// Namespace (`silver`, `quarantine` or `gold`) and name.
    pub table: TableRef,
    /// How it is stored.
    pub format: TableFormat,
    /// Columns: Utf8, Boolean, Int32, Int64, Float32, Float64, Decimal128, Date32, Timestamp(µs), Timestamp(µs, "UTC").
    pub schema: SchemaRef,
    /// Partition fields, outermost first.
    pub partition_by: Vec<PartitionField>,
    /// Columns by which rows are sorted within a file, ascending, nulls first.
    pub sort_by: Vec<String>,
    /// Columns with a Bloom filter in new files; of Iceberg tables only.
    pub bloom_filters: Vec<String>,
    /// `namespace/name` of the pipeline that writes it.
    pub owner: String,
    /// Further properties, stored with the table. Keys that start with `lakehouse.` are reserved.
    pub properties: BTreeMap<String, String>,
    /// Columns that had another name, or that the table may lose.
    pub declared: Declared,
}

/// Transform of a partition field, as in Iceberg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transform {
    /// The value itself.
    Identity,
    /// Years since 1970.
    Year,
    /// Months since 1970-01.
    Month,
    /// Days since 1970-01-01.
    Day,
    /// Hours since 1970-01-01T00.
    Hour,
    /// Hash of the value modulo n.
    Bucket(u32),
    /// The first w characters, or the value rounded down to a multiple of w.
    Truncate(u32),
}

/// One partition field: a transform of a column. Parsed from `region`, `day(ts)`, `bucket(16, id)`, `truncate(4, sku)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PartitionField {
    /// The column.
    pub column: String,
    /// What is done to it.
    pub transform: Transform,
}

impl PartitionField {
    /// Name of the field in the table: the column, or `<column>_<transform>` as other Iceberg writers call it.
    pub fn name(&self) -> String {
        match self.transform {
            Transform::Identity => self.column.clone(),
            Transform::Year => format!("{}_year", self.column),
            Transform::Month => format!("{}_month", self.column),
            Transform::Day => format!("{}_day", self.column),
            Transform::Hour => format!("{}_hour", self.column),
            Transform::Bucket(_) => format!("{}_bucket", self.column),
            Transform::Truncate(_) => format!("{}_trunc", self.column),
        }
    }

    /// The transform of an existing table; none for one that no definition can write.
    pub(crate) fn transform_of(transform: iceberg::spec::Transform) -> Option<Transform> {
        Some(match transform {
            iceberg::spec::Transform::Identity => Transform::Identity,
            iceberg::spec::Transform::Year => Transform::Year,
            iceberg::spec::Transform::Month => Transform::Month,
            iceberg::spec::Transform::Day => Transform::Day,
            iceberg::spec::Transform::Hour => Transform::Hour,
            iceberg::spec::Transform::Bucket(buckets) => Transform::Bucket(buckets),
            iceberg::spec::Transform::Truncate(width) => Transform::Truncate(width),
            iceberg::spec::Transform::Void | iceberg::spec::Transform::Unknown => return None,
        })
    }

    pub(crate) fn iceberg_transform(&self) -> iceberg::spec::Transform {
        match self.transform {
            Transform::Identity => iceberg::spec::Transform::Identity,
            Transform::Year => iceberg::spec::Transform::Year,
            Transform::Month => iceberg::spec::Transform::Month,
            Transform::Day => iceberg::spec::Transform::Day,
            Transform::Hour => iceberg::spec::Transform::Hour,
            Transform::Bucket(buckets) => iceberg::spec::Transform::Bucket(buckets),
            Transform::Truncate(width) => iceberg::spec::Transform::Truncate(width),
        }
    }
}

impl fmt::Display for PartitionField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = &self.column;
        match self.transform {
            Transform::Identity => write!(f, "{column}"),
            Transform::Year => write!(f, "year({column})"),
            Transform::Month => write!(f, "month({column})"),
            Transform::Day => write!(f, "day({column})"),
            Transform::Hour => write!(f, "hour({column})"),
            Transform::Bucket(buckets) => write!(f, "bucket({buckets}, {column})"),
            Transform::Truncate(width) => write!(f, "truncate({width}, {column})"),
        }
    }
}

/// Why a text is no partition field.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{text}` is not a partition field: write a column, year(column), month(column), day(column), hour(column), bucket(n, column) or truncate(width, column)"
)]
pub struct InvalidPartitionField {
    /// The text.
    pub text: String,
}

impl FromStr for PartitionField {
    type Err = InvalidPartitionField;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPartitionField { text: text.to_owned() };
        let trimmed = text.trim();
        let Some((function, rest)) = trimmed.split_once('(') else {
            if trimmed.is_empty() || trimmed.contains([')', ',']) {
                return Err(invalid());
            }
            return Ok(Self { column: trimmed.to_owned(), transform: Transform::Identity });
        };
        let arguments: Vec<&str> = rest.strip_suffix(')').ok_or_else(invalid)?.split(',').map(str::trim).collect();
        let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n > 0).ok_or_else(invalid);
        let (column, transform) = match (function.trim(), arguments.as_slice()) {
            ("identity", [column]) => (*column, Transform::Identity),
            ("year", [column]) => (*column, Transform::Year),
            ("month", [column]) => (*column, Transform::Month),
            ("day", [column]) => (*column, Transform::Day),
            ("hour", [column]) => (*column, Transform::Hour),
            ("bucket", [n, column]) => (*column, Transform::Bucket(number(n)?)),
            ("truncate", [width, column]) => (*column, Transform::Truncate(number(width)?)),
            _ => return Err(invalid()),
        };
        if column.is_empty() || column.contains(['(', ')']) {
            return Err(invalid());
        }
        Ok(Self { column: column.to_owned(), transform })
    }
}

impl TableDef {
    /// The partition fields as one text, to compare and to show.
    pub(crate) fn partition_text(&self) -> String {
        show_partitions(self.partition_by.iter().map(ToString::to_string))
    }

    /// Checks that every named column exists, and that what is declared about columns does not contradict itself.
    ///
    /// # Errors
    /// [`TableError::Definition`] that names the column.
    pub fn validate(&self) -> Result<()> {
        let named = self.partition_by.iter().map(|field| ("partitionBy", &field.column));
        let named = named.chain(self.sort_by.iter().map(|column| ("sortBy", column)));
        for (place, column) in named.chain(self.bloom_filters.iter().map(|column| ("bloomFilters", column))) {
            if self.schema.field_with_name(column).is_err() {
                return Err(self.invalid(format!("{place} names column {column}, which it does not have")));
            }
        }
        self.validate_bloom_filters()?;
        for (index, field) in self.schema.fields().iter().enumerate() {
            if self.schema.fields().iter().take(index).any(|other| other.name() == field.name()) {
                return Err(self.invalid(format!("column {} is defined twice", field.name())));
            }
        }
        if self.format == TableFormat::Delta {
            self.validate_delta_partitions()?;
        }
        self.validate_declared()?;
        if let Some(key) = self.properties.keys().find(|key| key.starts_with("lakehouse.")) {
            return Err(self.invalid(format!("property {key} is reserved")));
        }
        Ok(())
    }

    fn validate_bloom_filters(&self) -> Result<()> {
        if self.format != TableFormat::Iceberg && !self.bloom_filters.is_empty() {
            return Err(self.invalid(format!("bloomFilters: {} tables have no property by which they keep them", self.format)));
        }
        let boolean = |column: &&String| self.schema.field_with_name(column).is_ok_and(|field| *field.data_type() == DataType::Boolean);
        match self.bloom_filters.iter().find(boolean) {
            Some(column) => Err(self.invalid(format!("bloomFilters: column {column} is a boolean, which has no Bloom filter"))),
            None => Ok(()),
        }
    }

    /// Delta has no transforms, and writes partition values as text.
    fn validate_delta_partitions(&self) -> Result<()> {
        for field in &self.partition_by {
            if field.transform != Transform::Identity {
                return Err(self.invalid(format!("partition field {field}: delta tables are partitioned by columns as they are")));
            }
            let kind = self.schema.field_with_name(&field.column).map(|column| column.data_type().clone());
            if !matches!(kind, Ok(DataType::Utf8 | DataType::Boolean | DataType::Int32 | DataType::Int64 | DataType::Date32)) {
                let reason =
                    format!("partition field {field}: delta tables are partitioned by columns of type string, boolean, int, long or date");
                return Err(self.invalid(reason));
            }
        }
        if self.partition_by.len() == self.schema.fields().len() {
            return Err(self.invalid("a delta table needs a column by which it is not partitioned".to_owned()));
        }
        Ok(())
    }

    fn validate_declared(&self) -> Result<()> {
        let defined = |column: &str| self.schema.field_with_name(column).is_ok();
        let Declared { renamed, dropped } = &self.declared;
        for (index, (column, before)) in renamed.iter().enumerate() {
            let reason = if !defined(column) {
                format!("column {column} is renamed from {before}, and it is not a column of the definition")
            } else if defined(before) {
                format!("column {column} is renamed from {before}, which is a column of the definition itself")
            } else if dropped.contains(before) {
                format!("column {column} is renamed from {before}, which is in droppedColumns: it is either renamed or dropped")
            } else if renamed.values().take(index).any(|other| other == before) {
                format!("two columns are renamed from {before}")
            } else {
                continue;
            };
            return Err(self.invalid(reason));
        }
        match dropped.iter().find(|column| defined(column)) {
            Some(column) => Err(self.invalid(format!("column {column} is in droppedColumns, and it is a column of the definition"))),
            None => Ok(()),
        }
    }

    fn invalid(&self, reason: String) -> TableError {
        TableError::Definition { table: self.table.clone(), reason }
    }
}

/// Partition fields as one text.
pub(crate) fn show_partitions(fields: impl Iterator<Item = String>) -> String {
    format!("[{}]", fields.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_fields_round_trip() {
        for text in ["region", "year(ts)", "month(ts)", "day(ts)", "hour(ts)", "bucket(16, id)", "truncate(4, sku)"] {
            let field: PartitionField = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(field.to_string(), text);
        }
        assert_eq!("bucket(16,id)".parse::<PartitionField>().map(|f| f.name()), Ok("id_bucket".to_owned()));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "day(ts", "day()", "bucket(id)", "bucket(0, id)", "week(ts)", "a,b", "day(day(ts))"] {
            assert!(text.parse::<PartitionField>().is_err(), "{text}");
        }
    }
}
