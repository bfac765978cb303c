//! Bloom filters of the files of an Iceberg table, as the table's own properties ask for them.
//!
//! The names and defaults are Iceberg's (<https://iceberg.apache.org/docs/latest/configuration/#write-properties>), so a table that another
//! program set up is gone on with. A filter says of a row group that it has no row with some value, which the least and greatest value of
//! a column of random keys cannot.

use iceberg::spec::{PrimitiveType, Schema};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{DEFAULT_MAX_ROW_GROUP_ROW_COUNT, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use std::collections::HashMap;

/// Before a column's name: `true` for a filter in every file from now on.
const ENABLED: &str = "write.parquet.bloom-filter-enabled.column.";
/// Before a column's name: how often the filter may say yes wrongly.
const WRONG: &str = "write.parquet.bloom-filter-fpp.column.";
/// Largest filter of a row group, in bytes.
const MOST_BYTES: &str = "write.parquet.bloom-filter-max-bytes";

const DEFAULT_WRONG: f64 = 0.01;
const DEFAULT_MOST_BYTES: usize = 1024 * 1024;

/// A filter on a column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bloom {
    /// Its name.
    column: String,
    /// The share of values that are not there for which it may say yes.
    wrong: f64,
    /// Distinct values for which it begins; it is folded to what those of the row group need.
    distinct: u64,
}

/// The filters that `properties` of a table with this schema ask for. Columns that it does not have (any more) and those of booleans have
/// none; a share or size that is no such number is the default, as the files are right without it.
pub(crate) fn of(properties: &HashMap<String, String>, schema: &Schema) -> Vec<Bloom> {
    let bytes = properties.get(MOST_BYTES).and_then(|text| text.parse().ok()).filter(|bytes| *bytes >= 32).unwrap_or(DEFAULT_MOST_BYTES);
    let enabled =
        properties.iter().filter(|(_, value)| value.eq_ignore_ascii_case("true")).filter_map(|(key, _)| key.strip_prefix(ENABLED));
    let mut blooms: Vec<Bloom> = enabled
        .filter(|column| {
            let kind = schema.field_by_name(column).and_then(|field| field.field_type.as_primitive_type());
            kind.is_some_and(|kind| *kind != PrimitiveType::Boolean)
        })
        .map(|column| {
            let wrong = properties.get(&format!("{WRONG}{column}")).and_then(|text| text.parse().ok());
            let wrong = wrong.filter(|share| *share > 0.0 && *share < 1.0).unwrap_or(DEFAULT_WRONG);
            Bloom { column: column.to_owned(), wrong, distinct: most_distinct(bytes, wrong) }
        })
        .collect();
    blooms.sort_by(|one, other| one.column.cmp(&other.column));
    blooms
}

/// How many distinct values a filter of at most `bytes` (of which a power of two is used) holds, up to the rows of a row group.
fn most_distinct(bytes: usize, wrong: f64) -> u64 {
    let bytes = 1_usize << bytes.min(128 << 20).ilog2();
    // Eight bits of a value in each block, as the specification of the split block filter has it.
    let bits_per_value = -8.0 / (1.0 - wrong.powf(1.0 / 8.0)).ln();
    ((bytes * 8) as f64 / bits_per_value).clamp(1.0, DEFAULT_MAX_ROW_GROUP_ROW_COUNT as f64) as u64
}

/// Files with these filters.
pub(crate) fn applied(blooms: &[Bloom], builder: WriterPropertiesBuilder) -> WriterPropertiesBuilder {
    blooms.iter().fold(builder, |builder, bloom| {
        let path = ColumnPath::new(vec![bloom.column.clone()]);
        builder.set_column_bloom_filter_fpp(path.clone(), bloom.wrong).set_column_bloom_filter_ndv(path, bloom.distinct)
    })
}

/// Filters on the columns that have one in a file, for the file that takes its place.
pub(crate) fn kept(file: &ParquetMetaData, builder: WriterPropertiesBuilder) -> WriterPropertiesBuilder {
    let columns = file.row_groups().iter().flat_map(|group| group.columns());
    columns.filter(|column| column.bloom_filter_offset().is_some()).fold(builder, |builder, column| {
        let (path, distinct) = (column.column_path().clone(), most_distinct(DEFAULT_MOST_BYTES, DEFAULT_WRONG));
        builder.set_column_bloom_filter_fpp(path.clone(), DEFAULT_WRONG).set_column_bloom_filter_ndv(path, distinct)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceberg::spec::{NestedField, Type};
    use std::sync::Arc;

    #[test]
    fn properties_of_iceberg_name_the_columns() {
        let field = |id, name: &str, kind| Arc::new(NestedField::optional(id, name, Type::Primitive(kind)));
        let fields =
            vec![field(1, "id", PrimitiveType::Long), field(2, "name", PrimitiveType::String), field(3, "yes", PrimitiveType::Boolean)];
        let schema = Schema::builder().with_fields(fields).build().unwrap();
        let asked = |pairs: &[(&str, &str)]| {
            let properties = pairs.iter().map(|(key, value)| (format!("write.parquet.bloom-filter-{key}"), (*value).to_owned())).collect();
            let blooms = of(&properties, &schema);
            blooms.into_iter().map(|bloom| (bloom.column, bloom.wrong, bloom.distinct)).collect::<Vec<_>>()
        };
        assert_eq!(asked(&[]), []);
        let all = ["id", "name", "yes", "gone"].map(|column| format!("enabled.column.{column}"));
        let pairs: Vec<(&str, &str)> = all.iter().map(|key| (key.as_str(), "true")).collect();
        let full = most_distinct(DEFAULT_MOST_BYTES, DEFAULT_WRONG);
        assert_eq!(asked(&pairs), [("id".to_owned(), 0.01, full), ("name".to_owned(), 0.01, full)]);
        assert!((800_000..900_000).contains(&full), "{full} keys in a mebibyte");
        let some = [("enabled.column.id", "TRUE"), ("enabled.column.name", "false"), ("fpp.column.id", "0.5"), ("max-bytes", "40")];
        let few = most_distinct(32, 0.5);
        assert_eq!(asked(&some), [("id".to_owned(), 0.5, few)]);
        assert!((40..200).contains(&few), "{few} keys in 32 bytes, half of the others found too");
        let wrong = [("enabled.column.id", "true"), ("fpp.column.id", "2"), ("max-bytes", "much")];
        assert_eq!(asked(&wrong), [("id".to_owned(), 0.01, full)]);
    }
}
