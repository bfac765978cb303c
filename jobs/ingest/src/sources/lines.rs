//! Generated lines, gathered into chunks for the sink.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

use crate::{Chunk, IngestError, Sink};

/// Bytes of a chunk, about.
pub const CHUNK_BYTES: usize = 1024 * 1024;
/// How long paced lines are gathered before they go on.
pub const PACED_CHUNK: Duration = Duration::from_millis(200);
/// Sleeps are coarse: many lines of a high rate share one.
pub const SHORTEST_SLEEP: Duration = Duration::from_millis(5);
/// Longest delay that is made up for by lines that follow faster.
pub const LATEST: Duration = Duration::from_secs(1);

/// A generator of NDJSON.
pub trait Lines: Send {
    /// Appends the next line to `out`, with its line break; false: there is none.
    fn write_line(&mut self, out: &mut Vec<u8>) -> bool;

    /// When what the last line tells of happened, where a line is about one moment.
    fn at(&self) -> Option<DateTime<Utc>> {
        None
    }
}

/// How many lines come in a second.
pub struct Rate {
    lines_per_second: u64,
    /// Moment and number of the line that the times of later ones are counted from.
    from: (Duration, u64),
}

impl Rate {
    /// A rate, counted from now.
    pub fn new(lines_per_second: i64) -> Self {
        Self { lines_per_second: lines_per_second.unsigned_abs().max(1), from: (Duration::ZERO, 0) }
    }

    /// When line `number` is due, counted from the first.
    pub fn due(&self, number: u64) -> Duration {
        let nanos = u128::from(number - self.from.1) * 1_000_000_000 / u128::from(self.lines_per_second);
        self.from.0 + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How long to wait before line `number` (from 0) at the moment `now`, both counted from the first. A delay of up to [`LATEST`] is made
    /// up for; a longer one, as of a slow store, is not.
    pub fn wait(&mut self, number: u64, now: Duration) -> Duration {
        let due = self.due(number);
        if now > due + LATEST {
            self.from = (now, number);
        }
        due.saturating_sub(now)
    }
}

/// Puts all lines, as objects that carry the seed they were made from; `lines_per_second` at most, where it is given.
///
/// # Errors
/// As [`Sink::generate`].
pub async fn put(
    sink: &mut Sink<'_>,
    seed: i64,
    lines_per_second: Option<i64>,
    mut lines: impl Lines + 'static,
) -> Result<(), IngestError> {
    let metadata = BTreeMap::from([("seed".to_owned(), seed.to_string())]);
    sink.generate("ndjson", metadata, move |emit| {
        let mut buffer = Vec::with_capacity(CHUNK_BYTES + 4096);
        let mut records = 0;
        let mut rate = lines_per_second.map(Rate::new);
        let (start, mut written, mut gathered) = (Instant::now(), 0, Duration::ZERO);
        while lines.write_line(&mut buffer) {
            records += 1;
            let mut due = false;
            if let Some(rate) = &mut rate {
                let now = start.elapsed();
                let wait = rate.wait(written, now);
                written += 1;
                if wait > SHORTEST_SLEEP {
                    std::thread::sleep(wait);
                }
                due = now - gathered >= PACED_CHUNK;
                if due {
                    gathered = now;
                }
            }
            if due || buffer.len() >= CHUNK_BYTES {
                let bytes = std::mem::replace(&mut buffer, Vec::with_capacity(CHUNK_BYTES + 4096)).into();
                if !emit(Chunk { bytes, records: std::mem::take(&mut records) }) {
                    return;
                }
            }
        }
        if records > 0 {
            emit(Chunk { bytes: buffer.into(), records });
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines in `seconds` of a clock that only waiting and `work` for a line move on.
    fn lines_in(seconds: u64, per_second: i64, work: impl Fn(u64) -> Duration) -> u64 {
        let (mut rate, mut now, mut number) = (Rate::new(per_second), Duration::ZERO, 0);
        loop {
            now += rate.wait(number, now);
            if now >= Duration::from_secs(seconds) {
                return number;
            }
            now += work(number);
            number += 1;
        }
    }

    #[test]
    fn lines_come_at_their_rate() {
        for per_second in [1, 7, 1_000, 250_000] {
            let lines = lines_in(20, per_second, |_| Duration::from_nanos(300));
            assert_eq!(lines, 20 * per_second.unsigned_abs(), "{per_second}");
        }
        // A short delay is made up for.
        assert_eq!(lines_in(20, 100, |number| Duration::from_millis(if number == 50 { 900 } else { 0 })), 2_000);
    }

    #[test]
    fn what_a_slow_store_delayed_is_not_sent_in_a_burst() {
        let lines = lines_in(20, 100, |number| Duration::from_secs(if number == 500 { 10 } else { 0 }));
        assert!((1_000..=1_101).contains(&lines), "{lines}");
        assert_eq!(lines_in(20, 100, |_| Duration::from_millis(100)), 200, "as many as the store takes");
    }
}
