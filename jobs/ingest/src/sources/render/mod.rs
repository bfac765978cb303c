//! Pages that their scripts make: a headless Chromium loads them, and what is taken is the document that it has then.
//!
//! **Chromium reaches no network.** It hands every request over to us before it would send it (`Fetch` of the DevTools protocol), we answer it
//! with the client that every source uses, and so its rules hold: addresses ([`super::web`]), the token for the connection's host only, times
//! and sizes. What is not handed over (WebSockets, WebRTC, what Chromium would like for itself) meets a proxy that closes and a resolver that
//! knows no name: closed is what is left when something fails here.
//!
//! | module | what |
//! |---|---|
//! | [`browser`] | the process: found, begun, ended with all of its children, its folder removed |
//! | [`protocol`] | commands and events over two pipes |
//! | [`requests`] | which requests of a page are sent, and how |
//! | [`tab`] | one page, from its first request to its document |
//!
//! Every page begins with nothing: no cookies, storage or cache of the pages before it.

mod browser;
mod protocol;
mod requests;
mod tab;

use std::{collections::BTreeMap, path::PathBuf};

use lakehouse_contract::{Reason, Rendering};
use url::Url;

use super::web::{
    Tries, Web,
    client::{Answer, Client, Gate, Trouble},
};
use crate::IngestError;
use browser::Browser;
use requests::Requests;

/// A page, made.
pub struct Rendered {
    /// The document, as the answer of the page's URL.
    pub answer: Answer,
    /// What bronze keeps about how it came to be; empty where there was nothing to render.
    pub facts: BTreeMap<String, String>,
}

/// Loads the pages of one source, one after the other.
pub struct Renderer<'a> {
    web: &'a Web<'a>,
    settings: &'a Rendering,
    max_body: usize,
    program: PathBuf,
    /// The one that loaded the last page; none before the first, and after a failure that it may be the cause of.
    browser: Option<Browser>,
}

impl<'a> Renderer<'a> {
    /// Finds Chromium; it begins with the first page.
    ///
    /// # Errors
    /// `InvalidDefinition` when this machine has none.
    pub fn new(web: &'a Web<'a>, settings: &'a Rendering, max_body: usize) -> Result<Self, IngestError> {
        let program = browser::find(&web.context.options.environment).map_err(|message| web.error(Reason::InvalidDefinition, message))?;
        Ok(Self { web, settings, max_body, program, browser: None })
    }

    /// Loads the page at `url`, again and again while that can help and `tries` are left. It, all that it redirects to, and what else it loads
    /// from its host must pass `gate`.
    ///
    /// # Errors
    /// That of the last try.
    pub async fn get(&mut self, client: &Client, url: &Url, gate: &Gate<'_>, tries: &mut Tries) -> Result<Rendered, IngestError> {
        loop {
            let browser = self.browser().await?;
            let requests = Requests::new(self.web, client, gate, self.max_body);
            let trouble = match tab::load(&browser, &requests, url, self.settings).await {
                Ok(rendered) => {
                    self.browser = Some(browser);
                    return Ok(rendered);
                }
                // The next page gets another one.
                Err(trouble) => client.without_token(trouble),
            };
            drop(browser);
            match trouble {
                Trouble::Passing { message, retry_after } => {
                    if !self.web.again(tries, retry_after, &message).await {
                        return Err(self.web.failed(Trouble::Passing { message: tries.spent(&message), retry_after }));
                    }
                }
                other => return Err(self.web.failed(other)),
            }
        }
    }

    async fn browser(&mut self) -> Result<Browser, IngestError> {
        match self.browser.take().filter(Browser::lives) {
            Some(browser) => Ok(browser),
            None => Browser::launch(&self.program, &self.web.context.options.environment)
                .await
                .map_err(|message| self.web.error(Reason::InvalidDefinition, message)),
        }
    }
}
