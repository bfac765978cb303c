//! The rows of a table from when they are audited until they are written: in memory, and on disk when the stage's share of memory is used up.
//!
//! On disk the rows of a table with deduplication lie by the shard of their key, so that copies of a row are in one shard and one shard at a
//! time is looked at. Which rows stay is told by a mask, as in memory; the outcome is the same wherever the rows were.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arrow::{
    array::{BooleanArray, RecordBatch},
    compute::{concat_batches, filter_record_batch, interleave_record_batch},
    datatypes::SchemaRef,
};
use datafusion::{
    catalog::{TableProvider, streaming::StreamingTable},
    error::DataFusionError,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{stream::RecordBatchStreamAdapter, streaming::PartitionStream},
};
use futures::{StreamExt, TryStreamExt, stream};
use lakehouse_contract::{Reason, StageFailure};
use lakehouse_tables::{BatchStream, Block, BoxError, Scratch, in_parallel};
use tokio::task::spawn_blocking;

use crate::{
    deduplicate::{Hasher, KeyHashes, SHARDS, mask_batches, mask_blocks},
    failure::scratch_failure,
    rows::strict,
    schema::DeduplicatePlan,
};

/// Size of the blocks on disk that rows without order are put together to, in bytes of Arrow memory.
const BLOCK: usize = 4 << 20;

/// The memory that held rows of a stage may take together, and take.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    /// Whether rows have to go to disk.
    pub(crate) fn is_over(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit
    }

    /// Whether rows that are complete should make room for those that come.
    pub(crate) fn is_half_used(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit / 2
    }
}

/// Some bytes of a budget, given back when they are dropped.
#[derive(Debug)]
struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    fn add(&mut self, bytes: usize) {
        self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
    }

    fn clear(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.clear();
    }
}

fn internal(error: impl fmt::Display) -> StageFailure {
    StageFailure::new(Reason::Internal, error)
}

/// Rows of a table that come one batch after the other, in the order of records.
#[derive(Debug)]
pub(crate) struct Held {
    schema: SchemaRef,
    deduplicate: Option<(DeduplicatePlan, Hasher)>,
    batches: Vec<RecordBatch>,
    /// Per batch, which rows stay so far; all, where it is absent.
    masks: Vec<Option<BooleanArray>>,
    hashes: Vec<KeyHashes>,
    share: Share,
    spilled: Option<Spilled>,
}

#[derive(Debug)]
struct Spilled {
    scratch: Scratch,
    /// Blocks by shard, in the order of records; one shard of all rows where there is no deduplication.
    shards: Vec<Vec<Block>>,
}

impl Held {
    /// No rows yet.
    pub(crate) fn new(schema: SchemaRef, deduplicate: Option<(DeduplicatePlan, Hasher)>, budget: &Arc<Budget>) -> Self {
        let share = Share { budget: budget.clone(), bytes: 0 };
        Self { schema, deduplicate, batches: Vec::new(), masks: Vec::new(), hashes: Vec::new(), share, spilled: None }
    }

    /// Adds a batch, where there is deduplication with the hashes of its keys and, unless all do, with the rows that stay so far.
    pub(crate) fn push(&mut self, batch: RecordBatch, keep: Option<BooleanArray>, hashes: Option<KeyHashes>) {
        if batch.num_rows() == 0 {
            return;
        }
        self.share.add(batch.get_array_memory_size() + hashes.as_ref().map_or(0, KeyHashes::bytes));
        self.batches.push(batch);
        self.masks.push(keep);
        self.hashes.extend(hashes);
    }

    /// Bytes of memory that its rows take.
    pub(crate) fn bytes(&self) -> usize {
        self.share.bytes
    }

