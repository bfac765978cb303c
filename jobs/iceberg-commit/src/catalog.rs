//! The SQL catalog: names of tables and the location of their current metadata, in the schema that other Iceberg clients share.

use crate::error::show;
use crate::turns::Turns;
use crate::{CommitError, ObjectStoreIo, Result};
use iceberg::io::FileIO;
use iceberg::spec::{Schema, SortOrder, TableMetadata, TableMetadataBuilder, UnboundPartitionSpec};
use iceberg::table::Table;
use iceberg::{MetadataLocation, NamespaceIdent, Runtime, TableCreation, TableIdent};
use sqlx::any::{AnyArguments, AnyQueryResult, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AnyPool, Row};
use std::collections::HashMap;
use std::time::Duration;

const CREATE_TABLES: &str = "CREATE TABLE IF NOT EXISTS iceberg_tables (
    catalog_name VARCHAR(255) NOT NULL, table_namespace VARCHAR(255) NOT NULL, table_name VARCHAR(255) NOT NULL,
    metadata_location VARCHAR(1000), previous_metadata_location VARCHAR(1000), iceberg_type VARCHAR(5),
    PRIMARY KEY (catalog_name, table_namespace, table_name))";
const CREATE_NAMESPACES: &str = "CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (
    catalog_name VARCHAR(255) NOT NULL, namespace VARCHAR(255) NOT NULL,
    property_key VARCHAR(255) NOT NULL, property_value VARCHAR(1000),
    PRIMARY KEY (catalog_name, namespace, property_key))";

const INSERT: &str = "INSERT INTO iceberg_tables
    (catalog_name, table_namespace, table_name, metadata_location, previous_metadata_location, iceberg_type)
    VALUES ($1, $2, $3, $4, NULL, 'TABLE') ON CONFLICT DO NOTHING";

/// Longest wait for the answer to one statement.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// A catalog in a SQL database (SQLite or Postgres).
///
/// On SQLite, open the pool in WAL mode with a busy timeout: several processes may work on one file.
#[derive(Debug)]
pub struct SqlCatalog {
    pub(crate) name: String,
    pool: AnyPool,
    file_io: FileIO,
    pub(crate) turns: Turns,
    #[cfg(test)]
    pub(crate) faults: crate::commit::tests::Faults,
}

/// A table to create.
#[derive(Clone, Debug)]
pub struct NewTable {
    /// Absolute location; must be unique for ever, so put a UUID into it.
    pub location: String,
    /// Columns; field ids are assigned anew.
    pub schema: Schema,
    /// Partition fields, by the field ids of `schema`.
    pub partitions: UnboundPartitionSpec,
    /// Sort order, by the field ids of `schema`.
    pub sort_order: SortOrder,
    /// Table properties.
    pub properties: HashMap<String, String>,
}

impl SqlCatalog {
    /// Opens the catalog `name` and creates its two tables when they are absent.
    ///
    /// # Errors
    /// [`CommitError::Database`].
    pub async fn open(pool: AnyPool, name: &str, io: ObjectStoreIo) -> Result<Self> {
        let catalog = Self {
            name: name.to_owned(),
            pool,
            file_io: io.file_io(),
            turns: Turns::default(),
            #[cfg(test)]
            faults: Default::default(),
        };
        for (create, probe) in [
            (CREATE_TABLES, "SELECT 1 FROM iceberg_tables WHERE 1 = 0"),
            (CREATE_NAMESPACES, "SELECT 1 FROM iceberg_namespace_properties WHERE 1 = 0"),
        ] {
            if let Err(error) = catalog.execute("create its tables", sqlx::query(create)).await {
                // Two concurrent CREATE IF NOT EXISTS may collide inside Postgres; what counts is that the table is there.
                catalog.rows("create its tables", sqlx::query(probe)).await.map_err(|_| error)?;
            }
        }
        Ok(catalog)
    }

