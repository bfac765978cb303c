//! `http`: JSON documents from an HTTP API, one bronze object per page.
//!
//! What is kept is the body as the server meant it: a transfer encoding (gzip, zstd) is undone, nothing else is touched. The object's
//! metadata has the URL without user information, the status, and the headers content-type, etag, last-modified and date.
//!
//! | the source … | is met with |
//! |---|---|
//! | answers 429 or 5xx, not in time, breaks off, or sends no JSON | another try, see [`super::web`]; then `SourceUnavailable` (`InvalidResponse` for no JSON) |
//! | answers another 4xx, or redirects to another host | `SourceRefused` |
//! | has an empty body or no record in the first page | `EmptyResponse`, unless `allowEmpty`, or nothing new was asked for |
//! | has something at `incremental.cursor` that its type does not know | `InvalidResponse` |
//! | has no array at `records`, repeats a page, never ends | `InvalidResponse` |
//! | knows only "now" while the interval is long over | `NoHistory`, without a request |
//!
//! A body that is refused is kept as `rejected-00000.bin` beside the objects, and the message names it. Records that are not objects are
//! kept and counted: what becomes of them is silver's business.

mod document;
mod incremental;
mod paging;

use std::time::Duration;

use async_trait::async_trait;
use lakehouse_api::pipeline::{Incremental, Paging};
use lakehouse_contract::Reason;
use url::Url;

use super::{
    Source,
    web::{
        Web,
        client::{Answer, Client},
        metadata,
    },
};
use crate::{IngestError, ObjectFacts, Sink};
use document::{Found, find, find_each};
use incremental::Position;
use paging::{Clue, Pages, pointer};

/// An HTTP source.
pub struct Http<'a> {
    /// The host.
    pub web: Web<'a>,
    /// JSON Pointer to the records.
    pub records: &'a str,
    /// How the next page is found.
    pub paging: Option<&'a Paging>,
    /// Load only what is new.
    pub incremental: Option<&'a Incremental>,
    /// Accept no record.
    pub allow_empty: bool,
}

/// A page that is what the definition says.
struct Page {
    answer: Answer,
    records: u64,
    /// What is at the cursor of each record, where there is a cursor.
    cursors: Vec<Found>,
    /// What the pointer to the next page, or its cursor, found, where there is one.
    next: Option<Found>,
}

#[async_trait]
impl Source for Http<'_> {
    async fn fetch(&self, sink: &mut Sink<'_>) -> Result<(), IngestError> {
        self.web.check_history()?;
        let client = self.web.client("application/json", self.web.context.options.max_response_bytes, Duration::ZERO)?;
        let mut position = match self.incremental {
            Some(definition) => Some(Position::load(&self.web.context, definition).await?),
            None => None,
        };
        let allow_empty = self.allow_empty || position.as_ref().is_some_and(Position::continues);
        let first_url = position.as_ref().map_or_else(|| self.web.url.clone(), |position| position.ask(self.web.url));
        let mut pages = Pages::new(&first_url, self.paging);
        while let Some(url) = pages.next_url() {
            let page = self.page(&client, &url, allow_empty, sink).await?;
            let first = pages.fetched() == 0;
            if first && page.records == 0 && !allow_empty {
                let at = if self.records.is_empty() { String::new() } else { format!(" at {}", self.records) };
                let message =
                    format!("GET {} answered {} with no record{at}; allowEmpty accepts that", page.answer.url, page.answer.status);
                return Err(self.web.error(Reason::EmptyResponse, message));
            }
            if let Some(position) = &mut position
                && let Err(message) = position.see(page.cursors)
            {
                let message = format!("GET {} answered {}: {message}", page.answer.url, page.answer.status);
                return Err(self.web.reject(sink, Reason::InvalidResponse, page.answer, &message).await);
            }
            let clue = Clue { found: page.next, headers: &page.answer.headers };
            let more = pages.turn(&page.answer.url, &page.answer.body, page.records, clue);
            let more = match more {
                Ok(more) => more,
                Err(message) => return Err(self.web.reject(sink, Reason::InvalidResponse, page.answer, &message).await),
            };
            // The page without records that ends numbered pages says nothing; a first page is kept whatever it says.
            if (first || page.records > 0 || !more.ended_by_emptiness) && !page.answer.body.is_empty() {
                let facts = ObjectFacts { records: Some(page.records), metadata: metadata(&page.answer) };
                sink.put(page.answer.body, "json", facts).await?;
            }
        }
        sink.cursor = position.and_then(Position::into_cursor);
        Ok(())
    }
}

impl Http<'_> {
    /// Gets one page, again and again while that can help.
    async fn page(&self, client: &Client, url: &Url, allow_empty: bool, sink: &Sink<'_>) -> Result<Page, IngestError> {
        let mut tries = self.web.tries();
        loop {
            let answer = self.web.get(client, url, &|_| Ok(()), &mut tries).await.map_err(|trouble| self.web.failed(trouble))?;
            let message = match self.check(&answer, allow_empty) {
                Checked::Page { records, cursors, next } => return Ok(Page { answer, records, cursors, next }),
                Checked::Empty(message) => return Err(self.web.error(Reason::EmptyResponse, message)),
                Checked::Invalid(message) => message,
                Checked::NotJson(message) if self.web.again(&mut tries, None, &message).await => continue,
                Checked::NotJson(message) => tries.spent(&message),
            };
            return Err(self.web.reject(sink, Reason::InvalidResponse, answer, &message).await);
        }
    }

    fn check(&self, answer: &Answer, allow_empty: bool) -> Checked {
        let asked = format!("GET {} answered {}", answer.url, answer.status);
        if answer.body.is_empty() {
            // 204 No Content says on purpose that there is nothing; an empty 200 is a fault of the source.
            return match answer.status.as_u16() {
                204 if allow_empty => Checked::Page { records: 0, cursors: Vec::new(), next: None },
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
        let cursor = self.incremental.map(|incremental| incremental.cursor.as_str());
        let found = match cursor {
            Some(cursor) => find_each(text, self.records, cursor),
            None => find(text, self.records).map(|found| (found, Vec::new())),
        };
        let (found, cursors) = match found {
            Ok(found) => found,
            Err(error) => return not_json(error.to_string()),
        };
        match found {
            Found::Array(records) => Checked::Page { records, cursors, next },
            Found::Object if self.records.is_empty() => {
                let cursors = cursor.and_then(|cursor| find(text, cursor).ok()).into_iter().collect();
                Checked::Page { records: 1, cursors, next }
            }
            found if self.records.is_empty() => {
                Checked::Invalid(format!("{asked} with {found}, where an array of records or one record was expected"))
            }
            Found::Missing => Checked::Invalid(format!("{asked}, but there is nothing at records pointer {}", self.records)),
            found => Checked::Invalid(format!("{asked}, but at records pointer {} is {found}, not an array", self.records)),
        }
    }
}

/// What an answer is.
enum Checked {
    /// Records.
    Page { records: u64, cursors: Vec<Found>, next: Option<Found> },
    /// Nothing.
    Empty(String),
    /// JSON of another shape; asking again ends the same.
    Invalid(String),
    /// Perhaps the transfer broke; asking again may help.
    NotJson(String),
}
