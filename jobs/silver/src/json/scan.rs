//! A scanner of JSON text: checks the grammar of RFC 8259 and hands out slices; it never copies, recurses or rounds.

/// Where text stops being JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// Byte offset within the scanned text.
    pub(crate) at: usize,
    /// What should stand there.
    pub(crate) expected: &'static str,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not valid JSON at byte {}: expected {}", self.at, self.expected)
    }
}

/// A position in JSON text.
#[derive(Clone, Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    /// Offset of the next byte.
    pub(crate) at: usize,
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Offset of the first quote, backslash or control character at or after `at`; the length when there is none.
///
/// Eight bytes at a time, two such words a round: `(w - k) & !w` has its high bits set where a byte is below k, exact up to the first such byte.
#[inline]
fn find_special(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<16>) {
        let both = u128::from_le_bytes(*chunk);
        let (low, high) = (specials(both as u64), specials((both >> 64) as u64));
        if low != 0 {
            return at + (low.trailing_zeros() / 8) as usize;
        }
        if high != 0 {
            return at + 8 + (high.trailing_zeros() / 8) as usize;
        }
        at += 16;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' || byte == b'\\' || byte < 0x20 {
            break;
        }
        at += 1;
    }
    at
}

/// The high bit of the first byte that is a quote, a backslash or a control character; bits above it mean nothing.
#[inline]
fn specials(word: u64) -> u64 {
    let quote = word ^ (ONES * 0x22);
    let backslash = word ^ (ONES * 0x5c);
    ((quote.wrapping_sub(ONES) & !quote) | (backslash.wrapping_sub(ONES) & !backslash) | (word.wrapping_sub(ONES * 0x20) & !word)) & HIGH
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, bytes: text.as_bytes(), at: 0 }
    }

    /// A scanner that begins at an offset of a text.
    pub(crate) fn from(text: &'a str, at: usize) -> Self {
        Self { text, bytes: text.as_bytes(), at }
    }

    /// The next byte; 0 at the end, which no JSON token starts with.
    #[inline]
    pub(crate) fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    /// The bytes from here on.
    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// The text from `start` to here; both are beside ASCII characters.
    #[inline]
    pub(crate) fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// An error at this position.
    #[cold]
    pub(crate) fn expected(&self, expected: &'static str) -> Malformed {
        Malformed { at: self.at, expected }
    }

    /// Skips white space and gives the byte after it; 0 at the end.
    #[inline]
    pub(crate) fn space(&mut self) -> u8 {
        loop {
            let byte = self.peek();
            if byte > b' ' || !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return byte;
            }
            self.at += 1;
        }
    }

    /// Skips white space and the byte `wanted`.
    #[inline]
    pub(crate) fn take(&mut self, wanted: u8, expected: &'static str) -> Result<(), Malformed> {
        if self.space() != wanted {
            return Err(self.expected(expected));
        }
        self.at += 1;
        Ok(())
    }

    /// Whether nothing but white space follows.
    pub(crate) fn end(&mut self) -> Result<(), Malformed> {
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.expected("the end of the document")) }
    }

    /// The inside of a string whose opening quote is behind us, and whether it has escapes; ends behind the closing quote.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<(&'a str, bool), Malformed> {
        let start = self.at;
        self.at = find_special(self.bytes, self.at);
        if self.peek() == b'"' {
            let inside = self.since(start);
            self.at += 1;
            return Ok((inside, false));
        }
        self.unusual_string(start)
    }

    /// As [`Self::string`] for one that has escapes, or no end; `start` is where it began.
    #[inline(never)]
    fn unusual_string(&mut self, start: usize) -> Result<(&'a str, bool), Malformed> {
        let mut escaped = false;
        loop {
            self.at = find_special(self.bytes, self.at);
            match self.peek() {
                b'"' => {
                    let inside = self.since(start);
                    self.at += 1;
                    return Ok((inside, escaped));
                }
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ if self.at == self.bytes.len() => return Err(self.expected("the end of the string")),
                _ => return Err(self.expected("an escaped control character")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Malformed> {
        self.at += 1;
        match self.peek() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
            b'u' => {
                let digits = self.bytes.get(self.at + 1..self.at + 5).unwrap_or_default();
                if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(self.expected("four hexadecimal digits"));
                }
                self.at += 5;
            }
            _ => return Err(self.expected("an escape")),
        }
        Ok(())
    }

    /// The text of a number.
    #[inline]
    pub(crate) fn number(&mut self) -> Result<&'a str, Malformed> {
        let start = self.at;
        if self.peek() == b'-' {
            self.at += 1;
        }
        match self.peek() {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return Err(self.expected("a digit")),
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Ok(self.since(start))
    }

    #[inline]
    fn digits(&mut self) {
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
    }

    #[inline]
    fn some_digits(&mut self) -> Result<(), Malformed> {
        if !self.peek().is_ascii_digit() {
            return Err(self.expected("a digit"));
        }
        self.digits();
        Ok(())
    }

    /// Skips `true`, `false` or `null`.
    #[inline]
    pub(crate) fn literal(&mut self, word: &'static str) -> Result<(), Malformed> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(self.expected("a JSON value"));
        }
        self.at += word.len();
        Ok(())
    }

    /// Skips one value of any depth, checking its grammar. `open` is scratch space: one entry per open container.
    pub(crate) fn skip(&mut self, open: &mut Vec<Open>) -> Result<(), Malformed> {
        open.clear();
        loop {
            match self.space() {
                b'"' => {
                    self.at += 1;
                    self.string()?;
                }
                b'{' => {
                    self.at += 1;
                    if self.space() == b'}' {
                        self.at += 1;
                    } else {
                        open.push(Open::Object);
                        self.key()?;
                        continue;
                    }
                }
                b'[' => {
                    self.at += 1;
                    if self.space() == b']' {
                        self.at += 1;
                    } else {
                        open.push(Open::Array);
                        continue;
                    }
                }
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                b'-' | b'0'..=b'9' => {
                    self.number()?;
                }
                _ => return Err(self.expected("a JSON value")),
            }
            if !self.close(open)? {
                return Ok(());
            }
        }
    }

    /// After a value: closes what ends here. True when another value follows.
    #[inline]
    fn close(&mut self, open: &mut Vec<Open>) -> Result<bool, Malformed> {
        while let Some(innermost) = open.last() {
            match (innermost, self.space()) {
                (Open::Array, b',') => {
                    self.at += 1;
                    return Ok(true);
                }
                (Open::Object, b',') => {
                    self.at += 1;
                    self.key()?;
                    return Ok(true);
                }
                (Open::Array, b']') | (Open::Object, b'}') => {
                    self.at += 1;
                    open.pop();
                }
                (Open::Array, _) => return Err(self.expected("`,` or `]`")),
                (Open::Object, _) => return Err(self.expected("`,` or `}`")),
            }
        }
        Ok(false)
    }

    fn key(&mut self) -> Result<(), Malformed> {
        self.take(b'"', "a key in quotes")?;
        self.string()?;
        self.take(b':', "`:`")
    }
}

