//! What can go wrong while a step is applied.

use std::{sync::Arc, time::Duration};

use kube::{Resource, ResourceExt};
use kube_runtime::{controller::Action, watcher};

use super::{AFTER_ERROR, Context};
use crate::runtime::metrics::Classed;

/// The longest that an API server can ask a controller to stay away.
const LONGEST: Duration = Duration::from_secs(60);

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a step could not be applied; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("cannot {operation} {name}: {said}")]
    Api {
        /// Verb and kind, such as `create Job`.
        operation: &'static str,
        /// Name of the object.
        name: String,
        /// What it said, on one line.
        said: String,
        /// The whole answer.
        source: Box<kube::Error>,
    },
}

impl Error {
    /// For `map_err`.
    pub(crate) fn api(operation: &'static str, name: &str) -> impl FnOnce(kube::Error) -> Self {
        let name = name.to_owned();
        move |source| {
            let said = match &source {
                kube::Error::Api(status) => status.message.clone(),
                // Most errors of the client say only that there is a cause.
                other => lakehouse_storage::chain(other).replace('\n', " "),
            };
            Self::Api { operation, name, said, source: Box::new(source) }
        }
    }

    /// The API server's answer, if it gave one.
    pub(crate) fn status(&self) -> Option<&kube::core::Status> {
        let Self::Api { source, .. } = self;
        match source.as_ref() {
            kube::Error::Api(status) => Some(status),
            _ => None,
        }
    }

    /// Somebody else wrote the object first.
    pub(crate) fn is_conflict(&self) -> bool {
        self.status().is_some_and(|status| status.is_conflict() && !status.is_already_exists())
    }

    /// The object is there already.
    pub(crate) fn is_already_exists(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_already_exists)
    }

    /// The object is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_not_found)
    }
}

impl Classed for Error {
    fn class(&self) -> &'static str {
        match self.status().map(|status| status.code) {
            None => "NoAnswer",
            Some(401 | 403) => "Forbidden",
            Some(404) => "NotFound",
            Some(409) if self.is_conflict() => "Conflict",
            Some(409) => "AlreadyExists",
            Some(400 | 413 | 422) => "Invalid",
            Some(429) => "TooManyRequests",
            Some(500..) => "ServerError",
            Some(_) => "Other",
        }
    }
}

/// What follows an error: the object is looked at again, at once where it had only changed meanwhile.
pub(crate) fn policy<K: Resource>(object: Arc<K>, error: &Error, _: Arc<Context>) -> Action {
    if error.is_conflict() {
        return Action::requeue(Duration::from_millis(200));
    }
    tracing::debug!(object = object.name_any(), %error, "will be tried again");
    // An API server that has too much to do says when to come back.
    let asked = error.status().and_then(|status| status.details.as_ref()).map(|details| details.retry_after_seconds).unwrap_or_default();
    Action::requeue(AFTER_ERROR.max(Duration::from_secs(asked.into())).min(LONGEST))
}

/// One line for an error of a controller. That an object went or changed while it was queued is none.
pub(crate) fn log(kind: &str, error: &kube_runtime::controller::Error<Error, watcher::Error>) {
    use kube_runtime::controller::Error as Of;
    match error {
        Of::ObjectNotFound(_) => {}
        Of::ReconcilerFailed(cause, object) if cause.is_conflict() => {
            tracing::debug!(kind, name = object.name, "changed meanwhile, looked at again");
        }
        Of::ReconcilerFailed(cause, object) => {
            tracing::warn!(kind, name = object.name, namespace = object.namespace, "{cause}");
        }
        Of::QueueError(_) | Of::RunnerError(_) => tracing::warn!(kind, "{error}"),
    }
}
