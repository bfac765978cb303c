//! Logs as JSON lines on standard error.

use tracing_subscriber::EnvFilter;

/// Structured logs; `RUST_LOG` filters, default `info` without the chatter of clients. What `kube_client` says of a request that failed, our own
/// line says with the object it was for, and as the warning that it is: it is tried again.
pub fn init() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube=warn,kube_client=off,kube_runtime=warn,sqlx=warn"));
    // A second call (tests in one process) keeps the first subscriber.
    let _ = tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
