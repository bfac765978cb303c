//! The tables of one lakehouse.

mod register;

use crate::delta_table::{DeltaTable, Logs};
use crate::folder::folder_of;
use crate::iceberg_table::IcebergTable;
use crate::parquet_table::ParquetTable;
use crate::writer;
use crate::{Doomed, Erased, Evolution, Maintained, Maintenance, Result, Table, TableDef, TableError, TableFormat, registry};
use futures::future::BoxFuture;
use iceberg_commit::SqlCatalog;
use lakehouse_contract::TableRef;
use lakehouse_storage::{CatalogDb, Layer, LayerStore, Storage};
use std::sync::Arc;

pub use register::{Registered, Registration};

/// Name under which the tables stand in the SQL catalog; readers must use the same.
pub const CATALOG_NAME: &str = "lakehouse";

/// Opens, creates and lists tables. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tables {
    storage: Storage,
    db: CatalogDb,
    catalog: Arc<SqlCatalog>,
    logs: Arc<Logs>,
}

impl Tables {
    /// Opens the tables in `storage` with the catalog in `db`; creates the tables of the catalog when they are absent.
    ///
    /// # Errors
    /// [`TableError::Commit`] when the catalog does not answer.
    pub async fn open(storage: Storage, db: CatalogDb) -> Result<Self> {
        let io = writer::io(storage.layers().map(|(_, layer)| layer));
        let catalog = SqlCatalog::open(db.pool().clone(), CATALOG_NAME, io).await?;
        registry::create(&db).await?;
        Ok(Self { storage, db, catalog: Arc::new(catalog), logs: Arc::default() })
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

    /// What [`Tables::ensure`] would do for a definition; nothing is written.
    ///
    /// # Errors
    /// [`TableError::Definition`] for a definition that no table can have; what the catalog or the store say.
    pub async fn plan(&self, definition: &TableDef) -> Result<Evolution> {
        definition.validate()?;
        Ok(match self.format_of(&definition.table).await? {
            None => {
                crate::schema::to_iceberg(definition)?;
                Evolution::default()
            }
            Some(existing) if existing != definition.format => {
                Evolution { exists: true, refused: vec![other_format(existing, definition)], ..Evolution::default() }
            }
            Some(TableFormat::Iceberg) => {
                IcebergTable::open(&self.catalog, &self.db, &definition.table).await?.evolution(definition).await?
            }
            Some(TableFormat::Parquet) => {
                ParquetTable::open(&self.db, self.layer_of(&definition.table)?, &definition.table).await?.evolution(definition).await?
            }
            Some(TableFormat::Delta) => self.delta(&definition.table)?.evolution(definition).await?,
        })
    }

    /// Checks what [`Tables::ensure`] checks, and changes nothing.
    ///
    /// # Errors
    /// As [`Tables::ensure`].
    pub async fn ensure_fits(&self, definition: &TableDef) -> Result<()> {
        definition.validate()?;
        match self.existing_format(definition).await? {
            None => crate::schema::to_iceberg(definition).map(drop),
            Some(TableFormat::Iceberg) => {
                IcebergTable::open(&self.catalog, &self.db, &definition.table).await?.ensure_fits(definition).await
            }
            Some(TableFormat::Parquet) => {
                ParquetTable::open(&self.db, self.layer_of(&definition.table)?, &definition.table).await?.ensure_fits(definition).await
            }
            Some(TableFormat::Delta) => self.delta(&definition.table)?.ensure_fits(definition).await,
        }
    }

    /// The format of an existing table, which must be that of the definition.
    async fn existing_format(&self, definition: &TableDef) -> Result<Option<TableFormat>> {
        match self.format_of(&definition.table).await? {
            Some(existing) if existing != definition.format => {
                Err(TableError::SchemaMismatch { table: definition.table.clone(), refused: vec![other_format(existing, definition)] })
            }
            found => Ok(found),
        }
    }

    /// The table of a definition: created when absent, otherwise changed into what the definition describes, in one commit.
    ///
    /// # Errors
    /// [`TableError::OwnedByOther`], [`TableError::SchemaMismatch`], [`TableError::Definition`].
    pub async fn ensure(&self, definition: &TableDef) -> Result<Arc<dyn Table>> {
        definition.validate()?;
        let layer = self.layer_of(&definition.table)?;
        self.existing_format(definition).await?;
        Ok(match definition.format {
            TableFormat::Iceberg => Arc::new(IcebergTable::ensure(&self.catalog, &self.db, layer, definition).await?),
            TableFormat::Parquet => Arc::new(ParquetTable::ensure(&self.db, layer, definition).await?),
            TableFormat::Delta => Arc::new(DeltaTable::ensure(&self.logs, &self.db, layer, definition).await?),
        })
    }

    /// As [`Self::ensure`], of a definition whose format is Iceberg.
    pub(crate) async fn ensure_iceberg(&self, definition: &TableDef) -> Result<IcebergTable> {
        definition.validate()?;
        self.existing_format(definition).await?;
        IcebergTable::ensure(&self.catalog, &self.db, self.layer_of(&definition.table)?, definition).await
    }

    /// An existing table, for reading or for writing without a definition.
    pub async fn open_table(&self, table: &TableRef) -> Result<Option<Arc<dyn Table>>> {
        Ok(match self.format_of(table).await? {
            None => None,
            Some(TableFormat::Iceberg) => Some(Arc::new(IcebergTable::open(&self.catalog, &self.db, table).await?)),
            Some(TableFormat::Parquet) => Some(Arc::new(ParquetTable::open(&self.db, self.layer_of(table)?, table).await?)),
            Some(TableFormat::Delta) => Some(Arc::new(self.delta(table)?)),
        })
    }

    /// Absolute location of an existing table: the folder with its files. None when there is no such table.
    ///
    /// # Errors
    /// What the catalog or the store says.
    pub async fn location(&self, table: &TableRef) -> Result<Option<String>> {
        Ok(match self.format_of(table).await? {
            None => None,
            Some(TableFormat::Iceberg) => {
                let open = self.catalog.load_table(&table.namespace, &table.name).await?;
                Some(open.metadata().location().trim_end_matches('/').to_owned())
            }
            Some(TableFormat::Parquet | TableFormat::Delta) => Some(self.layer_of(table)?.uri(&folder_of(table))),
        })
    }

    fn delta(&self, table: &TableRef) -> Result<DeltaTable> {
        DeltaTable::open(&self.logs, &self.db, self.layer_of(table)?, table)
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
                Some(TableFormat::Delta) => Some(self.delta(table)?.maintain(owner, what).await?),
            })
        })
    }

    /// Checks that a table, if it exists, is of `owner`.
    ///
    /// # Errors
    /// [`TableError::OwnedByOther`], or what store and catalog say.
    pub async fn check_owner(&self, table: &TableRef, owner: &str) -> Result<()> {
        match self.format_of(table).await? {
            None => Ok(()),
            Some(TableFormat::Iceberg) => {
                let open = IcebergTable::open(&self.catalog, &self.db, table).await?;
                open.check_owner(open.load().await?.metadata(), owner)
            }
            Some(TableFormat::Parquet) => {
                let open = ParquetTable::open(&self.db, self.layer_of(table)?, table).await?;
                open.check_owner(&open.load().await?, owner)
            }
            Some(TableFormat::Delta) => {
                let open = self.delta(table)?;
                open.check_owner(&open.load().await?, owner)
            }
        }
    }

    /// Erases rows of an existing table of `owner`, and what older versions of the table hold of them as far as its format lets this crate do it.
    /// None when there is no such table, or it has none of the columns. Nobody may write to the table meanwhile, or read older states of it.
    ///
    /// Every file below the table's folder is searched at the end, whether anything refers to it or not: see [`Erased::left`]. With `dry_run`
    /// nothing is written. Safe to repeat after a crash at any point.
    ///
    /// # Errors
    /// [`TableError::OwnedByOther`], [`TableError::Corrupt`] for a file that cannot be read, or what store and catalog say.
    pub fn erase<'a>(
        &'a self,
        table: &'a TableRef,
        owner: &'a str,
        doomed: &'a Doomed,
        dry_run: bool,
    ) -> BoxFuture<'a, Result<Option<Erased>>> {
        Box::pin(async move {
            let layer = self.layer_of(table)?;
            match self.format_of(table).await? {
                None => Ok(None),
                Some(TableFormat::Iceberg) => {
                    IcebergTable::open(&self.catalog, &self.db, table).await?.erase(layer, owner, doomed, dry_run).await
                }
                Some(TableFormat::Parquet) => ParquetTable::open(&self.db, layer, table).await?.erase(owner, doomed, dry_run).await,
                Some(TableFormat::Delta) => self.delta(table)?.erase(owner, doomed, dry_run).await,
            }
        })
    }

    /// Names of the tables of a namespace, ordered.
    pub async fn list(&self, namespace: &str) -> Result<Vec<TableRef>> {
        let mut names = self.catalog.list_tables(namespace).await?;
        names.extend(registry::names(&self.db, namespace).await?);
        names.sort();
        names.dedup();
        Ok(names.into_iter().map(|name| TableRef::new(namespace, name)).collect())
    }

    async fn format_of(&self, table: &TableRef) -> Result<Option<TableFormat>> {
        if let Some(format) = registry::format_of(&self.db, table).await? {
            return Ok(Some(format));
        }
        let exists = self.catalog.table_exists(&table.namespace, &table.name).await?;
        Ok(exists.then_some(TableFormat::Iceberg))
    }

    /// Namespaces `silver`, `quarantine` and `quality` live in the silver layer, `gold` in the gold layer.
    fn layer_of(&self, table: &TableRef) -> Result<&LayerStore> {
        let layer = match table.namespace.as_str() {
            "silver" | "quarantine" | "quality" => Layer::Silver,
            "gold" => Layer::Gold,
            other => {
                return Err(TableError::Definition {
                    table: table.clone(),
                    reason: format!("namespace {other} is none of silver, quarantine, quality, gold"),
                });
            }
        };
        Ok(self.storage.layer(layer)?)
    }
}

fn other_format(existing: TableFormat, definition: &TableDef) -> String {
    format!(
        "it has the format {existing}, the definition says {}: an existing table keeps its format; give the table another name and run its \
         intervals again",
        definition.format
    )
}
