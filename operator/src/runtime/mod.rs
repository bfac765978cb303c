//! What surrounds the controllers: client, health endpoints, logs, shutdown.

pub mod client;
pub mod health;
pub mod shutdown;
pub mod telemetry;

use std::sync::Arc;

use futures::future::{BoxFuture, join_all};

use crate::{Config, controller};

/// Runs the controllers of every namespace until SIGTERM or SIGINT; steps under way are finished.
///
/// # Errors
/// When no API server is configured or the health endpoint's address is taken.
// Boxed, so that the controllers are compiled here and not once more in the binary.
pub fn run(config: Config) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    lakehouse_storage::init_tls();
    let client = client::connect().await?;
    let shutdown = shutdown::Shutdown::on_signal()?;
    let health = Arc::new(health::Health::new(config.namespaces.len()));
    let server = health::serve(config.listen, Arc::clone(&health)).await?;
    tracing::info!(namespaces = config.namespaces.join(","), listen = %config.listen, "operator starts");
    let namespaces = config
        .namespaces
        .iter()
        .map(|namespace| controller::run(client.clone(), namespace.clone(), &config, shutdown.clone(), Arc::clone(&health)));
    join_all(namespaces).await;
    server.abort();
    tracing::info!("operator stopped");
    Ok(())
}
