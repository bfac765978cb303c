//! Tables that become others: identity, rows and snapshots of before, rewriting of old files, and writers at the same time.

use crate::common::*;
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use lakehouse_tables::{Change, Commit, Table, TableDef, TableFormat, WriteMode, one_stream};
use sqlx::Row;
use std::collections::BTreeMap;
use std::sync::Arc;

fn at() -> Field {
    Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false)
}

/// Columns id, at, n int, note, region.
fn before() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int32, false),
        at(),
        Field::new("n", DataType::Int32, true),
        Field::new("note", DataType::Utf8, true),
        Field::new("region", DataType::Utf8, true),
    ]))
}

/// Columns area (was region), id, at, extra (new), n: wider, in another order, without note.
fn after() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("area", DataType::Utf8, true),
        Field::new("id", DataType::Int64, false),
        at(),
        Field::new("extra", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
    ]))
}

fn old_definition(name: &str) -> TableDef {
    TableDef { schema: before(), sort_by: vec!["region".to_owned()], ..definition(name) }
}

fn new_definition(name: &str) -> TableDef {
    let mut evolved = TableDef { schema: after(), sort_by: vec!["area".to_owned()], ..definition(name) };
    evolved.declared.renamed = BTreeMap::from([("area".to_owned(), "region".to_owned())]);
    evolved.declared.dropped = vec!["note".to_owned()];
    evolved
}

/// A row by id, day of January and n.
type OfDay = (i64, i64, i64);

fn days(rows: &[OfDay]) -> ArrayRef {
    let start = time("2024-01-01T00:00:00Z").timestamp_micros();
    let times = rows.iter().map(|row| start + (row.1 - 1) * 86_400_000_000);
    Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
}

fn text(rows: &[OfDay], of: fn(i64) -> String) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(rows.iter().map(|row| of(row.0))))
}

fn old_rows(rows: &[OfDay]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.0 as i32))),
        days(rows),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.2 as i32))),
        text(rows, |id| format!("note {id}")),
        text(rows, |id| format!("r{id}")),
    ];
    RecordBatch::try_new(before(), columns).unwrap()
}

fn new_rows(rows: &[OfDay]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        text(rows, |id| format!("r{id}")),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))),
        days(rows),
        text(rows, |id| format!("x{id}")),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
    ];
    RecordBatch::try_new(after(), columns).unwrap()
}

async fn metadata(lake: &Lake, table: &str) -> serde_json::Value {
    let sql = "SELECT metadata_location FROM iceberg_tables WHERE table_name = $1";
    let row = sqlx::query(sql).bind(table).fetch_one(lake.tables.db().pool()).await.unwrap();
    let location: String = row.get(0);
    serde_json::from_slice(&std::fs::read(location.trim_start_matches("file://")).unwrap()).unwrap()
}

