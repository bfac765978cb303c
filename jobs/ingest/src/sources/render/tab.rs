//! One page, from its first request to its document.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, OptionFuture},
    stream::FuturesUnordered,
};
use lakehouse_contract::Rendering;
use reqwest::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION, TRANSFER_ENCODING};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use url::Url;

use super::{
    Rendered,
    browser::Browser,
    protocol::{Connection, Event, Fault},
    requests::{Paused, Requests, Unanswered},
};
use crate::sources::web::client::{Answer, Trouble, judged};

/// How often it is looked whether the page is made.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Without `waitFor`: how long nothing has to be under way.
const QUIET: Duration = Duration::from_millis(500);
/// Pages that one page leads to before it is made.
const MOST_PAGES: u32 = 10;
/// Requests of one page.
const MOST_REQUESTS: u32 = 1000;
/// Bytes of all answers to them.
const MOST_BYTES: usize = 64 << 20;
/// UTF-16 units of the document that one message carries.
const PART: usize = 1 << 20;
/// Longest time that closing a tab takes.
const CLOSE: Duration = Duration::from_secs(5);

/// In a world of its own, which the page's scripts cannot reach, and by the prototypes, because an element may be called like a method of its
/// document. `noscript` is for those who execute no scripts, as the parser does that reads the document later.
const TAKE: &str = r#"((selector, most) => {
  const get = (prototype, name) => Object.getOwnPropertyDescriptor(prototype, name).get.call(document);
  const all = (text) => Document.prototype.querySelectorAll.call(document, text);
  const url = get(Document.prototype, "URL");
  if (!/^https?:/.test(url)) return null;
  if (selector !== null && all(selector).length === 0) return {url};
  for (const element of all("noscript")) Element.prototype.remove.call(element);
  const root = get(Document.prototype, "documentElement");
  const type = get(Document.prototype, "doctype");
  let text = root === null ? "" : root.outerHTML;
  if (text.length > most) return {url, length: text.length};
  if (type !== null) text = new XMLSerializer().serializeToString(type) + "\n" + text;
  globalThis.taken = text.toWellFormed();
  return {url, length: text.length};
})"#;
/// A part of it; no pair of surrogates is cut.
const PART_OF: &str = r#"((from, length) => {
  let to = Math.min(from + length, taken.length);
  if (to < taken.length && (taken.charCodeAt(to - 1) & 0xfc00) === 0xd800) to -= 1;
  return {text: taken.slice(from, to), to};
})"#;

/// The document of the page at `url`.
///
/// # Errors
/// [`Trouble`]; the browser is of no use then.
pub async fn load(browser: &Browser, requests: &Requests<'_>, url: &Url, settings: &Rendering) -> Result<Rendered, Trouble> {
    let tab = Tab::open(&browser.connection).await.map_err(|fault| lost(url, &fault))?;
    let mut loading = Loading {
        browser,
        requests,
        asked: url,
        settings,
        tab: &tab,
        until: Instant::now() + Duration::from_secs(settings.timeout_seconds),
        page: None,
        going: None,
        shown: false,
        loaded: false,
        pages: 0,
        count: 0,
        bytes: 0,
        under_way: Vec::new(),
        quiet_since: Instant::now(),
        failures: 0,
        failure: None,
    };
    let rendered = loading.run().await?;
    if let Some(failure) = &loading.failure {
        tracing::warn!(page = url.as_str(), failures = loading.failures, "requests of the page had no answer, such as {failure}");
    }
    match timeout(CLOSE, tab.close()).await {
        Ok(Ok(())) => Ok(rendered),
        Ok(Err(fault)) => Err(lost(url, &fault)),
        Err(_) => Err(passing(format!("GET {url}: Chromium did not close the page"))),
    }
}

fn passing(message: String) -> Trouble {
    Trouble::Passing { message, retry_after: None }
}

fn lost(url: &Url, fault: &Fault) -> Trouble {
    passing(format!("GET {url}: {fault}"))
}

/// A tab that shares nothing with others.
struct Tab<'b> {
    connection: &'b Connection,
    /// What it shares with nobody.
    context: String,
    session: String,
    /// Its outermost frame.
    frame: String,
}

