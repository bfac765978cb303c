//! Intervals of data: start inclusive, end exclusive, on the boundaries of a grain in UTC.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, SecondsFormat, TimeDelta, Timelike, Utc};
use lakehouse_api::{common::IntervalGrain, run::RunInterval};
use serde::{Deserialize, Serialize};

/// An interval of data, start inclusive, end exclusive, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Interval {
    /// First instant.
    pub start: DateTime<Utc>,
    /// First instant after it.
    pub end: DateTime<Utc>,
}

/// Why a text or a pair of instants is no interval.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidInterval {
    /// Not a date or time.
    #[error("`{0}` is not an interval: write 2024-01-01, 2024-01 (monthly), 2024-01-01T05 (hourly) or a time such as 2024-01-01T00:00:00Z")]
    Text(String),
    /// A year that has not four digits.
    #[error("the interval that begins at {0} does not lie within the years 0 to 9999")]
    Year(String),
    /// Start is not before end.
    #[error("the interval's start {0} is not before its end {1}")]
    Order(String, String),
    /// Not on the grain's boundaries.
    #[error("the interval {0} … {1} is not one {2} interval: expected {3} … {4}")]
    Grain(String, String, &'static str, String, String),
}

/// RFC 3339 in UTC with `Z`, seconds or finer only where needed.
pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

fn midnight(date: NaiveDate) -> DateTime<Utc> {
    date.and_time(NaiveTime::MIN).and_utc()
}

fn grain_word(grain: IntervalGrain) -> &'static str {
    match grain {
        IntervalGrain::Hourly => "hourly",
        IntervalGrain::Daily => "daily",
        IntervalGrain::Monthly => "monthly",
    }
}

impl Interval {
    /// The interval of `grain` that contains `time`.
    pub fn containing(grain: IntervalGrain, time: DateTime<Utc>) -> Self {
        let day = time.date_naive();
        let start = match grain {
            IntervalGrain::Hourly => midnight(day) + TimeDelta::hours(i64::from(time.hour())),
            IntervalGrain::Daily => midnight(day),
            IntervalGrain::Monthly => midnight(day.with_day(1).unwrap_or(day)),
        };
        Self { start, end: Self::shifted(grain, start, 1) }
    }

    /// The newest interval of `grain` that has ended at `now`.
    pub fn last_complete(grain: IntervalGrain, now: DateTime<Utc>) -> Self {
        let current = Self::containing(grain, now);
        Self { start: Self::shifted(grain, current.start, -1), end: current.start }
    }

    /// The interval after this one.
    pub fn next(&self, grain: IntervalGrain) -> Self {
        Self::containing(grain, self.end)
    }

    /// `start` moved by a number of grains.
    pub fn shifted(grain: IntervalGrain, start: DateTime<Utc>, grains: i32) -> DateTime<Utc> {
        let count = grains.unsigned_abs();
        let moved = match grain {
            IntervalGrain::Hourly => start.checked_add_signed(TimeDelta::hours(i64::from(grains))),
            IntervalGrain::Daily if grains >= 0 => start.checked_add_days(Days::new(u64::from(count))),
            IntervalGrain::Daily => start.checked_sub_days(Days::new(u64::from(count))),
            IntervalGrain::Monthly if grains >= 0 => start.checked_add_months(Months::new(count)),
            IntervalGrain::Monthly => start.checked_sub_months(Months::new(count)),
        };
        moved.unwrap_or(start)
    }

    /// The interval that `text` means: `2024-01-01`, `2024-01`, `2024-01-01T05` or an RFC 3339 time, taken as the
    /// interval of `grain` that begins there.
    ///
    /// # Errors
    /// [`InvalidInterval`] when `text` is no time, or is not the start of an interval of `grain`.
    pub fn parse(grain: IntervalGrain, text: &str) -> Result<Self, InvalidInterval> {
        let invalid = || InvalidInterval::Text(text.to_owned());
        let start = match text.len() {
            7 => midnight(NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d").map_err(|_| invalid())?),
            10 => midnight(NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| invalid())?),
            13 => DateTime::parse_from_rfc3339(&format!("{text}:00:00Z")).map_err(|_| invalid())?.to_utc(),
            _ => DateTime::parse_from_rfc3339(text).map_err(|_| invalid())?.to_utc(),
        };
        let whole = Self::containing(grain, start);
        Self { start, end: whole.end }.aligned(grain)
    }

