//! File access of `iceberg` through `object_store`, for any number of stores at once.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use iceberg::io::{
    FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig, StorageFactory,
};
use iceberg::{Error, ErrorKind, Result};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

/// How a file is uploaded by default: bytes above which it goes in parts of that size, and how many of these are on their way at once.
const PARTS: (usize, usize) = (8 * 1024 * 1024, 4);

/// Maps absolute locations such as `s3://bucket/key` or `file:///dir/file` to object stores.
///
/// A location is taken as it is: what follows the root is the path in the store, neither percent-encoded nor decoded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObjectStoreIo {
    /// Root URI without a slash at its end, and the store that starts there. Stores do not serialize: an `ObjectStoreIo` that was
    /// deserialized has none and answers every request with an error.
    #[serde(skip)]
    stores: Vec<(String, Arc<dyn ObjectStore>)>,
    parts: (usize, usize),
}

impl Default for ObjectStoreIo {
    fn default() -> Self {
        Self { stores: Vec::new(), parts: PARTS }
    }
}

impl ObjectStoreIo {
    /// No stores yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a store for all locations below `root` (`s3://bucket`, or `file://` for a store rooted at `/`).
    #[must_use]
    pub fn with_store(mut self, root: &str, store: Arc<dyn ObjectStore>) -> Self {
        let root = if root == "file://" { root } else { root.trim_end_matches('/') };
        if !self.stores.iter().any(|(known, _)| known == root) {
            self.stores.push((root.to_owned(), store));
        }
        self
    }

    /// The `FileIO` over these stores.
    pub fn file_io(&self) -> FileIO {
        FileIOBuilder::new(Arc::new(self.clone())).build()
    }

    /// Files of at least `bytes` are uploaded in parts of that size, of which `in_flight` are on their way at once: a file that is written takes
    /// up to `bytes * (in_flight + 1)` of memory. Stores of the S3 kind take parts from 5 MiB on. 8 MiB and 4 unless this is called.
    #[must_use]
    pub fn with_parts(mut self, bytes: usize, in_flight: usize) -> Self {
        self.parts = (bytes, in_flight);
        self
    }

    fn find(&self, location: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
        for (root, store) in &self.stores {
            if let Some(rest) = location.strip_prefix(root.as_str()).and_then(|rest| rest.strip_prefix('/')) {
                let path = Path::parse(rest)
                    .map_err(|error| Error::new(ErrorKind::DataInvalid, format!("invalid location {location}")).with_source(error))?;
                return Ok((store.clone(), path));
            }
        }
        Err(Error::new(ErrorKind::FeatureUnsupported, format!("no object store is configured for {location}")))
    }
}

fn failed(operation: &str, location: &str) -> impl FnOnce(object_store::Error) -> Error {
    let text = format!("cannot {operation} {location}");
    move |error| Error::new(ErrorKind::Unexpected, text).with_source(error)
}

#[async_trait]
#[typetag::serde]
impl Storage for ObjectStoreIo {
    async fn exists(&self, path: &str) -> Result<bool> {
        let (store, at) = self.find(path)?;
        match store.head(&at).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failed("read", path)(error)),
        }
    }

    async fn metadata(&self, path: &str) -> Result<FileMetadata> {
        let (store, at) = self.find(path)?;
        let meta = store.head(&at).await.map_err(failed("read", path))?;
        Ok(FileMetadata { size: meta.size })
    }

    async fn read(&self, path: &str) -> Result<Bytes> {
        let (store, at) = self.find(path)?;
        let read = async { store.get(&at).await?.bytes().await };
        read.await.map_err(failed("read", path))
    }

    async fn reader(&self, path: &str) -> Result<Box<dyn FileRead>> {
        let (store, at) = self.find(path)?;
        Ok(Box::new(Reader { store, at }))
    }

    async fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        let (store, at) = self.find(path)?;
        store.put(&at, bytes.into()).await.map_err(failed("write", path))?;
        Ok(())
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn FileWrite>> {
        let (store, at) = self.find(path)?;
        let (bytes, in_flight) = self.parts;
        let inner = BufWriter::with_capacity(store, at, bytes).with_max_concurrency(in_flight);
        Ok(Box::new(Writer { inner, location: path.to_owned() }))
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let (store, at) = self.find(path)?;
        match store.delete(&at).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("delete", path)(error)),
        }
    }

    async fn delete_prefix(&self, path: &str) -> Result<()> {
        let (store, at) = self.find(path.trim_end_matches('/'))?;
        let listed = store.list(Some(&at)).map_ok(|meta| meta.location).boxed();
        store.delete_stream(listed).try_for_each(|_| async { Ok(()) }).await.map_err(failed("delete", path))
    }

    async fn delete_stream(&self, mut paths: BoxStream<'static, String>) -> Result<()> {
        while let Some(path) = paths.next().await {
            Storage::delete(self, &path).await?;
        }
        Ok(())
    }

    fn new_input(&self, path: &str) -> Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), path.to_owned()))
    }
}

#[typetag::serde(name = "ObjectStoreIoFactory")]
impl StorageFactory for ObjectStoreIo {
    fn build(&self, _config: &StorageConfig) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(self.clone()))
    }
}

struct Reader {
    store: Arc<dyn ObjectStore>,
    at: Path,
}

#[async_trait]
impl FileRead for Reader {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.store.get_range(&self.at, range).await.map_err(failed("read", self.at.as_ref()))
    }
}

struct Writer {
    inner: BufWriter,
    location: String,
}

#[async_trait]
impl FileWrite for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.inner.put(bytes).await.map_err(failed("write", &self.location))
    }

    async fn close(&mut self) -> Result<()> {
        let done = self.inner.shutdown().await;
        done.map_err(|error| Error::new(ErrorKind::Unexpected, format!("cannot write {}", self.location)).with_source(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn a_location_is_taken_as_it_is() -> Result<()> {
        let store = Arc::new(InMemory::new());
        let io = ObjectStoreIo::new().with_store("s3://b", store.clone()).file_io();
        let location = "s3://b/t/region=eu%2Fé %=&/x";
        io.new_output(location)?.write(Bytes::from_static(b"1")).await?;
        assert_eq!(io.new_input(location)?.read().await?, Bytes::from_static(b"1"));
        let stored: Vec<String> = store.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap_or_default();
        assert_eq!(stored, ["t/region=eu%2Fé %=&/x"]);
        Ok(())
    }

    #[tokio::test]
    async fn an_unknown_root_is_named() {
        let io = ObjectStoreIo::new().with_store("s3://b", Arc::new(InMemory::new())).file_io();
        let text = match io.new_input("s3://bucket/x") {
            Ok(input) => input.read().await.expect_err("no such store").to_string(),
            Err(error) => error.to_string(),
        };
        assert!(text.contains("s3://bucket/x"), "{text}");
    }
}
