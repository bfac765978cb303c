//! Compaction: which files are put together, and how their rows get into one.

use crate::rows::{RowStream, open_file};
use crate::segments::{self, Segment};
use crate::writer::{FileLayout, write_one};
use crate::{Result, TableError};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::{SessionConfig, SessionContext, ident};
use futures::stream;
use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{DataFile, DataFileFormat, Struct};
use iceberg::table::Table;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

/// A file of at least this share of the target is large enough.
const LARGE_ENOUGH: (u64, u64) = (3, 4);
/// Below this size rewriting a file again and again costs nothing worth saving.
const CHEAP_BYTES: u64 = 1024 * 1024;
/// From this many files on a group is rewritten even if one of them makes up most of it.
const MANY_FILES: usize = 5;
/// Input of one compacting commit in bytes, and in groups: what is lost when another writer is faster, and how long merges wait.
const BATCH_BYTES: u64 = 1024 * 1024 * 1024;
const BATCH_GROUPS: usize = 256;
/// Memory for sorting one group; beyond it rows are spilled to the temporary folder.
const SORT_BYTES: usize = 256 * 1024 * 1024;

/// The groups of files that are worth rewriting into one: files of one partition below three quarters of `target` bytes, packed in the order
/// of their first sort column, so that neighbours come together.
pub(crate) fn groups<L: AsRef<DataFile>>(files: Vec<L>, target: u64, first_sort_id: Option<i32>) -> Vec<Vec<L>> {
    let enough = target / LARGE_ENOUGH.1 * LARGE_ENOUGH.0;
    let mut partitions: HashMap<Struct, Vec<L>> = HashMap::new();
    let mut order = Vec::new();
    for live in files {
        let file = live.as_ref();
        if file.file_size_in_bytes() < enough && file.file_format() == DataFileFormat::Parquet {
            let partition = file.partition().clone();
            if !partitions.contains_key(&partition) {
                order.push(partition.clone());
            }
            partitions.entry(partition).or_default().push(live);
        }
    }
    let mut found = Vec::new();
    for partition in order {
        let mut files = partitions.remove(&partition).unwrap_or_default();
        files.sort_by(|a, b| by_lower_bound(a.as_ref(), b.as_ref(), first_sort_id));
        let (mut group, mut bytes) = (Vec::new(), 0);
        for live in files {
            let size = live.as_ref().file_size_in_bytes();
            if bytes + size > target && !group.is_empty() {
                found.push(std::mem::take(&mut group));
                bytes = 0;
            }
            bytes += size;
            group.push(live);
        }
        found.push(group);
    }
    found.retain(|group| is_worth(group));
    found
}

