//! The data files of a table as a commit finds them, whatever the format: what a rewriting of rows looks at.

use crate::Result;
use crate::compact::{concatenated, without_commit};
use crate::ledger::Entry;
use crate::rows::{RowStream, open_file};
use crate::segments::{self, is_compacted};
use crate::writer::FileLayout;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::TryStreamExt;
use iceberg::spec::DataFile;
use iceberg::table::Table;
use iceberg_commit::{LiveFile, live_files};
use lakehouse_contract::TableRef;
use std::sync::Arc;

/// The live files of one state of a table.
#[async_trait]
pub(crate) trait TableFiles: Send + Sync {
    /// A live file, as its format removes it.
    type Live: AsRef<DataFile> + Send + Sync;

    /// All of them.
    async fn live(&self) -> Result<Vec<Self::Live>>;

    /// The rows of one as they come, in the table's current schema as files are written.
    async fn open(&self, file: &DataFile, schema: &SchemaRef) -> Result<RowStream>;

    /// All rows of one.
    async fn read(&self, file: &DataFile, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
        self.open(file, schema).await?.try_collect().await
    }

    /// Identifier of a column in the statistics of files.
    fn field_id(&self, column: &str) -> Option<i32>;

    /// The files with rows of an earlier append.
    async fn appended(&self, append: &Entry) -> Result<Appended<Self::Live>>;
}

/// Where the rows of an append are.
pub(crate) struct Appended<L> {
    /// How many of them are left.
    pub(crate) rows: u64,
    /// The files that hold them.
    pub(crate) files: Vec<L>,
    /// New files with what else those hold: compaction puts rows of several appends into one.
    pub(crate) others: Vec<DataFile>,
}

/// The live files of an Iceberg table.
pub(crate) struct IcebergFiles<'a> {
    pub(crate) name: &'a TableRef,
    pub(crate) table: &'a Table,
    /// Of the files that rewriting a compacted one makes.
    pub(crate) compacted: Arc<FileLayout>,
}

/// A live file of an Iceberg table.
pub(crate) struct IcebergFile(pub(crate) LiveFile);

impl AsRef<DataFile> for IcebergFile {
    fn as_ref(&self) -> &DataFile {
        &self.0.file
    }
}

#[async_trait]
impl TableFiles for IcebergFiles<'_> {
    type Live = IcebergFile;

    async fn live(&self) -> Result<Vec<IcebergFile>> {
        Ok(live_files(self.table).await?.into_iter().map(IcebergFile).collect())
    }

    async fn open(&self, file: &DataFile, schema: &SchemaRef) -> Result<RowStream> {
        open_file(self.name, self.table, file, schema)
    }

    fn field_id(&self, column: &str) -> Option<i32> {
        self.table.metadata().current_schema().field_id_by_name(column)
    }

    async fn appended(&self, append: &Entry) -> Result<Appended<IcebergFile>> {
        let snapshot = append.snapshot.parse::<i64>().unwrap_or_default();
        let (compacted, mut files): (Vec<_>, Vec<_>) = live_files(self.table).await?.into_iter().partition(|live| is_compacted(&live.file));
        files.retain(|live| live.snapshot_id == snapshot);
        let mut rows: u64 = files.iter().map(|live| live.file.record_count()).sum();
        let mut others = Vec::new();
        if rows < append.rows {
            for live in compacted {
                let segments = segments::of_file(self.name, self.table.file_io(), &live).await?;
                let own: u64 = segments.iter().filter(|segment| segment.snapshot == snapshot).map(|segment| segment.rows).sum();
                if own > 0 {
                    rows += own;
                    let rows_of_file = concatenated(self.table, &self.compacted, vec![live.file.clone()]);
                    let partition = live.file.partition().clone();
                    others.extend(without_commit(&self.compacted, partition, rows_of_file, others.len(), snapshot, &segments).await?);
                    files.push(live);
                }
            }
        }
        Ok(Appended { rows, files: files.into_iter().map(IcebergFile).collect(), others })
    }
}
