//! The ticks of a generated source: the multiples of a duration since 1970-01-01T00:00:00Z, so that neighbouring intervals neither share
//! nor miss one, whatever the grain.

use std::time::Duration;

use chrono::{DateTime, Utc};
use lakehouse_contract::Interval;

/// The ticks `first … end` (exclusive), in multiples of `seconds`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ticks {
    /// Number of the first tick.
    pub first: i64,
    /// Number after the last one.
    pub end: i64,
    /// Seconds between two.
    pub seconds: i64,
}

impl Ticks {
    /// The ticks of an interval; none where `every` is less than a second.
    pub fn of(interval: &Interval, every: Duration) -> Option<Self> {
        let seconds = i64::try_from(every.as_secs()).ok().filter(|seconds| *seconds > 0)?;
        let up = |time: DateTime<Utc>| time.timestamp().div_euclid(seconds) + i64::from(time.timestamp().rem_euclid(seconds) > 0);
        Some(Self { first: up(interval.start), end: up(interval.end), seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lakehouse_contract::IntervalGrain;

    #[test]
    fn neighbouring_intervals_neither_share_nor_miss_a_tick() {
        let day = Interval::parse(IntervalGrain::Daily, "2024-01-01").unwrap();
        let seven = Duration::from_secs(7 * 60);
        let (today, tomorrow) = (Ticks::of(&day, seven).unwrap(), Ticks::of(&day.next(IntervalGrain::Daily), seven).unwrap());
        assert_eq!(today.end, tomorrow.first);
        assert!(today.first * 420 >= day.start.timestamp() && (today.first - 1) * 420 < day.start.timestamp());
        assert!((today.end - 1) * 420 < day.end.timestamp() && today.end * 420 >= day.end.timestamp());
        assert_eq!(Ticks::of(&day, Duration::ZERO), None);
    }
}
