//! Which versions a log still has, which of them are old, and what an object of the log belongs to.

use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Digits of a version at the beginning of the names of the log's objects.
const DIGITS: usize = 20;

/// The versions of a log, from a listing of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// When each commit was written.
    commits: BTreeMap<u64, DateTime<Utc>>,
    /// Complete checkpoints.
    checkpoints: BTreeSet<u64>,
}

impl History {
    /// From the names of the objects directly inside the log's folder, and when each was written.
    pub fn of<'a>(objects: impl IntoIterator<Item = (&'a str, DateTime<Utc>)>) -> Self {
        let mut history = Self::default();
        let mut parts: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        for (name, written) in objects {
            if let Some((version, of)) = crate::log::checkpoint_name(name) {
                *parts.entry((version, of)).or_default() += 1;
            } else if let (Some(version), Some(".json")) = (version_of(name), name.get(DIGITS..)) {
                history.commits.insert(version, written);
            }
        }
        history.checkpoints = parts.into_iter().filter(|((_, of), found)| found >= of).map(|((version, _), _)| version).collect();
        history
    }

    /// The newest version.
    pub fn newest(&self) -> Option<u64> {
        self.commits.keys().next_back().copied().max(self.checkpoints.last().copied())
    }

    /// The oldest version that can be read: the first of those that lead to the newest without a gap, from version 0 or a checkpoint.
    pub fn oldest(&self) -> Option<u64> {
        let newest = self.newest()?;
        let mut first = newest;
        while first > 0 && self.commits.contains_key(&first) {
            first -= 1;
        }
        // Commits are there from the one after `first` on, or from 0 on.
        if first == 0 && self.commits.contains_key(&0) {
            return Some(0);
        }
        self.checkpoints.range(first..).next().copied()
    }

    /// Whether there is a checkpoint of a version.
    pub fn has_checkpoint(&self, version: u64) -> bool {
        self.checkpoints.contains(&version)
    }

    /// The oldest version to keep: older ones were superseded before a time, and are none of the newest `keep_last`.
    pub fn keep_from(&self, before: DateTime<Utc>, keep_last: u64) -> Option<u64> {
        let (mut version, newest) = (self.oldest()?, self.newest()?);
        let limit = newest.saturating_sub(keep_last.max(1) - 1);
        while version < limit && self.commits.get(&(version + 1)).is_some_and(|superseded| *superseded < before) {
            version += 1;
        }
        Some(version)
    }
}

/// The version that an object directly inside the log's folder belongs to: a commit, a checkpoint, a checksum, …
pub fn version_of(name: &str) -> Option<u64> {
    let digits = name.get(..DIGITS)?;
    let is_version = digits.bytes().all(|byte| byte.is_ascii_digit()) && name.get(DIGITS..)?.starts_with('.');
    if is_version { digits.parse().ok() } else { None }
}

/// A duration as table properties write it: `interval 30 days`, in units from microseconds to weeks.
///
/// # Errors
/// A line with what is wrong.
pub fn parse_interval(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no interval such as \"interval 30 days\"");
    let lower = text.trim().to_lowercase();
    let mut words = lower.strip_prefix("interval").unwrap_or(&lower).split_whitespace();
    let mut whole = Duration::ZERO;
    let mut any = false;
    while let Some(count) = words.next() {
        let count: u64 = count.parse().map_err(|_| wrong())?;
        let unit = words.next().ok_or_else(wrong)?;
        let micros = match unit.strip_suffix('s').unwrap_or(unit) {
            "microsecond" => 1,
            "millisecond" => 1_000,
            "second" => 1_000_000,
            "minute" => 60_000_000,
            "hour" => 3_600_000_000,
            "day" => 86_400_000_000,
            "week" => 604_800_000_000,
            _ => return Err(wrong()),
        };
        whole = whole.saturating_add(Duration::from_micros(count.saturating_mul(micros)));
        any = true;
    }
    if any { Ok(whole) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    /// Commits `from..to`, one an hour, and checkpoints.
    fn history(from: u64, to: u64, checkpoints: &[u64]) -> History {
        let names: Vec<(String, DateTime<Utc>)> = (from..to)
            .map(|version| (format!("{version:020}.json"), at(version)))
            .chain(checkpoints.iter().map(|version| (format!("{version:020}.checkpoint.parquet"), at(*version))))
            .chain([("_last_checkpoint".to_owned(), at(0)), (format!("{:020}.crc", 1), at(0))])
            .collect();
        History::of(names.iter().map(|(name, time)| (name.as_str(), *time)))
    }

    fn at(hour: u64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::hours(hour as i64)
    }

    #[test]
    fn the_oldest_version_leads_to_the_newest_without_a_gap() {
        assert_eq!(history(0, 12, &[10]).oldest(), Some(0));
        assert_eq!(history(1, 12, &[10]).oldest(), Some(10));
        assert_eq!(history(8, 12, &[7, 10]).oldest(), Some(7));
        assert_eq!(history(9, 12, &[7, 10]).oldest(), Some(10), "commit 8 is gone");
        assert_eq!(history(3, 6, &[]).oldest(), None);
        assert_eq!(history(0, 0, &[5]).oldest(), Some(5));
        assert_eq!(history(0, 1, &[]).oldest(), Some(0));
        assert_eq!(History::default().oldest(), None);
    }

    #[test]
    fn a_version_ages_from_when_it_was_superseded() {
        let log = history(0, 12, &[10]);
        assert_eq!(log.keep_from(at(0), 1), Some(0));
        assert_eq!(log.keep_from(at(5), 1), Some(4), "version 4 was superseded at 5, which is not before 5");
        assert_eq!(log.keep_from(at(100), 1), Some(11));
        assert_eq!(log.keep_from(at(100), 0), Some(11), "the newest stays");
        assert_eq!(log.keep_from(at(100), 3), Some(9));
        assert_eq!(log.keep_from(at(100), 50), Some(0));
    }

    #[test]
    fn parts_of_a_checkpoint_count_when_all_are_there() {
        let name = |part: u64| format!("{:020}.checkpoint.{part:010}.{:010}.parquet", 10, 2);
        let (one, two) = (name(1), name(2));
        assert!(!History::of([(one.as_str(), at(0))]).has_checkpoint(10));
        assert!(History::of([(one.as_str(), at(0)), (two.as_str(), at(0))]).has_checkpoint(10));
    }

    #[test]
    fn objects_of_a_version() {
        assert_eq!(version_of("00000000000000000010.json"), Some(10));
        assert_eq!(version_of("00000000000000000010.checkpoint.parquet"), Some(10));
        assert_eq!(version_of("00000000000000000010.crc"), Some(10));
        assert_eq!(version_of("_last_checkpoint"), None);
        assert_eq!(version_of("000000000000000000100.json"), None);
    }

    #[test]
    fn intervals() {
        assert_eq!(parse_interval("interval 30 days"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(parse_interval("INTERVAL 1 week"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(parse_interval("1 day 2 hours"), Ok(Duration::from_secs(26 * 3_600)));
        for wrong in ["", "interval", "interval x days", "interval 3", "interval 1 month"] {
            assert!(parse_interval(wrong).is_err_and(|text| text.contains("is no interval")), "{wrong}");
        }
    }
}
