//! `lakehouse docs`: one HTML page about the quality of the data.

use std::path::PathBuf;

use chrono::Utc;
use clap::Args;

use crate::{CliError, datadocs, place::PlaceArguments, print};

/// Options of `docs`.
#[derive(Debug, Args)]
pub struct DocsArguments {
    /// The file to write.
    #[arg(short, long, value_name = "FILE", default_value = "quality.html")]
    output: PathBuf,
    /// Only this pipeline: its name, or `namespace/name`.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// How many runs of each table the history shows, newest first.
    #[arg(long, value_name = "COUNT", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// How many quarantined records are shown of each rule.
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    samples: u32,
    #[command(flatten)]
    place: PlaceArguments,
}

/// Reads results and quarantine, and writes the page.
///
/// # Errors
/// [`CliError::Invalid`] for a pipeline without results; [`CliError::File`]; what the store or catalog say.
pub async fn run(arguments: DocsArguments) -> Result<(), CliError> {
    let tables = arguments.place.tables().await?;
    let wanted =
        datadocs::Wanted { pipeline: arguments.pipeline.as_deref(), runs: arguments.runs as usize, samples: arguments.samples as usize };
    let docs = datadocs::gather(&tables, &wanted).await?;
    if let (Some(pipeline), true) = (&arguments.pipeline, docs.tables.is_empty()) {
        return Err(CliError::Invalid(format!("--pipeline {pipeline}: quality.results has nothing of it")));
    }
    let page = datadocs::page(&docs, Utc::now());
    std::fs::write(&arguments.output, page).map_err(|source| CliError::File { path: arguments.output.clone(), source })?;
    print(&format!("{}: {}\n", arguments.output.display(), docs.summary()))
}
