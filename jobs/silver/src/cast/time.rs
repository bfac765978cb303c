//! Dates and times from text (RFC 3339) and from numbers, exact to the microsecond or not at all.

use lakehouse_api::pipeline::TimeUnit;

use super::number::{NumberFault, POWERS, scaled};

/// Microseconds of a day.
pub(crate) const DAY: i64 = 86_400_000_000;

/// A date and time as it stands in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Microseconds since 1970-01-01T00:00:00 of the wall clock.
    pub(crate) wall: i64,
    /// Minutes east of UTC; absent when the text has no offset.
    pub(crate) offset: Option<i32>,
}

/// Why a text is no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeFault {
    /// Not of the form.
    Syntax,
    /// No such day or time of day.
    Range,
    /// Finer than a microsecond.
    Lossy,
}

/// Days since 1970-01-01 of a day of the Gregorian calendar (Howard Hinnant's algorithm).
#[inline]
fn days(year: i32, month: i32, day: i32) -> i32 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[inline]
fn two(bytes: &[u8], at: usize) -> Result<i32, TimeFault> {
    match bytes.get(at..at + 2) {
        Some([a @ b'0'..=b'9', b @ b'0'..=b'9']) => Ok(i32::from(a - b'0') * 10 + i32::from(b - b'0')),
        _ => Err(TimeFault::Syntax),
    }
}

#[inline]
fn byte(bytes: &[u8], at: usize, wanted: &[u8]) -> Result<(), TimeFault> {
    match bytes.get(at) {
        Some(byte) if wanted.contains(byte) => Ok(()),
        _ => Err(TimeFault::Syntax),
    }
}

/// Days since 1970-01-01 of the `YYYY-MM-DD` that `bytes` begins with.
#[inline]
fn leading_date(bytes: &[u8]) -> Result<i32, TimeFault> {
    let year = two(bytes, 0)? * 100 + two(bytes, 2)?;
    byte(bytes, 4, b"-")?;
    let month = two(bytes, 5)?;
    byte(bytes, 7, b"-")?;
    let day = two(bytes, 8)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return Err(TimeFault::Range),
    };
    if day < 1 || day > last {
        return Err(TimeFault::Range);
    }
    Ok(days(year, month, day))
}

/// Days since 1970-01-01 of `YYYY-MM-DD`.
pub(crate) fn date(text: &str) -> Result<i32, TimeFault> {
    let bytes = text.as_bytes();
    let days = leading_date(bytes)?;
    if bytes.len() == 10 { Ok(days) } else { Err(TimeFault::Syntax) }
}

/// A date and time: `YYYY-MM-DDThh:mm:ss[.f…][Z|±hh:mm]`; a space may stand for the `T`.
#[inline]
pub(crate) fn date_time(text: &str) -> Result<Written, TimeFault> {
    let bytes = text.as_bytes();
    let days = leading_date(bytes)?;
    byte(bytes, 10, b"Tt ")?;
    let hour = two(bytes, 11)?;
    byte(bytes, 13, b":")?;
    let minute = two(bytes, 14)?;
    byte(bytes, 16, b":")?;
    let second = two(bytes, 17)?;
    if hour > 23 || minute > 59 || second > 59 {
        return Err(TimeFault::Range);
    }
    let mut at = 19;
    let mut micros = 0_i64;
    if bytes.get(at) == Some(&b'.') {
        at += 1;
        let start = at;
        let mut unit = 100_000;
        while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
            if unit == 0 && *digit != b'0' {
                return Err(TimeFault::Lossy);
            }
            micros += i64::from(digit - b'0') * unit;
            unit /= 10;
            at += 1;
        }
        if at == start {
            return Err(TimeFault::Syntax);
        }
    }
    let offset = match &bytes[at..] {
        [] => None,
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), rest @ ..] if rest.len() == 5 => {
            let (hours, minutes) = (two(rest, 0)?, two(rest, 3)?);
            byte(rest, 2, b":")?;
            if hours > 23 || minutes > 59 {
                return Err(TimeFault::Range);
            }
            let total = hours * 60 + minutes;
            Some(if *sign == b'-' { -total } else { total })
        }
        _ => return Err(TimeFault::Syntax),
    };
    let seconds = i64::from(hour) * 3_600 + i64::from(minute) * 60 + i64::from(second);
    Ok(Written { wall: i64::from(days) * DAY + seconds * 1_000_000 + micros, offset })
}

