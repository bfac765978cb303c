//! How the commands that answer with objects show them.

use clap::ValueEnum;
use serde::Serialize;

use crate::{CliError, print};

/// How an answer is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For a person.
    #[default]
    Text,
    /// For a person with a wide screen.
    Wide,
    /// The objects as JSON.
    Json,
    /// The objects as YAML.
    Yaml,
}

/// Prints `value` as JSON or YAML; for a person what `text` makes, which is told whether there is much room.
///
/// # Errors
/// [`CliError::Output`].
pub fn show(output: Output, value: &impl Serialize, text: impl FnOnce(bool) -> String) -> Result<(), CliError> {
    let other = |error: String| CliError::Output(std::io::Error::other(error));
    let shown = match output {
        Output::Text => text(false),
        Output::Wide => text(true),
        Output::Json => format!("{}\n", serde_json::to_string_pretty(value).map_err(|error| other(error.to_string()))?),
        Output::Yaml => serde_yaml::to_string(value).map_err(|error| other(error.to_string()))?,
    };
    print(&shown)
}
