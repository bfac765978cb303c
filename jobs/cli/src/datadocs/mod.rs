//! A page about the quality of the data: what `quality.results` and the quarantine tables hold, as HTML.

mod gather;
mod page;

pub use gather::{Wanted, gather};
pub use page::page;

use chrono::{DateTime, Utc};

/// What the page shows.
#[derive(Clone, Debug, Default)]
pub struct Docs {
    /// The tables, ordered by pipeline and name.
    pub tables: Vec<TableDocs>,
}

/// One table of one pipeline.
#[derive(Clone, Debug)]
pub struct TableDocs {
    /// `namespace/name`.
    pub pipeline: String,
    /// `silver.NAME`.
    pub table: String,
    /// Its rules, ordered by name.
    pub rules: Vec<RuleDocs>,
}

/// One rule of a table.
#[derive(Clone, Debug)]
pub struct RuleDocs {
    /// Its name, or the reason of quarantine.
    pub rule: String,
    /// `row`, `batch`, `table`, `unique`, `freshness`, `references`, `distribution` or `schema`.
    pub kind: String,
    /// Results of the newest runs, newest first; never empty.
    pub history: Vec<RunResult>,
    /// Records that are in quarantine because of it.
    pub samples: Vec<Sample>,
    /// How many there are in all.
    pub in_quarantine: u64,
}

/// The result of a rule in one run.
#[derive(Clone, Debug)]
pub struct RunResult {
    /// Identity of the run.
    pub run: String,
    /// First instant of its interval.
    pub interval: DateTime<Utc>,
    /// `passed`, `warned`, `quarantined`, `dropped` or `failed`.
    pub verdict: String,
    /// Rows looked at.
    pub checked: Option<i64>,
    /// Rows that broke it.
    pub failed: i64,
    /// What was found.
    pub observed: Option<String>,
    /// What was asked for.
    pub bound: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// A quarantined record.
#[derive(Clone, Debug)]
pub struct Sample {
    /// First instant of its interval.
    pub interval: DateTime<Utc>,
    /// Bronze key.
    pub object: String,
    /// Its number in the object.
    pub position: i64,
    /// What is wrong with it.
    pub reason: String,
    /// The record.
    pub record: String,
}

impl Docs {
    /// `2 tables, 7 rules, 1 not passed in its last run`.
    pub fn summary(&self) -> String {
        let rules: Vec<&RuleDocs> = self.tables.iter().flat_map(|table| &table.rules).collect();
        let broken = rules.iter().filter(|rule| !rule.passes()).count();
        format!("{} tables, {} rules, {broken} not passed in the last run", self.tables.len(), rules.len())
    }
}

impl RuleDocs {
    /// Whether the newest result is that it passed.
    pub fn passes(&self) -> bool {
        self.history.first().is_some_and(|result| result.verdict == "passed")
    }

    /// Share of the shown runs that it passed in, in percent.
    pub fn pass_rate(&self) -> f64 {
        let passed = self.history.iter().filter(|result| result.verdict == "passed").count();
        if self.history.is_empty() { 0.0 } else { 100.0 * passed as f64 / self.history.len() as f64 }
    }
}
