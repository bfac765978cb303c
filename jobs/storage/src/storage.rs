//! Opens the object store of a lakehouse: a local directory or S3.

use crate::error::StoreName;
use crate::s3admin::Admin;
use crate::{Credentials, Layer, LayerStore, Result, StorageError, init_tls};
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for a TCP or TLS connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for one request, body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// No retry starts later than this after the first attempt.
const RETRY_TIMEOUT: Duration = Duration::from_secs(12);
/// Retries after the first attempt.
const MAX_RETRIES: usize = 4;

/// A bucket, optionally with a prefix inside it. Parsed from `bucket` or `bucket/some/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Name of the bucket.
    pub name: String,
    /// Prefix without slashes at its ends; empty for the whole bucket.
    pub prefix: String,
}

impl Bucket {
    /// Parses `bucket` or `bucket/prefix`.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] for an empty name.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, prefix) = text.split_once('/').unwrap_or((text, ""));
        if name.is_empty() {
            return Err(StorageError::Invalid { what: "bucket", value: text.to_owned(), reason: "the name is empty".to_owned() });
        }
        Ok(Self { name: name.to_owned(), prefix: prefix.trim_matches('/').to_owned() })
    }
}

/// Where an S3 store is and how to reach it.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// Endpoint with scheme; absent means AWS. A store with an endpoint is addressed path-style.
    pub endpoint: Option<String>,
    /// Region, `us-east-1` for most stores that are not AWS.
    pub region: String,
    /// Bucket of each layer; layers that are absent cannot be used.
    pub buckets: BTreeMap<Layer, Bucket>,
    /// Access key.
    pub credentials: Credentials,
}

/// The object store of one lakehouse. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Storage {
    layers: BTreeMap<Layer, LayerStore>,
    admin: Option<Arc<Admin>>,
}

impl Storage {
    /// A store in a local directory, whose layers are its subdirectories `bronze`, `silver`, `gold` and `landing`. Creates them.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] when the directory cannot be created or addressed.
    pub fn local(root: &std::path::Path) -> Result<Self> {
        let mut layers = BTreeMap::new();
        for layer in Layer::ALL {
            let directory = root.join(layer.name());
            std::fs::create_dir_all(&directory).map_err(|error| invalid_directory(&directory, error.to_string()))?;
            layers.insert(layer, local_layer(&directory)?);
        }
        Ok(Self { layers, admin: None })
    }

    /// This store with `directory` as its landing layer, so that files are picked up where they already lie. Does not create it.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] when the directory does not exist or cannot be addressed.
    pub fn with_local_landing(mut self, directory: &std::path::Path) -> Result<Self> {
        self.layers.insert(Layer::Landing, local_layer(directory)?);
        Ok(self)
    }

    /// A store on S3 or a compatible server. Does not connect; see [`Self::ensure_buckets`] and [`Self::check`].
    ///
    /// # Errors
    /// [`StorageError::Invalid`] when the options do not make a client.
    pub fn s3(options: &S3Options) -> Result<Self> {
        init_tls();
        let name = StoreName {
            store: options.endpoint.clone().unwrap_or_else(|| format!("AWS S3 in {}", options.region)),
            key_id: options.credentials.access_key_id.clone(),
        };
        let mut layers = BTreeMap::new();
        for (layer, bucket) in &options.buckets {
            let invalid = |reason: String| StorageError::Invalid { what: "object store", value: name.store.clone(), reason };
            let store = LayerStore {
                store: s3_client(options, &bucket.name).map_err(|error| invalid(error.to_string()))?,
                root_uri: format!("s3://{}", bucket.name),
                prefix: Path::parse(&bucket.prefix).map_err(|error| invalid(error.to_string()))?,
                name: name.clone(),
            };
            layers.insert(*layer, store);
        }
        let buckets = options.buckets.values().map(|bucket| bucket.name.clone()).collect();
        Ok(Self { layers, admin: Some(Arc::new(Admin::new(options, name, buckets))) })
    }

    /// The store of a layer.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] when the lakehouse has no bucket for it.
    pub fn layer(&self, layer: Layer) -> Result<&LayerStore> {
        self.layers.get(&layer).ok_or_else(|| StorageError::Invalid {
            what: "layer",
            value: layer.to_string(),
            reason: "the lakehouse has no bucket for it".to_owned(),
        })
    }

