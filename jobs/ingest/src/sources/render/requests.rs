//! Which requests of a page are sent, and how.
//!
//! | request | is sent |
//! |---|---|
//! | for the page, a GET | to the connection's host, with its token, at its turn, where the gate (robots.txt) lets it |
//! | for scripts, styles and data (GET, HEAD) | to the connection's host, with its token, where the gate lets it; to `resourceHosts` without |
//! | of scripts that send something (POST), and what browsers ask before (OPTIONS) | to the same hosts, without the token: what a script of the page wants to change it may not change in our name |
//! | for pictures, fonts, sounds, frames, streams and statistics | no: they make no record |
//! | any other method, any other host | no |

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use reqwest::{
    Method,
    header::{
        ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
        USER_AGENT,
    },
};
use serde_json::Value;
use tokio::sync::Semaphore;
use url::Url;

use crate::sources::web::{
    Web,
    client::{Answer, Client, Gate, Request, Trouble},
};

/// Requests of one page that are under way at once; browsers have six.
const AT_ONCE: usize = 6;
/// Kinds (`Network.ResourceType`) that are loaded, beside pages.
const LOADED: [&str; 6] = ["Script", "Stylesheet", "XHR", "Fetch", "Preflight", "Other"];
/// Headers that are the client's business.
const OURS: [HeaderName; 7] = [ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE, USER_AGENT];

/// A request that Chromium has handed over and waits for.
pub struct Paused {
    /// What it is called.
    pub id: String,
    /// Its `Network.ResourceType`.
    pub kind: String,
    /// The frame that makes it.
    pub frame: String,
    /// The request.
    pub request: Request,
}

impl Paused {
    /// Reads a `Fetch.requestPaused`.
    ///
    /// # Errors
    /// Name of the request and what in it cannot be sent.
    pub fn new(params: &Value) -> Result<Self, (String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (id, asked) = (text(&params["requestId"]), &params["request"]);
        let address = text(&asked["url"]);
        let wrong = |what: String| (id.clone(), what);
        let url = Url::parse(&address).map_err(|error| wrong(format!("{address}: {error}")))?;
        let method = asked["method"].as_str().and_then(|method| method.parse().ok()).unwrap_or(Method::GET);
        let body = body(asked).map_err(|what| wrong(format!("{method} {url}: {what}")))?;
        let mut headers = HeaderMap::new();
        for (name, value) in asked["headers"].as_object().into_iter().flatten() {
            let name = HeaderName::try_from(name.as_str()).ok().filter(|name| !OURS.contains(name));
            let value = value.as_str().and_then(|value| HeaderValue::try_from(value).ok());
            if let (Some(name), Some(value)) = (name, value) {
                headers.append(name, value);
            }
        }
        let (kind, frame) = (text(&params["resourceType"]), text(&params["frameId"]));
        Ok(Self { id, kind, frame, request: Request { method, url, headers, body } })
    }
}

fn body(asked: &Value) -> Result<Option<Bytes>, String> {
    if !asked["hasPostData"].as_bool().unwrap_or_default() {
        return Ok(None);
    }
    let Some(entries) = asked["postDataEntries"].as_array() else { return Err("its body is not known".to_owned()) };
    let mut body = Vec::new();
    for entry in entries {
        let bytes = entry["bytes"].as_str().ok_or("its body has a file")?;
        body.extend(BASE64_STANDARD.decode(bytes).map_err(|error| format!("its body is not known: {error}"))?);
    }
    Ok(Some(body.into()))
}

/// Why a request of a page is not answered.
pub enum Unanswered {
    /// It is of a kind that is not loaded.
    Needless,
    /// It may not be sent, or went wrong: one line.
    Failed(String),
}

/// Sends requests of one page.
pub struct Requests<'a> {
    web: &'a Web<'a>,
    client: &'a Client,
    gate: &'a Gate<'a>,
    max_body: usize,
    /// Clients without a token, by origin.
    others: Mutex<HashMap<String, Arc<Client>>>,
    turns: Semaphore,
}

impl<'a> Requests<'a> {
    /// With `client` for the connection's host, of which `gate` says what may be asked for.
    pub fn new(web: &'a Web<'a>, client: &'a Client, gate: &'a Gate<'a>, max_body: usize) -> Self {
        Self { web, client, gate, max_body, others: Mutex::default(), turns: Semaphore::new(AT_ONCE) }
    }

    /// The client of the connection's host.
    pub fn client(&self) -> &Client {
        self.client
    }

    /// Whether `url` is on the connection's host.
    pub fn is_home(&self, url: &Url) -> bool {
        url.origin() == self.web.url.origin()
    }

    /// Whether a page may be asked for by `request`.
    ///
    /// # Errors
    /// [`Trouble`] that says why not.
    pub fn check_page(&self, request: &Request) -> Result<(), Trouble> {
        let Request { method, url, .. } = request;
        if *method != Method::GET {
            return Err(Trouble::Invalid(format!("the page goes on to {method} {url}, which is not sent: pages are asked for by GET")));
        }
        if !self.is_home(url) {
            let home = self.web.url.origin().ascii_serialization();
            let message = format!("the page goes on to {url}, which is not on {home}: pages of another host are not fetched");
            return Err(Trouble::Refused { message, status: None });
        }
        (self.gate)(url).map_err(|message| Trouble::Refused { message, status: None })
    }

    /// Asks for a page.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn page(&self, mut request: Request) -> Result<Answer, Trouble> {
        request.headers.remove(ACCEPT);
        self.client.exchange(request).await
    }

    /// Asks for what a page loads.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn resource(&self, kind: &str, request: Request) -> Result<Answer, Unanswered> {
        if !LOADED.contains(&kind) {
            return Err(Unanswered::Needless);
        }
        let (name, home) = (format!("{} {}", request.method, request.url), self.is_home(&request.url));
        let no = |why: &str| Unanswered::Failed(format!("{name}: not sent, {why}"));
        if home {
            (self.gate)(&request.url).map_err(Unanswered::Failed)?;
        } else if !self.is_resource_host(&request.url) {
            return Err(no("its host is not among resourceHosts of the connection"));
        }
        let ours = match request.method {
            Method::GET | Method::HEAD => home,
            Method::POST | Method::OPTIONS => false,
            _ => return Err(no("a page that is looked at changes nothing")),
        };
        let other = if ours { None } else { Some(self.other(&request.url).map_err(|why| no(&why))?) };
        let _turn = self.turns.acquire().await;
        let answer = other.as_deref().unwrap_or(self.client).exchange(request).await;
        answer.map_err(|trouble| match trouble {
            Trouble::Refused { message, .. } | Trouble::Invalid(message) | Trouble::Passing { message, .. } => Unanswered::Failed(message),
        })
    }

    /// One of the hosts that the Lakehouse names; by TLS, unless the connection goes without itself.
    fn is_resource_host(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        let name = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let scheme = url.scheme() == "https" || url.scheme() == self.web.url.scheme();
        scheme && self.web.connection.resource_hosts.contains(&name)
    }

    fn other(&self, url: &Url) -> Result<Arc<Client>, String> {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = url.origin().ascii_serialization();
        if let Some(client) = others.get(&origin) {
            return Ok(client.clone());
        }
        let client = Arc::new(self.web.client_of_page(url, self.max_body)?);
        others.insert(origin, client.clone());
        Ok(client)
    }
}
