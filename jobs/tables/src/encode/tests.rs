use super::*;
use arrow::array::{Array, Float64Array, Int64Array, StringArray};
use arrow::compute::concat_batches;
use iceberg::io::FileIO;
use iceberg::spec::{DataFile, ListType, NestedField, PrimitiveType, Schema, Struct, Type};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::basic::{BoundaryOrder, Encoding};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::properties::WriterPropertiesBuilder;
use proptest::prelude::*;

/// How the texts of a column are made.
const KINDS: [fn(usize) -> Option<String>; 9] = [
    |row| Some(["click", "view", "", "purchase of something long"][row % 7 % 4].to_owned()),
    |row| Some(format!("{:032x}", (row as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))),
    |row| (row % 97 == 5).then(|| format!("seldom {}", row % 3)),
    |row| Some(format!("sorted {:06}", row / 40)),
    |row| Some(format!("{}{}", "long".repeat(row % 400), row % 11)),
    |_| None,
    |_| Some(String::new()),
    |row| (row > 2_500).then(|| format!("late {}", row * 7919 % 5_003)),
    |row| Some(format!("user {}", row * 7919 % 1_201)),
];

fn schema() -> IcebergSchemaRef {
    let field = |id, name: &str, kind, required| Arc::new(NestedField::new(id, name, Type::Primitive(kind), required));
    let fields = vec![
        field(1, "one", PrimitiveType::String, false),
        field(2, "n", PrimitiveType::Long, false),
        field(3, "two", PrimitiveType::String, true),
        field(4, "x", PrimitiveType::Double, false),
        field(5, "y", PrimitiveType::Float, false),
        field(6, "small", PrimitiveType::Decimal { precision: 9, scale: 2 }, false),
        field(7, "middle", PrimitiveType::Decimal { precision: 18, scale: 2 }, false),
        field(8, "large", PrimitiveType::Decimal { precision: 38, scale: 5 }, false),
        field(9, "day", PrimitiveType::Date, false),
        field(10, "at", PrimitiveType::Timestamptz, false),
        field(11, "local", PrimitiveType::Timestamp, false),
        field(12, "i", PrimitiveType::Int, false),
        field(13, "yes", PrimitiveType::Boolean, false),
    ];
    Arc::new(Schema::builder().with_fields(fields).build().unwrap())
}

fn rows(one: usize, two: usize, rows: std::ops::Range<usize>) -> RecordBatch {
    let arrow = Arc::new(schema_to_arrow_schema(&schema()).unwrap());
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter(rows.clone().map(|row| (row % 5 > 0).then_some(row as i64 * 3 - 50))));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter(rows.clone().map(KINDS[one]))),
        numbers.clone(),
        Arc::new(StringArray::from_iter_values(rows.clone().map(|row| KINDS[two](row).unwrap_or_default()))),
        Arc::new(Float64Array::from_iter(rows.map(|row| if row % 9 == 0 { f64::NAN } else { row as f64 / 7.0 }))),
    ];
    for field in &arrow.fields()[4..] {
        let days = cast(&numbers, &DataType::Int32).unwrap();
        let source = if matches!(field.data_type(), DataType::Date32) { &days } else { &numbers };
        columns.push(cast(source, field.data_type()).unwrap());
    }
    RecordBatch::try_new(arrow, columns).unwrap()
}

/// Small pages, dictionaries and row groups, so that a few rows meet every limit.
fn small() -> WriterPropertiesBuilder {
    crate::writer::properties()
        .set_data_page_row_count_limit(70)
        .set_data_page_size_limit(900)
        .set_dictionary_page_size_limit(1_500)
        .set_max_row_group_row_count(Some(2_900))
}

struct Written {
    bytes: Bytes,
    file: DataFile,
}

fn described(mut builder: DataFileBuilder) -> DataFile {
    builder.partition(Struct::empty()).partition_spec_id(0).build().unwrap()
}

async fn write(schema: IcebergSchemaRef, properties: WriterProperties, batches: &[RecordBatch]) -> Written {
    let io = FileIO::new_with_memory();
    let mut encoder = FileEncoder::new(io.new_output("memory:/own.parquet").unwrap(), schema, properties).await.unwrap();
    for batch in batches {
        encoder.write(batch).await.unwrap();
    }
    let file = described(encoder.close().await.unwrap().unwrap());
    let bytes = io.new_input("memory:/own.parquet").unwrap().read().await.unwrap();
    assert_eq!(file.file_size_in_bytes(), bytes.len() as u64);
    Written { bytes, file }
}

/// The same rows as the `iceberg` crate writes and describes them.
async fn reference(properties: WriterProperties, batches: &[RecordBatch]) -> DataFile {
    let io = FileIO::new_with_memory();
    let output = io.new_output("memory:/own.parquet").unwrap();
    let mut writer = ParquetWriterBuilder::new(properties, schema()).build(output).await.unwrap();
    for batch in batches {
        writer.write(batch).await.unwrap();
    }
    described(writer.close().await.unwrap().remove(0))
}

