//! Status conditions, changed only when they differ, and the two kinds of time that the API's types use.

use chrono::{DateTime, Utc};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// The condition of type `type_`.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// What a condition shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// One word.
    pub reason: String,
    /// The line a person reads.
    pub message: String,
}

impl Verdict {
    /// A verdict.
    pub fn new(status: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), message: message.into() }
    }
}

/// Sets the condition of type `type_`. `lastTransitionTime` moves only when its status changes.
pub fn set(conditions: &mut Vec<Condition>, type_: &str, verdict: Verdict, generation: Option<i64>, now: DateTime<Utc>) {
    let previous = find(conditions, type_);
    let since = match previous {
        Some(previous) if previous.status == verdict.status => previous.last_transition_time.clone(),
        _ => time(now),
    };
    let next = Condition {
        type_: type_.to_owned(),
        status: verdict.status.to_owned(),
        reason: verdict.reason,
        message: verdict.message,
        observed_generation: generation,
        last_transition_time: since,
    };
    match conditions.iter_mut().find(|condition| condition.type_ == type_) {
        Some(condition) => *condition = next,
        None => conditions.push(next),
    }
}

/// `instant` as the API's type, in whole seconds.
pub fn time(instant: DateTime<Utc>) -> Time {
    Time(Timestamp::from_second(instant.timestamp()).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// The API's type as an instant, in whole seconds.
pub fn instant(time: &Time) -> DateTime<Utc> {
    DateTime::from_timestamp(time.0.as_second(), 0).unwrap_or(DateTime::UNIX_EPOCH)
}

/// `instant` without its fraction of a second: what survives a round trip through the API server.
pub fn whole_seconds(instant: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(instant.timestamp(), 0).unwrap_or(instant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_verdict_changes_nothing() {
        let mut conditions = Vec::new();
        let start = DateTime::from_timestamp(1_700_000_000, 5).unwrap();
        let later = start + chrono::TimeDelta::minutes(5);
        set(&mut conditions, "Ready", Verdict::new("True", "Valid", "fine"), Some(1), start);
        let first = conditions.clone();
        set(&mut conditions, "Ready", Verdict::new("True", "Valid", "fine"), Some(1), later);
        assert_eq!(conditions, first);
        set(&mut conditions, "Ready", Verdict::new("False", "Invalid", "no"), Some(1), later);
        assert_eq!(instant(&conditions[0].last_transition_time), whole_seconds(later));
    }
}
