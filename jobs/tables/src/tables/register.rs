//! Tables whose catalog was lost, or restored from an older backup: found by their files and registered again.

use super::Tables;
use crate::delta_table::DeltaTable;
use crate::folder::folder_of;
use crate::parquet_table::ParquetTable;
use crate::{Result, TableError, TableFormat, registry};
use iceberg::spec::TableMetadata;
use iceberg_commit::live_files;
use lakehouse_contract::TableRef;
use lakehouse_storage::{Layer, LayerStore};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What was done to the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// The table was not in it and is now.
    Registered,
    /// It was at an older metadata file, from which the newest one descends, and is at that one now.
    Advanced,
    /// It was as it should be.
    Unchanged,
}

/// A registered table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The table.
    pub table: TableRef,
    /// Its format.
    pub format: TableFormat,
    /// What was done.
    pub registration: Registration,
    /// Location of the metadata file (Iceberg) or of the folder.
    pub location: String,
}

/// The files of a table by which it is known.
#[derive(Clone, Debug, Default)]
struct Traces {
    /// Locations of the metadata files of an Iceberg table, by the number in their names.
    metadata: BTreeMap<u64, BTreeSet<String>>,
    delta: bool,
    parquet: bool,
}

impl Tables {
    /// The tables that have files in the store, whether the catalog has them or not, ordered.
    ///
    /// # Errors
    /// What the store says.
    pub async fn found(&self) -> Result<Vec<TableRef>> {
        let mut tables = BTreeSet::new();
        for layer in [Layer::Silver, Layer::Gold] {
            let listed = self.storage.layer(layer)?.list("").await?;
            tables.extend(listed.iter().filter_map(|object| trace(&object.key)).map(|trace| named(layer, trace.name)));
        }
        Ok(tables.into_iter().collect())
    }

    /// Puts a table into the catalog by its files: an Iceberg table at `metadata`, or at its newest metadata file; a Delta or Parquet table by
    /// its folder. A table that is there already is moved forward to the newest file, if that descends from the one it is at.
    ///
    /// # Errors
    /// [`TableError::Definition`] when there is nothing to be found, more than one file may be the newest, or the one that is named does not follow
    /// the one that the catalog has; [`TableError::Corrupt`] when a data file is missing.
    pub async fn register(&self, table: &TableRef, metadata: Option<&str>) -> Result<Registered> {
        let layer = self.layer_of(table)?;
        if let Some(location) = metadata {
            return self.register_iceberg(table, layer, location).await;
        }
        let traces = traces(layer, table).await?;
        let invalid = |reason: String| TableError::Definition { table: table.clone(), reason };
        let kinds = [!traces.metadata.is_empty(), traces.delta, traces.parquet].iter().filter(|found| **found).count();
        match kinds {
            0 => Err(invalid(format!("there are no files of it in {}", layer.base_uri()))),
            1 if traces.delta => self.register_folder(table, layer, TableFormat::Delta).await,
            1 if traces.parquet => self.register_folder(table, layer, TableFormat::Parquet).await,
            1 => {
                let newest = self.newest(table, &traces).await?;
                self.register_iceberg(table, layer, &newest).await
            }
            _ => Err(invalid(format!("{} has files of it in more than one format", layer.base_uri()))),
        }
    }

    /// The newest metadata file of a table. The number in its name says how many came before it.
    ///
    /// Two of the same number are attempts at the same commit, of which the catalog had one; and two folders are two tables, one after the other
    /// under the same name. Nothing in the store says which counts.
    async fn newest(&self, table: &TableRef, traces: &Traces) -> Result<String> {
        let folder = |location: &str| location.rsplit_once("/metadata/").map(|(folder, _)| folder.to_owned()).unwrap_or_default();
        let folders: BTreeSet<String> = traces.metadata.values().flatten().map(|location| folder(location)).collect();
        let last = traces.metadata.values().next_back().cloned().unwrap_or_default();
        let mut candidates: Vec<String> = last.into_iter().collect();
        if folders.len() > 1 {
            candidates = Vec::new();
            for folder in &folders {
                let own = traces.metadata.values().rev().flatten().find(|location| location.starts_with(&format!("{folder}/")));
                candidates.extend(own.cloned());
            }
        }
        match candidates.as_slice() {
            [one] => Ok(one.clone()),
            many => Err(TableError::Definition {
                table: table.clone(),
                reason: format!("one of these is its newest metadata file, name it with --metadata: {}", many.join(", ")),
            }),
        }
    }

    async fn register_iceberg(&self, table: &TableRef, layer: &LayerStore, location: &str) -> Result<Registered> {
        let TableRef { namespace, name } = table;
        let invalid = |reason: String| TableError::Definition { table: table.clone(), reason };
        if registry::format_of(&self.db, table).await?.is_some() {
            return Err(invalid("the catalog has a table of this name in another format".to_owned()));
        }
        let metadata = TableMetadata::read_from(self.catalog.file_io(), location).await.map_err(TableError::iceberg(table))?;
        let folder = layer.key_of(metadata.location()).map(str::to_owned).ok_or_else(|| {
            invalid(format!("{location} is of a table at {}, which does not lie in {}", metadata.location(), layer.base_uri()))
        })?;
        let registered =
            |registration| Registered { table: table.clone(), format: TableFormat::Iceberg, registration, location: location.to_owned() };
        let known = self.catalog.metadata_location(namespace, name).await?;
        if known.as_deref() == Some(location) {
            return Ok(registered(Registration::Unchanged));
        }
        let open = self.catalog.at(namespace, name, metadata, location)?;
        let there: HashSet<String> =
            layer.list(&format!("{folder}/data")).await?.into_iter().map(|object| layer.uri(&object.key)).collect();
        for live in live_files(&open).await? {
            if !there.contains(live.file.file_path()) {
                return Err(TableError::Corrupt {
                    table: table.clone(),
                    what: location.to_owned(),
                    reason: format!("its data file {} is missing", live.file.file_path()),
                });
            }
        }
        let Some(known) = known else {
            self.catalog.register_table(namespace, name, location).await?;
            return Ok(registered(Registration::Registered));
        };
        if !open.metadata().metadata_log().iter().any(|entry| entry.metadata_file == known) {
            return Err(invalid(format!("the catalog is at {known}, and {location} does not come after it")));
        }
        if !self.catalog.advance(namespace, name, &known, location).await? {
            return Err(TableError::Conflict { table: table.clone(), attempts: 1 });
        }
        Ok(registered(Registration::Advanced))
    }

