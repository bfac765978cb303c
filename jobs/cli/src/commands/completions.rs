//! `lakehouse completions`: what a shell needs to complete the command.

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use crate::{CliError, print};

/// Options of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "bash: source <(lakehouse completions bash)\nzsh:  lakehouse completions zsh > \"${fpath[1]}/_lakehouse\"\n\
    fish: lakehouse completions fish > ~/.config/fish/completions/lakehouse.fish")]
pub struct CompletionsArguments {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script for a shell that completes `command`.
///
/// # Errors
/// [`CliError::Output`].
pub fn run(arguments: &CompletionsArguments, mut command: Command) -> Result<(), CliError> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(arguments.shell, &mut command, name, &mut script);
    print(&String::from_utf8_lossy(&script))
}
