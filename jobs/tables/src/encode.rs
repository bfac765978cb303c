//! Parquet files from batches, with what the manifest says about them.
//!
//! Columns of text are encoded by [`TextColumn`], all others by the `parquet` crate, whose file and row group writers put both together.
//! Files of schemas that [`describe`] does not describe, which other programs can have made, are written by the `iceberg` crate's writer.

mod chunk;
mod codec;
mod describe;
mod dictionary;
mod ends;
mod hybrid;
#[cfg(test)]
mod tests;
mod text;
mod truncate;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use codec::Codec;
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::io::{FileWrite, OutputFile};
use iceberg::spec::{DataFileBuilder, SchemaRef as IcebergSchemaRef};
use iceberg::writer::CurrentFileStatus;
use iceberg::writer::file_writer::{FileWriter, FileWriterBuilder, ParquetWriter, ParquetWriterBuilder};
use iceberg::{Error, ErrorKind};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use std::collections::HashMap;
use std::sync::Arc;
use text::TextColumn;

type Result<T, E = Error> = std::result::Result<T, E>;

/// Writes one Parquet file.
pub(crate) enum FileEncoder {
    Own(Box<Own>),
    Iceberg(Box<ParquetWriter>),
}

impl FileEncoder {
    /// A writer to `output`, which is made with the first row.
    ///
    /// # Errors
    /// A schema or properties that Parquet files cannot have.
    pub(crate) async fn new(output: OutputFile, schema: IcebergSchemaRef, properties: WriterProperties) -> Result<Self> {
        if describe::describes(&schema) {
            return Ok(Self::Own(Box::new(Own::new(output, schema, properties)?)));
        }
        let writer = ParquetWriterBuilder::new(properties, schema).build(output).await?;
        Ok(Self::Iceberg(Box::new(writer)))
    }

    /// Adds rows, whose columns are those of the schema in its order.
    pub(crate) async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::Own(writer) => writer.write(batch).await,
            Self::Iceberg(writer) => writer.write(batch).await,
        }
    }

    /// Bytes written, and about how many the rows in memory will take.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Own(writer) => writer.file.bytes_written() + writer.group.as_ref().map_or(0, Group::estimated_bytes),
            Self::Iceberg(writer) => writer.current_written_size(),
        }
    }

    /// Completes the file and describes it. None without rows, and no file.
    pub(crate) async fn close(self) -> Result<Option<DataFileBuilder>> {
        match self {
            Self::Own(writer) => writer.close().await,
            Self::Iceberg(writer) => Ok(writer.close().await?.into_iter().next()),
        }
    }
}

/// Where a column's values go.
enum Column {
    Text(Box<TextColumn>),
    /// With the writer of the present row group.
    Other(Option<Box<ArrowColumnWriter>>),
}

/// The row group that is being filled.
struct Group {
    columns: Vec<Column>,
    rows: usize,
}

impl Group {
    fn estimated_bytes(&self) -> usize {
        let bytes = |column: &Column| match column {
            Column::Text(text) => text.estimated_bytes(),
            Column::Other(writer) => writer.as_ref().map_or(0, |writer| writer.get_estimated_total_bytes()),
        };
        self.columns.iter().map(bytes).sum()
    }
}

pub(crate) struct Own {
    output: OutputFile,
    /// Open once there are rows.
    sink: Option<Box<dyn FileWrite>>,
    schema: IcebergSchemaRef,
    arrow: SchemaRef,
    file: SerializedFileWriter<Vec<u8>>,
    others: ArrowRowGroupWriterFactory,
    codec: Codec,
    group: Option<Group>,
    /// Columns between two row groups.
    resting: Vec<Column>,
    nans: HashMap<i32, u64>,
}

fn failed(error: ParquetError) -> Error {
    Error::new(ErrorKind::Unexpected, "rows cannot be encoded as Parquet").with_source(error)
}

