//! A column chunk of texts: its pages in a row, and what metadata, column index and offset index say about them.

use super::truncate;
use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Compression, Encoding, EncodingMask, PageType, Type};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{CompressedPage, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::Result;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, LevelHistogram, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

/// What the indexes say about a page.
pub(super) struct Facts<'a> {
    pub(super) rows: usize,
    pub(super) nulls: usize,
    /// Bytes of its texts, without lengths.
    pub(super) bytes: usize,
    /// Its least and its greatest text. None without texts.
    pub(super) range: Option<(&'a [u8], &'a [u8])>,
    /// Longest bound in the column index, in bytes.
    pub(super) bounds: Option<usize>,
}

/// Collects the pages of a chunk. Facts come in the order of the data pages, the pages after their dictionary.
pub(super) struct Chunk {
    pages: TrackedWrite<Vec<u8>>,
    encodings: Vec<PageEncodingStats>,
    dictionary_at: Option<i64>,
    data_at: Option<i64>,
    uncompressed: i64,
    rows: u64,
    nulls: u64,
    bytes: i64,
    range: Option<(Vec<u8>, Vec<u8>)>,
    /// Least and greatest of the last page with texts.
    last: Option<(Vec<u8>, Vec<u8>)>,
    ascending: bool,
    descending: bool,
    /// Nulls and texts, of an optional column.
    levels: Option<LevelHistogram>,
    index: ColumnIndexBuilder,
    offsets: OffsetIndexBuilder,
}

impl Chunk {
    pub(super) fn new(descr: &ColumnDescPtr) -> Self {
        Self {
            pages: TrackedWrite::new(Vec::new()),
            encodings: Vec::new(),
            dictionary_at: None,
            data_at: None,
            uncompressed: 0,
            rows: 0,
            nulls: 0,
            bytes: 0,
            range: None,
            last: None,
            ascending: true,
            descending: true,
            levels: LevelHistogram::try_new(descr.max_def_level()),
            index: ColumnIndexBuilder::new(Type::BYTE_ARRAY),
            offsets: OffsetIndexBuilder::new(),
        }
    }

    /// Bytes of the pages so far.
    pub(super) fn bytes(&self) -> usize {
        self.pages.bytes_written()
    }

    /// Takes down the next data page.
    pub(super) fn add(&mut self, page: &Facts<'_>) {
        match page.range {
            None => self.index.append(true, Vec::new(), Vec::new(), page.nulls as i64),
            Some((least, greatest)) => {
                self.extend_range(least, greatest);
                let (lower, upper) = bounds(least, greatest, page.bounds);
                self.index.append(false, lower, upper, page.nulls as i64);
            }
        }
        if let Some(levels) = &mut self.levels {
            let mut own = LevelHistogram::try_new(1);
            if let Some(own) = &mut own {
                own.increment_by(0, page.nulls as i64);
                own.increment_by(1, (page.rows - page.nulls) as i64);
                levels.add(own);
            }
            self.index.append_histograms(&None, &own);
        }
        self.offsets.append_row_count(page.rows as i64);
        self.offsets.append_unencoded_byte_array_data_bytes(Some(page.bytes as i64));
        self.rows += page.rows as u64;
        self.nulls += page.nulls as u64;
        self.bytes += page.bytes as i64;
    }

    fn extend_range(&mut self, least: &[u8], greatest: &[u8]) {
        if let Some((last_least, last_greatest)) = &self.last {
            self.ascending &= last_least.as_slice() <= least && last_greatest.as_slice() <= greatest;
            self.descending &= last_least.as_slice() >= least && last_greatest.as_slice() >= greatest;
        }
        self.last = Some((least.to_vec(), greatest.to_vec()));
        let Some((own_least, own_greatest)) = &mut self.range else {
            self.range = self.last.clone();
            return;
        };
        if least < own_least.as_slice() {
            *own_least = least.to_vec();
        }
        if greatest > own_greatest.as_slice() {
            *own_greatest = greatest.to_vec();
        }
    }

    /// Appends a page.
    pub(super) fn put(&mut self, page: CompressedPage) -> Result<()> {
        let (page_type, encoding) = (page.page_type(), page.encoding());
        match self.encodings.last_mut() {
            Some(stats) if stats.page_type == page_type && stats.encoding == encoding => stats.count += 1,
            _ => self.encodings.push(PageEncodingStats { page_type, encoding, count: 1 }),
        }
        let written = SerializedPageWriter::new(&mut self.pages).write_page(page)?;
        self.uncompressed += written.uncompressed_size as i64;
        if page_type == PageType::DICTIONARY_PAGE {
            self.dictionary_at = Some(written.offset as i64);
        } else {
            self.data_at.get_or_insert(written.offset as i64);
            self.offsets.append_offset_and_size(written.offset as i64, written.compressed_size as i32);
        }
        Ok(())
    }

    /// The bytes of the chunk and what the file says about them. Their places count from its beginning.
    pub(super) fn finish(self, descr: &ColumnDescPtr, compression: Compression, bloom: Option<Sbbf>) -> Result<(Bytes, ColumnCloseResult)> {
        let length = self.pages.bytes_written();
        let (least, greatest) = self.range.map(|(least, greatest)| (ByteArray::from(least), ByteArray::from(greatest))).unzip();
        let statistics = ValueStatistics::new(least, greatest, None, Some(self.nulls), false).with_backwards_compatible_min_max(false);
        let mut encodings: Vec<Encoding> = self.encodings.iter().map(|stats| stats.encoding).collect();
        encodings.push(Encoding::RLE);
        let metadata = ColumnChunkMetaData::builder(descr.clone())
            .set_compression(compression)
            .set_encodings_mask(EncodingMask::new_from_encodings(encodings.iter()))
            .set_page_encoding_stats(self.encodings)
            .set_total_compressed_size(length as i64)
            .set_total_uncompressed_size(self.uncompressed)
            .set_num_values(self.rows as i64)
            .set_data_page_offset(self.data_at.unwrap_or(0))
            .set_dictionary_page_offset(self.dictionary_at)
            .set_statistics(Statistics::ByteArray(statistics))
            .set_unencoded_byte_array_data_bytes(Some(self.bytes))
            .set_definition_level_histogram(self.levels)
            .build()?;
        let mut index = self.index;
        index.set_boundary_order(match (self.ascending, self.descending) {
            (true, _) => BoundaryOrder::ASCENDING,
            (false, true) => BoundaryOrder::DESCENDING,
            (false, false) => BoundaryOrder::UNORDERED,
        });
        let close = ColumnCloseResult {
            bytes_written: length as u64,
            rows_written: self.rows,
            metadata,
            bloom_filter: bloom,
            column_index: Some(index.build()?),
            offset_index: Some(self.offsets.build()),
        };
        Ok((self.pages.into_inner()?.into(), close))
    }
}

/// Bounds of a page for the column index.
fn bounds(least: &[u8], greatest: &[u8], length: Option<usize>) -> (Vec<u8>, Vec<u8>) {
    let whole = (least.to_vec(), greatest.to_vec());
    let (Some(length), Ok(least), Ok(greatest)) = (length, std::str::from_utf8(least), std::str::from_utf8(greatest)) else {
        return whole;
    };
    (truncate::lower(least, length).as_bytes().to_vec(), truncate::upper(greatest, length).into_bytes())
}
