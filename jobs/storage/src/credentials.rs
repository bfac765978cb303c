//! Keys of an S3 object store, kept out of every log and error text.

use crate::StorageError;
use std::fmt;

/// Access key of an S3 object store. `Debug` shows the key id and hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Access key id; appears in error texts.
    pub access_key_id: String,
    /// Secret access key; never appears anywhere.
    pub secret_access_key: String,
    /// Session token of temporary credentials.
    pub session_token: Option<String>,
}

impl Credentials {
    /// A static pair of key id and secret.
    pub fn new(access_key_id: impl Into<String>, secret_access_key: impl Into<String>) -> Self {
        Self { access_key_id: access_key_id.into(), secret_access_key: secret_access_key.into(), session_token: None }
    }

    /// Reads `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, when set, `AWS_SESSION_TOKEN`.
    ///
    /// # Errors
    /// [`StorageError::MissingCredentials`] names the variable that is absent or empty.
    pub fn from_env() -> Result<Self, StorageError> {
        let required = |name: &'static str| match std::env::var(name) {
            Ok(value) if !value.is_empty() => Ok(value),
            _ => Err(StorageError::MissingCredentials { variable: name }),
        };
        Ok(Self {
            access_key_id: required("AWS_ACCESS_KEY_ID")?,
            secret_access_key: required("AWS_SECRET_ACCESS_KEY")?,
            session_token: std::env::var("AWS_SESSION_TOKEN").ok().filter(|token| !token.is_empty()),
        })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .field("secret_access_key", &"***")
            .field("session_token", &self.session_token.as_ref().map(|_| "***"))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_secret() {
        let shown = format!("{:?}", Credentials::new("key-id", "very-secret"));
        assert!(shown.contains("key-id") && !shown.contains("very-secret"), "{shown}");
    }
}
