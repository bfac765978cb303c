//! The tables of one lakehouse.

use crate::iceberg_table::IcebergTable;
use crate::parquet_table::ParquetTable;
use crate::{Maintained, Maintenance, Result, Table, TableDef, TableError, TableFormat};
use futures::future::BoxFuture;
use iceberg_commit::{ObjectStoreIo, SqlCatalog};
use lakehouse_contract::TableRef;
use lakehouse_storage::{CatalogDb, Layer, LayerStore, Storage};
use std::sync::Arc;

/// Name under which the tables stand in the SQL catalog; readers must use the same.
pub const CATALOG_NAME: &str = "lakehouse";

/// Opens, creates and lists tables. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tables {
    storage: Storage,
    db: CatalogDb,
    catalog: Arc<SqlCatalog>,
}

impl Tables {
    /// Opens the tables in `storage` with the catalog in `db`; creates the tables of the catalog when they are absent.
    ///
    /// # Errors
    /// [`TableError::Commit`] when the catalog does not answer.
    pub async fn open(storage: Storage, db: CatalogDb) -> Result<Self> {
        let mut io = ObjectStoreIo::new();
        for (_, layer) in storage.layers() {
            io = io.with_store(layer.root_uri(), layer.object_store());
        }
        let catalog = SqlCatalog::open(db.pool().clone(), CATALOG_NAME, io).await?;
        crate::parquet_table::create_registry(&db).await?;
        Ok(Self { storage, db, catalog: Arc::new(catalog) })
    }

    /// Opens the tables of a store with the catalog at `uri` (`sqlite:///abs/catalog.db` or `postgresql://…`).
    pub async fn connect(storage: Storage, uri: &str) -> Result<Self> {
        Self::open(storage, CatalogDb::connect(uri).await?).await
    }

    /// The object store.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The catalog database.
    pub fn db(&self) -> &CatalogDb {
        &self.db
    }

    /// The table of a definition: created when absent, extended by columns that the definition adds, and otherwise checked.
    ///
    /// # Errors
    /// [`TableError::OwnedByOther`], [`TableError::SchemaMismatch`], [`TableError::LayoutMismatch`], [`TableError::Definition`].
    pub async fn ensure(&self, definition: &TableDef) -> Result<Arc<dyn Table>> {
        definition.validate()?;
        let layer = self.layer_of(&definition.table)?;
        if let Some(existing) = self.format_of(&definition.table).await?
            && existing != definition.format
        {
            return Err(TableError::LayoutMismatch {
                table: definition.table.clone(),
                what: "format",
                existing: existing.to_string(),
                defined: definition.format.to_string(),
            });
        }
        Ok(match definition.format {
            TableFormat::Iceberg => Arc::new(IcebergTable::ensure(&self.catalog, &self.db, layer, definition).await?),
            TableFormat::Parquet => Arc::new(ParquetTable::ensure(&self.db, layer, definition).await?),
        })
    }

    /// An existing table, for reading or for writing without a definition.
    pub async fn open_table(&self, table: &TableRef) -> Result<Option<Arc<dyn Table>>> {
        Ok(match self.format_of(table).await? {
            None => None,
            Some(TableFormat::Iceberg) => Some(Arc::new(IcebergTable::open(&self.catalog, &self.db, table).await?)),
            Some(TableFormat::Parquet) => Some(Arc::new(ParquetTable::open(&self.db, self.layer_of(table)?, table).await?)),
        })
    }

    /// Maintains an existing table of `owner`; none when there is no such table.
    ///
    /// Readers and writers may be at work meanwhile: what they need stays, see [`Maintenance`].
    ///
    /// # Errors
    /// [`TableError::OwnedByOther`], [`TableError::Definition`] for an age that is too short, or what store and catalog say. What was done
    /// until then stays done, and the table is whole.
    pub fn maintain<'a>(&'a self, table: &'a TableRef, owner: &'a str, what: &'a Maintenance) -> BoxFuture<'a, Result<Option<Maintained>>> {
        Box::pin(async move {
            what.validate(table)?;
            let layer = self.layer_of(table)?;
            Ok(match self.format_of(table).await? {
                None => None,
                Some(TableFormat::Iceberg) => {
                    Some(IcebergTable::open(&self.catalog, &self.db, table).await?.maintain(layer, owner, what).await?)
                }
                Some(TableFormat::Parquet) => Some(ParquetTable::open(&self.db, layer, table).await?.maintain(owner, what).await?),
            })
        })
    }

    /// Names of the tables of a namespace, ordered.
    pub async fn list(&self, namespace: &str) -> Result<Vec<TableRef>> {
        let mut names = self.catalog.list_tables(namespace).await?;
        names.extend(crate::parquet_table::list_registered(&self.db, namespace).await?);
        names.sort();
        names.dedup();
        Ok(names.into_iter().map(|name| TableRef::new(namespace, name)).collect())
    }

    async fn format_of(&self, table: &TableRef) -> Result<Option<TableFormat>> {
        if crate::parquet_table::is_registered(&self.db, table).await? {
            return Ok(Some(TableFormat::Parquet));
        }
        let exists = self.catalog.table_exists(&table.namespace, &table.name).await?;
        Ok(exists.then_some(TableFormat::Iceberg))
    }

    /// Namespaces `silver` and `quarantine` live in the silver layer, `gold` in the gold layer.
    fn layer_of(&self, table: &TableRef) -> Result<&LayerStore> {
        let layer = match table.namespace.as_str() {
            "silver" | "quarantine" => Layer::Silver,
            "gold" => Layer::Gold,
            other => {
                return Err(TableError::Definition {
                    table: table.clone(),
                    reason: format!("namespace {other} is none of silver, quarantine, gold"),
                });
            }
        };
        Ok(self.storage.layer(layer)?)
    }
}
