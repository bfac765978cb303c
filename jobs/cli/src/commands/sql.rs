//! `lakehouse sql`: one read-only query over the tables.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{array::RecordBatch, datatypes::SchemaRef, util::pretty::pretty_format_batches};
use clap::{Args, ValueEnum};
use futures::TryStreamExt;
use lakehouse_contract::TableRef;
use lakehouse_gold::{Engine, NAMESPACES, SqlError};
use lakehouse_tables::Tables;

use super::run::pair;
use crate::{CliError, place::PlaceArguments, print};

/// Options of `sql`.
#[derive(Debug, Args)]
pub struct SqlArguments {
    /// The query, such as "select * from gold.daily_sales"; also SHOW TABLES, DESCRIBE and EXPLAIN.
    query: String,
    /// How rows are written.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Read a table as of a snapshot (Iceberg), version (Delta) or generation (Parquet), or from an Iceberg branch or tag, such as
    /// silver.orders=audit-2024-01-02T00:00:00Z; may be given several times.
    #[arg(long, value_name = "TABLE=SNAPSHOT", value_parser = pair)]
    at: Vec<(String, String)>,
    #[command(flatten)]
    place: PlaceArguments,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Drawn with `|`.
    Table,
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object per line.
    Json,
}

/// Plans and runs the query, and prints its rows.
///
/// # Errors
/// [`CliError::Sql`] in one line, or what the store or catalog say.
pub async fn run(arguments: SqlArguments) -> Result<(), CliError> {
    let engine = Engine::new()?;
    let query = engine.parse(&arguments.query)?;
    let tables = arguments.place.tables().await?;
    let at: BTreeMap<String, String> = arguments.at.into_iter().collect();
    if let Some(stranger) = at.keys().find(|name| !query.tables().iter().any(|table| table.to_string() == **name)) {
        return Err(CliError::Invalid(format!("--at {stranger}: the query does not read this table")));
    }
    register(&engine, &tables, query.tables().iter().cloned().collect(), query.reads_information(), &at).await?;
    let stream = engine.stream(&query).await?;
    let schema = stream.schema();
    let batches: Vec<RecordBatch> = stream.map_err(SqlError::from).try_collect().await?;
    let text = match arguments.format {
        Format::Table => table(&schema, batches)?,
        Format::Csv => csv(&schema, &batches)?,
        Format::Json => json(&batches)?,
    };
    print(&text)
}

/// Registers the tables that a query reads; all of them where it asks what there is, or where one does not exist, so that an error can list them.
async fn register(
    engine: &Engine,
    tables: &Tables,
    read: Vec<TableRef>,
    mut all: bool,
    at: &BTreeMap<String, String>,
) -> Result<(), CliError> {
    for table in read {
        let snapshot = at.get(&table.to_string()).map(String::as_str);
        match tables.open_table(&table).await? {
            Some(open) => engine.register(&table, open.provider(snapshot).await?)?,
            None => all = true,
        }
    }
    if all {
        for namespace in NAMESPACES {
            for table in tables.list(namespace).await? {
                if let Some(open) = tables.open_table(&table).await? {
                    engine.register(&table, open.provider(None).await?)?;
                }
            }
        }
    }
    Ok(())
}

fn table(schema: &SchemaRef, mut batches: Vec<RecordBatch>) -> Result<String, CliError> {
    if batches.is_empty() {
        batches.push(RecordBatch::new_empty(Arc::clone(schema)));
    }
    Ok(format!("{}\n", pretty_format_batches(&batches)?))
}

fn csv(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let mut writer = arrow::csv::Writer::new(&mut bytes);
    writer.write(&RecordBatch::new_empty(Arc::clone(schema)))?;
    for batch in batches {
        writer.write(batch)?;
    }
    drop(writer);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn json(batches: &[RecordBatch]) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let mut writer = arrow::json::LineDelimitedWriter::new(&mut bytes);
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    drop(writer);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