    /// This interval, checked to be exactly one interval of `grain`.
    ///
    /// # Errors
    /// [`InvalidInterval`] that says what was expected.
    pub fn aligned(self, grain: IntervalGrain) -> Result<Self, InvalidInterval> {
        // Labels are in the order of time, and times are RFC 3339, for years of four digits only.
        if self.start.year() < 0 || self.end.year() > 9999 {
            return Err(InvalidInterval::Year(rfc3339(self.start)));
        }
        if self.start >= self.end {
            return Err(InvalidInterval::Order(rfc3339(self.start), rfc3339(self.end)));
        }
        let whole = Self::containing(grain, self.start);
        if whole != self {
            return Err(InvalidInterval::Grain(
                rfc3339(self.start),
                rfc3339(self.end),
                grain_word(grain),
                rfc3339(whole.start),
                rfc3339(whole.end),
            ));
        }
        Ok(self)
    }

    /// The `dt=` value of bronze keys and the suffix of run names: `2024-01-01`, `2024-01-01T05`, `2024-01`.
    pub fn label(&self, grain: IntervalGrain) -> String {
        let format = match grain {
            IntervalGrain::Hourly => "%Y-%m-%dT%H",
            IntervalGrain::Daily => "%Y-%m-%d",
            IntervalGrain::Monthly => "%Y-%m",
        };
        self.start.format(format).to_string()
    }

    /// Whether a source that knows only "now" can still answer for this interval: at most one grain and an hour after its end.
    pub fn within_grace(&self, grain: IntervalGrain, now: DateTime<Utc>) -> bool {
        now < Self::shifted(grain, self.end, 1) + TimeDelta::hours(1)
    }
}

impl From<&RunInterval> for Interval {
    fn from(interval: &RunInterval) -> Self {
        Self { start: interval.start, end: interval.end }
    }
}

impl From<Interval> for RunInterval {
    fn from(interval: Interval) -> Self {
        Self { start: interval.start, end: interval.end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    #[test]
    fn grains_have_calendar_boundaries() {
        let time = at("2024-02-29T13:14:15Z");
        let month = Interval::containing(IntervalGrain::Monthly, time);
        assert_eq!((month.start, month.end), (at("2024-02-01T00:00:00Z"), at("2024-03-01T00:00:00Z")));
        let day = Interval::last_complete(IntervalGrain::Daily, time);
        assert_eq!(day.label(IntervalGrain::Daily), "2024-02-28");
        let hour = Interval::containing(IntervalGrain::Hourly, time).next(IntervalGrain::Hourly);
        assert_eq!(hour.label(IntervalGrain::Hourly), "2024-02-29T14");
    }

    #[test]
    fn a_text_is_the_interval_that_begins_there() {
        let day = Interval::parse(IntervalGrain::Daily, "2024-01-01").unwrap();
        assert_eq!(day.end, at("2024-01-02T00:00:00Z"));
        assert_eq!(Interval::parse(IntervalGrain::Monthly, "2024-01").unwrap().end, at("2024-02-01T00:00:00Z"));
        assert_eq!(Interval::parse(IntervalGrain::Hourly, "2024-01-01T05").unwrap().end, at("2024-01-01T06:00:00Z"));
        let error = Interval::parse(IntervalGrain::Daily, "2024-01-01T05").unwrap_err();
        assert!(error.to_string().contains("is not one daily interval"), "{error}");
        assert!(Interval::parse(IntervalGrain::Daily, "2024-02-30").is_err());
        for (grain, text) in [(IntervalGrain::Daily, "-024-02-29"), (IntervalGrain::Monthly, "9999-12")] {
            let error = Interval::parse(grain, text).unwrap_err();
            assert!(error.to_string().ends_with("does not lie within the years 0 to 9999"), "{text}: {error}");
        }
        assert!(Interval::parse(IntervalGrain::Daily, "0000-01-01").is_ok());
    }
}
