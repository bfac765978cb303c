//! One layer of the lakehouse: keys relative to it, conditional puts, listing.

use crate::error::StoreName;
use crate::{ObjectWriter, Result, StorageError};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetResultPayload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// The layers of a lakehouse. Each is a bucket (or a bucket with a prefix) or a subdirectory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    /// Raw objects as received.
    Bronze,
    /// Typed, cleaned tables, and the quarantine.
    Silver,
    /// Derived tables.
    Gold,
    /// Files that a `files` source picks up.
    Landing,
}

impl Layer {
    /// All layers.
    pub const ALL: [Layer; 4] = [Layer::Bronze, Layer::Silver, Layer::Gold, Layer::Landing];

    /// Lower-case name, which is also the name of the subdirectory on a laptop.
    pub fn name(self) -> &'static str {
        match self {
            Layer::Bronze => "bronze",
            Layer::Silver => "silver",
            Layer::Gold => "gold",
            Layer::Landing => "landing",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a conditional put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object is new and holds the given bytes.
    Created,
    /// An object with that key existed; it was not touched.
    Exists,
}

/// One listed object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectEntry {
    /// Key relative to the layer.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// When it was last written.
    pub last_modified: DateTime<Utc>,
}

/// Objects of one layer. Cheap to clone.
///
/// Keys are relative to the layer, use `/`, and are taken as they are: nothing is percent-encoded or decoded on the way.
#[derive(Clone)]
pub struct LayerStore {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// Scheme and authority that `store` is rooted at: `s3://bucket` or `file://`.
    pub(crate) root_uri: String,
    /// Where the layer starts inside `store`.
    pub(crate) prefix: Path,
    pub(crate) name: StoreName,
}

impl fmt::Debug for LayerStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerStore").field("base_uri", &self.base_uri()).finish()
    }
}

impl LayerStore {
    /// Absolute URI of the layer without a slash at its end: `s3://silver`, `s3://bucket/prefix` or `file:///dir/silver`.
    pub fn base_uri(&self) -> String {
        if self.prefix.as_ref().is_empty() { self.root_uri.clone() } else { format!("{}/{}", self.root_uri, self.prefix) }
    }

    /// Absolute URI of a key. Not percent-encoded.
    pub fn uri(&self, key: &str) -> String {
        format!("{}/{}", self.base_uri(), key.trim_start_matches('/'))
    }

