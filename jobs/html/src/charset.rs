//! Which encoding a page has, as the HTML standard says: a byte order mark, the charset of Content-Type, a `<meta>` within the first 1024
//! bytes, else what its bytes look like (as browsers do, and UTF-8 where they are that).

use std::borrow::Cow;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252, X_USER_DEFINED};

/// Bytes that are searched for a `<meta>`.
const PRESCAN: usize = 1024;

/// The text of a page and its encoding. Bytes that the encoding does not have become U+FFFD, as the Encoding standard says.
pub fn decode<'b>(bytes: &'b [u8], content_type: Option<&str>) -> (Cow<'b, str>, &'static Encoding) {
    let encoding = of(bytes, content_type);
    let (text, _) = encoding.decode_with_bom_removal(bytes);
    (text, encoding)
}

fn of(bytes: &[u8], content_type: Option<&str>) -> &'static Encoding {
    if let Some((encoding, _)) = Encoding::for_bom(bytes) {
        return encoding;
    }
    let transport = content_type.and_then(|value| in_content_type(value.as_bytes()));
    transport.or_else(|| prescan(bytes)).unwrap_or_else(|| guess(bytes))
}

fn guess(bytes: &[u8]) -> &'static Encoding {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(bytes, true);
    detector.guess(None, Utf8Detection::Allow)
}

/// The charset of a Content-Type, of a header or of a `<meta http-equiv>`.
fn in_content_type(value: &[u8]) -> Option<&'static Encoding> {
    let mut rest = value;
    loop {
        let at = rest.windows(7).position(|window| window.eq_ignore_ascii_case(b"charset"))?;
        rest = rest[at + 7..].trim_ascii_start();
        let Some(after) = rest.strip_prefix(b"=") else { continue };
        let after = after.trim_ascii_start();
        let label = match after.first() {
            Some(quote @ (b'"' | b'\'')) => after[1..].split(|byte| byte == quote).next(),
            _ => after.split(|byte| byte.is_ascii_whitespace() || *byte == b';').next(),
        };
        return Encoding::for_label(label.unwrap_or_default());
    }
}

/// The encoding that a `<meta>` declares ("prescan a byte stream to determine its encoding").
fn prescan(bytes: &[u8]) -> Option<&'static Encoding> {
    let head = &bytes[..bytes.len().min(PRESCAN)];
    let mut scan = Scan { head, at: 0 };
    while scan.at < head.len() {
        let rest = &head[scan.at..];
        let after_name = rest.get(5).is_some_and(|byte| byte.is_ascii_whitespace() || *byte == b'/');
        if rest.starts_with(b"<!--") {
            // `<!-->` is a whole comment.
            scan.at += 2 + rest[2..].windows(3).position(|window| window == b"-->")?;
        } else if rest.len() > 5 && rest[..5].eq_ignore_ascii_case(b"<meta") && after_name {
            scan.at += 5;
            if let Some(encoding) = scan.meta() {
                return Some(encoding);
            }
        } else if rest[0] == b'<' && rest[1..].strip_prefix(b"/").unwrap_or(&rest[1..]).first().is_some_and(u8::is_ascii_alphabetic) {
            scan.at += rest.iter().position(|byte| byte.is_ascii_whitespace() || *byte == b'>')?;
            while scan.attribute().is_some() {}
        } else if [&b"<!"[..], b"</", b"<?"].iter().any(|start| rest.starts_with(start)) {
            scan.at += rest.iter().position(|byte| *byte == b'>')?;
        }
        scan.at += 1;
    }
    None
}

/// A place in the beginning of a page.
struct Scan<'b> {
    head: &'b [u8],
    at: usize,
}

