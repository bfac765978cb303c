//! `Lakehouse`: whether store and catalog answer with the given credentials, looked at every minute.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use kube_runtime::controller::Action;
use lakehouse_api::{Lakehouse, LakehouseSpec, LakehouseStatus};
use lakehouse_storage::{Bucket, Credentials, Layer, S3Options, Storage, StorageError, catalog};

use super::{Context, Error, Result, not_there, now, replace_status};
use crate::{
    conditions::{self, Verdict},
    plan::Note,
};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(60);
/// Longest time for one look at one service; the clients give up before.
const LIMIT: Duration = Duration::from_secs(45);

/// Conditions of a Lakehouse.
const STORE: &str = "StoreReady";
const CATALOG: &str = "CatalogReady";

pub(crate) async fn reconcile(lakehouse: Arc<Lakehouse>, context: Arc<Context>) -> Result<Action> {
    if lakehouse.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let secrets = context.api::<Secret>();
    let (store, catalog) = tokio::join!(store(&secrets, &lakehouse.spec), sql_catalog(&secrets, &lakehouse.spec));
    let (status, notes) = next_status(&lakehouse, store, catalog, now());
    if lakehouse.status.as_ref() != Some(&status) {
        let changed = Lakehouse { status: Some(status), ..lakehouse.as_ref().clone() };
        let written = replace_status(&context.api::<Lakehouse>(), &changed).await;
        match written {
            Ok(written) => context.events.publish(&written, &notes),
            Err(error) if error.is_not_found() => return Ok(not_there()),
            Err(error) => return Err(error),
        }
    }
    Ok(Action::requeue(EVERY))
}

/// The status after a look, and what is news. A message may differ from look to look (times, ports): only a new status,
/// reason or generation is written.
fn next_status(lakehouse: &Lakehouse, store: Verdict, catalog: Verdict, now: DateTime<Utc>) -> (LakehouseStatus, Vec<Note>) {
    let mut status = lakehouse.status.clone().unwrap_or_default();
    let generation = lakehouse.metadata.generation;
    let mut notes = Vec::new();
    for (type_, verdict) in [(STORE, store), (CATALOG, catalog)] {
        let previous = conditions::find(&status.conditions, type_);
        let same = |c: &&_| {
            let c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition = c;
            c.status == verdict.status && c.reason == verdict.reason
        };
        if previous.filter(same).is_some_and(|c| c.observed_generation == generation) {
            continue;
        }
        if previous.filter(same).is_none() {
            let text = format!("Lakehouse {}: {}", lakehouse.name_any(), verdict.message);
            notes.push(match verdict.status {
                "True" => Note::normal(verdict.reason.clone(), type_, text),
                _ => Note::warning(verdict.reason.clone(), type_, text),
            });
        }
        conditions::set(&mut status.conditions, type_, verdict, generation, now);
    }
    status.observed_generation = generation;
    (status, notes)
}

async fn store(secrets: &Api<Secret>, spec: &LakehouseSpec) -> Verdict {
    let look = async {
        let name = &spec.object_store.credentials_secret;
        let secret = read(secrets, name).await?;
        let id = text(&secret, name, "access-key-id")?;
        let key = text(&secret, name, "secret-access-key")?;
        let options = S3Options {
            endpoint: spec.object_store.endpoint.clone(),
            region: spec.object_store.region.clone(),
            buckets: buckets(spec).map_err(|error| of_storage(&error))?,
            credentials: Credentials::new(id, key),
        };
        let storage = Storage::s3(&options).map_err(|error| of_storage(&error))?;
        storage.ensure_buckets().await.map_err(|error| of_storage(&error))?;
        Ok(format!("{} answers and has its buckets", spec.object_store.endpoint.as_deref().unwrap_or("AWS S3")))
    };
    bounded(look).await
}

async fn sql_catalog(secrets: &Api<Secret>, spec: &LakehouseSpec) -> Verdict {
    let look = async {
        let key = &spec.catalog.sql.uri_secret;
        let secret = read(secrets, &key.name).await?;
        let uri = text(&secret, &key.name, &key.key)?;
        catalog::check(&uri).await.map_err(|error| of_storage(&error))?;
        Ok(format!("{} answers", catalog::redact_uri(&uri)))
    };
    bounded(look).await
}

