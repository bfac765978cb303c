//! The image `silver`: spec in, exit code out.

use std::process::ExitCode;

use lakehouse_contract::{Reason, Stage, StageFailure, StageOutcome, env};

#[tokio::main]
async fn main() -> ExitCode {
    lakehouse_shell::image_main(Stage::Silver, async |spec, storage, progress| match std::env::var(env::CATALOG_URI) {
        Ok(catalog_uri) => lakehouse_silver::run(spec, storage, &catalog_uri, progress).await,
        Err(_) => StageOutcome {
            failure: Some(StageFailure::new(
                Reason::InvalidDefinition,
                format!("{} is not set: it holds the URI of the catalog", env::CATALOG_URI),
            )),
            ..StageOutcome::default()
        },
    })
    .await
}
