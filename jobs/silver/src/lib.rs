//! The silver stage: bronze objects to typed tables.
//!
//! Every record becomes exactly one of: a written row, a quarantined record with its reason, a duplicate, a dropped row.
//! Every table is audited before any is committed; each commit carries its token, so that a repetition finds it. A table with rules about the
//! whole of it is audited as it would be with the new rows, and published only when they hold. What became of every rule is kept in
//! `quality.results`, also that of a run that published nothing.

mod audit;
mod cast;
mod commit;
mod content;
mod cut;
mod decode;
mod deduplicate;
mod failure;
#[doc(hidden)]
pub mod fuzzing;
mod held;
mod input;
mod interval;
mod json;
mod lineage;
mod memory;
mod pages;
mod partners;
mod quarantine;
mod read;
pub mod redact;
mod replay;
mod row_rules;
mod rows;
mod schema;
mod unit;
mod work;

use arrow::datatypes::SchemaRef;
use lakehouse_contract::{Progress, ResolvedSilver, StageFailure, StageFuture, StageOutcome, StageSpec};
use lakehouse_storage::Storage;
use lakehouse_tables::TableDef;

use crate::{schema::TablePlan, work::work};

/// Does the work of a silver stage.
///
/// The outcome's tables are in the order of the definition. On failure they are those that are committed all the same;
/// nothing else is visible to a reader.
pub fn run<'a>(spec: &'a StageSpec, storage: &'a Storage, catalog_uri: &'a str, progress: &'a dyn Progress) -> StageFuture<'a> {
    Box::pin(async move {
        let mut outcome = StageOutcome::default();
        if let Err(failure) = work(spec, storage, catalog_uri, progress, &mut outcome).await {
            outcome.failure = Some(failure);
        }
        if spec.lineage.is_some() {
            match lineage::of(spec, storage, catalog_uri, &outcome).await {
                Ok(lineage) => outcome.lineage = lineage,
                Err(failure) => outcome.lineage.fault = Some(format!("the lineage is not known: {failure}")),
            }
        }
        outcome
    })
}

/// Compiles a table's definition as the stage does and answers the schema that its table has; nothing is read.
///
/// # Errors
/// `InvalidDefinition` or `InvalidSql`, naming the table and the column or expectation.
pub fn check(table: &ResolvedSilver) -> Result<SchemaRef, StageFailure> {
    TablePlan::new(table, "").map(|plan| plan.schema)
}

/// The table that the stage makes for `owner`, and the quarantine table beside it, which is made when a record first needs it.
///
/// # Errors
/// As [`check`].
pub fn tables_of(table: &ResolvedSilver, owner: &str) -> Result<(TableDef, TableDef), StageFailure> {
    let own = TablePlan::new(table, owner)?.definition;
    let quarantine = quarantine::definition(&own);
    Ok((own, quarantine))
}
