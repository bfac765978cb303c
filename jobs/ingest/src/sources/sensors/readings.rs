//! The readings of all devices, in the order of time: noise, losses and anomalies over what the devices would measure.

use std::io::Write;

use chrono::{DateTime, SecondsFormat, Utc};
use lakehouse_api::pipeline::SensorsSource;
use lakehouse_contract::Interval;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use sha2::{Digest, Sha256};

use super::{
    device::{Device, Measured},
    devices,
};
use crate::sources::{lines::Lines, random::below, ticks::Ticks};

/// Readings lost at once: from one to this.
const LONGEST_LOSS: u64 = 10;
/// Readings that a `stuck` or an `offset` lasts: from the first to the second.
const LASTING: (u64, u64) = (5, 15);
/// Readings of an anomaly, on average over the three kinds.
const AVERAGE_ANOMALY: u64 = 7;

/// An anomaly, by its label.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Anomaly {
    /// This far off, in 0.01 °C.
    Spike(i64),
    /// These values again.
    Stuck(Measured),
    /// Shifted by this, in 0.01 °C.
    Offset(i64),
}

impl Anomaly {
    fn label(self) -> &'static str {
        match self {
            Self::Spike(_) => "spike",
            Self::Stuck(_) => "stuck",
            Self::Offset(_) => "offset",
        }
    }

    fn apply(self, measured: Measured) -> Measured {
        match self {
            Self::Spike(by) | Self::Offset(by) => Measured { temperature: measured.temperature + by, ..measured },
            Self::Stuck(at) => at,
        }
    }
}

/// What goes on at a device.
struct State {
    device: Device,
    /// Readings that will still be lost.
    lost: u64,
    /// The anomaly and how many readings it still lasts.
    anomaly: Option<(Anomaly, u64)>,
}

/// Writes the readings of one interval, one after the other.
pub struct Generator {
    rng: ChaCha8Rng,
    ticks: Ticks,
    dropouts: u64,
    anomalies: u64,
    states: Vec<State>,
    /// The next reading: tick, and place among the devices.
    next: (i64, usize),
    /// Text of the tick.
    ts: String,
    /// Seconds since 1970 of the last reading that was written.
    written: Option<i64>,
}

impl Generator {
    /// The generator for one source and interval.
    pub fn new(source: &str, interval: &Interval, ticks: Ticks, definition: &SensorsSource) -> Self {
        let (start, end) = (interval.start.timestamp(), interval.end.timestamp());
        let seed = Sha256::digest(format!("sensors 1\n{source}\n{}\n{start}\n{end}", definition.seed));
        let states = devices(definition).map(|device| State { device, lost: 0, anomaly: None }).collect();
        let rate = |per_ten_thousand: i32| u64::from(per_ten_thousand.unsigned_abs().min(9_999));
        Self {
            rng: ChaCha8Rng::from_seed(seed.into()),
            dropouts: rate(definition.dropouts_per_ten_thousand),
            anomalies: rate(definition.anomalies_per_ten_thousand),
            states,
            next: (ticks.first, 0),
            ts: text(ticks.first * ticks.seconds),
            written: None,
            ticks,
        }
    }

    /// Whether something begins now that then takes `average` readings, so that `share` of 10,000 readings are taken by it.
    fn begins(&mut self, share: u64, average_doubled: u64) -> bool {
        share > 0 && below(&mut self.rng, average_doubled * (10_000 - share)) < 2 * share
    }

    /// Whether the reading at `place` is lost.
    fn is_lost(&mut self, place: usize) -> bool {
        if self.states[place].lost == 0 && self.begins(self.dropouts, LONGEST_LOSS + 1) {
            self.states[place].lost = 1 + below(&mut self.rng, LONGEST_LOSS);
        }
        let lost = self.states[place].lost;
        self.states[place].lost = lost.saturating_sub(1);
        lost > 0
    }

