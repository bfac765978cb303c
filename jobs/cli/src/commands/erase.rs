//! `lakehouse erase`: removes all rows of a key from bronze, silver, quarantine and gold of a pipeline.

use std::path::PathBuf;

use clap::Args;
use lakehouse_storage::Layer;
use lakehouse_tables::Tables;

use super::run::pair;
use crate::{
    CliError,
    check::{check, faults},
    erase::{Order, erase},
    execute::{NAMESPACE, busy},
    manifests::Bundle,
    place::{DEFAULT_NAMESPACE, PlaceArguments},
    print,
    submit::tell::Format,
};

/// Options of `erase`.
#[derive(Debug, Args)]
pub struct EraseArguments {
    /// Manifests. Without a Lakehouse among them, a `lakehouse.yaml` beside the first is read too.
    #[arg(short, long = "file", value_name = "FILE", required = true, num_args = 1..)]
    file: Vec<PathBuf>,
    /// Column of silver and gold tables, and the value whose rows go; may be given several times, where tables name the key differently: rows in
    /// which any of them holds go.
    #[arg(long, value_name = "COLUMN=VALUE", required = true, value_parser = pair)]
    key: Vec<(String, String)>,
    /// Only this pipeline of the files.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
    /// Namespace of the pipelines on the cluster, which own their tables; default: that of the manifest, or `default`.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Text, or one JSON object per pipeline and line.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Where bronze is: a bucket, or bucket/prefix.
    #[arg(long, value_name = "BUCKET", default_value = "bronze")]
    bronze_bucket: String,
    #[command(flatten)]
    place: PlaceArguments,
}

/// Erases the keys and says what was removed where.
///
/// # Errors
/// [`CliError::Faults`] when a manifest is wrong, [`CliError::Busy`] when a run is at work on this machine, [`CliError::Invalid`] when something still
/// holds the key at the end.
pub async fn run(arguments: EraseArguments) -> Result<(), CliError> {
    let bundle = Bundle::read(&arguments.file)?;
    let checked = check(&bundle).await;
    let found = faults(&bundle, &checked.verdicts);
    if !found.is_empty() {
        return Err(CliError::Faults(found));
    }
    if let Some((column, _)) = arguments.key.iter().find(|(column, value)| column.is_empty() || value.is_empty()) {
        return Err(CliError::Invalid(format!("--key {column}=…: column and value must not be empty")));
    }
    let chosen = |name: &str| arguments.pipeline.as_deref().is_none_or(|wanted| wanted == name);
    let pipelines: Vec<_> = checked.pipelines.iter().filter(|pipeline| chosen(&pipeline.name)).collect();
    if pipelines.is_empty() {
        return Err(CliError::Invalid("the given files have no such LakehousePipeline".to_owned()));
    }
    let (storage, uri) = arguments.place.open_with(&[(Layer::Bronze, &arguments.bronze_bucket)])?;
    let tables = Tables::connect(storage.clone(), &uri).await?;
    let mut left = 0;
    for pipeline in pipelines {
        let namespace = if arguments.place.is_local() {
            busy(tables.db(), &pipeline.name).await?;
            NAMESPACE
        } else {
            arguments.namespace.as_deref().or(pipeline.namespace.as_deref()).unwrap_or(DEFAULT_NAMESPACE)
        };
        let order = Order {
            pipeline: &pipeline.name,
            owner: &format!("{namespace}/{}", pipeline.name),
            definition: &pipeline.definition,
            keys: &arguments.key,
            dry_run: arguments.dry_run,
        };
        let report = erase(&order, &storage, &tables).await?;
        left += report.left.len();
        match arguments.output {
            Format::Text => print(&report.text())?,
            Format::Json => {
                let line = serde_json::to_string(&report).map_err(|error| CliError::Output(error.into()))?;
                print(&format!("{line}\n"))?;
            }
        }
    }
    match left {
        0 => Ok(()),
        _ if arguments.dry_run => Ok(()),
        _ => Err(CliError::Invalid(format!("the key is not gone: {left} places still hold it, the report says which and what to do"))),
    }
}
