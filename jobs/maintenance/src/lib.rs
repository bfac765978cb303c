//! The maintenance stage: small files become large ones, old snapshots go, and so does what nothing refers to.
//!
//! It takes the tables of a definition one after the other and keeps every row of each. Writers and readers may be at work meanwhile; where they
//! are faster, it leaves the files to them. It may be interrupted and repeated at any time.

mod bronze;

use std::time::Duration;

use chrono::{DateTime, Utc};
use iceberg_commit::CommitError;
use lakehouse_api::pipeline;
use lakehouse_contract::{Progress, Reason, SHARED_OWNER, StageFailure, StageFuture, StageOutcome, StageSpec, TableRef, TableReport, Work};
use lakehouse_shell::storage_failure;
use lakehouse_storage::Storage;
use lakehouse_tables::{Compaction, Expiry, Maintained, Maintenance, Orphans, TableError, Tables};

use crate::bronze::Retention;

/// Name of bronze in the report, where tables have theirs.
const BRONZE: &str = "bronze";
/// Namespace of the tables that all pipelines add to.
const SHARED: &str = "quality";
/// Shortest time that their snapshots are kept.
const SHARED_EXPIRY: Duration = Duration::from_secs(24 * 3_600);

/// Maintains the tables of `spec`, and its bronze where the settings say so. A table that does not exist yet is passed over.
///
/// One table that cannot be maintained does not keep the others from it; the outcome has the first failure, and a report for every other table.
pub fn run<'a>(spec: &'a StageSpec, storage: &'a Storage, catalog_uri: &'a str, progress: &'a dyn Progress) -> StageFuture<'a> {
    Box::pin(async move {
        let mut outcome = StageOutcome::default();
        if let Err(failure) = work(spec, storage, catalog_uri, progress, &mut outcome).await {
            outcome.failure = Some(failure);
        }
        outcome
    })
}

async fn work(
    spec: &StageSpec,
    storage: &Storage,
    catalog_uri: &str,
    progress: &dyn Progress,
    outcome: &mut StageOutcome,
) -> Result<(), StageFailure> {
    let Work::Maintenance { tables: names, settings } = &spec.work else {
        return Err(StageFailure::new(Reason::InvalidDefinition, format!("the spec is for {}, not for maintenance", spec.stage())));
    };
    let tables = Tables::connect(storage.clone(), catalog_uri).await.map_err(|error| table_failure(&error))?;
    let mut failed = None;
    for table in names {
        progress.step(&format!("maintain {table}"), None);
        let mut what = maintenance(settings, Utc::now());
        let owner = if table.namespace == SHARED { SHARED_OWNER } else { spec.owner.as_str() };
        if let Some(expiry) = what.expire.as_mut().filter(|_| table.namespace == SHARED) {
            // Its snapshots tell an attempt that comes again what an earlier one added, whatever this pipeline says of its own tables.
            expiry.older_than = expiry.older_than.max(SHARED_EXPIRY);
        }
        match tables.maintain(table, owner, &what).await {
            Ok(None) => {}
            Ok(Some(done)) => outcome.tables.push(report(table, &done)),
            Err(error) => {
                let failure = table_failure(&error);
                failed.get_or_insert(failure);
            }
        }
    }
    if let Some(older_than) = settings.bronze_retention {
        progress.step("retire bronze", None);
        let grace = bronze::GRACE.max(settings.remove_orphans.older_than.0);
        let retention = Retention::new(older_than.0, grace, settings.bronze_retention_dry_run, Utc::now());
        match bronze::retire(spec, storage, retention).await {
            Ok(counts) => {
                outcome.tables.push(TableReport { name: BRONZE.to_owned(), maintenance: Some(counts), ..TableReport::default() });
            }
            Err(error) => {
                failed.get_or_insert(storage_failure(&error));
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// The settings of a definition, at a point in time.
fn maintenance(settings: &pipeline::Maintenance, now: DateTime<Utc>) -> Maintenance {
    let pipeline::Maintenance { compact, expire_snapshots: expire, remove_orphans: orphans, .. } = settings;
    Maintenance {
        now,
        compact: compact.enabled.then_some(Compaction { target_file_bytes: compact.target_file_size.bytes() }),
        expire: expire
            .enabled
            .then(|| Expiry { older_than: expire.older_than.0, keep_last: usize::try_from(expire.keep_last).unwrap_or(1) }),
        orphans: orphans.enabled.then_some(Orphans { older_than: orphans.older_than.0, dry_run: orphans.dry_run }),
    }
}

fn report(table: &TableRef, done: &Maintained) -> TableReport {
    TableReport {
        name: table.to_string(),
        snapshot: done.snapshot.clone(),
        files: done.files_written,
        bytes_written: done.bytes_written,
        maintenance: Some(done.counts),
        ..TableReport::default()
    }
}

/// The failure that a table's error means for the stage.
fn table_failure(error: &TableError) -> StageFailure {
    let reason = match error {
        TableError::Storage(error) => return storage_failure(error),
        TableError::OwnedByOther { .. } => Reason::TableOwnedByOther,
        TableError::Definition { .. } => Reason::InvalidDefinition,
        TableError::Conflict { .. } | TableError::Commit(CommitError::Conflict { .. }) => Reason::CommitConflict,
        TableError::Corrupt { .. } => Reason::InputCorrupt,
        TableError::Commit(CommitError::Database { .. }) => Reason::CatalogUnavailable,
        TableError::Commit(CommitError::Iceberg { .. }) | TableError::Iceberg { .. } => Reason::StoreUnavailable,
        _ => Reason::Internal,
    };
    let text = error.to_string();
    // The reason stands in front of the message already.
    StageFailure::new(reason, text.strip_prefix(&format!("{reason}: ")).unwrap_or(&text))
}
