//! Pages that lead to each other: on one host, and none twice.

use std::collections::HashSet;

use url::Url;

use super::client::without_user;

/// The pages so far.
pub struct Trail {
    home: Url,
    seen: HashSet<Url>,
}

impl Trail {
    /// Pages on the scheme, host and port of `home`.
    pub fn new(home: &Url) -> Self {
        Self { home: home.clone(), seen: HashSet::new() }
    }

    /// Remembers a page; what is behind `#` is no other page.
    pub fn visited(&mut self, url: &Url) {
        self.seen.insert(without_fragment(url.clone()));
    }

    /// The page that `target` leads to, found at `place` of the page at `url`; relative to `base`.
    ///
    /// # Errors
    /// A line that says why it is not fetched.
    pub fn joined(&self, url: &Url, base: &Url, place: &str, target: &str) -> Result<Url, String> {
        let next = base.join(target).map_err(|error| format!("GET {url}: {place} is no URL ({error})"))?;
        let next = without_user(next);
        if next.origin() != self.home.origin() {
            let home = self.home.origin().ascii_serialization();
            return Err(format!("GET {url}: the next page {next} is not on {home}; pages of another host are not fetched"));
        }
        self.unseen(url, next)
    }

    /// `next`, to which the page at `url` leads.
    ///
    /// # Errors
    /// When it was fetched before: the pages go in a circle.
    pub fn unseen(&self, url: &Url, next: Url) -> Result<Url, String> {
        let next = without_fragment(next);
        if self.seen.contains(&next) {
            return Err(format!("GET {url}: the next page {next} was fetched already"));
        }
        Ok(next)
    }
}

fn without_fragment(mut url: Url) -> Url {
    url.set_fragment(None);
    url
}
