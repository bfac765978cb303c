//! Looks at one place of a JSON document without building it: the whole text is checked, memory stays that of the text.

use std::{cell::RefCell, fmt};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What is at a JSON Pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The pointer leads nowhere.
    Missing,
    /// null.
    Null,
    /// true or false.
    Boolean,
    /// A whole number, as text.
    Integer(String),
    /// Another number.
    Number,
    /// A string.
    String(String),
    /// An array of so many elements.
    Array(u64),
    /// An object.
    Object,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "nothing",
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Integer(_) | Self::Number => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object => "an object",
        })
    }
}

/// What is at `pointer` (RFC 6901) in `text`. Where a key occurs twice the later one counts.
///
/// # Errors
/// The syntax error of `text`, with line and column.
pub fn find(text: &str, pointer: &str) -> serde_json::Result<Found> {
    walk(text, Walk { path: &tokens(pointer), within: None })
}

/// [`find`], and where it finds an array, what is at the pointer `within` each of its elements.
///
/// # Errors
/// As [`find`].
pub fn find_each(text: &str, pointer: &str, within: &str) -> serde_json::Result<(Found, Vec<Found>)> {
    let (path, within) = (tokens(pointer), tokens(within));
    let each = RefCell::new(Vec::new());
    let found = walk(text, Walk { path: &path, within: Some((&within, &each)) })?;
    Ok((found, each.into_inner()))
}

fn tokens(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~")).collect()
}

fn walk(text: &str, walk: Walk<'_>) -> serde_json::Result<Found> {
    let mut json = serde_json::Deserializer::from_str(text);
    let found = walk.deserialize(&mut json)?;
    json.end()?;
    Ok(found)
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    path: &'a [String],
    /// Where to look within each element of the array at the end of the path, and where to keep what is found.
    within: Option<(&'a [String], &'a RefCell<Vec<Found>>)>,
}

impl Walk<'_> {
    fn scalar<E>(&self, found: Found) -> Result<Found, E> {
        Ok(if self.path.is_empty() { found } else { Found::Missing })
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        self.scalar(Found::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        self.scalar(Found::Boolean)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Found, E> {
        self.scalar(Found::Integer(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Found, E> {
        self.scalar(Found::Integer(value.to_string()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        self.scalar(Found::Number)
    }

    fn visit_str<E>(self, value: &str) -> Result<Found, E> {
        self.scalar(Found::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Found, A::Error> {
        let wanted = self.path.first().map(|token| array_index(token));
        let mut found = Found::Missing;
        let mut count = 0;
        if let (None, Some((_, each))) = (wanted, self.within) {
            // Of an array that occurs twice the later one counts.
            each.borrow_mut().clear();
        }
        loop {
            let more = if wanted == Some(Some(count)) {
                elements.next_element_seed(Walk { path: &self.path[1..], ..self })?.map(|inner| found = inner)
            } else if let (None, Some((path, each))) = (wanted, self.within) {
                elements.next_element_seed(Walk { path, within: None })?.map(|inner| each.borrow_mut().push(inner))
            } else {
                elements.next_element::<IgnoredAny>()?.map(drop)
            };
            if more.is_none() {
                return Ok(if wanted.is_none() { Found::Array(count) } else { found });
            }
            count += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Found, A::Error> {
        let Some((token, rest)) = self.path.split_first() else {
            while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Found::Object);
        };
        let mut found = Found::Missing;
        while let Some(key) = entries.next_key::<String>()? {
            if key == *token {
                found = entries.next_value_seed(Walk { path: rest, ..self })?;
            } else {
                entries.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// An array index of RFC 6901: digits without a leading zero.
fn array_index(token: &str) -> Option<u64> {
    if token.len() > 1 && token.starts_with('0') || !token.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    token.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_lead_where_rfc_6901_says() {
        let text = r#"{"data":[{"x":1},2,[3,"four"]],"a/b":{"m~n":null},"next":"/p2","":true,"n":1e2,"data2":{}}"#;
        let cases = [
            ("", Found::Object),
            ("/data", Found::Array(3)),
            ("/data/2/1", Found::String("four".into())),
            ("/data/02", Found::Missing),
            ("/data/3", Found::Missing),
            ("/data/-", Found::Missing),
            ("/data/0/x", Found::Integer("1".into())),
            ("/a~1b/m~0n", Found::Null),
            ("/next", Found::String("/p2".into())),
            ("/next/deeper", Found::Missing),
            ("/", Found::Boolean),
            ("/n", Found::Number),
            ("/data2", Found::Object),
            ("/none", Found::Missing),
        ];
        for (pointer, expected) in cases {
            assert_eq!(find(text, pointer).unwrap(), expected, "{pointer}");
        }
        let (found, each) = find_each(r#"{"d":[{"u":9}],"d":[{"u":{"x":1}},{"u":"a"},7,{}]}"#, "/d", "/u").unwrap();
        assert_eq!((found, each), (Found::Array(4), vec![Found::Object, Found::String("a".into()), Found::Missing, Found::Missing]));
        assert_eq!(find_each(r#"{"d":{"u":9}}"#, "/d", "/u").unwrap(), (Found::Object, vec![]));
        assert_eq!(find("[]", "").unwrap(), Found::Array(0));
        assert_eq!(find("[-1, 1.5]", "/0").unwrap(), Found::Integer("-1".into()));
        assert_eq!(find("[-1, 1.5]", "/1").unwrap(), Found::Number);
    }

    #[test]
    fn numbers_of_any_length_and_deep_documents_are_fine() {
        let digits = "9".repeat(500);
        assert_eq!(find(&format!(r#"{{"data":[{digits}.{digits}]}}"#), "/data").unwrap(), Found::Array(1));
        let deep = format!("[{}{}]", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(find(&deep, "").unwrap(), Found::Array(1));
    }

    #[test]
    fn syntax_errors_have_a_place_also_behind_the_pointer() {
        for text in [r#"{"data":[1,2"#, r#"{"data":[1],}"#, r#"{"data":[1]} x"#, "<html>", "{\"data\":[1],\n \"x\":tru}"] {
            let error = find(text, "/data").unwrap_err().to_string();
            assert!(error.contains("line ") && error.contains("column "), "{text}: {error}");
        }
    }
}
