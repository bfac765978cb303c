//! Progress of a run: bars on a terminal, JSON lines otherwise; both on standard error.

use std::{
    io::{IsTerminal, Write},
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use lakehouse_contract::{Progress, Stage, StageReport};
use serde_json::{Value, json};

/// Shows the stages of one run.
pub struct RunProgress {
    run: String,
    bars: bool,
    state: Mutex<State>,
}

struct State {
    stage: Option<Stage>,
    bar: ProgressBar,
    step: String,
    rows: u64,
    bytes: u64,
    shown: Instant,
}

/// Shortest time between two lines about the same step.
const BETWEEN_LINES: Duration = Duration::from_secs(1);

impl RunProgress {
    /// Progress of the run `run`.
    pub fn new(run: &str) -> Self {
        let state = State { stage: None, bar: ProgressBar::hidden(), step: String::new(), rows: 0, bytes: 0, shown: Instant::now() };
        Self { run: run.to_owned(), bars: std::io::stderr().is_terminal(), state: Mutex::new(state) }
    }

    /// A stage begins.
    pub fn stage(&self, stage: Stage, attempt: u32) {
        let Ok(mut state) = self.state.lock() else { return };
        state.stage = Some(stage);
        if self.bars {
            state.bar = ProgressBar::new_spinner();
            state.bar.enable_steady_tick(Duration::from_millis(100));
            set_style(&state.bar, "{spinner} {prefix:<11} {wide_msg} {elapsed}");
            state.bar.set_prefix(stage.as_str());
        } else {
            self.line(&state, "stage", json!({"state": "Running", "attempt": attempt}));
        }
    }

    /// A stage ended.
    pub fn ended(&self, report: &StageReport) {
        let Ok(state) = self.state.lock() else { return };
        let totals = report.totals();
        if let Some(fault) = &report.lineage_fault {
            if self.bars {
                state.bar.suspend(|| drop(writeln!(std::io::stderr(), "warning: {fault}")));
            } else {
                self.line(&state, "warning", json!({"message": fault}));
            }
        }
        if self.bars {
            let mark = if report.failure.is_none() { "✓" } else { "✗" };
            set_style(&state.bar, &format!("{mark} {{prefix:<11}} {{wide_msg}} {{elapsed}}"));
            let already = report.tables.iter().all(|table| table.already_committed) && !report.tables.is_empty();
            let note = if already { " (was there already)" } else { "" };
            let rows = || format!("{} rows read, {} written{note}", totals.rows_read, totals.rows_written);
            state.bar.finish_with_message(report.maintained().map_or_else(rows, |maintained| maintained.to_string()));
            return;
        }
        let failure = report.failure.as_ref().map(|failure| format!("{}: {}", failure.reason, failure.message));
        let word = if failure.is_none() { "Succeeded" } else { "Failed" };
        let mut more = json!({"state": word, "attempt": report.attempt, "failure": failure, "totals": totals});
        if let (Some(more), Some(maintained)) = (more.as_object_mut(), report.maintained()) {
            more.insert("maintenance".to_owned(), json!(maintained));
        }
        self.line(&state, "stage", more);
    }

    fn line(&self, state: &State, event: &str, more: Value) {
        let mut line = json!({"event": event, "run": self.run, "stage": state.stage});
        if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
            line.extend(more);
        }
        // Nobody is left to read progress that cannot be written.
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    fn show(&self, state: &State) {
        if self.bars {
            let (rows, bytes) = (HumanCount(state.rows), HumanBytes(state.bytes));
            state.bar.set_message(format!("{}: {rows} rows, {bytes}", state.step));
        } else {
            self.line(state, "progress", json!({"step": state.step, "rows": state.rows, "bytes": state.bytes}));
        }
    }
}

fn set_style(bar: &ProgressBar, template: &str) {
    // The templates are constants of this module; the default style stands in for one that would not parse.
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner()));
}

impl Progress for RunProgress {
    fn step(&self, name: &str, total: Option<u64>) {
        let Ok(mut state) = self.state.lock() else { return };
        (state.step, state.rows, state.bytes, state.shown) = (name.to_owned(), 0, 0, Instant::now());
        if self.bars {
            let of = total.map(|total| format!(" ({} to do)", HumanCount(total))).unwrap_or_default();
            state.bar.set_message(format!("{name}{of}"));
        } else {
            self.line(&state, "step", json!({"step": name, "total": total}));
        }
    }

    fn advance(&self, rows: u64, bytes: u64) {
        let Ok(mut state) = self.state.lock() else { return };
        state.rows += rows;
        state.bytes += bytes;
        if state.shown.elapsed() >= BETWEEN_LINES {
            state.shown = Instant::now();
            self.show(&state);
        }
    }
}
