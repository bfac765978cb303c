//! `sensors`: generated readings of temperature and humidity, as a gateway would forward them, or the register of the devices.
//!
//! NDJSON. Stream `readings`: `device_id`, `ts`, `temperature` (°C), `humidity` (%), `anomaly`; one per device and tick, in the order of
//! time, less those that never arrived. Stream `devices`: `device_id`, `model`, `site`, `installed_at`, `firmware`, `firmware_since`, `seen_at`; one per device
//! that was installed when the interval began.
//!
//! A device has a daily cycle (warmest at 16:00 UTC), noise after its model, and a drift that a recalibration ends twice a year. Readings are
//! lost in bursts. Anomalies are injected and carry their label: `spike` (one reading far off), `stuck` (the same values again and again),
//! `offset` (a shift for some readings); `null` elsewhere. A burst or an anomaly ends with its interval at the latest.
//!
//! `continuous` readings come one after the other, at their own times or at a rate ([`super::live`]): the same readings, in objects that the clock cuts.
//!
//! The same seed, source name and interval give the same bytes, on every platform: whole numbers only, one ChaCha stream. What a device is
//! depends on seed and number alone, so that two sources, one of each stream, tell of the same devices.

mod device;
mod readings;

use async_trait::async_trait;
use lakehouse_api::pipeline::{SensorStream, SensorsSource};
use lakehouse_contract::Reason;

use super::{Context, Source, lines, live, ticks::Ticks};
use crate::{IngestError, Sink};
use device::{Device, Register};
use readings::Generator;

/// The sensors of one source.
pub struct Sensors<'a> {
    /// Surroundings.
    pub context: Context<'a>,
    /// Numbers.
    pub definition: &'a SensorsSource,
}

#[async_trait]
impl Source for Sensors<'_> {
    async fn fetch(&self, sink: &mut Sink<'_>) -> Result<(), IngestError> {
        let interval = self.context.spec.interval;
        match self.definition.stream {
            SensorStream::Devices => lines::put(sink, self.definition.seed, None, Register::new(self.definition, interval.start)).await,
            SensorStream::Readings => {
                let Some(ticks) = Ticks::of(&interval, self.definition.every.0) else {
                    let message = "sensors.every must be at least one second";
                    return Err(IngestError::source(Reason::InvalidDefinition, self.context.name, message));
                };
                let generator = Generator::new(self.context.name, &interval, ticks, self.definition);
                match &self.definition.continuous {
                    None => lines::put(sink, self.definition.seed, None, generator).await,
                    Some(continuous) => live::put(&self.context, sink, self.definition.seed, continuous, generator).await,
                }
            }
        }
    }
}

/// The devices of a definition, by number from 1.
fn devices(definition: &SensorsSource) -> impl Iterator<Item = Device> + use<> {
    let seed = definition.seed;
    (1..=u64::from(definition.devices.unsigned_abs())).map(move |number| Device::new(seed, number))
}
