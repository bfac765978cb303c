//! `lakehouse plan`: what a run would make of the tables, by the planner that the run uses.

use std::{collections::BTreeMap, path::PathBuf};

use arrow::datatypes::SchemaRef;
use clap::{Args, ValueEnum};
use lakehouse_contract::TableRef;
use lakehouse_gold::Unchecked;
use lakehouse_tables::{Change, Evolution, TableDef, Tables};
use serde::Serialize;

use crate::{
    CliError,
    check::{Checked, Compiled, check, faults},
    execute::NAMESPACE,
    manifests::Bundle,
    place::{DEFAULT_NAMESPACE, PlaceArguments},
    print,
};

/// Options of `plan`.
#[derive(Debug, Args)]
pub struct PlanArguments {
    /// Manifests. Without a Lakehouse among them, a `lakehouse.yaml` beside the first is read too.
    #[arg(short, long = "file", value_name = "FILE", required = true, num_args = 1..)]
    file: Vec<PathBuf>,
    /// Namespace of the pipelines on the cluster, which own their tables; default: that of the manifest, or `default`.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Text, one JSON object per table and line, or one YAML document per table.
    #[arg(short, long, value_enum, default_value_t = Shown::Text)]
    output: Shown,
    #[command(flatten)]
    place: PlaceArguments,
}

/// How a plan is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shown {
    Text,
    Json,
    Yaml,
}

/// What becomes of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Action {
    Create,
    Change,
    None,
    Refuse,
}

/// One table of the plan.
#[derive(Debug, Serialize)]
struct Planned<'a> {
    pipeline: &'a str,
    table: String,
    format: Option<&'static str>,
    action: Action,
    /// Columns that a new table gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    columns: Option<usize>,
    changes: Vec<Change>,
    refused: Vec<String>,
}

/// Compares every table of the files with what is there and prints what a run would change.
///
/// # Errors
/// [`CliError::Faults`] when a manifest is wrong, [`CliError::Invalid`] when a table cannot become what it says.
pub async fn run(arguments: PlanArguments) -> Result<(), CliError> {
    let bundle = Bundle::read(&arguments.file)?;
    let checked = check(&bundle).await;
    let faults = faults(&bundle, &checked.verdicts);
    if !faults.is_empty() {
        return Err(CliError::Faults(faults));
    }
    if checked.pipelines.is_empty() {
        return Err(CliError::Invalid("there is no LakehousePipeline in the given files".to_owned()));
    }
    let tables = arguments.place.tables_if_any().await?;
    let mut planned = Vec::new();
    for pipeline in &checked.pipelines {
        let owner = format!("{}/{}", namespace(&arguments, pipeline), pipeline.name);
        planned.extend(plan(pipeline, &owner, &checked, tables.as_ref()).await?);
    }
    match arguments.output {
        Shown::Text => print(&text(&planned))?,
        Shown::Yaml => {
            for table in &planned {
                let document = serde_yaml::to_string(table).map_err(|error| CliError::Output(std::io::Error::other(error)))?;
                print(&format!("---\n{document}"))?;
            }
        }
        Shown::Json => {
            for table in &planned {
                let line = serde_json::to_string(table).map_err(|error| CliError::Output(error.into()))?;
                print(&format!("{line}\n"))?;
            }
        }
    }
    match count(&planned, Action::Refuse) {
        0 => Ok(()),
        refused => Err(CliError::Invalid(format!("{refused} of {} tables cannot become what the files say", planned.len()))),
    }
}

fn namespace<'a>(arguments: &'a PlanArguments, pipeline: &'a Compiled) -> &'a str {
    if arguments.place.is_local() {
        return NAMESPACE;
    }
    arguments.namespace.as_deref().or(pipeline.namespace.as_deref()).unwrap_or(DEFAULT_NAMESPACE)
}

