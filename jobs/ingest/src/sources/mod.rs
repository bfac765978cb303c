//! Sources. To add one: a module here with a type that implements [`Source`], and its arm in [`open`].

pub mod clickstream;
pub mod files;
pub mod http;
mod lines;
mod live;
pub mod pulse;
mod random;
mod render;
pub mod scrape;
pub mod sensors;
mod ticks;
pub mod web;

use std::time::Duration;

use async_trait::async_trait;
use lakehouse_contract::{IngestSource, ResolvedSource, StageSpec};
use lakehouse_storage::Storage;

use crate::{IngestError, Options, Sink};

/// Where bronze objects come from.
#[async_trait]
pub trait Source: Send + Sync {
    /// Fetches all of the interval and hands it to `sink`, raw as received, in the order of its records.
    ///
    /// It may be dropped at any await and run again by another attempt; nothing it put exists before the stage's manifest does.
    ///
    /// # Errors
    /// [`IngestError`] that names the source and what it was asked for.
    async fn fetch(&self, sink: &mut Sink<'_>) -> Result<(), IngestError>;

    /// Number of records, where it is known beforehand.
    fn expected_records(&self) -> Option<u64> {
        None
    }
}

/// What every source is given.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The stage's spec.
    pub spec: &'a StageSpec,
    /// The store; files sources read its landing layer.
    pub storage: &'a Storage,
    /// Clock, environment and limits.
    pub options: &'a Options,
    /// Name of the source.
    pub name: &'a str,
}

/// The implementation of a source.
pub fn open<'a>(context: Context<'a>, source: &'a ResolvedSource) -> Box<dyn Source + 'a> {
    let web = |url, connection, history, timeout_seconds, retries| web::Web {
        context,
        url,
        connection,
        history,
        timeout: Duration::from_secs(timeout_seconds),
        retries,
    };
    match &source.source {
        IngestSource::Http { url, connection, records, paging, incremental, history, allow_empty, timeout_seconds, retries } => {
            Box::new(http::Http {
                web: web(url, connection, *history, *timeout_seconds, *retries),
                records,
                paging: paging.as_ref(),
                incremental: incremental.as_ref(),
                allow_empty: *allow_empty,
            })
        }
        IngestSource::Scrape {
            url,
            connection,
            records,
            paging,
            history,
            allow_empty,
            request_interval_millis,
            robots,
            timeout_seconds,
            retries,
            render,
        } => Box::new(scrape::Scrape {
            web: web(url, connection, *history, *timeout_seconds, *retries),
            records,
            paging: paging.as_ref(),
            allow_empty: *allow_empty,
            request_interval: Duration::from_millis(*request_interval_millis),
            robots: *robots,
            render: render.as_ref(),
        }),
        IngestSource::Pulse(definition) => Box::new(pulse::Pulse { context, definition }),
        IngestSource::Clickstream(definition) => Box::new(clickstream::Clickstream { context, definition }),
        IngestSource::Sensors(definition) => Box::new(sensors::Sensors { context, definition }),
        IngestSource::Files { path, format, allow_empty } => {
            Box::new(files::Files { context, pattern: path, format: *format, allow_empty: *allow_empty })
        }
    }
}