impl Scan<'_> {
    /// What the attributes of a `<meta>` say.
    fn meta(&mut self) -> Option<&'static Encoding> {
        let (mut pragma, mut in_content, mut charset) = (false, None, None);
        while let Some((name, value)) = self.attribute() {
            match name.as_slice() {
                b"http-equiv" => pragma |= value == b"content-type",
                b"content" if in_content.is_none() => in_content = in_content_type(&value),
                b"charset" if charset.is_none() => charset = Encoding::for_label(&value),
                _ => {}
            }
        }
        let declared = charset.or(in_content.filter(|_| pragma))?;
        // What was read as ASCII is no UTF-16.
        Some(match declared {
            encoding if encoding == UTF_16BE || encoding == UTF_16LE => UTF_8,
            encoding if encoding == X_USER_DEFINED => WINDOWS_1252,
            encoding => encoding,
        })
    }

    /// The next attribute of a tag, in lower case ("get an attribute"); none at the end of the tag.
    fn attribute(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        self.skip(|byte| byte.is_ascii_whitespace() || byte == b'/');
        if self.peek()? == b'>' {
            return None;
        }
        let start = self.at;
        self.skip(|byte| !byte.is_ascii_whitespace() && byte != b'/' && byte != b'>' && byte != b'=');
        // A name can begin with `=`.
        if self.at == start {
            self.at += 1;
            self.skip(|byte| !byte.is_ascii_whitespace() && byte != b'/' && byte != b'>' && byte != b'=');
        }
        let name = self.head[start..self.at].to_ascii_lowercase();
        self.skip(|byte| byte.is_ascii_whitespace());
        if self.peek()? != b'=' {
            return Some((name, Vec::new()));
        }
        self.at += 1;
        self.skip(|byte| byte.is_ascii_whitespace());
        let quote = self.peek()?;
        let value = if matches!(quote, b'"' | b'\'') {
            self.at += 1;
            let start = self.at;
            self.skip(|byte| byte != quote);
            self.peek()?;
            self.at += 1;
            &self.head[start..self.at - 1]
        } else {
            let start = self.at;
            self.skip(|byte| !byte.is_ascii_whitespace() && byte != b'>');
            // A tag that does not end within what is searched says nothing.
            self.peek()?;
            &self.head[start..self.at]
        };
        Some((name, value.to_ascii_lowercase()))
    }

    fn peek(&self) -> Option<u8> {
        self.head.get(self.at).copied()
    }

    fn skip(&mut self, unwanted: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&unwanted) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(bytes: &[u8], content_type: Option<&str>) -> &'static str {
        of(bytes, content_type).name()
    }

    #[test]
    fn the_mark_outweighs_the_header_and_the_header_the_page() {
        let page = b"<meta charset=iso-8859-2>";
        assert_eq!(name(page, None), "ISO-8859-2");
        assert_eq!(name(page, Some("text/html; charset=\"Shift_JIS\"")), "Shift_JIS");
        assert_eq!(name(page, Some("text/html; charset=nonsense")), "ISO-8859-2");
        assert_eq!(name(&[b"\xEF\xBB\xBF", &page[..]].concat(), Some("text/html;charset=koi8-r")), "UTF-8");
        assert_eq!(name(b"\xFF\xFEh\0", Some("text/html;charset=koi8-r")), "UTF-16LE");
        // Latin 1 on the web is windows-1252.
        assert_eq!(name(b"", Some("text/html; charset = latin1")), "windows-1252");
    }

    #[test]
    fn a_meta_is_found_as_the_standard_says() {
        let long = format!("{}<meta charset=koi8-r>", " ".repeat(1100));
        for (page, expected) in [
            ("<!doctype html><html lang='a>b'><head><META HTTP-EQUIV='Content-Type' CONTENT='text/html; charset=koi8-r'>", "KOI8-R"),
            ("<meta content='text/html; charset=koi8-r'>", "UTF-8"),
            ("<meta content='text/html; charset=koi8-r' http-equiv=content-type>", "KOI8-R"),
            ("<!-- <meta charset=koi8-r> --><meta charset=gbk>", "GBK"),
            ("<!--><meta charset=gbk>", "GBK"),
            ("<!-- <meta charset=koi8-r>", "UTF-8"),
            ("<metal charset=koi8-r>", "UTF-8"),
            ("<meta charset=\"utf-16le\">", "UTF-8"),
            ("<meta charset=x-user-defined>", "windows-1252"),
            ("<?x <meta charset=koi8-r>", "UTF-8"),
            ("<a title='<meta charset=koi8-r>'>", "UTF-8"),
            ("<meta/charset=koi8-r/>", "UTF-8"),
            ("<meta charset=koi8-r", "UTF-8"),
            ("<meta", "UTF-8"),
            ("<", "UTF-8"),
            (long.as_str(), "UTF-8"),
        ] {
            // What is guessed of ASCII is windows-1252 or UTF-8: the same text.
            let found = name(page.as_bytes(), None);
            let found = if expected == "UTF-8" && found == "windows-1252" { "UTF-8" } else { found };
            assert_eq!(found, expected, "{page}");
        }
    }

    #[test]
    fn bytes_that_say_nothing_are_guessed_and_wrong_ones_replaced() {
        assert_eq!(decode("Grüße, 51,77 €".as_bytes(), None).0, "Grüße, 51,77 €");
        let (text, encoding) = decode(b"<p>Preis: f\xFCnf \x80 und mehr f\xFCr die gro\xDFen G\xE4ste</p>", None);
        assert_eq!((text.as_ref(), encoding.name()), ("<p>Preis: fünf € und mehr für die großen Gäste</p>", "windows-1252"));
        let (text, encoding) = decode(b"a\xFFb\xE2\x82", Some("text/html; charset=utf-8"));
        assert_eq!((text.as_ref(), encoding.name()), ("a\u{fffd}b\u{fffd}", "UTF-8"));
        assert_eq!(decode(b"\xFE\xFF\0a\xD8\0", None).0, "a\u{fffd}");
    }
}
