//! The `ingest` image: see [`lakehouse_shell::image_main`].

use std::process::ExitCode;

use lakehouse_contract::Stage;

#[tokio::main]
async fn main() -> ExitCode {
    lakehouse_shell::image_main(Stage::Ingest, async |spec, storage, progress| lakehouse_ingest::run(spec, storage, progress).await).await
}
