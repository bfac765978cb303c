//! Files of manifests: pipelines, the Lakehouse they live in, and Secrets.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Secret;
use lakehouse_api::{
    Lakehouse, LakehousePipeline, LakehouseSpec,
    common::SecretKey,
    lakehouse::{Buckets, Catalog, Connection, ObjectStore, SqlCatalog},
    manifest::{Document, Object, documents},
};

use crate::CliError;

/// A document with the file it stands in.
#[derive(Clone, Debug)]
pub struct Located {
    /// The file.
    pub file: PathBuf,
    /// The document.
    pub document: Document,
}

/// What the files hold.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    /// Every document of our group.
    pub documents: Vec<Located>,
    /// Pipelines, in the order of the files.
    pub pipelines: Vec<(PathBuf, LakehousePipeline)>,
    /// Lakehouses by name.
    pub lakehouses: BTreeMap<String, Lakehouse>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, Secret>,
    /// What cannot be read at all, as `file: message`.
    pub unreadable: Vec<String>,
}

/// File beside a pipeline from which its Lakehouse is taken when the given files have none.
const COMPANION: &str = "lakehouse.yaml";

impl Bundle {
    /// Reads files. Where they have a pipeline and no Lakehouse, a `lakehouse.yaml` beside the first file is read too.
    ///
    /// # Errors
    /// [`CliError::File`] for a file that cannot be read; what is wrong inside of files is collected in the bundle.
    pub fn read(files: &[PathBuf]) -> Result<Self, CliError> {
        let mut bundle = Self::default();
        for file in files {
            bundle.add(file)?;
        }
        let companion = files.first().and_then(|file| file.parent()).map(|folder| folder.join(COMPANION));
        if bundle.lakehouses.is_empty()
            && !bundle.pipelines.is_empty()
            && let Some(companion) = companion.filter(|path| path.is_file() && !files.contains(path))
        {
            bundle.add(&companion)?;
        }
        Ok(bundle)
    }

    fn add(&mut self, file: &Path) -> Result<(), CliError> {
        let text = std::fs::read_to_string(file).map_err(|source| CliError::File { path: file.to_owned(), source })?;
        let documents = match documents(&text) {
            Ok(documents) => documents,
            Err(error) => {
                self.unreadable.push(format!("{}: {}", file.display(), one_line(&error.to_string())));
                return Ok(());
            }
        };
        for document in documents {
            let object = document.object();
            let located = Located { file: file.to_owned(), document };
            match object {
                Ok(Object::Pipeline(pipeline)) => self.pipelines.push((file.to_owned(), *pipeline)),
                Ok(Object::Lakehouse(lakehouse)) => {
                    self.lakehouses.insert(located.document.name().to_owned(), *lakehouse);
                }
                Ok(Object::Secret(secret)) => {
                    self.secrets.insert(located.document.name().to_owned(), *secret);
                    continue;
                }
                Ok(Object::Run(_) | Object::Backfill(_)) => {}
                // A field of the wrong type: the schema says more about it than the parser of our types, unless it has nothing to say.
                Err(error) if lakehouse_api::validate::validate(&located.document.value).is_empty() => {
                    self.unreadable.push(format!("{}: {}", file.display(), one_line(&error.to_string())));
                    continue;
                }
                Err(_) => {}
            }
            self.documents.push(located);
        }
        Ok(())
    }

    /// The Lakehouse of a pipeline: the one it names, or a local one when the files have none.
    ///
    /// # Errors
    /// The message for a name that the files do not have.
    pub fn lakehouse_of(&self, pipeline: &LakehousePipeline) -> Result<LakehouseSpec, String> {
        let name = &pipeline.spec.lakehouse;
        match self.lakehouses.get(name) {
            Some(lakehouse) => Ok(lakehouse.spec.clone()),
            None if self.lakehouses.is_empty() => Ok(local_lakehouse()),
            None => {
                let known = self.lakehouses.keys().cloned().collect::<Vec<_>>().join(", ");
                Err(format!("spec.lakehouse: the files have no Lakehouse `{name}`; they have: {known}"))
            }
        }
    }

    /// Replaces the base URL of a connection in every Lakehouse, adding it where it is missing.
    pub fn set_connection(&mut self, name: &str, base_url: &str) {
        if self.lakehouses.is_empty() {
            for (_, pipeline) in &self.pipelines {
                let lakehouse = Lakehouse::new(&pipeline.spec.lakehouse, local_lakehouse());
                self.lakehouses.insert(pipeline.spec.lakehouse.clone(), lakehouse);
            }
        }
        for lakehouse in self.lakehouses.values_mut() {
            let connections = &mut lakehouse.spec.connections;
            match connections.iter_mut().find(|connection| connection.name == name) {
                Some(connection) => connection.base_url = base_url.to_owned(),
                None => connections.push(Connection {
                    name: name.to_owned(),
                    base_url: base_url.to_owned(),
                    authorization_secret: None,
                    archive: None,
                    allowed_networks: Vec::new(),
                    resource_hosts: Vec::new(),
                }),
            }
        }
    }
}

/// A Lakehouse for files that have none. On a laptop store and catalog are those of `--local`, whatever a Lakehouse says.
fn local_lakehouse() -> LakehouseSpec {
    LakehouseSpec {
        object_store: ObjectStore { endpoint: None, region: "local".to_owned(), credentials_secret: "none".to_owned() },
        buckets: Buckets::default(),
        catalog: Catalog { sql: SqlCatalog { uri_secret: SecretKey { name: "none".to_owned(), key: "uri".to_owned() } } },
        connections: Vec::new(),
        lineage: None,
    }
}

/// White space as single spaces.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
