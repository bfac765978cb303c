//! Definitions against existing tables: owners, added columns, refused changes, and snapshots of the past.

use crate::common::*;
use arrow::datatypes::{DataType, Field, Schema};
use lakehouse_tables::{TableFormat, WriteMode};
use std::sync::Arc;

const FORMATS: [TableFormat; 3] = [TableFormat::Iceberg, TableFormat::Parquet, TableFormat::Delta];

fn fields() -> Vec<Field> {
    schema().fields().iter().map(|field| field.as_ref().clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_pipeline_is_refused_by_name() {
    for format in FORMATS {
        let lake = lake().await;
        let mut definition = definition("t");
        definition.format = format;
        lake.tables.ensure(&definition).await.unwrap();
        definition.owner = "default/other".to_owned();
        let text = lake.tables.ensure(&definition).await.unwrap_err().to_string();
        assert_eq!(text, "TableOwnedByOther: table silver.t belongs to pipeline default/crypto, not to default/other");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn added_columns_are_null_in_older_rows_and_in_older_snapshots() {
    for format in FORMATS {
        let lake = lake().await;
        let mut definition = definition("t");
        definition.format = format;
        let table = lake.tables.ensure(&definition).await.unwrap();
        let first = write(&table, rows(&[(1, 0, 1, Some("eu"))]), &commit_of("1", day(1), replace())).await.unwrap();
        let mut extended = vec![Field::new("note", DataType::Utf8, true)];
        extended.extend(fields());
        definition.schema = Arc::new(Schema::new(extended));
        let table = lake.tables.ensure(&definition).await.unwrap();
        write(&table, rows(&[(2, 24, 2, None)]), &commit_of("2", day(2), replace())).await.unwrap();
        assert_eq!(query(&table, "SELECT id, note, region FROM t").await, ["1 | null | eu", "2 | null | null"], "{format}");
        assert_eq!(query(&table, "SELECT id FROM t WHERE note IS NULL AND id = 1").await, ["1"]);
        assert!(query(&table, "SELECT id FROM t WHERE note = 'x'").await.is_empty());
        assert_eq!(query_at(&table, Some(&first.snapshot), "SELECT id, note FROM t").await, ["1 | null"], "{format}");
        // The old definition still lacks the column now.
        definition.schema = schema();
        let text = lake.tables.ensure(&definition).await.unwrap_err().to_string();
        assert!(text.contains("silver.t") && text.contains("column note of the table is not in the definition"), "{text}");
        assert!(table.provider(Some("12345")).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_changes_are_refused_with_table_and_column() {
    for format in FORMATS {
        let lake = lake().await;
        let mut definition = definition("t");
        definition.format = format;
        lake.tables.ensure(&definition).await.unwrap();
        let mut retyped = fields();
        retyped[3] = Field::new("region", DataType::Int64, true);
        let mut required = fields();
        required.push(Field::new("must", DataType::Int64, false));
        let mut unknown = fields();
        unknown.push(Field::new("odd", DataType::UInt8, true));
        for (changed, expected) in [
            (retyped, "column region is string, the definition says long"),
            (required, "new column must is required"),
            (unknown, "column odd has type UInt8"),
        ] {
            let mut changed_definition = definition.clone();
            changed_definition.schema = Arc::new(Schema::new(changed));
            let text = lake.tables.ensure(&changed_definition).await.unwrap_err().to_string();
            assert!(text.contains("table silver.t") && text.contains(expected), "{text}");
        }
        definition.partition_by = vec!["region".parse().unwrap()];
        let text = lake.tables.ensure(&definition).await.unwrap_err().to_string();
        let expected = "table silver.t cannot become what the definition says: it has the partitions [], the definition says [region]";
        assert!(text.starts_with(expected), "{text}");
        definition.format = if format == TableFormat::Iceberg { TableFormat::Parquet } else { TableFormat::Iceberg };
        let text = lake.tables.ensure(&definition).await.unwrap_err().to_string();
        assert!(text.contains("it has the format"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_partition_transform_is_recognised_again() {
    for format in [TableFormat::Iceberg, TableFormat::Parquet] {
        let lake = lake().await;
        for (number, text) in
            ["region", "year(at)", "month(at)", "day(at)", "hour(at)", "bucket(16, id)", "truncate(4, region)"].iter().enumerate()
        {
            let mut definition = definition(&format!("t{number}"));
            definition.format = format;
            definition.partition_by = vec![text.parse().unwrap()];
            let table = lake.tables.ensure(&definition).await.unwrap();
            write(&table, rows(&[(1, 0, 1, Some("europe")), (2, 1, 1, None)]), &commit_of("1", day(1), replace())).await.unwrap();
            let again = lake.tables.ensure(&definition).await.unwrap();
            assert_eq!(query(&again, "SELECT id FROM t").await, ["1", "2"], "{format} {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_that_readers_see_is_the_defined_one() {
    for format in FORMATS {
        let lake = lake().await;
        let mut definition = definition("t");
        definition.format = format;
        let table = lake.tables.ensure(&definition).await.unwrap();
        assert_eq!(table.schema().await.unwrap(), schema());
        assert_eq!(table.provider(None).await.unwrap().schema(), schema());
        assert!(read(&table).await.is_empty());
        assert_eq!(table.snapshot().await.unwrap(), None);
        assert_eq!(table.find_commit("x").await.unwrap(), None);
        let missing = lakehouse_contract::TableRef::new("silver", "missing");
        assert!(lake.tables.open_table(&missing).await.unwrap().is_none());
        write(&table, rows(&[(1, 0, 1, None)]), &commit_of("1", day(1), WriteMode::Append)).await.unwrap();
        assert_eq!(query(&table, "SELECT at FROM t WHERE at >= TIMESTAMP '2024-01-01T00:00:00Z'").await, ["2024-01-01T00:00:00Z"]);
    }
}
