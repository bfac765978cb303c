//! Manifests: one or more YAML documents as `kubectl apply -f` takes them.

use serde::Deserialize;
use serde_json::Value;

use crate::{GROUP, Lakehouse, LakehouseBackfill, LakehousePipeline, LakehouseRun};

/// One document of a manifest, not yet typed.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Number of the document in its file, from 1.
    pub ordinal: usize,
    /// Its content.
    pub value: Value,
}

/// A typed object of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Lakehouse.
    Lakehouse(Box<Lakehouse>),
    /// A LakehousePipeline.
    Pipeline(Box<LakehousePipeline>),
    /// A LakehouseRun.
    Run(Box<LakehouseRun>),
    /// A LakehouseBackfill.
    Backfill(Box<LakehouseBackfill>),
    /// A core/v1 Secret; the laptop takes its `stringData` and `data`.
    Secret(Box<k8s_openapi::api::core::v1::Secret>),
}

/// Why a manifest cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The text is not YAML.
    #[error("document {ordinal}: not valid YAML: {source}")]
    Yaml {
        /// Number of the document, from 1.
        ordinal: usize,
        /// What the parser says, with line and column.
        source: serde_yaml::Error,
    },
    /// The document is of a kind that does not belong here.
    #[error(
        "document {ordinal}: kind `{kind}` of `{api_version}` is not known: expected Lakehouse, LakehousePipeline, LakehouseRun or LakehouseBackfill of lakehouse.rs/v1alpha1, or Secret of v1"
    )]
    Kind {
        /// Number of the document, from 1.
        ordinal: usize,
        /// Its `kind`.
        kind: String,
        /// Its `apiVersion`.
        api_version: String,
    },
    /// A field has the wrong type.
    #[error("{kind} {name}: {source}")]
    Shape {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// What does not fit.
        source: serde_json::Error,
    },
}

/// Splits a text into its YAML documents; empty ones are left out.
///
/// # Errors
/// [`ManifestError::Yaml`] with the number of the document that is not YAML.
pub fn documents(text: &str) -> Result<Vec<Document>, ManifestError> {
    let mut found = Vec::new();
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let ordinal = index + 1;
        let value = Value::deserialize(document).map_err(|source| ManifestError::Yaml { ordinal, source })?;
        if !value.is_null() {
            found.push(Document { ordinal, value });
        }
    }
    Ok(found)
}

impl Document {
    /// The text of a top-level or metadata field, or `""`.
    fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// `kind`, or an empty text.
    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// `metadata.name`, or an empty text.
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// The typed object.
    ///
    /// # Errors
    /// [`ManifestError::Kind`] for a foreign kind, [`ManifestError::Shape`] when a field has the wrong type.
    pub fn object(&self) -> Result<Object, ManifestError> {
        let shape = |source| ManifestError::Shape { kind: self.kind().into(), name: self.name().into(), source };
        let value = self.value.clone();
        let ours = format!("{GROUP}/{}", crate::VERSION);
        match (self.text("/apiVersion"), self.kind()) {
            (version, "Lakehouse") if version == ours => Ok(Object::Lakehouse(Box::new(serde_json::from_value(value).map_err(shape)?))),
            (version, "LakehousePipeline") if version == ours => {
                Ok(Object::Pipeline(Box::new(serde_json::from_value(value).map_err(shape)?)))
            }
            (version, "LakehouseRun") if version == ours => Ok(Object::Run(Box::new(serde_json::from_value(value).map_err(shape)?))),
            (version, "LakehouseBackfill") if version == ours => {
                Ok(Object::Backfill(Box::new(serde_json::from_value(value).map_err(shape)?)))
            }
            ("v1", "Secret") => Ok(Object::Secret(Box::new(serde_json::from_value(value).map_err(shape)?))),
            (api_version, kind) => {
                Err(ManifestError::Kind { ordinal: self.ordinal, kind: kind.to_owned(), api_version: api_version.to_owned() })
            }
        }
    }
}
