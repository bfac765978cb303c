//! JSON Pointers (RFC 6901).

/// The unescaped reference tokens of a pointer: `/a~1b/0` → `a/b`, `0`; the empty pointer has none.
///
/// # Errors
/// A text that says what is wrong.
pub(crate) fn tokens(pointer: &str) -> Result<Vec<String>, String> {
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let Some(rest) = pointer.strip_prefix('/') else {
        return Err(format!("`{pointer}` is not a JSON Pointer: it must begin with `/`"));
    };
    rest.split('/')
        .map(|token| unescape(token).ok_or_else(|| format!("`{pointer}` is not a JSON Pointer: `~` must be followed by 0 or 1")))
        .collect()
}

fn unescape(token: &str) -> Option<String> {
    let mut parts = token.split('~');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.as_bytes().first() {
            Some(b'0') => text.push('~'),
            Some(b'1') => text.push('/'),
            _ => return None,
        }
        text.push_str(&part[1..]);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_unescaped() {
        assert_eq!(tokens("").unwrap(), Vec::<String>::new());
        assert_eq!(tokens("/").unwrap(), [""]);
        assert_eq!(tokens("/a~1b/m~0n/0/~01").unwrap(), ["a/b", "m~n", "0", "~1"]);
        assert!(tokens("a").unwrap_err().contains("must begin with"));
        assert!(tokens("/a~2").unwrap_err().contains("`~` must be followed"));
        assert!(tokens("/a~").is_err());
    }
}
