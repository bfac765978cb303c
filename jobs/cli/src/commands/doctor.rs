//! `lakehouse doctor`: whether store and catalog answer.

use clap::Args;
use lakehouse_storage::{StorageError, catalog, redact_uri};

use crate::{CliError, place::PlaceArguments, print};

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    #[command(flatten)]
    place: PlaceArguments,
}

/// Asks both, prints a line for each, and fails with what the first that does not answer says.
///
/// # Errors
/// [`CliError::Storage`].
pub async fn run(arguments: DoctorArguments) -> Result<(), CliError> {
    let (storage, uri) = arguments.place.open()?;
    let store = match storage.layers().next() {
        Some((_, layer)) => layer.base_uri(),
        None => "store".to_owned(),
    };
    let (store_answer, catalog_answer) = tokio::join!(storage.check(), catalog::check(&uri));
    line("store", &store, &store_answer)?;
    line("catalog", &redact_uri(&uri), &catalog_answer)?;
    store_answer?;
    Ok(catalog_answer?)
}

fn line(what: &str, place: &str, answer: &Result<(), StorageError>) -> Result<(), CliError> {
    match answer {
        Ok(()) => print(&format!("{what} {place}: ok\n")),
        Err(error) => print(&format!("{what} {place}: {error}\n")),
    }
}