impl Own {
    fn new(output: OutputFile, schema: IcebergSchemaRef, properties: WriterProperties) -> Result<Self> {
        let arrow = Arc::new(schema_to_arrow_schema(&schema)?);
        // What is set for no column in particular holds for all of them.
        let compression = properties.compression(&ColumnPath::new(Vec::new()));
        let Compression::ZSTD(level) = compression else {
            return Err(failed(ParquetError::NYI(format!("texts are compressed by zstd and not by {compression}"))));
        };
        let codec = Codec::new(level.compression_level()).map_err(failed)?;
        let writer = ArrowWriter::try_new(Vec::new(), arrow.clone(), Some(properties)).map_err(failed)?;
        let (file, others) = writer.into_serialized_writer().map_err(failed)?;
        let mut resting = Vec::with_capacity(arrow.fields().len());
        // All columns are flat, so each field is one column of the file.
        for (field, descr) in arrow.fields().iter().zip(file.schema_descr().columns()) {
            resting.push(match field.data_type() {
                DataType::Utf8 => Column::Text(Box::new(TextColumn::new(descr.clone(), file.properties()).map_err(failed)?)),
                _ => Column::Other(None),
            });
        }
        Ok(Self { output, sink: None, schema, arrow, file, others, codec, group: None, resting, nans: HashMap::new() })
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        describe::count_nans(&self.schema, batch, &mut self.nans);
        let mut rest = batch.clone();
        while rest.num_rows() > 0 {
            let rows = self.room(rest.num_rows());
            if rows > 0 {
                self.encode(&rest.slice(0, rows)).map_err(failed)?;
                rest = rest.slice(rows, rest.num_rows() - rows);
            }
            if self.is_full() {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// How many of the next rows the present row group takes, by the size of those that it has.
    fn room(&self, rows: usize) -> usize {
        let properties = self.file.properties();
        let Some(group) = &self.group else { return rows.min(properties.max_row_group_row_count().unwrap_or(usize::MAX)) };
        let by_count = properties.max_row_group_row_count().map_or(usize::MAX, |most| most.saturating_sub(group.rows));
        let bytes = group.estimated_bytes();
        let by_size = match properties.max_row_group_bytes() {
            Some(most) if bytes > 0 => most.saturating_sub(bytes).saturating_mul(group.rows) / bytes,
            _ => usize::MAX,
        };
        rows.min(by_count).min(by_size)
    }

    /// Whether the row group takes no further row.
    fn is_full(&self) -> bool {
        self.group.is_some() && self.room(1) == 0
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        let group = match &mut self.group {
            Some(group) => group,
            none => {
                let number = self.file.flushed_row_groups().len();
                let mut columns = std::mem::take(&mut self.resting);
                for (column, writer) in columns.iter_mut().zip(self.others.create_column_writers(number)?) {
                    if let Column::Other(none) = column {
                        *none = Some(Box::new(writer));
                    }
                }
                none.insert(Group { columns, rows: 0 })
            }
        };
        group.rows += batch.num_rows();
        for ((field, values), column) in self.arrow.fields().iter().zip(batch.columns()).zip(&mut group.columns) {
            match column {
                Column::Text(text) => text.write(as_text(values)?.as_string(), &mut self.codec)?,
                Column::Other(Some(writer)) => {
                    for leaf in compute_leaves(field, values)? {
                        writer.write(&leaf)?;
                    }
                }
                Column::Other(None) => return Err(ParquetError::General(format!("column {} has no writer", field.name()))),
            }
        }
        Ok(())
    }

    /// Ends the row group and hands its bytes to the store.
    async fn flush(&mut self) -> Result<()> {
        if let Some(group) = self.group.take() {
            self.resting = append(&mut self.file, group, &mut self.codec).map_err(failed)?;
        }
        self.hand_over().await
    }

    async fn hand_over(&mut self) -> Result<()> {
        self.file.flush()?;
        let mut bytes = std::mem::take(self.file.inner_mut());
        // They wait for the rest of their part, and would keep all of the buffer that grew by doubling.
        bytes.shrink_to_fit();
        let bytes = Bytes::from(bytes);
        let sink = match &mut self.sink {
            Some(sink) => sink,
            none => none.insert(self.output.writer().await?),
        };
        sink.write(bytes).await
    }

    async fn close(mut self) -> Result<Option<DataFileBuilder>> {
        if self.group.is_none() && self.file.flushed_row_groups().is_empty() {
            return Ok(None);
        }
        self.flush().await?;
        let metadata = self.file.finish().map_err(failed)?;
        self.hand_over().await?;
        if let Some(sink) = &mut self.sink {
            sink.close().await?;
        }
        let (size, path) = (self.file.bytes_written() as u64, self.output.location().to_owned());
        describe::describe(&self.schema, &metadata, size, path, self.nans).map(Some).map_err(failed)
    }
}

/// Appends a row group to the file and returns its columns for the next one.
fn append(file: &mut SerializedFileWriter<Vec<u8>>, group: Group, codec: &mut Codec) -> Result<Vec<Column>, ParquetError> {
    let mut columns = group.columns;
    let mut written = file.next_row_group()?;
    for column in &mut columns {
        match column {
            Column::Text(text) => {
                let (bytes, close) = text.finish(codec)?;
                written.append_column(&bytes, close)?;
            }
            Column::Other(writer) => {
                if let Some(writer) = writer.take() {
                    writer.close()?.append_to_row_group(&mut written)?;
                }
            }
        }
    }
    written.close()?;
    Ok(columns)
}

/// The column with offsets of 32 bits, as the table's own batches have it.
fn as_text(values: &ArrayRef) -> Result<ArrayRef, ParquetError> {
    match values.data_type() {
        DataType::Utf8 => Ok(values.clone()),
        _ => Ok(cast(values, &DataType::Utf8)?),
    }
}
