//! `lakehouse register`: puts tables into a catalog that was lost or restored from a backup, by their files.

use clap::Args;
use lakehouse_contract::TableRef;
use lakehouse_tables::{Registered, Registration, Tables};
use serde_json::json;

use crate::{
    CliError,
    place::{Local, PlaceArguments, folder},
    print,
    submit::tell::Format,
};

/// Options of `register`.
#[derive(Debug, Args)]
pub struct RegisterArguments {
    /// A table, such as silver.events; may be given several times.
    #[arg(long, value_name = "TABLE", value_parser = table, required_unless_present = "all", conflicts_with = "all")]
    table: Vec<TableRef>,
    /// All tables that have files in the store.
    #[arg(long)]
    all: bool,
    /// The metadata file of the one Iceberg table, such as s3://silver/events-0a…/metadata/00012-….metadata.json; default: the newest one.
    #[arg(long, value_name = "URI", conflicts_with = "all")]
    metadata: Option<String>,
    /// Text, or one JSON object per table and line.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    place: PlaceArguments,
}

fn table(text: &str) -> Result<TableRef, String> {
    match text.split_once('.') {
        Some((namespace @ ("silver" | "quarantine" | "gold"), name)) if !name.is_empty() => Ok(TableRef::new(namespace, name)),
        _ => Err(format!("`{text}` is no table: write silver.NAME, quarantine.NAME or gold.NAME")),
    }
}

/// Registers the tables; one that cannot be registered does not keep the others from it.
///
/// # Errors
/// [`CliError::Faults`] with a line for each table that was not registered.
pub async fn run(arguments: RegisterArguments) -> Result<(), CliError> {
    if arguments.metadata.is_some() && arguments.table.len() != 1 {
        return Err(CliError::Invalid("--metadata is the file of one table: name exactly one with --table".to_owned()));
    }
    let tables = if arguments.place.is_local() {
        // The catalog that is to be filled may not be there.
        let local = Local::create(folder(arguments.place.local.as_deref()).as_deref())?;
        Tables::connect(lakehouse_shell::open_storage(&local.location(None))?, &local.catalog_uri()).await?
    } else {
        arguments.place.tables().await?
    };
    let wanted = if arguments.all { tables.found().await? } else { arguments.table.clone() };
    let mut faults = Vec::new();
    for table in &wanted {
        match tables.register(table, arguments.metadata.as_deref()).await {
            Ok(done) => say(&done, arguments.output)?,
            Err(error) => faults.push(error.to_string()),
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(CliError::Faults(faults)) }
}

fn say(done: &Registered, format: Format) -> Result<(), CliError> {
    let Registered { table, format: of, registration, location } = done;
    let word = match registration {
        Registration::Registered => "registered",
        Registration::Advanced => "advanced",
        Registration::Unchanged => "unchanged",
    };
    match format {
        Format::Text => print(&format!("{table} ({of}): {word}, {location}\n")),
        Format::Json => {
            let line = json!({"table": table.to_string(), "format": of.name(), "registration": word, "location": location});
            print(&format!("{line}\n"))
        }
    }
}
