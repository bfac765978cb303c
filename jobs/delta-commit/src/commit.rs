//! Committing: the next version is created if nobody created it, else the change is decided anew.

use crate::actions::{Action, Add, Metadata, Protocol, Remove, Txn, to_lines};
use crate::checkpoint;
use crate::history::parse_interval;
use crate::log::LastCheckpoint;
use crate::snapshot::Snapshot;
use crate::{DeltaError, DeltaLog, Result};
use bytes::Bytes;
use chrono::Utc;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Attempts against other writers before a commit gives up.
const ATTEMPTS: u32 = 200;
/// How often a commit without an answer is sent again.
const SENT: u32 = 4;
/// Property: how long files that are not in the table any more are kept for readers of older versions.
const DELETED_FILES: &str = "delta.deletedFileRetentionDuration";
/// Commits between checkpoints where the table does not say it.
const CHECKPOINT_INTERVAL: u64 = 10;
/// How long tombstones stay in checkpoints where the table does not say it: a week, as the protocol has it.
const TOMBSTONES: Duration = Duration::from_secs(7 * 24 * 3_600);
/// From this age on a state is held against the log again before it is committed to: the place after an older one may have been taken and
/// cleaned up meanwhile, and then looks free. Cleaning leaves versions alone for longer.
const FRESH: Duration = Duration::from_secs(30 * 60);

/// What one commit does.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// `WRITE`, `MERGE`, `OPTIMIZE`, …, as the history shows it.
    pub operation: String,
    /// What the operation was asked for.
    pub parameters: BTreeMap<String, String>,
    /// What it did, in numbers.
    pub metrics: BTreeMap<String, String>,
    /// Text of the writer's own, `userMetadata` in the history.
    pub user_metadata: Option<String>,
    /// A new protocol.
    pub protocol: Option<Protocol>,
    /// New metadata.
    pub metadata: Option<Metadata>,
    /// Versions of applications.
    pub txns: Vec<Txn>,
    /// Files that come.
    pub add: Vec<Add>,
    /// Paths of files that go.
    pub remove: Vec<String>,
    /// Whether rows come or go; false where they are only written differently.
    pub data_change: bool,
    /// Paths, below the table, of files that were written for this attempt alone; they are deleted when it loses.
    pub scratch: Vec<String>,
}

/// What an attempt decides.
#[derive(Debug)]
pub enum Decision {
    /// There is nothing to do.
    Nothing,
    /// To commit a change.
    Commit(Box<Change>),
    /// To be asked again with the newest state: what was given is old, because something was waited for.
    Again,
}

/// How a commit ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The state after it.
    pub snapshot: Arc<Snapshot>,
    /// False when there was nothing to do.
    pub committed: bool,
}

impl DeltaLog {
    /// Makes the table: version 0. False when there is one already, made by whomever.
    pub async fn create(&self, protocol: Protocol, metadata: Metadata) -> Result<bool> {
        let change =
            Change { operation: "CREATE TABLE".to_owned(), protocol: Some(protocol), metadata: Some(metadata), ..Change::default() };
        let id = Uuid::new_v4().to_string();
        self.put(0, &actions(&change, Vec::new(), &id, Utc::now().timestamp_millis()), &id).await
    }

