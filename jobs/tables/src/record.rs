//! Appending to a table that several pipelines share, such as the results of their rules.
//!
//! Such a table has no commit per interval: any number of runs add to it, whatever their intervals, and nobody replaces what another one added.
//! A token is looked for among the snapshots that the metadata still has, inside the compare-and-swap loop; so it counts for as long as
//! snapshots are kept, and the metadata does not grow with every run there ever was.

use crate::iceberg_table::IcebergTable;
use crate::writer::write_streams;
use crate::{Result, TableDef, TableError, Tables, one_stream};
use arrow::array::RecordBatch;
use iceberg::spec::{DataFile, Operation, TableMetadata};
use iceberg_commit::{Attempt, COMMIT_TOKEN, Decision, Outcome, Plan};
use std::sync::atomic::{AtomicBool, Ordering};

impl Tables {
    /// Adds rows to an Iceberg table, made from the definition where it is absent, once per token. False: they were there.
    ///
    /// # Errors
    /// As [`Tables::ensure`]; [`TableError::Commit`] when other writers won every attempt or the catalog does not answer, in which case asking
    /// again with the same token is safe.
    pub async fn record(&self, definition: &TableDef, rows: Vec<RecordBatch>, token: &str) -> Result<bool> {
        let table = self.ensure_iceberg(definition).await?;
        let loaded = table.load().await?;
        if has_token(loaded.metadata(), token) {
            return Ok(false);
        }
        let (files, _) = write_streams(table.layout_of(&loaded, token)?, vec![one_stream(rows)], None).await?;
        let offered = AtomicBool::new(false);
        let names = &definition.table;
        let outcome = table
            .catalog
            .commit(&names.namespace, &names.name, |attempt: Attempt| {
                let (files, offered) = (&files, &offered);
                async move {
                    if has_token(attempt.table.metadata(), token) {
                        return Ok::<_, TableError>(Decision::Nothing);
                    }
                    offered.store(true, Ordering::Release);
                    let mut plan = Plan::new(Operation::Append);
                    plan.added.clone_from(files);
                    plan.summary.insert(COMMIT_TOKEN.to_owned(), token.to_owned());
                    Ok(Decision::Commit(Box::new(plan)))
                }
            })
            .await?;
        let added = matches!(outcome, Outcome::Committed { .. });
        // Files that were offered once may be in a snapshot, by a commit whose answer was lost.
        if !added && !offered.load(Ordering::Acquire) {
            discard(&table, &files).await;
        }
        Ok(added)
    }
}

fn has_token(metadata: &TableMetadata, token: &str) -> bool {
    metadata.snapshots().any(|snapshot| snapshot.summary().additional_properties.get(COMMIT_TOKEN).is_some_and(|found| found == token))
}

async fn discard(table: &IcebergTable, files: &[DataFile]) {
    for file in files {
        if let Err(error) = table.catalog.file_io().delete(file.file_path()).await {
            tracing::debug!(%error, file = file.file_path(), "left a file that is not needed");
        }
    }
}
