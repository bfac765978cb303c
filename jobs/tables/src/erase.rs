//! Erasing rows: which ones go, and the search for those in every file of a table, whether a snapshot refers to it or not.

use crate::{Expiry, Maintenance, Result, SHORTEST_GRACE, TableError};
use arrow::array::{Array, BooleanArray, RecordBatch, Scalar, StringArray};
use arrow::compute::{CastOptions, and_not, cast_with_options, filter_record_batch, kernels::cmp::eq, or};
use arrow::datatypes::Schema;
use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::DataFile;
use lakehouse_contract::TableRef;
use lakehouse_storage::LayerStore;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ARROW_SCHEMA_META_KEY, PARQUET_FIELD_ID_META_KEY};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Files searched at once; each is in memory whole.
const FILES_AT_ONCE: usize = 2;

/// Says for every row of a batch whether it goes.
pub type Judge = Arc<dyn Fn(&RecordBatch) -> Result<BooleanArray, arrow::error::ArrowError> + Send + Sync>;

/// Which rows go.
#[derive(Clone)]
pub struct Doomed {
    columns: Vec<String>,
    judge: Judge,
}

impl fmt::Debug for Doomed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doomed").field("columns", &self.columns).finish_non_exhaustive()
    }
}

impl Doomed {
    /// Rows that `judge` names, which looks at `columns` and at no other.
    pub fn new(columns: Vec<String>, judge: Judge) -> Self {
        Self { columns, judge }
    }

    /// Rows in which one of the columns has its value. The value is read as the column's type; one that cannot be is in no row.
    pub fn by_values(keys: Vec<(String, String)>) -> Self {
        let columns = keys.iter().map(|(column, _)| column.clone()).collect();
        let judge = move |batch: &RecordBatch| {
            let mut found = BooleanArray::from(vec![false; batch.num_rows()]);
            for (column, value) in &keys {
                let Some(values) = batch.column_by_name(column) else { continue };
                let text = StringArray::from(vec![value.as_str()]);
                let Ok(wanted) = cast_with_options(&text, values.data_type(), &CastOptions { safe: true, ..CastOptions::default() }) else {
                    continue;
                };
                if wanted.is_valid(0) {
                    found = or(&found, &nulls_as_false(&eq(values, &Scalar::new(wanted))?))?;
                }
            }
            Ok(found)
        };
        Self { columns, judge: Arc::new(judge) }
    }

    /// Whether a table with these columns can have such rows.
    pub fn concerns(&self, schema: &Schema) -> bool {
        self.columns.iter().any(|column| schema.column_with_name(column).is_some())
    }

    /// Which rows of a batch go.
    ///
    /// # Errors
    /// What the judge says.
    pub fn of(&self, batch: &RecordBatch) -> Result<BooleanArray, arrow::error::ArrowError> {
        (self.judge)(batch).map(|found| nulls_as_false(&found))
    }

    /// The rows of a batch that stay, and how many go.
    pub(crate) fn split(&self, table: &TableRef, batch: &RecordBatch) -> Result<(RecordBatch, BooleanArray)> {
        let gone = self.of(batch).map_err(TableError::arrow(table))?;
        let all = BooleanArray::from(vec![true; batch.num_rows()]);
        let stays = and_not(&all, &gone).map_err(TableError::arrow(table))?;
        Ok((filter_record_batch(batch, &stays).map_err(TableError::arrow(table))?, gone))
    }
}

fn nulls_as_false(found: &BooleanArray) -> BooleanArray {
    found.iter().map(|found| Some(found == Some(true))).collect()
}

/// What erasing did to a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Rows removed from the current state; in a dry run those that would be.
    pub rows: u64,
    /// Live files that held them.
    pub files: u64,
    /// Snapshot, version or generation that the table has now.
    pub snapshot: Option<String>,
    /// Snapshots (Parquet: generations) forgotten.
    pub snapshots_expired: u64,
    /// Objects deleted that only forgotten snapshots needed.
    pub files_deleted: u64,
    /// Files that still hold such rows, as absolute locations: what older versions need, or what a dead attempt left.
    pub left: Vec<String>,
}

