//! robots.txt as in RFC 9309: which pages we may ask for, and how often (`Crawl-delay`, which the RFC leaves to us).

use std::time::Duration;

use url::Url;

/// Bytes that are read; the RFC asks for at least 500 KiB.
const MOST_BYTES: usize = 512 << 10;

/// The rules for one crawler. The default allows everything.
#[derive(Debug, Default)]
pub struct Robots {
    rules: Vec<Rule>,
    crawl_delay: Option<Duration>,
}

#[derive(Debug)]
struct Rule {
    allow: bool,
    /// Normalized; `*` is a wildcard.
    pattern: String,
    /// Ends with the path.
    anchored: bool,
    /// As it is written.
    line: String,
}

impl Robots {
    /// What `body` says for the crawler `product`: the groups that name it, else those for `*`.
    pub fn parse(body: &[u8], product: &str) -> Self {
        let text = String::from_utf8_lossy(&body[..body.len().min(MOST_BYTES)]);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let (mut named, mut others) = (None::<Self>, Self::default());
        // Whether the group is for us, and for all; and whether it still may get another name.
        let (mut ours, mut everyones, mut naming) = (false, false, false);
        for line in text.split(['\n', '\r']) {
            let line = line.split('#').next().unwrap_or_default().trim();
            let Some((key, value)) = line.split_once(':') else { continue };
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
            if key == "user-agent" {
                if !naming {
                    (ours, everyones) = (false, false);
                }
                naming = true;
                everyones |= value == "*";
                if agent(value).eq_ignore_ascii_case(product) {
                    ours = true;
                    named.get_or_insert_default();
                }
            } else if matches!(key.as_str(), "allow" | "disallow" | "crawl-delay") {
                naming = false;
                if ours && let Some(named) = &mut named {
                    named.learn(&key, value, line);
                }
                if everyones {
                    others.learn(&key, value, line);
                }
            }
        }
        named.unwrap_or(others)
    }

    fn learn(&mut self, key: &str, value: &str, line: &str) {
        if key == "crawl-delay" {
            let seconds = value.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            self.crawl_delay = self.crawl_delay.max(seconds);
        } else if !value.is_empty() {
            let (path, anchored) = value.strip_suffix('$').map_or((value, false), |path| (path, true));
            self.rules.push(Rule { allow: key == "allow", pattern: normalized(path, true), anchored, line: line.to_owned() });
        }
    }

    /// The time between two requests that is asked for.
    pub fn crawl_delay(&self) -> Option<Duration> {
        self.crawl_delay
    }

    /// Whether `url`, which is on the host of this robots.txt, may be asked for.
    ///
    /// # Errors
    /// The line that forbids it.
    pub fn check(&self, url: &Url) -> Result<(), &str> {
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let path = normalized(&format!("{}{query}", url.path()), false);
        if path == "/robots.txt" {
            return Ok(());
        }
        // The longest pattern counts; of two that are equally long the one that allows.
        let counts = self.rules.iter().filter(|rule| rule.matches(&path)).max_by_key(|rule| (rule.pattern.len(), rule.allow));
        match counts {
            Some(rule) if !rule.allow => Err(&rule.line),
            _ => Ok(()),
        }
    }
}

impl Rule {
    fn matches(&self, path: &str) -> bool {
        let mut parts = self.pattern.split('*');
        let Some(mut rest) = path.strip_prefix(parts.next().unwrap_or_default()) else { return false };
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return !self.anchored || rest.is_empty();
        }
        while let Some(part) = parts.next() {
            if parts.peek().is_none() && self.anchored {
                return rest.ends_with(part);
            }
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        true
    }
}

/// The product of a crawler's name: what is before a version.
fn agent(value: &str) -> &str {
    let end = value.find(|c: char| !(c.is_ascii_alphabetic() || c == '-' || c == '_')).unwrap_or(value.len());
    &value[..end]
}

