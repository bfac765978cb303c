//! Merging by key: per key the row with the highest sequence stays, among table and input, in whatever order commits come.

use crate::live::TableFiles;
use crate::replace::Rewrite;
use crate::rows::Comparer;
use crate::writer::FileLayout;
use crate::{BatchStream, PROCESSED_AT, Result, TableError};
use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::{concat_batches, filter_record_batch, interleave_record_batch, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, Rows, SortField};
use futures::StreamExt;
use iceberg::spec::{DataFile, PrimitiveLiteral};
use lakehouse_contract::TableRef;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// Two rows of one batch.
pub(crate) type Pair = (usize, usize);

/// How rows are identified, ordered and compared.
pub(crate) struct MergeRules {
    table: TableRef,
    schema: SchemaRef,
    key_columns: Vec<String>,
    key: Comparer,
    sequence: Comparer,
    content: Comparer,
}

/// What a merge does to the table.
pub(crate) struct MergePlan<L> {
    pub(crate) removed: Vec<L>,
    pub(crate) added: Vec<DataFile>,
    /// Input rows that are in the table afterwards.
    pub(crate) written: u64,
    /// Input rows that lost against a row of the table.
    pub(crate) lost: u64,
}

/// The best row of one key so far.
struct Best {
    batch: usize,
    row: usize,
    /// Rows with the same sequence, to be compared at the end: only ties at the top count.
    ties: Vec<(usize, usize)>,
}

