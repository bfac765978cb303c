//! The live files of a Delta table as a commit finds them, and whose the rows in them are.

use super::{DeltaTable, NOBODY, REWRITTEN, State, batches, stem_of};
use crate::compact::without_commit;
use crate::delta_files::{self, DeltaFile};
use crate::delta_rewritten::{Opens, Wanted};
use crate::ledger::Entry;
use crate::live::{Appended, TableFiles};
use crate::rows::RowStream;
use crate::segments::Segment;
use crate::writer::{self, FileLayout};
use crate::{Result, TableError, delta_rewritten, delta_rows, segments};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use iceberg::spec::{DataFile, PartitionSpec};
use lakehouse_contract::TableRef;
use lakehouse_storage::LayerStore;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::sync::Arc;

/// The live files of a state.
pub(crate) struct DeltaFiles<'a> {
    table: &'a DeltaTable,
    state: &'a State,
    spec: PartitionSpec,
}

/// Opens data files of a table in one schema.
#[derive(Clone)]
pub(crate) struct Reader {
    layer: LayerStore,
    spec: Arc<PartitionSpec>,
    table: TableRef,
    arrow: SchemaRef,
}

impl Reader {
    pub(crate) async fn open_file(&self, file: &DataFile) -> Result<RowStream> {
        delta_rows::open(&self.table, &self.layer, file, &self.spec, &self.arrow).await
    }
}

#[async_trait]
impl Opens for Reader {
    async fn open(&self, file: &DataFile) -> Result<RowStream> {
        self.open_file(file).await
    }
}

impl<'a> DeltaFiles<'a> {
    pub(crate) fn new(table: &'a DeltaTable, state: &'a State) -> Result<Self> {
        Ok(Self { table, state, spec: table.spec(state)? })
    }

    pub(crate) fn reader(&self, layout: &FileLayout) -> Reader {
        let (table, layer) = (self.table.table.clone(), self.table.layer.clone());
        Reader { table, layer, spec: Arc::new(self.spec.clone()), arrow: layout.arrow.clone() }
    }

    /// Which commits the rows of a file of ours are from, in the order of the rows.
    pub(crate) async fn segments(&self, live: &DeltaFile) -> Result<Vec<Segment>> {
        let table = self.table;
        if segments::is_compacted(&live.file) {
            let io = writer::io([&table.layer]).file_io();
            if let Some(described) = segments::described(&table.table, &io, &live.file).await? {
                return Ok(described);
            }
        }
        let written = batches(&self.state.snapshot).filter(|batch| live.path.starts_with(&stem_of(&batch.entry.token)));
        let version = written.map(|batch| batch.version).max().and_then(|version| i64::try_from(version).ok());
        Ok(vec![Segment { snapshot: version.unwrap_or(NOBODY), rows: live.file.record_count() }])
    }

    /// Looks for rows of an append in files of other programs.
    async fn appended_elsewhere(
        &self,
        live: Vec<DeltaFile>,
        append: &Entry,
        missing: u64,
    ) -> Result<Option<(Vec<DeltaFile>, Vec<DataFile>)>> {
        let ours = self.state.ours();
        let foreign: Vec<DeltaFile> = live.into_iter().filter(|live| !ours(live)).collect();
        if foreign.is_empty() {
            return Ok(None);
        }
        // Not named as a compacted file, which would say whose its rows are.
        let layout = Arc::new(self.table.layout_with(self.state, REWRITTEN)?);
        let stem = stem_of(&append.token);
        let mut originals = Vec::new();
        for path in self.state.snapshot.tombstones().filter(|path| path.starts_with(&stem)) {
            // Without what the log said of it: a file of ours has all columns, and its rows are counted.
            let key = self.table.key(path);
            if let Some(bytes) = self.table.layer.get_opt(&key).await? {
                originals.push(self.original(&key, bytes)?);
            }
        }
        let wanted = Wanted { rows: missing, processed_at: append.processed_at, originals };
        delta_rewritten::take(&self.reader(&layout), &layout, foreign, &wanted).await
    }

    /// A file of ours that is not in the table any more.
    fn original(&self, key: &str, bytes: bytes::Bytes) -> Result<DataFile> {
        let location = self.table.layer.uri(key);
        let corrupt = |reason: String| TableError::Corrupt { table: self.table.table.clone(), what: location.clone(), reason };
        let size = bytes.len() as u64;
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| corrupt(error.to_string()))?;
        let rows = reader.metadata().file_metadata().num_rows().unsigned_abs();
        delta_files::of_rows(&location, rows, size).map_err(corrupt)
    }
}

#[async_trait]
impl TableFiles for DeltaFiles<'_> {
    type Live = DeltaFile;

    async fn live(&self) -> Result<Vec<DeltaFile>> {
        self.table.files_of(self.state)
    }

    async fn open(&self, file: &DataFile, schema: &SchemaRef) -> Result<RowStream> {
        delta_rows::open(&self.table.table, &self.table.layer, file, &self.spec, schema).await
    }

    fn field_id(&self, column: &str) -> Option<i32> {
        self.state.schema.field_id_by_name(column)
    }

    async fn appended(&self, append: &Entry) -> Result<Appended<DeltaFile>> {
        let stem = stem_of(&append.token);
        let (mut files, rest): (Vec<_>, Vec<_>) = self.live().await?.into_iter().partition(|live| live.path.starts_with(&stem));
        let mut rows: u64 = files.iter().map(|live| live.file.record_count()).sum();
        let mut others = Vec::new();
        let version = append.snapshot.parse::<i64>().unwrap_or(NOBODY);
        let expected = append.rows.saturating_sub(append.erased);
        if rows < expected {
            let layout = self.table.compacted_layout(self.state)?;
            let reader = self.reader(&layout);
            for live in rest.iter().filter(|live| segments::is_compacted(&live.file)) {
                let segments = self.segments(live).await?;
                let own: u64 = segments.iter().filter(|segment| segment.snapshot == version).map(|segment| segment.rows).sum();
                if own > 0 {
                    rows += own;
                    let (partition, all) = (live.file.partition().clone(), reader.open_file(&live.file).await?);
                    others.extend(without_commit(&layout, partition, all, others.len(), version, &segments).await?);
                    files.push(live.clone());
                }
            }
        }
        if rows < expected
            && let Some((found, left)) = self.appended_elsewhere(rest, append, expected - rows).await?
        {
            rows = expected;
            files.extend(found);
            others.extend(left);
        }
        Ok(Appended { rows, files, others })
    }
}
