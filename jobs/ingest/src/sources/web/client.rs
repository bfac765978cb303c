//! One GET: the token goes to the connection's host only, redirects stay on it, its addresses are of a network that it may be in
//! ([`super::egress`]), the body has an end.
//!
//! Passing troubles, which another try can cure: 429 and 5xx, no connection, no answer in time, a body that breaks off. All texts are
//! free of the token, also where the server repeats it.

use std::{error::Error, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use reqwest::{
    Method, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER},
    redirect::Policy,
};
use tokio::time::{Instant, timeout};
use url::Url;

use super::{
    egress::{self, Egress, Resolver},
    pace::Pace,
};

/// What we call ourselves, without the version: the name that robots.txt can address.
pub const PRODUCT: &str = "lakehouse-ingest";

/// Redirects that are followed.
const MOST_REDIRECTS: usize = 10;
/// Characters of an error's body that a message repeats.
const EXCERPT_CHARS: usize = 200;
/// Bytes of an error's body that are read for it.
const EXCERPT_BYTES: usize = 4096;

/// An answer; of [`Client::get`] and [`judged`] one with a status of 2xx.
pub struct Answer {
    /// The URL that answered, after redirects; without user information.
    pub url: Url,
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// All of its body, decompressed.
    pub body: Bytes,
}

/// Why there is no [`Answer`].
pub enum Trouble {
    /// The source refuses, or leads to another host; or we do.
    Refused {
        /// What happened.
        message: String,
        /// Its status, where it answered with a 4xx.
        status: Option<StatusCode>,
    },
    /// The source answers with something that cannot be used.
    Invalid(String),
    /// Another try can help, after the time that the source asked for.
    Passing {
        /// What happened.
        message: String,
        /// What `Retry-After` says.
        retry_after: Option<Duration>,
    },
}

/// Says whether a URL may be asked for; if not, why.
pub type Gate<'g> = dyn Fn(&Url) -> Result<(), String> + Sync + 'g;

/// How a client asks.
pub struct Settings {
    /// Bearer token.
    pub token: Option<String>,
    /// Media types for the header Accept.
    pub accept: &'static str,
    /// Longest time of one request, redirects and the last byte of the body included, waits for its turn not.
    pub timeout: Duration,
    /// Most bytes of a body, decompressed.
    pub max_body: usize,
    /// Shortest time between the starts of two requests.
    pub interval: Duration,
    /// Networks that the host may have addresses in, beside those that everybody may reach.
    pub allowed_networks: Vec<String>,
}

/// A request that a page makes.
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// Its headers; where they have one of the client's, theirs counts.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Option<Bytes>,
}

/// Sends requests to one host.
pub struct Client {
    http: reqwest::Client,
    home: Url,
    egress: Arc<Egress>,
    token: Option<String>,
    timeout: Duration,
    max_body: usize,
    pace: Pace,
}

/// What came of one request.
enum Hop {
    Answer(Answer),
    To(Url),
}

impl Client {
    /// A client for the scheme, host and port of `home`.
    ///
    /// # Errors
    /// A line that says why there can be none, without the token.
    pub fn new(home: &Url, settings: Settings) -> Result<Self, String> {
        let egress = Egress::new(home, &settings.allowed_networks)?;
        Self::within(home, egress, settings)
    }

    /// The same for a host that is not the connection's own: whatever its name, only public addresses and those of the networks are reached.
    ///
    /// # Errors
    /// As of [`Client::new`].
    pub fn elsewhere(home: &Url, settings: Settings) -> Result<Self, String> {
        let egress = Egress::outer(home, &settings.allowed_networks)?;
        Self::within(home, egress, settings)
    }