impl MergeRules {
    pub(crate) fn new(table: &TableRef, schema: &SchemaRef, key: &[String], sequence_by: &[String]) -> Result<Self> {
        if key.is_empty() || sequence_by.is_empty() {
            return Err(TableError::Definition { table: table.clone(), reason: "merge needs key and sequenceBy columns".to_owned() });
        }
        let content: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).filter(|name| name != PROCESSED_AT).collect();
        Ok(Self {
            table: table.clone(),
            schema: schema.clone(),
            key_columns: key.to_vec(),
            key: Comparer::new(table, schema, key)?,
            sequence: Comparer::new(table, schema, sequence_by)?,
            content: Comparer::new(table, schema, &content)?,
        })
    }

    /// The winning row of each key of the input, how many rows lost, and how many came.
    pub(crate) async fn reduce(&self, input: Vec<BatchStream>) -> Result<(Vec<RecordBatch>, u64, u64)> {
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut sequences: Vec<Rows> = Vec::new();
        let mut best: HashMap<Box<[u8]>, Best> = HashMap::new();
        let mut rows = 0_u64;
        for mut stream in input {
            while let Some(batch) = stream.next().await {
                let batch = batch.map_err(|cause| TableError::Source { table: self.table.clone(), cause })?;
                let batch = crate::conform::conform(&self.table, &batch, &self.schema)?;
                rows += batch.num_rows() as u64;
                let (keys, sequence) = (self.key.rows(&batch)?, self.sequence.rows(&batch)?);
                let number = batches.len();
                for row in 0..batch.num_rows() {
                    let key = keys.row(row);
                    let Some(current) = best.get_mut(key.as_ref()) else {
                        best.insert(key.as_ref().into(), Best { batch: number, row, ties: Vec::new() });
                        continue;
                    };
                    let held = if current.batch == number { sequence.row(current.row) } else { sequences[current.batch].row(current.row) };
                    match sequence.row(row).cmp(&held) {
                        Ordering::Greater => *current = Best { batch: number, row, ties: Vec::new() },
                        Ordering::Equal => current.ties.push((number, row)),
                        Ordering::Less => {}
                    }
                }
                batches.push(batch);
                sequences.push(sequence);
            }
        }
        drop(sequences);
        let mut chosen: Vec<(usize, usize)> = Vec::with_capacity(best.len());
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for best in best.into_values() {
            chosen.push((best.batch, best.row));
            for tie in best.ties {
                left.push((best.batch, best.row));
                right.push(tie);
            }
        }
        // In the order of the input, so that equal input makes equal files.
        chosen.sort_unstable();
        self.refuse_ties(&self.gather(&batches, &left)?, &self.gather(&batches, &right)?)?;
        let superseded = rows - chosen.len() as u64;
        let winners = self.gather(&batches, &chosen)?;
        Ok((vec![winners], superseded, rows))
    }

    /// The rows of one batch that stay, one per key, and pairs of rows with equal sequence at the top of a key. The first of equals stays.
    pub(crate) fn winners(&self, batch: &RecordBatch) -> Result<(Vec<usize>, Vec<Pair>)> {
        let (keys, sequence) = (self.key.rows(batch)?, self.sequence.rows(batch)?);
        let mut best: HashMap<&[u8], (usize, Vec<usize>)> = HashMap::new();
        for row in 0..batch.num_rows() {
            match best.entry(keys.row(row).data()) {
                Entry::Vacant(place) => {
                    place.insert((row, Vec::new()));
                }
                Entry::Occupied(mut place) => match sequence.row(row).cmp(&sequence.row(place.get().0)) {
                    Ordering::Greater => *place.get_mut() = (row, Vec::new()),
                    Ordering::Equal => place.get_mut().1.push(row),
                    Ordering::Less => {}
                },
            }
        }
        let ties = best.values().flat_map(|(held, equal)| equal.iter().map(|row| (*held, *row))).collect();
        Ok((best.into_values().map(|(row, _)| row).collect(), ties))
    }

    /// Rows of these pairs, which have the same key and sequence, must be the same row.
    pub(crate) fn refuse_equal(&self, batch: &RecordBatch, pairs: &[Pair]) -> Result<()> {
        let side = |rows: Vec<usize>| self.gather(std::slice::from_ref(batch), &rows.into_iter().map(|row| (0, row)).collect::<Vec<_>>());
        let (left, right) = pairs.iter().copied().unzip();
        self.refuse_ties(&side(left)?, &side(right)?)
    }

    fn gather(&self, batches: &[RecordBatch], rows: &[(usize, usize)]) -> Result<RecordBatch> {
        if rows.is_empty() {
            return Ok(RecordBatch::new_empty(self.schema.clone()));
        }
        let batches: Vec<&RecordBatch> = batches.iter().collect();
        interleave_record_batch(&batches, rows).map_err(TableError::arrow(&self.table))
    }

    /// Rows with the same key and sequence must be the same row.
    fn refuse_ties(&self, left: &RecordBatch, right: &RecordBatch) -> Result<()> {
        let (one, other) = (self.content.rows(left)?, self.content.rows(right)?);
        match one.iter().zip(other.iter()).position(|(one, other)| one != other) {
            None => Ok(()),
            Some(row) => Err(TableError::MergeTie {
                table: self.table.clone(),
                key: self.key.show(left, row),
                sequence: self.sequence.show(left, row),
            }),
        }
    }

    /// Merges `winners` into the table as it is now.
    pub(crate) async fn plan<F: TableFiles>(
        &self,
        winners: &[RecordBatch],
        files: &F,
        layout: Arc<FileLayout>,
    ) -> Result<MergePlan<F::Live>> {
        let winners = concat_batches(&self.schema, winners).map_err(TableError::arrow(&self.table))?;
        let (keys, sequence) = (self.key.rows(&winners)?, self.sequence.rows(&winners)?);
        let by_key: HashMap<&[u8], usize> = (0..winners.num_rows()).map(|row| (keys.row(row).data(), row)).collect();
        let ranges = key_ranges(&self.table, &self.key_columns, &winners, files)?;
        let mut wins = vec![true; winners.num_rows()];
        let mut removed = Vec::new();
        let mut rewrite = Rewrite::start(layout.clone());
        for live in files.live().await? {
            if !may_contain(&ranges, live.as_ref()) {
                continue;
            }
            let mut parts = Vec::new();
            let mut beaten = 0;
            for batch in files.read(live.as_ref(), &layout.arrow).await? {
                let (file_keys, file_sequence) = (self.key.rows(&batch)?, self.sequence.rows(&batch)?);
                let mut stays = vec![true; batch.num_rows()];
                let (mut mine, mut theirs) = (Vec::new(), Vec::new());
                for (row, stays) in stays.iter_mut().enumerate() {
                    let Some(winner) = by_key.get(file_keys.row(row).data()).copied() else { continue };
                    match sequence.row(winner).cmp(&file_sequence.row(row)) {
                        Ordering::Greater => {
                            *stays = false;
                            beaten += 1;
                        }
                        Ordering::Equal => {
                            wins[winner] = false;
                            mine.push(winner as u64);
                            theirs.push(row as u64);
                        }
                        Ordering::Less => wins[winner] = false,
                    }
                }
                let take = |from: &RecordBatch, rows: Vec<u64>| {
                    take_record_batch(from, &arrow::array::UInt64Array::from(rows)).map_err(TableError::arrow(&self.table))
                };
                self.refuse_ties(&take(&winners, mine)?, &take(&batch, theirs)?)?;
                parts.push((batch, BooleanArray::from(stays)));
            }
            if beaten == 0 {
                continue;
            }
            for (batch, stays) in parts {
                rewrite.keep(filter_record_batch(&batch, &stays).map_err(TableError::arrow(&self.table))?).await?;
            }
            removed.push(live);
        }
        let wins = BooleanArray::from(wins);
        let written = wins.true_count() as u64;
        rewrite.keep(filter_record_batch(&winners, &wins).map_err(TableError::arrow(&self.table))?).await?;
        let (added, _) = rewrite.finish().await?;
        Ok(MergePlan { removed, added, written, lost: winners.num_rows() as u64 - written })
    }
}

