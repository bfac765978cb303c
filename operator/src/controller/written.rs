//! What this process wrote and its cache has not seen yet.
//!
//! A status is computed from the object as it is cached, and carries its version: decided on again before the watch has brought the last write back, it
//! would be refused as a conflict, and written a second time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kube::{Resource, ResourceExt};
use tokio::time::Instant;

/// How long a watch may need. After that the cache counts again, and a write that is refused says that it is behind.
const LONGEST: Duration = Duration::from_secs(60);

/// Own writes, by the UID of their object, until they are seen in the cache.
pub(super) struct Written<K>(Mutex<HashMap<String, Last<K>>>);

struct Last<K> {
    object: Arc<K>,
    /// Versions that are older for sure: what the writes were based on.
    before: Vec<String>,
    at: Instant,
}

impl<K> Default for Written<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Resource> Written<K> {
    /// The newer of the object as it is cached and as it was last written here.
    pub(super) fn newest(&self, cached: Arc<K>) -> Arc<K> {
        let (uid, version) = (cached.uid().unwrap_or_default(), cached.resource_version().unwrap_or_default());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&uid) {
            Some(last) if last.before.contains(&version) && last.at.elapsed() < LONGEST => Arc::clone(&last.object),
            Some(_) => {
                known.remove(&uid);
                cached
            }
            None => cached,
        }
    }

    /// `object` was written in the place of `before`, which came from [`Self::newest`].
    pub(super) fn note(&self, before: &K, object: K) {
        let uid = before.uid().unwrap_or_default();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Of objects that went, nobody asks any more.
        known.retain(|_, last| last.at.elapsed() < LONGEST);
        let mut versions = known.remove(&uid).map(|last| last.before).unwrap_or_default();
        versions.extend(before.resource_version());
        known.insert(uid, Last { object: Arc::new(object), before: versions, at: Instant::now() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    fn version(version: &str) -> ConfigMap {
        let metadata = ObjectMeta { uid: Some("u".to_owned()), resource_version: Some(version.to_owned()), ..ObjectMeta::default() };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    #[test]
    fn a_cache_that_lags_behind_is_overtaken_until_it_has_caught_up() {
        let written = Written::default();
        let newest = |cached: &str| written.newest(Arc::new(version(cached))).resource_version().unwrap_or_default();
        assert_eq!(newest("1"), "1");
        written.note(&version("1"), version("2"));
        assert_eq!(newest("1"), "2");
        written.note(&version("2"), version("3"));
        assert_eq!([newest("1"), newest("2")], ["3", "3"]);
        // Somebody else wrote it since: what the watch says is newer.
        assert_eq!(newest("4"), "4");
        assert_eq!(newest("1"), "1", "nothing is kept of what was seen");
    }
}
