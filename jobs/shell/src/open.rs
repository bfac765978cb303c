//! From the spec's store location to an open [`Storage`], and from storage errors to stage failures.

use std::{collections::BTreeMap, path::Path};

use lakehouse_contract::{Reason, StageFailure, StoreLocation};
use lakehouse_storage::{Bucket, Credentials, Layer, S3Options, Storage, StorageError};

/// Opens the store of a spec; for S3 with the credentials of the environment. Does not connect.
///
/// # Errors
/// [`StorageError`] when credentials are missing or a bucket name is none.
pub fn open_storage(location: &StoreLocation) -> Result<Storage, StorageError> {
    match location {
        StoreLocation::Local { root, landing } => {
            let storage = Storage::local(Path::new(root))?;
            match landing {
                Some(landing) => storage.with_local_landing(Path::new(landing)),
                None => Ok(storage),
            }
        }
        StoreLocation::S3 { endpoint, region, bronze, silver, gold, landing } => {
            let layers = [(Layer::Bronze, bronze), (Layer::Silver, silver), (Layer::Gold, gold), (Layer::Landing, landing)];
            let mut buckets = BTreeMap::new();
            for (layer, text) in layers {
                buckets.insert(layer, Bucket::parse(text)?);
            }
            Storage::s3(&S3Options { endpoint: endpoint.clone(), region: region.clone(), buckets, credentials: Credentials::from_env()? })
        }
    }
}

/// The failure that a storage error means for a stage.
pub fn storage_failure(error: &StorageError) -> StageFailure {
    let reason = match error {
        StorageError::MissingCredentials { .. } | StorageError::AccessDenied { .. } => Reason::StoreAccessDenied,
        StorageError::Unreachable { .. } | StorageError::Object { .. } => Reason::StoreUnavailable,
        StorageError::NoSuchBucket { .. } | StorageError::Bucket { .. } | StorageError::Invalid { .. } => Reason::InvalidDefinition,
        StorageError::NotFound { .. } => Reason::InputCorrupt,
        StorageError::Catalog { .. } => Reason::CatalogUnavailable,
        StorageError::LeaseBusy { .. } | StorageError::LeaseLost { .. } => Reason::CommitConflict,
    };
    StageFailure::new(reason, error)
}
