//! Unit tests of models: given rows, expected rows, nothing stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::RecordBatch,
    compute::concat_batches,
    datatypes::{Schema, SchemaRef},
    json::ReaderBuilder,
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::datasource::MemTable;
use lakehouse_api::pipeline::{ModelTest, TestRow};
use lakehouse_contract::{Interval, IntervalGrain, Reason, ResolvedGold, StageFailure, TableRef};
use lakehouse_tables::conform;

use crate::{
    Engine, SqlError,
    check::{Unchecked, checked},
    failure::{sql_failure, table_failure},
    models::{Model, plan},
    schema::table_schema,
};

/// What a test found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tested {
    /// The model.
    pub model: TableRef,
    /// Name of the test.
    pub name: String,
    /// Why it did not pass; none: it did.
    pub fault: Option<Fault>,
}

/// Why a test did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The test or the query cannot be executed.
    Failed(String),
    /// The query gave other rows; each is shown as `column=value, …`.
    Differs {
        /// Expected, and not among the rows.
        missing: Vec<String>,
        /// Among the rows, and not expected.
        unexpected: Vec<String>,
    },
}

/// Runs `tests`, each of one of `definitions`, whose own `read_start` does not matter. A table that a model reads has the rows that the test
/// gives, or none. Rows are compared as a multiset, by the columns that the test expects.
///
/// # Errors
/// What [`crate::check_models`] says: tests of definitions that are wrong are not run.
pub async fn test_models(
    definitions: &[ResolvedGold],
    tests: &[(TableRef, ModelTest)],
    tables: &BTreeMap<TableRef, SchemaRef>,
    grain: IntervalGrain,
    interval: &Interval,
) -> Result<Vec<Tested>, StageFailure> {
    let engine = Engine::new().map_err(|error| StageFailure::new(error.reason(), error))?;
    let checked = checked(&engine, definitions, tables, interval).await?;
    let mut schemas = tables.clone();
    schemas.extend(checked.known.iter().map(|(model, schema)| (model.table.clone(), schema.clone())));
    let mut tested = Vec::with_capacity(tests.len());
    for (table, test) in tests {
        let model = checked.known.iter().map(|(model, _)| model).find(|model| model.table == *table);
        let fault = match model {
            Some(model) => outcome(model, test, &schemas, grain).await.err(),
            None => Some(Fault::Failed(not_checked(&checked.unchecked, table))),
        };
        tested.push(Tested { model: table.clone(), name: test.name.clone(), fault });
    }
    Ok(tested)
}

fn not_checked(unchecked: &[Unchecked], table: &TableRef) -> String {
    match unchecked.iter().find(|unchecked| unchecked.model == *table) {
        Some(unchecked) => format!("it reads {}, which no given file defines", unchecked.reads),
        None => "there is no such model".to_owned(),
    }
}

async fn outcome(model: &Model, test: &ModelTest, schemas: &BTreeMap<TableRef, SchemaRef>, grain: IntervalGrain) -> Result<(), Fault> {
    let interval = Interval::parse(grain, &test.interval).map_err(|error| Fault::Failed(format!("interval: {error}")))?;
    let model = model.of_interval(grain, &interval);
    let engine = Engine::new().map_err(|error| Fault::Failed(error.to_string()))?;
    register(&engine, &model, test, schemas)?;
    let rows = rows(&engine, &model, &interval).await.map_err(|failure| Fault::Failed(failure.message))?;
    compare(&rows, &test.expect)
}

/// Makes the given rows visible, and every other table that the model reads empty.
fn register(engine: &Engine, model: &Model, test: &ModelTest, schemas: &BTreeMap<TableRef, SchemaRef>) -> Result<(), Fault> {
    let mut given: BTreeMap<TableRef, &Vec<TestRow>> = BTreeMap::new();
    for (name, rows) in &test.given {
        let table = name.split_once('.').map(|(namespace, name)| TableRef::new(namespace, name));
        match table.filter(|table| model.query.tables().contains(table)) {
            Some(table) => given.insert(table, rows),
            None => {
                let read = model.query.tables().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                return Err(Fault::Failed(format!("given.{name}: the model does not read it; it reads: {read}")));
            }
        };
    }
    for table in model.query.tables() {
        let Some(schema) = schemas.get(table) else { continue };
        // A test names the columns that matter to it: the others are null, required or not.
        let schema = nullable(schema);
        let rows = given.get(table).map_or(&[][..], |rows| rows);
        let batch = decode(&schema, rows).map_err(|fault| Fault::Failed(format!("given.{table}: {fault}")))?;
        let provider = MemTable::try_new(schema, vec![vec![batch]]).map_err(|error| Fault::Failed(error.to_string()))?;
        engine.register(table, Arc::new(provider)).map_err(|error| Fault::Failed(error.to_string()))?;
    }
    Ok(())
}

