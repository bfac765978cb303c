//! Merging with history (slowly changing dimensions, type 2): a row per version of a key, each with the time in which it is valid.
//!
//! The versions of a key are its rows in the order of the sequence, whatever the order in which commits bring them; a version is valid from the
//! first column of its sequence until that of the next one. A late version so fits in between: it ends the one before it earlier, and is ended
//! by the one after it. Of rows with the same key and the same beginning the highest sequence stays, as without history.

use crate::live::TableFiles;
use crate::merge::{MergePlan, MergeRules, key_ranges, may_contain};
use crate::replace::Rewrite;
use crate::rows::Comparer;
use crate::schema::without_columns;
use crate::writer::FileLayout;
use crate::{BatchStream, Result, TableError};
use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use lakehouse_contract::TableRef;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Column: the beginning of a version, as the first column of the sequence says it; it is included.
pub const VALID_FROM: &str = "valid_from";
/// Column: the end of a version, which is the beginning of the next one and not included; null for the newest.
pub const VALID_TO: &str = "valid_to";
/// Column: whether a version is the newest of its key.
pub const IS_CURRENT: &str = "is_current";
/// The columns that a table with history has beside its own.
pub const HISTORY: [&str; 3] = [VALID_FROM, VALID_TO, IS_CURRENT];

/// `schema` with the columns of a table with history behind the others.
///
/// # Errors
/// A line that says which column of the sequence cannot begin a version, or which name is taken.
pub fn with_history(schema: &SchemaRef, sequence_by: &[String]) -> std::result::Result<SchemaRef, String> {
    if let Some(taken) = HISTORY.iter().find(|name| schema.field_with_name(name).is_ok()) {
        return Err(format!("column {taken} is added by write.merge.history: choose another name"));
    }
    let first = sequence_by.first().ok_or("write.merge.sequenceBy is empty")?;
    let begin = schema.field_with_name(first).map_err(|_| format!("write.merge.sequenceBy: there is no column {first}"))?;
    if !matches!(begin.data_type(), DataType::Date32 | DataType::Timestamp(..)) || begin.is_nullable() {
        return Err(format!(
            "write.merge.history: versions begin at the first column of sequenceBy, and {first} is not a required date, timestamp or timestamptz"
        ));
    }
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(VALID_FROM, begin.data_type().clone(), false)));
    fields.push(Arc::new(Field::new(VALID_TO, begin.data_type().clone(), true)));
    fields.push(Arc::new(Field::new(IS_CURRENT, DataType::Boolean, false)));
    Ok(Arc::new(Schema::new(fields)))
}

/// Keys of rows, encoded.
type Keys = HashSet<Box<[u8]>>;

/// How versions are identified and ordered.
pub(crate) struct HistoryRules {
    table: TableRef,
    /// The columns of the input: those of the table without those of the history.
    plain: SchemaRef,
    key_columns: Vec<String>,
    begin: String,
    key: Comparer,
    sequence: Comparer,
    /// One row per key and beginning.
    versions: MergeRules,
}

/// Where the rows of the wanted keys are.
struct Found {
    /// Files with such rows, by their position among the live ones.
    files: HashSet<usize>,
    rows: Vec<RecordBatch>,
}

impl HistoryRules {
    pub(crate) fn new(table: &TableRef, schema: &SchemaRef, key: &[String], sequence_by: &[String]) -> Result<Self> {
        let invalid = |reason: &str| TableError::Definition { table: table.clone(), reason: reason.to_owned() };
        let begin = sequence_by.first().ok_or_else(|| invalid("merge needs key and sequenceBy columns"))?;
        if HISTORY.iter().any(|name| schema.field_with_name(name).is_err()) {
            return Err(invalid("a merge with history needs the columns valid_from, valid_to and is_current, which it does not have"));
        }
        let plain = without_columns(schema, &HISTORY);
        let mut version: Vec<String> = key.to_vec();
        version.push(begin.clone());
        Ok(Self {
            table: table.clone(),
            key: Comparer::new(table, &plain, key)?,
            sequence: Comparer::new(table, &plain, sequence_by)?,
            versions: MergeRules::new(table, &plain, &version, sequence_by)?,
            key_columns: key.to_vec(),
            begin: begin.clone(),
            plain,
        })
    }