    /// The same catalog with turns of its own, as another process has them.
    #[cfg(test)]
    pub(crate) fn fork(&self) -> Self {
        Self {
            name: self.name.clone(),
            pool: self.pool.clone(),
            file_io: self.file_io.clone(),
            turns: Turns::default(),
            faults: Default::default(),
        }
    }

    /// File access of this catalog's tables.
    pub fn file_io(&self) -> &FileIO {
        &self.file_io
    }

    /// Creates a namespace; one that exists is fine.
    pub async fn create_namespace(&self, namespace: &str) -> Result<()> {
        let sql = "INSERT INTO iceberg_namespace_properties (catalog_name, namespace, property_key, property_value)
                   VALUES ($1, $2, 'exists', 'true') ON CONFLICT DO NOTHING";
        self.execute("create a namespace", sqlx::query(sql).bind(&self.name).bind(namespace)).await.map(|_| ())
    }

    /// Names of the tables of a namespace, ordered.
    pub async fn list_tables(&self, namespace: &str) -> Result<Vec<String>> {
        let sql = "SELECT table_name FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2
                   AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL) ORDER BY table_name";
        let rows = self.rows("list tables", sqlx::query(sql).bind(&self.name).bind(namespace)).await?;
        rows.iter().map(|row| row.try_get(0).map_err(|error| self.failed("list tables", &error))).collect()
    }

    /// Whether a table exists.
    pub async fn table_exists(&self, namespace: &str, name: &str) -> Result<bool> {
        Ok(self.location(&ident(namespace, name)).await?.is_some())
    }

    /// Creates a table, unless it exists: then the existing one is returned. Concurrent callers get the same table.
    pub async fn create_table(&self, namespace: &str, name: &str, new: NewTable) -> Result<Table> {
        let ident = ident(namespace, name);
        self.create_namespace(namespace).await?;
        let creation = TableCreation::builder()
            .name(name.to_owned())
            .location(new.location.clone())
            .schema(new.schema)
            .partition_spec(new.partitions)
            .sort_order(new.sort_order)
            .properties(new.properties)
            .build();
        let built = TableMetadataBuilder::from_table_creation(creation).and_then(TableMetadataBuilder::build);
        let metadata = built.map_err(CommitError::iceberg(&ident))?.metadata;
        let location = MetadataLocation::new_with_metadata(&new.location, &metadata);
        metadata.write_to(&self.file_io, &location).await.map_err(CommitError::iceberg(&ident))?;
        let text = location.to_string();
        let query = sqlx::query(INSERT).bind(&self.name).bind(namespace).bind(name).bind(&text);
        let created = self.execute("create a table", query).await?.rows_affected() == 1;
        if !created && let Err(error) = self.file_io.delete(&text).await {
            tracing::debug!(%error, location = text, "left an unused metadata file");
        }
        self.load(&ident).await
    }

    /// Location of the current metadata file of a table; none when there is no such table.
    pub async fn metadata_location(&self, namespace: &str, name: &str) -> Result<Option<String>> {
        self.location(&ident(namespace, name)).await
    }

    /// A table as it is in a metadata file, whatever the catalog says.
    pub fn at(&self, namespace: &str, name: &str, metadata: TableMetadata, location: &str) -> Result<Table> {
        self.table(&ident(namespace, name), metadata, location.to_owned())
    }

    /// Puts a table that exists by its files into the catalog; one that is there already stays as it is.
    pub async fn register_table(&self, namespace: &str, name: &str, metadata_location: &str) -> Result<()> {
        self.create_namespace(namespace).await?;
        let query = sqlx::query(INSERT).bind(&self.name).bind(namespace).bind(name).bind(metadata_location);
        self.execute("register a table", query).await.map(drop)
    }

    /// Moves a table from one metadata file to a later one; false when it is not at the first any more.
    pub async fn advance(&self, namespace: &str, name: &str, from: &str, to: &str) -> Result<bool> {
        self.swap(&ident(namespace, name), from, to).await
    }

    /// Loads a table by its names.
    ///
    /// # Errors
    /// [`CommitError::NoSuchTable`].
    pub async fn load_table(&self, namespace: &str, name: &str) -> Result<Table> {
        self.load(&ident(namespace, name)).await
    }

    pub(crate) async fn load(&self, ident: &TableIdent) -> Result<Table> {
        let location = self.location(ident).await?.ok_or_else(|| CommitError::NoSuchTable { table: show(ident) })?;
        let metadata = TableMetadata::read_from(&self.file_io, &location).await.map_err(CommitError::iceberg(ident))?;
        self.table(ident, metadata, location)
    }

    pub(crate) fn table(&self, ident: &TableIdent, metadata: TableMetadata, location: String) -> Result<Table> {
        let runtime = Runtime::try_current().map_err(CommitError::iceberg(ident))?;
        let table = Table::builder()
            .file_io(self.file_io.clone())
            .metadata_location(location)
            .metadata(metadata)
            .identifier(ident.clone())
            .runtime(runtime)
            .build();
        table.map_err(CommitError::iceberg(ident))
    }

    /// Moves a table from one metadata file to the next, if it still is at the first. This is the commit point.
    ///
    /// False means that another writer was faster; an error means that the outcome is unknown.
    pub(crate) async fn swap(&self, ident: &TableIdent, from: &str, to: &str) -> Result<bool> {
        #[cfg(test)]
        self.faults.before_swap(&self.name)?;
        let sql = "UPDATE iceberg_tables SET metadata_location = $1, previous_metadata_location = $2
                   WHERE catalog_name = $3 AND table_namespace = $4 AND table_name = $5 AND metadata_location = $6";
        let namespace = ident.namespace().join(".");
        let query = sqlx::query(sql).bind(to).bind(from).bind(&self.name).bind(&namespace).bind(ident.name()).bind(from);
        let done = self.execute("commit", query).await?;
        #[cfg(test)]
        self.faults.after_swap(&self.name)?;
        Ok(done.rows_affected() == 1)
    }

    async fn location(&self, ident: &TableIdent) -> Result<Option<String>> {
        let sql = "SELECT metadata_location FROM iceberg_tables WHERE catalog_name = $1 AND table_namespace = $2 AND table_name = $3
                   AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL)";
        let namespace = ident.namespace().join(".");
        let rows = self.rows("load a table", sqlx::query(sql).bind(&self.name).bind(&namespace).bind(ident.name())).await?;
        match rows.first() {
            None => Ok(None),
            Some(row) => row.try_get::<Option<String>, _>(0).map_err(|error| self.failed("load a table", &error)),
        }
    }

    async fn execute<'q>(&self, operation: &'static str, query: Query<'q, Any, AnyArguments<'q>>) -> Result<AnyQueryResult> {
        self.bounded(operation, query.execute(&self.pool)).await
    }

    async fn rows<'q>(&self, operation: &'static str, query: Query<'q, Any, AnyArguments<'q>>) -> Result<Vec<AnyRow>> {
        self.bounded(operation, query.fetch_all(&self.pool)).await
    }

    async fn bounded<T>(&self, operation: &'static str, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T> {
        match tokio::time::timeout(STATEMENT_TIMEOUT, work).await {
            Ok(done) => done.map_err(|error| self.failed(operation, &error)),
            Err(_) => Err(CommitError::Database {
                catalog: self.name.clone(),
                operation,
                reason: format!("no answer within {} s", STATEMENT_TIMEOUT.as_secs()),
            }),
        }
    }

    fn failed(&self, operation: &'static str, error: &sqlx::Error) -> CommitError {
        CommitError::Database { catalog: self.name.clone(), operation, reason: error.to_string() }
    }
}

/// Identifier of a table; a namespace is one level.
pub(crate) fn ident(namespace: &str, name: &str) -> TableIdent {
    TableIdent::new(NamespaceIdent::new(namespace.to_owned()), name.to_owned())
}