fn by_lower_bound(a: &DataFile, b: &DataFile, field: Option<i32>) -> Ordering {
    let Some(field) = field else { return Ordering::Equal };
    match (a.lower_bounds().get(&field), b.lower_bounds().get(&field)) {
        (Some(a), Some(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

/// A large file is not written again and again for the sake of a small one that came since.
fn is_worth<L: AsRef<DataFile>>(group: &[L]) -> bool {
    let sizes = || group.iter().map(|live| live.as_ref().file_size_in_bytes());
    let (total, largest) = (sizes().sum::<u64>(), sizes().max().unwrap_or_default());
    group.len() >= MANY_FILES || (group.len() >= 2 && (largest < CHEAP_BYTES || total - largest >= largest / 2))
}

/// A group of files of one partition and their rows, one file after the other.
pub(crate) struct GroupRows {
    pub(crate) partition: Struct,
    pub(crate) rows: RowStream,
    pub(crate) expected: u64,
}

/// Writes the rows of a group into one file. With `segments` rows keep their order, and the file says which commits they are from; otherwise
/// all of them are sorted by the table's order.
pub(crate) async fn rewrite(layout: &Arc<FileLayout>, group: GroupRows, number: usize, segments: Option<Vec<Segment>>) -> Result<DataFile> {
    let (rows, metadata) = match segments {
        Some(all) => (group.rows, segments::to_metadata(&layout.table, &segments::joined(all))?),
        None => (sorted(layout, group.rows).await?, Vec::new()),
    };
    one_file(layout, number, group.partition, rows, metadata, group.expected).await
}

/// Writes what is left of a compacted file without the rows of one commit; none when nothing is left.
pub(crate) async fn without_commit(
    layout: &Arc<FileLayout>,
    partition: Struct,
    rows: RowStream,
    number: usize,
    snapshot: i64,
    all: &[Segment],
) -> Result<Option<DataFile>> {
    let left = segments::joined(all.iter().filter(|segment| segment.snapshot != snapshot).cloned());
    let expected: u64 = left.iter().map(|segment| segment.rows).sum();
    if expected == 0 {
        return Ok(None);
    }
    let mut at = 0;
    let mut gone = Vec::new();
    for segment in all {
        if segment.snapshot == snapshot {
            gone.push(at..at + segment.rows);
        }
        at += segment.rows;
    }
    let mut first = 0_u64;
    let rows = rows.map_ok(move |batch| {
        let begin = first;
        first += batch.num_rows() as u64;
        stream::iter(outside(&batch, begin, &gone).into_iter().map(Ok))
    });
    let metadata = segments::to_metadata(&layout.table, &left)?;
    one_file(layout, number, partition, rows.try_flatten().boxed(), metadata, expected).await.map(Some)
}

/// The slices of a batch, whose first row is number `begin` of its file, that lie in none of the ranges.
fn outside(batch: &RecordBatch, begin: u64, gone: &[std::ops::Range<u64>]) -> Vec<RecordBatch> {
    let end = begin + batch.num_rows() as u64;
    let mut parts = Vec::new();
    let mut from = begin;
    for range in gone.iter().filter(|range| range.end > begin && range.start < end) {
        if range.start > from {
            parts.push(batch.slice((from - begin) as usize, (range.start - from) as usize));
        }
        from = range.end.min(end);
    }
    if from < end {
        parts.push(batch.slice((from - begin) as usize, (end - from) as usize));
    }
    parts
}

/// Writes rows of one partition as one file, which must be as many as expected.
pub(crate) async fn one_file(
    layout: &Arc<FileLayout>,
    number: usize,
    partition: Struct,
    rows: RowStream,
    metadata: Vec<parquet::file::metadata::KeyValue>,
    expected: u64,
) -> Result<DataFile> {
    let file = write_one(layout, number, partition, rows, metadata).await?;
    match file {
        Some(file) if file.record_count() == expected => Ok(file),
        other => Err(TableError::Corrupt {
            table: layout.table.clone(),
            what: other.as_ref().map_or("a compacted file", |file| file.file_path()).to_owned(),
            reason: format!("{} rows were written, {expected} were read", other.as_ref().map_or(0, DataFile::record_count)),
        }),
    }
}

/// The rows of several files of an Iceberg table, one file after the other.
pub(crate) fn concatenated(table: &Table, layout: &Arc<FileLayout>, files: Vec<DataFile>) -> RowStream {
    let (table, layout) = (table.clone(), layout.clone());
    stream::iter(files).map(move |file| open_file(&layout.table, &table, &file, &layout.arrow)).try_flatten().boxed()
}

/// Rows handed to the engine once.
struct Once {
    schema: SchemaRef,
    rows: Mutex<Option<SendableRecordBatchStream>>,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let taken = self.rows.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        taken.unwrap_or_else(|| Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), stream::empty())))
    }
}

/// The rows in the order of the table, ascending, nulls first. Memory is bounded; the rest is spilled.
async fn sorted(layout: &Arc<FileLayout>, rows: RowStream) -> Result<RowStream> {
    let columns: Vec<_> = layout.sort_by.iter().filter(|name| layout.arrow.field_with_name(name).is_ok()).collect();
    if columns.is_empty() {
        return Ok(rows);
    }
    let table = layout.table.clone();
    let failed = move |error: datafusion::error::DataFusionError| TableError::Source { table: table.clone(), cause: Box::new(error) };
    let schema = layout.arrow.clone();
    let rows = rows.map_err(|error| datafusion::error::DataFusionError::External(Box::new(error)));
    let once = Once { schema: schema.clone(), rows: Mutex::new(Some(Box::pin(RecordBatchStreamAdapter::new(schema.clone(), rows)))) };
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(SORT_BYTES))).build_arc().map_err(&failed)?;
    let context = SessionContext::new_with_config_rt(SessionConfig::new().with_target_partitions(1), runtime);
    let provider = StreamingTable::try_new(schema, vec![Arc::new(once)]).map_err(&failed)?;
    let order = columns.into_iter().map(|name| ident(name).sort(true, true)).collect();
    let sorted = context.read_table(Arc::new(provider)).and_then(|frame| frame.sort(order)).map_err(&failed)?;
    let stream = sorted.execute_stream().await.map_err(&failed)?;
    let layout = layout.clone();
    Ok(stream.map(move |batch| crate::conform(&layout.table, &batch.map_err(&failed)?, &layout.arrow)).boxed())
}

