//! Erasing a key: out of bronze first, so that nothing can be made from it again, then out of silver, quarantine and gold.
//!
//! Every step can be repeated: whatever a killed erasing left is found again by what is in the files, no list of them is kept.

mod bronze;
mod report;

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray};
use lakehouse_api::LakehousePipelineSpec;
use lakehouse_contract::{Stage, TableRef, resolve};
use lakehouse_shell::layer_of;
use lakehouse_silver::redact::Redaction;
use lakehouse_storage::{Layer, Storage};
use lakehouse_tables::{Doomed, Erased, TableError, Tables};

pub use report::{Action, BronzeErased, ErasedObject, Report, TableErased};

use crate::CliError;

/// What is to be erased, and of whom.
pub struct Order<'a> {
    /// Pipeline name.
    pub pipeline: &'a str,
    /// Owner of its tables.
    pub owner: &'a str,
    /// Its definition.
    pub definition: &'a LakehousePipelineSpec,
    /// Columns, each with the value whose rows go.
    pub keys: &'a [(String, String)],
    /// Only look.
    pub dry_run: bool,
}

impl Order<'_> {
    /// All tables that the definition writes.
    fn tables(&self) -> impl Iterator<Item = TableRef> + '_ {
        let silver =
            self.definition.silver.iter().flat_map(|table| ["silver", "quarantine"].map(|space| TableRef::new(space, &table.name)));
        silver.chain(self.definition.gold.iter().map(|model| TableRef::new("gold", &model.name)))
    }

    /// What to look for in the objects and quarantined records of a source: the fields that the key columns of its tables come from, and where no
    /// table has such a column, the field of its name.
    fn redaction(&self, source: &lakehouse_api::pipeline::Source) -> Result<Redaction, CliError> {
        let tables = || self.definition.silver.iter().filter(|table| table.from == source.name);
        let mut fields: Vec<(String, String)> = Vec::new();
        for (column, value) in self.keys {
            let named = tables().flat_map(|table| &table.columns).filter(|known| known.name == *column);
            let mut from: Vec<String> = named.map(|known| known.from.clone()).collect();
            if from.is_empty() {
                from.push(format!("/{}", column.replace('~', "~0").replace('/', "~1")));
            }
            fields.extend(from.into_iter().map(|from| (from, value.clone())));
        }
        fields.sort();
        fields.dedup();
        let invalid = |message: String| CliError::Invalid(format!("pipeline {}, source {}: {message}", self.pipeline, source.name));
        Redaction::new(&resolve::decode(source), &fields).map_err(invalid)
    }
}

/// Erases, and searches every file afterwards.
///
/// # Errors
/// What store and catalog say; what was done until then stays done, and the same command goes on.
pub async fn erase(order: &Order<'_>, storage: &Storage, tables: &Tables) -> Result<Report, CliError> {
    // Asked before anything is written: bronze has no owner but its pipeline's name.
    for name in order.tables() {
        tables.check_owner(&name, order.owner).await?;
    }
    let mut report = Report::new(order);
    bronze::erase(order, storage, &mut report).await?;
    for table in &order.definition.silver {
        let silver = TableRef::new("silver", &table.name);
        let erased = tables.erase(&silver, order.owner, &Doomed::by_values(order.keys.to_vec()), order.dry_run).await;
        add(&mut report, tables, &silver, erased).await?;
        let aside = TableRef::new("quarantine", &table.name);
        let Some(source) = order.definition.ingest.iter().find(|source| source.name == table.from) else { continue };
        let erased = tables.erase(&aside, order.owner, &records(order.redaction(source)?), order.dry_run).await;
        add(&mut report, tables, &aside, erased).await?;
    }
    for model in &order.definition.gold {
        let gold = TableRef::new("gold", &model.name);
        let erased = tables.erase(&gold, order.owner, &Doomed::by_values(order.keys.to_vec()), order.dry_run).await;
        add(&mut report, tables, &gold, erased).await?;
    }
    mentions(order, storage, &mut report).await?;
    report.finish();
    if !order.dry_run {
        let bronze = storage.layer(Layer::Bronze)?;
        let key = format!("_lakehouse/erasures/{}/{}.json", order.pipeline, report.id);
        let body = serde_json::to_vec_pretty(&report).map_err(|error| CliError::Output(error.into()))?;
        bronze.put(&key, body).await?;
    }
    Ok(report)
}

/// Quarantined rows whose raw record holds the key.
fn records(redaction: Redaction) -> Doomed {
    let judge = move |batch: &arrow::array::RecordBatch| {
        let Some(records) = batch.column_by_name("record").and_then(|column| column.as_string_opt::<i32>()) else {
            return Ok(BooleanArray::from(vec![false; batch.num_rows()]));
        };
        Ok(records.iter().map(|record| Some(record.is_some_and(|record| redaction.record(record)))).collect())
    };
    Doomed::new(vec!["record".to_owned()], Arc::new(judge))
}

async fn add(report: &mut Report, tables: &Tables, table: &TableRef, erased: Result<Option<Erased>, TableError>) -> Result<(), CliError> {
    let exists = tables.open_table(table).await?;
    let done = match (erased?, &exists) {
        (None, None) => TableErased::nothing(table, Action::NoTable),
        (None, Some(_)) => TableErased::nothing(table, Action::NoColumn),
        (Some(erased), _) => {
            if !report.dry_run {
                let hint = "a branch or tag needs it, or it was written within the last hour and nothing refers to it: erase again";
                report.left.extend(erased.left.iter().map(|file| format!("{file}: {hint}")));
            }
            TableErased::of(table, &erased)
        }
    };
    report.tables.push(done);
    Ok(())
}

/// Reports and manifests in which the value stands: messages of failures may quote a row.
async fn mentions(order: &Order<'_>, storage: &Storage, report: &mut Report) -> Result<(), CliError> {
    let Some(source) = order.definition.ingest.first() else { return Ok(()) };
    let redaction = order.redaction(source)?;
    let mut layers: Vec<Layer> = Stage::ALL.into_iter().map(layer_of).collect();
    layers.dedup();
    let mut places = vec![(Layer::Bronze, format!("{}/{}", order.pipeline, lakehouse_contract::keys::MANIFESTS))];
    places.extend(layers.into_iter().map(|layer| (layer, format!("_lakehouse/runs/{}", order.pipeline))));
    places.sort();
    places.dedup();
    for (layer, folder) in places {
        let layer = storage.layer(layer)?;
        for object in layer.list(&folder).await? {
            if let Some(body) = layer.get_opt(&object.key).await?
                && redaction.mentions(&body)
            {
                report.mentions.push(layer.uri(&object.key));
            }
        }
    }
    Ok(())
}