impl<'b> Tab<'b> {
    async fn open(connection: &'b Connection) -> Result<Self, Fault> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let context = text(&connection.call(None, "Target.createBrowserContext", json!({})).await?["browserContextId"]);
        let denied = json!({"behavior": "deny", "browserContextId": context});
        connection.call(None, "Browser.setDownloadBehavior", denied).await?;
        let blank = json!({"url": "about:blank", "browserContextId": context});
        let frame = text(&connection.call(None, "Target.createTarget", blank).await?["targetId"]);
        let attach = json!({"targetId": frame, "flatten": true});
        let session = text(&connection.call(None, "Target.attachToTarget", attach).await?["sessionId"]);
        let tab = Self { connection, context, session, frame };
        // Requests first: none goes past us.
        tab.call("Fetch.enable", json!({"patterns": [{"urlPattern": "*"}]})).await?;
        tab.call("Page.enable", json!({})).await?;
        tab.call("Inspector.enable", json!({})).await?;
        Ok(tab)
    }

    async fn call(&self, method: &str, params: Value) -> Result<Value, Fault> {
        self.connection.call(Some(&self.session), method, params).await
    }

    fn tell(&self, method: &str, params: Value) {
        self.connection.tell(&self.session, method, params);
    }

    async fn close(&self) -> Result<(), Fault> {
        self.connection.call(None, "Target.disposeBrowserContext", json!({"browserContextId": self.context})).await.map(|_| ())
    }

    /// Refuses a request of the page.
    fn fail(&self, id: &str) {
        self.tell("Fetch.failRequest", json!({"requestId": id, "errorReason": "BlockedByClient"}));
    }

    /// Answers a request of the page; the body is decompressed already.
    fn fulfil(&self, id: &str, answer: &Answer) {
        let ours = [CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING];
        let headers = answer.headers.iter().filter(|(name, _)| !ours.contains(name));
        let headers = headers.map(|(name, value)| json!({"name": name.as_str(), "value": String::from_utf8_lossy(value.as_bytes())}));
        let params = json!({
            "requestId": id,
            "responseCode": answer.status.as_u16(),
            "responseHeaders": headers.collect::<Vec<_>>(),
            "body": BASE64_STANDARD.encode(&answer.body),
        });
        self.tell("Fetch.fulfillRequest", params);
    }

    /// Evaluates an expression in the world `world`.
    async fn evaluate(&self, world: &Value, expression: String) -> Result<Value, Fault> {
        let params = json!({"expression": expression, "contextId": world, "returnByValue": true});
        let result = self.call("Runtime.evaluate", params).await?;
        if let Some(exception) = result.get("exceptionDetails") {
            let text = exception["exception"]["description"].as_str().unwrap_or_default();
            return Err(Fault::Refused(text.lines().next().unwrap_or_default().to_owned()));
        }
        Ok(result["result"]["value"].clone())
    }

    /// The document, once `selector` selects something in it.
    async fn look(&self, selector: Option<&str>, most: usize) -> Result<Look, Fault> {
        let world = self.call("Page.createIsolatedWorld", json!({"frameId": self.frame, "worldName": "lakehouse"})).await?;
        let world = world["executionContextId"].clone();
        let found = self.evaluate(&world, format!("{TAKE}({}, {most})", json!(selector))).await?;
        let Some(url) = found["url"].as_str() else { return Ok(Look::Nothing) };
        let Some(length) = found["length"].as_u64() else { return Ok(Look::Unmade) };
        if length > most as u64 {
            return Ok(Look::TooLarge);
        }
        let (mut text, mut from) = (String::new(), 0);
        while from < length {
            let part = self.evaluate(&world, format!("{PART_OF}({from}, {PART})")).await?;
            text.push_str(part["text"].as_str().unwrap_or_default());
            match part["to"].as_u64() {
                Some(to) if to > from => from = to,
                _ => break,
            }
        }
        Ok(if text.len() > most { Look::TooLarge } else { Look::Document { url: url.to_owned(), text } })
    }
}

/// What a look at a page finds.
enum Look {
    /// No page yet.
    Nothing,
    /// One that is not made.
    Unmade,
    /// One with too many bytes.
    TooLarge,
    /// What it was waited for.
    Document { url: String, text: String },
}

/// What became of a request of the page.
enum Answered {
    Page(String, String, Result<Answer, Trouble>),
    Resource(String, String, Result<Answer, Unanswered>),
}

struct Loading<'l> {
    browser: &'l Browser,
    requests: &'l Requests<'l>,
    asked: &'l Url,
    settings: &'l Rendering,
    tab: &'l Tab<'l>,
    until: Instant,
    /// The answer that is the page, with 2xx.
    page: Option<Answer>,
    /// The request for a page that it is on its way to.
    going: Option<String>,
    /// What the tab shows is `page`, and not what was before it.
    shown: bool,
    /// All that its HTML names was loaded.
    loaded: bool,
    pages: u32,
    count: u32,
    bytes: usize,
    /// URLs of requests that are not answered.
    under_way: Vec<String>,
    quiet_since: Instant,
    failures: u32,
    /// The first request that failed.
    failure: Option<String>,
}

