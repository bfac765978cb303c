//! Which tables there are that the Iceberg catalog does not list: other clients read that one, and it must hold Iceberg tables only.

use crate::{Result, TableError, TableFormat};
use lakehouse_contract::TableRef;
use lakehouse_storage::{CatalogDb, StorageError};
use sqlx::Row;

/// The formats that are listed here, each in a database table of its own.
const FORMATS: [TableFormat; 2] = [TableFormat::Parquet, TableFormat::Delta];

fn list_of(format: TableFormat) -> String {
    format!("lakehouse_{}_tables", format.name())
}

/// Creates the lists when they are absent.
pub(crate) async fn create(db: &CatalogDb) -> Result<()> {
    for list in FORMATS.map(list_of) {
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {list} (table_namespace VARCHAR(255) NOT NULL, table_name VARCHAR(255) NOT NULL,
             PRIMARY KEY (table_namespace, table_name))"
        );
        if let Err(error) = sqlx::query(&create).execute(db.pool()).await {
            // Two concurrent CREATE IF NOT EXISTS may collide inside Postgres; what counts is that the table is there.
            let probe = format!("SELECT 1 FROM {list} WHERE 1 = 0");
            sqlx::query(&probe).fetch_optional(db.pool()).await.map_err(|_| failed(db, &error))?;
        }
    }
    Ok(())
}

/// Lists a table; one that is listed already is fine.
pub(crate) async fn register(db: &CatalogDb, format: TableFormat, table: &TableRef) -> Result<()> {
    let sql = format!("INSERT INTO {} (table_namespace, table_name) VALUES ($1, $2) ON CONFLICT DO NOTHING", list_of(format));
    let done = sqlx::query(&sql).bind(&table.namespace).bind(&table.name).execute(db.pool()).await;
    done.map(|_| ()).map_err(|error| failed(db, &error))
}

/// The format of a listed table.
pub(crate) async fn format_of(db: &CatalogDb, table: &TableRef) -> Result<Option<TableFormat>> {
    for format in FORMATS {
        let sql = format!("SELECT 1 FROM {} WHERE table_namespace = $1 AND table_name = $2", list_of(format));
        let found = sqlx::query(&sql).bind(&table.namespace).bind(&table.name).fetch_optional(db.pool()).await;
        if found.map_err(|error| failed(db, &error))?.is_some() {
            return Ok(Some(format));
        }
    }
    Ok(None)
}

/// Names of the listed tables of a namespace.
pub(crate) async fn names(db: &CatalogDb, namespace: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for list in FORMATS.map(list_of) {
        let sql = format!("SELECT table_name FROM {list} WHERE table_namespace = $1");
        let rows = sqlx::query(&sql).bind(namespace).fetch_all(db.pool()).await.map_err(|error| failed(db, &error))?;
        for row in rows {
            names.push(row.try_get(0).map_err(|error| failed(db, &error))?);
        }
    }
    Ok(names)
}

fn failed(db: &CatalogDb, error: &sqlx::Error) -> TableError {
    TableError::Storage(StorageError::Catalog { uri: db.shown_uri().to_owned(), reason: error.to_string() })
}
