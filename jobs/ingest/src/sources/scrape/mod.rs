//! `scrape`: HTML pages, one bronze object per page, as received.
//!
//! Only what is needed to go on is looked for here: the number of records and the link to the next page. The fields are silver's business,
//! so that a changed selector needs no second fetch. Scripts are executed only where `render` says so (`super::render`).
//!
//! | the source … | is met with |
//! |---|---|
//! | answers 429 or 5xx, not in time, or breaks off, also for robots.txt | another try, see [`super::web`]; then `SourceUnavailable` |
//! | answers another 4xx, redirects to another host, or disallows the page in robots.txt | `SourceRefused` |
//! | has an empty body, or a page in which the records' selector matches nothing | `EmptyResponse`, unless `allowEmpty` |
//! | leads to a page of another host, to one that was fetched, to more than `maxPages` | `InvalidResponse` |
//! | has a page beyond the limits of [`lakehouse_html::limits`], or in an encoding that was not asked for | `InvalidResponse` |
//! | knows only "now" while the interval is long over | `NoHistory`, without a request |
//!
//! A page that is refused is kept as `rejected-00000.bin` beside the objects, and the message names it.

mod robots;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use lakehouse_api::pipeline::{Robots as Obedience, ScrapePaging};
use lakehouse_contract::{Reason, Rendering};
use lakehouse_html::{Link, Page, Rules, TooMuch, limits};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use tokio::sync::Semaphore;
use url::Url;

use super::{
    Source,
    render::{Rendered, Renderer},
    web::{
        Web,
        client::{Answer, Client, PRODUCT, Trouble},
        links::Trail,
        metadata,
    },
};
use crate::{IngestError, ObjectFacts, Sink};
use robots::Robots;

/// Pages are parsed one at a time: a tree can take ten times the memory of its page, and the job has little.
static PARSING: Semaphore = Semaphore::const_new(1);

const ACCEPT: &str = "text/html,application/xhtml+xml";
/// Longest time between two requests that robots.txt can ask for.
const MAX_CRAWL_DELAY: Duration = Duration::from_secs(60);

/// A source of pages.
pub struct Scrape<'a> {
    /// The host.
    pub web: Web<'a>,
    /// Selector of the records.
    pub records: &'a str,
    /// How the next page is found.
    pub paging: Option<&'a ScrapePaging>,
    /// Accept pages without a record.
    pub allow_empty: bool,
    /// Shortest time between the starts of two requests.
    pub request_interval: Duration,
    /// Whether robots.txt is obeyed.
    pub robots: Obedience,
    /// Have a browser make the pages.
    pub render: Option<&'a Rendering>,
}

/// What is looked for in every page.
#[derive(Clone)]
struct Wanted {
    records: Rules,
    link: Option<Link>,
}

/// What was found in a page.
struct Found {
    records: u64,
    /// Where the next page is, and what that is relative to.
    next: Option<(String, Option<Url>)>,
}

#[async_trait]
impl Source for Scrape<'_> {
    async fn fetch(&self, sink: &mut Sink<'_>) -> Result<(), IngestError> {
        self.web.check_history()?;
        let wanted = self.wanted()?;
        let max_body = self.web.context.options.max_response_bytes.min(limits::MAX_BYTES);
        let mut renderer = self.render.map(|settings| Renderer::new(&self.web, settings, max_body)).transpose()?;
        let mut client = self.web.client(ACCEPT, max_body, self.request_interval)?;
        let robots = match self.robots {
            Obedience::Obey => self.robots(&mut client).await?,
            Obedience::Ignore => Robots::default(),
        };
        let mut trail = Trail::new(self.web.url);
        let mut next = Some(self.web.url.clone());
        let mut pages = 0;
        while let Some(url) = next.take() {
            let gate = |url: &Url| self.allowed(&robots, url);
            let mut tries = self.web.tries();
            let Rendered { answer, facts } = match &mut renderer {
                Some(renderer) => renderer.get(&client, &url, &gate, &mut tries).await?,
                None => {
                    let answer = self.web.get(&client, &url, &gate, &mut tries).await.map_err(|trouble| self.web.failed(trouble))?;
                    Rendered { answer, facts: BTreeMap::new() }
                }
            };
            trail.visited(&url);
            trail.visited(&answer.url);
            pages += 1;
            let found = match self.look(&wanted, &answer).await {
                Ok(found) => found,
                Err((reason, message)) => return Err(self.web.reject(sink, reason, answer, &message).await),
            };
            next = match self.turn(&trail, &answer.url, pages, found.next) {
                Ok(next) => next,
                Err(message) => return Err(self.web.reject(sink, Reason::InvalidResponse, answer, &message).await),
            };
            if !answer.body.is_empty() {
                let metadata = metadata(&answer).into_iter().chain(facts).collect();
                let facts = ObjectFacts { records: Some(found.records), metadata };
                sink.put(answer.body, "html", facts).await?;
            }
        }
        Ok(())
    }
}

