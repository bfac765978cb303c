//! What a termination message says, from a job of this release or of a neighbouring one ([`lakehouse_contract::version`]).

use lakehouse_contract::{
    Reason, Termination,
    version::{CONTRACT_VERSION, Neighbour, OLDEST_CONTRACT, neighbour},
};
use serde::Deserialize;
use serde_json::Value;

/// A job's own words about its end.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Report {
    /// There are none, or they are cut off.
    Lost,
    /// They are of a contract version that this operator does not read; what to do.
    Foreign(String),
    /// They were read.
    Read {
        /// The report's short form; without its failure where the reason is not known here.
        termination: Box<Termination>,
        /// Why the stage failed, if it did.
        failure: Option<Said>,
    },
}

/// A failure in the words of the job.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    /// The reason as it was written.
    pub word: String,
    /// The same, if it is one of this release.
    pub reason: Option<Reason>,
    /// The line a person reads.
    pub message: String,
    /// Whether another attempt can help.
    pub retryable: bool,
}

/// Most characters of a reason that is handed on.
const LONGEST_REASON: usize = 64;

/// Reads a termination message.
pub(super) fn read(message: &str) -> Report {
    #[derive(Deserialize)]
    struct Words {
        reason: String,
        message: String,
        retryable: bool,
    }
    let Ok(mut document) = serde_json::from_str::<Value>(message) else { return Report::Lost };
    let Some(contract) = document.get("contract").and_then(Value::as_u64) else { return Report::Lost };
    let which = format!("its report has contract version {contract}, this operator reads {OLDEST_CONTRACT} to {CONTRACT_VERSION}");
    match neighbour(contract) {
        Neighbour::Near => {}
        Neighbour::Newer => {
            return Report::Foreign(format!("{which}: the image is of a newer release, upgrade the operator (`image` of the chart)"));
        }
        Neighbour::TooOld => {
            return Report::Foreign(format!("{which}: the image is of an older release, upgrade it (`stages` of the chart)"));
        }
    }
    let failure = match document.get("failure") {
        None | Some(Value::Null) => None,
        Some(failure) => match Words::deserialize(failure) {
            Ok(words) => Some(words),
            Err(_) => return Report::Lost,
        },
    };
    let failure = failure.map(|Words { reason: word, message, retryable }| {
        let reason = serde_json::from_value(Value::String(word.clone())).ok();
        Said { word: if reason.is_some() { word } else { printable(word) }, reason, message, retryable }
    });
    if failure.as_ref().is_some_and(|failure| failure.reason.is_none())
        && let Some(fields) = document.as_object_mut()
    {
        fields.remove("failure");
    }
    match serde_json::from_value(document) {
        Ok(termination) => Report::Read { termination: Box::new(termination), failure },
        Err(_) => Report::Lost,
    }
}

/// A reason that is not known here, as one that the API server takes.
fn printable(word: String) -> String {
    let fits = (1..=LONGEST_REASON).contains(&word.len())
        && word.starts_with(|first: char| first.is_ascii_alphabetic())
        && word.chars().all(|letter| letter.is_ascii_alphanumeric());
    if fits { word } else { "UnknownReason".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(name: &str) -> String {
        let path = format!("{}/../tests/vectors/contract-1/{name}.json", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    #[test]
    fn reports_of_the_first_release_are_read() {
        let Report::Read { termination, failure: None } = read(&vector("termination-succeeded")) else { panic!("not read") };
        assert_eq!((termination.totals.rows_written, termination.tables.len()), (18, 1));
        let Report::Read { termination, failure: Some(said) } = read(&vector("termination-failed")) else { panic!("not read") };
        assert_eq!((said.reason, said.retryable), (Some(Reason::ExpectationFailed), false));
        assert_eq!(termination.failure.map(|failure| failure.message), Some(said.message));
    }

    #[test]
    fn what_a_newer_job_says_beside_is_passed_over() {
        let mut document: Value = serde_json::from_str(&vector("termination-failed")).unwrap();
        document["carbon"] = 7.into();
        document["totals"]["rowsMasked"] = 1.into();
        document["failure"]["hint"] = "look there".into();
        document["failure"]["reason"] = "SourceAsleep".into();
        document["failure"]["retryable"] = true.into();
        let Report::Read { termination, failure: Some(said) } = read(&document.to_string()) else { panic!("not read") };
        assert_eq!((said.word.as_str(), said.reason, said.retryable), ("SourceAsleep", None, true));
        assert_eq!((termination.totals.rows_read, termination.failure), (20, None));
        for odd in ["", "two words", "1st", "ä", &"x".repeat(65)] {
            document["failure"]["reason"] = odd.into();
            let Report::Read { failure: Some(said), .. } = read(&document.to_string()) else { panic!("not read") };
            assert_eq!(said.word, "UnknownReason");
        }
    }

    #[test]
    fn another_contract_says_which_side_to_upgrade() {
        let mut document: Value = serde_json::from_str(&vector("termination-succeeded")).unwrap();
        for (contract, side) in [(2, "upgrade the operator (`image` of the chart)"), (0, "upgrade it (`stages` of the chart)")] {
            document["contract"] = contract.into();
            let Report::Foreign(why) = read(&document.to_string()) else { panic!("contract {contract} was read") };
            assert!(why.starts_with(&format!("its report has contract version {contract}, this operator reads 1 to 1")), "{why}");
            assert!(why.ends_with(side), "{why}");
        }
        for cut in ["", "half a mess", "{}", "{\"contract\": 1}", "{\"contract\": 1, \"totals\": {}, \"failure\": {\"reason\": 3}}"] {
            assert_eq!(read(cut), Report::Lost, "{cut}");
        }
    }
}
