//! `http`: JSON documents from an HTTP API, one bronze object per page.
//!
//! What is kept is the body as the server meant it: a transfer encoding (gzip, zstd) is undone, nothing else is touched. The object's
//! metadata has the URL without user information, the status, and the headers content-type, etag, last-modified and date.
//!
//! | the source … | is met with |
//! |---|---|
//! | answers 429 or 5xx, not in time, breaks off, or sends no JSON | another try, see [`client`]; then `SourceUnavailable` (`InvalidResponse` for no JSON) |
//! | answers another 4xx, or redirects to another host | `SourceRefused` |
//! | has an empty body or no record in the first page | `EmptyResponse`, unless `allowEmpty` |
//! | has no array at `records`, repeats a page, never ends | `InvalidResponse` |
//! | knows only "now" while the interval is long over | `NoHistory`, without a request |
//!
//! A body that is refused is kept as `rejected-00000.bin` beside the objects, and the message names it. Records that are not objects are
//! kept and counted: what becomes of them is silver's business.

mod client;
mod document;
mod paging;
mod retry;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use lakehouse_api::pipeline::{History, Paging};
use lakehouse_contract::{HttpConnection, Reason, interval::rfc3339};
use url::Url;

use super::{Context, Source};
use crate::{IngestError, ObjectFacts, Sink};
use client::{Answer, Client, Trouble};
use document::{Found, find};
use paging::{Clue, Pages, pointer};
use retry::Tries;

/// An HTTP source.
pub struct Http<'a> {
    /// Surroundings.
    pub context: Context<'a>,
    /// URL of the first request.
    pub url: &'a Url,
    /// Where the token comes from.
    pub connection: &'a HttpConnection,
    /// JSON Pointer to the records.
    pub records: &'a str,
    /// How the next page is found.
    pub paging: Option<&'a Paging>,
    /// What the source knows of the past.
    pub history: History,
    /// Accept no record.
    pub allow_empty: bool,
    /// Longest time of one request, redirects and the last byte of the body included.
    pub timeout: Duration,
    /// Further tries of a request.
    pub retries: u32,
}

/// A page that is what the definition says.
struct Page {
    answer: Answer,
    records: u64,
    /// What the pointer to the next page, or its cursor, found, where there is one.
    next: Option<Found>,
}

#[async_trait]
impl Source for Http<'_> {
    async fn fetch(&self, sink: &mut Sink<'_>) -> Result<(), IngestError> {
        self.check_history()?;
        let client = self.client()?;
        let mut pages = Pages::new(self.url, self.paging);
        while let Some(url) = pages.next_url() {
            let page = self.page(&client, &url, sink).await?;
            let first = pages.fetched() == 0;
            if first && page.records == 0 && !self.allow_empty {
                let at = if self.records.is_empty() { String::new() } else { format!(" at {}", self.records) };
                let message =
                    format!("GET {} answered {} with no record{at}; allowEmpty accepts that", page.answer.url, page.answer.status);
                return Err(self.error(Reason::EmptyResponse, message));
            }
            let clue = Clue { found: page.next, headers: &page.answer.headers };
            let more = pages.turn(&page.answer.url, &page.answer.body, page.records, clue);
            let more = match more {
                Ok(more) => more,
                Err(message) => return Err(self.reject(sink, page.answer, &message).await),
            };
            // The page without records that ends numbered pages says nothing; a first page is kept whatever it says.
            if (first || page.records > 0 || !more.ended_by_emptiness) && !page.answer.body.is_empty() {
                let facts = ObjectFacts { records: Some(page.records), metadata: metadata(&page.answer) };
                sink.put(page.answer.body, "json", facts).await?;
            }
        }
        Ok(())
    }
}

