//! Logs of a pod: JSON lines on standard error, progress among them at most once a second.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use lakehouse_contract::{
    Progress,
    progress::{PROGRESS, STEP_BEGINS},
};
use tracing_subscriber::EnvFilter;

use crate::JournalWriter;

/// Structured logs as JSON lines on standard error, kept in the journal of the attempt too; `RUST_LOG` filters, default `info`.
pub fn init_json_logs() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    // A second call (tests in one process) keeps the first subscriber.
    let _ = tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(JournalWriter::new(true)).try_init();
}

/// Progress as log lines, at most one per second and one at each step.
///
/// The operator reads them from the end of the pod's log ([`lakehouse_contract::progress::from_log_line`]).
#[derive(Default)]
pub struct LogProgress {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    step: String,
    total: Option<u64>,
    rows: u64,
    bytes: u64,
    shown: Option<Instant>,
}

impl Progress for LogProgress {
    fn step(&self, name: &str, total: Option<u64>) {
        if let Ok(mut state) = self.state.lock() {
            *state = State { step: name.to_owned(), total, shown: Some(Instant::now()), ..State::default() };
        }
        tracing::info!(step = name, total, rows = 0, bytes = 0, "{STEP_BEGINS}");
    }

    fn advance(&self, rows: u64, bytes: u64) {
        let Ok(mut state) = self.state.lock() else { return };
        state.rows += rows;
        state.bytes += bytes;
        if state.shown.is_none_or(|shown| shown.elapsed() >= Duration::from_secs(1)) {
            state.shown = Some(Instant::now());
            tracing::info!(step = state.step, total = state.total, rows = state.rows, bytes = state.bytes, "{PROGRESS}");
        }
    }
}
