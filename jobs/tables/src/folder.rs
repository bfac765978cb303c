//! Where a table's files lie.

use lakehouse_contract::TableRef;

/// Folder of a table inside its layer. The quarantine has a folder of its own that listing readers skip.
pub(crate) fn folder_of(table: &TableRef) -> String {
    if table.namespace == "quarantine" { format!("_quarantine/{}", table.name) } else { table.name.clone() }
}