/// Groups in their order, as many at a time as one commit rewrites.
pub(crate) fn batches<L: AsRef<DataFile>>(groups: Vec<Vec<L>>) -> Vec<Vec<Vec<L>>> {
    let mut all: Vec<Vec<Vec<L>>> = Vec::new();
    let mut bytes = 0;
    for group in groups {
        let size: u64 = group.iter().map(|live| live.as_ref().file_size_in_bytes()).sum();
        match all.last_mut() {
            Some(batch) if batch.len() < BATCH_GROUPS && bytes < BATCH_BYTES => {
                bytes += size;
                batch.push(group);
            }
            _ => {
                bytes = size;
                all.push(vec![group]);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceberg::spec::{DataContentType, DataFileBuilder, Datum};

    struct Live(DataFile);

    impl AsRef<DataFile> for Live {
        fn as_ref(&self) -> &DataFile {
            &self.0
        }
    }

    fn live(size: u64, at: i64) -> Live {
        let file = DataFileBuilder::default()
            .content(DataContentType::Data)
            .file_path(format!("f{size}-{at}"))
            .file_format(DataFileFormat::Parquet)
            .partition(Struct::empty())
            .record_count(1)
            .file_size_in_bytes(size)
            .lower_bounds(HashMap::from([(1, Datum::long(at))]))
            .build()
            .expect("a file");
        Live(file)
    }

    fn sizes(files: Vec<Live>, target: u64) -> Vec<Vec<u64>> {
        let found = groups(files, target, Some(1));
        found.iter().map(|group| group.iter().map(|live| live.0.file_size_in_bytes()).collect()).collect()
    }

    #[test]
    fn small_files_are_packed_in_order_up_to_the_target() {
        assert_eq!(sizes(vec![live(30, 3), live(40, 1), live(50, 2), live(90, 0)], 100), [vec![40, 50]]);
        assert_eq!(sizes(vec![live(74, 0), live(74, 1)], 100), Vec::<Vec<u64>>::new());
        assert_eq!(sizes(vec![live(10, 0)], 100), Vec::<Vec<u64>>::new());
        assert_eq!(sizes(vec![live(100, 0), live(200, 1)], 100), Vec::<Vec<u64>>::new());
    }

    #[test]
    fn a_large_file_is_not_rewritten_for_a_small_one() {
        let mib = 1024 * 1024;
        assert_eq!(sizes(vec![live(80 * mib, 0), live(mib, 1)], 128 * mib), Vec::<Vec<u64>>::new());
        let many: Vec<_> = (0..4).map(|at| live(mib, at + 1)).chain([live(80 * mib, 0)]).collect();
        assert_eq!(sizes(many, 128 * mib).len(), 1);
        assert_eq!(sizes(vec![live(40 * mib, 0), live(30 * mib, 1)], 128 * mib).len(), 1);
    }

    #[test]
    fn a_batch_ends_with_its_bytes_or_its_groups() {
        let lengths = |sizes: &[u64]| -> Vec<usize> {
            let groups = sizes.iter().map(|size| vec![live(*size, 0)]).collect();
            batches(groups).iter().map(Vec::len).collect()
        };
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&[BATCH_BYTES - 1, 1, 5, BATCH_BYTES, 7]), [2, 2, 1]);
        assert_eq!(lengths(&[1; 2 * BATCH_GROUPS + 1]), [BATCH_GROUPS, BATCH_GROUPS, 1]);
    }
}