    fn within(home: &Url, egress: Arc<Egress>, settings: Settings) -> Result<Self, String> {
        lakehouse_storage::init_tls();
        let Settings { token, accept, timeout, max_body, interval, .. } = settings;
        let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
        if let Some(token) = &token {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| "the token has characters that no HTTP header can carry".to_owned())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .redirect(Policy::none())
            .dns_resolver(Arc::new(Resolver(egress.clone())))
            .default_headers(headers)
            .user_agent(format!("{PRODUCT}/{}", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| root_cause(&error))?;
        Ok(Self { http, home: home.clone(), egress, token, timeout, max_body, pace: Pace::new(interval) })
    }

    /// From now on requests start at least `interval` apart.
    pub fn slow_down(&mut self, interval: Duration) {
        self.pace.slow_down(interval);
    }

    /// GETs `url`, which must be on the client's host, and all of its body; it and all that it redirects to must pass `gate`.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn get(&self, url: &Url, gate: &Gate<'_>) -> Result<Answer, Trouble> {
        self.follow(url, gate).await.map_err(|trouble| self.without_token(trouble))
    }

    /// Waits until the next request may start; how long that was.
    pub async fn turn(&self) -> Duration {
        let began = Instant::now();
        self.pace.turn().await;
        began.elapsed()
    }

    /// Sends a request as it is, at once, to the client's host; the answer has any status, and what it redirects to is not asked for.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn exchange(&self, request: Request) -> Result<Answer, Trouble> {
        let (url, seconds) = (request.url.clone(), self.timeout.as_secs());
        let answer = timeout(self.timeout, async {
            let response = self.send(request).await?;
            self.collect(url.clone(), response, self.max_body).await
        });
        let answer = answer.await.unwrap_or_else(|_| Err(passing(format!("GET {url} was not answered within {seconds} s"))));
        answer.map_err(|trouble| self.without_token(trouble))
    }

    async fn send(&self, request: Request) -> Result<Response, Trouble> {
        let Request { method, url, headers, body } = request;
        let refused = |denied: &egress::Denied| Trouble::Refused { message: format!("{method} {url}: not sent, {denied}"), status: None };
        self.egress.check(&url).map_err(|denied| refused(&denied))?;
        let mut sending = self.http.request(method.clone(), url.clone()).headers(headers);
        if let Some(body) = body {
            sending = sending.body(body);
        }
        sending.send().await.map_err(|error| match egress::denied(&error) {
            Some(denied) => refused(denied),
            None => passing(format!("{method} {url}: {}", root_cause(&error))),
        })
    }

    async fn follow(&self, asked: &Url, gate: &Gate<'_>) -> Result<Answer, Trouble> {
        let mut url = asked.clone();
        let mut left = self.timeout;
        for _ in 0..=MOST_REDIRECTS {
            gate(&url).map_err(|message| Trouble::Refused { message, status: None })?;
            self.egress
                .check(&url)
                .map_err(|denied| Trouble::Refused { message: format!("GET {url}: not sent, {denied}"), status: None })?;
            self.pace.turn().await;
            let began = Instant::now();
            let hop = timeout(left, self.hop(&url)).await;
            match hop.map_err(|_| passing(format!("GET {asked} was not answered within {} s", self.timeout.as_secs())))?? {
                Hop::Answer(answer) => return Ok(answer),
                Hop::To(next) => url = next,
            }
            left = left.saturating_sub(began.elapsed());
        }
        Err(Trouble::Invalid(format!("GET {url}: more than {MOST_REDIRECTS} redirects")))
    }

    async fn hop(&self, url: &Url) -> Result<Hop, Trouble> {
        let request = Request { method: Method::GET, url: url.clone(), headers: HeaderMap::new(), body: None };
        let response = self.send(request).await?;
        let status = response.status();
        match response.headers().get(LOCATION).map(HeaderValue::to_str) {
            Some(Ok(location)) if status.is_redirection() => self.redirected(url, status, location).map(Hop::To),
            _ => judged(self.collect(url.clone(), response, EXCERPT_BYTES).await?).map(Hop::Answer),
        }
    }

    /// Where an answer of `from` that redirects leads.
    ///
    /// # Errors
    /// [`Trouble`] when that is another host, or no URL.
    pub fn redirected(&self, from: &Url, status: StatusCode, location: &str) -> Result<Url, Trouble> {
        let invalid =
            |_| Trouble::Invalid(format!("GET {from} answered {status} to something that is not a URL: {}", excerpt(location.as_bytes())));
        let to = without_user(from.join(location).map_err(invalid)?);
        if to.origin() == self.home.origin() {
            return Ok(to);
        }
        let home = self.home.origin().ascii_serialization();
        let message = format!("GET {from} answered {status} to {to}, which is not on {home}: redirects to another host are not followed");
        Err(Trouble::Refused { message, status: None })
    }

    /// An answer with its body; of one that says an error at most `of_errors` bytes.
    async fn collect(&self, url: Url, mut response: Response, of_errors: usize) -> Result<Answer, Trouble> {
        let status = response.status();
        let headers = response.headers().clone();
        let limit = if status.is_success() { self.max_body } else { of_errors };
        let mut body = BytesMut::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= limit => body.extend_from_slice(&chunk),
                Ok(Some(_)) if status.is_success() => {
                    let message =
                        format!("GET {url} answered {status} with more than {limit} bytes; ask for less per request, with paging");
                    return Err(Trouble::Invalid(message));
                }
                Ok(Some(chunk)) => {
                    body.extend_from_slice(&chunk[..limit - body.len()]);
                    break;
                }
                Ok(None) => break,
                Err(error) if status.is_success() => {
                    let message =
                        format!("GET {url} answered {status}, but the body broke off after {} bytes: {}", body.len(), root_cause(&error));
                    return Err(passing(message));
                }
                Err(_) => break,
            }
        }
        Ok(Answer { url, status, headers, body: body.freeze() })
    }

    /// `trouble` without the token, should its text have it.
    pub fn without_token(&self, trouble: Trouble) -> Trouble {
        let Some(token) = &self.token else { return trouble };
        let clean = |message: String| message.replace(token.as_str(), "***");
        match trouble {
            Trouble::Refused { message, status } => Trouble::Refused { message: clean(message), status },
            Trouble::Invalid(message) => Trouble::Invalid(clean(message)),
            Trouble::Passing { message, retry_after } => Trouble::Passing { message: clean(message), retry_after },
        }
    }
}