/// An open container of [`Scanner::skip`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Open {
    /// `[`
    Array,
    /// `{`
    Object,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid(text: &str) -> bool {
        let mut scanner = Scanner::new(text);
        scanner.skip(&mut Vec::new()).and_then(|()| scanner.end()).is_ok()
    }

    #[test]
    fn the_grammar_is_that_of_serde_json() {
        let texts = [
            "1",
            "-0",
            "01",
            "1.",
            ".5",
            "1e5",
            "1e",
            "1E+2",
            "-",
            "nul",
            "null",
            "true",
            "truex",
            "\"a",
            "\"a\"",
            "\"\\q\"",
            "\"\\u12g4\"",
            "\"\\u1234\"",
            "\"a\u{1}b\"",
            "[]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{}",
            "{\"a\":1,}",
            "{\"a\"}",
            "{a:1}",
            "{\"a\":[{\"b\":[]}]}",
            "[[[]]",
            " [ 1 , { \"x\" : null } ] ",
            "",
            "  ",
            "[1]x",
            "{\"a\":1}}",
            "\"éß€😀\"",
            "\"01234567\\\"89\"",
        ];
        for text in texts {
            assert_eq!(valid(text), serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let depth = 5_000_000;
        let text = "[".repeat(depth) + &"]".repeat(depth);
        assert!(valid(&text));
        assert!(!valid(&text[1..]));
    }
}
