//! What sources that ask a host have in common: the connection's token, tries, the pace, and what is kept of an answer.

pub mod client;
mod egress;
pub mod links;
mod pace;
mod retry;

use std::{collections::BTreeMap, time::Duration};

use lakehouse_api::pipeline::History;
use lakehouse_contract::{HttpConnection, Reason, interval::rfc3339};
use url::Url;

use super::Context;
use crate::{IngestError, Sink};
use client::{Answer, Client, Gate, Settings, Trouble};
pub use retry::Tries;

/// A host that a source asks.
pub struct Web<'a> {
    /// Surroundings.
    pub context: Context<'a>,
    /// URL of the first request.
    pub url: &'a Url,
    /// Where the token comes from.
    pub connection: &'a HttpConnection,
    /// What the source knows of the past.
    pub history: History,
    /// Longest time of one request, redirects and the last byte of the body included.
    pub timeout: Duration,
    /// Further tries of a request.
    pub retries: u32,
}

impl Web<'_> {
    /// An error of the source.
    pub fn error(&self, reason: Reason, message: impl Into<String>) -> IngestError {
        IngestError::source(reason, self.context.name, message)
    }

    /// The error that a trouble is, once there is no other try.
    pub fn failed(&self, trouble: Trouble) -> IngestError {
        match trouble {
            Trouble::Refused { message, .. } => self.error(Reason::SourceRefused, message),
            Trouble::Invalid(message) => self.error(Reason::InvalidResponse, message),
            Trouble::Passing { message, .. } => self.error(Reason::SourceUnavailable, message),
        }
    }

    /// Checks that the source can be asked for the interval.
    ///
    /// # Errors
    /// `NoHistory` when it knows only the present and the interval is over for too long.
    pub fn check_history(&self) -> Result<(), IngestError> {
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

    /// A client with the connection's token, which asks for `accept`, takes at most `max_body` bytes and starts requests at least `interval`
    /// apart.
    ///
    /// # Errors
    /// `InvalidDefinition` or `SourceRefused` when the connection cannot be used.
    pub fn client(&self, accept: &'static str, max_body: usize, interval: Duration) -> Result<Client, IngestError> {
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
        let allowed_networks = self.connection.allowed_networks.clone();
        Client::new(self.url, Settings { token, accept, timeout: self.timeout, max_body, interval, allowed_networks })
            .map_err(|message| self.error(Reason::SourceRefused, format!("connection {}: {message}", self.connection.name)))
    }

    /// A client without the connection's token, for what a page of its host loads from `origin`; like [`Web::client`] otherwise.
    ///
    /// # Errors
    /// A line that says why there can be none.
    pub fn client_of_page(&self, origin: &Url, max_body: usize) -> Result<Client, String> {
        let allowed_networks = self.connection.allowed_networks.clone();
        let settings = Settings { token: None, accept: "*/*", timeout: self.timeout, max_body, interval: Duration::ZERO, allowed_networks };
        if origin.origin() == self.url.origin() { Client::new(origin, settings) } else { Client::elsewhere(origin, settings) }
    }

    /// The tries of one request.
    pub fn tries(&self) -> Tries {
        Tries::new(self.retries, self.context.options.backoff, self.context.options.max_retry_after)
    }

    /// GETs `url`, again and again while that can help and `tries` are left.
    ///
    /// # Errors
    /// The last trouble.
    pub async fn get(&self, client: &Client, url: &Url, gate: &Gate<'_>, tries: &mut Tries) -> Result<Answer, Trouble> {
        loop {
            match client.get(url, gate).await {
                Err(Trouble::Passing { message, retry_after }) => {
                    if !self.again(tries, retry_after, &message).await {
                        return Err(Trouble::Passing { message: tries.spent(&message), retry_after });
                    }
                }
                done => return done,
            }
        }
    }

    /// Waits before another try; false: there is none. `message` says what was wrong with the last one.
    pub async fn again(&self, tries: &mut Tries, retry_after: Option<Duration>, message: &str) -> bool {
        let Some(delay) = tries.next_delay(retry_after) else { return false };
        tracing::warn!(source = self.context.name, tries = tries.made(), delay_ms = delay.as_millis(), "{message}; trying again");
        tokio::time::sleep(delay).await;
        true
    }

    /// Keeps the body and names it in the error.
    pub async fn reject(&self, sink: &Sink<'_>, reason: Reason, answer: Answer, message: &str) -> IngestError {
        match sink.reject(answer.body).await {
            Ok(uri) => self.error(reason, format!("{message}; the body is kept as {uri}")),
            Err(error) => error,
        }
    }
}

/// What the manifest keeps of an answer.
pub fn metadata(answer: &Answer) -> BTreeMap<String, String> {
    let mut metadata =
        BTreeMap::from([("url".to_owned(), answer.url.to_string()), ("status".to_owned(), answer.status.as_u16().to_string())]);
    for name in ["content-type", "etag", "last-modified", "date"] {
        if let Some(value) = answer.headers.get(name).and_then(|value| value.to_str().ok()) {
            metadata.insert(name.to_owned(), value.to_owned());
        }
    }
    metadata
}
