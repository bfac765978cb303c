//! Text of values: unescaping, and compact JSON.

/// Appends the text that the inside of a JSON string stands for. Its grammar must have been checked.
///
/// # Errors
/// When it holds half of a surrogate pair, which is no character.
pub(crate) fn unescape(raw: &str, text: &mut String) -> Result<(), &'static str> {
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let escape = rest.as_bytes().get(at + 1).copied().unwrap_or(b'\\');
        rest = rest.get(at + 2..).unwrap_or_default();
        match escape {
            b'b' => text.push('\u{8}'),
            b'f' => text.push('\u{c}'),
            b'n' => text.push('\n'),
            b'r' => text.push('\r'),
            b't' => text.push('\t'),
            b'u' => {
                let high = hex(rest, 0);
                let (code, used) = match high {
                    0xD800..=0xDBFF if rest.get(4..6) == Some("\\u") => {
                        let low = hex(rest, 6);
                        let pair = 0x10000 + ((high - 0xD800) << 10) + (low.wrapping_sub(0xDC00) & 0x3FF);
                        (if (0xDC00..=0xDFFF).contains(&low) { pair } else { high }, 10)
                    }
                    _ => (high, 4),
                };
                text.push(char::from_u32(code).ok_or("it has half of a surrogate pair, which is no character")?);
                rest = rest.get(used..).unwrap_or_default();
            }
            other => text.push(char::from(other)),
        }
    }
    text.push_str(rest);
    Ok(())
}

fn hex(text: &str, at: usize) -> u32 {
    text.get(at..at + 4).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0xD800)
}

/// Appends JSON text without the white space between tokens; strings and numbers stay as they were received.
pub(crate) fn compact(json: &str, text: &mut String) {
    let mut start = 0;
    let mut in_string = false;
    let mut escaped = false;
    for (at, byte) in json.bytes().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
        } else if byte == b'"' {
            in_string = true;
        } else if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
            text.push_str(&json[start..at]);
            start = at + 1;
        }
    }
    text.push_str(&json[start..]);
}

/// Appends `plain` as a JSON string.
pub(crate) fn quote(plain: &str, text: &mut String) {
    text.push_str(&serde_json::Value::from(plain).to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_those_of_serde_json() {
        for raw in [
            "a",
            r"\n\t\r\b\f\/\\\u0022",
            r"\ud83d\ude00x",
            r"\u00e9é",
            r#"\"q\""#,
            r"\ud800",
            r"\ud800x",
            r"\ud800\u0041",
            r"\udc00",
            r"\ud83d\ude00\ud83d",
        ] {
            let mut text = String::new();
            let ours = unescape(raw, &mut text).ok().map(|()| text);
            assert_eq!(ours, serde_json::from_str::<String>(&format!("\"{raw}\"")).ok(), "{raw}");
        }
    }

    #[test]
    fn only_white_space_between_tokens_goes() {
        let mut text = String::new();
        compact("{ \"a b\" : [ 1.50 , \"x \\\" y\" ],\r\n\t\"c\":1e2 }", &mut text);
        assert_eq!(text, r#"{"a b":[1.50,"x \" y"],"c":1e2}"#);
    }
}
