//! A field of a record as it was received, before it is cast.

use lakehouse_api::pipeline::TimeUnit;

/// One value, borrowed from the bytes of its object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    /// The field is not there.
    Missing,
    /// JSON null, an empty unquoted CSV field, or null in a Parquet column.
    Null,
    /// true or false.
    Bool(bool),
    /// The text of a JSON number, every digit of it.
    Number(&'a str),
    /// Text without escapes.
    Text(&'a str),
    /// The inside of a JSON string that has at least one escape; its grammar is checked.
    Escaped(&'a str),
    /// The inside of a quoted CSV field that has doubled quotes.
    Doubled(&'a str),
    /// JSON text of an array or object; its grammar is checked.
    Container(&'a str),
    /// Days since 1970-01-01.
    Date(i32),
    /// A point in time that is typed already.
    Time {
        /// Units since 1970-01-01T00:00:00.
        value: i64,
        /// The unit.
        unit: TimeUnit,
        /// Whether it is an instant or a wall-clock time.
        zone: Zone,
    },
    /// A Parquet value of a type that no column takes; the type's name.
    Other(&'a str),
}

/// What a typed time says about its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    /// An instant, UTC.
    Utc,
    /// A wall-clock time.
    None,
    /// An instant of the run, such as the interval's start, which may also be stored as UTC wall-clock time.
    Either,
}

/// Most characters of a value that a message shows.
const SHOWN: usize = 80;

/// `text` cut to at most 80 characters.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((cut, _)) => format!("{}…", &text[..cut]),
    }
}

impl<'a> Value<'a> {
    /// The text of a value that is one without escapes.
    #[inline]
    pub(crate) fn plain_text(self) -> Option<&'a str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value as a message shows it, at most 80 characters.
    pub(crate) fn shown(&self) -> String {
        match self {
            Value::Missing => "nothing".to_owned(),
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Number(text) | Value::Container(text) => shorten(text),
            Value::Text(text) | Value::Escaped(text) | Value::Doubled(text) => format!("\"{}\"", shorten(text)),
            Value::Date(days) => format!("day {days}"),
            Value::Time { value, unit, .. } => format!("{value} {unit:?} since 1970").to_lowercase(),
            Value::Other(name) => format!("a value of type {}", shorten(name)),
        }
    }
}
