//! The rows of a run on disk, for rules that look at them before they are written: each row is computed once, however many rules there are.

use std::{fmt, sync::Arc};

use arrow::datatypes::SchemaRef;
use datafusion::{
    catalog::{TableProvider, streaming::StreamingTable},
    error::DataFusionError,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{stream::RecordBatchStreamAdapter, streaming::PartitionStream},
};
use futures::{StreamExt, TryStreamExt, stream};
use lakehouse_tables::{BatchStream, Block, BoxError, Scratch};
use tokio::task::spawn_blocking;

/// Rows in a file of the temporary folder that has no name.
#[derive(Clone)]
pub struct Spool {
    schema: SchemaRef,
    scratch: Arc<Scratch>,
    blocks: Vec<Block>,
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} blocks of rows on disk", self.blocks.len())
    }
}

impl Spool {
    /// Takes all rows of some streams, whose batches have the columns of `schema`.
    ///
    /// # Errors
    /// What a stream says, or [`lakehouse_tables::ScratchError`].
    pub async fn fill(schema: SchemaRef, streams: Vec<BatchStream>) -> Result<Self, BoxError> {
        let scratch = Arc::new(Scratch::new(schema.clone())?);
        let parts = streams.into_iter().map(|mut rows| {
            let (scratch, schema) = (scratch.clone(), schema.clone());
            async move {
                let mut blocks = Vec::new();
                while let Some(batch) = rows.try_next().await? {
                    // Plans may tell other metadata and nullability than the table has.
                    let batch = arrow::array::RecordBatch::try_new(schema.clone(), batch.columns().to_vec())?;
                    let scratch = scratch.clone();
                    blocks.push(spawn_blocking(move || scratch.write(&batch)).await??);
                }
                Ok::<_, BoxError>(blocks)
            }
        });
        let parts = stream::iter(parts.collect::<Vec<_>>()).buffered(PARTS);
        let blocks: Vec<Vec<Block>> = parts.try_collect().await?;
        Ok(Self { schema, scratch, blocks: blocks.into_iter().flatten().collect() })
    }

    /// The rows as a table.
    ///
    /// # Errors
    /// Columns that make no table.
    pub fn provider(&self) -> Result<Arc<dyn TableProvider>, DataFusionError> {
        Ok(Arc::new(StreamingTable::try_new(self.schema.clone(), vec![Arc::new(self.clone())])?))
    }

    /// The rows as up to `parts` streams.
    pub fn into_streams(self, parts: usize) -> Vec<BatchStream> {
        let most = self.blocks.len().div_ceil(parts.max(1)).max(1);
        self.blocks.chunks(most).map(|blocks| self.stream(blocks)).collect()
    }

    fn stream(&self, blocks: &[Block]) -> BatchStream {
        let scratch = self.scratch.clone();
        let blocks = stream::iter(blocks.to_vec());
        let read = move |block: Block| {
            let scratch = scratch.clone();
            async move { Ok(spawn_blocking(move || scratch.read(&block)).await??) }
        };
        blocks.then(read).boxed()
    }
}

/// Streams that are computed at once, at most.
const PARTS: usize = 64;

impl PartitionStream for Spool {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.stream(&self.blocks).map_err(DataFusionError::External);
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), rows))
    }
}
