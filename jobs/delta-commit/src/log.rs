//! Reading the log: from the newest checkpoint on, and only what is new since the last look.

use crate::actions::{Action, from_lines};
use crate::checkpoint;
use crate::snapshot::Snapshot;
use crate::{DeltaError, Result};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const FOLDER: &str = "_delta_log";
/// How long a state is remembered to go on from. The commits after an older one may have been cleaned up, and it would look like the newest.
const REMEMBERED: Duration = Duration::from_secs(15 * 60);

/// The log of one table. Writers of one process share one, which gives them turns.
pub struct DeltaLog {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) root: Path,
    pub(crate) location: String,
    /// The newest state seen, and when it was known to be the newest.
    seen: Mutex<Option<(Arc<Snapshot>, Instant)>>,
    /// Commits of one process take turns, so that they do not work against each other.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

impl fmt::Debug for DeltaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaLog").field("location", &self.location).finish()
    }
}

/// The object that points at a recent checkpoint.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LastCheckpoint {
    pub(crate) version: u64,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parts: Option<u64>,
}

impl DeltaLog {
    /// The log of the table at `root` inside `store`; `location` is its name in messages. Nothing is read yet.
    pub fn new(store: Arc<dyn ObjectStore>, root: Path, location: &str) -> Self {
        Self { store, root, location: location.to_owned(), seen: Mutex::new(None), turn: tokio::sync::Mutex::new(()) }
    }

    /// Location of the table, as given.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Whether there is a table.
    pub async fn exists(&self) -> Result<bool> {
        Ok(self.load_opt().await?.is_some())
    }

    /// The newest state.
    ///
    /// # Errors
    /// [`DeltaError::NoSuchTable`], [`DeltaError::Unsupported`].
    pub async fn load(&self) -> Result<Arc<Snapshot>> {
        self.load_opt().await?.ok_or_else(|| DeltaError::NoSuchTable { table: self.location.clone() })
    }

    /// The newest state; none when there is no table.
    pub async fn load_opt(&self) -> Result<Option<Arc<Snapshot>>> {
        let start = match self.seen() {
            Some(seen) => Some(seen),
            None => self.start().await?,
        };
        let Some(start) = start else { return Ok(None) };
        let newest = self.advance(start, None).await?;
        self.remember(&newest);
        self.supported(&newest)?;
        Ok(Some(newest))
    }

    /// The state at a version.
    ///
    /// # Errors
    /// [`DeltaError::NoSuchVersion`] when the log does not have it, or not any more.
    pub async fn load_at(&self, version: u64) -> Result<Arc<Snapshot>> {
        if let Some(seen) = self.seen()
            && seen.version() == version
        {
            return Ok(seen);
        }
        let missing = || DeltaError::NoSuchVersion { table: self.location.clone(), version };
        let start = self.listed(Some(version)).await?.ok_or_else(missing)?;
        let found = self.advance(start, Some(version)).await?;
        if found.version() != version {
            return Err(missing());
        }
        self.supported(&found)?;
        Ok(found)
    }

    /// The newest state, and the paths of all files that it or a version since `from` has.
    ///
    /// # Errors
    /// [`DeltaError::NoSuchVersion`] when the log does not have `from` any more.
    pub async fn needed_since(&self, from: u64) -> Result<(Arc<Snapshot>, HashSet<String>)> {
        let mut state = self.load_at(from).await?;
        let mut needed: HashSet<String> = state.files().map(|add| add.path.clone()).collect();
        loop {
            let next = state.version() + 1;
            let Some(actions) = self.commit_actions(next).await? else { break };
            needed.extend(actions.iter().filter_map(|action| action.add.as_ref()).map(|add| add.path.clone()));
            Arc::make_mut(&mut state).apply(next, actions);
        }
        self.supported(&state)?;
        Ok((state, needed))
    }

    /// What a commit said about itself, as far as the log still has it.
    pub async fn commit_info(&self, version: u64) -> Result<Option<serde_json::Map<String, serde_json::Value>>> {
        Ok(self.commit_actions(version).await?.and_then(|actions| actions.into_iter().find_map(|action| action.commit_info)))
    }

    fn seen(&self) -> Option<Arc<Snapshot>> {
        let seen = self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        seen.as_ref().filter(|(_, when)| when.elapsed() < REMEMBERED).map(|(snapshot, _)| snapshot.clone())
    }

    /// Whether no version after that of `snapshot` exists, from what the log says now and not from what was seen before.
    pub(crate) async fn is_newest(&self, snapshot: &Snapshot) -> Result<bool> {
        let Some(start) = self.start().await? else { return Ok(false) };
        if start.version() > snapshot.version() {
            return Ok(false);
        }
        Ok(self.commit_actions(snapshot.version() + 1).await?.is_none())
    }

    pub(crate) fn remember(&self, snapshot: &Arc<Snapshot>) {
        let mut seen = self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if seen.as_ref().is_none_or(|(seen, _)| seen.version() <= snapshot.version()) {
            *seen = Some((snapshot.clone(), Instant::now()));
        }
    }

    fn supported(&self, snapshot: &Snapshot) -> Result<()> {
        match snapshot.unsupported() {
            None => Ok(()),
            Some(what) => Err(DeltaError::Unsupported { table: self.location.clone(), what }),
        }
    }

    /// A state to begin at: the checkpoint that the pointer names, else what a listing finds.
    async fn start(&self) -> Result<Option<Arc<Snapshot>>> {
        if let Some(bytes) = self.get(&self.path("_last_checkpoint"), "read the pointer to the last checkpoint").await?
            && let Ok(last) = serde_json::from_slice::<LastCheckpoint>(&bytes)
            && let Some(found) = self.checkpoint(last.version, &self.checkpoint_paths(last.version, last.parts)).await?
        {
            return Ok(Some(Arc::new(found)));
        }
        self.listed(None).await
    }

