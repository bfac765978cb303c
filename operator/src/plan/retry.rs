//! Whether and when a failed attempt is followed by another one, by class of failure.

use chrono::{DateTime, TimeDelta, Utc};
use lakehouse_api::{
    common::{FailureClass, Stage},
    pipeline::ClassLimits,
    run::{StageRetries, StageStatus},
};
use lakehouse_contract::digest_json;

/// The largest part of a wait that jitter adds to it.
const JITTER: f64 = 0.5;

/// Another attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    /// Not before this time.
    pub at: DateTime<Utc>,
    /// Its number among the retries after failures of the class, and how many there may be.
    pub retry: StageRetries,
}

/// The attempt after that of `stage` which ended with a failure of `class`; nothing when it was the last one.
///
/// Every class has its own count, so that ten evictions leave the retries of a source that does not answer as they were.
pub fn again(stage: &StageStatus, uid: &str, class: FailureClass, limits: Option<ClassLimits>, now: DateTime<Utc>) -> Option<Again> {
    let limits = limits?;
    let made = stage.retries.iter().find(|retries| retries.class == class).map_or(0, |retries| retries.count);
    if made >= limits.retries {
        return None;
    }
    let wait = wait(&limits, made, jitter(uid, stage.name, stage.attempt));
    Some(Again { at: now + wait, retry: StageRetries { class, count: made + 1, limit: limits.retries } })
}

/// Enters `retry` into the counts of `stage`.
pub fn count(stage: &mut StageStatus, retry: StageRetries) {
    match stage.retries.iter_mut().find(|there| there.class == retry.class) {
        Some(there) => *there = retry,
        None => stage.retries.push(retry),
    }
}

/// The wait after `made` retries: the base doubled for each, at most the class's longest, and a part of that as jitter. In whole
/// seconds, which is what the API keeps.
fn wait(limits: &ClassLimits, made: i32, jitter: f64) -> TimeDelta {
    let doublings = u32::try_from(made).unwrap_or_default().min(30);
    let longest = limits.max_backoff.0.max(limits.backoff.0);
    let wait = limits.backoff.0.saturating_mul(1 << doublings).min(longest);
    let wait = wait.saturating_add(wait.mul_f64(jitter.clamp(0.0, 1.0) * JITTER));
    TimeDelta::try_seconds(i64::try_from(wait.as_secs()).unwrap_or(i64::MAX)).unwrap_or(TimeDelta::MAX)
}

/// A number from 0 to 1 that belongs to the attempt: whoever decides again decides the same, and a hundred runs that failed at one moment
/// do not come back at one moment.
fn jitter(uid: &str, stage: Stage, attempt: i32) -> f64 {
    let digest = digest_json(&(uid, stage, attempt));
    let head = digest.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default();
    f64::from(head) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::status::pending;
    use lakehouse_api::common::HumanDuration;

    fn limits(retries: i32, backoff: u64, longest: u64) -> ClassLimits {
        ClassLimits { retries, backoff: HumanDuration::seconds(backoff), max_backoff: HumanDuration::seconds(longest) }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_jitter_adds_to_them() {
        let seconds = |made, jitter| wait(&limits(9, 30, 600), made, jitter).num_seconds();
        assert_eq!([0, 1, 2, 3, 4, 5, 30].map(|made| seconds(made, 0.0)), [30, 60, 120, 240, 480, 600, 600]);
        assert_eq!((seconds(0, 1.0), seconds(9, 1.0)), (45, 900));
        // A wait that is longer than the longest by default is meant.
        assert_eq!(wait(&limits(9, 1_800, 600), 3, 0.0).num_seconds(), 1_800);
        // Nonsense that a schema lets through: no overflow.
        assert!(wait(&limits(9, u64::MAX, u64::MAX), 20, 1.0) > TimeDelta::days(1));
        assert_eq!(wait(&limits(9, 0, 0), 3, 1.0), TimeDelta::zero());
    }

    #[test]
    fn jitter_is_spread_and_the_same_again() {
        let of = |attempt| jitter("0f0e0d0c-0b0a-4908-8706-050403020100", Stage::Silver, attempt);
        assert!((of(1) - of(1)).abs() < f64::EPSILON);
        let all: Vec<f64> = (0..200).map(of).collect();
        assert!(all.iter().all(|value| (0.0..=1.0).contains(value)));
        let low = all.iter().filter(|value| **value < 0.5).count();
        assert!((60..140).contains(&low), "{low} of 200 in the lower half");
    }

    #[test]
    fn classes_are_counted_apart() {
        let now = DateTime::from_timestamp(1_704_067_200, 0).unwrap();
        let mut stage = pending(Stage::Silver);
        stage.attempt = 1;
        for number in 1..=2 {
            let next = again(&stage, "uid", FailureClass::Disruption, Some(limits(2, 10, 60)), now).unwrap();
            assert_eq!(next.retry, StageRetries { class: FailureClass::Disruption, count: number, limit: 2 });
            count(&mut stage, next.retry);
        }
        assert_eq!(again(&stage, "uid", FailureClass::Disruption, Some(limits(2, 10, 60)), now), None);
        assert!(again(&stage, "uid", FailureClass::Retryable, Some(limits(1, 10, 60)), now).is_some());
        assert_eq!(again(&stage, "uid", FailureClass::Terminal, None, now), None);
        assert_eq!(stage.retries.len(), 1);
    }
}
