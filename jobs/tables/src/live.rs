//! The data files of a table as a commit finds them, whatever the format: what a rewriting of rows looks at.

use crate::Result;
use crate::ledger::Entry;
use crate::rows::read_file;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use iceberg::spec::DataFile;
use iceberg::table::Table;
use iceberg_commit::{LiveFile, live_files};
use lakehouse_contract::TableRef;

/// The live files of one state of a table.
#[async_trait]
pub(crate) trait TableFiles: Send + Sync {
    /// A live file, as its format removes it.
    type Live: AsRef<DataFile> + Send + Sync;

    /// All of them.
    async fn live(&self) -> Result<Vec<Self::Live>>;

    /// All rows of one, in the table's current schema as files are written.
    async fn read(&self, file: &DataFile, schema: &SchemaRef) -> Result<Vec<RecordBatch>>;

    /// Identifier of a column in the statistics of files.
    fn field_id(&self, column: &str) -> Option<i32>;

    /// Whether a file is one that an earlier append wrote.
    fn is_of(&self, live: &Self::Live, append: &Entry) -> bool;
}

/// The live files of an Iceberg table.
pub(crate) struct IcebergFiles<'a> {
    pub(crate) name: &'a TableRef,
    pub(crate) table: &'a Table,
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

    async fn read(&self, file: &DataFile, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
        read_file(self.name, self.table, file, schema).await
    }

    fn field_id(&self, column: &str) -> Option<i32> {
        self.table.metadata().current_schema().field_id_by_name(column)
    }

    fn is_of(&self, live: &IcebergFile, append: &Entry) -> bool {
        live.0.snapshot_id.to_string() == append.snapshot
    }
}
