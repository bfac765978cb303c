//! `clickstream`: generated events of an online shop, as a tracker with at-least-once delivery would send them.
//!
//! NDJSON with the fields `event_id`, `ts`, `user_id`, `session_id`, `event_type` (view, add_to_cart, purchase), `product`, `price`,
//! `region`. The same seed, source name and interval give the same bytes, on every platform: integers only, one ChaCha stream.
//!
//! An interval has exactly `events` distinct events in the order of `ts`, of which exactly `events × faultsPerTenThousand / 10,000`
//! (rounded down) carry a fault, and beside them `events × duplicatesPerTenThousand / 10,000` exact copies, each due within
//! [`LATEST_COPY`] lines after its original (copies that are due at once queue up, so at most twice as many).
//!
//! `eventsPerSecond` is the rate of lines, copies included: the times of events are spread over the interval whatever it is.

mod events;
mod shop;

use async_trait::async_trait;
use lakehouse_api::pipeline::ClickstreamSource;

use super::{Context, Source, lines};
use crate::{IngestError, Sink};
use events::Generator;

pub use events::LATEST_COPY;

/// The events of one source.
pub struct Clickstream<'a> {
    /// Surroundings.
    pub context: Context<'a>,
    /// Numbers.
    pub definition: &'a ClickstreamSource,
}

#[async_trait]
impl Source for Clickstream<'_> {
    async fn fetch(&self, sink: &mut Sink<'_>) -> Result<(), IngestError> {
        let generator = Generator::new(self.context.name, &self.context.spec.interval, self.definition);
        lines::put(sink, self.definition.seed, self.definition.events_per_second, generator).await
    }

    fn expected_records(&self) -> Option<u64> {
        let events = self.definition.events.unsigned_abs();
        Some(events + events::share(events, self.definition.duplicates_per_ten_thousand))
    }
}