impl Erased {
    /// Counts, of what [`search`] found, the rows in `live` files.
    pub(crate) fn count<L: AsRef<DataFile>>(&mut self, live: &[L], found: &[(String, u64)], layer: &LayerStore) {
        for live in live {
            if let Some((_, rows)) = found.iter().find(|(key, _)| layer.uri(key) == live.as_ref().file_path()) {
                (self.rows, self.files) = (self.rows + rows, self.files + 1);
            }
        }
    }
}

/// The expiry of all states but the current one, however young they are.
pub(crate) fn everything_before() -> (Expiry, Maintenance) {
    let later = Maintenance { now: Utc::now() + TimeDelta::hours(1), compact: None, expire: None, orphans: None };
    (Expiry { older_than: Duration::ZERO, keep_last: 1 }, later)
}

/// The Parquet files below a folder of a layer with rows that are doomed: key and number of such rows. `names` are the table's columns by
/// field id, where its files may have been written under older names.
pub(crate) async fn search(
    table: &TableRef,
    layer: &LayerStore,
    folder: &str,
    doomed: &Doomed,
    names: &HashMap<i32, String>,
) -> Result<Vec<(String, u64)>> {
    let keys: Vec<String> =
        layer.list(folder).await?.into_iter().map(|object| object.key).filter(|key| key.ends_with(".parquet")).collect();
    let searched = stream::iter(keys.into_iter().map(|key| async move {
        // A file that is gone since the listing holds nothing.
        let Some(bytes) = layer.get_opt(&key).await? else { return Ok::<_, TableError>((key, 0)) };
        let (doomed, names) = (doomed.clone(), names.clone());
        let counted = tokio::task::spawn_blocking(move || count(bytes, &doomed, &names)).await;
        let corrupt = |reason: String| TableError::Corrupt { table: table.clone(), what: layer.uri(&key), reason };
        let rows = counted.map_err(|error| corrupt(error.to_string()))?.map_err(|error| corrupt(error.to_string()))?;
        Ok((key, rows))
    }))
    .buffered(FILES_AT_ONCE);
    let all: Vec<(String, u64)> = searched.try_collect().await?;
    Ok(all.into_iter().filter(|(_, rows)| *rows > 0).collect())
}

/// Deletes objects that nothing refers to and that were written so long ago that no attempt is about to commit them; how many.
pub(crate) async fn forsaken(layer: &LayerStore, keys: impl Iterator<Item = &String>) -> Result<u64> {
    let before = Utc::now() - SHORTEST_GRACE;
    let mut deleted = 0;
    for key in keys {
        if layer.head(key).await?.is_some_and(|entry| entry.last_modified < before) {
            layer.delete(key).await?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

fn count(bytes: Bytes, doomed: &Doomed, names: &HashMap<i32, String>) -> Result<u64, parquet::errors::ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let current: Vec<String> = builder
        .schema()
        .fields()
        .iter()
        .map(|field| {
            let id = field.metadata().get(PARQUET_FIELD_ID_META_KEY).and_then(|text| text.parse().ok());
            id.and_then(|id: i32| names.get(&id)).unwrap_or_else(|| field.name()).clone()
        })
        .collect();
    let wanted: Vec<usize> = (0..current.len()).filter(|index| doomed.columns.contains(&current[*index])).collect();
    if wanted.is_empty() {
        return Ok(0);
    }
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted.iter().copied());
    let mut rows = 0;
    for batch in builder.with_projection(mask).build()? {
        let batch = batch?;
        let fields = batch.schema_ref().fields().iter().zip(&wanted);
        let renamed = fields.map(|(field, index)| field.as_ref().clone().with_name(&current[*index])).collect::<Vec<_>>();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(renamed)), batch.columns().to_vec())?;
        rows += doomed.of(&batch)?.true_count() as u64;
    }
    Ok(rows)
}

