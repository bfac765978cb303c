//! The operator as a process: the controllers of every namespace, run while the Lease is held and until a signal.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use futures::future::{BoxFuture, join_all};
use lakehouse_contract::digest_json;

use crate::{
    Config,
    config::LeaderConfig,
    controller,
    runtime::{
        Telling, client,
        guard::Guard,
        health,
        lease::{Elector, Settings},
        metrics::Metrics,
        shutdown,
        traces::Traces,
    },
};

/// How long the end waits for a collector; a pod has 30 s in all.
const LAST_TRACES: Duration = Duration::from_secs(5);

/// Runs the controllers of every namespace until SIGTERM or SIGINT; steps under way are finished. With leader election they run
/// while the Lease is held.
///
/// # Errors
/// When no API server is configured, the health endpoint's address is taken, the times of the Lease make no sense, or the Lease was lost:
/// then nothing is written any more, and the process shall start anew.
// Boxed, so that the controllers are compiled here and not once more in the binary.
pub fn run(config: Config) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    lakehouse_storage::init_tls();
    config.leader.check().map_err(anyhow::Error::msg)?;
    let server = client::cluster().await?;
    let metrics = Metrics::new(config.metrics_pipelines);
    let (traces, exporter) = Traces::from_environment()?;
    let shutdown = shutdown::Shutdown::on_signal()?;
    let health = Arc::new(health::Health::new(config.namespaces.len()));
    let endpoint = health::serve(config.listen, Arc::clone(&health), metrics.clone()).await?;
    let telling = Telling { metrics, traces };
    tracing::info!(namespaces = config.namespaces.join(","), listen = %config.listen, "operator starts");
    let done = if config.leader.leader_elect {
        lead(&config, server, shutdown, &health, &telling).await
    } else {
        controllers(&config, server, &Guard::open(), shutdown, &health, &telling).await
    };
    drop(telling);
    // The traces of the runs that ended last.
    if let Some(exporter) = exporter
        && tokio::time::timeout(LAST_TRACES, exporter).await.is_err()
    {
        tracing::warn!("the collector did not take the last traces within {} s", LAST_TRACES.as_secs());
    }
    endpoint.abort();
    done?;
    tracing::info!("operator stopped");
    Ok(())
}

/// Runs the controllers while the Lease is held.
async fn lead(
    config: &Config,
    server: kube::Config,
    shutdown: shutdown::Shutdown,
    health: &Arc<health::Health>,
    telling: &Telling,
) -> anyhow::Result<()> {
    let guard = Guard::closed();
    let settings = settings(&config.leader, &server.default_namespace);
    // A connection of its own: renewals wait for no other request.
    let own = client::connect(server.clone(), &Guard::open(), &telling.metrics)?;
    let mut elector = Elector::new(own, settings, guard.clone());
    tokio::select! {
        () = elector.acquire(|| health.stands_by(true)) => health.stands_by(false),
        () = shutdown.clone().wanted() => return Ok(()),
    }
    // A task of its own: it renews also while a reconciliation computes. It gives the elector back when it is told to stop.
    let (stop, stopped) = futures::channel::oneshot::channel::<()>();
    let mut holding = tokio::spawn(async move {
        let lost = tokio::select! {
            why = elector.hold() => Some(why),
            _ = stopped => None,
        };
        (elector, lost)
    });
    tokio::select! {
        done = controllers(config, server, &guard, shutdown, health, telling) => {
            // The task may have ended meanwhile: then nobody listens.
            let _ = stop.send(());
            let (mut elector, _) = holding.await.context("the task that renews the lease")?;
            elector.release().await;
            done
        }
        held = &mut holding => {
            guard.close();
            let why = held.ok().and_then(|(_, lost)| lost).unwrap_or_else(|| "the task that renews it ended".to_owned());
            anyhow::bail!("the lease is lost ({why}): nothing is written any more, the process ends")
        }
    }
}

/// Runs the controllers until `shutdown`.
async fn controllers(
    config: &Config,
    server: kube::Config,
    guard: &Guard,
    shutdown: shutdown::Shutdown,
    health: &Arc<health::Health>,
    telling: &Telling,
) -> anyhow::Result<()> {
    let client = client::connect(server, guard, &telling.metrics)?;
    let namespaces = config
        .namespaces
        .iter()
        .map(|namespace| controller::run(client.clone(), namespace.clone(), config, shutdown.clone(), Arc::clone(health), telling.clone()));
    join_all(namespaces).await;
    Ok(())
}

fn settings(config: &LeaderConfig, own_namespace: &str) -> Settings {
    Settings {
        namespace: config.lease_namespace.clone().unwrap_or_else(|| own_namespace.to_owned()),
        name: config.lease_name.clone(),
        identity: identity(),
        duration: config.lease_duration.0,
        renew_deadline: config.lease_renew_deadline.0,
        retry_period: config.lease_retry_period.0,
    }
}

/// `<pod>_<8 digits>`: a container that is started again in the same pod is another one.
fn identity() -> String {
    let host = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_else(|_| "operator".to_owned());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let digest = digest_json(&(std::process::id(), now.to_string()));
    format!("{host}_{}", digest.get(..8).unwrap_or(&digest))
}
