//! The state of a table at one version.

use crate::actions::{Action, Add, Metadata, PartitionValues, Protocol, Remove, Txn};
use crate::schema::TIMESTAMP_NTZ;
use std::collections::BTreeMap;

/// Which files make up a table at one version, and what was said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    version: u64,
    protocol: Protocol,
    metadata: Metadata,
    files: BTreeMap<String, Add>,
    tombstones: BTreeMap<String, Remove>,
    txns: BTreeMap<String, Txn>,
}

impl Snapshot {
    /// Number of the commit that made it, from 0.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What programs must be able to do.
    pub fn protocol(&self) -> &Protocol {
        &self.protocol
    }

    /// Schema, partitions and properties.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The data files, ordered by path.
    pub fn files(&self) -> impl Iterator<Item = &Add> {
        self.files.values()
    }

    /// The data file at a path.
    pub fn file(&self, path: &str) -> Option<&Add> {
        self.files.get(path)
    }

    /// Paths of files that are not in the table any more, as far as the log remembers them: readers of older versions may need them.
    pub fn tombstones(&self) -> impl Iterator<Item = &str> {
        self.tombstones.keys().map(String::as_str)
    }

    /// Whether both are the same table: version, protocol, metadata, files and transactions. How they remember files of the past, whether a
    /// file came with new rows, and whether a null is written or left out may differ: checkpoints do not keep it.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let file = |add: &Add| {
            let values = |values: &PartitionValues| values.clone().into_iter().filter(|(_, value)| value.is_some()).collect();
            Add { data_change: false, partition_values: values(&add.partition_values), tags: add.tags.as_ref().map(values), ..add.clone() }
        };
        (self.version, &self.protocol, &self.metadata, &self.txns) == (other.version, &other.protocol, &other.metadata, &other.txns)
            && self.files.len() == other.files.len()
            && self.files.values().zip(other.files.values()).all(|(one, two)| file(one) == file(two))
    }

    /// The versions that applications reached.
    pub fn txns(&self) -> impl Iterator<Item = &Txn> {
        self.txns.values()
    }

    /// The same state one commit later.
    pub(crate) fn apply(&mut self, version: u64, actions: Vec<Action>) {
        self.version = version;
        for action in actions {
            let Action { protocol, meta_data, txn, add, remove, commit_info: _ } = action;
            if let Some(protocol) = protocol {
                self.protocol = protocol;
            }
            if let Some(metadata) = meta_data {
                self.metadata = metadata;
            }
            if let Some(txn) = txn {
                self.txns.insert(txn.app_id.clone(), txn);
            }
            if let Some(remove) = remove {
                self.files.remove(&remove.path);
                self.tombstones.insert(remove.path.clone(), remove);
            }
            if let Some(add) = add {
                self.tombstones.remove(&add.path);
                self.files.insert(add.path.clone(), add);
            }
        }
    }

    /// The state after all actions up to `version`.
    ///
    /// # Errors
    /// A line that says what is missing.
    pub(crate) fn replay(version: u64, actions: Vec<Action>) -> Result<Self, String> {
        let protocol = actions.iter().rev().find_map(|action| action.protocol.clone()).ok_or("there is no protocol")?;
        let metadata = actions.iter().rev().find_map(|action| action.meta_data.clone()).ok_or("there is no metaData")?;
        let mut state = Self { version, protocol, metadata, files: BTreeMap::new(), tombstones: BTreeMap::new(), txns: BTreeMap::new() };
        state.apply(version, actions);
        Ok(state)
    }

    /// What a checkpoint holds: tombstones only while readers of older versions may need them.
    pub(crate) fn actions(&self, tombstones_since: i64) -> Vec<Action> {
        let mut actions = vec![
            Action { protocol: Some(self.protocol.clone()), ..Action::default() },
            Action { meta_data: Some(self.metadata.clone()), ..Action::default() },
        ];
        actions.extend(self.txns.values().map(|txn| Action { txn: Some(txn.clone()), ..Action::default() }));
        let kept = self.tombstones.values().filter(|remove| remove.deletion_timestamp.unwrap_or(0) >= tombstones_since);
        actions.extend(kept.map(|remove| Action { remove: Some(Remove { data_change: false, ..remove.clone() }), ..Action::default() }));
        actions.extend(self.files.values().map(|add| Action { add: Some(Add { data_change: false, ..add.clone() }), ..Action::default() }));
        actions
    }

    /// What the table needs beyond what is supported here.
    pub(crate) fn unsupported(&self) -> Option<String> {
        let Protocol { min_reader_version, min_writer_version, reader_features, writer_features } = &self.protocol;
        // Version 7 lists what older versions imply.
        const KNOWN: [&str; 3] = [TIMESTAMP_NTZ, "appendOnly", "invariants"];
        let strange = |features: &Option<Vec<String>>| {
            features.iter().flatten().find(|feature| !KNOWN.contains(&feature.as_str())).map(|feature| format!("feature {feature}"))
        };
        match (min_reader_version, min_writer_version) {
            (1 | 3, 1 | 2 | 7) => strange(reader_features).or_else(|| strange(writer_features)),
            (reader, writer) => Some(format!("reader version {reader} and writer version {writer}")),
        }
    }
}
