//! `files`: objects that someone put into the landing layer, copied byte by byte.
//!
//! The path is a key or a glob ([`glob::Glob`]) relative to the landing location. Matches are taken in the order of their keys; each
//! becomes one bronze object, whose metadata keeps its key and modification time. Records are not counted: silver does, when it decodes.

mod glob;

use std::collections::BTreeMap;

use async_trait::async_trait;
use lakehouse_api::pipeline::FileFormat;
use lakehouse_contract::{Reason, interval::rfc3339};
use lakehouse_storage::{Layer, LayerStore, ObjectEntry, StorageError};

use super::{Context, Source};
use crate::{IngestError, ObjectFacts, Sink};

pub use glob::Glob;

/// The files of one source.
pub struct Files<'a> {
    /// Surroundings.
    pub context: Context<'a>,
    /// Key or glob.
    pub pattern: &'a str,
    /// Decides the extension of the bronze objects.
    pub format: FileFormat,
    /// Accept that nothing matches.
    pub allow_empty: bool,
}

#[async_trait]
impl Source for Files<'_> {
    async fn fetch(&self, sink: &mut Sink<'_>) -> Result<(), IngestError> {
        let landing = self.context.storage.layer(Layer::Landing)?;
        let found = self.matches(landing).await?;
        if found.is_empty() && !self.allow_empty {
            let message = format!("no file matches `{}` in {}", self.pattern, landing.base_uri());
            return Err(IngestError::source(Reason::EmptyResponse, self.context.name, message));
        }
        for file in found {
            self.copy(landing, &file.key, sink).await?;
        }
        Ok(())
    }
}

impl Files<'_> {
    async fn matches(&self, landing: &LayerStore) -> Result<Vec<ObjectEntry>, IngestError> {
        let glob = Glob::new(self.pattern);
        if glob.is_key() {
            return Ok(landing.head(self.pattern).await?.into_iter().collect());
        }
        let mut found = landing.list(glob.folder()).await?;
        found.retain(|entry| glob.matches(&entry.key));
        Ok(found)
    }

    async fn copy(&self, landing: &LayerStore, key: &str, sink: &mut Sink<'_>) -> Result<(), IngestError> {
        let (entry, bytes) = landing.read(key).await.map_err(|error| match error {
            StorageError::NotFound { uri } => {
                let message = format!("file {uri} was removed while the source was read");
                IngestError::source(Reason::SourceUnavailable, self.context.name, message)
            }
            other => other.into(),
        })?;
        let metadata = BTreeMap::from([("landing-key".to_owned(), entry.key), ("last-modified".to_owned(), rfc3339(entry.last_modified))]);
        sink.copy(bytes, &extension(self.format, key), ObjectFacts { records: None, metadata }).await
    }
}

/// The extension of a bronze object: the format's, and that of the compression where the file has one.
fn extension(format: FileFormat, key: &str) -> String {
    let format = match format {
        FileFormat::Json => "json",
        FileFormat::Ndjson => "ndjson",
        FileFormat::Csv => "csv",
        FileFormat::Parquet => "parquet",
    };
    let compression = [".gz", ".zst"].into_iter().find(|compression| key.ends_with(compression)).unwrap_or_default();
    format!("{format}{compression}")
}
