//! Writes batches as Parquet files with statistics: partitioned, sorted, on all cores.

use crate::blooms::{self, Bloom};
use crate::conform::conform;
use crate::encode::FileEncoder;
use crate::partitions::{Splitter, hive_path};
use crate::rows::RowStream;
use crate::{BatchStream, Result, TableError};
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{SortColumn, SortOptions, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, DataFileBuilder, Datum, PartitionKey, PartitionSpecRef, PrimitiveLiteral, SchemaRef as IcebergSchemaRef, Struct,
};
use iceberg_commit::ObjectStoreIo;
use lakehouse_contract::TableRef;
use lakehouse_storage::{LayerStore, memory};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc};

/// Size at which a file is closed and the next one begun.
const FILE_BYTES: usize = 512 * 1024 * 1024;
/// Longest text kept as a bound in the statistics of a file, in characters.
const BOUND_CHARACTERS: usize = 64;

/// Bytes that the values of a batch take, as if they were its own: slices of one batch share its memory.
fn bytes_of(batch: &RecordBatch) -> usize {
    let bytes = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size());
    batch.columns().iter().map(bytes).sum()
}

/// Memory to plan with for each task that encodes, in bytes: its dictionaries, compressors and pages, and the parts of its file that are on
/// their way to the store, take about that much whatever the limit is.
const WORKER: usize = 24 << 20;

/// How many tasks write, and how much of the memory writing takes, in bytes.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Tasks that encode.
    workers: usize,
    /// Input below this size is written by one task, so that small commits make few files.
    small: usize,
    /// Rows that one task holds back to sort or to partition them, in Arrow memory.
    held: usize,
    /// An encoded row group, which is in memory until it is whole.
    row_group: usize,
}

impl Sizes {
    /// What `workers` tasks take of `memory` bytes.
    fn of(memory: usize, workers: usize) -> Self {
        let share = memory / 8 / workers.max(1);
        let (held, row_group) = (share.clamp(1 << 20, 256 << 20), share.clamp(1 << 20, 128 << 20));
        Self { workers, small: (memory / 8).min(32 << 20), held, row_group }
    }

    fn here() -> Self {
        Self::of(memory::limit(), memory::threads(WORKER))
    }
}

/// Access to the files of these layers; what is written to them goes in parts that the memory has room for.
pub(crate) fn io<'a>(layers: impl IntoIterator<Item = &'a LayerStore>) -> ObjectStoreIo {
    let parts = memory::Parts::here(Sizes::here().workers);
    let none = ObjectStoreIo::new().with_parts(parts.bytes, parts.in_flight);
    layers.into_iter().fold(none, |io, layer| io.with_store(layer.root_uri(), layer.object_store()))
}

/// What every file of a commit has in common.
#[derive(Debug)]
pub(crate) struct FileLayout {
    pub(crate) table: TableRef,
    pub(crate) schema: IcebergSchemaRef,
    /// Arrow schema of the files.
    pub(crate) arrow: SchemaRef,
    pub(crate) spec: PartitionSpecRef,
    /// Columns to sort by.
    pub(crate) sort_by: Vec<String>,
    pub(crate) io: FileIO,
    /// Absolute location of the folder for the files.
    pub(crate) folder: String,
    /// Beginning of the file names, unique to this attempt.
    pub(crate) stem: String,
    /// Columns with a Bloom filter.
    pub(crate) blooms: Vec<Bloom>,
    /// Whether partitions become folders, as readers of plain Parquet expect.
    pub(crate) hive: bool,
}

/// Checks one conformed batch; an error stops the write.
pub(crate) type Check = Arc<dyn Fn(&RecordBatch) -> Result<()> + Send + Sync>;

/// Writes all rows of `input` and returns the files and the number of rows. Nothing refers to the files yet; after an error they are deleted.
pub(crate) async fn write_streams(layout: Arc<FileLayout>, input: Vec<BatchStream>, check: Option<Check>) -> Result<(Vec<DataFile>, u64)> {
    let closed = Closed::default();
    let written = write_all(layout.clone(), input, check, &closed).await;
    if written.is_err() {
        let paths = closed.0.lock().map(|paths| paths.clone()).unwrap_or_default();
        for path in paths {
            if let Err(error) = layout.io.delete(&path).await {
                tracing::debug!(%error, path, "left a file of rows that could not be written in full");
            }
        }
    }
    written
}

