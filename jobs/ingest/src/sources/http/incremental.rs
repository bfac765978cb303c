//! Loading only what is new: where the last interval ended, and where this one does.

use lakehouse_api::pipeline::{CursorValue, Incremental};
use lakehouse_contract::{BronzeManifest, Retired, keys, template::url_encode};
use lakehouse_storage::Layer;
use url::Url;

use super::{document::Found, paging::with_parameter};
use crate::{IngestError, sources::Context};

/// How far a source has been loaded.
pub struct Position<'a> {
    definition: &'a Incremental,
    /// Where an interval before this one ended.
    since: Option<String>,
    /// The greatest value so far and its text.
    reached: Option<(CursorValue, String)>,
}

impl<'a> Position<'a> {
    /// Where the newest interval before that of the run ended, from the manifests in bronze.
    ///
    /// # Errors
    /// [`IngestError`] when bronze cannot be read, or holds a value of another type.
    pub async fn load(context: &Context<'_>, definition: &'a Incremental) -> Result<Self, IngestError> {
        let since = last_cursor(context).await?;
        let reached = since.as_ref().map(|(text, manifest)| {
            let value = definition.cursor_type.parse(text);
            let value = value.map_err(|message| {
                let message = format!("the cursor `{text}` of source {} is {message}", context.name);
                IngestError::Manifest { uri: manifest.clone(), message }
            });
            value.map(|value| (value, text.clone()))
        });
        Ok(Self { definition, reached: reached.transpose()?, since: since.map(|(text, _)| text) })
    }

    /// Whether an earlier interval was loaded, so that nothing new is nothing wrong.
    pub fn continues(&self) -> bool {
        self.since.is_some()
    }

    /// `first` with the parameter that asks for what is new.
    pub fn ask(&self, first: &Url) -> Url {
        match self.since.as_ref().or(self.definition.initial.as_ref()) {
            Some(value) => with_parameter(first, &self.definition.parameter, &url_encode(value)),
            None => first.clone(),
        }
    }

    /// Learns from the values of a page's records.
    ///
    /// # Errors
    /// Which record has something else at the cursor.
    pub fn see(&mut self, values: Vec<Found>) -> Result<(), String> {
        for (record, found) in values.into_iter().enumerate() {
            let text = match found {
                Found::Missing | Found::Null => continue,
                Found::String(text) | Found::Integer(text) => text,
                other => return Err(self.wrong(record, &format!("is {other}, which no cursor is"))),
            };
            let value = self.definition.cursor_type.parse(&text);
            let value = value.map_err(|message| self.wrong(record, &format!("is `{text}`, {message}")))?;
            if self.reached.as_ref().is_none_or(|(reached, _)| value > *reached) {
                self.reached = Some((value, text));
            }
        }
        Ok(())
    }

    fn wrong(&self, record: usize, what: &str) -> String {
        format!("record {record}: at incremental.cursor {} {what}", self.definition.cursor)
    }

    /// What the manifest keeps: the greatest value of all so far, as it was received.
    pub fn into_cursor(self) -> Option<String> {
        self.reached.map(|(_, text)| text)
    }
}

/// The cursor of the newest earlier interval that has one for the source, and the URI of what has it: of the interval's newest manifest or, once its
/// bronze was retired, of the mark that is left.
async fn last_cursor(context: &Context<'_>) -> Result<Option<(String, String)>, IngestError> {
    let bronze = context.storage.layer(Layer::Bronze)?;
    let folder = keys::all_bronze_manifests(&context.spec.pipeline);
    let own = keys::bronze_manifests(&context.spec.pipeline, &context.spec.interval, context.spec.grain);
    // Labels of one grain are in the order of time.
    let interval = |key: &str| key.rsplit_once('/').map(|(folder, _)| folder.to_owned()).filter(|folder| **folder < *own);
    let listed = bronze.list(&folder).await?;
    let mut earlier: Vec<(String, String)> = listed
        .into_iter()
        .filter_map(|entry| Some((interval(&entry.key)?, entry.key)))
        .filter(|(_, key)| is_manifest(key) || is_mark(key))
        .collect();
    earlier.sort_unstable();
    while let Some((newest, _)) = earlier.last().cloned() {
        let same = earlier.partition_point(|(interval, _)| *interval < newest);
        let mut found: Option<(BronzeManifest, String)> = None;
        let mut mark: Option<(Retired, String)> = None;
        for (_, key) in earlier.drain(same..) {
            let Some(body) = bronze.get_opt(&key).await? else { continue };
            let unusable = |error: serde_json::Error| IngestError::Manifest { uri: bronze.uri(&key), message: error.to_string() };
            if is_mark(&key) {
                mark = Some((serde_json::from_slice(&body).map_err(unusable)?, key));
                continue;
            }
            let manifest: BronzeManifest = serde_json::from_slice(&body).map_err(unusable)?;
            if found.as_ref().is_none_or(|(known, _)| manifest.rank() > known.rank()) {
                found = Some((manifest, key));
            }
        }
        // An interval that was ingested again after its retirement has a manifest and the mark: the manifest counts.
        let cursors = found.map(|(manifest, key)| (manifest.cursors(), key)).or_else(|| mark.map(|(mark, key)| (mark.cursors, key)));
        let cursor = cursors.and_then(|(mut cursors, key)| Some((cursors.remove(context.name)?, bronze.uri(&key))));
        if cursor.is_some() {
            return Ok(cursor);
        }
    }
    Ok(None)
}

fn is_manifest(key: &str) -> bool {
    key.ends_with(".json")
}

fn is_mark(key: &str) -> bool {
    key.rsplit_once('/').is_some_and(|(folder, _)| keys::bronze_retired(folder) == key)
}
