//! `lakehouse quarantine replay`: records in quarantine, tried again with the definition of now.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use arrow::{array::AsArray, datatypes::Int64Type};
use clap::{Args, Subcommand};
use futures::TryStreamExt;
use lakehouse_api::{LakehousePipeline, pipeline::SilverTable};
use lakehouse_contract::{Interval, RunId, Stage, TableRef, resolve::Request};
use lakehouse_gold::{Engine, SqlError};
use lakehouse_shell::open_storage;
use lakehouse_storage::CatalogDb;
use lakehouse_tables::Tables;

use super::run::stopped;
use crate::{
    CliError,
    check::{check, faults},
    execute::{Order, Workshop, intervals, request},
    manifests::Bundle,
    place::Local,
    print,
    runs::Runs,
    secrets::Secrets,
    table::draw,
};

/// What to do with quarantined records.
#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// Try quarantined records again with the definition of now.
    ///
    /// The intervals that have records in quarantine are made anew from the bronze objects that those came from: records that pass enter the
    /// table, once, and leave the quarantine; the others stay, with the rule that they break now. Where nothing would change, nothing is
    /// committed. Killed at any point, the same command goes on.
    Replay(ReplayArguments),
}

/// Options of `quarantine replay`.
#[derive(Debug, Args)]
pub struct ReplayArguments {
    /// Manifests. Without a Lakehouse among them, a `lakehouse.yaml` beside the first is read too.
    #[arg(short, long = "file", value_name = "FILE", required = true, num_args = 1..)]
    file: Vec<PathBuf>,
    /// Folder with the tables; default `.lakehouse`.
    #[arg(long, value_name = "DIR", env = "LAKEHOUSE_LOCAL")]
    local: Option<PathBuf>,
    /// Only this silver table; may be given several times.
    #[arg(long, value_name = "NAME")]
    table: Vec<String>,
    /// Only this interval: 2024-01-01, 2024-01-01T05 (hourly), 2024-01 (monthly).
    #[arg(long, value_name = "START")]
    interval: Option<String>,
    /// Wait for another process that is at work on an interval.
    #[arg(long)]
    wait: bool,
}

/// Does what the command says.
///
/// # Errors
/// [`CliError::Faults`] before anything is written, [`CliError::Stage`], [`CliError::Busy`], [`CliError::Interrupted`].
pub async fn run(command: QuarantineCommand) -> Result<(), CliError> {
    let QuarantineCommand::Replay(arguments) = command;
    replay(arguments).await
}

/// Records of one table and interval in quarantine, by the run whose bronze objects they are from.
type Waiting = BTreeMap<(Interval, RunId), BTreeMap<String, u64>>;

async fn replay(arguments: ReplayArguments) -> Result<(), CliError> {
    let bundle = Bundle::read(&arguments.file)?;
    let found = faults(&bundle, &check(&bundle).await.verdicts);
    if !found.is_empty() {
        return Err(CliError::Faults(found));
    }
    let known: BTreeSet<&str> = bundle.pipelines.iter().flat_map(|(_, p)| p.spec.silver.iter().map(|table| table.name.as_str())).collect();
    if let Some(stranger) = arguments.table.iter().find(|name| !known.contains(name.as_str())) {
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        return Err(CliError::Invalid(format!("--table {stranger}: the files have no such silver table; they have: {known}")));
    }
    for (_, pipeline) in &bundle.pipelines {
        for table in pipeline.spec.silver.iter().filter(|table| is_overwritten(table)) {
            if arguments.table.contains(&table.name) {
                return Err(CliError::Invalid(format!("--table {0}: silver.{0} {OVERWRITTEN}", table.name)));
            }
            print(&format!("silver.{} {OVERWRITTEN}\n", table.name))?;
        }
    }
    let local = Local::open(arguments.local.as_deref())?;
    let location = local.location(None);
    let db = CatalogDb::connect(&local.catalog_uri()).await?;
    let storage = open_storage(&location)?;
    let tables = Tables::open(storage.clone(), db.clone()).await?;
    let secrets = Secrets::default();
    let workshop = Workshop { storage, catalog_uri: local.catalog_uri(), runs: Runs::open(db.clone()).await?, db, secrets };
    let mut rows = Vec::new();
    for (_, pipeline) in &bundle.pipelines {
        let name = pipeline.metadata.name.clone().unwrap_or_default();
        let lakehouse = bundle.lakehouse_of(pipeline).map_err(CliError::Invalid)?;
        for ((interval, run), counts) in waiting(&tables, pipeline, &arguments).await? {
            let order = Order {
                pipeline: &name,
                definition: &pipeline.spec,
                lakehouse: &lakehouse,
                request: Request { stages: vec![Stage::Silver], inputs_from: Some(run), ..request(&name, interval, location.clone()) },
                replay: Some(counts.keys().cloned().collect()),
                lineage: None,
                again: true,
                wait: if arguments.wait { super::run::LONG_WAIT } else { Duration::ZERO },
            };
            tokio::select! {
                finished = workshop.execute(&order) => finished?,
                () = stopped() => return Err(CliError::Interrupted),
            };
            for (table, before) in counts {
                let after = in_quarantine(&tables, &table, pipeline, Some(&interval)).await?;
                let after: u64 = after.values().sum();
                let label = interval.label(pipeline.spec.interval);
                rows.push(vec![
                    format!("silver.{table}"),
                    label,
                    before.to_string(),
                    before.saturating_sub(after).to_string(),
                    after.to_string(),
                ]);
            }
        }
    }
    if rows.is_empty() {
        return print("nothing is in quarantine\n");
    }
    print(&draw(&["table", "interval", "in quarantine", "left it", "stay"], &rows))
}

