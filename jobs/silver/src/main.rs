//! The image `silver`: spec in, exit code out.

use std::process::ExitCode;

use lakehouse_contract::{Reason, Stage, StageFailure, StageOutcome, env};

/// Decoded columns come and go by the hundred megabytes; this allocator keeps their pages instead of asking the kernel for zeroed ones again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