/// Paths of the files that are complete.
#[derive(Clone, Debug, Default)]
struct Closed(Arc<std::sync::Mutex<Vec<String>>>);

impl Closed {
    fn add(&self, path: &str) {
        if let Ok(mut paths) = self.0.lock() {
            paths.push(path.to_owned());
        }
    }
}

async fn write_all(
    layout: Arc<FileLayout>,
    input: Vec<BatchStream>,
    check: Option<Check>,
    closed: &Closed,
) -> Result<(Vec<DataFile>, u64)> {
    let sizes = Sizes::here();
    let workers = sizes.workers;
    let (send, receive) = mpsc::channel::<Result<RecordBatch>>(workers * 2);
    let mut readers = tokio::task::JoinSet::new();
    for stream in input {
        readers.spawn(pump(layout.clone(), stream, check.clone(), send.clone()));
    }
    drop(send);
    let mut receive = receive;
    let mut first = Vec::new();
    let mut held = 0;
    while held < sizes.small {
        match receive.recv().await {
            Some(batch) => {
                let batch = batch?;
                held += bytes_of(&batch);
                first.push(batch);
            }
            None => {
                all_read(&layout.table, readers).await?;
                return Worker::new(layout, 0, sizes, closed)?.run(first, None).await;
            }
        }
    }
    let rest = Arc::new(Mutex::new(receive));
    let mut tasks = tokio::task::JoinSet::new();
    let mut shares: Vec<Vec<RecordBatch>> = vec![Vec::new(); workers];
    for (index, batch) in first.into_iter().enumerate() {
        shares[index % workers].push(batch);
    }
    for (number, share) in shares.into_iter().enumerate() {
        tasks.spawn(Worker::new(layout.clone(), number, sizes, closed)?.run(share, Some(rest.clone())));
    }
    let mut files = Vec::new();
    let mut rows = 0;
    while let Some(done) = tasks.join_next().await {
        let (own, count) = done.map_err(|error| TableError::Task { table: layout.table.clone(), reason: error.to_string() })??;
        files.extend(own);
        rows += count;
    }
    all_read(&layout.table, readers).await?;
    files.sort_by(|a, b| a.file_path().cmp(b.file_path()));
    Ok((files, rows))
}

/// A reader that died would look like the end of its stream, and its rows would be missing.
async fn all_read(table: &TableRef, mut readers: tokio::task::JoinSet<()>) -> Result<()> {
    while let Some(done) = readers.join_next().await {
        done.map_err(|error| TableError::Task { table: table.clone(), reason: error.to_string() })?;
    }
    Ok(())
}

/// Conforms and checks the batches of one stream and hands them to the workers.
async fn pump(layout: Arc<FileLayout>, mut stream: BatchStream, check: Option<Check>, send: mpsc::Sender<Result<RecordBatch>>) {
    while let Some(batch) = stream.next().await {
        let ready = batch.map_err(|cause| TableError::Source { table: layout.table.clone(), cause }).and_then(|batch| {
            let batch = conform(&layout.table, &batch, &layout.arrow)?;
            check.as_ref().map_or(Ok(()), |check| check(&batch))?;
            Ok(batch)
        });
        let failed = ready.is_err();
        // A closed channel means that a worker failed, whose error is the one to report.
        if send.send(ready).await.is_err() || failed {
            return;
        }
    }
}

/// Rows of one partition that wait to be written.
struct Waiting {
    key: PartitionKey,
    batches: Vec<RecordBatch>,
    bytes: usize,
}

struct Worker {
    layout: Arc<FileLayout>,
    number: usize,
    sizes: Sizes,
    closed: Closed,
    splitter: Option<Splitter>,
    waiting: HashMap<Struct, Waiting>,
    held: usize,
    open: Option<(String, FileEncoder)>,
    files: Vec<DataFile>,
    rows: u64,
    named: usize,
}

