//! What is said on the way, on standard error: lines for a person on a terminal, JSON lines otherwise.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use lakehouse_api::LakehouseRun;
use lakehouse_contract::Stage;
use serde_json::{Value, json};

use super::{
    changes::{Change, words},
    outcome::span,
};

/// How things are said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a person.
    Text,
    /// One JSON object per line.
    Json,
}

impl Format {
    /// What is wanted, or what suits standard error.
    pub fn or_suitable(wanted: Option<Self>) -> Self {
        wanted.unwrap_or_else(|| if std::io::stderr().is_terminal() { Self::Text } else { Self::Json })
    }
}

/// How a run came to be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// We made it.
    Created,
    /// It was at work already.
    Adopted,
    /// It had succeeded already, with our key.
    Finished,
}

impl How {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Adopted => "adopted",
            Self::Finished => "finished",
        }
    }
}

/// Speaks about one run.
pub struct Teller {
    format: Format,
    run: String,
    /// Lines of logs are what was asked for, and go to standard output.
    logs_asked: bool,
}

impl Teller {
    /// One that speaks about the run `run`.
    pub fn new(format: Format, run: &str) -> Self {
        Self { format, run: run.to_owned(), logs_asked: false }
    }

    /// One for somebody who asked for logs: their lines go to standard output.
    pub fn of_logs(format: Format, run: &str) -> Self {
        Self { logs_asked: true, ..Self::new(format, run) }
    }

    /// The run is ours.
    pub fn submitted(&self, run: &LakehouseRun, how: How) {
        let note = match how {
            How::Created => "created",
            How::Adopted => "adopted, it was at work already",
            How::Finished => "it had succeeded already with this key, nothing is executed",
        };
        let interval = span(&run.spec.interval);
        let event = json!({"how": how.as_str(), "pipeline": run.spec.pipeline, "interval": interval});
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        self.say("submitted", event, || {
            format!("run {}: {note}; interval {} … {}", self.run, text(&interval["start"]), text(&interval["end"]))
        });
    }

    /// Something is new.
    pub fn change(&self, change: &Change) {
        match change {
            Change::Stage(stage) => {
                let event = json!({"stage": stage.name, "state": stage.state, "attempt": stage.attempt, "job": stage.job,
                    "reason": stage.reason, "message": stage.message, "retryAt": stage.retry_at, "report": stage.report,
                    "totals": {"rowsRead": stage.rows_read, "rowsWritten": stage.rows_written, "rowsQuarantined": stage.rows_quarantined}});
                self.say("stage", event, || format!("{}: {}", stage.name, words(stage)));
            }
            Change::Status { reason, message } => {
                self.say("status", json!({"reason": reason, "message": message}), || format!("run {}: {reason}: {message}", self.run));
            }
        }
    }

    /// A line of a stage's log.
    pub fn log(&self, stage: Stage, attempt: i32, line: &str) {
        let said = self.line("log", json!({"stage": stage, "attempt": attempt, "line": line}), || format!("{stage} | {line}"));
        // Nobody is left to read what cannot be written.
        let _ = if self.logs_asked { std::io::stdout().write_all(said.as_bytes()) } else { std::io::stderr().write_all(said.as_bytes()) };
    }

    /// Something about the watching itself.
    pub fn note(&self, message: &str) {
        self.say("note", json!({"message": message}), || format!("run {}: {message}", self.run));
    }

    fn say(&self, event: &str, more: Value, text: impl FnOnce() -> String) {
        // Nobody is left to read what cannot be written.
        let _ = std::io::stderr().write_all(self.line(event, more, text).as_bytes());
    }

    fn line(&self, event: &str, more: Value, text: impl FnOnce() -> String) -> String {
        let line = match self.format {
            Format::Text => text(),
            Format::Json => {
                let mut line = json!({"event": event, "run": self.run});
                if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
                    line.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
                }
                line.to_string()
            }
        };
        format!("{line}\n")
    }
}