    /// Puts all rows to disk.
    ///
    /// # Errors
    /// `ResourcesExhausted` when the disk takes no more.
    pub(crate) fn spill(&mut self, threads: usize) -> Result<(), StageFailure> {
        if self.batches.is_empty() {
            return Ok(());
        }
        let spilled = match &mut self.spilled {
            Some(spilled) => spilled,
            none => {
                let shards = if self.deduplicate.is_some() { SHARDS } else { 1 };
                let scratch = Scratch::new(self.schema.clone()).map_err(scratch_failure)?;
                none.insert(Spilled { scratch, shards: vec![Vec::new(); shards] })
            }
        };
        let (batches, hashes) = (std::mem::take(&mut self.batches), std::mem::take(&mut self.hashes));
        // Only rows that stay have hashes.
        self.masks.clear();
        if self.deduplicate.is_some() {
            let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
            let most = rows_of_a_block(self.share.bytes, rows);
            let refs: Vec<&RecordBatch> = batches.iter().collect();
            let shards: Vec<usize> = (0..SHARDS).collect();
            let written = in_parallel(&shards, threads, |shard| {
                let indices: Vec<(usize, usize)> = hashes
                    .iter()
                    .enumerate()
                    .flat_map(|(batch, hashes)| hashes.rows(*shard).map(move |row| (batch, row as usize)))
                    .collect();
                let blocks = indices.chunks(most).map(|some| {
                    let batch = strict(&self.schema, &interleave_record_batch(&refs, some).map_err(internal)?)?;
                    spilled.scratch.write(&batch).map_err(scratch_failure)
                });
                blocks.collect::<Result<Vec<Block>, StageFailure>>()
            });
            for (shard, blocks) in spilled.shards.iter_mut().zip(written) {
                shard.extend(blocks?);
            }
        } else {
            for some in neighbours(batches, BLOCK) {
                let batch = concat_batches(&self.schema, &some).map_err(internal)?;
                spilled.shards[0].push(spilled.scratch.write(&batch).map_err(scratch_failure)?);
            }
        }
        self.share.clear();
        Ok(())
    }

    /// The rows that stay, and how many copies went.
    ///
    /// # Errors
    /// `ResourcesExhausted` when the disk fails.
    pub(crate) fn finish(mut self, threads: usize) -> Result<(Rows, u64), StageFailure> {
        if self.spilled.is_some() {
            self.spill(threads)?;
        }
        let Self { schema, deduplicate, batches, mut masks, hashes, share, spilled } = self;
        let mut removed = 0;
        let (pieces, scratch) = match spilled {
            None => {
                if let Some((rule, _)) = &deduplicate {
                    removed = mask_batches(&batches, &hashes, &mut masks, &rule.key, rule.keep, threads)?;
                }
                drop(hashes);
                (batches.into_iter().map(Source::Memory).zip(masks).collect::<Vec<_>>(), None)
            }
            Some(Spilled { scratch, shards }) => {
                let masks: Vec<Vec<Option<BooleanArray>>> = match &deduplicate {
                    None => vec![vec![None; shards[0].len()]],
                    Some((rule, hasher)) => {
                        let masks = in_parallel(&shards, threads, |blocks| mask_blocks(&scratch, blocks, hasher, &rule.key, rule.keep));
                        masks.into_iter().collect::<Result<_, _>>()?
                    }
                };
                let lost = |mask: &Option<BooleanArray>| mask.as_ref().map_or(0, |keep| keep.len() - keep.true_count());
                removed = masks.iter().flatten().map(lost).sum::<usize>() as u64;
                let pieces = shards.into_iter().flatten().map(Source::Disk).zip(masks.into_iter().flatten());
                (pieces.collect(), Some(Arc::new(scratch)))
            }
        };
        let pieces: Vec<Piece> = pieces
            .into_iter()
            .map(|(source, keep)| {
                let rows = keep.as_ref().map_or_else(|| source.rows(), BooleanArray::true_count);
                Piece { source, keep, rows }
            })
            .collect();
        Ok((Rows { schema, pieces, scratch, share }, removed))
    }
}

/// How many rows of this average make a block of usual size.
fn rows_of_a_block(bytes: usize, rows: usize) -> usize {
    (BLOCK * 4 / (bytes / rows.max(1)).max(1)).clamp(1, 1 << 20)
}

/// Batches in groups of at least `bytes`, as long as there are enough.
fn neighbours(batches: Vec<RecordBatch>, bytes: usize) -> Vec<Vec<RecordBatch>> {
    let mut groups: Vec<Vec<RecordBatch>> = Vec::new();
    let mut filled = bytes;
    for batch in batches {
        if filled >= bytes {
            groups.push(Vec::new());
            filled = 0;
        }
        filled += batch.get_array_memory_size();
        if let Some(group) = groups.last_mut() {
            group.push(batch);
        }
    }
    groups
}

/// Where some rows are.
#[derive(Clone, Debug)]
enum Source {
    Memory(RecordBatch),
    Disk(Block),
}

