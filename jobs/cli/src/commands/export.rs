//! `lakehouse export great-expectations`: the rules of silver tables as suites of another program.

use std::{fmt::Write, path::PathBuf};

use clap::{Args, Subcommand};
use lakehouse_contract::TableRef;
use lakehouse_quality::great_expectations::suite;

use crate::{
    CliError,
    check::{check, faults},
    manifests::Bundle,
    print,
};

/// What to export.
#[derive(Debug, Subcommand)]
pub enum ExportCommand {
    /// The rules of silver tables as suites of Great Expectations (GX Core 1.x), one JSON file per table.
    GreatExpectations(SuitesArguments),
}

/// Options of `export great-expectations`.
#[derive(Debug, Args)]
pub struct SuitesArguments {
    /// Manifests. Without a Lakehouse among them, a `lakehouse.yaml` beside the first is read too.
    #[arg(short, long = "file", value_name = "FILE", required = true, num_args = 1..)]
    file: Vec<PathBuf>,
    /// Folder for the files `silver.NAME.json`.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
}

/// Writes a suite for every silver table that has rules, and says which rules are not in it and why.
///
/// # Errors
/// [`CliError::Faults`], [`CliError::File`].
pub async fn run(command: ExportCommand) -> Result<(), CliError> {
    let ExportCommand::GreatExpectations(arguments) = command;
    let bundle = Bundle::read(&arguments.file)?;
    let checked = check(&bundle).await;
    let found = faults(&bundle, &checked.verdicts);
    if !found.is_empty() {
        return Err(CliError::Faults(found));
    }
    let mut told = String::new();
    for table in checked.pipelines.iter().flat_map(|pipeline| &pipeline.tables).filter(|table| !table.table.expectations.is_empty()) {
        let name = TableRef::new("silver", &table.table.name);
        let Some(schema) = checked.schemas.get(&name) else { continue };
        let suite = suite(&name, &table.table.expectations, schema).map_err(|failure| CliError::Invalid(failure.to_string()))?;
        let path = arguments.output.join(format!("{name}.json"));
        let failed = |source| CliError::File { path: path.clone(), source };
        std::fs::create_dir_all(&arguments.output).map_err(failed)?;
        std::fs::write(&path, format!("{:#}\n", suite.json)).map_err(failed)?;
        let all = table.table.expectations.len();
        // Writing to a string cannot fail.
        let _ = writeln!(told, "{}: {} of {all} rules", path.display(), all - suite.left_out.len());
        for (rule, reason) in &suite.left_out {
            let _ = writeln!(told, "  without {rule}: {reason}");
        }
    }
    print(&told)
}
