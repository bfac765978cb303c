//! The stream of events as lines: order, exact counts, copies and faults.

use std::{cmp::Reverse, collections::BinaryHeap, io::Write};

use chrono::{DateTime, SecondsFormat};
use lakehouse_api::pipeline::ClickstreamSource;
use lakehouse_contract::Interval;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use sha2::{Digest, Sha256};

use super::shop::{Session, price_cents, region};
use crate::sources::{lines::Lines, random::below};

/// Lines after an event within which its copy is due.
pub const LATEST_COPY: u64 = 200;
/// Sessions at once, at most; memory stays bounded by it.
const MOST_SESSIONS: u64 = 50_000;
/// Sessions at once, at least, so that sessions interleave.
const FEWEST_SESSIONS: u64 = 4;
/// Average seconds between two events of a session, where the limits above allow it.
const SECONDS_BETWEEN: u64 = 60;

/// `events × per_ten_thousand / 10,000`, rounded down.
pub fn share(events: u64, per_ten_thousand: i32) -> u64 {
    let wide = u128::from(events) * u128::from(per_ten_thousand.unsigned_abs().min(10_000)) / 10_000;
    wide as u64
}

/// Chooses exactly `wanted` of `of` positions, one after the other (Knuth's selection sampling).
struct Choice {
    wanted: u64,
    of: u64,
}

impl Choice {
    fn take(&mut self, rng: &mut ChaCha8Rng) -> bool {
        let taken = self.wanted > 0 && below(rng, self.of) < self.wanted;
        self.wanted -= u64::from(taken);
        self.of = self.of.saturating_sub(1);
        taken
    }
}

/// Why a line is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    MissingUser,
    UnparsablePrice,
    NegativePrice,
    UnknownType,
    CutShort,
}

impl Fault {
    const ALL: [Fault; 5] = [Fault::MissingUser, Fault::UnparsablePrice, Fault::NegativePrice, Fault::UnknownType, Fault::CutShort];
}

/// Writes the lines of one interval, one after the other.
pub struct Generator {
    rng: ChaCha8Rng,
    start_millis: i64,
    span_millis: u64,
    events: u64,
    users: u64,
    products: u64,
    /// Number of the next event, from 0.
    next: u64,
    /// Lines written.
    lines: u64,
    sessions: Vec<Session>,
    most_sessions: usize,
    duplicates: Choice,
    faults: Choice,
    /// Copies that wait: the line after which they are due, and the line.
    waiting: BinaryHeap<Reverse<(u64, Vec<u8>)>>,
    /// The second that `second` is the text of.
    second_of: i64,
    second: String,
}

impl Generator {
    /// The generator for one source and interval.
    pub fn new(source: &str, interval: &Interval, definition: &ClickstreamSource) -> Self {
        let (start, end) = (interval.start.timestamp_millis(), interval.end.timestamp_millis());
        let seed = Sha256::digest(format!("clickstream 1\n{source}\n{}\n{start}\n{end}", definition.seed));
        let span_millis = end.abs_diff(start);
        let events = definition.events.unsigned_abs();
        let at_once = u128::from(events) * u128::from(SECONDS_BETWEEN) * 1000 / u128::from(span_millis.max(1));
        let most_sessions = (at_once.min(u128::from(MOST_SESSIONS)) as usize).max(FEWEST_SESSIONS as usize);
        Self {
            rng: ChaCha8Rng::from_seed(seed.into()),
            start_millis: start,
            span_millis,
            events,
            users: u64::from(definition.users.unsigned_abs().max(1)),
            products: u64::from(definition.products.unsigned_abs().max(1)),
            next: 0,
            lines: 0,
            sessions: Vec::with_capacity(most_sessions),
            most_sessions,
            duplicates: Choice { wanted: share(events, definition.duplicates_per_ten_thousand), of: events },
            faults: Choice { wanted: share(events, definition.faults_per_ten_thousand), of: events },
            waiting: BinaryHeap::new(),
            second_of: i64::MIN,
            second: String::new(),
        }
    }

    /// Each event has its own slice of the interval and lies somewhere in it: the stream is in the order of time.
    fn next_millis(&mut self) -> i64 {
        let slice = |number: u64| (u128::from(number) * u128::from(self.span_millis) / u128::from(self.events)) as u64;
        let (from, to) = (slice(self.next), slice(self.next + 1));
        let within = below(&mut self.rng, to - from);
        self.next += 1;
        self.start_millis.saturating_add_unsigned(from + within)
    }

