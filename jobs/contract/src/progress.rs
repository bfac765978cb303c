//! Progress of a stage, told to whoever shows it: bars on a terminal, JSON lines in a pod.

use serde::Deserialize;

/// Message of the log line with which a step begins.
pub const STEP_BEGINS: &str = "step begins";
/// Message of the log lines within a step.
pub const PROGRESS: &str = "progress";
/// Longest name of a step that is read from a log, in characters.
const LONGEST_STEP: usize = 128;

/// Receives progress. Calls may come from several threads and must be cheap.
pub trait Progress: Send + Sync {
    /// A step of the stage begins, such as `fetch assets` or `write silver.coins`; `total` in rows or records where known.
    fn step(&self, name: &str, total: Option<u64>);
    /// Rows and bytes handled within the current step.
    fn advance(&self, rows: u64, bytes: u64);
}

/// Shows nothing.
pub struct NoProgress;

impl Progress for NoProgress {
    fn step(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64, _: u64) {}
}

/// How far a step is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Position {
    /// The step, at most 128 characters.
    pub step: String,
    /// Rows or records handled within it.
    #[serde(default)]
    pub rows: u64,
    /// Bytes handled within it.
    #[serde(default)]
    pub bytes: u64,
    /// Rows or records that it will handle, where that is known.
    #[serde(default)]
    pub total: Option<u64>,
}

/// What a line of a job's log says of its progress; nothing for any other line.
///
/// The pod has no port and no API token: its log is the one channel that is there anyway, and the API server hands it out.
pub fn from_log_line(line: &str) -> Option<Position> {
    #[derive(Deserialize)]
    struct Line {
        message: String,
        #[serde(flatten)]
        position: Position,
    }
    let line: Line = serde_json::from_str(line).ok()?;
    if line.message != PROGRESS && line.message != STEP_BEGINS {
        return None;
    }
    let mut position = line.position;
    position.step = position.step.chars().take(LONGEST_STEP).collect();
    Some(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_about_progress_say_something() {
        let line = r#"{"timestamp":"2026-01-01T00:00:00Z","level":"INFO","message":"progress","step":"write silver.a","total":10,"rows":5,"bytes":7,"target":"x"}"#;
        assert_eq!(from_log_line(line), Some(Position { step: "write silver.a".to_owned(), rows: 5, bytes: 7, total: Some(10) }));
        let begins = r#"{"message":"step begins","step":"fetch b","rows":0,"bytes":0}"#;
        assert_eq!(from_log_line(begins), Some(Position { step: "fetch b".to_owned(), rows: 0, bytes: 0, total: None }));
        let long = format!(r#"{{"message":"progress","step":"{}"}}"#, "ä".repeat(1000));
        assert_eq!(from_log_line(&long).map(|position| position.step.chars().count()), Some(128));
        for other in [
            "",
            "plain text",
            r#"{"message":"stage succeeded","rows":1}"#,
            r#"{"message":"progress"}"#,
            r#"{"message":"progress","step":"a","rows":-1}"#,
        ] {
            assert_eq!(from_log_line(other), None, "{other}");
        }
    }
}
