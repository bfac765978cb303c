//! Globs over keys: `*` within a folder, `**` across folders, `?` one character.

/// A pattern over `/`-separated keys.
///
/// `*` stands for any characters within one segment, `?` for one character of it, and a segment `**` for any number of segments, also
/// none. Within a longer segment `**` is `*`. All other characters stand for themselves; upper and lower case differ.
#[derive(Clone, Debug)]
pub struct Glob<'a> {
    pattern: &'a str,
    segments: Vec<Vec<char>>,
}

const ANY_DEPTH: [char; 2] = ['*', '*'];

impl<'a> Glob<'a> {
    /// The pattern `pattern`; every text is one.
    pub fn new(pattern: &'a str) -> Self {
        Self { pattern, segments: pattern.split('/').map(|segment| segment.chars().collect()).collect() }
    }

    /// Whether it has no wildcard and so is one key.
    pub fn is_key(&self) -> bool {
        !self.pattern.contains(['*', '?'])
    }

    /// The folder that every match lies in, without a slash at its end; `""` for any.
    pub fn folder(&self) -> &'a str {
        let fixed = self.pattern.find(['*', '?']).map_or(self.pattern, |wildcard| &self.pattern[..wildcard]);
        fixed.rfind('/').map_or("", |slash| &fixed[..slash])
    }

    /// Whether `key` matches.
    pub fn matches(&self, key: &str) -> bool {
        let key: Vec<Vec<char>> = key.split('/').map(|segment| segment.chars().collect()).collect();
        wildcards(
            &self.segments,
            &key,
            |segment| segment[..] == ANY_DEPTH,
            |pattern, text| wildcards(pattern, text, |c| *c == '*', |pattern, c| *pattern == '?' || pattern == c),
        )
    }
}

/// Matches a sequence against a pattern in which some elements (`any`) stand for any number of elements and the others for one. Goes back
/// to the latest such element only, so the time is at most the product of both lengths.
fn wildcards<T>(pattern: &[T], text: &[T], any: impl Fn(&T) -> bool, one: impl Fn(&T, &T) -> bool) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && any(&pattern[p]) {
            back = Some((p, t));
            p += 1;
        } else if p < pattern.len() && one(&pattern[p], &text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star, from)) = back {
            back = Some((star, from + 1));
            p = star + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_what_the_documentation_says() {
        let cases = [
            ("a.csv", "a.csv", true),
            ("a.csv", "b/a.csv", false),
            ("*.csv", "a.csv", true),
            ("*.csv", "b/a.csv", false),
            ("in/*.csv", "in/.csv", true),
            ("in/*.csv", "in/a.csv.bak", false),
            ("in/2024-??-01.json", "in/2024-07-01.json", true),
            ("in/2024-??-01.json", "in/2024-7-01.json", false),
            ("**/*.csv", "a.csv", true),
            ("**/*.csv", "x/y/a.csv", true),
            ("in/**/a.csv", "in/a.csv", true),
            ("in/**/a.csv", "in/x/y/a.csv", true),
            ("in/**/a.csv", "out/a.csv", false),
            ("in/**", "in/x/y", true),
            ("in/**/x/**/z", "in/x/x/y/z", true),
            ("in/a**b", "in/a-b", true),
            ("in/a**b", "in/a/b", false),
            ("*a*b*c", "xaxbxbxc", true),
            ("*ü?", "äüö", true),
            ("A.csv", "a.csv", false),
        ];
        for (pattern, key, expected) in cases {
            assert_eq!(Glob::new(pattern).matches(key), expected, "{pattern} and {key}");
        }
    }

    #[test]
    fn only_the_fixed_folder_is_listed() {
        assert_eq!(Glob::new("in/2024/*.csv").folder(), "in/2024");
        assert_eq!(Glob::new("in/2024-*/a.csv").folder(), "in");
        assert_eq!(Glob::new("*.csv").folder(), "");
        assert!(Glob::new("in/a.csv").is_key());
        assert!(!Glob::new("in/?.csv").is_key());
    }

    #[test]
    fn a_hostile_pattern_ends_soon() {
        let pattern = "*a".repeat(200);
        assert!(!Glob::new(&pattern).matches(&format!("{}b", "a".repeat(5_000))));
    }
}
