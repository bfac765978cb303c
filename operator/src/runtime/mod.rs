//! What surrounds the controllers: client, health endpoints, metrics, traces, logs, shutdown.

pub mod health;
pub mod metrics;
pub mod shutdown;
pub mod telemetry;
pub mod traces;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use futures::future::{BoxFuture, join_all};
use kube::{Client, client::ClientBuilder};

use crate::{Config, controller};
use metrics::{CountRequests, Metrics};
use traces::Traces;

/// How long the end waits for a collector; a pod has 30 s in all.
const LAST_TRACES: Duration = Duration::from_secs(5);

/// Where controllers tell what they did. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Telling {
    /// For Prometheus.
    pub metrics: Metrics,
    /// For a collector of OpenTelemetry.
    pub traces: Traces,
}

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
    let metrics = Metrics::new(config.metrics_pipelines);
    let client = client(&metrics).await.context("no API server: neither in a cluster nor a usable kubeconfig")?;
    let (traces, exporter) = Traces::from_environment()?;
    let shutdown = shutdown::Shutdown::on_signal()?;
    let health = Arc::new(health::Health::new(config.namespaces.len()));
    let server = health::serve(config.listen, Arc::clone(&health), metrics.clone()).await?;
    let telling = Telling { metrics, traces };
    tracing::info!(namespaces = config.namespaces.join(","), listen = %config.listen, "operator starts");
    let namespaces = config.namespaces.iter().map(|namespace| {
        controller::run(client.clone(), namespace.clone(), &config, shutdown.clone(), Arc::clone(&health), telling.clone())
    });
    join_all(namespaces).await;
    drop(telling);
    // The traces of the runs that ended last.
    if let Some(exporter) = exporter
        && tokio::time::timeout(LAST_TRACES, exporter).await.is_err()
    {
        tracing::warn!("the collector did not take the last traces within {} s", LAST_TRACES.as_secs());
    }
    server.abort();
    tracing::info!("operator stopped");
    Ok(())
}

/// A client as the environment configures it, whose requests are counted.
async fn client(metrics: &Metrics) -> anyhow::Result<Client> {
    let config = kube::Config::infer().await?;
    Ok(ClientBuilder::try_from(config)?.with_layer(&CountRequests::new(metrics.clone())).build())
}