    /// The state at the newest checkpoint up to `limit`, else at version 0.
    async fn listed(&self, limit: Option<u64>) -> Result<Option<Arc<Snapshot>>> {
        let folder = self.path("");
        let objects: Vec<_> = self.store.list(Some(&folder)).try_collect().await.map_err(self.failed("list its log"))?;
        let mut parts: BTreeMap<u64, Vec<(u64, Path)>> = BTreeMap::new();
        for object in objects {
            let Some((version, of)) = object.location.filename().and_then(checkpoint_name) else { continue };
            if limit.is_none_or(|limit| version <= limit) {
                parts.entry(version).or_default().push((of, object.location.clone()));
            }
        }
        for (version, mut found) in parts.into_iter().rev() {
            found.sort();
            // A single file stands for itself; parts count only when all of them are there.
            let single: Vec<Path> = found.iter().filter(|(of, _)| *of == 1).map(|(_, path)| path.clone()).take(1).collect();
            let of = found.last().map_or(0, |(of, _)| *of);
            let many: Vec<Path> = found.into_iter().filter(|(count, _)| *count == of).map(|(_, path)| path).collect();
            let paths = if !single.is_empty() {
                single
            } else if many.len() as u64 == of {
                many
            } else {
                continue;
            };
            if let Some(state) = self.checkpoint(version, &paths).await? {
                return Ok(Some(Arc::new(state)));
            }
        }
        let Some(actions) = self.commit_actions(0).await? else { return Ok(None) };
        let first = Snapshot::replay(0, actions).map_err(|reason| self.corrupt(&self.commit_path(0), reason))?;
        Ok(Some(Arc::new(first)))
    }

    /// Applies the commits that follow, up to `limit`.
    async fn advance(&self, from: Arc<Snapshot>, limit: Option<u64>) -> Result<Arc<Snapshot>> {
        let mut state = from;
        while limit.is_none_or(|limit| state.version() < limit) {
            let next = state.version() + 1;
            let Some(actions) = self.commit_actions(next).await? else { break };
            Arc::make_mut(&mut state).apply(next, actions);
        }
        Ok(state)
    }

    /// The actions of one commit; none when it does not exist.
    pub(crate) async fn commit_actions(&self, version: u64) -> Result<Option<Vec<Action>>> {
        let path = self.commit_path(version);
        let Some(bytes) = self.get(&path, "read a commit").await? else { return Ok(None) };
        from_lines(&bytes).map(Some).map_err(|error| self.corrupt(&path, error.to_string()))
    }

    pub(crate) async fn checkpoint(&self, version: u64, paths: &[Path]) -> Result<Option<Snapshot>> {
        let mut actions = Vec::new();
        for path in paths {
            let Some(bytes) = self.get(path, "read a checkpoint").await? else { return Ok(None) };
            actions.extend(checkpoint::read(bytes).map_err(|reason| self.corrupt(path, reason))?);
        }
        let what = paths.first().cloned().unwrap_or_default();
        Snapshot::replay(version, actions).map(Some).map_err(|reason| self.corrupt(&what, reason))
    }

    pub(crate) async fn get(&self, path: &Path, operation: &'static str) -> Result<Option<Bytes>> {
        let read = async { self.store.get(path).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(cause) => Err(self.failed(operation)(cause)),
        }
    }

    pub(crate) fn path(&self, name: &str) -> Path {
        let folder = self.root.clone().join(FOLDER);
        if name.is_empty() { folder } else { folder.join(name) }
    }

    pub(crate) fn commit_path(&self, version: u64) -> Path {
        self.path(&format!("{version:020}.json"))
    }

    pub(crate) fn checkpoint_paths(&self, version: u64, parts: Option<u64>) -> Vec<Path> {
        match parts {
            None | Some(0 | 1) => vec![self.path(&format!("{version:020}.checkpoint.parquet"))],
            Some(of) => (1..=of).map(|part| self.path(&format!("{version:020}.checkpoint.{part:010}.{of:010}.parquet"))).collect(),
        }
    }

    pub(crate) fn failed(&self, operation: &'static str) -> impl Fn(object_store::Error) -> DeltaError + '_ {
        move |cause| DeltaError::Store { table: self.location.clone(), operation, cause }
    }

    pub(crate) fn corrupt(&self, object: &Path, reason: String) -> DeltaError {
        DeltaError::Corrupt { table: self.location.clone(), what: object.to_string(), reason }
    }
}

/// Version of a checkpoint and how many parts it has, from the name of one of its files. Checkpoints with sidecars are left out.
pub(crate) fn checkpoint_name(name: &str) -> Option<(u64, u64)> {
    let mut words = name.strip_suffix(".parquet")?.split('.');
    let version = words.next()?.parse().ok()?;
    if words.next()? != "checkpoint" {
        return None;
    }
    match (words.next(), words.next(), words.next()) {
        (None, ..) => Some((version, 1)),
        (Some(part), Some(of), None) if part.parse::<u64>().is_ok() => Some((version, of.parse().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_checkpoints() {
        assert_eq!(checkpoint_name("00000000000000000010.checkpoint.parquet"), Some((10, 1)));
        assert_eq!(checkpoint_name("00000000000000000010.checkpoint.0000000001.0000000002.parquet"), Some((10, 2)));
        assert_eq!(checkpoint_name("00000000000000000010.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.parquet"), None);
        assert_eq!(checkpoint_name("00000000000000000010.json"), None);
    }
}
