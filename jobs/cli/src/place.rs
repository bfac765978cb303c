//! Where the tables are: a folder of this machine, or an S3 store with a Postgres catalog.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Args;
use lakehouse_contract::StoreLocation;
use lakehouse_shell::open_storage;
use lakehouse_storage::{Bucket, Credentials, Layer, S3Options, Storage, StorageError};
use lakehouse_tables::Tables;

use crate::CliError;

/// Folder that is used when nothing is said.
const DEFAULT_LOCAL: &str = ".lakehouse";
/// Namespace of a cluster's pipelines where neither an option nor the manifest says another.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The catalog within a folder.
const CATALOG_FILE: &str = "catalog.db";

/// A local folder with layers and catalog.
#[derive(Clone, Debug)]
pub struct Local {
    /// Absolute path.
    pub root: PathBuf,
}

impl Local {
    /// The folder `path`, or the default one; made when it is absent.
    ///
    /// # Errors
    /// [`CliError::File`].
    pub fn create(path: Option<&Path>) -> Result<Self, CliError> {
        let path = path.unwrap_or(Path::new(DEFAULT_LOCAL));
        let failed = |source| CliError::File { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(failed)?;
        Ok(Self { root: path.canonicalize().map_err(failed)? })
    }

    /// The folder `path`, or the default one, which must have a catalog.
    ///
    /// # Errors
    /// [`CliError::Invalid`] that says what to do.
    pub fn open(path: Option<&Path>) -> Result<Self, CliError> {
        let path = path.unwrap_or(Path::new(DEFAULT_LOCAL));
        let root = path.canonicalize().ok().filter(|root| root.join(CATALOG_FILE).is_file()).ok_or_else(|| {
            CliError::Invalid(format!("{} has no tables yet: `lakehouse run -f FILE --local {0}` makes some", path.display()))
        })?;
        Ok(Self { root })
    }

    /// URI of the catalog.
    pub fn catalog_uri(&self) -> String {
        format!("sqlite://{}/{CATALOG_FILE}", self.root.display())
    }

    /// The store as specs name it.
    pub fn location(&self, landing: Option<&Path>) -> StoreLocation {
        StoreLocation::Local { root: self.root.display().to_string(), landing: landing.map(|path| path.display().to_string()) }
    }
}

/// The folder that an option names, or else the environment. Asked where no store is named, which outweighs a folder of the environment.
pub fn folder(option: Option<&Path>) -> Option<PathBuf> {
    option.map(Path::to_owned).or_else(|| std::env::var_os("LAKEHOUSE_LOCAL").map(PathBuf::from))
}

/// Options that say where the tables are.
#[derive(Clone, Debug, Args)]
pub struct PlaceArguments {
    /// Folder with the tables. Without it and without a catalog: LAKEHOUSE_LOCAL, or else `.lakehouse`.
    #[arg(long, value_name = "DIR")]
    pub local: Option<PathBuf>,
    /// Catalog of a cluster, such as postgresql://user:password@host:5432/catalog; with it, and without --local, the store is S3.
    #[arg(long, value_name = "URI", env = "LAKEHOUSE_CATALOG_URI", hide_env_values = true)]
    pub catalog_uri: Option<String>,
    #[command(flatten)]
    store: StoreArguments,
}

/// Options of an S3 store; keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
#[derive(Clone, Debug, Args)]
pub struct StoreArguments {
    /// URL of the S3 endpoint; absent: AWS.
    #[arg(long, value_name = "URL", env = "LAKEHOUSE_STORE_ENDPOINT")]
    pub store_endpoint: Option<String>,
    /// Region that requests are signed for.
    #[arg(long, value_name = "REGION", env = "LAKEHOUSE_STORE_REGION", default_value = "us-east-1")]
    pub store_region: String,
    /// Where silver tables are: a bucket, or bucket/prefix.
    #[arg(long, value_name = "BUCKET", default_value = "silver")]
    silver_bucket: String,
    /// Where gold tables are: a bucket, or bucket/prefix.
    #[arg(long, value_name = "BUCKET", default_value = "gold")]
    gold_bucket: String,
}

impl StoreArguments {
    /// A store with the given places of layers.
    ///
    /// # Errors
    /// [`StorageError`] for a missing key or a name that is none.
    pub fn open(&self, layers: &[(Layer, &str)]) -> Result<Storage, StorageError> {
        let mut buckets = BTreeMap::new();
        for (layer, text) in layers {
            buckets.insert(*layer, Bucket::parse(text)?);
        }
        Storage::s3(&S3Options {
            endpoint: self.store_endpoint.clone(),
            region: self.store_region.clone(),
            buckets,
            credentials: Credentials::from_env()?,
        })
    }
}

impl PlaceArguments {
    /// The store, and the URI of the catalog. Does not connect.
    ///
    /// # Errors
    /// [`CliError`] for a folder without tables, or a missing key.
    pub fn open(&self) -> Result<(Storage, String), CliError> {
        self.open_with(&[])
    }

    /// [`Self::open`] with the places of further layers; a folder has all of them.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(&self, more: &[(Layer, &str)]) -> Result<(Storage, String), CliError> {
        if let (None, Some(uri)) = (&self.local, &self.catalog_uri) {
            let mut layers = vec![(Layer::Silver, self.store.silver_bucket.as_str()), (Layer::Gold, self.store.gold_bucket.as_str())];
            layers.extend(more);
            return Ok((self.store.open(&layers)?, uri.clone()));
        }
        let local = Local::open(folder(self.local.as_deref()).as_deref())?;
        Ok((open_storage(&local.location(None))?, local.catalog_uri()))
    }

    /// Whether the tables are in a folder of this machine.
    pub fn is_local(&self) -> bool {
        self.local.is_some() || self.catalog_uri.is_none()
    }

    /// The tables; none for a folder that has no catalog yet.
    ///
    /// # Errors
    /// As [`Self::tables`].
    pub async fn tables_if_any(&self) -> Result<Option<Tables>, CliError> {
        if self.is_local() && !folder(self.local.as_deref()).unwrap_or(DEFAULT_LOCAL.into()).join(CATALOG_FILE).is_file() {
            return Ok(None);
        }
        self.tables().await.map(Some)
    }

    /// The tables.
    ///
    /// # Errors
    /// As [`Self::open`], and [`CliError::Table`] when the catalog does not answer.
    pub async fn tables(&self) -> Result<Tables, CliError> {
        let (storage, uri) = self.open()?;
        Ok(Tables::connect(storage, &uri).await?)
    }
}
