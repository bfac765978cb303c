//! Logs as JSON lines on standard error.

use tracing_subscriber::EnvFilter;

/// What is logged without `RUST_LOG`. The client's own line for each failed request says less than the one of who asked.
const LOGGED: &str = "info,kube=warn,kube_client=off,kube_runtime=warn,sqlx=warn";

/// Structured logs; `RUST_LOG` filters, default `info` without the chatter of clients.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    // A second call (tests in one process) keeps the first subscriber.
    let _ = tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
