//! Merging by key: per key the row with the highest sequence stays, among table and input, in whatever order commits come.

use crate::best::{Best, Place, best, threads_for};
use crate::live::TableFiles;
use crate::parallel::{at_length, in_parallel};
use crate::replace::Rewrite;
use crate::rows::Comparer;
use crate::winners::Winners;
use crate::writer::FileLayout;
use crate::{BatchStream, Block, PROCESSED_AT, Result, Scratch, TableError};
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
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Parts on disk that rows are spread over by their key. One at a time is in memory, with its keys and its winners: of rows that are twenty times the
/// memory, a tenth of it.
const PARTS: usize = 256;

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

/// Which rows of the table lose, and which of the input do not win.
struct Outcome {
    /// Rows that go, by file; of those that are rewritten already, none.
    gone: Vec<Vec<bool>>,
    /// Which winners of each group win against the table as well.
    won: Vec<BooleanArray>,
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

    /// The winning row of each key of the input, how many rows lost, and how many came. `share` bytes of rows are in memory at a time.
    pub(crate) async fn reduce(&self, input: Vec<BatchStream>, share: usize) -> Result<(Winners, u64, u64)> {
        let mut held = Vec::new();
        let (mut bytes, mut rows) = (0, 0);
        let mut spilled = None;
        for mut stream in input {
            while let Some(batch) = stream.next().await {
                let batch = self.conformed(batch)?;
                rows += batch.num_rows() as u64;
                bytes += batch.get_array_memory_size();
                held.push(batch);
                if bytes > share {
                    at_length(|| self.spill(&mut spilled, std::mem::take(&mut held)))?;
                    bytes = 0;
                }
            }
        }
        if spilled.is_none() {
            let winners = at_length(|| self.best(&held))?;
            let lost = rows - count(&winners);
            return Ok((Winners::Memory(winners), lost, rows));
        }
        at_length(|| self.spill(&mut spilled, held))?;
        let failed = TableError::scratch(&self.table);
        let winners = Scratch::new(self.schema.clone()).map_err(&failed)?;
        let mut groups: Vec<Vec<Block>> = Vec::new();
        let (mut filled, mut kept) = (usize::MAX, 0);
        if let Some((scratch, parts)) = spilled {
            for blocks in parts.into_iter().filter(|blocks| !blocks.is_empty()) {
                let batches: Vec<RecordBatch> =
                    blocks.iter().map(|block| scratch.read(block)).collect::<Result<_, _>>().map_err(&failed)?;
                let best = at_length(|| self.best(&batches))?;
                let best = concat_batches(&self.schema, &best).map_err(TableError::arrow(&self.table))?;
                drop(batches);
                if filled > share / 2 {
                    groups.push(Vec::new());
                    filled = 0;
                }
                filled += best.get_array_memory_size();
                kept += best.num_rows() as u64;
                if let Some(group) = groups.last_mut() {
                    group.push(winners.write(&best).map_err(&failed)?);
                }
            }
        }
        Ok((Winners::Disk(Arc::new(winners), groups), rows - kept, rows))
    }

    /// As [`Self::reduce`], with all rows in memory.
    pub(crate) async fn reduce_in_memory(&self, input: Vec<BatchStream>) -> Result<(Vec<RecordBatch>, u64, u64)> {
        let mut held = Vec::new();
        for mut stream in input {
            while let Some(batch) = stream.next().await {
                held.push(self.conformed(batch)?);
            }
        }
        let rows = count(&held);
        let winners = at_length(|| self.best(&held))?;
        let lost = rows - count(&winners);
        Ok((winners, lost, rows))
    }

    fn conformed(&self, batch: Result<RecordBatch, crate::BoxError>) -> Result<RecordBatch> {
        let batch = batch.map_err(|cause| TableError::Source { table: self.table.clone(), cause })?;
        crate::conform::conform(&self.table, &batch, &self.schema)
    }

    /// Puts rows to disk, those with the same key into the same part, in their order.
    fn spill(&self, spilled: &mut Option<(Scratch, Vec<Vec<Block>>)>, batches: Vec<RecordBatch>) -> Result<()> {
        let failed = TableError::scratch(&self.table);
        let (scratch, parts) = match spilled {
            Some(spilled) => spilled,
            none => none.insert((Scratch::new(self.schema.clone()).map_err(&failed)?, vec![Vec::new(); PARTS])),
        };
        let mut rows: Vec<Vec<(usize, usize)>> = vec![Vec::new(); PARTS];
        for (number, batch) in batches.iter().enumerate() {
            let keys = self.key.rows(batch)?;
            for row in 0..batch.num_rows() {
                let mut hasher = DefaultHasher::new();
                keys.row(row).as_ref().hash(&mut hasher);
                rows[hasher.finish() as usize % PARTS].push((number, row));
            }
        }
        for (part, rows) in parts.iter_mut().zip(rows).filter(|(_, rows)| !rows.is_empty()) {
            part.push(scratch.write(&self.gather(&batches, &rows)?).map_err(&failed)?);
        }
        Ok(())
    }

