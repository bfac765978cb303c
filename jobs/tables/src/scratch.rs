//! Rows that wait on disk: a file without a name in the temporary folder, which is gone with the process, however that ends.

use arrow::array::{Array, RecordBatch};
use arrow::compute::concat;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow_ipc::CompressionType;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why rows cannot wait on disk: mostly because it is full.
#[derive(Debug, thiserror::Error)]
#[error("rows cannot be {what} the temporary folder {}, where what is beyond the memory waits: {cause}", folder.display())]
pub struct ScratchError {
    /// The folder, as `TMPDIR` or the system says.
    folder: PathBuf,
    /// `written to` or `read from`.
    what: &'static str,
    cause: Box<dyn std::error::Error + Send + Sync>,
}

/// A temporary file of blocks. It has no name: nothing stays of it, also when the process is killed.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    folder: PathBuf,
    end: AtomicU64,
    schema: SchemaRef,
}

/// Some rows in a [`Scratch`], compressed by LZ4 in the Arrow IPC format.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    at: u64,
    bytes: usize,
    rows: usize,
}

impl Block {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

impl Scratch {
    /// An empty file for rows of `schema`.
    ///
    /// # Errors
    /// [`ScratchError`] when the temporary folder takes no files.
    pub fn new(schema: SchemaRef) -> Result<Self, ScratchError> {
        let folder = std::env::temp_dir();
        match tempfile::tempfile_in(&folder) {
            Ok(file) => Ok(Self { file, folder, end: AtomicU64::new(0), schema }),
            Err(error) => Err(ScratchError { folder, what: "written to", cause: error.into() }),
        }
    }

    /// Adds rows; several threads may.
    ///
    /// # Errors
    /// [`ScratchError`], such as of a full disk. What was written before stays readable.
    pub fn write(&self, batch: &RecordBatch) -> Result<Block, ScratchError> {
        let block = self.encoded(batch).map_err(|error| self.failed("written to", error))?;
        let at = self.end.fetch_add(block.len() as u64, Ordering::Relaxed);
        self.file.write_all_at(&block, at).map_err(|error| self.failed("written to", error))?;
        Ok(Block { at, bytes: block.len(), rows: batch.num_rows() })
    }

    fn encoded(&self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), &self.schema, options)?;
        writer.write(batch)?;
        writer.into_inner()
    }

    /// Reads rows.
    ///
    /// # Errors
    /// [`ScratchError`] when the disk fails.
    pub fn read(&self, block: &Block) -> Result<RecordBatch, ScratchError> {
        self.decoded(block, None)
    }

    /// Reads some columns, in this order, which holds no column twice. The others are not even decompressed, and nothing of them stays in memory.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_columns(&self, block: &Block, columns: &[usize]) -> Result<RecordBatch, ScratchError> {
        let batch = self.decoded(block, Some(columns.to_vec()))?;
        // What compression makes no smaller lies uncompressed in a block, and would hold all of its bytes: two arrays are put together by copying.
        let own = batch.columns().iter().map(|column| concat(&[column.as_ref(), column.slice(0, 0).as_ref()]));
        let own = own.collect::<Result<_, _>>().and_then(|own| RecordBatch::try_new(batch.schema(), own));
        own.map_err(|error| self.failed("read from", error))
    }

    fn decoded(&self, block: &Block, columns: Option<Vec<usize>>) -> Result<RecordBatch, ScratchError> {
        let mut bytes = vec![0; block.bytes];
        self.file.read_exact_at(&mut bytes, block.at).map_err(|error| self.failed("read from", error))?;
        let rows = || {
            let mut batches = StreamReader::try_new(bytes.as_slice(), columns)?;
            let empty = RecordBatch::new_empty(batches.schema());
            batches.next().unwrap_or(Ok(empty))
        };
        let batch: RecordBatch = rows().map_err(|error| self.failed("read from", error))?;
        if batch.num_rows() == block.rows {
            return Ok(batch);
        }
        Err(self.failed("read from", io::Error::other(format!("{} rows instead of {}", batch.num_rows(), block.rows))))
    }

    /// Bytes that it has.
    pub fn bytes(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    fn failed(&self, what: &'static str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ScratchError {
        ScratchError { folder: self.folder.clone(), what, cause: cause.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Decimal128Array, StringArray, TimestampMicrosecondArray};
    use std::sync::Arc;

    #[test]
    fn rows_come_back_as_they_were() -> Result<(), Box<dyn std::error::Error>> {
        let batch = |texts: Vec<Option<&str>>| {
            let rows = texts.len();
            let columns: Vec<(&str, ArrayRef)> = vec![
                ("text", Arc::new(StringArray::from(texts))),
                ("price", Arc::new(Decimal128Array::from(vec![Some(1_234); rows]).with_precision_and_scale(10, 2)?)),
                ("at", Arc::new(TimestampMicrosecondArray::from(vec![None; rows]).with_timezone("UTC"))),
            ];
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        };
        let batches = [batch(vec![Some("a"), None])?, batch(vec![])?, batch(vec![Some("é"); 10_000])?];
        let scratch = Scratch::new(batches[0].schema())?;
        let blocks: Vec<Block> = batches.iter().map(|batch| scratch.write(batch)).collect::<Result<_, _>>()?;
        for (block, batch) in blocks.iter().zip(&batches).rev() {
            assert_eq!(scratch.read(block)?, *batch);
            assert_eq!(scratch.read_columns(block, &[2, 0])?, batch.project(&[2, 0])?);
        }
        assert!(scratch.bytes() < 60_000, "{} bytes are not compressed", scratch.bytes());
        Ok(())
    }
}
