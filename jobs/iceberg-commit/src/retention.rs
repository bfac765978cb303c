//! Which snapshots of a table have had their time.

use crate::error::show;
use crate::{CommitError, Result};
use iceberg::spec::{MAIN_BRANCH, SnapshotReference, TableMetadata};
use iceberg::table::Table;
use std::collections::{HashMap, HashSet};

/// How long the states of a table stay readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// A snapshot that was superseded before this time, in milliseconds since 1970, may go.
    pub superseded_before_ms: i64,
    /// The newest snapshots of every branch that stay whatever their age, the current one among them; 0 counts as 1.
    pub keep_last: usize,
}

/// The snapshots that a retention gives up, oldest first.
///
/// What counts is not when a snapshot was made but when the next one took its place: a table that nobody wrote to for a month, and a reader
/// that pinned its current snapshot an hour ago, have that snapshot for the whole time after it was superseded. The head of every branch and
/// every tagged snapshot stay, but for the branches `ended`, which the same commit removes. A snapshot on no branch counts as superseded when
/// it was made.
///
/// # Errors
/// [`CommitError::Iceberg`] when the metadata's references cannot be read.
pub fn expirable(table: &Table, retention: Retention, ended: &[String]) -> Result<Vec<i64>> {
    let metadata = table.metadata();
    let heads = heads(table, ended)?;
    let mut kept: HashSet<i64> = metadata.current_snapshot_id().into_iter().collect();
    let mut on_branch = HashSet::new();
    for (head, is_branch) in heads.into_iter().chain(metadata.current_snapshot_id().map(|id| (id, true))) {
        kept.insert(head);
        if is_branch {
            keep_of_branch(metadata, head, retention, &mut kept, &mut on_branch);
        }
    }
    let mut gone: Vec<_> = metadata
        .snapshots()
        .filter(|snapshot| {
            let id = snapshot.snapshot_id();
            !kept.contains(&id) && (on_branch.contains(&id) || snapshot.timestamp_ms() < retention.superseded_before_ms)
        })
        .collect();
    gone.sort_by_key(|snapshot| (snapshot.sequence_number(), snapshot.timestamp_ms()));
    Ok(gone.into_iter().map(|snapshot| snapshot.snapshot_id()).collect())
}

/// Adds what stays of one branch to `kept`, and all of it to `on_branch`.
fn keep_of_branch(metadata: &TableMetadata, head: i64, retention: Retention, kept: &mut HashSet<i64>, on_branch: &mut HashSet<i64>) {
    let (mut next, mut number, mut superseded_at) = (Some(head), 0, i64::MAX);
    while let Some(snapshot) = next.and_then(|id| metadata.snapshot_by_id(id)) {
        let id = snapshot.snapshot_id();
        if number < retention.keep_last.max(1) || superseded_at >= retention.superseded_before_ms {
            kept.insert(id);
        }
        on_branch.insert(id);
        number += 1;
        superseded_at = snapshot.timestamp_ms();
        next = snapshot.parent_snapshot_id().filter(|parent| *parent != id);
    }
}

/// The snapshots that branches (true) and tags refer to, without those `ended`.
fn heads(table: &Table, ended: &[String]) -> Result<Vec<(i64, bool)>> {
    let named = named(table)?.into_iter().filter(|(name, _)| !ended.contains(name));
    Ok(named.map(|(_, reference)| (reference.snapshot_id, reference.is_branch())).collect())
}

/// The branches of a table beside `main`, each with its head, ordered by name.
///
/// # Errors
/// [`CommitError::Iceberg`] when the metadata's references cannot be read.
pub fn branches(table: &Table) -> Result<Vec<(String, i64)>> {
    let named = named(table)?.into_iter().filter(|(name, reference)| name != MAIN_BRANCH && reference.is_branch());
    let mut branches: Vec<_> = named.map(|(name, reference)| (name, reference.snapshot_id)).collect();
    branches.sort();
    Ok(branches)
}

fn named(table: &Table) -> Result<HashMap<String, SnapshotReference>> {
    // The crate keeps the references to itself, but writes them as the specification says.
    let unreadable = |error: &dyn std::fmt::Display| {
        let text = format!("the references of table {} cannot be read: {error}", show(table.identifier()));
        CommitError::iceberg(table.identifier())(iceberg::Error::new(iceberg::ErrorKind::DataInvalid, text))
    };
    let mut whole = serde_json::to_value(table.metadata()).map_err(|error| unreadable(&error))?;
    let references = whole.get_mut("refs").map(serde_json::Value::take).unwrap_or_default();
    let references: Option<HashMap<String, SnapshotReference>> = serde_json::from_value(references).map_err(|error| unreadable(&error))?;
    Ok(references.unwrap_or_default())
}