    /// The key of an absolute URI, if the URI lies in this layer.
    pub fn key_of<'a>(&self, uri: &'a str) -> Option<&'a str> {
        uri.strip_prefix(&self.base_uri())?.strip_prefix('/')
    }

    /// URI that [`Self::object_store`] is rooted at: `s3://bucket` or `file://`.
    pub fn root_uri(&self) -> &str {
        &self.root_uri
    }

    /// The underlying store, rooted at the bucket or at `/`; use [`Self::path`] for its paths.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        self.store.clone()
    }

    /// Path of a key inside [`Self::object_store`].
    ///
    /// # Errors
    /// [`StorageError::Invalid`] for a key with `.`, `..`, empty or control-character segments.
    pub fn path(&self, key: &str) -> Result<Path> {
        let full = if self.prefix.as_ref().is_empty() { key.to_owned() } else { format!("{}/{key}", self.prefix) };
        // `parse` takes the key as it is; `from` would percent-encode it a second time.
        Path::parse(&full).map_err(|error| StorageError::Invalid { what: "object key", value: key.to_owned(), reason: error.to_string() })
    }

    /// Puts an object only when none with that key exists; the two outcomes are atomic under concurrent callers.
    ///
    /// After a lost answer the put is made again, so [`PutOutcome::Exists`] may speak of the caller's own object: who needs to know
    /// compares the content.
    pub async fn put_if_absent(&self, key: &str, bytes: impl Into<Bytes>) -> Result<PutOutcome> {
        let (path, bytes) = (self.path(key)?, bytes.into());
        match self.put_new(&path, bytes.clone()).await {
            Ok(outcome) => Ok(outcome),
            Err(error) => match self.error("create", key, error) {
                // The client repeats by itself only what it takes for idempotent. A conditional put is: the second one finds the first.
                StorageError::Unreachable { .. } => self.put_new(&path, bytes).await.map_err(|error| self.error("create", key, error)),
                other => Err(other),
            },
        }
    }

    async fn put_new(&self, path: &Path, bytes: Bytes) -> object_store::Result<PutOutcome> {
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        match self.store.put_opts(path, PutPayload::from(bytes), options).await {
            Ok(_) => Ok(PutOutcome::Created),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(PutOutcome::Exists),
            Err(error) => Err(error),
        }
    }

    /// Puts an object, replacing one with the same key.
    pub async fn put(&self, key: &str, bytes: impl Into<Bytes>) -> Result<()> {
        let outcome = self.store.put(&self.path(key)?, PutPayload::from(bytes.into())).await;
        outcome.map(|_| ()).map_err(|error| self.error("write", key, error))
    }

    /// Reads an object.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] when it does not exist.
    pub async fn get(&self, key: &str) -> Result<Bytes> {
        let read = async { self.store.get(&self.path_for_store(key)?).await?.bytes().await };
        read.await.map_err(|error| self.error("read", key, error))
    }

    /// Reads an object that may be absent.
    pub async fn get_opt(&self, key: &str) -> Result<Option<Bytes>> {
        match self.get(key).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StorageError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Bytes of an object that should not be in memory whole, and the size of all of it.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] when it does not exist, and when the transfer fails or the range begins behind the object's end.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<(u64, Bytes)> {
        let read = async {
            let options = GetOptions { range: Some(range.into()), ..GetOptions::default() };
            let found = self.store.get_opts(&self.path_for_store(key)?, options).await?;
            let size = found.meta.size;
            match found.payload {
                GetResultPayload::File(file, path) => Ok((size, from_file(file, path, found.range).await?)),
                GetResultPayload::Stream(_) => Ok((size, found.bytes().await?)),
            }
        };
        read.await.map_err(|error| self.error("read", key, error))
    }

    /// Reads an object as a stream of chunks, for objects that should not be in memory whole; with its size and time as of this read.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] when it does not exist; the stream's items fail when the transfer does.
    pub async fn read(&self, key: &str) -> Result<(ObjectEntry, BoxStream<'static, Result<Bytes>>)> {
        let found = self.store.get(&self.path(key)?).await.map_err(|error| self.error("read", key, error))?;
        let entry = ObjectEntry { key: key.to_owned(), size: found.meta.size, last_modified: found.meta.last_modified };
        let (layer, key) = (self.clone(), key.to_owned());
        Ok((entry, found.into_stream().map_err(move |error| layer.error("read", &key, error)).boxed()))
    }

    /// Size and time of an object that may be absent.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectEntry>> {
        match self.store.head(&self.path(key)?).await {
            Ok(meta) => Ok(Some(ObjectEntry { key: key.to_owned(), size: meta.size, last_modified: meta.last_modified })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.error("read", key, error)),
        }
    }

    /// All objects below a prefix (a whole path segment, `a/b` does not match `a/bc`), ordered by key. `""` lists the layer.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectEntry>> {
        let at = self.path(prefix.trim_end_matches('/'))?;
        let mut found: Vec<ObjectEntry> = self
            .store
            .list(Some(&at))
            .try_filter_map(|meta| async move { Ok(self.relative(&meta)) })
            .try_collect()
            .await
            .map_err(|error| self.error("list", prefix, error))?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Deletes an object; one that does not exist is fine.
    pub async fn delete(&self, key: &str) -> Result<()> {
        match self.store.delete(&self.path(key)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error("delete", key, error)),
        }
    }

    /// A streaming writer that uploads in parts; the object appears, whole, when it is finished.
    pub fn writer(&self, key: &str) -> Result<ObjectWriter> {
        Ok(ObjectWriter::new(self.clone(), key.to_owned(), self.path(key)?))
    }

    fn relative(&self, meta: &object_store::ObjectMeta) -> Option<ObjectEntry> {
        let full = meta.location.as_ref();
        let prefix = self.prefix.as_ref();
        let key = if prefix.is_empty() { full } else { full.strip_prefix(prefix)?.strip_prefix('/')? };
        Some(ObjectEntry { key: key.to_owned(), size: meta.size, last_modified: meta.last_modified })
    }

    fn path_for_store(&self, key: &str) -> std::result::Result<Path, object_store::Error> {
        self.path(key).map_err(|error| object_store::Error::Generic { store: "lakehouse", source: Box::new(error) })
    }

    pub(crate) fn error(&self, operation: &'static str, key: &str, error: object_store::Error) -> StorageError {
        StorageError::object(&self.name, operation, &self.uri(key), error)
    }
}

/// Bytes of a local file. The store's own way of it fills the buffer with zeros first.
async fn from_file(mut file: File, path: PathBuf, range: Range<u64>) -> std::result::Result<Bytes, object_store::Error> {
    let length = usize::try_from(range.end - range.start).unwrap_or_default();
    let read = spawn_blocking(move || {
        let mut bytes = Vec::with_capacity(length);
        file.seek(SeekFrom::Start(range.start))?;
        file.take(range.end - range.start).read_to_end(&mut bytes)?;
        match bytes.len() {
            read if read == length => Ok(Bytes::from(bytes)),
            read => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{read} bytes of {length} are left"))),
        }
    });
    let read = read.await.map_err(io::Error::other).and_then(|read| read);
    read.map_err(|error| object_store::Error::Generic { store: "LocalFileSystem", source: format!("{}: {error}", path.display()).into() })
}
