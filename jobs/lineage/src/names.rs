//! Names of runs and datasets.

use lakehouse_contract::{RunId, Stage};
use uuid::Uuid;

/// A dataset as OpenLineage names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetName {
    /// The place: `s3://bucket`, `file`, `https://host`.
    pub namespace: String,
    /// The name within it.
    pub name: String,
}

/// The name of what lies at an absolute location, by OpenLineage's naming of stores: of S3 the bucket and the key, of this machine `file` and
/// the absolute path. What a source asks of a host is named likewise: scheme and authority, and the path.
pub fn dataset_name(uri: &str) -> DatasetName {
    let named = |namespace: &str, name: &str| DatasetName { namespace: namespace.to_owned(), name: name.to_owned() };
    if let Some(path) = uri.strip_prefix("file://") {
        return named("file", path);
    }
    let Some((scheme, rest)) = uri.split_once("://") else { return named("file", uri) };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    // A dataset has a name: the root of a host or bucket is `/`.
    named(&format!("{scheme}://{authority}"), if path.is_empty() { "/" } else { path })
}

/// The UUID of a pipeline's run: the same for every stage and attempt, on whichever machine.
pub fn parent_id(owner: &str, run: &RunId) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("lakehouse:{owner}/{run}").as_bytes())
}

/// The UUID of one attempt of a stage.
pub fn run_id(owner: &str, run: &RunId, stage: Stage, attempt: u32) -> Uuid {
    Uuid::new_v5(&parent_id(owner, run), format!("{stage}-{attempt}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datasets_are_named_by_their_store() {
        let cases = [
            ("s3://silver/lake/events-0a", "s3://silver", "lake/events-0a"),
            ("file:///srv/lake/bronze/shop/events", "file", "/srv/lake/bronze/shop/events"),
            ("https://rest.coincap.io/v3/assets", "https://rest.coincap.io", "v3/assets"),
            ("http://archive.example:8080", "http://archive.example:8080", "/"),
        ];
        for (uri, namespace, name) in cases {
            assert_eq!(dataset_name(uri), DatasetName { namespace: namespace.into(), name: name.into() }, "{uri}");
        }
    }

    #[test]
    fn runs_have_stable_ids_of_their_own() {
        let run = RunId("shop-2024-01-01-0a1b2c3d".into());
        let id = run_id("local/shop", &run, Stage::Silver, 1);
        assert_eq!(id, run_id("local/shop", &run, Stage::Silver, 1));
        let others = [
            run_id("local/shop", &run, Stage::Silver, 2),
            run_id("local/shop", &run, Stage::Gold, 1),
            run_id("prod/shop", &run, Stage::Silver, 1),
            parent_id("local/shop", &run),
        ];
        assert!(!others.contains(&id));
    }
}