async fn bounded(look: impl Future<Output = Result<String, Verdict>>) -> Verdict {
    match tokio::time::timeout(LIMIT, look).await {
        Ok(Ok(message)) => Verdict::new("True", "Answered", message),
        Ok(Err(verdict)) => verdict,
        Err(_) => Verdict::new("False", "Unreachable", format!("no answer within {} s", LIMIT.as_secs())),
    }
}

fn buckets(spec: &LakehouseSpec) -> Result<BTreeMap<Layer, Bucket>, StorageError> {
    let given = [
        (Layer::Bronze, &spec.buckets.bronze),
        (Layer::Silver, &spec.buckets.silver),
        (Layer::Gold, &spec.buckets.gold),
        (Layer::Landing, &spec.buckets.landing),
    ];
    given.into_iter().map(|(layer, text)| Ok((layer, Bucket::parse(text)?))).collect()
}

async fn read(secrets: &Api<Secret>, name: &str) -> Result<Secret, Verdict> {
    let refused = |reason: &str, message: String| Verdict::new("False", reason, message);
    match secrets.get_opt(name).await.map_err(Error::api("read Secret", name)) {
        Ok(Some(secret)) => Ok(secret),
        Ok(None) => Err(refused("SecretNotFound", format!("there is no Secret `{name}` in this namespace"))),
        Err(error) if error.status().is_some_and(kube::core::Status::is_forbidden) => {
            Err(refused("SecretNotReadable", format!("the operator may not read Secret `{name}`: add it to readableSecrets of its chart")))
        }
        Err(error) => Err(refused("Unreachable", error.to_string())),
    }
}

/// The value of a key. No message carries it.
fn text(secret: &Secret, name: &str, key: &str) -> Result<String, Verdict> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    let text = bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok()).filter(|text| !text.is_empty());
    text.ok_or_else(|| Verdict::new("False", "SecretNotReadable", format!("Secret `{name}` has no text under key `{key}`")))
}

fn of_storage(error: &StorageError) -> Verdict {
    let reason = match error {
        StorageError::AccessDenied { .. } | StorageError::MissingCredentials { .. } => "AccessDenied",
        StorageError::Invalid { .. } => "InvalidDefinition",
        // Postgres says which it was only in words.
        StorageError::Catalog { reason, .. } if reason.contains("authentication failed") => "AccessDenied",
        _ => "Unreachable",
    };
    Verdict::new("False", reason, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use serde_json::json;

    fn lakehouse() -> Lakehouse {
        serde_json::from_value(json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "Lakehouse",
            "metadata": {"name": "main", "namespace": "ns", "generation": 1},
            "spec": {
                "objectStore": {"endpoint": "http://127.0.0.1:9", "credentialsSecret": "minio"},
                "catalog": {"sql": {"uriSecret": {"name": "catalog", "key": "uri"}}}
            }
        }))
        .unwrap()
    }

    #[test]
    fn only_news_is_written_and_told() {
        let start = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let later = start + chrono::TimeDelta::minutes(1);
        let good = || Verdict::new("True", "Answered", "fine");
        let bad = |text: &str| Verdict::new("False", "Unreachable", text);
        let mut it = lakehouse();
        let (status, notes) = next_status(&it, good(), bad("port 1"), start);
        assert_eq!(notes.len(), 2);
        assert!(notes[1].warning && notes[1].text.contains("Lakehouse main: port 1"), "{notes:?}");
        it.status = Some(status.clone());
        let (again, notes) = next_status(&it, good(), bad("port 2"), later);
        assert_eq!((again, notes), (status, Vec::new()));
        let (fixed, notes) = next_status(&it, good(), good(), later);
        assert_eq!(notes.len(), 1);
        assert_eq!(fixed.conditions[1].status, "True");
        it.metadata.generation = Some(2);
        let (moved, notes) = next_status(&it, good(), bad("port 3"), later);
        assert!(notes.is_empty() && moved.observed_generation == Some(2) && moved.conditions[1].message == "port 3");
    }

    #[test]
    fn a_missing_key_is_named_and_no_value_is_told() {
        let data = BTreeMap::from([("uri".to_owned(), ByteString(b"canary-value".to_vec()))]);
        let secret = Secret { data: Some(data), ..Secret::default() };
        let verdict = text(&secret, "catalog", "url").expect_err("no such key");
        assert_eq!(verdict.reason, "SecretNotReadable");
        assert!(verdict.message.contains("`url`") && !verdict.message.contains("canary"), "{verdict:?}");
        assert_eq!(text(&secret, "catalog", "uri").as_deref(), Ok("canary-value"));
    }
}