fn open(bytes: &Bytes) -> ParquetRecordBatchReaderBuilder<Bytes> {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required).with_encoding_stats_as_mask(false);
    ParquetRecordBatchReaderBuilder::try_new_with_options(bytes.clone(), options).unwrap()
}

fn read(builder: ParquetRecordBatchReaderBuilder<Bytes>) -> RecordBatch {
    let schema = builder.schema().clone();
    let batches: Vec<RecordBatch> = builder.build().unwrap().map(|batch| batch.unwrap()).collect();
    concat_batches(&schema, &batches).unwrap()
}

/// Holds what statistics and page index say about text column `place` against the rows.
fn check_statistics(metadata: &ParquetMetaData, place: usize, texts: &StringArray) {
    let mut from = 0;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let end = from + group.num_rows() as usize;
        let own = texts.slice(from, end - from);
        let column = group.column(place);
        let statistics = column.statistics().unwrap();
        let bytes = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
        assert_eq!(statistics.min_bytes_opt().map(<[u8]>::to_vec), bytes(own.iter().flatten().min()));
        assert_eq!(statistics.max_bytes_opt().map(<[u8]>::to_vec), bytes(own.iter().flatten().max()));
        assert_eq!(statistics.null_count_opt(), Some(own.null_count() as u64));
        assert_eq!(column.unencoded_byte_array_data_bytes(), Some(own.iter().flatten().map(str::len).sum::<usize>() as i64));
        let ColumnIndexMetaData::BYTE_ARRAY(index) = &metadata.column_index().unwrap()[number][place] else {
            panic!("the column index of texts has another type")
        };
        let pages = metadata.offset_index().unwrap()[number][place].page_locations();
        let mut ranges = Vec::new();
        for (page, location) in pages.iter().enumerate() {
            let start = location.first_row_index as usize;
            let until = pages.get(page + 1).map_or(end - from, |next| next.first_row_index as usize);
            let own = own.slice(start, until - start);
            assert_eq!(index.null_count(page), Some(own.null_count() as i64));
            assert_eq!(index.is_null_page(page), own.null_count() == own.len());
            let Some((least, greatest)) = own.iter().flatten().min().zip(own.iter().flatten().max()) else { continue };
            let (lower, upper) = (index.min_value(page).unwrap(), index.max_value(page).unwrap());
            assert!(lower <= least.as_bytes() && greatest.as_bytes() <= upper);
            assert!(least.len() > 64 || lower == least.as_bytes());
            assert!(greatest.len() > 64 || upper == greatest.as_bytes());
            ranges.push((least.to_owned(), greatest.to_owned()));
        }
        let rises = ranges.windows(2).all(|two| two[0].0 <= two[1].0 && two[0].1 <= two[1].1);
        let falls = ranges.windows(2).all(|two| two[0].0 >= two[1].0 && two[0].1 >= two[1].1);
        let expected = match (rises, falls) {
            (true, _) => BoundaryOrder::ASCENDING,
            (_, true) => BoundaryOrder::DESCENDING,
            _ => BoundaryOrder::UNORDERED,
        };
        assert_eq!(metadata.column_index().unwrap()[number][place].get_boundary_order(), Some(expected));
        from = end;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn rows_come_back_with_true_statistics(
        one in 0..KINDS.len(),
        two in 0..KINDS.len(),
        batches in prop::collection::vec(1_usize..1_500, 1..5),
        skip in 0_usize..3_000,
    ) {
        let mut next = 0;
        let batches: Vec<RecordBatch> = batches.iter().map(|count| { next += count; rows(one, two, next - count..next) }).collect();
        let all = concat_batches(&batches[0].schema(), &batches).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let written = runtime.block_on(write(schema(), small().build(), &batches));
        prop_assert_eq!(&read(open(&written.bytes)), &all);
        // By the offset index, which readers that skip pages go by.
        let skip = skip.min(next - 1);
        let selection = RowSelection::from(vec![RowSelector::skip(skip), RowSelector::select((next - skip).min(9))]);
        prop_assert_eq!(read(open(&written.bytes).with_row_selection(selection)), all.slice(skip, (next - skip).min(9)));
        let reader = open(&written.bytes);
        check_statistics(reader.metadata(), 0, all.column(0).as_string());
        check_statistics(reader.metadata(), 2, all.column(2).as_string());
        let other = runtime.block_on(reference(small().build(), &batches));
        prop_assert_eq!(written.file.record_count(), other.record_count());
        prop_assert_eq!(written.file.value_counts(), other.value_counts());
        prop_assert_eq!(written.file.null_value_counts(), other.null_value_counts());
        prop_assert_eq!(written.file.nan_value_counts(), other.nan_value_counts());
        prop_assert_eq!(written.file.lower_bounds(), other.lower_bounds());
        prop_assert_eq!(written.file.upper_bounds(), other.upper_bounds());
    }
}