/// A Parquet file without the rows that are doomed: its bytes (none when no row stays), and how many stay and go.
///
/// # Errors
/// A file that cannot be read.
pub fn without(bytes: Bytes, doomed: &Doomed) -> Result<(Option<Vec<u8>>, u64, u64), parquet::errors::ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let schema = builder.schema().clone();
    let metadata: Vec<_> = builder.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
    let own = metadata.into_iter().filter(|pair| pair.key != ARROW_SCHEMA_META_KEY).collect();
    let properties = crate::blooms::kept(builder.metadata(), crate::writer::properties()).set_key_value_metadata(Some(own));
    let mut written = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut written, schema, Some(properties.build()))?;
    let (mut stay, mut go) = (0, 0);
    for batch in builder.build()? {
        let batch = batch?;
        let gone = doomed.of(&batch)?;
        let kept = filter_record_batch(&batch, &arrow::compute::not(&gone)?)?;
        (stay, go) = (stay + kept.num_rows() as u64, go + gone.true_count() as u64);
        writer.write(&kept)?;
    }
    writer.close()?;
    Ok(((stay > 0).then_some(written), stay, go))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Decimal128Array, Int64Array};
    use arrow::datatypes::{DataType, Field};

    fn batch() -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("name", DataType::Utf8, true),
            Field::new("id", DataType::Int64, true),
            Field::new("price", DataType::Decimal128(10, 2), true),
        ]);
        RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(StringArray::from(vec![Some("7"), Some("a"), None])),
                Arc::new(Int64Array::from(vec![Some(1), None, Some(7)])),
                Arc::new(Decimal128Array::from(vec![700, 750, 0]).with_precision_and_scale(10, 2).unwrap()),
            ],
        )
        .unwrap()
    }

    fn found(keys: &[(&str, &str)]) -> Vec<bool> {
        let keys = keys.iter().map(|(column, value)| ((*column).to_owned(), (*value).to_owned())).collect();
        Doomed::by_values(keys).of(&batch()).unwrap().iter().map(Option::unwrap).collect()
    }

    #[test]
    fn values_are_compared_in_the_type_of_the_column() {
        assert_eq!(found(&[("name", "7")]), [true, false, false]);
        assert_eq!(found(&[("id", "7")]), [false, false, true]);
        assert_eq!(found(&[("price", "7.5")]), [false, true, false]);
        assert_eq!(found(&[("id", "seven"), ("other", "7")]), [false, false, false]);
        assert_eq!(found(&[("name", "a"), ("id", "1")]), [true, true, false]);
    }

    #[test]
    fn a_file_keeps_its_bloom_filters() {
        let mut bytes = Vec::new();
        let properties = crate::writer::properties().set_column_bloom_filter_enabled("name".into(), true).build();
        let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch().schema(), Some(properties)).unwrap();
        writer.write(&batch()).unwrap();
        writer.close().unwrap();
        let (kept, _, _) = without(bytes.into(), &Doomed::by_values(vec![("id".to_owned(), "1".to_owned())])).unwrap();
        let builder = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(kept.unwrap())).unwrap();
        let filter = builder.get_row_group_column_bloom_filter(0, 0).unwrap().unwrap();
        assert!(filter.check("a") && !filter.check("7"), "the value of the row that stays, and not that of the row that went");
        assert!(builder.get_row_group_column_bloom_filter(0, 1).unwrap().is_none());
    }

    #[test]
    fn a_file_keeps_the_other_rows_and_its_schema() {
        let mut bytes = Vec::new();
        let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch().schema(), None).unwrap();
        writer.write(&batch()).unwrap();
        writer.close().unwrap();
        let by = |id: &str| Doomed::by_values(vec![("id".to_owned(), id.to_owned())]);
        let (kept, stay, go) = without(bytes.clone().into(), &by("7")).unwrap();
        assert_eq!((stay, go), (2, 1));
        let builder = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(kept.unwrap())).unwrap();
        assert_eq!(builder.schema(), &batch().schema());
        assert_eq!(count(bytes.into(), &by("1"), &HashMap::new()).unwrap(), 1);
    }
}
