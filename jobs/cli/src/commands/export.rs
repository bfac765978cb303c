//! `lakehouse export great-expectations`: the rules of tables as suites of another program.

use std::{fmt::Write, path::PathBuf};

use arrow::datatypes::SchemaRef;
use clap::{Args, Subcommand};
use lakehouse_api::pipeline::Expectation;
use lakehouse_contract::TableRef;
use lakehouse_quality::great_expectations::suite;

use crate::{
    CliError,
    check::{Checked, check, faults},
    manifests::Bundle,
    print,
};

/// What to export.
#[derive(Debug, Subcommand)]
pub enum ExportCommand {
    /// The rules of silver tables and gold models as suites of Great Expectations (GX Core 1.x), one JSON file per table.
    GreatExpectations(SuitesArguments),
}

/// Options of `export great-expectations`.
#[derive(Debug, Args)]
pub struct SuitesArguments {
    /// Manifests. Without a Lakehouse among them, a `lakehouse.yaml` beside the first is read too.
    #[arg(short, long = "file", value_name = "FILE", required = true, num_args = 1..)]
    file: Vec<PathBuf>,
    /// Folder for the files `silver.NAME.json` and `gold.NAME.json`.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
}

/// Writes a suite for every table that has rules, and says which rules are not in it and why.
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
    for (name, rules, schema) in ruled(&checked).await? {
        let suite = suite(&name, rules, &schema).map_err(|failure| CliError::Invalid(failure.to_string()))?;
        let path = arguments.output.join(format!("{name}.json"));
        let failed = |source| CliError::File { path: path.clone(), source };
        std::fs::create_dir_all(&arguments.output).map_err(failed)?;
        std::fs::write(&path, format!("{:#}\n", suite.json)).map_err(failed)?;
        let all = rules.len();
        // Writing to a string cannot fail.
        let _ = writeln!(told, "{}: {} of {all} rules", path.display(), all - suite.left_out.len());
        for (rule, reason) in &suite.left_out {
            let _ = writeln!(told, "  without {rule}: {reason}");
        }
    }
    print(&told)
}

/// The tables that have rules, with the columns that they have.
async fn ruled(checked: &Checked) -> Result<Vec<(TableRef, &[Expectation], SchemaRef)>, CliError> {
    let mut ruled = Vec::new();
    for pipeline in &checked.pipelines {
        for table in &pipeline.tables {
            let name = TableRef::new("silver", &table.table.name);
            if let Some(schema) = checked.schemas.get(&name) {
                ruled.push((name, table.table.expectations.as_slice(), schema.clone()));
            }
        }
        // Models that read tables of files that were not given have no columns that could be known.
        let made = lakehouse_gold::tables_of(&pipeline.models, &checked.schemas, &pipeline.interval, &pipeline.name).await;
        let (made, _) = made.map_err(|failure| CliError::Invalid(failure.to_string()))?;
        for table in made {
            if let Some(model) = pipeline.models.iter().find(|model| model.model.name == table.table.name) {
                ruled.push((table.table, model.model.expectations.as_slice(), table.schema));
            }
        }
    }
    ruled.retain(|(_, rules, _)| !rules.is_empty());
    Ok(ruled)
}
