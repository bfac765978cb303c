//! The winning rows of a merge until it commits: in memory, or on disk when they are more than its share of memory.

use crate::{BatchStream, Block, BoxError, Result, Scratch, TableError, conform};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use futures::stream;
use lakehouse_contract::TableRef;
use lakehouse_storage::memory;
use std::sync::Arc;

/// Bytes of rows that a merge works on at a time; their keys and the rows that are taken from them take about as much again, each.
pub(crate) fn share_of_memory() -> usize {
    memory::limit() / 6
}

/// Rows in groups, each of keys of its own, of which one at a time need be in memory.
#[derive(Clone, Debug)]
pub(crate) enum Winners {
    /// One group.
    Memory(Vec<RecordBatch>),
    /// Blocks by group.
    Disk(Arc<Scratch>, Vec<Vec<Block>>),
}

impl Winners {
    /// How many groups there are.
    pub(crate) fn groups(&self) -> usize {
        match self {
            Self::Memory(_) => 1,
            Self::Disk(_, groups) => groups.len(),
        }
    }

    /// The rows of one group, with the columns of `schema`.
    pub(crate) fn load(&self, table: &TableRef, group: usize, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
        match self {
            Self::Memory(batches) => batches.iter().map(|batch| conform(table, batch, schema)).collect(),
            Self::Disk(scratch, groups) => {
                let read = |block: &Block| conform(table, &scratch.read(block).map_err(TableError::scratch(table))?, schema);
                groups.get(group).into_iter().flatten().map(read).collect()
            }
        }
    }

    /// All rows.
    pub(crate) fn into_stream(self) -> BatchStream {
        match self {
            Self::Memory(batches) => crate::one_stream(batches),
            Self::Disk(scratch, groups) => {
                let blocks: Vec<Block> = groups.into_iter().flatten().collect();
                stream::iter(blocks).map(move |block| scratch.read(&block).map_err(BoxError::from)).boxed()
            }
        }
    }
}
