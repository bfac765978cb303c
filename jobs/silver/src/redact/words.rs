//! Whether and where a value stands: as the value of a field, or as a word in text that cannot be read otherwise.

use memchr::memmem;

use crate::json::value::Value;

/// What stands in a page where the value stood, outside of its records.
const ERASED: &str = "[erased]";

/// Whether a value is the wanted one: the same text, or the same whole number.
pub(super) fn is(value: &Value<'_>, wanted: &str) -> bool {
    let same =
        |text: &str| text == wanted || text.parse::<i128>().is_ok_and(|number| wanted.parse::<i128>().is_ok_and(|wanted| wanted == number));
    match value {
        Value::Text(text) | Value::Number(text) | Value::Container(text) => same(text),
        Value::Escaped(text) => serde_json::from_str::<String>(&format!("\"{text}\"")).is_ok_and(|text| same(&text)),
        Value::Doubled(text) => same(&text.replace("\"\"", "\"")),
        Value::Bool(value) => value.to_string() == wanted,
        Value::Missing | Value::Null | Value::Date(_) | Value::Time { .. } | Value::Other(_) => false,
    }
}

pub(super) fn mentions(bytes: &[u8], value: &str) -> bool {
    words(bytes, value).next().is_some()
}

/// Where a value stands as a word of its own.
fn words<'b>(bytes: &'b [u8], value: &'b str) -> impl Iterator<Item = usize> + 'b {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let found = (!value.is_empty()).then(|| memmem::find_iter(bytes, value.as_bytes()));
    found.into_iter().flatten().filter(move |at| {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        !is_word(before) && !is_word(bytes.get(at + value.len()))
    })
}

/// A text with another word in the place of a value.
pub(super) fn replaced(text: &str, value: &str) -> String {
    let mut new = String::with_capacity(text.len());
    let mut from = 0;
    for at in words(text.as_bytes(), value) {
        new.push_str(&text[from..at]);
        new.push_str(ERASED);
        from = at + value.len();
    }
    new.push_str(&text[from..]);
    new
}
