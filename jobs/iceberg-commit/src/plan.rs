//! The change that a planner asks for.

use crate::LiveFile;
use iceberg::spec::{DataFile, Operation, Schema, SortOrder};
use std::collections::HashMap;

/// A change of a table. All of it happens, or nothing.
#[derive(Debug)]
pub struct Plan {
    /// Recorded kind of the change. `Replace` keeps the rows as they are.
    pub operation: Operation,
    /// Files to add, written with the table's default partition spec.
    pub added: Vec<DataFile>,
    /// Live files to remove, as [`crate::live_files`] found them in the attempt's metadata.
    pub removed: Vec<LiveFile>,
    /// Facts for the snapshot's summary; the counts are added to them.
    pub summary: HashMap<String, String>,
    /// Properties to set.
    pub properties: HashMap<String, String>,
    /// Properties to remove.
    pub removed_properties: Vec<String>,
    /// New current schema.
    pub schema: Option<Schema>,
    /// New default sort order, by the ids of the schema after the change.
    pub sort_order: Option<SortOrder>,
    /// Whether to add a snapshot. Without one, only properties, schema, sort order and references change.
    pub snapshot: bool,
    /// The branch that the snapshot becomes the head of, made where it is absent; none: `main`, which is what readers see. Its parent is the
    /// current snapshot of `main` all the same.
    pub branch: Option<String>,
    /// A snapshot that is in the metadata and that `main` moves to. The planner must have looked that its parent is what `main` has.
    pub publish: Option<i64>,
    /// Branches that end; one that is absent is fine.
    pub removed_branches: Vec<String>,
    /// Whether all small manifests are merged into one, however few they are; otherwise they are once they are many.
    pub merge_manifests: bool,
    /// Snapshots to forget, as [`crate::expirable`] found them in the attempt's metadata.
    pub expired: Vec<i64>,
    /// Files written for this attempt alone, deleted when the attempt surely failed.
    pub scratch: Vec<String>,
}

impl Plan {
    /// An empty change with a snapshot.
    pub fn new(operation: Operation) -> Self {
        Self {
            operation,
            added: Vec::new(),
            removed: Vec::new(),
            summary: HashMap::new(),
            properties: HashMap::new(),
            removed_properties: Vec::new(),
            schema: None,
            sort_order: None,
            snapshot: true,
            branch: None,
            publish: None,
            removed_branches: Vec::new(),
            merge_manifests: false,
            expired: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// An empty change of properties, schema, sort order and references, without a snapshot.
    pub fn metadata_only() -> Self {
        Self { snapshot: false, ..Self::new(Operation::Append) }
    }
}
