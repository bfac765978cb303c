//! The rows of one data file of a Delta table, whoever wrote it.

use crate::conform::conform;
use crate::delta_files::partition_scalars;
use crate::rows::RowStream;
use crate::{Result, TableError};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use futures::stream::{self, StreamExt};
use iceberg::spec::{DataFile, PartitionSpec};
use lakehouse_contract::TableRef;
use lakehouse_storage::LayerStore;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::sync::Arc;

/// The rows of a file in `schema`, in their order. The compressed file is held in memory, its rows are not.
///
/// Partition columns that the file does not have, as other programs write it, get the value that the log has for them.
///
/// # Errors
/// [`TableError::Corrupt`] for a file that cannot be read, or, at the end, one with another number of rows than the log says.
pub(crate) async fn open(
    table: &TableRef,
    layer: &LayerStore,
    file: &DataFile,
    spec: &PartitionSpec,
    schema: &SchemaRef,
) -> Result<RowStream> {
    let location = file.file_path().to_owned();
    let corrupt = {
        let (table, location) = (table.clone(), location.clone());
        move |reason: String| TableError::Corrupt { table: table.clone(), what: location.clone(), reason }
    };
    let key = layer.key_of(&location).ok_or_else(|| corrupt("it lies outside of the layer".to_owned()))?;
    let bytes = layer.get(key).await?;
    let mut reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| corrupt(error.to_string()))?;
    let values = partition_scalars(file, spec, schema);
    let (table, schema, expected) = (table.clone(), schema.clone(), file.record_count());
    let mut found = 0_u64;
    let mut ended = false;
    let next = move || {
        if ended {
            return None;
        }
        let Some(batch) = reader.next() else {
            ended = true;
            let wrong = || corrupt(format!("it has {found} rows, the log says {expected}"));
            return (found != expected).then(|| Err(wrong()));
        };
        let conformed = batch.map_err(TableError::arrow(&table)).and_then(|batch| {
            found += batch.num_rows() as u64;
            let mut fields: Vec<Arc<Field>> = batch.schema_ref().fields().iter().cloned().collect();
            let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
            for (name, value) in values.iter().filter(|(name, _)| batch.column_by_name(name).is_none()) {
                let column = value.to_array_of_size(batch.num_rows()).map_err(|error| corrupt(error.to_string()))?;
                fields.push(Arc::new(Field::new(name, column.data_type().clone(), true)));
                columns.push(column);
            }
            let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let whole = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options);
            conform(&table, &whole.map_err(TableError::arrow(&table))?, &schema)
        });
        ended = conformed.is_err();
        Some(conformed)
    };
    Ok(stream::iter(std::iter::from_fn(next)).boxed())
}
