//! Which commit is the latest of each interval: table properties that outlive the expiry of snapshots.

use crate::{Commit, Committed, IntervalCommit, Origin, Result, TableError, WriteMode};
use chrono::{DateTime, SecondsFormat, Utc};
use lakehouse_contract::TableRef;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Prefix of the properties; the start of the interval in RFC 3339 follows.
const PREFIX: &str = "lakehouse.commit.";
/// Prefix of the facts of a commit in its snapshot's summary.
const FACT_PREFIX: &str = "lakehouse.fact.";

/// Prefix of the properties with the facts of a published candidate; the identifier of its snapshot follows.
const SNAPSHOT_FACTS: &str = "lakehouse.facts.";

/// The latest commit of one interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) token: String,
    pub(crate) snapshot: String,
    pub(crate) mode: String,
    pub(crate) rows: u64,
    pub(crate) superseded: u64,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<Origin>,
    /// When the rows of an append were processed, all at one time, in microseconds since 1970: by it they are found in files that another program
    /// rewrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) processed_at: Option<i64>,
    /// Rows of an append that were erased since, see [`crate::Doomed`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) erased: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Entry {
    pub(crate) fn committed(self, summary: BTreeMap<String, String>, already: bool) -> Committed {
        Committed {
            snapshot: self.snapshot,
            rows_written: self.rows,
            rows_superseded: self.superseded,
            files: self.files,
            bytes: self.bytes,
            summary,
            already,
        }
    }

    pub(crate) fn of_interval(self) -> IntervalCommit {
        IntervalCommit { token: self.token, overwrote: self.mode == mode_name(&WriteMode::Overwrite), origin: self.origin }
    }
}

/// Start of the commit's interval, as it stands in keys.
pub(crate) fn interval_start(commit: &Commit) -> String {
    instant(commit.interval.start)
}

fn instant(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Names of the modes that rewrite rows by their key, under a lease.
pub(crate) const MERGES: [&str; 2] = ["merge", "history"];

/// Whether a commit overwrites a table that a newer interval among the latest commits `all` has overwritten already: the table is that of its
/// newest interval, in whatever order intervals come. One that has not begun by `now` does not count; a run ahead of its time would hold the table.
///
/// Starts of intervals are compared as they stand in keys.
pub(crate) fn is_outdated<'a>(commit: &Commit, all: impl IntoIterator<Item = (&'a str, &'a Entry)>, now: DateTime<Utc>) -> bool {
    let overwrite = mode_name(&WriteMode::Overwrite);
    let (start, now) = (interval_start(commit), instant(now));
    let newer = |(other, entry): (&str, &Entry)| entry.mode == overwrite && other > start.as_str() && other <= now.as_str();
    commit.mode == WriteMode::Overwrite && all.into_iter().any(newer)
}

/// Property key of the commit's interval.
pub(crate) fn key(commit: &Commit) -> String {
    format!("{PREFIX}{}", interval_start(commit))
}

/// Name of a write mode.
pub(crate) fn mode_name(mode: &WriteMode) -> &'static str {
    match mode {
        WriteMode::Append => "append",
        WriteMode::ReplaceInterval { .. } => "replaceInterval",
        WriteMode::Merge { .. } => "merge",
        WriteMode::History { .. } => "history",
        WriteMode::Overwrite => "overwrite",
    }
}

/// The entry of the commit's interval.
pub(crate) fn of_interval(table: &TableRef, properties: &HashMap<String, String>, commit: &Commit) -> Result<Option<Entry>> {
    let key = key(commit);
    properties.get(&key).map(|text| parse(table, &key, text)).transpose()
}

