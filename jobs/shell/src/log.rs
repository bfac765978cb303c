//! Logs of a pod: JSON lines on standard error, progress among them at most once a second.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use lakehouse_contract::Progress;
use tracing_subscriber::EnvFilter;

/// Structured logs as JSON lines on standard error; `RUST_LOG` filters, default `info`.
pub fn init_json_logs() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    // A second call (tests in one process) keeps the first subscriber.
    let _ = tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

/// Progress as log lines, at most one per second and one at each step.
#[derive(Default)]
pub struct LogProgress {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    step: String,
    rows: u64,
    bytes: u64,
    shown: Option<Instant>,
}

impl Progress for LogProgress {
    fn step(&self, name: &str, total: Option<u64>) {
        if let Ok(mut state) = self.state.lock() {
            *state = State { step: name.to_owned(), shown: Some(Instant::now()), ..State::default() };
        }
        tracing::info!(step = name, total, "step begins");
    }

    fn advance(&self, rows: u64, bytes: u64) {
        let Ok(mut state) = self.state.lock() else { return };
        state.rows += rows;
        state.bytes += bytes;
        if state.shown.is_none_or(|shown| shown.elapsed() >= Duration::from_secs(1)) {
            state.shown = Some(Instant::now());
            tracing::info!(step = state.step, rows = state.rows, bytes = state.bytes, "progress");
        }
    }
}
