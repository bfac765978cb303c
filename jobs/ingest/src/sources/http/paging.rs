//! Which URL comes next, and when there is none.

use lakehouse_api::pipeline::Paging;
use lakehouse_contract::template::url_encode;
use reqwest::header::{HeaderMap, LINK};
use url::Url;

use super::document::Found;
use crate::sources::web::links::Trail;

/// The way through the pages of one source.
pub struct Pages<'a> {
    first: &'a Url,
    paging: Option<&'a Paging>,
    next: Option<Url>,
    fetched: u64,
    /// Records of all pages.
    records: u64,
    /// Digest of the last page, for pages that are counted.
    last_digest: Option<String>,
    /// For pages that a page leads to.
    trail: Trail,
}

/// What a page may say of the next one.
pub struct Clue<'a> {
    /// What is at the [`pointer`], where there is one.
    pub found: Option<Found>,
    /// The answer's headers.
    pub headers: &'a HeaderMap,
}

/// What a page means for the ones after it.
#[derive(Debug, PartialEq, Eq)]
pub struct Turned {
    /// This page was the end because it has no records.
    pub ended_by_emptiness: bool,
}

/// The place in a document that says where the next page is.
pub fn pointer(paging: &Paging) -> Option<&str> {
    let next = paging.next.as_ref().map(|next| next.pointer.as_str());
    next.or_else(|| paging.cursor.as_ref().map(|cursor| cursor.pointer.as_str()))
}

impl<'a> Pages<'a> {
    /// Before the first page, which is at `first`.
    pub fn new(first: &'a Url, paging: Option<&'a Paging>) -> Self {
        let next = match paging.and_then(|paging| paging.page.as_ref()) {
            Some(page) => with_parameter(first, &page.parameter, &page.first.to_string()),
            None => first.clone(),
        };
        Self { first, paging, next: Some(next), fetched: 0, records: 0, last_digest: None, trail: Trail::new(first) }
    }

    /// Number of pages that were turned.
    pub fn fetched(&self) -> u64 {
        self.fetched
    }

    /// The URL of the next page; none: the last one was turned.
    pub fn next_url(&mut self) -> Option<Url> {
        let next = self.next.take()?;
        // It may redirect, so that the page is at another URL; coming back to either is a circle.
        self.trail.visited(&next);
        Some(next)
    }

    /// Learns from a page where the next one is.
    ///
    /// # Errors
    /// A line that says why the source's pages cannot be right.
    pub fn turn(&mut self, url: &Url, body: &[u8], records: u64, clue: Clue<'_>) -> Result<Turned, String> {
        self.fetched += 1;
        self.records += records;
        let Some(paging) = self.paging else { return Ok(Turned { ended_by_emptiness: false }) };
        let counted = paging.page.is_some() || paging.offset.is_some();
        if counted {
            if records > 0 {
                self.next = self.counted(paging, url, body, records)?;
            }
        } else {
            self.trail.visited(url);
            self.next = self.led_to(paging, url, clue)?;
        }
        // For pages that are counted the end is one page further, so it takes the page beyond the most to know.
        let pages = self.fetched + u64::from(self.next.is_some() && !counted);
        let most = u64::from(paging.max_pages.unsigned_abs());
        let ended_by_emptiness = counted && records == 0;
        if pages > most && !ended_by_emptiness {
            return Err(format!("GET {url}: the source has more than {most} pages (paging.maxPages)"));
        }
        Ok(Turned { ended_by_emptiness })
    }

    /// The page after one with records, by its number or by the records before it.
    fn counted(&mut self, paging: &Paging, url: &Url, body: &[u8], records: u64) -> Result<Option<Url>, String> {
        let (parameter, value) = match (&paging.page, &paging.offset) {
            (Some(page), _) => (&page.parameter, (i64::from(page.first) + self.fetched as i64).to_string()),
            (None, Some(offset)) if offset.page_size.is_some_and(|full| records < u64::from(full.unsigned_abs())) => return Ok(None),
            (None, Some(offset)) => (&offset.parameter, self.records.to_string()),
            (None, None) => return Ok(None),
        };
        let digest = lakehouse_storage::sha256(body);
        if self.last_digest.as_ref() == Some(&digest) {
            return Err(format!("GET {url} answered with the same page twice: does it know the parameter `{parameter}`?"));
        }
        self.last_digest = Some(digest);
        Ok(Some(with_parameter(self.first, parameter, &value)))
    }

