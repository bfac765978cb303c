//! What the result of a rule means: a word, and a failure.

use lakehouse_api::pipeline::Otherwise;
use lakehouse_contract::{ExpectationResult, Reason, RuleKind, StageFailure, TableRef};

/// `passed`, or what happened because the rule was broken: `warned`, `quarantined`, `dropped`, `failed`.
pub fn verdict_of(result: &ExpectationResult) -> &'static str {
    match result.otherwise {
        _ if result.passed => "passed",
        Some(Otherwise::Quarantine) => "quarantined",
        Some(Otherwise::Drop) => "dropped",
        Some(Otherwise::Fail) => "failed",
        Some(Otherwise::Warn) | None => "warned",
    }
}

/// The failure that the first broken rule with `otherwise: fail` means for the stage.
pub fn failure_of(table: &TableRef, results: &[ExpectationResult]) -> Option<StageFailure> {
    let broken = results.iter().find(|result| !result.passed && result.otherwise == Some(Otherwise::Fail))?;
    let (bound, rows) = (&broken.bound, broken.failed);
    let observed = broken.observed.as_deref().unwrap_or("no value");
    let what = match broken.kind {
        RuleKind::Row => format!("`{bound}` does not hold for {rows} rows; the first is {observed}"),
        RuleKind::Batch => format!("`{bound}` does not hold over the {} rows of this run: {observed}", broken.checked.unwrap_or_default()),
        RuleKind::Table => format!("`{bound}` does not hold over the table as it would be: {observed}"),
        RuleKind::Unique => format!("{bound} would not be unique: {observed}"),
        RuleKind::Freshness => format!("{bound}, but it would be {observed}"),
        RuleKind::References => format!("{rows} rows have no partner in {bound}; the first is {observed}"),
        RuleKind::Distribution => format!("{bound} does not hold over the rows of this run: {observed}"),
    };
    Some(StageFailure::new(Reason::ExpectationFailed, format!("{table} expectation {}: {what}", broken.name)))
}
