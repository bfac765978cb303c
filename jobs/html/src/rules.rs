//! Selectors and expressions of a source, compiled.

use lakehouse_api::pipeline::ScrapeField;
use regex::{Regex, RegexBuilder};
use scraper::{Selector, error::SelectorErrorKind};

/// Most memory of one compiled expression, in bytes.
const MAX_REGEX: usize = 1 << 20;

/// A rule that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct RuleError {
    /// The field at fault, such as `fields[price].select`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// What the records of a page are, and their fields.
#[derive(Clone, Debug)]
pub struct Rules {
    pub(crate) records: Selector,
    pub(crate) fields: Vec<Field>,
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    /// The name as JSON.
    pub(crate) key: String,
    /// None: the record itself.
    pub(crate) select: Option<Selector>,
    /// None: the text.
    pub(crate) attribute: Option<String>,
    pub(crate) all: bool,
    pub(crate) resolve: bool,
    pub(crate) matching: Option<Regex>,
}

/// The link of a page that leads to the next one.
#[derive(Clone, Debug)]
pub struct Link {
    pub(crate) select: Selector,
}

impl Rules {
    /// Compiles the selector of the records and their fields.
    ///
    /// # Errors
    /// The first rule that cannot be compiled.
    pub fn new(records: &str, fields: &[ScrapeField]) -> Result<Self, RuleError> {
        Ok(Self { records: selector("records", records)?, fields: fields.iter().map(Field::new).collect::<Result<_, _>>()? })
    }
}

impl Rules {
    /// Checks a selector that something else executes; `field` is where it stands.
    ///
    /// # Errors
    /// When it is no selector.
    pub fn selector(field: &str, text: &str) -> Result<(), RuleError> {
        selector(field, text).map(|_| ())
    }
}

impl Link {
    /// Compiles the selector of the link.
    ///
    /// # Errors
    /// When it is no selector.
    pub fn new(select: &str) -> Result<Self, RuleError> {
        Ok(Self { select: selector("paging.next.select", select)? })
    }
}

impl Field {
    fn new(field: &ScrapeField) -> Result<Self, RuleError> {
        let place = |of: &str| format!("fields[{}].{of}", field.name);
        Ok(Self {
            key: serde_json::Value::from(field.name.as_str()).to_string(),
            select: field.select.as_deref().map(|text| selector(&place("select"), text)).transpose()?,
            // Names of attributes in HTML are lower-case in the tree, however they are written.
            attribute: field.attribute.as_deref().map(str::to_ascii_lowercase),
            all: field.all,
            resolve: field.resolve,
            matching: field.match_.as_deref().map(|text| expression(&place("match"), text)).transpose()?,
        })
    }
}

fn selector(field: &str, text: &str) -> Result<Selector, RuleError> {
    Selector::parse(text)
        .map_err(|error| RuleError { field: field.to_owned(), message: format!("`{text}` is not a CSS selector: {}", why(&error)) })
}

fn why(error: &SelectorErrorKind) -> String {
    match error {
        SelectorErrorKind::UnexpectedToken => "something in it is in the wrong place".to_owned(),
        SelectorErrorKind::EndOfLine => "it ends too early".to_owned(),
        SelectorErrorKind::TooManyNestedBlocks => "it is nested too deeply".to_owned(),
        // Such as UnsupportedPseudoClassOrElement.
        SelectorErrorKind::UnexpectedSelectorParseError(kind) => {
            let kind = format!("{kind:?}");
            let words = kind.char_indices().map(|(at, c)| if at > 0 && c.is_uppercase() { format!(" {c}") } else { c.to_string() });
            words.collect::<String>().to_lowercase()
        }
        other => other.to_string().to_lowercase(),
    }
}

fn expression(field: &str, text: &str) -> Result<Regex, RuleError> {
    RegexBuilder::new(text).size_limit(MAX_REGEX).build().map_err(|error| {
        // The message shows the expression with marks below it, on several lines; its last line says what is wrong.
        let said = error.to_string();
        let last = said.lines().last().unwrap_or_default();
        let message = format!("`{text}` is not a regular expression: {}", last.trim_start_matches("error: "));
        RuleError { field: field.to_owned(), message }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(value: serde_json::Value) -> ScrapeField {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_cannot_be_compiled_is_named() {
        let refused = |records: &str, value| Rules::new(records, &[field(value)]).unwrap_err().to_string();
        let name = serde_json::json!({"name": "price"});
        assert_eq!(refused("li[", name.clone()), "records: `li[` is not a CSS selector: it ends too early");
        assert_eq!(refused("li >", name), "records: `li >` is not a CSS selector: dangling combinator");
        let select = refused("li", serde_json::json!({"name": "price", "select": "a::text"}));
        assert_eq!(select, "fields[price].select: `a::text` is not a CSS selector: unsupported pseudo class or element");
        let expression = refused("li", serde_json::json!({"name": "price", "match": "(a"}));
        assert_eq!(expression, "fields[price].match: `(a` is not a regular expression: unclosed group");
        let expression = refused("li", serde_json::json!({"name": "price", "match": "(?=a)"}));
        assert!(expression.contains("look-around"), "{expression}");
        let expression = refused("li", serde_json::json!({"name": "price", "match": "(\\w{1000}){1000}"}));
        assert!(expression.contains("exceeds size limit"), "{expression}");
        assert_eq!(Link::new(">>").unwrap_err().field, "paging.next.select");
    }

    #[test]
    fn selectors_of_today_are_understood() {
        for text in
            ["li.next > a", "a:not([rel~=nofollow])", "tr:nth-child(2n+1) td + td", "div:has(> img), p ~ p", ":is(h1, h2)", ":scope > b"]
        {
            assert!(Rules::new(text, &[]).is_ok(), "{text}");
        }
    }
}