    /// The winning rows of the keys, in the order of the input, so that equal input makes equal files.
    fn best(&self, batches: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
        let Best { masks, ties } = best(&self.key, &self.sequence, batches)?;
        let (left, right): (Vec<Place>, Vec<Place>) = ties.into_iter().unzip();
        self.refuse_ties(&self.gather(batches, &left)?, &self.gather(batches, &right)?)?;
        let pairs: Vec<(&RecordBatch, BooleanArray)> = batches.iter().zip(masks).collect();
        let threads = threads_for(count(batches) as usize);
        let kept = in_parallel(&pairs, threads, |(batch, stays)| filter_record_batch(batch, stays).map_err(TableError::arrow(&self.table)));
        let mut kept: Vec<RecordBatch> = kept.into_iter().collect::<Result<_>>()?;
        kept.retain(|batch| batch.num_rows() > 0);
        Ok(kept)
    }

    /// The rows of one batch that stay, one per key, and pairs of rows with equal sequence at the top of a key. The first of equals stays.
    pub(crate) fn winners(&self, batch: &RecordBatch) -> Result<(Vec<usize>, Vec<Pair>)> {
        let Best { masks, ties } = best(&self.key, &self.sequence, std::slice::from_ref(batch))?;
        let stays = masks.iter().flat_map(|mask| mask.values().set_indices()).collect();
        Ok((stays, ties.into_iter().map(|((_, best), (_, tie))| (best, tie)).collect()))
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

    /// Merges `winners` into the table as it is now. `share` bytes of a file's rows are in memory at a time.
    pub(crate) async fn plan<F: TableFiles>(
        &self,
        winners: &Winners,
        files: &F,
        layout: Arc<FileLayout>,
        share: usize,
    ) -> Result<MergePlan<F::Live>> {
        let live = files.live().await?;
        let one_group = winners.groups() == 1;
        let mut rewrite = Rewrite::start(layout.clone());
        if live.is_empty() {
            // Nothing to compare with: they go as they are.
            let mut written = 0;
            for group in 0..winners.groups() {
                for batch in winners.load(&self.table, group, &self.schema)? {
                    written += batch.num_rows() as u64;
                    rewrite.keep(batch).await?;
                }
            }
            return Ok(MergePlan { removed: Vec::new(), added: rewrite.finish().await?.0, written, lost: 0 });
        }
        // What stays of a file that is read once, and is small, is written at once; of others it is noted which rows go.
        let mut outcome = Outcome { gone: vec![Vec::new(); live.len()], won: Vec::with_capacity(winners.groups()) };
        let mut changed = vec![false; live.len()];
        for group in 0..winners.groups() {
            let rows = self.group(winners, group)?;
            let mut wins = vec![true; rows.num_rows()];
            let (keys, sequence) = (self.key.rows(&rows)?, self.sequence.rows(&rows)?);
            let by_key: HashMap<&[u8], usize> = (0..rows.num_rows()).map(|row| (keys.row(row).data(), row)).collect();
            let ranges = key_ranges(&self.table, &self.key_columns, &rows, files)?;
            for (number, live) in live.iter().enumerate().filter(|(_, live)| may_contain(&ranges, (*live).as_ref())) {
                let mut parts = one_group.then(Vec::new);
                let (mut beaten, mut bytes) = (Vec::new(), 0);
                let mut stream = files.open(live.as_ref(), &layout.arrow).await?;
                while let Some(batch) = stream.next().await {
                    let batch = batch?;
                    let before = beaten.len();
                    self.meet(&batch, (&rows, &sequence, &by_key), &mut wins, &mut beaten)?;
                    bytes += batch.get_array_memory_size();
                    match &mut parts {
                        Some(parts) if bytes <= share => {
                            parts.push((batch, BooleanArray::from_iter(beaten[before..].iter().map(|beaten| Some(!beaten)))));
                        }
                        _ => parts = None,
                    }
                }
                if !beaten.contains(&true) {
                    continue;
                }
                changed[number] = true;
                let Some(parts) = parts else {
                    let known = &mut outcome.gone[number];
                    known.resize(beaten.len(), false);
                    known.iter_mut().zip(beaten).for_each(|(known, beaten)| *known |= beaten);
                    continue;
                };
                for (batch, stays) in parts {
                    rewrite.keep(filter_record_batch(&batch, &stays).map_err(TableError::arrow(&self.table))?).await?;
                }
            }
            let wins = BooleanArray::from(wins);
            if one_group {
                rewrite.keep(filter_record_batch(&rows, &wins).map_err(TableError::arrow(&self.table))?).await?;
            }
            outcome.won.push(wins);
        }
        self.rewrite(&outcome, files, &live, &mut rewrite, &layout).await?;
        if !one_group {
            for (group, wins) in outcome.won.iter().enumerate() {
                let rows = self.group(winners, group)?;
                rewrite.keep(filter_record_batch(&rows, wins).map_err(TableError::arrow(&self.table))?).await?;
            }
        }
        let (written, came) =
            outcome.won.iter().fold((0, 0), |(written, came), wins| (written + wins.true_count() as u64, came + wins.len() as u64));
        let (added, _) = rewrite.finish().await?;
        let removed = live.into_iter().zip(changed).filter_map(|(live, changed)| changed.then_some(live)).collect();
        Ok(MergePlan { removed, added, written, lost: came - written })
    }

    fn group(&self, winners: &Winners, group: usize) -> Result<RecordBatch> {
        concat_batches(&self.schema, &winners.load(&self.table, group, &self.schema)?).map_err(TableError::arrow(&self.table))
    }

    /// Compares the rows of a file with the winners that have their keys; notes which of them are beaten, and which winners do not win.
    fn meet(
        &self,
        batch: &RecordBatch,
        (winners, sequence, by_key): (&RecordBatch, &Rows, &HashMap<&[u8], usize>),
        wins: &mut [bool],
        beaten: &mut Vec<bool>,
    ) -> Result<()> {
        let (file_keys, file_sequence) = (self.key.rows(batch)?, self.sequence.rows(batch)?);
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            let winner = by_key.get(file_keys.row(row).data()).copied();
            let against = winner.map(|winner| (winner, sequence.row(winner).cmp(&file_sequence.row(row))));
            beaten.push(matches!(against, Some((_, Ordering::Greater))));
            match against {
                None | Some((_, Ordering::Greater)) => {}
                Some((winner, Ordering::Equal)) => {
                    wins[winner] = false;
                    mine.push(winner as u64);
                    theirs.push(row as u64);
                }
                Some((winner, Ordering::Less)) => wins[winner] = false,
            }
        }
        let take = |from: &RecordBatch, rows: Vec<u64>| {
            take_record_batch(from, &arrow::array::UInt64Array::from(rows)).map_err(TableError::arrow(&self.table))
        };
        self.refuse_ties(&take(winners, mine)?, &take(batch, theirs)?)
    }