/// Whether a commit of an interval that a table remembers was made in a write mode of this name.
pub(crate) fn has_mode(table: &TableRef, properties: &HashMap<String, String>, mode: &str) -> Result<bool> {
    for (key, text) in properties.iter().filter(|(key, _)| key.starts_with(PREFIX)) {
        if parse(table, key, text)?.mode == mode {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a commit of an interval that a table remembers was made in one of [`MERGES`].
pub(crate) fn has_merges(table: &TableRef, properties: &HashMap<String, String>) -> Result<bool> {
    for mode in MERGES {
        if has_mode(table, properties, mode)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The latest commit of every interval.
pub(crate) fn intervals(table: &TableRef, properties: &HashMap<String, String>) -> Result<BTreeMap<DateTime<Utc>, IntervalCommit>> {
    let mut found = BTreeMap::new();
    for (key, text) in properties {
        if let Some(start) = key.strip_prefix(PREFIX) {
            found.insert(start_of(table, start)?, parse(table, key, text)?.of_interval());
        }
    }
    Ok(found)
}

/// [`is_outdated`] among the properties of a table.
pub(crate) fn is_outdated_in(table: &TableRef, properties: &HashMap<String, String>, commit: &Commit) -> Result<bool> {
    if commit.mode != WriteMode::Overwrite {
        return Ok(false);
    }
    let all = entries(table, properties)?;
    Ok(is_outdated(commit, all.iter().filter_map(|(key, entry)| Some((key.strip_prefix(PREFIX)?, entry))), Utc::now()))
}

/// All entries, with the keys of their properties.
pub(crate) fn entries(table: &TableRef, properties: &HashMap<String, String>) -> Result<Vec<(String, Entry)>> {
    let own = properties.iter().filter(|(key, _)| key.starts_with(PREFIX));
    own.map(|(key, text)| Ok((key.clone(), parse(table, key, text)?))).collect()
}

/// An entry as text after some of its rows were erased.
pub(crate) fn without_rows(table: &TableRef, entry: Entry, erased: u64) -> Result<String> {
    let entry = Entry { erased: entry.erased + erased, ..entry };
    serde_json::to_string(&entry).map_err(|error| TableError::Corrupt {
        table: table.clone(),
        what: "its ledger".to_owned(),
        reason: error.to_string(),
    })
}

/// The start of an interval as it stands in keys.
pub(crate) fn start_of(table: &TableRef, text: &str) -> Result<DateTime<Utc>> {
    let parsed = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc());
    parsed.map_err(|error| TableError::Corrupt {
        table: table.clone(),
        what: format!("its ledger, interval {text}"),
        reason: error.to_string(),
    })
}

/// The entry with a token, whatever its interval.
pub(crate) fn of_token(table: &TableRef, properties: &HashMap<String, String>, token: &str) -> Result<Option<Entry>> {
    for (key, text) in properties.iter().filter(|(key, text)| key.starts_with(PREFIX) && text.contains(token)) {
        let entry = parse(table, key, text)?;
        if entry.token == token {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

fn parse(table: &TableRef, key: &str, text: &str) -> Result<Entry> {
    serde_json::from_str(text).map_err(|error| TableError::Corrupt {
        table: table.clone(),
        what: format!("property {key}"),
        reason: error.to_string(),
    })
}

/// The facts of a commit as entries of a snapshot's summary.
pub(crate) fn facts_to_summary(facts: &BTreeMap<String, String>) -> impl Iterator<Item = (String, String)> + '_ {
    facts.iter().map(|(key, value)| (format!("{FACT_PREFIX}{key}"), value.clone()))
}

/// The facts of a commit from a snapshot's summary.
pub(crate) fn facts_from_summary(summary: &HashMap<String, String>) -> BTreeMap<String, String> {
    let facts = summary.iter().filter_map(|(key, value)| Some((key.strip_prefix(FACT_PREFIX)?.to_owned(), value.clone())));
    facts.collect()
}

/// Property with the facts of a published candidate: its snapshot was written before they were known. Removed when the snapshot expires.
pub(crate) fn facts_key(snapshot: i64) -> String {
    format!("{SNAPSHOT_FACTS}{snapshot}")
}

/// The facts of a published candidate.
pub(crate) fn facts_of_snapshot(table: &TableRef, properties: &HashMap<String, String>, snapshot: i64) -> Result<BTreeMap<String, String>> {
    let key = facts_key(snapshot);
    let Some(text) = properties.get(&key) else { return Ok(BTreeMap::new()) };
    serde_json::from_str(text).map_err(|error| TableError::Corrupt {
        table: table.clone(),
        what: format!("property {key}"),
        reason: error.to_string(),
    })
}