/// Ids of the fields of the current schema, by name.
fn ids(metadata: &serde_json::Value) -> BTreeMap<String, i64> {
    let schemas = metadata["schemas"].as_array().unwrap();
    let current = schemas.iter().find(|schema| schema["schema-id"] == metadata["current-schema-id"]).unwrap();
    let fields = current["fields"].as_array().unwrap().iter();
    fields.map(|field| (field["name"].as_str().unwrap().to_owned(), field["id"].as_i64().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_keeps_its_identity_and_its_past() {
    let lake = lake().await;
    let table = lake.tables.ensure(&old_definition("t")).await.unwrap();
    let first = write(&table, old_rows(&[(1, 1, 10), (2, 1, 20)]), &commit_of("1", day(1), replace())).await.unwrap();
    let was = metadata(&lake, "t").await;
    let plan = lake.tables.plan(&new_definition("t")).await.unwrap();
    assert!(plan.exists && plan.refused.is_empty());
    assert_eq!(
        plan.changes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "rename column region to area",
            "widen column id from int to long",
            "widen column n from int to long",
            "add column extra string",
            "drop column note",
            "move column area to the front",
        ]
    );
    assert_eq!(metadata(&lake, "t").await, was, "a plan writes nothing");
    let table = lake.tables.ensure(&new_definition("t")).await.unwrap();
    assert_eq!(table.schema().await.unwrap(), after());
    let is = metadata(&lake, "t").await;
    assert_eq!((&is["table-uuid"], &is["location"], &is["snapshots"]), (&was["table-uuid"], &was["location"], &was["snapshots"]));
    assert_eq!(is["metadata-log"].as_array().unwrap().len(), was["metadata-log"].as_array().unwrap().len() + 1, "one commit");
    assert_eq!(is["properties"]["lakehouse.sort-by"], "area");
    let (old, new) = (ids(&was), ids(&is));
    assert_eq!((new["id"], new["at"], new["n"], new["area"]), (old["id"], old["at"], old["n"], old["region"]));
    assert_eq!(new["extra"], 6);
    assert!(lake.tables.plan(&new_definition("t")).await.unwrap().changes.is_empty());
    lake.tables.ensure(&new_definition("t")).await.unwrap();
    assert_eq!(metadata(&lake, "t").await, is, "nothing is left to do");

    let huge = i64::from(i32::MAX) + 5;
    write(&table, new_rows(&[(3, 2, huge)]), &commit_of("2", day(2), replace())).await.unwrap();
    let now = ["r1 | 1 | 10 | null", "r2 | 2 | 20 | null", &format!("r3 | 3 | {huge} | x3")];
    assert_eq!(query(&table, "SELECT area, id, n, extra FROM t").await, now);
    assert_eq!(query_at(&table, Some(&first.snapshot), "SELECT area, id, n, extra FROM t").await, now[..2]);
    for (condition, rows) in [
        ("area = 'r1'", 1),
        ("area > 'r1'", 2),
        ("id = 2", 1),
        ("id >= 2", 2),
        ("n > 15", 2),
        ("n < 15", 1),
        ("extra IS NULL", 2),
        ("extra = 'x3'", 1),
    ] {
        let found = query(&table, &format!("SELECT id FROM t WHERE {condition}")).await;
        assert_eq!(found.len(), rows, "{condition}");
    }
    assert_eq!(query_at(&table, Some(&first.snapshot), "SELECT id FROM t WHERE area = 'r2' AND n = 20").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_comes_back_is_another_one() {
    let lake = lake().await;
    let table = lake.tables.ensure(&old_definition("t")).await.unwrap();
    let first = write(&table, old_rows(&[(1, 1, 10)]), &commit_of("1", day(1), replace())).await.unwrap();
    let note = ids(&metadata(&lake, "t").await)["note"];
    lake.tables.ensure(&new_definition("t")).await.unwrap();
    let mut again = new_definition("t");
    let mut fields: Vec<_> = after().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("note", DataType::Utf8, true)));
    again.schema = Arc::new(Schema::new(fields));
    let text = lake.tables.ensure(&again).await.unwrap_err().to_string();
    assert_eq!(text, "table silver.t: column note is in droppedColumns, and it is a column of the definition");
    again.declared.dropped.clear();
    let table = lake.tables.ensure(&again).await.unwrap();
    assert!(ids(&metadata(&lake, "t").await)["note"] > note);
    write(&table, new_rows(&[(3, 2, 30)]), &commit_of("2", day(2), replace())).await.unwrap();
    assert_eq!(query(&table, "SELECT id, note FROM t").await, ["1 | null", "3 | null"]);
    assert!(query(&table, "SELECT id FROM t WHERE note = 'note 1'").await.is_empty());
    // The statistics of the old column must not decide about the new one.
    assert_eq!(query_at(&table, Some(&first.snapshot), "SELECT id FROM t WHERE note IS NULL").await, ["1"]);
}

/// Old rows of two days in one file, then new ones that rewrite it.
async fn rewritten(lake: &Lake, name: &str, partition: &[&str], mode: WriteMode, first: WriteMode) -> Arc<dyn Table> {
    let with = |definition: TableDef, columns: &[&str]| TableDef {
        partition_by: columns.iter().map(|text| text.parse().unwrap()).collect(),
        ..definition
    };
    let table = lake.tables.ensure(&with(old_definition(name), partition)).await.unwrap();
    write(&table, old_rows(&[(1, 1, 10), (2, 2, 20), (3, 2, 30)]), &commit_of("1", day(1), first)).await.unwrap();
    let renamed: Vec<String> = partition.iter().map(|text| text.replace("region", "area")).collect();
    let renamed: Vec<&str> = renamed.iter().map(String::as_str).collect();
    let table = lake.tables.ensure(&with(new_definition(name), &renamed)).await.unwrap();
    write(&table, new_rows(&[(3, 2, 31)]), &commit_of("2", day(2), mode)).await.unwrap();
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn old_files_are_rewritten_right() {
    let lake = lake().await;
    let merging = || WriteMode::Merge { key: vec!["id".to_owned()], sequence_by: vec!["n".to_owned()] };
    for (number, partition) in [&[][..], &["region"], &["bucket(4, id)", "day(at)"]].into_iter().enumerate() {
        let table = rewritten(&lake, &format!("merged{number}"), partition, merging(), merging()).await;
        let rows = [
            "r1 | 1 | 2024-01-01T00:00:00Z | null | 10",
            "r2 | 2 | 2024-01-02T00:00:00Z | null | 20",
            "r3 | 3 | 2024-01-02T00:00:00Z | x3 | 31",
        ];
        assert_eq!(read(&table).await, rows, "merge, {partition:?}");
        let table = rewritten(&lake, &format!("replaced{number}"), partition, replace(), WriteMode::Append).await;
        let rows = ["r1 | 1 | 2024-01-01T00:00:00Z | null | 10", "r3 | 3 | 2024-01-02T00:00:00Z | x3 | 31"];
        assert_eq!(read(&table).await, rows, "replaceInterval, {partition:?}");
        let table = rewritten(&lake, &format!("appended{number}"), partition, WriteMode::Append, WriteMode::Append).await;
        assert_eq!(query(&table, "SELECT count(*), sum(n) FROM t").await, ["4 | 91"], "append, {partition:?}");
    }
}

/// What an old writer staged before the table became another, committed after it.
async fn overtaken(lake: &Lake, name: &str, evolved: &TableDef, mode: WriteMode) -> Result<Arc<dyn Table>, String> {
    let table = lake.tables.ensure(&old_definition(name)).await.unwrap();
    write(&table, old_rows(&[(9, 9, 90)]), &commit_of("0", day(9), WriteMode::Append)).await.unwrap();
    let commit: Commit = commit_of("1", day(1), mode);
    let staged = table.stage(vec![one_stream(vec![old_rows(&[(1, 1, 10)])])], &commit).await.unwrap();
    let table = lake.tables.ensure(evolved).await.unwrap();
    table.commit(staged, &commit).await.map(|_| table).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_on_their_way_meet_a_table_that_became_another() {
    let lake = lake().await;
    // Everything but the drop: ids decide, so the rows are right.
    for (number, mode) in [WriteMode::Append, replace(), WriteMode::Overwrite].into_iter().enumerate() {
        let name = format!("kept{number}");
        let mut evolved = new_definition(&name);
        let mut fields: Vec<_> = after().fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new("note", DataType::Utf8, true)));
        evolved.schema = Arc::new(Schema::new(fields));
        evolved.declared.dropped.clear();
        let table = overtaken(&lake, &name, &evolved, mode).await.unwrap();
        assert_eq!(query(&table, "SELECT area, id, n, extra, note FROM t WHERE id = 1").await, ["r1 | 1 | 10 | null | note 1"]);
        let table = lake.tables.ensure(&evolved).await.unwrap();
        write(&table, new_rows(&[(1, 1, 11)]), &commit_of("2", day(1), replace())).await.unwrap();
        assert_eq!(query(&table, "SELECT area, id, n, extra, note FROM t WHERE id = 1").await, ["r1 | 1 | 11 | x1 | null"]);
    }
    let error = overtaken(&lake, "dropped", &new_definition("dropped"), WriteMode::Append).await.unwrap_err();
    assert!(error.starts_with("table silver.dropped: a column was dropped while rows with it were on their way"), "{error}");
    let merging = WriteMode::Merge { key: vec!["id".to_owned()], sequence_by: vec!["at".to_owned()] };
    let error = overtaken(&lake, "merged", &new_definition("merged"), merging).await.unwrap_err();
    assert_eq!(error, "table silver.merged: column note: the table has no such column");
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_that_change_a_table_at_once_make_one_change() {
    let lake = lake().await;
    let table = lake.tables.ensure(&old_definition("t")).await.unwrap();
    write(&table, old_rows(&[(1, 1, 10)]), &commit_of("1", day(1), replace())).await.unwrap();
    let was = metadata(&lake, "t").await["metadata-log"].as_array().unwrap().len();
    let directory = lake.directory.path().to_owned();
    let writers = (0..6).map(|_| {
        let directory = directory.clone();
        tokio::spawn(async move { open(&directory).await.ensure(&new_definition("t")).await.map(drop) })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap().unwrap();
    }
    assert_eq!(metadata(&lake, "t").await["metadata-log"].as_array().unwrap().len(), was + 1);
    let table = lake.tables.ensure(&new_definition("t")).await.unwrap();
    assert_eq!(query(&table, "SELECT area, id, n, extra FROM t").await, ["r1 | 1 | 10 | null"]);
    // The older definition is refused now, whoever comes with it.
    let text = lake.tables.ensure(&old_definition("t")).await.unwrap_err().to_string();
    assert!(text.contains("column area of the table is not in the definition"), "{text}");
    assert!(text.contains("column n is long, the definition says int"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_definition_changes_nothing_and_every_reason_is_said() {
    let lake = lake().await;
    lake.tables.ensure(&old_definition("t")).await.unwrap();
    let was = metadata(&lake, "t").await;
    let mut refused = new_definition("t");
    refused.declared.renamed.clear();
    refused.declared.dropped.clear();
    refused.owner = "default/other".to_owned();
    let plan = lake.tables.plan(&refused).await.unwrap();
    let starts: Vec<&str> = plan.refused.iter().map(|reason| reason.split(':').next().unwrap()).collect();
    assert_eq!(
        starts,
        [
            "it belongs to pipeline default/crypto, not to default/other",
            "column note of the table is not in the definition",
            "column region of the table is not in the definition"
        ]
    );
    refused.owner = OWNER.to_owned();
    let text = lake.tables.ensure(&refused).await.unwrap_err().to_string();
    assert!(text.contains("column note of the table") && text.contains("column region of the table"), "{text}");
    assert_eq!(lake.tables.ensure_fits(&refused).await.unwrap_err().to_string(), text);
    assert_eq!(metadata(&lake, "t").await, was);
    let missing = lake.tables.plan(&new_definition("other")).await.unwrap();
    assert!(!missing.exists && missing.refused.is_empty() && missing.changes.is_empty());
    refused.format = TableFormat::Parquet;
    assert!(lake.tables.plan(&refused).await.unwrap().refused[0].starts_with("it has the format iceberg, the definition says parquet"));
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_tables_take_new_columns_and_another_order() {
    let lake = lake().await;
    let mut definition = old_definition("t");
    definition.format = TableFormat::Parquet;
    let table = lake.tables.ensure(&definition).await.unwrap();
    write(&table, old_rows(&[(1, 1, 10)]), &commit_of("1", day(1), replace())).await.unwrap();
    let mut fields: Vec<_> = before().fields().iter().rev().cloned().collect();
    fields.insert(1, Arc::new(Field::new("extra", DataType::Utf8, true)));
    definition.schema = Arc::new(Schema::new(fields));
    definition.sort_by = vec!["id".to_owned()];
    let changes = lake.tables.plan(&definition).await.unwrap().changes;
    assert_eq!(changes[0], Change::AddColumn { column: "extra".to_owned(), kind: "string".to_owned() });
    let table = lake.tables.ensure(&definition).await.unwrap();
    assert_eq!(table.schema().await.unwrap(), definition.schema);
    write(&table, old_rows(&[(2, 2, 20)]), &commit_of("2", day(2), replace())).await.unwrap();
    let rows = ["r1 | null | note 1 | 10 | 2024-01-01T00:00:00Z | 1", "r2 | null | note 2 | 20 | 2024-01-02T00:00:00Z | 2"];
    assert_eq!(read(&table).await, rows);
    let refused = TableDef { format: TableFormat::Parquet, ..new_definition("t") };
    let text = lake.tables.ensure(&refused).await.unwrap_err().to_string();
    for reason in ["column region cannot become area", "column id is int, the definition says long", "column note cannot be dropped"] {
        assert!(text.contains(reason), "{text}");
    }
    assert_eq!(read(&table).await, rows);
}