impl Http<'_> {
    fn error(&self, reason: Reason, message: impl Into<String>) -> IngestError {
        IngestError::source(reason, self.context.name, message)
    }

    fn check_history(&self) -> Result<(), IngestError> {
        let (interval, now) = (self.context.spec.interval, (self.context.options.now)());
        if self.history == History::ByInterval || interval.within_grace(self.context.spec.grain, now) {
            return Ok(());
        }
        let hours = (now - interval.end).num_hours();
        let ago = if hours < 48 { format!("{hours} hours") } else { format!("{} days", hours / 24) };
        let message = format!(
            "it knows only the present: interval {} ended {} ({ago} ago); a backfill can replay bronze, or use a connection with `archive`",
            interval.label(self.context.spec.grain),
            rfc3339(interval.end),
        );
        Err(self.error(Reason::NoHistory, message))
    }

    fn client(&self) -> Result<Client, IngestError> {
        if !self.url.username().is_empty() || self.url.password().is_some() {
            let message = format!("connection {}: its URL holds a user name or a password; use authorizationSecret", self.connection.name);
            return Err(self.error(Reason::InvalidDefinition, message));
        }
        let token = match &self.connection.token_env {
            None => None,
            Some(variable) => {
                let token = (self.context.options.environment)(variable).map(|token| token.trim().to_owned());
                let Some(token) = token.filter(|token| !token.is_empty()) else {
                    let message = format!("connection {}: environment variable {variable} is not set", self.connection.name);
                    return Err(self.error(Reason::SourceRefused, message));
                };
                Some(token)
            }
        };
        Client::new(self.url, token, self.timeout, self.context.options.max_response_bytes)
            .map_err(|message| self.error(Reason::SourceRefused, format!("connection {}: {message}", self.connection.name)))
    }

    /// Gets one page, again and again while that can help.
    async fn page(&self, client: &Client, url: &Url, sink: &Sink<'_>) -> Result<Page, IngestError> {
        let mut tries = Tries::new(self.retries, self.context.options.backoff, self.context.options.max_retry_after);
        loop {
            let (reason, message, wait, rejected) = match client.get(url).await {
                Ok(answer) => match self.check(&answer) {
                    Checked::Page { records, next } => return Ok(Page { answer, records, next }),
                    Checked::Empty(message) => return Err(self.error(Reason::EmptyResponse, message)),
                    Checked::Invalid(message) => return Err(self.reject(sink, answer, &message).await),
                    Checked::NotJson(message) => (Reason::InvalidResponse, message, None, Some(answer)),
                },
                Err(Trouble::Refused(message)) => return Err(self.error(Reason::SourceRefused, message)),
                Err(Trouble::Invalid(message)) => return Err(self.error(Reason::InvalidResponse, message)),
                Err(Trouble::Passing { message, retry_after }) => (Reason::SourceUnavailable, message, retry_after, None),
            };
            if let Some(delay) = tries.next_delay(wait) {
                tracing::warn!(source = self.context.name, tries = tries.made(), delay_ms = delay.as_millis(), "{message}; trying again");
                tokio::time::sleep(delay).await;
                continue;
            }
            let message = format!("{message} ({} tries)", tries.made());
            return Err(match rejected {
                Some(answer) => self.reject(sink, answer, &message).await,
                None => self.error(reason, message),
            });
        }
    }

    fn check(&self, answer: &Answer) -> Checked {
        let asked = format!("GET {} answered {}", answer.url, answer.status);
        if answer.body.is_empty() {
            // 204 No Content says on purpose that there is nothing; an empty 200 is a fault of the source.
            return match answer.status.as_u16() {
                204 if self.allow_empty => Checked::Page { records: 0, next: None },
                _ => Checked::Empty(format!("{asked} with an empty body")),
            };
        }
        let not_json = |error: String| Checked::NotJson(format!("{asked} with something that is not JSON: {error}"));
        let text = match std::str::from_utf8(&answer.body) {
            Ok(text) => text,
            Err(error) => return not_json(format!("byte {} is not UTF-8", error.valid_up_to())),
        };
        let next = match self.paging.and_then(pointer).map(|pointer| find(text, pointer)).transpose() {
            Ok(next) => next,
            Err(error) => return not_json(error.to_string()),
        };
        match find(text, self.records) {
            Err(error) => not_json(error.to_string()),
            Ok(Found::Array(records)) => Checked::Page { records, next },
            Ok(Found::Object) if self.records.is_empty() => Checked::Page { records: 1, next },
            Ok(found) if self.records.is_empty() => {
                Checked::Invalid(format!("{asked} with {found}, where an array of records or one record was expected"))
            }
            Ok(Found::Missing) => Checked::Invalid(format!("{asked}, but there is nothing at records pointer {}", self.records)),
            Ok(found) => Checked::Invalid(format!("{asked}, but at records pointer {} is {found}, not an array", self.records)),
        }
    }

    /// Keeps the body and names it in the error.
    async fn reject(&self, sink: &Sink<'_>, answer: Answer, message: &str) -> IngestError {
        match sink.reject(answer.body).await {
            Ok(uri) => self.error(Reason::InvalidResponse, format!("{message}; the body is kept as {uri}")),
            Err(error) => error,
        }
    }
}

/// What an answer is.
enum Checked {
    /// Records.
    Page { records: u64, next: Option<Found> },
    /// Nothing.
    Empty(String),
    /// JSON of another shape; asking again ends the same.
    Invalid(String),
    /// Perhaps the transfer broke; asking again may help.
    NotJson(String),
}

fn metadata(answer: &Answer) -> BTreeMap<String, String> {
    let mut metadata =
        BTreeMap::from([("url".to_owned(), answer.url.to_string()), ("status".to_owned(), answer.status.as_u16().to_string())]);
    for name in ["content-type", "etag", "last-modified", "date"] {
        if let Some(value) = answer.headers.get(name).and_then(|value| value.to_str().ok()) {
            metadata.insert(name.to_owned(), value.to_owned());
        }
    }
    metadata
}
