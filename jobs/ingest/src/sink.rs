//! Where a source puts what it received: bronze objects, with their facts for the manifest.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt};
use lakehouse_contract::{BronzeObject, Progress, SourceManifest};
use lakehouse_storage::{LayerStore, ObjectWriter, StorageError};
use tokio::sync::mpsc;

use crate::{Clock, IngestError};

/// Size at which generated records go on in another object.
pub const MAX_OBJECT_BYTES: u64 = 64 * 1024 * 1024;
/// Chunks that a generator may be ahead of the store.
const CHUNKS_AHEAD: usize = 4;

/// Records that belong together, whole lines.
pub struct Chunk {
    /// The bytes.
    pub bytes: Bytes,
    /// Number of records in them.
    pub records: u64,
}

/// What is known of an object beside its bytes.
#[derive(Clone, Debug, Default)]
pub struct ObjectFacts {
    /// Number of records, where they were counted.
    pub records: Option<u64>,
    /// See [`BronzeObject::metadata`].
    pub metadata: BTreeMap<String, String>,
}

/// Takes the objects of one source, in the order of their records.
pub struct Sink<'a> {
    layer: &'a LayerStore,
    folder: String,
    /// Set apart from another process that writes the same attempt; empty for the first.
    suffix: String,
    now: Clock,
    progress: &'a dyn Progress,
    objects: Vec<BronzeObject>,
    /// See [`SourceManifest::cursor`].
    pub cursor: Option<String>,
}

impl<'a> Sink<'a> {
    /// A sink for objects in `folder` of the bronze layer, named `part-NNNNN<suffix>.<extension>`.
    pub fn new(layer: &'a LayerStore, folder: String, suffix: &str, now: Clock, progress: &'a dyn Progress) -> Self {
        Self { layer, folder, suffix: suffix.to_owned(), now, progress, objects: Vec::new(), cursor: None }
    }

    fn next_key(&self, extension: &str) -> String {
        format!("{}/part-{:05}{}.{extension}", self.folder, self.objects.len(), self.suffix)
    }

    /// Puts one object that is in memory.
    ///
    /// # Errors
    /// [`IngestError::Storage`].
    pub async fn put(&mut self, body: Bytes, extension: &str, facts: ObjectFacts) -> Result<(), IngestError> {
        let key = self.next_key(extension);
        let captured_at = (self.now)();
        let (bytes, sha256) = (body.len() as u64, lakehouse_storage::sha256(&body));
        let blake3 = Some(lakehouse_storage::blake3(&body));
        self.layer.put(&key, body).await?;
        self.progress.advance(facts.records.unwrap_or_default(), bytes);
        self.objects.push(BronzeObject { key, bytes, sha256, blake3, records: facts.records, captured_at, metadata: facts.metadata });
        Ok(())
    }

    /// Puts one object from a stream of bytes, without holding it in memory.
    ///
    /// # Errors
    /// [`IngestError::Storage`]; nothing is visible then.
    pub async fn copy(
        &mut self,
        mut bytes: impl Stream<Item = Result<Bytes, StorageError>> + Unpin,
        extension: &str,
        facts: ObjectFacts,
    ) -> Result<(), IngestError> {
        let captured_at = (self.now)();
        let mut writer = self.layer.writer(&self.next_key(extension))?;
        while let Some(chunk) = bytes.next().await {
            let written = match chunk {
                Ok(chunk) => {
                    let length = chunk.len() as u64;
                    writer.write(chunk).await.map(|()| length)
                }
                Err(error) => Err(error),
            };
            match written {
                Ok(length) => self.progress.advance(0, length),
                Err(error) => return Err(given_up(writer, error).await),
            }
        }
        self.finish(writer, captured_at, facts).await
    }

    /// Puts what `produce` generates into objects of at most [`MAX_OBJECT_BYTES`]. `produce` runs on a thread of its own, is held back
    /// when the store is slower, and should end when the function it is given returns false.
    ///
    /// # Errors
    /// [`IngestError::Storage`], [`IngestError::Internal`] when `produce` panics.
    pub async fn generate<F>(&mut self, extension: &str, metadata: BTreeMap<String, String>, produce: F) -> Result<(), IngestError>
    where
        F: FnOnce(&mut dyn FnMut(Chunk) -> bool) + Send + 'static,
    {
        let (sender, mut chunks) = mpsc::channel::<Chunk>(CHUNKS_AHEAD);
        let producer = tokio::task::spawn_blocking(move || produce(&mut |chunk| sender.blocking_send(chunk).is_ok()));
        let mut part: Option<(ObjectWriter, DateTime<Utc>, u64)> = None;
        while let Some(chunk) = chunks.recv().await {
            let length = chunk.bytes.len() as u64;
            if let Some((writer, captured_at, records)) = part.take_if(|(writer, ..)| writer.size() + length > MAX_OBJECT_BYTES) {
                self.finish(writer, captured_at, ObjectFacts { records: Some(records), metadata: metadata.clone() }).await?;
            }
            let (mut writer, captured_at, records) = match part.take() {
                Some(open) => open,
                None => (self.layer.writer(&self.next_key(extension))?, (self.now)(), 0),
            };
            if let Err(error) = writer.write(chunk.bytes).await {
                return Err(given_up(writer, error).await);
            }
            self.progress.advance(chunk.records, length);
            part = Some((writer, captured_at, records + chunk.records));
        }
        producer.await.map_err(|error| IngestError::Internal(format!("the generator stopped: {error}")))?;
        match part {
            Some((writer, captured_at, records)) => {
                self.finish(writer, captured_at, ObjectFacts { records: Some(records), metadata }).await
            }
            None => Ok(()),
        }
    }

    /// The objects so far.
    pub fn objects(&self) -> &[BronzeObject] {
        &self.objects
    }

    /// Takes an object that an earlier attempt of the run put, as the next one.
    pub fn adopt(&mut self, object: BronzeObject) {
        self.progress.advance(object.records.unwrap_or_default(), object.bytes);
        self.objects.push(object);
    }

    /// Keeps a body that is not what the definition says, outside the manifest, so that a person can look at it; returns its URI.
    ///
    /// # Errors
    /// [`IngestError::Storage`].
    pub async fn reject(&self, body: Bytes) -> Result<String, IngestError> {
        let key = format!("{}/rejected-00000{}.bin", self.folder, self.suffix);
        self.layer.put(&key, body).await?;
        Ok(self.layer.uri(&key))
    }

    /// The entry of source `name` in the manifest.
    pub fn into_manifest(self, name: &str) -> SourceManifest {
        SourceManifest { name: name.to_owned(), objects: self.objects, cursor: self.cursor }
    }

    async fn finish(&mut self, writer: ObjectWriter, captured_at: DateTime<Utc>, facts: ObjectFacts) -> Result<(), IngestError> {
        let written = writer.finish().await?;
        self.objects.push(BronzeObject {
            key: written.key,
            bytes: written.size,
            sha256: written.sha256,
            blake3: Some(written.blake3),
            records: facts.records,
            captured_at,
            metadata: facts.metadata,
        });
        Ok(())
    }
}

/// Drops the parts of an upload that failed; the first error is the one that counts.
async fn given_up(writer: ObjectWriter, error: StorageError) -> IngestError {
    if let Err(second) = writer.abort().await {
        tracing::debug!(%second, "the parts of a failed upload could not be dropped");
    }
    error.into()
}
