//! The image `gold`: runs the gold stage of the spec it is given.

use std::process::ExitCode;

use lakehouse_contract::{Progress, Reason, Stage, StageFailure, StageOutcome, StageSpec, env};
use lakehouse_shell::image_main;
use lakehouse_storage::Storage;

#[tokio::main]
async fn main() -> ExitCode {
    image_main(Stage::Gold, async |spec: &StageSpec, storage: &Storage, progress: &dyn Progress| match std::env::var(env::CATALOG_URI) {
        Ok(uri) => lakehouse_gold::run(spec, storage, &uri, progress).await,
        Err(_) => StageOutcome {
            failure: Some(StageFailure::new(
                Reason::InvalidDefinition,
                format!("{} is not set: it names the catalog's database", env::CATALOG_URI),
            )),
            ..StageOutcome::default()
        },
    })
    .await
}
