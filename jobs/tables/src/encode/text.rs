//! A text column of a Parquet file: dictionary first, PLAIN once that does not pay, with the statistics of every page.
//!
//! What it writes is what the `parquet` crate's own writer would, data pages of version 1 included; it is faster by looking at a text once
//! per page and not once per row where texts repeat, and by comparing words where that one compares bytes. Page sizes, row counts and the
//! dictionary's size follow the same [`WriterProperties`].

use super::chunk::{Chunk, Facts};
use super::codec::Codec;
use super::dictionary::Dictionary;
use super::ends::{Ends, compare};
use super::hybrid;
use arrow::array::{Array, BooleanBufferBuilder, StringArray};
use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{CompressedPage, Page};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::Result;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnDescPtr;

/// Texts of a chunk before a dictionary that does not pay is given up: fewer say little about the rest.
const JUDGED: usize = 2_000;

/// Limits of pages, from the properties of the file.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Rows of a page.
    rows: usize,
    /// Bytes of a page in PLAIN encoding after which it takes no further text.
    bytes: usize,
    /// Bytes of a dictionary.
    dictionary: usize,
}

/// Encodes one flat text column, one column chunk after the other.
pub(super) struct TextColumn {
    descr: ColumnDescPtr,
    compression: Compression,
    limits: Limits,
    bounds: Option<usize>,
    /// How large a Bloom filter begins, in distinct values, and how often it may say yes wrongly.
    filter: Option<(u64, f64)>,
    // Of the present chunk:
    dictionary: Dictionary,
    encoding: Mode,
    /// Pages that wait for the dictionary, which stands before them.
    waiting: Vec<CompressedPage>,
    waiting_bytes: usize,
    /// What the rows in dictionary pages would take in PLAIN encoding, and what they take there without the dictionary, in bytes.
    weighed: Weighed,
    chunk: Chunk,
    page: Rows,
    bloom: Option<Sbbf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Dictionary,
    Plain,
}

#[derive(Clone, Copy, Debug, Default)]
struct Weighed {
    texts: usize,
    plain: usize,
    numbers: usize,
}

/// Rows of the page that is being filled.
struct Rows {
    /// One bit per row.
    present: BooleanBufferBuilder,
    nulls: usize,
    texts: usize,
    /// Bytes of the texts, without their lengths.
    bytes: usize,
    /// With a dictionary: the number of each text.
    numbers: Vec<u32>,
    /// Without: the texts in PLAIN encoding.
    plain: Vec<u8>,
    /// Places in `plain` of the least and of the greatest text.
    range: Option<(Place, Place)>,
}

type Place = (usize, Ends);

impl TextColumn {
    /// A column of a file with these properties, whose compression is that of the codec that the pages come to.
    ///
    /// # Errors
    /// A Bloom filter that says yes wrongly always.
    pub(super) fn new(descr: ColumnDescPtr, properties: &WriterProperties) -> Result<Self> {
        let path = descr.path();
        let filter = properties.bloom_filter_properties(path).map(|filter| (filter.ndv, filter.fpp));
        let mut column = Self {
            compression: properties.compression(path),
            limits: Limits {
                rows: properties.data_page_row_count_limit(),
                bytes: properties.column_data_page_size_limit(path),
                dictionary: properties.column_dictionary_page_size_limit(path),
            },
            bounds: properties.column_index_truncate_length(),
            filter,
            dictionary: Dictionary::new(properties.column_dictionary_page_size_limit(path)),
            encoding: Mode::Dictionary,
            waiting: Vec::new(),
            waiting_bytes: 0,
            weighed: Weighed::default(),
            chunk: Chunk::new(&descr),
            page: Rows::new(),
            bloom: None,
            descr,
        };
        column.begin()?;
        Ok(column)
    }

    fn begin(&mut self) -> Result<()> {
        self.bloom = self.filter.map(|(distinct, wrong)| Sbbf::new_with_ndv_fpp(distinct, wrong)).transpose()?;
        self.encoding = Mode::Dictionary;
        self.weighed = Weighed::default();
        Ok(())
    }

    /// Adds rows.
    pub(super) fn write(&mut self, texts: &StringArray, codec: &mut Codec) -> Result<()> {
        let mut from = 0;
        while from < texts.len() {
            let to = texts.len().min(from + self.limits.rows - self.page.rows());
            let until = match self.encoding {
                Mode::Dictionary => self.page.number(texts, from, to, &mut self.dictionary),
                Mode::Plain => self.page.copy(texts, from, to, self.limits.bytes, self.bloom.as_mut()),
            };
            self.page.mark(texts, from, until);
            if self.encoding == Mode::Dictionary && until < to {
                self.give_up(codec)?;
            } else if self.page.rows() >= self.limits.rows || self.page.plain.len() >= self.limits.bytes {
                self.close_page(JUDGED, codec)?;
            }
            from = until;
        }
        Ok(())
    }

