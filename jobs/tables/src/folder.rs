//! Where a table's files lie.

use lakehouse_contract::TableRef;

/// Folder of a table inside its layer. Quarantine and quality have folders of their own that listing readers skip.
pub(crate) fn folder_of(table: &TableRef) -> String {
    match table.namespace.as_str() {
        "quarantine" | "quality" => format!("_{}/{}", table.namespace, table.name),
        _ => table.name.clone(),
    }
}
