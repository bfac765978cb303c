//! Partitions: which rows of a batch belong to which, and how a partition is called in a path.

use crate::{Result, TableError};
use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::row::{RowConverter, SortField};
use iceberg::arrow::{PartitionValueCalculator, arrow_struct_to_literal};
use iceberg::spec::{Literal, PartitionKey, PartitionSpecRef, SchemaRef};
use lakehouse_contract::TableRef;
use std::collections::HashMap;

/// Splits batches by the partition of their rows.
///
/// The splitter of the `iceberg` crate does the same with one allocation per row; this one compares encoded rows, and takes a batch that
/// lies in one partition as it is.
pub(crate) struct Splitter {
    table: TableRef,
    schema: SchemaRef,
    spec: PartitionSpecRef,
    calculator: PartitionValueCalculator,
}

impl Splitter {
    pub(crate) fn new(table: &TableRef, schema: SchemaRef, spec: PartitionSpecRef) -> Result<Self> {
        let calculator = PartitionValueCalculator::try_new(&spec, &schema).map_err(TableError::iceberg(table))?;
        Ok(Self { table: table.clone(), schema, spec, calculator })
    }

    /// The parts of a batch (which has the schema of the table's files), in the order in which their partitions first occur.
    pub(crate) fn split(&self, batch: &RecordBatch) -> Result<Vec<(PartitionKey, RecordBatch)>> {
        let failed = TableError::arrow(&self.table);
        let values = self.calculator.calculate(batch).map_err(TableError::iceberg(&self.table))?;
        let columns = values.as_struct().columns();
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let rows = RowConverter::new(fields).and_then(|converter| converter.convert_columns(columns)).map_err(&failed)?;
        let mut groups: Vec<Vec<u32>> = Vec::new();
        let mut known: HashMap<&[u8], usize> = HashMap::new();
        let mut last: Option<(&[u8], usize)> = None;
        for row in 0..batch.num_rows() {
            let key = rows.row(row).data();
            let group = match last {
                // Rows mostly come in runs of one partition.
                Some((same, group)) if same == key => group,
                _ => *known.entry(key).or_insert_with(|| {
                    groups.push(Vec::new());
                    groups.len() - 1
                }),
            };
            last = Some((key, group));
            groups[group].push(row as u32);
        }
        let whole = groups.len() == 1;
        let mut parts = Vec::with_capacity(groups.len());
        for group in groups {
            let first = group.first().map_or(0, |row| *row as usize);
            let part = if whole { batch.clone() } else { take_record_batch(batch, &UInt32Array::from(group)).map_err(&failed)? };
            parts.push((self.key(&values.slice(first, 1))?, part));
        }
        Ok(parts)
    }

    fn key(&self, value: &arrow::array::ArrayRef) -> Result<PartitionKey> {
        let literals = arrow_struct_to_literal(value, self.calculator.partition_type()).map_err(TableError::iceberg(&self.table))?;
        match literals.into_iter().next() {
            Some(Some(Literal::Struct(data))) => Ok(PartitionKey::new(self.spec.as_ref().clone(), self.schema.clone(), data)),
            _ => Err(TableError::Corrupt {
                table: self.table.clone(),
                what: "a partition value".to_owned(),
                reason: "it is no struct".to_owned(),
            }),
        }
    }
}

/// `name=value/…` as readers of plain Parquet write it: values percent-encoded once, null by its usual name.
pub(crate) fn hive_path(key: &PartitionKey) -> String {
    const NULL: &str = "__HIVE_DEFAULT_PARTITION__";
    let Ok(types) = key.spec().partition_type(key.schema()) else { return String::new() };
    let parts = key.spec().fields().iter().zip(types.fields()).enumerate().map(|(index, (field, kind))| {
        let value = match &key.data()[index] {
            None => NULL.to_owned(),
            value => encode(&field.transform.to_human_string(&kind.field_type, value.as_ref())),
        };
        format!("{}={value}", encode(&field.name))
    });
    parts.collect::<Vec<_>>().join("/")
}

fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    // A value that consists of dots would be a path of its own.
    if encoded.chars().all(|c| c == '.') { encoded.replace('.', "%2E") } else { encoded }
}