    /// The winning row of each version of the input, how many rows lost, and how many came.
    pub(crate) async fn reduce(&self, input: Vec<BatchStream>) -> Result<(Vec<RecordBatch>, u64, u64)> {
        self.versions.reduce_in_memory(input).await
    }

    /// The columns of the input.
    pub(crate) fn plain(&self) -> &SchemaRef {
        &self.plain
    }

    /// Puts versions among those of the table as it is now.
    pub(crate) async fn plan<F: TableFiles>(
        &self,
        input: &[RecordBatch],
        files: &F,
        layout: Arc<FileLayout>,
    ) -> Result<MergePlan<F::Live>> {
        let failed = TableError::arrow(&self.table);
        let input = concat_batches(&self.plain, input).map_err(&failed)?;
        let live = files.live().await?;
        let found = self.find(&input, files, &live, &layout).await?;
        let old = concat_batches(&self.plain, &found.rows).map_err(&failed)?;
        let known = old.num_rows();
        let all = concat_batches(&self.plain, [&old, &input]).map_err(&failed)?;
        let (versions, changed) = self.versions_of(&all, known)?;
        let written = versions.iter().flatten().filter(|row| **row >= known).count() as u64;
        let (removed, added) = self.rewrite(files, live, &found.files, &changed, self.rows_of(&all, &versions, &layout)?, layout).await?;
        Ok(MergePlan { removed, added, written, lost: input.num_rows() as u64 - written })
    }

    /// The rows of the table that have a key of the input.
    async fn find<F: TableFiles>(&self, input: &RecordBatch, files: &F, live: &[F::Live], layout: &FileLayout) -> Result<Found> {
        let keys = self.key.rows(input)?;
        let wanted: HashSet<&[u8]> = (0..input.num_rows()).map(|row| keys.row(row).data()).collect();
        let ranges = key_ranges(&self.table, &self.key_columns, input, files)?;
        let mut found = Found { files: HashSet::new(), rows: Vec::new() };
        for (number, file) in live.iter().enumerate() {
            if !may_contain(&ranges, file.as_ref()) {
                continue;
            }
            for batch in files.read(file.as_ref(), &layout.arrow).await? {
                let plain = self.without_history(&batch)?;
                let keys = self.key.rows(&plain)?;
                let mask: BooleanArray = (0..plain.num_rows()).map(|row| Some(wanted.contains(keys.row(row).data()))).collect();
                if mask.true_count() > 0 {
                    found.files.insert(number);
                    found.rows.push(filter_record_batch(&plain, &mask).map_err(TableError::arrow(&self.table))?);
                }
            }
        }
        Ok(found)
    }

    fn without_history(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns: Vec<usize> =
            (0..batch.num_columns()).filter(|at| !HISTORY.contains(&batch.schema_ref().field(*at).name().as_str())).collect();
        let batch = batch.project(&columns).map_err(TableError::arrow(&self.table))?;
        crate::conform(&self.table, &batch, &self.plain)
    }

