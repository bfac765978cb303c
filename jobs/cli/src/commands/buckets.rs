//! `lakehouse buckets`: makes the buckets of an S3 store.

use clap::{Args, Subcommand};
use lakehouse_storage::Layer;

use crate::{CliError, place::StoreArguments, print};

/// Commands about buckets.
#[derive(Debug, Subcommand)]
pub enum BucketsCommand {
    /// Make the buckets that are absent.
    Ensure(EnsureArguments),
}

/// Options of `buckets ensure`.
#[derive(Debug, Args)]
pub struct EnsureArguments {
    /// Names of buckets.
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    store: StoreArguments,
}

/// Makes the buckets; one that exists is fine.
///
/// # Errors
/// [`CliError::Storage`] that names the store or the bucket.
pub async fn run(command: BucketsCommand) -> Result<(), CliError> {
    let BucketsCommand::Ensure(arguments) = command;
    for name in &arguments.names {
        arguments.store.open(&[(Layer::Bronze, name.as_str())])?.ensure_buckets().await?;
        print(&format!("bucket {name}: ok\n"))?;
    }
    Ok(())
}
