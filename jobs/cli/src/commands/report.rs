//! `lakehouse report`: the stage reports of a run.

use std::path::PathBuf;

use clap::Args;
use lakehouse_storage::CatalogDb;

use crate::{CliError, place::Local, print, runs::Runs};

/// Options of `report`.
#[derive(Debug, Args)]
pub struct ReportArguments {
    /// The run, or the beginning of its name; default: the newest.
    run: Option<String>,
    /// Folder with the tables; default `.lakehouse`.
    #[arg(long, value_name = "DIR", env = "LAKEHOUSE_LOCAL")]
    local: Option<PathBuf>,
}

/// Prints the reports of the newest run that matches, as one JSON array.
///
/// # Errors
/// [`CliError::Invalid`] when there is no such run.
pub async fn run(arguments: ReportArguments) -> Result<(), CliError> {
    let local = Local::open(arguments.local.as_deref())?;
    let runs = Runs::open(CatalogDb::connect(&local.catalog_uri()).await?).await?;
    let found = runs.list(arguments.run.as_deref()).await?.into_iter().next().ok_or_else(|| match &arguments.run {
        Some(name) => CliError::Invalid(format!("there is no run `{name}`: `lakehouse status` lists them")),
        None => CliError::Invalid("there is no run yet".to_owned()),
    })?;
    let reports: Vec<_> = found.stages.iter().filter_map(|record| record.report.as_ref()).collect();
    let text = serde_json::to_string_pretty(&reports).map_err(|source| CliError::Record { run: found.name.clone(), source })?;
    print(&format!("{text}\n"))
}