    /// The versions of each key that the input changes, in their order, as rows of `all`, of which the first `known` are those of the table;
    /// and these keys.
    fn versions_of(&self, all: &RecordBatch, known: usize) -> Result<(Vec<Vec<usize>>, Keys)> {
        let (keys, sequence) = (self.key.rows(all)?, self.sequence.rows(all)?);
        let (winners, ties) = self.versions.winners(all)?;
        // Equal rows stay as the table has them: its rows come first, and a tie goes to the first.
        self.versions.refuse_equal(all, &ties)?;
        let mut by_key: HashMap<&[u8], Vec<usize>> = HashMap::new();
        for row in winners {
            by_key.entry(keys.row(row).data()).or_default().push(row);
        }
        let mut changed: Vec<(&[u8], Vec<usize>)> = by_key.into_iter().filter(|(_, rows)| rows.iter().any(|row| *row >= known)).collect();
        for (_, rows) in &mut changed {
            rows.sort_by(|one, other| sequence.row(*one).cmp(&sequence.row(*other)));
        }
        // In the order of the input, so that equal input makes equal files.
        changed.sort_by_key(|(_, rows)| rows.iter().copied().filter(|row| *row >= known).min());
        let names = changed.iter().map(|(key, _)| Box::from(*key)).collect();
        Ok((changed.into_iter().map(|(_, rows)| rows).collect(), names))
    }

    /// The versions as rows of the table.
    fn rows_of(&self, all: &RecordBatch, versions: &[Vec<usize>], layout: &FileLayout) -> Result<RecordBatch> {
        let failed = TableError::arrow(&self.table);
        let number = |row: usize| u32::try_from(row).unwrap_or(u32::MAX);
        let order: UInt32Array = versions.iter().flatten().map(|row| number(*row)).collect();
        let next: UInt32Array =
            versions.iter().flat_map(|rows| (0..rows.len()).map(|at| rows.get(at + 1).map(|row| number(*row)))).collect();
        let rows = take_record_batch(all, &order).map_err(&failed)?;
        let begins = all.column_by_name(&self.begin).ok_or_else(|| TableError::Definition {
            table: self.table.clone(),
            reason: format!("there is no column {} to begin versions at", self.begin),
        })?;
        let from = take(begins, &order, None).map_err(&failed)?;
        let to = take(begins, &next, None).map_err(&failed)?;
        let current: BooleanArray = next.iter().map(|next| Some(next.is_none())).collect();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(layout.arrow.fields().len());
        for field in layout.arrow.fields() {
            columns.push(match field.name().as_str() {
                VALID_FROM => from.clone(),
                VALID_TO => to.clone(),
                IS_CURRENT => Arc::new(current.clone()),
                name => {
                    rows.column_by_name(name).cloned().unwrap_or_else(|| arrow::array::new_null_array(field.data_type(), rows.num_rows()))
                }
            });
        }
        RecordBatch::try_new(layout.arrow.clone(), columns).map_err(&failed)
    }

    /// Takes all rows of the changed keys out of the files that have some, and writes their versions.
    async fn rewrite<F: TableFiles>(
        &self,
        files: &F,
        live: Vec<F::Live>,
        with_rows: &HashSet<usize>,
        changed: &HashSet<Box<[u8]>>,
        versions: RecordBatch,
        layout: Arc<FileLayout>,
    ) -> Result<(Vec<F::Live>, Vec<iceberg::spec::DataFile>)> {
        let mut rewrite = Rewrite::start(layout.clone());
        let mut removed = Vec::new();
        for (number, file) in live.into_iter().enumerate() {
            if !with_rows.contains(&number) {
                continue;
            }
            let mut parts = Vec::new();
            let mut gone = 0;
            for batch in files.read(file.as_ref(), &layout.arrow).await? {
                let keys = self.key.rows(&self.without_history(&batch)?)?;
                let stays: BooleanArray = (0..batch.num_rows()).map(|row| Some(!changed.contains(keys.row(row).data()))).collect();
                gone += stays.false_count();
                parts.push((batch, stays));
            }
            if gone == 0 {
                continue;
            }
            for (batch, stays) in parts {
                rewrite.keep(filter_record_batch(&batch, &stays).map_err(TableError::arrow(&self.table))?).await?;
            }
            removed.push(file);
        }
        rewrite.keep(versions).await?;
        Ok((removed, rewrite.finish().await?.0))
    }
}
