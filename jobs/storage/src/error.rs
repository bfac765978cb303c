//! What can go wrong with an object store or a catalog database, in one readable line each.

use std::error::Error as StdError;
use std::io;

/// Errors of this crate. Every text names the store, bucket, object or resource it is about and never contains a secret.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// An environment variable with a credential is absent.
    #[error("object store credentials are missing: environment variable {variable} is not set")]
    MissingCredentials {
        /// Name of the variable.
        variable: &'static str,
    },
    /// The store refused the key.
    #[error("object store {store}: access denied for key id `{key_id}` ({code}): check secret")]
    AccessDenied {
        /// Endpoint, or `AWS S3 in <region>`.
        store: String,
        /// Access key id that was used.
        key_id: String,
        /// Error code of the store, such as `InvalidAccessKeyId`, `SignatureDoesNotMatch` or `AccessDenied`.
        code: String,
    },
    /// No connection, or no answer in time.
    #[error("object store {store} does not answer: {reason}")]
    Unreachable {
        /// Endpoint, or `AWS S3 in <region>`.
        store: String,
        /// Such as `connection refused`.
        reason: String,
    },
    /// A bucket does not exist.
    #[error("object store {store}: bucket `{bucket}` does not exist")]
    NoSuchBucket {
        /// Endpoint, or `AWS S3 in <region>`.
        store: String,
        /// Name of the bucket.
        bucket: String,
    },
    /// A bucket cannot be used for another reason.
    #[error("object store {store}: bucket `{bucket}`: {reason}")]
    Bucket {
        /// Endpoint, or `AWS S3 in <region>`.
        store: String,
        /// Name of the bucket.
        bucket: String,
        /// What the store said.
        reason: String,
    },
    /// An object that must exist does not.
    #[error("object {uri} does not exist")]
    NotFound {
        /// Absolute URI of the object.
        uri: String,
    },
    /// Any other failure of an operation on an object.
    #[error("cannot {operation} {uri}: {reason}")]
    Object {
        /// Verb, such as `read`.
        operation: &'static str,
        /// Absolute URI of the object or prefix.
        uri: String,
        /// What the store said.
        reason: String,
    },
    /// A key or a location that cannot be addressed.
    #[error("`{value}` is not a valid {what}: {reason}")]
    Invalid {
        /// What was expected.
        what: &'static str,
        /// The value.
        value: String,
        /// Why it is not.
        reason: String,
    },
    /// The catalog database does not answer or refuses.
    #[error("catalog {uri}: {reason}")]
    Catalog {
        /// URI without its password.
        uri: String,
        /// What the driver said, without secrets.
        reason: String,
    },
    /// A lease was not free within the waiting time.
    #[error("lease on {resource} is held by {holder}; gave up after {waited_seconds} s")]
    LeaseBusy {
        /// Resource that is leased.
        resource: String,
        /// Who holds it.
        holder: String,
        /// How long was waited, in seconds.
        waited_seconds: u64,
    },
    /// A lease ended before its holder released it.
    #[error("lease on {resource} was lost: {reason}")]
    LeaseLost {
        /// Resource that was leased.
        resource: String,
        /// Why.
        reason: String,
    },
}

/// Where an operation went, for the text of its error.
#[derive(Clone, Debug)]
pub(crate) struct StoreName {
    /// Endpoint or directory.
    pub(crate) store: String,
    /// Access key id, empty for a directory.
    pub(crate) key_id: String,
}

impl StorageError {
    /// Translates an error of `object_store` about `uri`.
    pub(crate) fn object(name: &StoreName, operation: &'static str, uri: &str, error: object_store::Error) -> Self {
        let text = chain(&error);
        match error {
            object_store::Error::NotFound { .. } if text.contains("NoSuchBucket") => Self::NoSuchBucket {
                store: name.store.clone(),
                bucket: uri.trim_start_matches("s3://").split('/').next().unwrap_or_default().to_owned(),
            },
            object_store::Error::NotFound { .. } => Self::NotFound { uri: uri.to_owned() },
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } if !name.key_id.is_empty() => {
                Self::AccessDenied {
                    store: name.store.clone(),
                    key_id: name.key_id.clone(),
                    code: xml_code(&text).unwrap_or_else(|| "AccessDenied".to_owned()),
                }
            }
            other => match unreachable_reason(&other) {
                Some(reason) if !name.key_id.is_empty() => Self::Unreachable { store: name.store.clone(), reason },
                _ => Self::Object { operation, uri: uri.to_owned(), reason: one_line(&text) },
            },
        }
    }
}

/// The whole chain of causes, each part once.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let part = cause.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = cause.source();
    }
    text
}

/// Why no answer came, when that is what the chain of causes says.
pub(crate) fn unreachable_reason(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            match io.kind() {
                io::ErrorKind::ConnectionRefused => return Some("connection refused".to_owned()),
                io::ErrorKind::TimedOut => return Some("timed out".to_owned()),
                io::ErrorKind::ConnectionReset => return Some("connection reset".to_owned()),
                _ => {}
            }
        }
        next = cause.source();
    }
    let text = chain(error).to_lowercase();
    if text.contains("connection refused") {
        Some("connection refused".to_owned())
    } else if text.contains("dns error") || text.contains("failed to lookup address") {
        Some("its host name cannot be resolved".to_owned())
    } else if text.contains("timed out") || text.contains("timeout") {
        Some("timed out".to_owned())
    } else if text.contains("error sending request") || text.contains("dispatch failure") || text.contains("connect error") {
        Some(one_line(&chain(error)))
    } else {
        None
    }
}

/// The `<Code>` of an S3 error body inside `text`.
fn xml_code(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("<Code>")?;
    rest.split_once("</Code>").map(|(code, _)| code.to_owned())
}

/// `text` on one line, at most 500 characters.
pub(crate) fn one_line(text: &str) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match flat.char_indices().nth(500) {
        Some((cut, _)) => format!("{}…", &flat[..cut]),
        None => flat,
    }
}
