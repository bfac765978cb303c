//! `lakehouse validate`: every fault with file, object and field.

use std::path::PathBuf;

use clap::Args;

use crate::{
    CliError,
    check::{check, faults},
    manifests::Bundle,
    print,
};

/// Options of `validate`.
#[derive(Debug, Args)]
pub struct ValidateArguments {
    /// Manifests. Without a Lakehouse among them, a `lakehouse.yaml` beside the first is read too.
    #[arg(short, long = "file", value_name = "FILE", required = true, num_args = 1..)]
    file: Vec<PathBuf>,
}

/// Checks the files; prints a line per object that is well.
///
/// # Errors
/// [`CliError::Faults`] with all faults.
pub async fn run(arguments: ValidateArguments) -> Result<(), CliError> {
    let bundle = Bundle::read(&arguments.file)?;
    let verdicts = check(&bundle).await.verdicts;
    for verdict in &verdicts {
        if verdict.faults.is_empty() {
            print(&format!("{}: ok\n", verdict.object))?;
        }
        for note in &verdict.notes {
            print(&format!("{}: {note}\n", verdict.object))?;
        }
    }
    let faults = faults(&bundle, &verdicts);
    if faults.is_empty() { Ok(()) } else { Err(CliError::Faults(faults)) }
}
