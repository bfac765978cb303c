//! Checkpoints: the whole state as Parquet, so that a reader need not replay the log from its beginning.
//!
//! Rows go through the same JSON form as commits, which leaves one place that knows the actions.

use crate::actions::{Action, from_lines};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::json::{LineDelimitedWriter, ReaderBuilder};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::sync::Arc;

/// Rows that become one batch.
const ROWS: usize = 4096;

/// The columns that are read; others are those of features that are refused, or repeat these in another form.
const COLUMNS: [&str; 5] = ["protocol", "metaData", "txn", "add", "remove"];

/// The state as one Parquet file.
///
/// # Errors
/// A line with the cause.
pub(crate) fn write(actions: &[Action]) -> Result<Vec<u8>, String> {
    let schema = schema();
    // Snappy is what every reader of Delta has.
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema.clone(), Some(properties)).map_err(|error| error.to_string())?;
    for rows in actions.chunks(ROWS) {
        let batch = decode(&schema, rows).map_err(|error| error.to_string())?;
        writer.write(&batch).map_err(|error| error.to_string())?;
    }
    writer.close().map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn decode(schema: &SchemaRef, rows: &[Action]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let mut decoder = ReaderBuilder::new(schema.clone()).with_batch_size(ROWS).build_decoder()?;
    decoder.serialize(rows)?;
    Ok(decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(schema.clone())))
}

/// The actions of a checkpoint file, whoever wrote it.
///
/// # Errors
/// A line with the cause.
pub(crate) fn read(file: Bytes) -> Result<Vec<Action>, String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string())?;
    let parquet = builder.parquet_schema();
    let known = parquet.root_schema().get_fields().iter().enumerate().filter(|(_, field)| COLUMNS.contains(&field.name()));
    let mask = ProjectionMask::roots(parquet, known.map(|(index, _)| index));
    let reader = builder.with_projection(mask).with_batch_size(ROWS).build().map_err(|error| error.to_string())?;
    let mut actions = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| error.to_string())?;
        let mut writer = LineDelimitedWriter::new(Vec::new());
        writer.write(&batch).and_then(|()| writer.finish()).map_err(|error| error.to_string())?;
        actions.extend(from_lines(&writer.into_inner()).map_err(|error| error.to_string())?);
    }
    Ok(actions)
}

fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let long = |name: &str| Field::new(name, DataType::Int64, true);
    let int = |name: &str| Field::new(name, DataType::Int32, true);
    let flag = |name: &str| Field::new(name, DataType::Boolean, true);
    let structure = |name: &str, fields: Vec<Field>| Field::new(name, DataType::Struct(Fields::from(fields)), true);
    let map = |name: &str| {
        let entries = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)]);
        Field::new(name, DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false), true)
    };
    let list = |name: &str| Field::new(name, DataType::List(Arc::new(Field::new("element", DataType::Utf8, true))), true);
    Arc::new(Schema::new(vec![
        structure("txn", vec![text("appId"), long("version"), long("lastUpdated")]),
        structure(
            "add",
            vec![
                text("path"),
                map("partitionValues"),
                long("size"),
                long("modificationTime"),
                flag("dataChange"),
                text("stats"),
                map("tags"),
            ],
        ),
        structure(
            "remove",
            vec![
                text("path"),
                long("deletionTimestamp"),
                flag("dataChange"),
                flag("extendedFileMetadata"),
                map("partitionValues"),
                long("size"),
            ],
        ),
        structure(
            "metaData",
            vec![
                text("id"),
                text("name"),
                structure("format", vec![text("provider"), map("options")]),
                text("schemaString"),
                list("partitionColumns"),
                map("configuration"),
                long("createdTime"),
            ],
        ),
        structure("protocol", vec![int("minReaderVersion"), int("minWriterVersion"), list("readerFeatures"), list("writerFeatures")]),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actions::{Add, Format, Metadata, Protocol, Remove, Txn};
    use std::collections::BTreeMap;

    #[test]
    fn a_state_survives_the_way_through_parquet() -> Result<(), String> {
        let values = BTreeMap::from([("region".to_owned(), Some("é %".to_owned())), ("day".to_owned(), Some("2024-01-01".to_owned()))]);
        let add = Add {
            path: "a%20b.parquet".to_owned(),
            partition_values: values.clone(),
            size: 7,
            modification_time: 1,
            data_change: false,
            stats: Some(r#"{"numRecords":3}"#.to_owned()),
            tags: Some(BTreeMap::from([("k".to_owned(), Some("v".to_owned()))])),
        };
        let remove = Remove::of(&Add { path: "gone".to_owned(), ..add.clone() }, false, 5);
        let metadata = Metadata {
            id: "i".to_owned(),
            name: Some("n".to_owned()),
            format: Format::default(),
            schema_string: "{}".to_owned(),
            partition_columns: vec!["region".to_owned(), "day".to_owned()],
            configuration: BTreeMap::from([("lakehouse.owner".to_owned(), "x".to_owned())]),
            created_time: Some(9),
        };
        let protocol = Protocol { min_reader_version: 1, min_writer_version: 2, reader_features: None, writer_features: None };
        let txn = Txn { app_id: "app".to_owned(), version: 4, last_updated: None };
        let mut actions = vec![
            Action { protocol: Some(protocol), ..Action::default() },
            Action { meta_data: Some(metadata), ..Action::default() },
            Action { txn: Some(txn), ..Action::default() },
            Action { remove: Some(remove), ..Action::default() },
        ];
        // More than one batch.
        actions
            .extend((0..5000).map(|number| Action { add: Some(Add { path: format!("f{number}"), ..add.clone() }), ..Action::default() }));
        assert_eq!(read(Bytes::from(write(&actions)?))?, actions);
        Ok(())
    }

    #[test]
    fn a_null_partition_value_is_null_again() -> Result<(), String> {
        let add = Add {
            path: "p".to_owned(),
            partition_values: BTreeMap::from([("region".to_owned(), None)]),
            size: 1,
            modification_time: 1,
            data_change: false,
            stats: None,
            tags: None,
        };
        let back = read(Bytes::from(write(&[Action { add: Some(add), ..Action::default() }])?))?;
        let values = back.into_iter().find_map(|action| action.add).map(|add| add.partition_values);
        assert!(values.is_some_and(|values| values.get("region").is_none_or(Option::is_none)));
        Ok(())
    }
}
