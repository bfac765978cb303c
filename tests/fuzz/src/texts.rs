//! Texts of people: manifests, and the small languages in them.

use lakehouse_api::{
    common::{HumanDuration, IntervalGrain},
    manifest::documents,
    validate::validate,
};
use lakehouse_contract::Interval;

/// A file of manifests: what validation lets pass can be taken as what it says it is.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // The time of rules, as on the API server, grows faster than their text.
    if text.len() > 1 << 13 {
        return;
    }
    let Ok(documents) = documents(text) else { return };
    for document in documents {
        let value = &document.value;
        // Objects of others are left to others.
        let ours = value["apiVersion"].as_str().is_some_and(|version| version.starts_with("lakehouse.rs/"));
        if ours && validate(value).is_empty() {
            document.object().unwrap_or_else(|error| panic!("validation let it pass: {error}"));
        }
    }
}

/// A word in one of the small languages: intervals, durations, selectors, expressions.
pub fn words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for grain in [IntervalGrain::Hourly, IntervalGrain::Daily, IntervalGrain::Monthly] {
        if let Ok(interval) = Interval::parse(grain, text) {
            let label = interval.label(grain);
            assert_eq!(Interval::parse(grain, &label).expect("a label is an interval"), interval, "{label}");
            assert!(interval.start < interval.end);
        }
    }
    if let Ok(duration) = text.parse::<HumanDuration>() {
        assert_eq!(duration.to_string().parse::<HumanDuration>().expect("what is shown can be read"), duration);
    }
    let _ = lakehouse_html::Link::new(text);
    let _ = lakehouse_html::Rules::new(text, &[]);
}