    /// The anomaly of the reading at `place`, which would be `measured`.
    fn anomaly(&mut self, place: usize, measured: Measured) -> Option<Anomaly> {
        if self.states[place].anomaly.is_none() && self.begins(self.anomalies, 2 * AVERAGE_ANOMALY) {
            let kind = below(&mut self.rng, 3);
            let sign = if below(&mut self.rng, 2) == 0 { -1 } else { 1 };
            let lasting = LASTING.0 + below(&mut self.rng, LASTING.1 - LASTING.0 + 1);
            self.states[place].anomaly = Some(match kind {
                0 => (Anomaly::Spike(sign * (2_000 + below(&mut self.rng, 3_000).cast_signed())), 1),
                1 => (Anomaly::Stuck(measured), lasting),
                _ => (Anomaly::Offset(sign * (500 + below(&mut self.rng, 500).cast_signed())), lasting),
            });
        }
        let (anomaly, left) = self.states[place].anomaly?;
        self.states[place].anomaly = (left > 1).then_some((anomaly, left - 1));
        Some(anomaly)
    }

    fn write(&mut self, place: usize, seconds: i64, out: &mut Vec<u8>) -> bool {
        let device = self.states[place].device;
        if device.installed > seconds {
            return false;
        }
        let most = device.noise();
        let noise = |rng: &mut ChaCha8Rng| below(rng, 2 * most + 1).cast_signed() - most.cast_signed();
        let ideal = device.at(seconds);
        let measured = Measured {
            temperature: ideal.temperature + noise(&mut self.rng),
            humidity: (ideal.humidity + noise(&mut self.rng)).clamp(0, 10_000),
        };
        // Both go on whether the reading arrives or not.
        let (anomaly, lost) = (self.anomaly(place, measured), self.is_lost(place));
        if lost {
            return false;
        }
        let Measured { temperature, humidity } = anomaly.map_or(measured, |anomaly| anomaly.apply(measured));
        let sign = if temperature < 0 { "-" } else { "" };
        let degrees = temperature.unsigned_abs();
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            r#"{{"device_id":"d{:05}","ts":"{}","temperature":{sign}{}.{:02},"humidity":{}.{:02},"anomaly":"#,
            device.number,
            self.ts,
            degrees / 100,
            degrees % 100,
            humidity / 100,
            humidity % 100,
        );
        let _ = match anomaly {
            Some(anomaly) => writeln!(out, r#""{}"}}"#, anomaly.label()),
            None => writeln!(out, "null}}"),
        };
        true
    }
}

impl Lines for Generator {
    fn write_line(&mut self, out: &mut Vec<u8>) -> bool {
        loop {
            let (tick, place) = self.next;
            if tick >= self.ticks.end || self.states.is_empty() {
                return false;
            }
            if place == 0 {
                self.ts = text(tick * self.ticks.seconds);
            }
            self.next = if place + 1 < self.states.len() { (tick, place + 1) } else { (tick + 1, 0) };
            if self.write(place, tick * self.ticks.seconds, out) {
                self.written = Some(tick * self.ticks.seconds);
                return true;
            }
        }
    }

    fn at(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(self.written?, 0)
    }
}

