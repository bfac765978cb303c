//! Erasing in bronze: an object that holds the key is replaced by one without it, and the manifests that name it are written anew.
//!
//! Bronze is immutable but for this. The new object has a name of its own, so that a manifest and the digests in it agree at every moment: first
//! the new object, then the manifest, then the old object goes. Objects that no manifest names are searched too, and go whole.

use std::collections::{BTreeMap, BTreeSet};

use lakehouse_contract::{BronzeManifest, BronzeObject, keys};
use lakehouse_silver::redact::{Found, Redaction};
use lakehouse_storage::{Layer, LayerStore, Storage};

use super::{ErasedObject, Order, Report};
use crate::CliError;

/// What the names of replaced objects have before their extension.
const MARK: &str = "-erased-";

pub(super) async fn erase(order: &Order<'_>, storage: &Storage, report: &mut Report) -> Result<(), CliError> {
    let bronze = storage.layer(Layer::Bronze)?;
    let mut redactions: BTreeMap<&str, Redaction> = BTreeMap::new();
    for source in &order.definition.ingest {
        redactions.insert(&source.name, order.redaction(source)?);
    }
    let mut needed: BTreeSet<String> = BTreeSet::new();
    let manifests = format!("{}/{}", order.pipeline, keys::MANIFESTS);
    for entry in bronze.list(&manifests).await?.into_iter().filter(|entry| entry.key.ends_with(".json")) {
        let Some(body) = bronze.get_opt(&entry.key).await? else { continue };
        let manifest: BronzeManifest = serde_json::from_slice(&body)
            .map_err(|error| CliError::Invalid(format!("bronze manifest {}: {error}", bronze.uri(&entry.key))))?;
        let left = one_manifest(order, bronze, &entry.key, manifest, &redactions, report).await?;
        needed.extend(left.sources.into_iter().flat_map(|source| source.objects).map(|object| object.key));
    }
    forsaken(order, bronze, &needed, &redactions, report).await
}

/// Replaces the objects of a manifest that hold the key; answers the manifest as it is now.
async fn one_manifest(
    order: &Order<'_>,
    bronze: &LayerStore,
    key: &str,
    mut manifest: BronzeManifest,
    redactions: &BTreeMap<&str, Redaction>,
    report: &mut Report,
) -> Result<BronzeManifest, CliError> {
    let mut replaced = Vec::new();
    for source in &mut manifest.sources {
        let Some(redaction) = redactions.get(source.name.as_str()) else {
            let objects = source.objects.len();
            if objects > 0 {
                let reason = "the definition has no such source any more, so that its records cannot be read";
                report.left.push(format!("{} objects of source {} in {}: {reason}", objects, source.name, bronze.uri(key)));
            }
            continue;
        };
        let mut objects = Vec::with_capacity(source.objects.len());
        for object in std::mem::take(&mut source.objects) {
            report.bronze.searched += 1;
            let stored = bronze.get(&object.key).await?;
            let found = {
                let (redaction, stored, metadata) = (redaction.clone(), stored.clone(), object.metadata.clone());
                tokio::task::spawn_blocking(move || redaction.content(&stored, &metadata)).await
            };
            let found = found.unwrap_or_else(|error| Err(error.to_string()));
            match found {
                Ok(Found::Nothing) => {
                    if redaction.is_of_pages() && redaction.mentions(&stored) {
                        report.mentions.push(bronze.uri(&object.key));
                    }
                    objects.push(object);
                }
                Ok(Found::All { records }) => replaced.push(erased(&object, None, records)),
                Ok(Found::Whole { records, others, reason }) => {
                    let uri = bronze.uri(&object.key);
                    let what = format!("{records} records could not be cut out, {others} others go with them");
                    report.bronze.whole.push(format!("{uri}: {what}: {reason}"));
                    replaced.push(erased(&object, None, records));
                }
                Ok(Found::Some { content, records }) => {
                    let new = successor(&object, &content, records);
                    replaced.push(erased(&object, Some(&new), records));
                    if redaction.is_of_pages() && redaction.mentions(&content) {
                        report.mentions.push(bronze.uri(if order.dry_run { &object.key } else { &new.key }));
                    }
                    if order.dry_run {
                        objects.push(object);
                    } else {
                        bronze.put(&new.key, content).await?;
                        objects.push(new);
                    }
                }
                Err(reason) => {
                    report.left.push(format!("{}: {reason}", bronze.uri(&object.key)));
                    objects.push(object);
                }
            }
        }
        source.objects = objects;
    }
    if replaced.is_empty() {
        return Ok(manifest);
    }
    if !order.dry_run {
        let body = serde_json::to_vec_pretty(&manifest).map_err(|error| CliError::Output(error.into()))?;
        bronze.put(key, body).await?;
        for object in &replaced {
            bronze.delete(&object.key).await?;
        }
    }
    report.bronze.manifests.push(key.to_owned());
    report.bronze.records += replaced.iter().map(|object| object.records).sum::<u64>();
    report.bronze.objects.extend(replaced);
    Ok(manifest)
}

/// The object in the place of another.
fn successor(object: &BronzeObject, content: &[u8], records: u64) -> BronzeObject {
    let sha256 = lakehouse_storage::sha256(content);
    let (stem, extension) = object.key.rsplit_once('.').unwrap_or((&object.key, "bin"));
    let stem = stem.split_once(MARK).map_or(stem, |(stem, _)| stem);
    BronzeObject {
        key: format!("{stem}{MARK}{}.{extension}", &sha256[..8]),
        bytes: content.len() as u64,
        records: object.records.map(|all| all.saturating_sub(records)),
        sha256,
        blake3: Some(lakehouse_storage::blake3(content)),
        ..object.clone()
    }
}

fn erased(object: &BronzeObject, new: Option<&BronzeObject>, records: u64) -> ErasedObject {
    ErasedObject {
        key: object.key.clone(),
        sha256: Some(object.sha256.clone()),
        replaced_by: new.map(|new| new.key.clone()),
        new_sha256: new.map(|new| new.sha256.clone()),
        records,
    }
}

/// Objects that no manifest names: what attempts left that did not get to one, what the source sent and ingest refused, and what an erasing
/// that was killed had replaced already. Those that hold the key go.
async fn forsaken(
    order: &Order<'_>,
    bronze: &LayerStore,
    needed: &BTreeSet<String>,
    redactions: &BTreeMap<&str, Redaction>,
    report: &mut Report,
) -> Result<(), CliError> {
    for (source, redaction) in redactions {
        for entry in bronze.list(&keys::bronze_source(order.pipeline, source)).await? {
            if needed.contains(&entry.key) || report.bronze.objects.iter().any(|object| object.key == entry.key) {
                continue;
            }
            let Some(stored) = bronze.get_opt(&entry.key).await? else { continue };
            report.bronze.searched += 1;
            let records = match redaction.content(&stored, &BTreeMap::new()) {
                Ok(Found::Nothing) => continue,
                Ok(Found::Some { records, .. } | Found::All { records } | Found::Whole { records, .. }) => records,
                // What cannot be read may be anything: it goes when the value stands in it.
                Err(_) if redaction.mentions(&stored) => 1,
                Err(_) => continue,
            };
            if !order.dry_run {
                bronze.delete(&entry.key).await?;
            }
            report.bronze.records += records;
            report.bronze.objects.push(ErasedObject { key: entry.key, sha256: None, replaced_by: None, new_sha256: None, records });
        }
    }
    Ok(())
}
