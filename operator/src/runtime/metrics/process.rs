//! The process itself, under the names that Prometheus' clients share.

use std::{fs, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

/// Bytes of a page, as Linux has them on the platforms of our images.
const PAGE: f64 = 4096.0;
/// Ticks of a second in `/proc/self/stat`: `USER_HZ`, which Linux never changes.
const TICKS: f64 = 100.0;

/// Memory, processor time and release of this process.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let release = [("version", env!("CARGO_PKG_VERSION"))];
        let mut info = encoder.encode_descriptor("lakehouse_build", "Release of the operator", None, MetricType::Info)?;
        info.encode_info(&release)?;
        if let Some(resident) = resident() {
            let metric = encoder.encode_descriptor("process_resident_memory_bytes", "Resident memory", None, MetricType::Gauge)?;
            ConstGauge::new(resident).encode(metric)?;
        }
        if let Some(seconds) = processor_time() {
            let mut metric =
                encoder.encode_descriptor("process_cpu_seconds", "Processor time, user and system", None, MetricType::Counter)?;
            metric.encode_counter::<[(&str, &str); 0], f64, f64>(&seconds.as_secs_f64(), None)?;
        }
        Ok(())
    }
}

fn resident() -> Option<f64> {
    let pages = fs::read_to_string("/proc/self/statm").ok()?.split_whitespace().nth(1)?.parse::<u64>().ok()?;
    Some(pages as f64 * PAGE)
}

fn processor_time() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    Duration::try_from_secs_f64((ticks(11)? + ticks(12)?) as f64 / TICKS).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_time() {
        assert!(resident().is_some_and(|bytes| bytes > 100_000.0));
        // On a busy machine it may take a while until this process had its first hundredth of a second.
        let begin = std::time::Instant::now();
        let mut waste = 0_u64;
        while processor_time() == Some(Duration::ZERO) && begin.elapsed() < Duration::from_secs(30) {
            (0..100_000).for_each(|_| waste = std::hint::black_box(waste.wrapping_add(1)));
        }
        assert!(processor_time().is_some_and(|time| time > Duration::ZERO && time < Duration::from_secs(36_000)));
    }
}