/// The power of ten that turns a number of `unit` into microseconds.
const fn exponent(unit: TimeUnit) -> i32 {
    match unit {
        TimeUnit::Seconds => 6,
        TimeUnit::Milliseconds => 3,
        TimeUnit::Microseconds => 0,
        TimeUnit::Nanoseconds => -3,
    }
}

/// Microseconds since 1970 of a number of `unit` in text.
pub(crate) fn micros_of_text(text: &str, unit: TimeUnit) -> Result<i64, NumberFault> {
    scaled(text, exponent(unit)).and_then(|micros| i64::try_from(micros).map_err(|_| NumberFault::Overflow))
}

/// Microseconds since 1970 of a number of `unit`.
pub(crate) fn micros_of(value: i64, unit: TimeUnit) -> Result<i64, NumberFault> {
    let exponent = exponent(unit);
    let power = POWERS[exponent.unsigned_abs() as usize] as i64;
    if exponent >= 0 {
        return value.checked_mul(power).ok_or(NumberFault::Overflow);
    }
    if value % power == 0 { Ok(value / power) } else { Err(NumberFault::Lossy) }
}

/// The day of a time that is a midnight.
pub(crate) fn whole_days(micros: i64) -> Result<i32, NumberFault> {
    if micros.rem_euclid(DAY) != 0 {
        return Err(NumberFault::Lossy);
    }
    i32::try_from(micros.div_euclid(DAY)).map_err(|_| NumberFault::Overflow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, NaiveDate};

    #[test]
    fn every_day_of_eight_centuries_is_chronos() {
        let first = NaiveDate::from_ymd_opt(1600, 1, 1).unwrap();
        for offset in 0..292_194 {
            let day = first + chrono::Days::new(offset);
            let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
            assert_eq!(date(&day.to_string()), Ok((day - epoch).num_days() as i32), "{day}");
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        for text in ["2024-02-29T23:59:59.123456Z", "1969-12-31T00:00:00.5+05:30", "2024-01-01t00:00:00z", "0001-01-01T00:00:00-23:59"] {
            let written = date_time(text).unwrap();
            let instant = written.wall - i64::from(written.offset.unwrap()) * 60_000_000;
            assert_eq!(instant, DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros(), "{text}");
        }
        assert_eq!(date_time("2024-01-01 00:00:00").unwrap().offset, None);
        assert_eq!(date_time("2024-01-01T00:00:00.1234560Z"), date_time("2024-01-01T00:00:00.123456Z"));
        assert_eq!(date_time("2024-01-01T00:00:00.1234567Z"), Err(TimeFault::Lossy));
        for text in ["2023-02-29T00:00:00Z", "2024-13-01T00:00:00Z", "2024-01-01T24:00:00Z", "2024-01-01T00:00:60Z", "2024-01-00T00:00:00Z"]
        {
            assert_eq!(date_time(text), Err(TimeFault::Range), "{text}");
        }
        for text in [
            "",
            "2024",
            "2024-01-01",
            "2024-01-01T00:00",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+0100",
            "2024-01-01T00:00:00 Z",
            "２０24-01-01T00:00:00Z",
        ] {
            assert_eq!(date_time(text), Err(TimeFault::Syntax), "{text}");
        }
    }

    #[test]
    fn numbers_need_to_be_whole() {
        assert_eq!(micros_of_text("1.5", TimeUnit::Seconds), Ok(1_500_000));
        assert_eq!(micros_of_text("1704067200000", TimeUnit::Milliseconds), Ok(1_704_067_200_000_000));
        assert_eq!(micros_of_text("1", TimeUnit::Nanoseconds), Err(NumberFault::Lossy));
        assert_eq!(micros_of_text("1e30", TimeUnit::Seconds), Err(NumberFault::Overflow));
        assert_eq!(micros_of(-2_000, TimeUnit::Nanoseconds), Ok(-2));
        assert_eq!(whole_days(-DAY), Ok(-1));
        assert_eq!(whole_days(1), Err(NumberFault::Lossy));
    }
}
