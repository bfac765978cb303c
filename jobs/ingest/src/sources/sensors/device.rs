//! What a device is, and what it would measure if nothing went wrong.

use std::io::Write;

use chrono::{DateTime, SecondsFormat, Utc};
use lakehouse_api::pipeline::SensorsSource;

use super::devices;
use crate::sources::{lines::Lines, random::mixed};

const SECONDS_A_DAY: i64 = 86_400;
/// 2015-01-01T00:00:00Z, in seconds; the first day on which a device may have been installed.
const FIRST_INSTALLED: i64 = 1_420_070_400;
/// Days after it within which all devices were.
const INSTALLED_WITHIN: u64 = 5 * 365;
/// Days between two recalibrations.
const RECALIBRATED_AFTER: i64 = 180;
/// Days between two versions of the firmware.
const FIRMWARE_AFTER: i64 = 120;
/// Time of day at which the temperature is at its mean and rises: it peaks six hours later.
const RISING_AT: i64 = 10 * 3_600;

/// A model and the largest noise of its thermometer, in 0.01 °C.
const MODELS: [(&str, u64); 3] = [("TH-100", 40), ("TH-200", 20), ("TH-300", 8)];
/// A site, its mean temperature and half of the daily range, both in 0.01 °C, and its mean humidity in 0.01 %.
const SITES: [(&str, i64, i64, i64); 4] =
    [("hamburg", 1_150, 450, 7_400), ("madrid", 1_700, 800, 5_300), ("singapore", 2_800, 350, 8_200), ("cold-store", 400, 60, 6_500)];

/// A device; the same for the same seed and number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Device {
    /// From 1.
    pub number: u64,
    /// When it was installed, in seconds since 1970.
    pub installed: i64,
    model: usize,
    site: usize,
    /// How far its place is from the mean of the site, in 0.01 °C.
    place: i64,
    /// What its thermometer drifts in a day, in 0.001 °C.
    drift: i64,
}

/// Temperature in 0.01 °C, humidity in 0.01 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// In 0.01 °C.
    pub temperature: i64,
    /// In 0.01 %.
    pub humidity: i64,
}

impl Device {
    /// The device with this number.
    pub fn new(seed: i64, number: u64) -> Self {
        let own = mixed(mixed(seed.cast_unsigned()) ^ number);
        let pick = |what: u64, of: u64| mixed(own ^ what) % of;
        Self {
            number,
            installed: FIRST_INSTALLED + pick(1, INSTALLED_WITHIN).cast_signed() * SECONDS_A_DAY,
            model: pick(2, MODELS.len() as u64) as usize,
            site: pick(3, SITES.len() as u64) as usize,
            place: pick(4, 301).cast_signed() - 150,
            drift: pick(5, 13).cast_signed() - 6,
        }
    }

    /// Largest noise in 0.01 °C.
    pub fn noise(&self) -> u64 {
        MODELS[self.model].1
    }

    /// What it measures at a time, without noise. The air holds less water, relatively, when it is warm.
    pub fn at(&self, seconds: i64) -> Measured {
        let (_, mean, range, humidity) = SITES[self.site];
        let wave = sine(seconds - RISING_AT);
        let days = (seconds - self.installed).div_euclid(SECONDS_A_DAY).rem_euclid(RECALIBRATED_AFTER);
        Measured {
            temperature: mean + self.place + range * wave / 10_000 + self.drift * days / 10,
            humidity: (humidity - 2 * range * wave / 10_000 - self.place).clamp(500, 9_900),
        }
    }
}

/// 10,000 times the sine of a time whose period is a day, by Bhaskara's formula (never more than 17 off).
fn sine(seconds: i64) -> i64 {
    const HALF: i64 = SECONDS_A_DAY / 2;
    let within = seconds.rem_euclid(SECONDS_A_DAY);
    let (x, sign) = if within < HALF { (within, 1) } else { (within - HALF, -1) };
    let product = x * (HALF - x);
    sign * (16 * product * 10_000) / (5 * HALF * HALF - 4 * product)
}

/// The register of devices at a time.
pub struct Register {
    devices: Box<dyn Iterator<Item = Device> + Send>,
    at: DateTime<Utc>,
}

impl Register {
    /// Those that were installed at `at`.
    pub fn new(definition: &SensorsSource, at: DateTime<Utc>) -> Self {
        let until = at.timestamp();
        Self { devices: Box::new(devices(definition).filter(move |device| device.installed <= until)), at }
    }
}

impl Lines for Register {
    fn write_line(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(device) = self.devices.next() else { return false };
        let age = (self.at.timestamp() - device.installed) / SECONDS_A_DAY;
        let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        let instant = |seconds: i64| text(DateTime::from_timestamp(seconds, 0).unwrap_or_default());
        let updates = age / FIRMWARE_AFTER;
        // Writing to a Vec cannot fail.
        let _ = writeln!(
            out,
            r#"{{"device_id":"d{:05}","model":"{}","site":"{}","installed_at":"{}","firmware":"1.{}","firmware_since":"{}","seen_at":"{}"}}"#,
            device.number,
            MODELS[device.model].0,
            SITES[device.site].0,
            instant(device.installed),
            updates,
            instant(device.installed + updates * FIRMWARE_AFTER * SECONDS_A_DAY),
            text(self.at),
        );
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wave_is_a_sine() {
        for second in (0..SECONDS_A_DAY).step_by(61) {
            let exact = 10_000.0 * (second as f64 * std::f64::consts::TAU / SECONDS_A_DAY as f64).sin();
            assert!((sine(second) as f64 - exact).abs() < 18.0, "{second}: {} {exact}", sine(second));
            assert_eq!(sine(second - SECONDS_A_DAY), sine(second));
        }
    }

    #[test]
    fn afternoons_are_warm_and_dry() {
        // 2024-06-01T00:00:00Z
        let midnight = 1_717_200_000;
        for number in 1..200 {
            let device = Device::new(7, number);
            let (night, afternoon) = (device.at(midnight + 4 * 3_600), device.at(midnight + 16 * 3_600));
            assert!(afternoon.temperature > night.temperature && afternoon.humidity < night.humidity, "{device:?}");
        }
    }

    #[test]
    fn drift_grows_until_the_recalibration() {
        let device = (1..).map(|number| Device::new(7, number)).find(|device| device.drift == 6).unwrap();
        let after = |days: i64| device.at(device.installed + days * SECONDS_A_DAY).temperature - device.at(device.installed).temperature;
        assert_eq!([after(0), after(10), after(RECALIBRATED_AFTER - 1), after(RECALIBRATED_AFTER)], [0, 6, 107, 0]);
    }

    #[test]
    fn seeds_have_devices_of_their_own() {
        assert_eq!(Device::new(7, 3), Device::new(7, 3));
        assert!((1..50).any(|number| Device::new(7, number).installed != Device::new(8, number).installed));
    }
}