impl Worker {
    fn new(layout: Arc<FileLayout>, number: usize, sizes: Sizes, closed: &Closed) -> Result<Self> {
        let splitter = if layout.spec.is_unpartitioned() {
            None
        } else {
            Some(Splitter::new(&layout.table, layout.schema.clone(), layout.spec.clone())?)
        };
        let closed = closed.clone();
        Ok(Self {
            layout,
            number,
            sizes,
            closed,
            splitter,
            waiting: HashMap::new(),
            held: 0,
            open: None,
            files: Vec::new(),
            rows: 0,
            named: 0,
        })
    }

    async fn run(
        mut self,
        first: Vec<RecordBatch>,
        rest: Option<Arc<Mutex<mpsc::Receiver<Result<RecordBatch>>>>>,
    ) -> Result<(Vec<DataFile>, u64)> {
        for batch in first {
            self.take(batch).await?;
        }
        if let Some(rest) = rest {
            loop {
                let next = rest.lock().await.recv().await;
                match next {
                    Some(batch) => self.take(batch?).await?,
                    None => break,
                }
            }
        }
        while self.held > 0 {
            self.flush_largest().await?;
        }
        if let Some((path, writer)) = self.open.take() {
            self.close(path, writer, Struct::empty()).await?;
        }
        Ok((self.files, self.rows))
    }

    async fn take(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.rows += batch.num_rows() as u64;
        let layout = self.layout.clone();
        match &self.splitter {
            None if layout.sort_by.is_empty() => return self.stream(batch).await,
            None => {
                let key = PartitionKey::new(layout.spec.as_ref().clone(), layout.schema.clone(), Struct::empty());
                self.hold(key, batch);
            }
            Some(splitter) => {
                for (key, part) in splitter.split(&batch)? {
                    self.hold(key, part);
                }
            }
        }
        while self.held > self.sizes.held {
            self.flush_largest().await?;
        }
        Ok(())
    }

    fn hold(&mut self, key: PartitionKey, batch: RecordBatch) {
        let bytes = bytes_of(&batch).max(1);
        let entry = self.waiting.entry(key.data().clone()).or_insert_with(|| Waiting { key, batches: Vec::new(), bytes: 0 });
        entry.batches.push(batch);
        entry.bytes += bytes;
        self.held += bytes;
    }

    /// Rows without partition and order go straight into the open file.
    async fn stream(&mut self, batch: RecordBatch) -> Result<()> {
        let (path, mut writer) = match self.open.take() {
            Some(open) => open,
            None => self.create(None).await?,
        };
        writer.write(&batch).await.map_err(TableError::iceberg(&self.layout.table))?;
        if writer.size() < FILE_BYTES {
            self.open = Some((path, writer));
            return Ok(());
        }
        self.close(path, writer, Struct::empty()).await
    }

    async fn flush_largest(&mut self) -> Result<()> {
        let largest = self.waiting.iter().max_by_key(|(_, waiting)| waiting.bytes).map(|(partition, _)| partition.clone());
        let Some(waiting) = largest.and_then(|partition| self.waiting.remove(&partition)) else {
            self.held = 0;
            return Ok(());
        };
        self.held -= waiting.bytes;
        let table = &self.layout.table;
        let whole = concat_batches(&self.layout.arrow, &waiting.batches).map_err(TableError::arrow(table))?;
        let sorted = sort(&self.layout, whole)?;
        let (path, mut writer) = self.create(Some(&waiting.key)).await?;
        writer.write(&sorted).await.map_err(TableError::iceberg(&self.layout.table))?;
        self.close(path, writer, waiting.key.data().clone()).await
    }

    async fn create(&mut self, key: Option<&PartitionKey>) -> Result<(String, FileEncoder)> {
        let layout = &self.layout;
        let name = format!("{}-{:02}-{:05}.parquet", layout.stem, self.number, self.named);
        self.named += 1;
        let path = match key {
            Some(key) if layout.hive && !layout.spec.is_unpartitioned() => format!("{}/{}/{name}", layout.folder, hive_path(key)),
            _ => format!("{}/{name}", layout.folder),
        };
        let failed = TableError::iceberg(&layout.table);
        let output = layout.io.new_output(&path).map_err(&failed)?;
        let writer = FileEncoder::new(output, layout.schema.clone(), blooms::applied(&layout.blooms, properties()).build())
            .await
            .map_err(&failed)?;
        Ok((path, writer))
    }