impl Source {
    fn rows(&self) -> usize {
        match self {
            Self::Memory(batch) => batch.num_rows(),
            Self::Disk(block) => block.rows(),
        }
    }
}

/// Some rows, and which of them stay.
#[derive(Clone, Debug)]
struct Piece {
    source: Source,
    keep: Option<BooleanArray>,
    /// How many stay.
    rows: usize,
}

impl Piece {
    async fn load(self, schema: SchemaRef, scratch: Option<Arc<Scratch>>) -> Result<RecordBatch, BoxError> {
        let kept = move |batch: RecordBatch, keep: Option<BooleanArray>| {
            let batch = match keep {
                None => batch,
                Some(keep) => filter_record_batch(&batch, &keep).map_err(internal)?,
            };
            strict(&schema, &batch)
        };
        match (self.source, scratch) {
            (Source::Memory(batch), _) => Ok(kept(batch, self.keep)?),
            (Source::Disk(block), Some(scratch)) => {
                let read = spawn_blocking(move || Ok::<_, BoxError>(kept(scratch.read(&block)?, self.keep)?));
                read.await.map_err(|error| BoxError::from(internal(error)))?
            }
            (Source::Disk(_), None) => Err(internal("rows on disk without a file").into()),
        }
    }
}

/// All rows of a table for one commit.
#[derive(Debug)]
pub(crate) struct Rows {
    schema: SchemaRef,
    pieces: Vec<Piece>,
    scratch: Option<Arc<Scratch>>,
    share: Share,
}

impl Rows {
    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.rows as u64).sum()
    }

    /// Puts rows that are in memory to disk.
    ///
    /// # Errors
    /// `ResourcesExhausted` when the disk takes no more.
    pub(crate) fn spill(&mut self) -> Result<(), StageFailure> {
        if self.scratch.is_some() || self.pieces.is_empty() {
            return Ok(());
        }
        let scratch = Scratch::new(self.schema.clone()).map_err(scratch_failure)?;
        for piece in &mut self.pieces {
            let Source::Memory(batch) = &piece.source else { continue };
            let batch = match piece.keep.take() {
                None => strict(&self.schema, batch)?,
                Some(keep) => strict(&self.schema, &filter_record_batch(batch, &keep).map_err(internal)?)?,
            };
            piece.source = Source::Disk(scratch.write(&batch).map_err(scratch_failure)?);
        }
        self.scratch = Some(Arc::new(scratch));
        self.share.clear();
        Ok(())
    }

    /// The rows as a table, to be looked at.
    ///
    /// # Errors
    /// `Internal` when the columns make no table.
    pub(crate) fn provider(&self) -> Result<Arc<dyn TableProvider>, StageFailure> {
        let part = Part { schema: self.schema.clone(), pieces: self.pieces.clone(), scratch: self.scratch.clone() };
        let table = StreamingTable::try_new(self.schema.clone(), vec![Arc::new(part)]).map_err(internal)?;
        Ok(Arc::new(table))
    }

    /// The rows as up to `parts` streams, neighbours together. Memory is given back while they are read.
    pub(crate) fn into_streams(self, parts: usize) -> Vec<BatchStream> {
        let share = (self.count() as usize).div_ceil(parts.max(1)).max(1);
        let mut all: Vec<Vec<Piece>> = Vec::new();
        let mut filled = share;
        for piece in self.pieces.into_iter().filter(|piece| piece.rows > 0) {
            if filled >= share {
                all.push(Vec::new());
                filled = 0;
            }
            filled += piece.rows;
            if let Some(part) = all.last_mut() {
                part.push(piece);
            }
        }
        all.into_iter().map(|pieces| read(pieces, self.schema.clone(), self.scratch.clone())).collect()
    }
}

fn read(pieces: Vec<Piece>, schema: SchemaRef, scratch: Option<Arc<Scratch>>) -> BatchStream {
    stream::iter(pieces).then(move |piece| piece.load(schema.clone(), scratch.clone())).boxed()
}

/// The rows for a query.
struct Part {
    schema: SchemaRef,
    pieces: Vec<Piece>,
    scratch: Option<Arc<Scratch>>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the rows of a run in {} pieces", self.pieces.len())
    }
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = read(self.pieces.clone(), self.schema.clone(), self.scratch.clone()).map_err(DataFusionError::External);
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), rows))
    }
}

#[cfg(test)]
mod tests;
