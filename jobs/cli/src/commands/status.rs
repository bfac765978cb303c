//! `lakehouse status`: the runs on this machine.

use std::path::PathBuf;

use clap::Args;
use lakehouse_contract::interval::rfc3339;
use lakehouse_storage::CatalogDb;

use crate::{
    CliError,
    place::Local,
    print,
    runs::{RunRecord, RunState, Runs},
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
}

/// Prints the runs, newest first.
///
/// # Errors
/// [`CliError::Invalid`] for a folder without tables, or what the catalog says.
pub async fn run(arguments: StatusArguments) -> Result<(), CliError> {
    let local = Local::open(arguments.local.as_deref())?;
    let runs = Runs::open(CatalogDb::connect(&local.catalog_uri()).await?).await?.list(None).await?;
    let rows: Vec<Vec<String>> = runs.iter().take(arguments.limit).map(row).collect();
    let header = ["run", "pipeline", "interval", "state", "stages", "read", "written", "quarantined", "created", "message"];
    print(&format!("store and catalog: {}\n{}", local.root.display(), draw(&header, &rows)))
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