    /// All layers that have a store.
    pub fn layers(&self) -> impl Iterator<Item = (Layer, &LayerStore)> {
        self.layers.iter().map(|(layer, store)| (*layer, store))
    }

    /// Creates the buckets that are absent. Idempotent, also when several processes do it at once; a local store has nothing to do.
    ///
    /// # Errors
    /// [`StorageError::AccessDenied`], [`StorageError::Unreachable`] (within 20 s) or [`StorageError::Bucket`].
    pub async fn ensure_buckets(&self) -> Result<()> {
        match &self.admin {
            Some(admin) => admin.ensure_buckets().await,
            None => Ok(()),
        }
    }

    /// Checks that the store answers, accepts the key, and has every bucket. A local store is checked for its directories.
    ///
    /// # Errors
    /// As [`Self::ensure_buckets`], and [`StorageError::NoSuchBucket`].
    pub async fn check(&self) -> Result<()> {
        match &self.admin {
            Some(admin) => admin.check().await,
            None => {
                for (_, store) in self.layers() {
                    let directory = format!("/{}", store.prefix);
                    tokio::fs::metadata(&directory).await.map_err(|error| StorageError::Object {
                        operation: "read",
                        uri: store.base_uri(),
                        reason: error.to_string(),
                    })?;
                }
                Ok(())
            }
        }
    }
}

fn local_layer(directory: &std::path::Path) -> Result<LayerStore> {
    let absolute = directory.canonicalize().map_err(|error| invalid_directory(directory, error.to_string()))?;
    let text = absolute.to_str().ok_or_else(|| invalid_directory(directory, "its name is not UTF-8".to_owned()))?;
    Ok(LayerStore {
        store: Arc::new(LocalFileSystem::new()),
        root_uri: "file://".to_owned(),
        prefix: Path::parse(text).map_err(|error| invalid_directory(directory, error.to_string()))?,
        name: StoreName { store: text.to_owned(), key_id: String::new() },
    })
}

fn invalid_directory(directory: &std::path::Path, reason: String) -> StorageError {
    StorageError::Invalid { what: "directory", value: directory.display().to_string(), reason }
}

fn s3_client(options: &S3Options, bucket: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
    let client = ClientOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout(REQUEST_TIMEOUT).with_allow_http(true);
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(2), base: 2.0 },
        max_retries: MAX_RETRIES,
        retry_timeout: RETRY_TIMEOUT,
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&options.region)
        .with_access_key_id(&options.credentials.access_key_id)
        .with_secret_access_key(&options.credentials.secret_access_key)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_virtual_hosted_style_request(options.endpoint.is_none())
        .with_client_options(client)
        .with_retry(retry);
    if let Some(token) = &options.credentials.session_token {
        builder = builder.with_token(token);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    Ok(Arc::new(builder.build()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_landing_folder_elsewhere_replaces_only_the_landing_layer() {
        let (root, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(elsewhere.path().join("a.csv"), "x\n").unwrap();
        let storage = Storage::local(root.path()).unwrap().with_local_landing(elsewhere.path()).unwrap();
        let landing = storage.layer(Layer::Landing).unwrap();
        assert_eq!(landing.get("a.csv").await.unwrap(), "x\n");
        assert!(storage.layer(Layer::Bronze).unwrap().base_uri().ends_with("/bronze"));

        let missing = Storage::local(root.path()).unwrap().with_local_landing(&elsewhere.path().join("none")).unwrap_err();
        assert!(missing.to_string().contains("is not a valid directory"), "{missing}");
    }

    #[tokio::test]
    async fn an_object_is_read_as_a_stream() {
        let root = tempfile::tempdir().unwrap();
        let storage = Storage::local(root.path()).unwrap();
        let bronze = storage.layer(Layer::Bronze).unwrap();
        let content = vec![7_u8; 100_000];
        bronze.put("a/b.bin", content.clone()).await.unwrap();
        let (entry, stream) = bronze.read("a/b.bin").await.unwrap();
        assert_eq!((entry.key.as_str(), entry.size), ("a/b.bin", 100_000));
        let chunks: Vec<bytes::Bytes> = futures::TryStreamExt::try_collect(stream).await.unwrap();
        assert_eq!(chunks.concat(), content);
        assert!(matches!(bronze.read("a/c.bin").await.map(drop), Err(StorageError::NotFound { .. })));
    }
}
