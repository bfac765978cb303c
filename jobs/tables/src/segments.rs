//! Whose rows a compacted file holds: which rows an append wrote must still be known when another append replaces it.
//!
//! A file that an append wrote is known by the snapshot that added it. Compaction puts the rows of several appends into one file, one after
//! the other, and writes into the file's own metadata how many rows come from which snapshot. Files with such metadata have names that begin
//! with [`PREFIX`], so that no other file has to be opened to know that it has none.

use crate::{Result, TableError};
use iceberg::io::FileIO;
use iceberg::spec::DataFile;
use iceberg_commit::LiveFile;
use lakehouse_contract::TableRef;
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaDataReader};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Beginning of the names of files that compaction wrote.
pub(crate) const PREFIX: &str = "compacted-";
/// Key of the segments in the metadata of a Parquet file.
const KEY: &str = "lakehouse.segments";
/// Bytes read from the end of a file first; mostly all of its metadata.
const TAIL: u64 = 64 * 1024;

/// Rows of one commit within a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Segment {
    /// Snapshot (Delta: version) that added them to the table.
    pub(crate) snapshot: i64,
    /// How many.
    pub(crate) rows: u64,
}

/// Segments as metadata of a file.
pub(crate) fn to_metadata(table: &TableRef, segments: &[Segment]) -> Result<Vec<KeyValue>> {
    let text = serde_json::to_string(segments).map_err(|error| TableError::Corrupt {
        table: table.clone(),
        what: "description of compacted rows".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(vec![KeyValue::new(KEY.to_owned(), text)])
}

/// Whether compaction wrote a file.
pub(crate) fn is_compacted(file: &DataFile) -> bool {
    file.file_path().rsplit_once('/').is_some_and(|(_, name)| name.starts_with(PREFIX))
}

/// The segments of a live file of an Iceberg table, in the order of its rows.
///
/// # Errors
/// [`TableError::Corrupt`] when a compacted file describes other rows than it has.
pub(crate) async fn of_file(table: &TableRef, io: &FileIO, live: &LiveFile) -> Result<Vec<Segment>> {
    let described = if is_compacted(&live.file) { described(table, io, &live.file).await? } else { None };
    Ok(described.unwrap_or_else(|| vec![Segment { snapshot: live.snapshot_id, rows: live.file.record_count() }]))
}

/// What a file says about its rows itself; none when it says nothing.
///
/// # Errors
/// [`TableError::Corrupt`] when it describes other rows than it has.
pub(crate) async fn described(table: &TableRef, io: &FileIO, file: &DataFile) -> Result<Option<Vec<Segment>>> {
    let corrupt = |reason: String| TableError::Corrupt { table: table.clone(), what: file.file_path().to_owned(), reason };
    let Some(text) = read(table, io, file).await? else { return Ok(None) };
    let segments: Vec<Segment> = serde_json::from_str(&text).map_err(|error| corrupt(format!("its segments: {error}")))?;
    let (rows, described) = (file.record_count(), segments.iter().map(|segment| segment.rows).sum::<u64>());
    if described != rows {
        return Err(corrupt(format!("its segments describe {described} rows, its table says {rows}")));
    }
    Ok(Some(segments))
}

/// The segments of a file of which some rows go, in the order of its rows; those rows are counted by snapshot.
pub(crate) fn fewer(segments: &[Segment], gone: &[bool], counts: &mut HashMap<i64, u64>) -> Vec<Segment> {
    let mut rows = gone.iter();
    let mut left = Vec::with_capacity(segments.len());
    for segment in segments {
        let here = rows.by_ref().take(usize::try_from(segment.rows).unwrap_or(usize::MAX)).filter(|gone| **gone).count() as u64;
        *counts.entry(segment.snapshot).or_default() += here;
        if segment.rows > here {
            left.push(Segment { snapshot: segment.snapshot, rows: segment.rows - here });
        }
    }
    left
}

/// Neighbours of one snapshot as one segment.
pub(crate) fn joined(segments: impl IntoIterator<Item = Segment>) -> Vec<Segment> {
    let mut all: Vec<Segment> = Vec::new();
    for segment in segments {
        match all.last_mut() {
            Some(last) if last.snapshot == segment.snapshot => last.rows += segment.rows,
            _ => all.push(segment),
        }
    }
    all
}

async fn read(table: &TableRef, io: &FileIO, file: &DataFile) -> Result<Option<String>> {
    let failed = TableError::iceberg(table);
    let size = file.file_size_in_bytes();
    let reader = io.new_input(file.file_path()).map_err(&failed)?.reader().await.map_err(&failed)?;
    let mut tail = TAIL.min(size);
    loop {
        let bytes = reader.read(size - tail..size).await.map_err(&failed)?;
        let mut metadata = ParquetMetaDataReader::new();
        match metadata.try_parse_sized(&bytes, size).and_then(|()| metadata.finish()) {
            Ok(metadata) => {
                let pairs = metadata.file_metadata().key_value_metadata();
                return Ok(pairs.into_iter().flatten().find(|pair| pair.key == KEY).and_then(|pair| pair.value.clone()));
            }
            Err(ParquetError::NeedMoreData(needed)) if tail < size => tail = (needed as u64).max(tail + 1).min(size),
            Err(error) => {
                return Err(TableError::Corrupt { table: table.clone(), what: file.file_path().to_owned(), reason: error.to_string() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_snapshot_are_joined() {
        let segment = |snapshot, rows| Segment { snapshot, rows };
        assert_eq!(joined([segment(1, 2), segment(1, 3), segment(2, 1), segment(1, 1)]), [segment(1, 5), segment(2, 1), segment(1, 1)]);
        assert!(joined([]).is_empty());
    }

    #[test]
    fn rows_are_counted_by_the_append_that_brought_them() {
        let segment = |snapshot, rows| Segment { snapshot, rows };
        let mut counts = HashMap::new();
        let left = fewer(&[segment(1, 2), segment(2, 1), segment(1, 3)], &[true, false, true, false, true, false], &mut counts);
        assert_eq!(left, [segment(1, 1), segment(1, 2)]);
        assert_eq!(counts, HashMap::from([(1, 2), (2, 1)]));
    }
}