    /// Closes the chunk and begins the next one: its bytes, which begin with its first page, and what the file has to know of them.
    pub(super) fn finish(&mut self, codec: &mut Codec) -> Result<(Bytes, ColumnCloseResult)> {
        if self.page.rows() > 0 {
            self.close_page(0, codec)?;
        }
        if self.encoding == Mode::Dictionary {
            self.flush_dictionary(codec)?;
        }
        let bloom = self.bloom.take().zip(self.filter).map(|(mut bloom, (_, wrong))| {
            bloom.fold_to_target_fpp(wrong);
            bloom
        });
        let chunk = std::mem::replace(&mut self.chunk, Chunk::new(&self.descr));
        let closed = chunk.finish(&self.descr, self.compression, bloom)?;
        self.begin()?;
        Ok(closed)
    }

    /// Size of the chunk as far as it is known, in bytes.
    pub(super) fn estimated_bytes(&self) -> usize {
        let dictionary = if self.encoding == Mode::Dictionary { self.dictionary.bytes() } else { 0 };
        self.chunk.bytes() + self.waiting_bytes + dictionary + self.page.plain.len() + self.numbers_bytes()
    }

    /// About what the numbers of the present page will take.
    fn numbers_bytes(&self) -> usize {
        (self.page.numbers.len() * self.dictionary.width() as usize).div_ceil(8)
    }

    /// Whether the dictionary and numbers take noticeably less than the texts, all pages of the chunk so far and the present one together.
    fn dictionary_pays(&self) -> bool {
        let plain = self.weighed.plain + self.page.bytes + 4 * self.page.texts;
        let coded = self.dictionary.bytes() + self.weighed.numbers + self.numbers_bytes();
        coded < plain - plain / 10
    }

    /// The dictionary takes no further text.
    fn give_up(&mut self, codec: &mut Codec) -> Result<()> {
        if self.waiting.is_empty() && !self.dictionary_pays() {
            self.make_plain();
        } else if self.page.rows() > 0 {
            self.put_page(codec)?;
        }
        if self.encoding == Mode::Dictionary {
            self.flush_dictionary(codec)?;
        }
        Ok(())
    }

    /// Ends the present page. With at least `judged` texts in the chunk, a dictionary that does not pay is given up.
    fn close_page(&mut self, judged: usize, codec: &mut Codec) -> Result<()> {
        let hopeless = self.encoding == Mode::Dictionary && self.weighed.texts + self.page.texts >= judged && !self.dictionary_pays();
        if hopeless && self.waiting.is_empty() {
            self.make_plain();
        }
        self.put_page(codec)?;
        if hopeless && self.encoding == Mode::Dictionary {
            self.flush_dictionary(codec)?;
        }
        Ok(())
    }

    /// Takes the texts of the present page, the only one, out of the dictionary, which is forgotten.
    fn make_plain(&mut self) {
        let numbers = std::mem::take(&mut self.page.numbers);
        self.page.plain.reserve(self.page.bytes + 4 * numbers.len());
        for number in &numbers {
            self.page.put(self.dictionary.text(*number));
        }
        if let Some(bloom) = &mut self.bloom {
            self.dictionary.texts().for_each(|text| bloom.insert(text));
        }
        self.dictionary = Dictionary::new(self.limits.dictionary);
        self.encoding = Mode::Plain;
    }

    fn put_page(&mut self, codec: &mut Codec) -> Result<()> {
        let (size, buf) = codec.compress(|raw| {
            if self.descr.max_def_level() > 0 {
                self.page.levels(raw);
            }
            match self.encoding {
                Mode::Plain => raw.extend_from_slice(&self.page.plain),
                Mode::Dictionary => {
                    raw.push(self.dictionary.width() as u8);
                    hybrid::encode(&self.page.numbers, self.dictionary.width(), raw);
                }
            }
        })?;
        let (encoding, range) = match self.encoding {
            Mode::Plain => (Encoding::PLAIN, self.page.range()),
            Mode::Dictionary => (Encoding::RLE_DICTIONARY, self.dictionary.range()),
        };
        self.chunk.add(&Facts { rows: self.page.rows(), nulls: self.page.nulls, bytes: self.page.bytes, range, bounds: self.bounds });
        let page = Page::DataPage {
            buf,
            num_values: self.page.rows() as u32,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let page = CompressedPage::new(page, size);
        if self.encoding == Mode::Plain {
            self.chunk.put(page)?;
        } else {
            self.weighed.numbers += size;
            self.weighed.texts += self.page.texts;
            self.weighed.plain += self.page.bytes + 4 * self.page.texts;
            self.waiting_bytes += page.compressed_size();
            self.waiting.push(page);
            self.dictionary.next_page();
        }
        self.page.clear();
        Ok(())
    }

    /// Writes the dictionary and the pages that waited for it; what follows is PLAIN.
    fn flush_dictionary(&mut self, codec: &mut Codec) -> Result<()> {
        if let Some(bloom) = &mut self.bloom {
            self.dictionary.texts().for_each(|text| bloom.insert(text));
        }
        if !self.waiting.is_empty() {
            let (size, buf) = codec.compress(|raw| raw.extend_from_slice(self.dictionary.encoded()))?;
            let (num_values, encoding) = (self.dictionary.len() as u32, Encoding::PLAIN);
            self.chunk.put(CompressedPage::new(Page::DictionaryPage { buf, num_values, encoding, is_sorted: false }, size))?;
        }
        for page in self.waiting.drain(..) {
            self.chunk.put(page)?;
        }
        self.waiting_bytes = 0;
        self.dictionary = Dictionary::new(self.limits.dictionary);
        self.encoding = Mode::Plain;
        Ok(())
    }
}

/// Reads rows of a column without looking whether they are null.
fn reader<'a>(texts: &'a StringArray) -> impl Fn(usize) -> &'a [u8] {
    let (values, offsets) = (texts.values().as_slice(), texts.value_offsets());
    move |row| &values[offsets[row] as usize..offsets[row + 1] as usize]
}