fn text(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::sensors::device::Register;
    use lakehouse_api::{common::HumanDuration, pipeline::SensorStream};
    use lakehouse_contract::IntervalGrain;
    use serde_json::Value;
    use std::collections::{BTreeMap, BTreeSet};

    fn definition(devices: i32, dropouts: i32, anomalies: i32) -> SensorsSource {
        SensorsSource {
            stream: SensorStream::Readings,
            devices,
            every: HumanDuration::seconds(60),
            seed: 7,
            dropouts_per_ten_thousand: dropouts,
            anomalies_per_ten_thousand: anomalies,
            continuous: None,
        }
    }

    fn all(mut lines: impl Lines) -> String {
        let mut out = Vec::new();
        while lines.write_line(&mut out) {}
        String::from_utf8(out).unwrap()
    }

    fn readings(source: &str, date: &str, definition: &SensorsSource) -> String {
        let interval = Interval::parse(IntervalGrain::Daily, date).unwrap();
        let ticks = Ticks::of(&interval, definition.every.0).unwrap();
        all(Generator::new(source, &interval, ticks, definition))
    }

    fn records(text: &str) -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn the_same_seed_source_and_interval_give_the_same_bytes_and_others_do_not() {
        let definition = definition(10, 100, 100);
        let once = readings("house", "2024-01-01", &definition);
        assert_eq!(once, readings("house", "2024-01-01", &definition));
        for other in [readings("other", "2024-01-01", &definition), readings("house", "2024-01-02", &definition)] {
            assert_ne!(once, other);
        }
    }

    #[test]
    fn without_losses_every_device_reports_at_every_tick_in_order() {
        let records = records(&readings("house", "2024-01-01", &definition(7, 0, 0)));
        assert_eq!(records.len(), 7 * 1_440);
        let keys: Vec<(String, String)> =
            records.iter().map(|r| (r["ts"].as_str().unwrap().to_owned(), r["device_id"].as_str().unwrap().to_owned())).collect();
        assert!(keys.is_sorted() && keys.iter().collect::<BTreeSet<_>>().len() == keys.len());
        assert_eq!((keys[0].0.as_str(), keys[keys.len() - 1].0.as_str()), ("2024-01-01T00:00:00Z", "2024-01-01T23:59:00Z"));
        assert!(records.iter().all(|r| r["anomaly"].is_null()));
        assert!(records.iter().all(|r| (-10.0..45.0).contains(&r["temperature"].as_f64().unwrap())));
        assert!(records.iter().all(|r| (0.0..=100.0).contains(&r["humidity"].as_f64().unwrap())));
    }

    #[test]
    fn losses_and_anomalies_have_the_shares_that_were_asked_for() {
        let records = records(&readings("house", "2024-01-01", &definition(200, 300, 200)));
        let possible = 200.0 * 1_440.0;
        let lost = 1.0 - records.len() as f64 / possible;
        assert!((0.027..0.033).contains(&lost), "{lost}");
        let mut labels = BTreeMap::new();
        for label in records.iter().filter_map(|r| r["anomaly"].as_str()) {
            *labels.entry(label).or_insert(0) += 1;
        }
        let anomalous = f64::from(labels.values().sum::<i32>()) / records.len() as f64;
        assert!((0.017..0.023).contains(&anomalous), "{anomalous}");
        assert_eq!(labels.keys().copied().collect::<Vec<_>>(), ["offset", "spike", "stuck"]);
        assert!(labels["spike"] * 5 < labels["stuck"] && labels["spike"] * 5 < labels["offset"], "{labels:?}");
    }

    #[test]
    fn an_anomaly_can_be_seen_in_the_values() {
        let records = records(&readings("house", "2024-01-01", &definition(50, 0, 200)));
        let mut last: BTreeMap<&str, &Value> = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for record in &records {
            let before = last.insert(record["device_id"].as_str().unwrap(), record);
            let Some(before) = before else { continue };
            let step = (record["temperature"].as_f64().unwrap() - before["temperature"].as_f64().unwrap()).abs();
            match (before["anomaly"].as_str(), record["anomaly"].as_str()) {
                (None, None) => assert!(step < 2.0, "{before} {record}"),
                (None, Some("spike")) => assert!(step > 18.0, "{before} {record}"),
                (None, Some("offset")) => assert!(step > 3.0, "{before} {record}"),
                // Two in a row may be two anomalies.
                (Some("stuck"), Some("stuck")) if step == 0.0 => {}
                _ => continue,
            }
            *seen.entry(record["anomaly"].as_str()).or_insert(0) += 1;
        }
        assert!(seen[&Some("spike")] > 20 && seen[&Some("stuck")] > 200 && seen[&Some("offset")] > 20, "{seen:?}");
    }

    #[test]
    fn the_register_holds_the_devices_that_report() {
        let definition = definition(40, 0, 0);
        // 2017: some of them are installed, others not yet.
        let day = Interval::parse(IntervalGrain::Daily, "2017-07-01").unwrap();
        let register = records(&all(Register::new(&definition, day.start)));
        let ids = |records: &[Value]| records.iter().map(|r| r["device_id"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>();
        assert!((5..35).contains(&register.len()), "{}", register.len());
        assert_eq!(ids(&register), ids(&records(&readings("house", "2017-07-01", &definition))));
        let later = records(&all(Register::new(&definition, day.start + chrono::Duration::days(1_500))));
        assert_eq!(later.len(), 40);
        let again = later.iter().find(|r| r["device_id"] == register[0]["device_id"]).unwrap();
        for field in ["model", "site", "installed_at"] {
            assert_eq!(again[field], register[0][field]);
        }
        assert_ne!(again["firmware"], register[0]["firmware"]);
    }
}