    /// The page that a page leads to.
    fn led_to(&self, paging: &Paging, url: &Url, clue: Clue<'_>) -> Result<Option<Url>, String> {
        if let Some(link) = &paging.link {
            let target = linked(clue.headers, &link.rel);
            return target.map(|target| self.trail.joined(url, url, "in the Link header", &target)).transpose();
        }
        let at = pointer(paging).unwrap_or_default();
        let text = match clue.found {
            None | Some(Found::Missing | Found::Null) => return Ok(None),
            Some(Found::String(text)) if text.trim().is_empty() => return Ok(None),
            Some(Found::String(text)) => text,
            Some(Found::Integer(number)) if paging.cursor.is_some() => number,
            Some(found) => {
                let wanted = if paging.cursor.is_some() { "a cursor" } else { "the URL of the next page" };
                return Err(format!("GET {url}: at {at} is {found}, not {wanted}"));
            }
        };
        match &paging.cursor {
            Some(cursor) => self.trail.unseen(url, with_parameter(self.first, &cursor.parameter, &url_encode(&text))).map(Some),
            None => self.trail.joined(url, url, &format!("at {at}"), text.trim()).map(Some),
        }
    }
}

/// `url` with the query parameter `name` set to `value`, which is encoded; the rest of the query stays as it is written.
pub fn with_parameter(url: &Url, name: &str, value: &str) -> Url {
    let name = url_encode(name);
    let others =
        url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && pair.split('=').next() != Some(name.as_str()));
    let query = others.map(str::to_owned).chain([format!("{name}={value}")]).collect::<Vec<_>>().join("&");
    let mut url = url.clone();
    url.set_query(Some(&query));
    url
}

/// The target of the first link with this relation in the `Link` headers (RFC 8288, section 3); headers that are no links say nothing.
fn linked(headers: &HeaderMap, rel: &str) -> Option<String> {
    headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).find_map(|value| {
        let mut rest = value;
        while let Some((target, after)) = rest.split_once('<').and_then(|(_, opened)| opened.split_once('>')) {
            let (parameters, others) = split_unquoted(after, ',');
            if relations(parameters).any(|relation| relation.eq_ignore_ascii_case(rel)) {
                return Some(target.to_owned());
            }
            rest = others;
        }
        None
    })
}

/// `text` before and after the first `separator` that is not within quotes; after it nothing where there is none.
fn split_unquoted(text: &str, separator: char) -> (&str, &str) {
    let (mut quoted, mut escaped) = (false, false);
    let end = text.find(|c| {
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && quoted && !escaped;
        c == separator && !quoted
    });
    end.map_or((text, ""), |end| (&text[..end], &text[end + separator.len_utf8()..]))
}