/// The values of the key columns of some rows, to skip files that hold none of them.
pub(crate) fn key_ranges<F: TableFiles>(table: &TableRef, key: &[String], rows: &RecordBatch, files: &F) -> Result<Vec<KeyRange>> {
    let mut ranges = Vec::new();
    for name in key {
        let (Some(column), Some(field_id)) = (rows.column_by_name(name), files.field_id(name)) else { continue };
        // NaN is outside of the bounds of a file, so floats prune nothing.
        if !column.data_type().is_floating() {
            ranges.push(KeyRange::new(table, field_id, column)?);
        }
    }
    Ok(ranges)
}

/// Whether a file may hold rows with these keys.
pub(crate) fn may_contain(ranges: &[KeyRange], file: &DataFile) -> bool {
    ranges.iter().all(|range| range.may_contain(file))
}

/// The values of one key column of the input, to skip files that hold none of them.
pub(crate) struct KeyRange {
    field_id: i32,
    has_null: bool,
    data_type: DataType,
    converter: RowConverter,
    sorted: Vec<OwnedRow>,
}

impl KeyRange {
    fn new(table: &TableRef, field_id: i32, column: &ArrayRef) -> Result<Self> {
        let failed = TableError::arrow(table);
        let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())]).map_err(&failed)?;
        let rows = converter.convert_columns(std::slice::from_ref(column)).map_err(&failed)?;
        let valid = (0..column.len()).filter(|row| column.is_valid(*row));
        let mut sorted: Vec<OwnedRow> = valid.map(|row| rows.row(row).owned()).collect();
        sorted.sort_unstable();
        sorted.dedup();
        Ok(Self { field_id, has_null: column.null_count() > 0, data_type: column.data_type().clone(), converter, sorted })
    }

    /// Whether a file may hold one of the values. What cannot be proven counts as yes.
    fn may_contain(&self, file: &DataFile) -> bool {
        let nulls = file.null_value_counts().get(&self.field_id).copied();
        if self.has_null && nulls != Some(0) {
            return true;
        }
        if nulls == Some(file.record_count()) {
            return false;
        }
        let from = match file.lower_bounds().get(&self.field_id).map(|datum| self.bound(datum.literal())) {
            None => 0,
            Some(None) => return true,
            Some(Some(lower)) => self.sorted.partition_point(|value| *value < lower),
        };
        match (self.sorted.get(from), file.upper_bounds().get(&self.field_id).map(|datum| self.bound(datum.literal()))) {
            (None, _) => false,
            (Some(_), None | Some(None)) => true,
            (Some(value), Some(Some(upper))) => *value <= upper,
        }
    }

    fn bound(&self, literal: &PrimitiveLiteral) -> Option<OwnedRow> {
        let array: ArrayRef = match (literal, &self.data_type) {
            (PrimitiveLiteral::Boolean(value), DataType::Boolean) => Arc::new(BooleanArray::from(vec![*value])),
            (PrimitiveLiteral::Int(value), DataType::Int32) => Arc::new(Int32Array::from(vec![*value])),
            (PrimitiveLiteral::Int(value), DataType::Date32) => Arc::new(Date32Array::from(vec![*value])),
            // A file from before the column became long.
            (PrimitiveLiteral::Int(value), DataType::Int64) => Arc::new(Int64Array::from(vec![i64::from(*value)])),
            (PrimitiveLiteral::Long(value), DataType::Int64) => Arc::new(Int64Array::from(vec![*value])),
            (PrimitiveLiteral::Long(value), DataType::Timestamp(_, zone)) => {
                Arc::new(TimestampMicrosecondArray::from(vec![*value]).with_timezone_opt(zone.clone()))
            }
            (PrimitiveLiteral::String(value), DataType::Utf8) => Arc::new(StringArray::from(vec![value.as_str()])),
            (PrimitiveLiteral::Int128(value), DataType::Decimal128(precision, scale)) => {
                Arc::new(Decimal128Array::from(vec![*value]).with_precision_and_scale(*precision, *scale).ok()?)
            }
            _ => return None,
        };
        self.converter.convert_columns(&[array]).ok().map(|rows| rows.row(0).owned())
    }
}