/// An answer with a status of 2xx; any other is a trouble.
///
/// # Errors
/// [`Trouble`].
pub fn judged(answer: Answer) -> Result<Answer, Trouble> {
    let Answer { url, status, headers, body } = &answer;
    if status.is_success() {
        return Ok(answer);
    }
    let said = excerpt(body);
    let message = format!("GET {url} answered {status}{}{said}", if said.is_empty() { "" } else { ": " });
    Err(match *status {
        StatusCode::TOO_MANY_REQUESTS => Trouble::Passing { message, retry_after: retry_after(headers, Utc::now()) },
        _ if status.is_server_error() => Trouble::Passing { message, retry_after: retry_after(headers, Utc::now()) },
        _ if status.is_client_error() => Trouble::Refused { message, status: Some(*status) },
        _ => Trouble::Invalid(message),
    })
}

fn passing(message: String) -> Trouble {
    Trouble::Passing { message, retry_after: None }
}

/// `url` without user name and password.
pub fn without_user(mut url: Url) -> Url {
    // Both fail only for URLs that cannot have a user, which then have none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

/// The innermost cause, such as `Connection refused (os error 111)`; the outer ones repeat the URL.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The beginning of a body, on one line.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(EXCERPT_CHARS).collect()
}

/// What `Retry-After` asks for: seconds or an HTTP date.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(value).ok()?;
    Some((date.to_utc() - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = DateTime::parse_from_rfc3339("2015-10-21T07:28:00Z").unwrap().to_utc();
        let asked = |value: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(value).unwrap())]), now);
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:27:00 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt(b"<html>\n  <b>no</b>\xff"), "<html> <b>no</b>\u{fffd}");
        assert_eq!(excerpt("ä".repeat(1000).as_bytes()).chars().count(), 200);
    }

    #[test]
    fn user_information_is_not_shown() {
        let url = without_user(Url::parse("https://me:secret@example.com/a?b=c").unwrap());
        assert_eq!(url.as_str(), "https://example.com/a?b=c");
    }
}