/// What is in the quarantine of a pipeline's tables, of those and the interval that were asked for.
async fn waiting(tables: &Tables, pipeline: &LakehousePipeline, arguments: &ReplayArguments) -> Result<Waiting, CliError> {
    let only = match &arguments.interval {
        None => None,
        Some(text) => intervals(pipeline.spec.interval, Some(text), None)?.into_iter().next(),
    };
    let mut waiting = Waiting::new();
    let wanted = |table: &&SilverTable| arguments.table.is_empty() || arguments.table.contains(&table.name);
    for table in pipeline.spec.silver.iter().filter(wanted).filter(|table| !is_overwritten(table)) {
        for (key, count) in in_quarantine(tables, &table.name, pipeline, only.as_ref()).await? {
            waiting.entry(key).or_default().insert(table.name.clone(), count);
        }
    }
    Ok(waiting)
}

async fn in_quarantine(
    tables: &Tables,
    name: &str,
    pipeline: &LakehousePipeline,
    only: Option<&Interval>,
) -> Result<BTreeMap<(Interval, RunId), u64>, CliError> {
    let table = TableRef::new("quarantine", name);
    let Some(open) = tables.open_table(&table).await? else { return Ok(BTreeMap::new()) };
    let engine = Engine::new()?;
    engine.register(&table, open.provider(None).await?)?;
    let sql = format!(
        "SELECT interval_start, CAST(object AS VARCHAR) AS object, count(*) AS n FROM quarantine.{name} GROUP BY 1, 2 ORDER BY 1, 2"
    );
    let query = engine.parse(&sql)?;
    let stream = engine.stream(&query).await?;
    let batches: Vec<_> = stream.map_err(SqlError::from).try_collect().await?;
    let mut found = BTreeMap::new();
    for batch in &batches {
        let starts = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Int64)?;
        let objects = arrow::compute::cast(batch.column(1), &arrow::datatypes::DataType::Utf8)?;
        let (starts, objects) = (starts.as_primitive::<Int64Type>(), objects.as_string::<i32>());
        let counts = batch.column(2).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let object = objects.value(row);
            let start = chrono::DateTime::from_timestamp_micros(starts.value(row));
            let (Some(start), Some(run)) = (start, run_of(object)) else {
                return Err(CliError::Invalid(format!("{table}: object `{object}` is not one that an ingest of this project wrote")));
            };
            let interval = Interval::containing(pipeline.spec.interval, start);
            if only.is_none_or(|only| *only == interval) {
                *found.entry((interval, run)).or_default() += counts.value(row).unsigned_abs();
            }
        }
    }
    Ok(found)
}

/// A table that holds one interval, the one that was run last.
fn is_overwritten(table: &SilverTable) -> bool {
    table.write.overwrite.is_some()
}

const OVERWRITTEN: &str = "is passed over: each run overwrites it whole, so that trying an older interval again would take the newer one away; \
                           run the interval that it should hold again";

/// The run in the key of a bronze object: `<pipeline>/<source>/dt=<interval>/run=<run>-<attempt>/part-00000.ndjson`.
fn run_of(object: &str) -> Option<RunId> {
    let folder = object.split('/').find_map(|part| part.strip_prefix("run="))?;
    folder.rsplit_once('-').filter(|(run, attempt)| !run.is_empty() && !attempt.is_empty()).map(|(run, _)| RunId(run.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_stands_in_the_key() {
        let run = |key: &str| run_of(key).map(|run| run.0);
        assert_eq!(
            run("shop/events/dt=2024-01-01/run=shop-2024-01-01-1a2b3c4d-2/part-00000.ndjson").as_deref(),
            Some("shop-2024-01-01-1a2b3c4d")
        );
        assert_eq!(run("somewhere/else.ndjson"), None);
        assert_eq!(run("a/run=x/part"), None);
    }
}