    /// Commits what `decide` says of the newest state; asks it again when another writer was faster.
    ///
    /// # Errors
    /// Those of `decide`, [`DeltaError::Conflict`], and [`DeltaError::Store`] where the store gave no answer for long: then the commit may
    /// be in the log all the same, and the caller finds it there by its own transaction identifiers.
    pub async fn commit<F, D, E>(&self, mut decide: F) -> Result<Outcome, E>
    where
        F: FnMut(Arc<Snapshot>) -> D + Send,
        D: Future<Output = Result<Decision, E>> + Send,
        E: From<DeltaError>,
    {
        let _turn = self.turn.lock().await;
        let id = Uuid::new_v4().to_string();
        for attempt in 1..=ATTEMPTS {
            let current = self.load().await?;
            let loaded = Instant::now();
            let change = match decide(current.clone()).await? {
                Decision::Nothing => return Ok(Outcome { snapshot: current, committed: false }),
                Decision::Again => continue,
                Decision::Commit(change) => change,
            };
            let version = current.version() + 1;
            let now = Utc::now().timestamp_millis();
            let removed = self.removed(&current, &change, now)?;
            let actions = actions(&change, removed, &id, now);
            let stale = loaded.elapsed() > FRESH && !self.is_newest(&current).await?;
            if !stale && self.put(version, &actions, &id).await? {
                let mut next = current;
                Arc::make_mut(&mut next).apply(version, actions);
                self.remember(&next);
                self.maybe_checkpoint(&next).await;
                return Ok(Outcome { snapshot: next, committed: true });
            }
            self.discard(&change.scratch).await;
            tokio::time::sleep(Duration::from_millis((2 * u64::from(attempt)).min(200) + Uuid::new_v4().as_u64_pair().0 % 20)).await;
        }
        Err(DeltaError::Conflict { table: self.location.clone(), attempts: ATTEMPTS }.into())
    }

    fn removed(&self, current: &Snapshot, change: &Change, now: i64) -> Result<Vec<Remove>> {
        let removed = change.remove.iter().map(|path| match current.file(path) {
            Some(add) => Ok(Remove::of(add, change.data_change, now)),
            None => Err(DeltaError::NotLive { table: self.location.clone(), path: path.clone() }),
        });
        removed.collect()
    }

    /// Creates the commit of a version, once. False means that the version is another writer's.
    ///
    /// A request without an answer is sent again as it was: the version then holds either this very commit, known by its identifier, or
    /// another writer's.
    async fn put(&self, version: u64, actions: &[Action], id: &str) -> Result<bool> {
        let path = self.commit_path(version);
        let bytes = to_lines(actions).map_err(|error| self.corrupt(&path, error.to_string()))?;
        let bytes = Bytes::from(bytes);
        for sent in 1..=SENT {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match self.store.put_opts(&path, PutPayload::from(bytes.clone()), options).await {
                Ok(_) => return Ok(true),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    return self.is_ours(version, id).await;
                }
                Err(error) if sent == SENT => return Err(self.failed("commit")(error)),
                Err(error) => {
                    tracing::debug!(table = self.location, version, %error, "a commit had no answer and is sent again");
                    tokio::time::sleep(Duration::from_millis(100 << sent)).await;
                }
            }
        }
        Ok(false)
    }

    async fn is_ours(&self, version: u64, id: &str) -> Result<bool> {
        let info = self.commit_info(version).await?;
        Ok(info.and_then(|info| info.get("txnId").and_then(Value::as_str).map(|found| found == id)).unwrap_or(false))
    }

    async fn discard(&self, scratch: &[String]) {
        for path in scratch {
            let Ok(path) = Path::parse(format!("{}/{path}", self.root)) else { continue };
            if let Err(error) = self.store.delete(&path).await {
                tracing::debug!(table = self.location, %path, %error, "left a file of an attempt that lost");
            }
        }
    }

    /// Writes a checkpoint when it is time for one. The commit stands without it, so a failure is only logged.
    async fn maybe_checkpoint(&self, snapshot: &Snapshot) {
        let interval = snapshot.metadata().configuration.get("delta.checkpointInterval").and_then(|text| text.parse().ok());
        let interval = interval.filter(|interval| *interval > 0).unwrap_or(CHECKPOINT_INTERVAL);
        if snapshot.version() == 0 || !snapshot.version().is_multiple_of(interval) {
            return;
        }
        if let Err(error) = self.write_checkpoint(snapshot, true).await {
            tracing::warn!(%error, version = snapshot.version(), "no checkpoint was written; the next one will be");
        }
    }

    /// Writes a checkpoint of a state of the past or the present, so that the log can be cleaned up before it; reads it back first.
    ///
    /// # Errors
    /// What the store says, or [`DeltaError::Corrupt`] when what is read back is another state: then nothing may be cleaned up.
    pub async fn checkpoint_before_cleaning(&self, snapshot: &Snapshot) -> Result<()> {
        let paths = self.checkpoint_paths(snapshot.version(), None);
        let pointed = self.get(&self.path("_last_checkpoint"), "read the pointer to the last checkpoint").await?;
        let pointed = pointed.and_then(|bytes| serde_json::from_slice::<LastCheckpoint>(&bytes).ok()).map(|last| last.version);
        // The pointer goes forward only: readers begin at it.
        self.write_checkpoint(snapshot, pointed.is_none_or(|pointed| pointed < snapshot.version())).await?;
        match self.checkpoint(snapshot.version(), &paths).await? {
            Some(back) if back.is_same(snapshot) => Ok(()),
            _ => Err(self.corrupt(paths.first().unwrap_or(&self.root), "it is not the state that was written".to_owned())),
        }
    }

    async fn write_checkpoint(&self, snapshot: &Snapshot, point: bool) -> Result<()> {
        let kept = snapshot.metadata().configuration.get(DELETED_FILES).map(|text| parse_interval(text));
        let kept = kept.and_then(std::result::Result::ok).unwrap_or(TOMBSTONES);
        let since = Utc::now().timestamp_millis().saturating_sub(i64::try_from(kept.as_millis()).unwrap_or(i64::MAX));
        let actions = snapshot.actions(since);
        for path in self.checkpoint_paths(snapshot.version(), None) {
            let bytes = checkpoint::write(&actions).map_err(|reason| self.corrupt(&path, reason))?;
            self.store.put(&path, PutPayload::from(bytes)).await.map_err(self.failed("write a checkpoint"))?;
        }
        if !point {
            return Ok(());
        }
        let last = LastCheckpoint { version: snapshot.version(), size: actions.len() as u64, parts: None };
        let path = self.path("_last_checkpoint");
        let text = serde_json::to_vec(&last).map_err(|error| self.corrupt(&path, error.to_string()))?;
        self.store.put(&path, PutPayload::from(text)).await.map_err(self.failed("point at a checkpoint")).map(|_| ())
    }
}