    async fn close(&mut self, path: String, writer: FileEncoder, partition: Struct) -> Result<()> {
        let table = &self.layout.table;
        self.closed.add(&path);
        if let Some(mut builder) = writer.close().await.map_err(TableError::iceberg(table))? {
            builder.partition(partition.clone()).partition_spec_id(self.layout.spec.spec_id());
            self.files.push(finish(table, &path, builder)?);
        }
        Ok(())
    }
}

fn sort(layout: &FileLayout, batch: RecordBatch) -> Result<RecordBatch> {
    let columns: Vec<SortColumn> = layout
        .sort_by
        .iter()
        .filter_map(|name| batch.column_by_name(name))
        .map(|values| SortColumn { values: values.clone(), options: Some(SortOptions { descending: false, nulls_first: true }) })
        .collect();
    if columns.is_empty() {
        return Ok(batch);
    }
    let order = lexsort_to_indices(&columns, None).map_err(TableError::arrow(&layout.table))?;
    take_record_batch(&batch, &order).map_err(TableError::arrow(&layout.table))
}

pub(crate) fn properties() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_max_row_group_bytes(Some(Sizes::here().row_group))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        // Truncated statistics are not exact, and the collector of bounds would skip single row groups because of them.
        .set_statistics_truncate_length(None)
}

/// Writes rows of one partition, which have the schema of the files, into one file, in the order in which they come. None without rows.
pub(crate) async fn write_one(
    layout: &FileLayout,
    number: usize,
    partition: Struct,
    mut rows: RowStream,
    metadata: Vec<KeyValue>,
) -> Result<Option<DataFile>> {
    let failed = TableError::iceberg(&layout.table);
    let path = format!("{}/{}-{number:05}.parquet", layout.folder, layout.stem);
    let output = layout.io.new_output(&path).map_err(&failed)?;
    let properties = blooms::applied(&layout.blooms, properties());
    let properties = properties.set_key_value_metadata(Some(metadata).filter(|pairs| !pairs.is_empty())).build();
    let mut writer = FileEncoder::new(output, layout.schema.clone(), properties).await.map_err(&failed)?;
    while let Some(batch) = rows.next().await {
        writer.write(&batch?).await.map_err(&failed)?;
    }
    let Some(mut builder) = writer.close().await.map_err(&failed)? else { return Ok(None) };
    builder.partition(partition).partition_spec_id(layout.spec.spec_id());
    finish(&layout.table, &path, builder).map(Some)
}

/// Builds the file's description with text bounds of a bounded length, so that long values do not fill the manifests.
fn finish(table: &TableRef, path: &str, mut builder: DataFileBuilder) -> Result<DataFile> {
    let corrupt = |error: &dyn std::fmt::Display| TableError::Corrupt {
        table: table.clone(),
        what: format!("description of {path}"),
        reason: error.to_string(),
    };
    let full = builder.build().map_err(|error| corrupt(&error))?;
    let text_is_long = |datum: &Datum| matches!(datum.literal(), PrimitiveLiteral::String(text) if text.chars().count() > BOUND_CHARACTERS);
    if full.lower_bounds().values().chain(full.upper_bounds().values()).any(text_is_long) {
        let lower = full.lower_bounds().iter().map(|(id, datum)| match datum.literal() {
            PrimitiveLiteral::String(text) => (*id, Datum::string(text.chars().take(BOUND_CHARACTERS).collect::<String>())),
            _ => (*id, datum.clone()),
        });
        let upper = full.upper_bounds().iter().filter(|(_, datum)| !text_is_long(datum)).map(|(id, datum)| (*id, datum.clone()));
        builder.lower_bounds(lower.collect()).upper_bounds(upper.collect());
        return builder.build().map_err(|error| corrupt(&error));
    }
    Ok(full)
}