    /// A session that does something now.
    fn next_session(&mut self) -> Session {
        if self.sessions.len() < self.most_sessions {
            let session = Session::begin(&mut self.rng, self.users, self.products);
            self.sessions.push(session);
            return session;
        }
        let place = below(&mut self.rng, self.sessions.len() as u64) as usize;
        let session = &mut self.sessions[place];
        if !session.advance(&mut self.rng, self.products) {
            *session = Session::begin(&mut self.rng, self.users, self.products);
        }
        *session
    }

    fn write_event(&mut self, out: &mut Vec<u8>) {
        let millis = self.next_millis();
        let session = self.next_session();
        let fault = self.faults.take(&mut self.rng).then(|| Fault::ALL[below(&mut self.rng, 5) as usize]);
        let id = (u128::from(self.rng.next_u64()) << 64) | u128::from(self.rng.next_u64());
        let id = uuid::Builder::from_random_bytes(id.to_be_bytes()).into_uuid();
        self.turn_clock(millis.div_euclid(1000));

        let from = out.len();
        let (second, milli) = (&self.second, millis.rem_euclid(1000));
        // Writing to a Vec cannot fail.
        let _ = write!(out, r#"{{"event_id":"{}","ts":"{second}.{milli:03}Z""#, id.as_hyphenated());
        if fault != Some(Fault::MissingUser) {
            let _ = write!(out, r#","user_id":"u{:05}""#, session.user);
        }
        let event_type = if fault == Some(Fault::UnknownType) { "scroll" } else { session.step.name() };
        let _ = write!(out, r#","session_id":"s{:016x}","event_type":"{event_type}","product":"p{:04}""#, session.id, session.product);
        let cents = price_cents(session.product);
        let sign = if fault == Some(Fault::NegativePrice) { "-" } else { "" };
        let _ = match fault {
            Some(Fault::UnparsablePrice) => write!(out, r#","price":"n/a""#),
            _ => write!(out, r#","price":{sign}{}.{:02}"#, cents / 100, cents % 100),
        };
        let _ = write!(out, r#","region":"{}"}}"#, region(session.user));
        if fault == Some(Fault::CutShort) {
            // Somewhere within the object, so that it is not closed.
            let length = 1 + below(&mut self.rng, (out.len() - from - 2) as u64) as usize;
            out.truncate(from + length);
        }
        out.push(b'\n');
    }

    fn turn_clock(&mut self, second: i64) {
        if second != self.second_of {
            let time = DateTime::from_timestamp(second, 0).unwrap_or_default();
            let text = time.to_rfc3339_opts(SecondsFormat::Secs, true);
            self.second = text.trim_end_matches('Z').to_owned();
            self.second_of = second;
        }
    }
}

impl Lines for Generator {
    fn write_line(&mut self, out: &mut Vec<u8>) -> bool {
        let due = self.waiting.peek().is_some_and(|Reverse((due, _))| *due <= self.lines);
        if due || self.next == self.events {
            let Some(Reverse((_, copy))) = self.waiting.pop() else { return false };
            out.extend_from_slice(&copy);
        } else {
            let from = out.len();
            self.write_event(out);
            if self.duplicates.take(&mut self.rng) {
                let after = 1 + below(&mut self.rng, LATEST_COPY);
                self.waiting.push(Reverse((self.lines + after, out[from..].to_vec())));
            }
        }
        self.lines += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lakehouse_contract::IntervalGrain;
    use serde_json::Value;
    use std::collections::{HashMap, HashSet};

    fn definition(events: i64, duplicates: i32, faults: i32) -> ClickstreamSource {
        ClickstreamSource {
            events,
            events_per_second: None,
            users: 50,
            products: 12,
            seed: 7,
            duplicates_per_ten_thousand: duplicates,
            faults_per_ten_thousand: faults,
        }
    }

    fn text(source: &str, date: &str, definition: &ClickstreamSource) -> String {
        let interval = Interval::parse(IntervalGrain::Daily, date).unwrap();
        let mut generator = Generator::new(source, &interval, definition);
        let mut out = Vec::new();
        while generator.write_line(&mut out) {}
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_same_seed_source_and_interval_give_the_same_bytes_and_others_do_not() {
        let definition = definition(1_000, 100, 100);
        let once = text("events", "2024-01-01", &definition);
        assert_eq!(once, text("events", "2024-01-01", &definition));
        for other in [text("other", "2024-01-01", &definition), text("events", "2024-01-02", &definition)] {
            assert_ne!(once, other);
        }
        let golden = "d5fa97665cdcf3920e91cb272b3dffb339ff5e7573a8b636acc8454959f8c110";
        assert_eq!(lakehouse_storage::sha256(once.as_bytes()), golden, "the output changed: {}", once.lines().next().unwrap());
    }

    #[test]
    fn counts_are_exact_and_copies_come_soon() {
        let text = text("events", "2024-01-01", &definition(20_000, 250, 40));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 20_000 + 500);
        let mut first = HashMap::new();
        let mut copies = 0;
        for (number, line) in lines.iter().enumerate() {
            if let Some(original) = first.insert(*line, number) {
                copies += 1;
                assert!(number - original <= 2 * LATEST_COPY as usize, "line {number} copies line {original}");
            }
        }
        assert!((499..=500).contains(&copies), "{copies}");
        let faulty = first.keys().filter(|line| !is_good(line)).count();
        assert!((78..=80).contains(&faulty), "{faulty} distinct faulty lines");
    }

    fn is_good(line: &str) -> bool {
        let Ok(record) = serde_json::from_str::<Value>(line) else { return false };
        record["user_id"].is_string()
            && record["price"].as_f64().is_some_and(|price| price > 0.0)
            && ["view", "add_to_cart", "purchase"].contains(&record["event_type"].as_str().unwrap_or_default())
    }

    #[test]
    fn every_fault_occurs() {
        let text = text("events", "2024-01-01", &definition(2_000, 0, 1_000));
        let records: Vec<Option<Value>> = text.lines().map(|line| serde_json::from_str(line).ok()).collect();
        let count = |test: &dyn Fn(&Value) -> bool| records.iter().flatten().filter(|record| test(record)).count();
        assert!(records.iter().filter(|record| record.is_none()).count() > 10);
        assert!(count(&|r| r.get("user_id").is_none()) > 10);
        assert!(count(&|r| r["price"] == "n/a") > 10);
        assert!(count(&|r| r["price"].as_f64().is_some_and(|p| p < 0.0)) > 10);
        assert!(count(&|r| r["event_type"] == "scroll") > 10);
    }

    #[test]
    fn events_lie_in_the_interval_in_order_of_time_and_sessions_interleave() {
        let text = text("events", "2024-02-29", &definition(5_000, 0, 0));
        let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let times: Vec<&str> = records.iter().map(|record| record["ts"].as_str().unwrap()).collect();
        assert!(times.is_sorted());
        assert!(times[0].starts_with("2024-02-29T00:00:") && times[4_999].starts_with("2024-02-29T23:59:"));
        assert_eq!(records.iter().map(|record| record["event_id"].as_str().unwrap()).collect::<HashSet<_>>().len(), 5_000);
        let switches = records.windows(2).filter(|pair| pair[0]["session_id"] != pair[1]["session_id"]).count();
        assert!(switches > 3_000, "{switches}");
        let mut price = HashMap::new();
        let mut place = HashMap::new();
        for record in &records {
            assert_eq!(*price.entry(&record["product"]).or_insert(&record["price"]), &record["price"]);
            assert_eq!(*place.entry(&record["user_id"]).or_insert(&record["region"]), &record["region"]);
        }
        assert_eq!(price.len(), 12);
    }

    #[test]
    fn prices_have_two_digits() {
        let text = text("events", "2024-01-01", &definition(200, 0, 0));
        for line in text.lines() {
            let (_, rest) = line.split_once(r#""price":"#).unwrap();
            let number = rest.split(',').next().unwrap();
            assert_eq!(number.split_once('.').unwrap().1.len(), 2, "{line}");
        }
    }

    #[test]
    fn more_events_than_milliseconds_and_a_single_one_are_fine() {
        let hour = Interval::parse(IntervalGrain::Hourly, "2024-01-01T05").unwrap();
        let mut generator = Generator::new("events", &hour, &definition(1, 10_000, 0));
        let mut out = Vec::new();
        while generator.write_line(&mut out) {}
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0], lines[1]);

        let mut many = Generator::new("events", &hour, &definition(100_000_000, 0, 0));
        let mut line = Vec::new();
        for _ in 0..1_000 {
            many.write_line(&mut line);
        }
        assert!(String::from_utf8(line).unwrap().lines().all(|line| line.contains(r#""ts":"2024-01-01T05:00:00.0"#)));
    }
}
