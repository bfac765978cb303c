//! Trace context of runs, as in the W3C recommendation [Trace Context](https://www.w3.org/TR/trace-context/#traceparent-header).
//!
//! Nothing is drawn by chance and nothing is kept: the trace of a run is its UID, the spans of its stages are derived from it. So whoever knows
//! a run knows its trace, and an operator that starts anew continues the same one.

use std::fmt;

use lakehouse_api::common::Stage;
use sha2::{Digest, Sha256};

/// Place of a piece of work in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace: 16 bytes, not all zero.
    pub trace_id: [u8; 16],
    /// The span within it: 8 bytes, not all zero.
    pub span_id: [u8; 8],
}

impl TraceContext {
    /// The run whose UID is `uid`: the root of its trace.
    pub fn of_run(uid: &str) -> Self {
        let trace_id = trace_id(uid);
        Self { trace_id, span_id: span_id(&trace_id, "run") }
    }

    /// One attempt of a stage, from 1, of this run.
    #[must_use]
    pub fn attempt(&self, stage: Stage, attempt: u32) -> Self {
        Self { trace_id: self.trace_id, span_id: span_id(&self.trace_id, &format!("{stage}-{attempt}")) }
    }

    /// Reads a `traceparent` of any version whose beginning is that of version 00; nothing for what is none.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version.len() != 2 || version == "ff" || flags.len() != 2 || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let lower = |text: &str| !text.bytes().any(|byte| byte.is_ascii_uppercase());
        if ![version, trace, span, flags].into_iter().all(lower) {
            return None;
        }
        let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
        hex::decode_to_slice(trace, &mut trace_id).ok()?;
        hex::decode_to_slice(span, &mut span_id).ok()?;
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self { trace_id, span_id })
    }

    /// The trace as 32 lower-case hexadecimal digits.
    pub fn trace(&self) -> String {
        hex::encode(self.trace_id)
    }

    /// The span as 16 lower-case hexadecimal digits.
    pub fn span(&self) -> String {
        hex::encode(self.span_id)
    }
}

/// The header `traceparent`, version 00, sampled.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-01", self.trace(), self.span())
    }
}

/// The digits of a UUID; of anything else a digest, so that every run has a trace.
fn trace_id(uid: &str) -> [u8; 16] {
    let digits: String = uid.chars().filter(|c| *c != '-').collect();
    let mut id = [0; 16];
    if hex::decode_to_slice(&digits, &mut id).is_ok() && id != [0; 16] {
        return id;
    }
    id.copy_from_slice(&Sha256::digest(uid.as_bytes())[..16]);
    id
}

fn span_id(trace: &[u8; 16], of: &str) -> [u8; 8] {
    let mut id = [0; 8];
    let mut digest = Sha256::new();
    digest.update(trace);
    digest.update(of.as_bytes());
    id.copy_from_slice(&digest.finalize()[..8]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f0e0d0c-0b0a-4908-8706-050403020100";

    #[test]
    fn a_run_s_trace_is_its_uid_and_every_attempt_has_a_span() {
        let run = TraceContext::of_run(UID);
        assert_eq!(run.trace(), "0f0e0d0c0b0a49088706050403020100");
        let spans: std::collections::BTreeSet<String> =
            [run, run.attempt(Stage::Ingest, 1), run.attempt(Stage::Silver, 1), run.attempt(Stage::Silver, 2)]
                .iter()
                .map(TraceContext::span)
                .collect();
        assert_eq!(spans.len(), 4);
        assert_eq!(run, TraceContext::of_run(UID), "nothing is drawn by chance");
        assert_ne!(TraceContext::of_run("uid-1").trace_id, TraceContext::of_run("uid-2").trace_id);
        assert_ne!(TraceContext::of_run("00000000-0000-0000-0000-000000000000").trace_id, [0; 16]);
    }

    #[test]
    fn a_traceparent_survives_and_what_is_none_is_refused() {
        let attempt = TraceContext::of_run(UID).attempt(Stage::Gold, 3);
        assert_eq!(TraceContext::parse(&attempt.to_string()), Some(attempt));
        // The example of the recommendation.
        let example = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").expect("it is one");
        assert_eq!((example.trace().as_str(), example.span().as_str()), ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"));
        for wrong in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(wrong), None, "{wrong}");
        }
    }
}
