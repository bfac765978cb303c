//! `lakehouse test`: the unit tests of gold models that manifests hold.

use std::path::PathBuf;

use clap::Args;
use lakehouse_contract::TableRef;
use lakehouse_gold::{Fault, Tested};

use crate::{
    CliError,
    check::{check, faults},
    manifests::Bundle,
    print,
};

/// Options of `test`.
#[derive(Debug, Args)]
pub struct TestArguments {
    /// Manifests. Without a Lakehouse among them, a `lakehouse.yaml` beside the first is read too.
    #[arg(short, long = "file", value_name = "FILE", required = true, num_args = 1..)]
    file: Vec<PathBuf>,
    /// Only the tests of this model; may be repeated.
    #[arg(long, value_name = "NAME")]
    model: Vec<String>,
}

/// Runs the tests in the order of the manifests, prints a line for each and what differs, and the sum. Nothing is stored.
///
/// # Errors
/// [`CliError::Faults`] when a manifest is wrong, [`CliError::Invalid`] when tests failed or a model has no test.
pub async fn run(arguments: TestArguments) -> Result<(), CliError> {
    let bundle = Bundle::read(&arguments.file)?;
    let checked = check(&bundle).await;
    let faults = faults(&bundle, &checked.verdicts);
    if !faults.is_empty() {
        return Err(CliError::Faults(faults));
    }
    let (mut passed, mut failed) = (0, 0);
    let mut untested: Vec<&String> = arguments.model.iter().collect();
    for pipeline in &checked.pipelines {
        let wanted = pipeline.definition.gold.iter().filter(|model| arguments.model.is_empty() || arguments.model.contains(&model.name));
        let tests: Vec<_> =
            wanted.flat_map(|model| model.tests.iter().map(|test| (TableRef::new("gold", &model.name), test.clone()))).collect();
        untested.retain(|name| !tests.iter().any(|(table, _)| table.name == **name));
        let tested =
            lakehouse_gold::test_models(&pipeline.models, &tests, &checked.schemas, pipeline.definition.interval, &pipeline.interval).await;
        for test in tested.map_err(|failure| CliError::Faults(vec![failure.to_string()]))? {
            match test.fault {
                None => passed += 1,
                Some(_) => failed += 1,
            }
            print(&shown(&test))?;
        }
    }
    if let Some(name) = untested.first() {
        return Err(CliError::Invalid(format!("no gold model `{name}` with tests is in the given files")));
    }
    print(&format!("{passed} passed, {failed} failed\n"))?;
    if failed == 0 { Ok(()) } else { Err(CliError::Invalid(format!("{failed} of {} tests failed", passed + failed))) }
}

/// The line of a test, and below it what is wrong.
fn shown(test: &Tested) -> String {
    let head = format!("{} {}", test.model, test.name);
    match &test.fault {
        None => format!("{head}: ok\n"),
        Some(Fault::Failed(message)) => format!("{head}: FAILED: {message}\n"),
        Some(Fault::Differs { missing, unexpected }) => {
            let rows = missing.iter().map(|row| format!("  - {row}\n")).chain(unexpected.iter().map(|row| format!("  + {row}\n")));
            format!("{head}: FAILED: rows differ (- expected, + computed)\n{}", rows.collect::<String>())
        }
    }
}