impl Scrape<'_> {
    fn wanted(&self) -> Result<Wanted, IngestError> {
        let invalid = |error: lakehouse_html::RuleError| self.web.error(Reason::InvalidDefinition, format!("scrape.{error}"));
        Ok(Wanted {
            records: Rules::new(self.records, &[]).map_err(invalid)?,
            link: self.paging.map(|paging| Link::new(&paging.next.select)).transpose().map_err(invalid)?,
        })
    }

    /// What robots.txt of the host says; the client takes its pace from it.
    async fn robots(&self, client: &mut Client) -> Result<Robots, IngestError> {
        let mut url = self.web.url.clone();
        url.set_path("/robots.txt");
        url.set_query(None);
        url.set_fragment(None);
        let robots = match self.web.get(client, &url, &|_| Ok(()), &mut self.web.tries()).await {
            Ok(answer) => Robots::parse(&answer.body, PRODUCT),
            // RFC 9309, 2.3.1.3: where there is none, everything is allowed.
            Err(Trouble::Refused { status: Some(_), .. }) => Robots::default(),
            Err(trouble) => return Err(self.web.failed(trouble)),
        };
        if let Some(delay) = robots.crawl_delay() {
            if delay > MAX_CRAWL_DELAY {
                let (asked, kept) = (delay.as_secs(), MAX_CRAWL_DELAY.as_secs());
                tracing::warn!(source = self.web.context.name, "{url} asks for {asked} s between requests; {kept} s are kept");
            }
            client.slow_down(delay.min(MAX_CRAWL_DELAY));
        }
        Ok(robots)
    }

    fn allowed(&self, robots: &Robots, url: &Url) -> Result<(), String> {
        robots.check(url).map_err(|rule| {
            let home = url.origin().ascii_serialization();
            format!(
                "GET {url}: not sent, {home}/robots.txt says `{rule}`; with its owner's consent, `robots: ignore` fetches it all the same"
            )
        })
    }

    /// Looks for records and for the next page.
    async fn look(&self, wanted: &Wanted, answer: &Answer) -> Result<Found, (Reason, String)> {
        let asked = format!("GET {} answered {}", answer.url, answer.status);
        if answer.body.is_empty() {
            // 204 No Content says on purpose that there is nothing; an empty 200 is a fault of the source.
            return match answer.status.as_u16() {
                204 if self.allow_empty => Ok(Found { records: 0, next: None }),
                _ => Err((Reason::EmptyResponse, format!("{asked} with an empty body"))),
            };
        }
        if let Some(encoding) = answer.headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            let encoding = String::from_utf8_lossy(encoding.as_bytes());
            return Err((Reason::InvalidResponse, format!("{asked} with Content-Encoding {encoding}, which was not asked for")));
        }
        let content_type = answer.headers.get(CONTENT_TYPE).map(HeaderValue::to_str).and_then(Result::ok).map(str::to_owned);
        let (wanted, body, url, kind) = (wanted.clone(), answer.body.clone(), answer.url.clone(), content_type.clone());
        let turn = PARSING.acquire().await;
        let found = tokio::task::spawn_blocking(move || {
            let page = Page::parse(&body, kind.as_deref(), Some(url))?;
            let next = wanted.link.as_ref().and_then(|link| page.link(link));
            Ok::<_, TooMuch>(Found { records: page.count(&wanted.records), next })
        });
        let found = found.await.map_err(|error| (Reason::Internal, format!("{asked}, but its page could not be parsed: {error}")))?;
        drop(turn);
        let found = found.map_err(|error| (Reason::InvalidResponse, format!("{asked}, but {error}")))?;
        if found.records == 0 && !self.allow_empty {
            let kind = content_type.unwrap_or_else(|| "no Content-Type".to_owned());
            let message =
                format!("{asked} ({kind}), but records selector `{}` matches nothing in it; allowEmpty accepts that", self.records);
            return Err((Reason::EmptyResponse, message));
        }
        Ok(found)
    }

    /// The page after the one at `url`, which is number `pages`.
    fn turn(&self, trail: &Trail, url: &Url, pages: u32, link: Option<(String, Option<Url>)>) -> Result<Option<Url>, String> {
        let (Some(paging), Some((target, base))) = (self.paging, link) else { return Ok(None) };
        let place = format!("at `{}`", paging.next.select);
        let next = trail.joined(url, base.as_ref().unwrap_or(url), &place, &target)?;
        let most = paging.max_pages.unsigned_abs();
        if pages >= most {
            return Err(format!("GET {url}: the source has more than {most} pages (paging.maxPages)"));
        }
        Ok(Some(next))
    }
}