impl<'l> Loading<'l> {
    async fn run(&mut self) -> Result<Rendered, Trouble> {
        let (tab, requests) = (self.tab, self.requests);
        let (asked, most) = (self.asked, lakehouse_html::limits::MAX_BYTES);
        let selector = self.settings.wait_for.as_deref();
        let mut answering: FuturesUnordered<BoxFuture<'l, Answered>> = FuturesUnordered::new();
        let mut events = self.browser.events.lock().await;
        // Its result comes when the page begins to be shown, and is no error where we refused.
        let mut going: BoxFuture<'l, _> = tab.call("Page.navigate", json!({"url": asked.as_str()})).boxed();
        let mut gone = false;
        let mut looking: OptionFuture<BoxFuture<'l, Result<Look, Fault>>> = None.into();
        let mut looks = false;
        let mut clock = interval(LOOK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { return Err(lost(asked, &Fault::Gone)) };
                    if event.session == tab.session && let Some(request) = self.happened(&event).await? {
                        answering.push(self.answer(request, requests));
                    }
                }
                Some(answered) = answering.next(), if !answering.is_empty() => {
                    if let Some(answer) = self.answered(answered)? {
                        return Ok(Rendered { answer, facts: BTreeMap::new() });
                    }
                }
                result = &mut going, if !gone => {
                    gone = true;
                    let result = result.map_err(|fault| lost(asked, &fault))?;
                    if let Some(error) = result["errorText"].as_str() && self.page.is_some() {
                        return Err(Trouble::Invalid(format!("GET {asked}: Chromium does not show what was answered ({error})")));
                    }
                }
                Some(found) = &mut looking, if looks => {
                    looks = false;
                    match found {
                        Ok(Look::Document { url, text }) => return self.document(&url, text),
                        Ok(Look::TooLarge) => {
                            let message = format!("GET {asked}: the page that its scripts made has more than {most} bytes");
                            return Err(Trouble::Invalid(message));
                        }
                        // Or the page went away under the look.
                        Ok(Look::Nothing | Look::Unmade) | Err(Fault::Refused(_)) => {}
                        Err(Fault::Gone) => return Err(lost(asked, &Fault::Gone)),
                    }
                }
                _ = clock.tick(), if !looks => {
                    let quiet = self.loaded && self.under_way.is_empty() && self.quiet_since.elapsed() >= QUIET;
                    if self.page.is_some() && self.going.is_none() && self.shown && (selector.is_some() || quiet) {
                        (looking, looks) = (Some(tab.look(selector, most).boxed()).into(), true);
                    }
                }
                () = sleep_until(self.until) => return Err(self.late(looks)),
            }
        }
    }

    /// Takes note of an event; a request that is to be answered.
    async fn happened(&mut self, event: &Event) -> Result<Option<Paused>, Trouble> {
        match event.method.as_str() {
            "Fetch.requestPaused" => return self.paused(&event.params).await,
            "Page.frameNavigated" if event.params["frame"]["id"] == self.tab.frame.as_str() => self.shown = self.going.is_none(),
            "Page.loadEventFired" => self.loaded = self.shown,
            // Nobody is there to answer it.
            "Page.javascriptDialogOpening" => self.tab.tell("Page.handleJavaScriptDialog", json!({"accept": false})),
            "Inspector.targetCrashed" => {
                let asked = self.asked;
                return Err(passing(format!("GET {asked}: the process of Chromium that made the page ended, perhaps by lack of memory")));
            }
            _ => {}
        }
        Ok(None)
    }

    async fn paused(&mut self, params: &Value) -> Result<Option<Paused>, Trouble> {
        let paused = match Paused::new(params) {
            Ok(paused) => paused,
            Err((id, what)) => {
                self.refuse(&id, what);
                return Ok(None);
            }
        };
        if paused.kind == "Document" && paused.frame == self.tab.frame {
            self.requests.check_page(&paused.request)?;
            self.pages += 1;
            if self.pages > MOST_PAGES {
                return Err(Trouble::Invalid(format!("GET {}: it leads to more than {MOST_PAGES} other pages", self.asked)));
            }
            (self.going, self.shown, self.loaded) = (Some(paused.id.clone()), false, false);
            self.until += self.requests.client().turn().await;
        } else {
            self.count += 1;
            let limit = if self.count > MOST_REQUESTS {
                Some(format!("the page made more than {MOST_REQUESTS} requests"))
            } else {
                (self.bytes > MOST_BYTES).then(|| format!("what the page loaded has more than {MOST_BYTES} bytes"))
            };
            if let Some(limit) = limit {
                self.refuse(&paused.id, format!("{} {}: not sent, {limit}", paused.request.method, paused.request.url));
                return Ok(None);
            }
        }
        self.under_way.push(paused.request.url.to_string());
        Ok(Some(paused))
    }

    fn answer(&self, paused: Paused, requests: &'l Requests<'l>) -> BoxFuture<'l, Answered> {
        let Paused { id, kind, frame, request } = paused;
        let url = request.url.to_string();
        if kind == "Document" && frame == self.tab.frame {
            return async move { Answered::Page(id, url, requests.page(request).await) }.boxed();
        }
        async move { Answered::Resource(id, url, requests.resource(&kind, request).await) }.boxed()
    }

    fn refuse(&mut self, id: &str, why: String) {
        self.tab.fail(id);
        self.failures += 1;
        self.failure.get_or_insert(why);
    }

    /// Hands an answer to the page; gives it back where there is nothing to render.
    fn answered(&mut self, answered: Answered) -> Result<Option<Answer>, Trouble> {
        self.quiet_since = Instant::now();
        match answered {
            // It goes elsewhere by now.
            Answered::Page(id, url, _) if self.going.as_ref() != Some(&id) => {
                self.landed(&url);
                self.tab.fail(&id);
            }
            Answered::Page(id, url, answer) => {
                self.landed(&url);
                let answer = answer?;
                let location = answer.headers.get(LOCATION).map(HeaderValue::to_str);
                if let Some(Ok(location)) = location
                    && answer.status.is_redirection()
                {
                    self.requests.client().redirected(&answer.url, answer.status, location)?;
                    self.tab.fulfil(&id, &answer);
                    return Ok(None);
                }
                let answer = judged(answer)?;
                let compressed = answer.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity");
                if answer.body.is_empty() || compressed {
                    return Ok(Some(answer));
                }
                self.tab.fulfil(&id, &answer);
                (self.page, self.going) = (Some(answer), None);
            }
            Answered::Resource(id, url, answer) => {
                self.landed(&url);
                match answer {
                    Ok(answer) => {
                        self.bytes += answer.body.len();
                        self.tab.fulfil(&id, &answer);
                    }
                    Err(Unanswered::Needless) => self.tab.fail(&id),
                    Err(Unanswered::Failed(why)) => self.refuse(&id, why),
                }
            }
        }
        Ok(None)
    }

    fn landed(&mut self, url: &str) {
        if let Some(at) = self.under_way.iter().position(|other| other == url) {
            self.under_way.swap_remove(at);
        }
    }

    /// What was waited for.
    fn document(&mut self, url: &str, text: String) -> Result<Rendered, Trouble> {
        let asked = self.asked;
        let shown = Url::parse(url).ok().filter(|url| self.requests.is_home(url));
        let (Some(mut answer), Some(url)) = (self.page.take(), shown) else {
            return Err(Trouble::Invalid(format!("GET {asked}: the page shows {url}, which was not asked for")));
        };
        let mut facts = BTreeMap::from([
            ("rendered-by".to_owned(), self.browser.version.clone()),
            ("answered-sha256".to_owned(), lakehouse_storage::sha256(&answer.body)),
        ]);
        let kind = answer.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        if let Some(kind) = kind.as_ref().and_then(|kind| kind.to_str().ok()) {
            facts.insert("answered-content-type".to_owned(), kind.to_owned());
        }
        (answer.url, answer.body) = (url, text.into());
        Ok(Rendered { answer, facts })
    }

    /// `looks`: it was asked whether the page is made, and there was no answer.
    fn late(&self, looks: bool) -> Trouble {
        let (asked, seconds) = (self.asked, self.settings.timeout_seconds);
        let what = match (&self.page, self.settings.wait_for.as_deref(), self.under_way.first()) {
            (None, ..) => "it was not answered".to_owned(),
            _ if looks => "its scripts, or its size, leave no time to look at it".to_owned(),
            (_, Some(selector), _) => format!("waitFor `{selector}` selects nothing in it"),
            (_, None, Some(first)) => {
                format!("{} requests are under way, such as {first}; waitFor can say what to wait for", self.under_way.len())
            }
            (_, None, None) if !self.loaded => "it did not finish loading; waitFor can say what to wait for".to_owned(),
            (_, None, None) => "it does not come to rest; waitFor can say what to wait for".to_owned(),
        };
        let failed = match &self.failure {
            Some(failure) => format!("; {} requests had no answer, such as {failure}", self.failures),
            None => String::new(),
        };
        passing(format!("GET {asked} was not made within {seconds} s: {what}{failed}"))
    }
}