    /// Writes what stays of the files of which it is noted which rows go.
    async fn rewrite<F: TableFiles>(
        &self,
        outcome: &Outcome,
        files: &F,
        live: &[F::Live],
        rewrite: &mut Rewrite,
        layout: &FileLayout,
    ) -> Result<()> {
        for (live, gone) in live.iter().zip(&outcome.gone).filter(|(_, gone)| gone.contains(&true)) {
            let mut gone = gone.iter();
            let mut stream = files.open(live.as_ref(), &layout.arrow).await?;
            while let Some(batch) = stream.next().await {
                let batch = batch?;
                let stays = BooleanArray::from_iter(gone.by_ref().take(batch.num_rows()).map(|gone| Some(!gone)));
                rewrite.keep(filter_record_batch(&batch, &stays).map_err(TableError::arrow(&self.table))?).await?;
            }
        }
        Ok(())
    }
}

fn count(batches: &[RecordBatch]) -> u64 {
    batches.iter().map(|batch| batch.num_rows() as u64).sum()
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
    rows: Rows,
    /// The valid rows by their value.
    sorted: Vec<u32>,
}

impl KeyRange {
    fn new(table: &TableRef, field_id: i32, column: &ArrayRef) -> Result<Self> {
        let failed = TableError::arrow(table);
        let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())]).map_err(&failed)?;
        let rows = converter.convert_columns(std::slice::from_ref(column)).map_err(&failed)?;
        let mut sorted: Vec<u32> = (0..column.len()).filter(|row| column.is_valid(*row)).map(|row| row as u32).collect();
        sorted.sort_unstable_by(|one, other| rows.row(*one as usize).cmp(&rows.row(*other as usize)));
        Ok(Self { field_id, has_null: column.null_count() > 0, data_type: column.data_type().clone(), converter, rows, sorted })
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
            Some(Some(lower)) => self.sorted.partition_point(|row| self.rows.row(*row as usize) < lower.row()),
        };
        match (self.sorted.get(from), file.upper_bounds().get(&self.field_id).map(|datum| self.bound(datum.literal()))) {
            (None, _) => false,
            (Some(_), None | Some(None)) => true,
            (Some(row), Some(Some(upper))) => self.rows.row(*row as usize) <= upper.row(),
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