/// The lines of a commit; what it says of itself comes first, as readers of histories expect.
fn actions(change: &Change, removed: Vec<Remove>, id: &str, now: i64) -> Vec<Action> {
    let mut info = Map::new();
    info.insert("timestamp".to_owned(), json!(now));
    info.insert("operation".to_owned(), json!(change.operation));
    info.insert("operationParameters".to_owned(), json!(change.parameters));
    info.insert("operationMetrics".to_owned(), json!(change.metrics));
    info.insert("isolationLevel".to_owned(), json!("Serializable"));
    info.insert("isBlindAppend".to_owned(), json!(removed.is_empty() && change.metadata.is_none() && !change.add.is_empty()));
    info.insert("engineInfo".to_owned(), json!(concat!("lakehouse/", env!("CARGO_PKG_VERSION"))));
    info.insert("txnId".to_owned(), json!(id));
    if let Some(text) = &change.user_metadata {
        info.insert("userMetadata".to_owned(), json!(text));
    }
    let mut actions = vec![Action { commit_info: Some(info), ..Action::default() }];
    actions.extend(change.protocol.clone().map(|protocol| Action { protocol: Some(protocol), ..Action::default() }));
    actions.extend(change.metadata.clone().map(|metadata| Action { meta_data: Some(metadata), ..Action::default() }));
    actions.extend(change.txns.iter().cloned().map(|txn| Action { txn: Some(txn), ..Action::default() }));
    actions.extend(removed.into_iter().map(|remove| Action { remove: Some(remove), ..Action::default() }));
    let add = change.add.iter().cloned().map(|add| Add { data_change: change.data_change, ..add });
    actions.extend(add.map(|add| Action { add: Some(add), ..Action::default() }));
    actions
}