/// The words of a link's first `rel`.
fn relations(mut parameters: &str) -> impl Iterator<Item = &str> {
    let mut rel = "";
    while !parameters.is_empty() {
        let (parameter, rest) = split_unquoted(parameters, ';');
        if let Some((name, value)) = parameter.split_once('=')
            && name.trim().eq_ignore_ascii_case("rel")
        {
            rel = value.trim().trim_matches('"');
            break;
        }
        parameters = rest;
    }
    rel.split_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lakehouse_api::pipeline::{CursorPaging, LinkPaging, NextPaging, OffsetPaging, PagePaging};
    use reqwest::header::HeaderValue;

    fn none(max_pages: i32) -> Paging {
        Paging { page: None, offset: None, cursor: None, next: None, link: None, max_pages }
    }

    fn by_number(max_pages: i32) -> Paging {
        Paging { page: Some(PagePaging { parameter: "page".into(), first: 0 }), ..none(max_pages) }
    }

    fn by_link(max_pages: i32) -> Paging {
        Paging { next: Some(NextPaging { pointer: "/next".into() }), ..none(max_pages) }
    }

    fn link(text: &str) -> Option<Found> {
        Some(Found::String(text.to_owned()))
    }

    /// Turns a page that says `found` where the pointer leads, without headers.
    fn turn(pages: &mut Pages<'_>, url: &Url, body: &[u8], records: u64, found: Option<Found>) -> Result<Turned, String> {
        pages.turn(url, body, records, Clue { found, headers: &HeaderMap::new() })
    }

    #[test]
    fn a_page_number_is_one_parameter_and_the_rest_of_the_query_stays() {
        let url = Url::parse("http://h/p?a=b%20c&page=9&pages=1&d").unwrap();
        assert_eq!(with_parameter(&url, "page", "3").as_str(), "http://h/p?a=b%20c&pages=1&d&page=3");
        assert_eq!(with_parameter(&Url::parse("http://h/p").unwrap(), "page", "1").as_str(), "http://h/p?page=1");
    }

    #[test]
    fn numbered_pages_end_with_the_first_empty_one() {
        let (url, paging) = (Url::parse("http://h/p").unwrap(), by_number(2));
        let mut pages = Pages::new(&url, Some(&paging));
        for number in 0..2 {
            let at = pages.next_url().unwrap();
            assert_eq!(at.query(), Some(format!("page={number}").as_str()));
            turn(&mut pages, &at, format!("[{number}]").as_bytes(), 1, None).unwrap();
        }
        let last = pages.next_url().unwrap();
        assert!(turn(&mut pages, &last, b"[]", 0, None).unwrap().ended_by_emptiness);
        assert_eq!(pages.next_url(), None);
    }

    #[test]
    fn numbered_pages_that_repeat_or_never_end_are_refused() {
        let (url, paging) = (Url::parse("http://h/p").unwrap(), by_number(1));
        let mut pages = Pages::new(&url, Some(&paging));
        turn(&mut pages, &url, b"[1]", 1, None).unwrap();
        assert!(turn(&mut pages, &url, b"[1]", 1, None).unwrap_err().contains("the same page twice"));
        assert!(turn(&mut pages, &url, b"[2]", 1, None).unwrap_err().contains("more than 1 pages"));
    }

    #[test]
    fn links_are_relative_or_on_the_same_host_and_end_with_none() {
        let (url, paging) = (Url::parse("http://h:80/p?x=1").unwrap(), by_link(10));
        let mut pages = Pages::new(&url, Some(&paging));
        turn(&mut pages, &url, b"", 1, link("?x=2")).unwrap();
        assert_eq!(pages.next_url().unwrap().as_str(), "http://h/p?x=2");
        turn(&mut pages, &url, b"", 1, link("http://u:p@h/q")).unwrap();
        assert_eq!(pages.next_url().unwrap().as_str(), "http://h/q");
        for end in [None, link(" "), Some(Found::Null), Some(Found::Missing)] {
            turn(&mut pages, &url, b"", 1, end).unwrap();
            assert_eq!(pages.next_url(), None);
        }
        for (bad, message) in [
            (link("https://h/q"), "is not on http://h"),
            (link("//other/q"), "is not on http://h"),
            (link("http://["), "is no URL"),
            (Some(Found::Number), "is a number, not the URL"),
            (Some(Found::Integer("7".into())), "is a number, not the URL"),
            (link("?x=1"), "was fetched already"),
        ] {
            let error = turn(&mut pages, &url, b"", 1, bad).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn links_without_end_are_refused() {
        let (url, paging) = (Url::parse("http://h/p").unwrap(), by_link(1));
        let mut pages = Pages::new(&url, Some(&paging));
        assert!(turn(&mut pages, &url, b"", 1, link("/q")).unwrap_err().contains("more than 1 pages"));
    }

    #[test]
    fn offsets_pass_over_the_records_so_far_and_end_with_a_page_that_is_not_full() {
        let url = Url::parse("http://h/p?limit=2").unwrap();
        let offset = |page_size| Paging { offset: Some(OffsetPaging { parameter: "offset".into(), page_size }), ..none(9) };
        let full = offset(Some(2));
        let mut pages = Pages::new(&url, Some(&full));
        assert_eq!(pages.next_url().unwrap(), url);
        turn(&mut pages, &url, b"[1,2]", 2, None).unwrap();
        let second = pages.next_url().unwrap();
        assert_eq!(second.query(), Some("limit=2&offset=2"));
        assert!(turn(&mut pages, &second, b"[1,2]", 2, None).unwrap_err().contains("does it know the parameter `offset`?"));
        turn(&mut pages, &second, b"[3]", 1, None).unwrap();
        assert_eq!(pages.next_url(), None);

        let unknown = offset(None);
        let mut pages = Pages::new(&url, Some(&unknown));
        turn(&mut pages, &url, b"[1]", 1, None).unwrap();
        assert_eq!(pages.next_url().unwrap().query(), Some("limit=2&offset=1"));
        assert!(turn(&mut pages, &url, b"[]", 0, None).unwrap().ended_by_emptiness);
        assert_eq!(pages.next_url(), None);
    }

    #[test]
    fn a_cursor_goes_into_the_first_url_and_is_encoded() {
        let url = Url::parse("http://h/p?limit=2").unwrap();
        let paging = Paging { cursor: Some(CursorPaging { pointer: "/meta/cursor".into(), parameter: "after".into() }), ..none(9) };
        let mut pages = Pages::new(&url, Some(&paging));
        turn(&mut pages, &url, b"", 2, link("a&b= c")).unwrap();
        let second = pages.next_url().unwrap();
        assert_eq!(second.query(), Some("limit=2&after=a%26b%3D%20c"));
        turn(&mut pages, &second, b"", 2, Some(Found::Integer("-7".into()))).unwrap();
        assert_eq!(pages.next_url().unwrap().query(), Some("limit=2&after=-7"));
        assert!(turn(&mut pages, &second, b"", 2, link("a&b= c")).unwrap_err().contains("was fetched already"));
        assert!(turn(&mut pages, &url, b"", 2, Some(Found::Object)).unwrap_err().contains("at /meta/cursor is an object, not a cursor"));
        for end in [None, link(""), Some(Found::Null), Some(Found::Missing)] {
            turn(&mut pages, &url, b"", 1, end).unwrap();
            assert_eq!(pages.next_url(), None);
        }
    }

    #[test]
    fn link_headers_are_those_of_rfc_8288() {
        let headers = |values: &[&'static str]| values.iter().map(|value| (LINK, HeaderValue::from_static(value))).collect::<HeaderMap>();
        for (values, target) in [
            (&[r#"<http://h/p?x=2>; rel="next", <http://h/p?x=9>; rel="last""#][..], Some("http://h/p?x=2")),
            (&[r#"<?a=1,2>; title="a, b; rel=next"; rel="prev", </q>;REL=Next"#], Some("/q")),
            (&[r#"</a>; title="\", </x>; rel=next"; rel=prev"#, r#"</b>; rel="start next""#], Some("/b")),
            (&[r#"</a>; rel="prev""#, "nonsense", "<"], None),
            (&[], None),
        ] {
            assert_eq!(linked(&headers(values), "next").as_deref(), target, "{values:?}");
        }
        let url = Url::parse("http://h/p").unwrap();
        let paging = Paging { link: Some(LinkPaging { rel: "next".into() }), ..none(9) };
        let mut pages = Pages::new(&url, Some(&paging));
        let mut go = |value: &'static str| {
            let headers = headers(&[value]);
            pages.turn(&url, b"", 1, Clue { found: None, headers: &headers }).map(|_| pages.next_url())
        };
        assert_eq!(go("<?x=2>; rel=next").unwrap().unwrap().as_str(), "http://h/p?x=2");
        assert!(go("<http://192.0.2.1/>; rel=next").unwrap_err().contains("is not on http://h"));
        assert!(go("<http://[>; rel=next").unwrap_err().contains("in the Link header is no URL"));
        assert_eq!(go("</p>; rel=last").unwrap(), None);
    }
}