    async fn register_folder(&self, table: &TableRef, layer: &LayerStore, format: TableFormat) -> Result<Registered> {
        if self.catalog.table_exists(&table.namespace, &table.name).await? {
            let reason = "the catalog has an Iceberg table of this name".to_owned();
            return Err(TableError::Definition { table: table.clone(), reason });
        }
        // It must be readable as what it is registered as.
        match format {
            TableFormat::Delta => DeltaTable::open(&self.logs, &self.db, layer, table)?.load().await.map(drop)?,
            _ => ParquetTable::open(&self.db, layer, table).await?.load().await.map(drop)?,
        }
        let registration = match registry::format_of(&self.db, table).await? {
            Some(known) if known == format => Registration::Unchanged,
            Some(known) => {
                let reason = format!("the catalog has it in the format {known}, its files are {format}");
                return Err(TableError::Definition { table: table.clone(), reason });
            }
            None => {
                registry::register(&self.db, format, table).await?;
                Registration::Registered
            }
        };
        Ok(Registered { table: table.clone(), format, registration, location: layer.uri(&folder_of(table)) })
    }
}

/// What a key of a layer says of a table.
struct Trace<'a> {
    /// `NAME` or `_quarantine/NAME`.
    name: &'a str,
    kind: Kind,
}

enum Kind {
    Metadata(u64),
    Delta,
    Parquet,
}

fn trace(key: &str) -> Option<Trace<'_>> {
    if let Some((folder, file)) = key.split_once("/metadata/") {
        // A folder is NAME-UUID, see the table's making; a file is NUMBER-UUID.metadata.json.
        let (name, unique) = folder.rsplit_once('-')?;
        let number = file.strip_suffix(".metadata.json")?.split_once('-')?.0.parse().ok()?;
        let is_unique = unique.len() == 32 && unique.bytes().all(|byte| byte.is_ascii_hexdigit());
        return (is_unique && is_table(name)).then_some(Trace { name, kind: Kind::Metadata(number) });
    }
    if let Some((name, file)) = key.split_once("/_delta_log/") {
        return (file.ends_with(".json") && is_table(name)).then_some(Trace { name, kind: Kind::Delta });
    }
    let (name, file) = key.split_once("/_manifest/")?;
    (file.ends_with(".json") && is_table(name)).then_some(Trace { name, kind: Kind::Parquet })
}

fn is_table(folder: &str) -> bool {
    let name = folder.strip_prefix("_quarantine/").unwrap_or(folder);
    !name.is_empty() && !name.contains('/') && !name.starts_with('_')
}

fn named(layer: Layer, folder: &str) -> TableRef {
    match folder.strip_prefix("_quarantine/") {
        Some(name) => TableRef::new("quarantine", name),
        None => TableRef::new(layer.name(), folder),
    }
}

/// What the store has of a table.
async fn traces(layer: &LayerStore, table: &TableRef) -> Result<Traces> {
    let mut traces = Traces::default();
    let own = folder_of(table);
    for object in layer.list(if table.namespace == "quarantine" { "_quarantine" } else { "" }).await? {
        let Some(trace) = trace(&object.key).filter(|trace| trace.name == own) else { continue };
        match trace.kind {
            Kind::Metadata(number) => {
                traces.metadata.entry(number).or_default().insert(layer.uri(&object.key));
            }
            Kind::Delta => traces.delta = true,
            Kind::Parquet => traces.parquet = true,
        }
    }
    Ok(traces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_known_by_their_files() {
        let name = |key: &str| trace(key).map(|trace| trace.name.to_owned());
        let unique = "0123456789abcdef0123456789abcdef";
        for (key, expected) in [
            (format!("events-{unique}/metadata/00012-aa.metadata.json"), Some("events")),
            (format!("_quarantine/e-v-{unique}/metadata/00000-aa.metadata.json"), Some("_quarantine/e-v")),
            (format!("events-{unique}/metadata/snap-1.avro"), None),
            (format!("events-{unique}/data/00000-aa.metadata.json"), None),
            ("visits/_delta_log/00000000000000000000.json".to_owned(), Some("visits")),
            ("visits/_delta_log/00000000000000000010.checkpoint.parquet".to_owned(), None),
            ("_quarantine/visits/_delta_log/00000000000000000000.json".to_owned(), Some("_quarantine/visits")),
            ("pulses/_manifest/000000000001.json".to_owned(), Some("pulses")),
            ("_lakehouse/runs/a/_manifest/000000000001.json".to_owned(), None),
        ] {
            assert_eq!(name(&key).as_deref(), expected, "{key}");
        }
    }
}