/// Encodings of the data pages of a column in the first row group.
fn encodings(written: &Written, place: usize) -> Vec<Encoding> {
    let reader = open(&written.bytes);
    let pages = reader.metadata().row_group(0).column(place).page_encoding_stats().unwrap().clone();
    pages.iter().map(|stats| stats.encoding).collect()
}

#[tokio::test]
async fn texts_that_repeat_get_a_dictionary_and_others_get_none() {
    let batches: Vec<RecordBatch> = (0..5).map(|batch| rows(1, 8, batch * 10_000..batch * 10_000 + 10_000)).collect();
    let written = write(schema(), crate::writer::properties().build(), &batches).await;
    let other = reference(crate::writer::properties().build(), &batches).await;
    assert_eq!(encodings(&written, 0), [Encoding::PLAIN]);
    assert_eq!(encodings(&written, 2), [Encoding::PLAIN, Encoding::RLE_DICTIONARY], "the dictionary itself, then its numbers");
    assert!(written.file.file_size_in_bytes() <= other.file_size_in_bytes() / 100 * 102, "{:?} {other:?}", written.file);
    let late = write(schema(), small().build(), &[rows(7, 0, 0..2_800)]).await;
    assert_eq!(
        encodings(&late, 0),
        [Encoding::PLAIN, Encoding::RLE_DICTIONARY, Encoding::PLAIN],
        "the dictionary is full after some pages"
    );
}

#[tokio::test]
async fn types_of_other_writers_are_left_to_the_iceberg_crate() {
    let element = Arc::new(NestedField::list_element(2, Type::Primitive(PrimitiveType::String), false));
    let list = NestedField::new(1, "tags", Type::List(ListType::new(element)), false);
    let schema = Arc::new(Schema::builder().with_fields(vec![Arc::new(list)]).build().unwrap());
    let arrow = Arc::new(schema_to_arrow_schema(&schema).unwrap());
    let DataType::List(item) = arrow.field(0).data_type() else { panic!("not a list: {arrow}") };
    let values: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("c")]));
    let offsets = arrow::buffer::OffsetBuffer::from_lengths([2, 0, 1]);
    let list = arrow::array::ListArray::new(item.clone(), offsets, values, None);
    let batch = RecordBatch::try_new(arrow, vec![Arc::new(list)]).unwrap();
    let written = write(schema, crate::writer::properties().build(), std::slice::from_ref(&batch)).await;
    assert_eq!(read(open(&written.bytes)).column(0), batch.column(0));
}

#[tokio::test]
async fn a_file_without_rows_is_not_made() {
    let io = FileIO::new_with_memory();
    let output = io.new_output("memory:/none.parquet").unwrap();
    let mut encoder = FileEncoder::new(output, schema(), crate::writer::properties().build()).await.unwrap();
    encoder.write(&rows(0, 0, 0..0)).await.unwrap();
    assert!(encoder.close().await.unwrap().is_none());
    assert!(!io.exists("memory:/none.parquet").await.unwrap());
}

#[tokio::test]
async fn a_bloom_filter_holds_every_value_and_few_others() {
    let table =
        HashMap::from(["one", "two", "n"].map(|column| (format!("write.parquet.bloom-filter-enabled.column.{column}"), "true".to_owned())));
    let properties = crate::blooms::applied(&crate::blooms::of(&table, &schema()), small()).build();
    // Texts in a dictionary, texts after a full dictionary, and texts that never had one.
    for (one, two) in [(8, 1), (7, 0), (3, 2)] {
        let all = rows(one, two, 0..5_000);
        let written = write(schema(), properties.clone(), std::slice::from_ref(&all)).await;
        let reader = open(&written.bytes);
        let mut from = 0;
        for (number, group) in reader.metadata().row_groups().iter().enumerate() {
            let own = all.slice(from, group.num_rows() as usize);
            from += own.num_rows();
            for place in [0, 2] {
                let bloom = reader.get_row_group_column_bloom_filter(number, place).unwrap().unwrap();
                assert!(own.column(place).as_string::<i32>().iter().flatten().all(|text| bloom.check(text)), "{one} {two} {place}");
                let wrong = (0..1_000).filter(|other| bloom.check(format!("no such text {other}").as_str())).count();
                assert!(wrong < 40, "{wrong} of 1,000 texts that are not there");
            }
            let numbers = reader.get_row_group_column_bloom_filter(number, 1).unwrap().unwrap();
            assert!(own.column(1).as_primitive::<arrow::datatypes::Int64Type>().iter().flatten().all(|value| numbers.check(&value)));
            assert!(group.column(3).bloom_filter_offset().is_none(), "nobody asked for one");
        }
        assert_eq!(read(open(&written.bytes)), all);
    }
}
