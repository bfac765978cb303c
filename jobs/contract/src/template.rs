//! Templates in paths and queries: `{{ interval.date }}`, `{{ parameters.limit }}`. Names only, no expressions.

use std::collections::BTreeMap;

use lakehouse_api::common::IntervalGrain;

use crate::{Interval, interval::rfc3339};

/// Why a template cannot be rendered.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// `{{` without `}}`.
    #[error("`{0}`: `{{{{` is not closed by `}}}}`")]
    Unclosed(String),
    /// A name that does not exist.
    #[error("`{{{{ {name} }}}}` is not known; known: {known}")]
    Unknown {
        /// The name.
        name: String,
        /// What there is.
        known: String,
    },
}

/// Values that templates may name.
pub fn values(interval: &Interval, grain: IntervalGrain, parameters: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut values = BTreeMap::from([
        ("interval.start".to_owned(), rfc3339(interval.start)),
        ("interval.end".to_owned(), rfc3339(interval.end)),
        ("interval.date".to_owned(), interval.start.format("%Y-%m-%d").to_string()),
        ("interval.label".to_owned(), interval.label(grain)),
        ("interval.startMillis".to_owned(), interval.start.timestamp_millis().to_string()),
        ("interval.endMillis".to_owned(), interval.end.timestamp_millis().to_string()),
    ]);
    values.extend(parameters.iter().map(|(name, value)| (format!("parameters.{name}"), value.clone())));
    values
}

/// `text` with every `{{ name }}` replaced by `encode(value)`.
///
/// # Errors
/// [`TemplateError`] for an unclosed brace or an unknown name.
pub fn render(text: &str, values: &BTreeMap<String, String>, encode: impl Fn(&str) -> String) -> Result<String, TemplateError> {
    let mut rendered = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find("{{") {
        let (before, after) = rest.split_at(open);
        rendered.push_str(before);
        let close = after.find("}}").ok_or_else(|| TemplateError::Unclosed(text.to_owned()))?;
        let name = after[2..close].trim();
        let value = values.get(name).ok_or_else(|| TemplateError::Unknown {
            name: name.to_owned(),
            known: values.keys().cloned().collect::<Vec<_>>().join(", "),
        })?;
        rendered.push_str(&encode(value));
        rest = &after[close + 2..];
    }
    rendered.push_str(rest);
    Ok(rendered)
}

/// Percent-encodes everything but unreserved characters (RFC 3986, 2.3), so that a value stays one component of a URL.
pub fn url_encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_and_unknown_names_are_refused() {
        let interval = Interval::parse(IntervalGrain::Daily, "2024-01-01").unwrap();
        let parameters = BTreeMap::from([("q".to_owned(), "a b&c".to_owned())]);
        let values = values(&interval, IntervalGrain::Daily, &parameters);
        let url = render("/x?q={{ parameters.q }}&at={{interval.start}}", &values, url_encode).unwrap();
        assert_eq!(url, "/x?q=a%20b%26c&at=2024-01-01T00%3A00%3A00Z");
        let error = render("{{ parameters.nope }}", &values, url_encode).unwrap_err().to_string();
        assert!(error.contains("`{{ parameters.nope }}` is not known"), "{error}");
        assert!(render("{{ open", &values, url_encode).is_err());
    }
}