/// The tables of one pipeline: silver, the quarantine tables that exist, gold in the order in which it is computed.
async fn plan<'a>(pipeline: &'a Compiled, owner: &str, checked: &Checked, tables: Option<&Tables>) -> Result<Vec<Planned<'a>>, CliError> {
    let invalid = |failure: lakehouse_contract::StageFailure| CliError::Faults(vec![failure.to_string()]);
    let mut planned = Vec::new();
    let mut schemas = checked.schemas.clone();
    let mut aside = Vec::new();
    for table in &pipeline.tables {
        let (own, quarantine) = lakehouse_silver::tables_of(table, owner).map_err(invalid)?;
        planned.push(compare(pipeline, &own, tables).await?);
        schemas.insert(quarantine.table.clone(), quarantine.schema.clone());
        aside.push(quarantine);
    }
    for quarantine in aside {
        let compared = compare(pipeline, &quarantine, tables).await?;
        if compared.action != Action::Create {
            planned.push(compared);
        }
    }
    let (gold, unchecked) = gold(pipeline, owner, schemas, tables).await?;
    for model in &gold {
        planned.push(compare(pipeline, model, tables).await?);
    }
    planned.extend(unchecked.into_iter().map(|Unchecked { model, reads }| Planned {
        pipeline: &pipeline.name,
        table: model.to_string(),
        format: None,
        action: Action::Refuse,
        columns: None,
        changes: Vec::new(),
        refused: vec![format!("it reads {reads}, which is neither in the given files nor a table")],
    }));
    Ok(planned)
}

/// The tables of the models. What the files do not define is taken from the tables that are there.
async fn gold(
    pipeline: &Compiled,
    owner: &str,
    mut schemas: BTreeMap<TableRef, SchemaRef>,
    tables: Option<&Tables>,
) -> Result<(Vec<TableDef>, Vec<Unchecked>), CliError> {
    loop {
        let made = lakehouse_gold::tables_of(&pipeline.models, &schemas, &pipeline.interval, owner).await;
        let (made, unchecked) = made.map_err(|failure| CliError::Faults(vec![failure.to_string()]))?;
        let mut found = false;
        for missing in &unchecked {
            if let (Some(tables), false) = (tables, schemas.contains_key(&missing.reads))
                && let Some(table) = tables.open_table(&missing.reads).await?
            {
                schemas.insert(missing.reads.clone(), table.schema().await?);
                found = true;
            }
        }
        if !found {
            return Ok((made, unchecked));
        }
    }
}

async fn compare<'a>(pipeline: &'a Compiled, definition: &TableDef, tables: Option<&Tables>) -> Result<Planned<'a>, CliError> {
    let Evolution { exists, changes, refused } = match tables {
        Some(tables) => tables.plan(definition).await?,
        None => Evolution::default(),
    };
    let action = match (exists, refused.is_empty(), changes.is_empty()) {
        (_, false, _) => Action::Refuse,
        (false, true, _) => Action::Create,
        (true, true, true) => Action::None,
        (true, true, false) => Action::Change,
    };
    let columns = (action == Action::Create).then(|| definition.schema.fields().len());
    let (table, format) = (definition.table.to_string(), Some(definition.format.name()));
    Ok(Planned { pipeline: &pipeline.name, table, format, action, columns, changes, refused })
}

fn count(planned: &[Planned<'_>], action: Action) -> usize {
    planned.iter().filter(|table| table.action == action).count()
}

/// The plan as a person reads it: `+` comes, `-` goes, `~` becomes another, `!` cannot be.
fn text(planned: &[Planned<'_>]) -> String {
    let mut text = String::new();
    let mut pipeline = "";
    for table in planned {
        if table.pipeline != pipeline {
            pipeline = table.pipeline;
            text.push_str(&format!("pipeline {pipeline}\n"));
        }
        let format = table.format.map(|format| format!(" ({format})")).unwrap_or_default();
        let word = match table.action {
            Action::Create => format!("create with {} columns", table.columns.unwrap_or_default()),
            Action::Change => "change".to_owned(),
            Action::None => "no change".to_owned(),
            Action::Refuse => "refused".to_owned(),
        };
        text.push_str(&format!("  {}{format}: {word}\n", table.table));
        for change in &table.changes {
            let sign = match change {
                Change::AddColumn { .. } => '+',
                Change::DropColumn { .. } => '-',
                _ => '~',
            };
            text.push_str(&format!("    {sign} {change}\n"));
        }
        for reason in &table.refused {
            text.push_str(&format!("    ! {reason}\n"));
        }
    }
    let [create, change, same, refuse] =
        [Action::Create, Action::Change, Action::None, Action::Refuse].map(|action| count(planned, action));
    text.push_str(&format!("{create} to create, {change} to change, {same} without change, {refuse} refused\n"));
    text
}
