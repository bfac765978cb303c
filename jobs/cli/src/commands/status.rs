//! `lakehouse status`: the runs on this machine.

use std::{collections::BTreeMap, path::PathBuf};

use chrono::{DateTime, Utc};
use clap::Args;
use lakehouse_contract::{TableRef, interval::rfc3339};
use lakehouse_shell::open_storage;
use lakehouse_storage::CatalogDb;
use lakehouse_tables::Tables;
use serde_json::{Value, json};

use super::output::{Output, show};
use crate::{
    CliError,
    place::Local,
    runs::{RunRecord, RunState, Runs},
    stale::shown_stale,
    table::draw,
};

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Folder with the tables; default `.lakehouse`.
    #[arg(long, value_name = "DIR", env = "LAKEHOUSE_LOCAL")]
    local: Option<PathBuf>,
    /// How many runs.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Text, or the runs as JSON or YAML.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Prints the runs, newest first.
///
/// # Errors
/// [`CliError::Invalid`] for a folder without tables, or what the catalog says.
pub async fn run(arguments: StatusArguments) -> Result<(), CliError> {
    let local = Local::open(arguments.local.as_deref())?;
    let runs = Runs::open(CatalogDb::connect(&local.catalog_uri()).await?).await?.list(None).await?;
    let runs: Vec<&RunRecord> = runs.iter().take(arguments.limit).collect();
    let rows: Vec<Vec<String>> = runs.iter().map(|run| row(run)).collect();
    let stale = stale(&local).await?;
    let header = ["run", "pipeline", "interval", "state", "stages", "read", "written", "quarantined", "created", "message"];
    let plain: BTreeMap<String, Vec<String>> = stale.iter().map(|(table, starts)| (table.to_string(), labels(starts))).collect();
    let value = json!({"store": local.root, "runs": runs.iter().map(|run| object(run)).collect::<Vec<_>>(), "stale": plain});
    show(arguments.output, &value, |_| {
        let lines: String = stale.iter().map(|(table, starts)| format!("{table}: {}\n", shown_stale(&labels(starts)))).collect();
        format!("store and catalog: {}\n{}{lines}", local.root.display(), draw(&header, &rows))
    })
}

/// A run with the reports of its stages.
fn object(run: &RunRecord) -> Value {
    json!({"run": run.id(), "uid": run.uid, "pipeline": run.pipeline, "interval": run.interval, "state": run.state.as_str(),
        "createdAt": run.created_at, "finishedAt": run.finished_at, "stages": run.stages})
}

/// The gold tables with stale intervals, and the starts of these.
async fn stale(local: &Local) -> Result<BTreeMap<TableRef, Vec<DateTime<Utc>>>, CliError> {
    let tables = Tables::connect(open_storage(&local.location(None))?, &local.catalog_uri()).await?;
    let found = lakehouse_gold::stale(&tables, &tables.list("gold").await?).await;
    found.map_err(|failure| CliError::Invalid(failure.to_string()))
}

fn labels(starts: &[DateTime<Utc>]) -> Vec<String> {
    starts.iter().copied().map(label).collect()
}

/// The start of an interval whose grain is not known: a date where it is midnight.
fn label(start: DateTime<Utc>) -> String {
    rfc3339(start).trim_end_matches("T00:00:00Z").to_owned()
}

fn row(run: &RunRecord) -> Vec<String> {
    let word = |record: &crate::runs::StageRecord| {
        let state = match &record.report {
            Some(report) if report.failure.is_none() => "done",
            Some(_) => "failed",
            None if record.attempt > 0 => "begun",
            None => "waiting",
        };
        format!("{} {state}", record.stage)
    };
    let stages: Vec<String> = run.stages.iter().map(word).collect();
    let reports = || run.stages.iter().filter_map(|record| record.report.as_ref());
    let silver =
        reports().find(|report| report.stage == lakehouse_contract::Stage::Silver).map(|report| report.totals()).unwrap_or_default();
    let failure = reports().find_map(|report| report.failure.as_ref()).filter(|_| run.state == RunState::Failed);
    let maintained = reports().find_map(|report| report.maintained());
    let message = match (failure, maintained) {
        (Some(failure), _) => format!("{}: {}", failure.reason, failure.message),
        (None, Some(did)) => did.to_string(),
        (None, None) => String::new(),
    };
    vec![
        run.id().0,
        run.pipeline.clone(),
        run.interval.clone(),
        run.state.as_str().to_owned(),
        stages.join(", "),
        silver.rows_read.to_string(),
        silver.rows_written.to_string(),
        silver.rows_quarantined.to_string(),
        rfc3339(chrono::SubsecRound::trunc_subsecs(run.created_at, 0)),
        message,
    ]
}
