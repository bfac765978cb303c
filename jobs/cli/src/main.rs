//! The command `lakehouse`.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    lakehouse_cli::main().await
}
