//! Reads data files, and compares rows by some of their columns.

use crate::conform::conform;
use crate::{Result, TableError};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use iceberg::scan::FileScanTask;
use iceberg::spec::{DataFile, DataFileFormat};
use iceberg::table::Table;
use lakehouse_contract::TableRef;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as AtomicOrdering};

/// Rows of a table on their way.
pub(crate) type RowStream = BoxStream<'static, Result<RecordBatch>>;

/// The rows of a data file in the current schema of the table, as files are written: a stream, which ends with an error when they are not as many as the manifest says.
pub(crate) fn open_file(name: &TableRef, table: &Table, file: &DataFile, schema: &SchemaRef) -> Result<RowStream> {
    let current = table.metadata().current_schema().clone();
    // No predicate: rewriting a file needs each of its rows.
    let task = FileScanTask::builder()
        .with_file_size_in_bytes(file.file_size_in_bytes())
        .with_start(0)
        .with_length(0)
        .with_data_file_path(file.file_path().to_owned())
        .with_data_file_format(DataFileFormat::Parquet)
        .with_project_field_ids(current.as_struct().fields().iter().map(|field| field.id).collect())
        .with_schema(current)
        .with_case_sensitive(true)
        .build();
    let tasks = Box::pin(futures::stream::iter([Ok(task)]));
    let reader = table.reader_builder().with_data_file_concurrency_limit(1).build();
    let batches = reader.read(tasks).map_err(TableError::iceberg(name))?.stream();
    let read = Arc::new(AtomicU64::new(0));
    let (counted, expected) = (read.clone(), file.record_count());
    let (of_table, schema, missing) = (name.clone(), schema.clone(), name.clone());
    let path = file.file_path().to_owned();
    let rows = batches.map(move |batch| {
        let batch = batch.map_err(TableError::iceberg(&of_table))?;
        counted.fetch_add(batch.num_rows() as u64, AtomicOrdering::Relaxed);
        conform(&of_table, &batch, &schema).map(Some)
    });
    let end = futures::stream::once(async move {
        match read.load(AtomicOrdering::Relaxed) {
            rows if rows == expected => Ok(None),
            rows => {
                let reason = format!("it has {rows} rows, its manifest says {expected}");
                Err(TableError::Corrupt { table: missing, what: path, reason })
            }
        }
    });
    Ok(rows.chain(end).try_filter_map(|batch| async move { Ok(batch) }).boxed())
}

/// Turns some columns of a batch into comparable rows. Order: that of the values, nulls lowest.
pub(crate) struct Comparer {
    table: TableRef,
    columns: Vec<usize>,
    converter: RowConverter,
}

impl Comparer {
    /// Compares by the named columns.
    pub(crate) fn new(table: &TableRef, schema: &SchemaRef, names: &[String]) -> Result<Self> {
        let mut columns = Vec::new();
        for name in names {
            let index = schema.index_of(name).map_err(|_| TableError::Definition {
                table: table.clone(),
                reason: format!("there is no column {name} to compare rows by"),
            })?;
            columns.push(index);
        }
        let fields = columns.iter().map(|index| SortField::new(schema.field(*index).data_type().clone())).collect();
        let converter = RowConverter::new(fields).map_err(TableError::arrow(table))?;
        Ok(Self { table: table.clone(), columns, converter })
    }

    /// The rows of a batch.
    pub(crate) fn rows(&self, batch: &RecordBatch) -> Result<Rows> {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|index| batch.column(*index).clone()).collect();
        self.converter.convert_columns(&columns).map_err(TableError::arrow(&self.table))
    }

    /// `column=value, …` of one row, for a message.
    pub(crate) fn show(&self, batch: &RecordBatch, row: usize) -> String {
        let shown = self.columns.iter().map(|index| {
            let value = arrow::util::display::array_value_to_string(batch.column(*index), row);
            format!("{}={}", batch.schema_ref().field(*index).name(), value.unwrap_or_else(|error| error.to_string()))
        });
        shown.collect::<Vec<_>>().join(", ")
    }
}
