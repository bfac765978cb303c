//! The page: one file, without scripts, images or fonts of other places. Every value is escaped, and a policy in the page forbids what an escape
//! that failed could do.

use std::fmt::Write;

use chrono::{DateTime, SecondsFormat, Utc};

use super::{Docs, RuleDocs, RunResult, Sample, TableDocs};

const STYLE: &str = "
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --good: #2e7d32; --warn: #b26a00; --bad: #c62828; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } td.number { text-align: right; white-space: nowrap; }
code, pre { font: 13px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; } pre { white-space: pre-wrap; margin: .2rem 0; background: var(--soft); padding: .4rem; }
.passed { color: var(--good); } .warned, .quarantined, .dropped { color: var(--warn); } .failed { color: var(--bad); font-weight: 600; }
.history { display: flex; flex-direction: row-reverse; justify-content: flex-end; gap: 2px; flex-wrap: wrap; max-width: 16rem; }
.history i { width: .55rem; height: 1.1rem; display: block; background: currentColor; border-radius: 1px; }
.muted { opacity: .7; } summary { cursor: pointer; }
";

/// The docs as HTML, made at `now`.
pub fn page(docs: &Docs, now: DateTime<Utc>) -> String {
    let mut html = String::new();
    html.push_str("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    html.push_str("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n");
    html.push_str("<meta name=\"viewport\" content=\"width=device-width\">\n<title>Data quality</title>\n");
    line(&mut html, format_args!("<style>{STYLE}</style>\n</head>\n<body>"));
    line(
        &mut html,
        format_args!("<h1>Data quality</h1>\n<p>{}. <span class=\"muted\">Made {}.</span></p>", escape(&docs.summary()), time(now)),
    );
    if docs.tables.is_empty() {
        line(
            &mut html,
            format_args!("<p>There are no results yet: rules of silver tables leave them in <code>quality.results</code>.</p>"),
        );
    }
    for (number, table) in docs.tables.iter().enumerate() {
        table_of(&mut html, number, table);
    }
    html.push_str("</body>\n</html>\n");
    html
}

fn table_of(html: &mut String, number: usize, table: &TableDocs) {
    line(
        html,
        format_args!("<h2 id=\"t{number}\">{} <span class=\"muted\">of {}</span></h2>", escape(&table.table), escape(&table.pipeline)),
    );
    html.push_str("<table>\n<thead><tr><th>Rule</th><th>Asked for</th><th>Last run</th><th>Found</th><th>Rows</th><th>Passed</th><th>History</th></tr></thead>\n<tbody>\n");
    for rule in &table.rules {
        rule_of(html, rule);
    }
    html.push_str("</tbody>\n</table>\n");
    for rule in table.rules.iter().filter(|rule| rule.in_quarantine > 0) {
        line(html, format_args!("<details><summary>{} in quarantine by <code>{}</code></summary>", rule.in_quarantine, escape(&rule.rule)));
        for sample in &rule.samples {
            sample_of(html, sample);
        }
        html.push_str("</details>\n");
    }
}

fn rule_of(html: &mut String, rule: &RuleDocs) {
    let Some(last) = rule.history.first() else { return };
    let rows = match last.checked {
        Some(checked) => format!("{} of {checked} broke it", last.failed),
        None => String::new(),
    };
    html.push_str("<tr>");
    let _ = write!(html, "<td><code>{}</code><br><span class=\"muted\">{}</span></td>", escape(&rule.rule), escape(&rule.kind));
    let _ = write!(html, "<td><code>{}</code></td>", escape(&last.bound));
    let _ = write!(
        html,
        "<td><span class=\"{}\">{}</span><br><span class=\"muted\">{}</span></td>",
        class(last),
        escape(&last.verdict),
        time(last.interval)
    );
    let _ = write!(html, "<td>{}</td><td>{}</td>", escape(last.observed.as_deref().unwrap_or_default()), escape(&rows));
    let _ = write!(html, "<td class=\"number\">{:.0} % of {}</td><td><div class=\"history\">", rule.pass_rate(), rule.history.len());
    for result in &rule.history {
        let told = format!("{}: {} ({} rows)", time(result.interval), result.verdict, result.failed);
        let _ = write!(
            html,
            "<i class=\"{}\" role=\"img\" aria-label=\"{told}\" title=\"{told}, run {}\"></i>",
            class(result),
            escape(&result.run),
            told = escape(&told)
        );
    }
    html.push_str("</div></td></tr>\n");
}

fn sample_of(html: &mut String, sample: &Sample) {
    line(
        html,
        format_args!(
            "<p>{}<br><span class=\"muted\">record {} of <code>{}</code>, interval {}</span></p>\n<pre>{}</pre>",
            escape(&sample.reason),
            sample.position,
            escape(&sample.object),
            time(sample.interval),
            escape(&sample.record)
        ),
    );
}

/// Of the verdicts that there are, so that no value becomes a class.
fn class(result: &RunResult) -> &'static str {
    match result.verdict.as_str() {
        "passed" => "passed",
        "warned" => "warned",
        "quarantined" => "quarantined",
        "dropped" => "dropped",
        _ => "failed",
    }
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn line(html: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = html.write_fmt(text);
    html.push('\n');
}

/// Text as HTML has it, in elements and in attributes. What HTML cannot hold (control characters) becomes U+FFFD.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(character),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "</pre><script>alert('x')</script>\" onmouseover=\"x\u{0}\u{202e}&amp;";

    fn docs() -> Docs {
        let result = RunResult {
            run: HOSTILE.to_owned(),
            interval: DateTime::default(),
            verdict: "quarantined".to_owned(),
            checked: Some(4),
            failed: 1,
            observed: Some(HOSTILE.to_owned()),
            bound: HOSTILE.to_owned(),
            at: DateTime::default(),
        };
        let passed = RunResult { verdict: "passed".to_owned(), ..result.clone() };
        let strange = RunResult { verdict: HOSTILE.to_owned(), ..result.clone() };
        let sample = Sample {
            interval: DateTime::default(),
            object: HOSTILE.to_owned(),
            position: 3,
            reason: HOSTILE.to_owned(),
            record: HOSTILE.to_owned(),
        };
        let rule = RuleDocs {
            rule: HOSTILE.to_owned(),
            kind: HOSTILE.to_owned(),
            history: vec![result, passed, strange],
            samples: vec![sample],
            in_quarantine: 12,
        };
        Docs { tables: vec![TableDocs { pipeline: HOSTILE.to_owned(), table: HOSTILE.to_owned(), rules: vec![rule] }] }
    }

    #[test]
    fn no_value_leaves_its_place() {
        let html = page(&docs(), DateTime::default());
        assert!(!html.contains("<script"), "{html}");
        assert!(!html.contains("\" onmouseover"), "{html}");
        assert!(!html.contains('\u{0}'), "{html}");
        // What the page itself has: as many of each as without any value of others.
        let parsed = lakehouse_html_check(&html);
        assert_eq!(parsed, ["!DOCTYPE", "html", "head", "meta", "meta", "meta", "title", "style", "body"], "{html}");
        assert!(html.contains("12 in quarantine"));
        assert!(html.contains("33 % of 3"));
    }

    /// Names of the tags up to the body, in their order.
    fn lakehouse_html_check(html: &str) -> Vec<String> {
        let tags = html.split('<').skip(1).map(|tag| tag.split([' ', '>']).next().unwrap_or_default().to_owned());
        tags.filter(|tag| !tag.starts_with('/')).take(9).collect()
    }

    #[test]
    fn without_results_the_page_says_so() {
        let html = page(&Docs::default(), DateTime::default());
        assert!(html.contains("There are no results yet"));
    }
}
