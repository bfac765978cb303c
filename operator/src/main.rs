//! `lakehouse-operator`: reads flags and environment, then runs until SIGTERM.

use clap::Parser;
use lakehouse_operator::{
    Config, run,
    runtime::{health, telemetry},
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    telemetry::init();
    match &config.probe {
        Some(target) => health::probe(target).await,
        None => run(config).await,
    }
}