fn nullable(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<_>>()))
}

/// Rows of a manifest as columns; a column that a row does not have is null.
fn decode(schema: &SchemaRef, rows: &[TestRow]) -> Result<RecordBatch, String> {
    let mut batches = Vec::with_capacity(rows.len());
    for (number, row) in rows.iter().enumerate() {
        let fault = |message: String| format!("row {number}: {message}");
        let known = |name: &String| schema.field_with_name(name).is_ok();
        if let Some(stranger) = row.0.keys().find(|name| !known(name)) {
            let columns = schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
            return Err(fault(format!("there is no column {stranger}; columns: {columns}")));
        }
        let mut decoder = ReaderBuilder::new(schema.clone()).build_decoder().map_err(|error| error.to_string())?;
        decoder.serialize(std::slice::from_ref(&row.0)).map_err(|error| fault(error.to_string()))?;
        batches.extend(decoder.flush().map_err(|error| fault(error.to_string()))?);
    }
    concat_batches(schema, &batches).map_err(|error| error.to_string())
}

/// The rows as the stage would write them.
async fn rows(engine: &Engine, model: &Model, interval: &Interval) -> Result<RecordBatch, StageFailure> {
    let sql = |error: SqlError| sql_failure(&model.table, &error);
    let plan = plan(engine, model, interval).await.map_err(sql)?;
    let frame = engine.data_frame(plan);
    let schema = nullable(table_schema(frame.schema().as_arrow()).map_err(sql)?.as_ref());
    let batches = frame.collect().await.map_err(|error| sql(SqlError::of(error)))?;
    let conformed = batches.iter().map(|batch| conform(&model.table, batch, &schema)).collect::<Result<Vec<_>, _>>();
    let conformed = conformed.map_err(|error| table_failure(&error))?;
    concat_batches(&schema, &conformed).map_err(|error| StageFailure::new(Reason::Internal, error))
}

fn compare(rows: &RecordBatch, expect: &[TestRow]) -> Result<(), Fault> {
    let failed = |message: String| Fault::Failed(format!("expect: {message}"));
    let named: BTreeSet<&String> = expect.iter().flat_map(|row| row.0.keys()).collect();
    let expected = decode(&rows.schema(), expect).map_err(failed)?;
    // Nothing is expected: then every column counts.
    let columns: Vec<usize> =
        (0..rows.num_columns()).filter(|column| named.is_empty() || named.contains(rows.schema_ref().field(*column).name())).collect();
    let shown = |batch: &RecordBatch| batch.project(&columns).and_then(|batch| lines(&batch)).map_err(|error| failed(error.to_string()));
    let (mut missing, mut unexpected) = (shown(&expected)?, Vec::new());
    for row in shown(rows)? {
        match missing.iter().position(|expected| *expected == row) {
            Some(index) => drop(missing.remove(index)),
            None => unexpected.push(row),
        }
    }
    if missing.is_empty() && unexpected.is_empty() { Ok(()) } else { Err(Fault::Differs { missing, unexpected }) }
}

/// Each row as `column=value, …`.
fn lines(batch: &RecordBatch) -> Result<Vec<String>, arrow::error::ArrowError> {
    let options = FormatOptions::default().with_null("null");
    let columns: Vec<ArrayFormatter<'_>> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect::<Result<_, _>>()?;
    let names = batch.schema();
    let line = |row: usize| {
        let cells = names.fields().iter().zip(&columns).map(|(field, column)| format!("{}={}", field.name(), column.value(row)));
        cells.collect::<Vec<_>>().join(", ")
    };
    Ok((0..batch.num_rows()).map(line).collect())
}
