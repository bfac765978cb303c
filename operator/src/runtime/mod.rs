//! What surrounds the controllers: client, leader election, health endpoints, metrics, traces, logs, shutdown.

pub mod client;
pub mod guard;
pub mod health;
pub mod lease;
pub mod metrics;
pub mod shutdown;
pub mod telemetry;
pub mod traces;

use metrics::Metrics;
use traces::Traces;

/// Where controllers tell what they did. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Telling {
    /// For Prometheus.
    pub metrics: Metrics,
    /// For a collector of OpenTelemetry.
    pub traces: Traces,
}
