//! Finding the rows of an append after another program rewrote its files, as `OPTIMIZE` does: no file says any more whose its rows are.
//!
//! Rewriting keeps every row, so the rows of an append are known exactly in two ways. All its rows have one time of processing, and when just
//! as many rows as are missing have that time, they are these. Otherwise the files that the append wrote are still there until they are
//! vacuumed, and rows that are equal in every column are as good as each other. When neither tells, nothing is guessed.

use crate::compact::one_file;
use crate::delta_files::DeltaFile;
use crate::rows::{Comparer, RowStream};
use crate::writer::FileLayout;
use crate::{PROCESSED_AT, Result, TableError};
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::TimestampMicrosecondType;
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{DataFile, PrimitiveLiteral};
use std::collections::HashMap;
use std::sync::Arc;

/// Opens data files of one table.
#[async_trait]
pub(crate) trait Opens: Send + Sync {
    /// The rows of a file, in the schema of the files.
    async fn open(&self, file: &DataFile) -> Result<RowStream>;
}

/// What is known of the rows that are looked for.
pub(crate) struct Wanted {
    /// How many they are.
    pub(crate) rows: u64,
    /// When all of them were processed, in microseconds since 1970.
    pub(crate) processed_at: Option<i64>,
    /// The files that they were written into, as far as they are still there.
    pub(crate) originals: Vec<DataFile>,
}

/// Files with rows that are wanted, and per file which rows these are.
struct Marked {
    files: Vec<(DeltaFile, Vec<BooleanArray>)>,
    rows: u64,
}

/// The files that hold the wanted rows, and new files with their other rows; none when they cannot be told apart.
pub(crate) async fn take<O: Opens>(
    opens: &O,
    layout: &Arc<FileLayout>,
    candidates: Vec<DeltaFile>,
    wanted: &Wanted,
) -> Result<Option<(Vec<DeltaFile>, Vec<DataFile>)>> {
    let by_time = match wanted.processed_at {
        Some(time) => Some(mark_time(opens, layout, &candidates, time).await?).filter(|marked| marked.rows == wanted.rows),
        None => None,
    };
    let marked = match by_time {
        Some(marked) => marked,
        None => match mark_equal(opens, layout, &candidates, wanted).await? {
            Some(marked) => marked,
            None => return Ok(None),
        },
    };
    let (mut files, mut others) = (Vec::new(), Vec::new());
    for (live, masks) in marked.files {
        let gone: u64 = masks.iter().map(|mask| mask.true_count() as u64).sum();
        let expected = live.file.record_count() - gone;
        if expected > 0 {
            let rows = kept(layout, opens.open(&live.file).await?, masks);
            others.push(one_file(layout, others.len(), live.file.partition().clone(), rows, Vec::new(), expected).await?);
        }
        files.push(live);
    }
    Ok(Some((files, others)))
}

/// Rows but for those that the masks, one per batch, say.
fn kept(layout: &Arc<FileLayout>, rows: RowStream, masks: Vec<BooleanArray>) -> RowStream {
    let table = layout.table.clone();
    let kept = rows.zip(futures::stream::iter(masks)).map(move |(batch, mask)| {
        let batch = batch?;
        not(&mask).and_then(|stays| filter_record_batch(&batch, &stays)).map_err(TableError::arrow(&table))
    });
    kept.boxed()
}

/// The rows that were processed at a time.
async fn mark_time<O: Opens>(opens: &O, layout: &Arc<FileLayout>, candidates: &[DeltaFile], time: i64) -> Result<Marked> {
    let id = layout.schema.field_id_by_name(PROCESSED_AT);
    let mut marked = Marked { files: Vec::new(), rows: 0 };
    for live in candidates {
        let bound = |datum: Option<&iceberg::spec::Datum>| match datum?.literal() {
            PrimitiveLiteral::Long(micros) => Some(*micros),
            _ => None,
        };
        let below = id.and_then(|id| bound(live.file.upper_bounds().get(&id))).is_some_and(|upper| upper < time);
        let above = id.and_then(|id| bound(live.file.lower_bounds().get(&id))).is_some_and(|lower| lower > time);
        if below || above {
            continue;
        }
        let mut masks = Vec::new();
        let mut rows = opens.open(&live.file).await?;
        while let Some(batch) = rows.try_next().await? {
            masks.push(processed_at(&batch, time));
        }
        marked.add(live, masks);
    }
    Ok(marked)
}

fn processed_at(batch: &RecordBatch, time: i64) -> BooleanArray {
    let times = batch.column_by_name(PROCESSED_AT).and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    match times {
        Some(times) => times.iter().map(|at| Some(at == Some(time))).collect(),
        None => BooleanArray::from(vec![false; batch.num_rows()]),
    }
}

/// Rows that equal those of the files which they were written into; none when these are gone or not all are found.
async fn mark_equal<O: Opens>(opens: &O, layout: &Arc<FileLayout>, candidates: &[DeltaFile], wanted: &Wanted) -> Result<Option<Marked>> {
    if wanted.originals.iter().map(DataFile::record_count).sum::<u64>() != wanted.rows {
        return Ok(None);
    }
    let names: Vec<String> = layout.arrow.fields().iter().map(|field| field.name().clone()).collect();
    let comparer = Comparer::new(&layout.table, &layout.arrow, &names)?;
    let mut missing: HashMap<Box<[u8]>, u64> = HashMap::new();
    for file in &wanted.originals {
        let mut rows = opens.open(file).await?;
        while let Some(batch) = rows.try_next().await? {
            for row in &comparer.rows(&batch)? {
                *missing.entry(row.as_ref().into()).or_default() += 1;
            }
        }
    }
    let mut marked = Marked { files: Vec::new(), rows: 0 };
    for live in candidates {
        let mut masks = Vec::new();
        let mut rows = opens.open(&live.file).await?;
        while let Some(batch) = rows.try_next().await? {
            let compared = comparer.rows(&batch)?;
            let taken = compared.iter().map(|row| match missing.get_mut(row.as_ref()) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    Some(true)
                }
                _ => Some(false),
            });
            masks.push(taken.collect());
        }
        marked.add(live, masks);
    }
    Ok(Some(marked).filter(|marked| marked.rows == wanted.rows))
}

impl Marked {
    fn add(&mut self, live: &DeltaFile, masks: Vec<BooleanArray>) {
        let rows: u64 = masks.iter().map(|mask| mask.true_count() as u64).sum();
        if rows > 0 {
            self.rows += rows;
            self.files.push((live.clone(), masks));
        }
    }
}
