//! A page and what the rules find in it.

use std::fmt::Write;

use ego_tree::iter::Edge;
use regex::Regex;
use scraper::{ElementRef, Html, Node, Selector};
use url::Url;

use crate::{
    Link, Rules, TooMuch, charset,
    limits::{MAX_EXTRACTED, MAX_VISITS},
    rules::Field,
    tree,
};

/// A parsed page.
#[derive(Debug)]
pub struct Page {
    pub(crate) html: Html,
    url: Option<Url>,
    /// What relative URLs are relative to.
    base: Option<Url>,
    pub(crate) charset: &'static str,
}

impl Page {
    /// Parses the bytes of the page at `url`; `content_type` is the header that came with it.
    ///
    /// # Errors
    /// [`TooMuch`] when it has too many nodes or levels.
    pub fn parse(bytes: &[u8], content_type: Option<&str>, url: Option<Url>) -> Result<Self, TooMuch> {
        let (text, encoding) = charset::decode(bytes, content_type);
        let html = tree::parse(&text)?;
        let base = base(&html, url.as_ref());
        Ok(Self { html, url, base, charset: encoding.name() })
    }

    /// Number of records.
    pub fn count(&self, rules: &Rules) -> u64 {
        self.html.select(&rules.records).count() as u64
    }

    /// The URL of the next page, relative or absolute, as the first link says it, and what it is relative to; none where there is no such
    /// link.
    pub fn link(&self, link: &Link) -> Option<(String, Option<Url>)> {
        let href = self.html.select(&link.select).next()?.attr("href")?.trim();
        (!href.is_empty()).then(|| (href.to_owned(), self.base.clone()))
    }

    /// The page as JSON: `{"url", "charset", "records": [{NAME: text, list or null}]}`.
    ///
    /// # Errors
    /// [`TooMuch`] when the records lie within each other too often or have too much in them.
    pub fn document(&self, rules: &Rules) -> Result<String, TooMuch> {
        let mut out = String::from("{\"url\":");
        match &self.url {
            Some(url) => push_text(&mut out, url.as_str()),
            None => out.push_str("null"),
        }
        out.push_str(",\"charset\":");
        push_text(&mut out, self.charset);
        out.push_str(",\"records\":[");
        let fields = rules.fields.len() as u64;
        let mut visits = 0;
        for (number, record) in self.html.select(&rules.records).enumerate() {
            // Every field may look at every node of the record.
            for _ in record.descendants() {
                visits += fields + 1;
                if visits > MAX_VISITS {
                    return Err(TooMuch::Visits);
                }
            }
            out.push_str(if number == 0 { "{" } else { ",{" });
            for (number, field) in rules.fields.iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                out.push_str(&field.key);
                out.push(':');
                self.push_field(&mut out, record, field)?;
            }
            out.push('}');
        }
        out.push_str("]}");
        Ok(out)
    }

    fn push_field(&self, out: &mut String, record: ElementRef<'_>, field: &Field) -> Result<(), TooMuch> {
        let mut values = elements(record, field.select.as_ref()).map(|element| self.value(element, field));
        if !field.all {
            // The first element counts, whether it has a value or not.
            match values.next().flatten() {
                Some(value) => push_text(out, &value),
                None => out.push_str("null"),
            }
            return within(out);
        }
        out.push('[');
        for (number, value) in values.flatten().enumerate() {
            if number > 0 {
                out.push(',');
            }
            push_text(out, &value);
            within(out)?;
        }
        out.push(']');
        Ok(())
    }

    fn value(&self, element: ElementRef<'_>, field: &Field) -> Option<String> {
        let taken = match &field.attribute {
            Some(name) => element.attr(name)?.to_owned(),
            None => text(element),
        };
        let taken = match &field.matching {
            Some(expression) => matched(expression, &taken)?.to_owned(),
            None => taken,
        };
        if field.resolve
            && let Some(absolute) = self.base.as_ref().and_then(|base| base.join(taken.trim()).ok())
        {
            return Some(absolute.into());
        }
        Some(taken)
    }
}

/// What the URLs of a page are relative to: its `<base>`, else the page itself.
fn base(html: &Html, url: Option<&Url>) -> Option<Url> {
    let element = html
        .tree
        .root()
        .descendants()
        .filter_map(ElementRef::wrap)
        .find(|element| element.value().name() == "base" && element.attr("href").is_some());
    let declared = element.and_then(|element| element.attr("href")).and_then(|href| match url {
        Some(url) => url.join(href.trim()).ok(),
        None => Url::parse(href.trim()).ok(),
    });
    // As in the standard: such a base would make data of every link.
    declared.filter(|base| !matches!(base.scheme(), "data" | "javascript")).or_else(|| url.cloned())
}

/// The elements of a record that a field looks at, in the order of the page.
fn elements<'a, 's>(record: ElementRef<'a>, select: Option<&'s Selector>) -> impl Iterator<Item = ElementRef<'a>> + use<'a, 's> {
    let itself = select.is_none().then_some(record);
    itself.into_iter().chain(select.into_iter().flat_map(move |selector| record.select(selector)))
}

/// The text of an element and all within it; white space (that of HTML: no-break spaces are text) is one space, a `<br>` is white space.
fn text(element: ElementRef<'_>) -> String {
    let mut out = String::new();
    let mut space = false;
    for edge in element.traverse() {
        let Edge::Open(node) = edge else { continue };
        match node.value() {
            Node::Text(text) => {
                for word in text.split_inclusive([' ', '\t', '\n', '\r', '\x0C']) {
                    let bare = word.trim_end_matches([' ', '\t', '\n', '\r', '\x0C']);
                    if !bare.is_empty() {
                        if space && !out.is_empty() {
                            out.push(' ');
                        }
                        out.push_str(bare);
                        space = false;
                    }
                    space |= bare.len() < word.len();
                }
            }
            Node::Element(element) if element.name() == "br" => space = true,
            _ => {}
        }
    }
    out
}

/// What the first group of an expression matches, or all of the match where it has none.
fn matched<'t>(expression: &Regex, text: &'t str) -> Option<&'t str> {
    let found = expression.captures(text)?;
    found.get(usize::from(found.len() > 1)).map(|found| found.as_str())
}

fn within(out: &str) -> Result<(), TooMuch> {
    if out.len() > MAX_EXTRACTED { Err(TooMuch::Extracted) } else { Ok(()) }
}

/// `text` as a JSON string.
fn push_text(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c == '"' || c == '\\' || c < ' ') {
        out.push_str(&rest[..at]);
        // Writing to a string does not fail.
        let _ = match rest.as_bytes()[at] {
            b'\n' => out.write_str("\\n"),
            byte @ (b'"' | b'\\') => write!(out, "\\{}", char::from(byte)),
            byte => write!(out, "\\u{byte:04x}"),
        };
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

#[cfg(test)]
mod tests;