impl Rows {
    fn new() -> Self {
        let present = BooleanBufferBuilder::new(0);
        Self { present, nulls: 0, texts: 0, bytes: 0, numbers: Vec::new(), plain: Vec::new(), range: None }
    }

    fn clear(&mut self) {
        self.present.truncate(0);
        (self.nulls, self.texts, self.bytes, self.range) = (0, 0, 0, None);
        self.numbers.clear();
        self.plain.clear();
    }

    fn rows(&self) -> usize {
        self.texts + self.nulls
    }

    /// Adds the numbers of the texts in rows `from..to`, up to the first that the dictionary does not take, and returns that row or `to`.
    fn number(&mut self, texts: &StringArray, from: usize, to: usize, dictionary: &mut Dictionary) -> usize {
        let text_of = reader(texts);
        let nulls = texts.nulls().filter(|nulls| nulls.null_count() > 0);
        self.numbers.reserve(to - from);
        for row in from..to {
            if nulls.is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            let text = text_of(row);
            let Some(number) = dictionary.number_of(text) else { return row };
            self.numbers.push(number);
            self.bytes += text.len();
        }
        to
    }

    /// Adds the texts in rows `from..to` until the page has `limit` bytes, and returns the row after the last one.
    fn copy(&mut self, texts: &StringArray, from: usize, to: usize, limit: usize, mut bloom: Option<&mut Sbbf>) -> usize {
        let text_of = reader(texts);
        let nulls = texts.nulls().filter(|nulls| nulls.null_count() > 0);
        for row in from..to {
            if nulls.is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            let text = text_of(row);
            self.put(text);
            self.bytes += text.len();
            if let Some(bloom) = &mut bloom {
                bloom.insert(text);
            }
            if self.plain.len() >= limit {
                return row + 1;
            }
        }
        to
    }

    /// Adds a text in PLAIN encoding.
    #[inline]
    fn put(&mut self, text: &[u8]) {
        let ends = Ends::of(text);
        self.plain.extend_from_slice(&(text.len() as u32).to_le_bytes());
        let place = (self.plain.len(), ends);
        self.plain.extend_from_slice(text);
        let Some((least, greatest)) = self.range else {
            self.range = Some((place, place));
            return;
        };
        // Most texts are told from both by their first eight bytes.
        if ends.beginnings(least.1).is_le() && compare((text, ends), (self.at(least), least.1)).is_lt() {
            self.range = Some((place, greatest));
        } else if ends.beginnings(greatest.1).is_ge() && compare((text, ends), (self.at(greatest), greatest.1)).is_gt() {
            self.range = Some((least, place));
        }
    }

    fn at(&self, (start, ends): Place) -> &[u8] {
        &self.plain[start..start + ends.length()]
    }

    fn range(&self) -> Option<(&[u8], &[u8])> {
        self.range.map(|(least, greatest)| (self.at(least), self.at(greatest)))
    }

    /// Counts rows `from..to`, whose texts are in the page.
    fn mark(&mut self, texts: &StringArray, from: usize, to: usize) {
        let nulls = match texts.nulls().filter(|nulls| nulls.null_count() > 0) {
            None => {
                self.present.append_n(to - from, true);
                0
            }
            Some(nulls) => {
                let nulls = nulls.slice(from, to - from);
                self.present.append_buffer(nulls.inner());
                nulls.null_count()
            }
        };
        self.nulls += nulls;
        self.texts += to - from - nulls;
    }

    /// Definition levels of an optional column, with their length before them, as data pages of version 1 have them.
    fn levels(&self, out: &mut Vec<u8>) {
        let before = out.len();
        out.extend_from_slice(&[0; 4]);
        if self.nulls == 0 || self.texts == 0 {
            hybrid::run(self.rows(), self.nulls == 0, out);
        } else {
            hybrid::bits(self.present.as_slice(), out);
        }
        let length = (out.len() - before - 4) as u32;
        out[before..before + 4].copy_from_slice(&length.to_le_bytes());
    }
}