/// A path in the form in which paths are compared: what need not be encoded is not, everything else is, with upper-case digits.
fn normalized(path: &str, pattern: bool) -> String {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let decoded = match bytes[at..] {
            [b'%', high, low, ..] => hex(high).zip(hex(low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        let (byte, plain) = match decoded {
            Some(byte) => (byte, byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)),
            None => (bytes[at], bytes[at].is_ascii_graphic() && bytes[at] != b'$' && (pattern || bytes[at] != b'*')),
        };
        at += if decoded.is_some() { 3 } else { 1 };
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRODUCT: &str = "lakehouse-ingest";

    fn allows(text: &str, path: &str) -> bool {
        let url = Url::parse("http://h").unwrap().join(path).unwrap();
        Robots::parse(text.as_bytes(), PRODUCT).check(&url).is_ok()
    }

    #[test]
    fn the_group_with_our_name_counts_else_the_one_for_all() {
        let text = "user-agent: other\nUser-Agent: *\nDisallow: /\n\n# c\nUSER-AGENT: Lakehouse-Ingest/2.0\nuser-agent: x\nSitemap: /y\ndisallow: /private # c\n\nuser-agent: lakehouse-ingest\ndisallow: /more";
        assert!(allows(text, "/a"));
        assert!(!allows(text, "/private/x"));
        assert!(!allows(text, "/more"));
        assert!(!allows("user-agent: *\ndisallow: /", "/a"));
        assert!(allows("user-agent: other\ndisallow: /", "/a"));
        assert!(allows("user-agent: lakehouse-ingest\n\nuser-agent: *\ncrawl-delay: 1\ndisallow: /x", "/y"));
        assert!(!allows("\u{feff}user-agent: *\rdisallow: /a", "/a"));
        assert!(allows("<html>no robots: here</html>", "/a"));
        assert!(allows("", "/a"));
        // A group for us without rules allows everything.
        assert!(allows("user-agent: *\ndisallow: /\nuser-agent: lakehouse-ingest\ndisallow:", "/a"));
        assert!(allows("user-agent: *\ndisallow: /", "/robots.txt"));
    }

    #[test]
    fn the_longest_rule_counts_and_wildcards_match() {
        let text = "user-agent: *\nallow: /p\ndisallow: /\n";
        assert!(allows(text, "/page"));
        assert!(!allows(text, "/other"));
        let text = "user-agent: *\nallow: /folder\ndisallow: /folder";
        assert!(allows(text, "/folder/page"));
        for (rule, path, matches) in [
            ("/fish", "/fish.html", true),
            ("/fish", "/Fish.asp", false),
            ("/fish/", "/fish", false),
            ("/*.php", "/folder/x.php5?a=1", true),
            ("/*.php$", "/x.php?a", false),
            ("/*.php$", "/x.php.php", true),
            ("/fish*.php", "/fishheads/catfish.php?id=1", true),
            ("/a*b*a$", "/aba", true),
            ("/a*b*a$", "/ab", false),
            ("/ab*ba$", "/aba", false),
            ("/?page=*", "/?page=2", true),
            ("*/x", "/a/x", true),
            ("/a%3cd.html", "/a%3Cd.html", true),
            ("/%7Ejoe", "/~joe", true),
            ("/ü", "/%C3%BC", true),
            ("/a%2fb", "/a/b", false),
            ("/x%2A", "/x*", true),
            ("/x%24", "/x$", true),
            ("/x$y", "/x$y", true),
        ] {
            assert_eq!(!allows(&format!("user-agent: *\ndisallow: {rule}"), path), matches, "{rule} {path}");
        }
    }

    #[test]
    fn a_crawl_delay_is_a_number_of_seconds() {
        let delay = |text: &str| Robots::parse(format!("user-agent: *\ncrawl-delay: {text}").as_bytes(), PRODUCT).crawl_delay();
        assert_eq!(delay("2.5"), Some(Duration::from_millis(2500)));
        for nothing in ["-1", "NaN", "soon", "", "1e300"] {
            assert_eq!(delay(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn hostile_files_cost_little() {
        let text = format!("user-agent: *\ndisallow: /{}\n", "*a".repeat(100_000));
        assert!(allows(&text, &format!("/{}", "a".repeat(10_000))));
        assert!(allows(&"user-agent: *\n".repeat(100_000), "/"));
    }
}
