//! Stale intervals in words.

/// How many intervals a line names.
const NAMED: usize = 8;

/// `3 stale intervals: 2024-01-02, 2024-01-03, 2024-01-04`; of many the first, and how many more there are.
pub fn shown_stale(labels: &[String]) -> String {
    let word = if labels.len() == 1 { "interval" } else { "intervals" };
    let more = if labels.len() > NAMED { format!(" and {} more", labels.len() - NAMED) } else { String::new() };
    format!("{} stale {word}: {}{more}", labels.len(), labels.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_intervals_are_counted() {
        let labels: Vec<String> = (1..=10).map(|day| format!("2024-01-{day:02}")).collect();
        assert_eq!(shown_stale(&labels[..1]), "1 stale interval: 2024-01-01");
        assert!(shown_stale(&labels).starts_with("10 stale intervals: 2024-01-01, "));
        assert!(shown_stale(&labels).ends_with("2024-01-08 and 2 more"));
    }
}
