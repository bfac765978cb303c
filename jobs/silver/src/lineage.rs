//! Where the columns of silver tables come from: the fields that their `from` names, in the source's folder of bronze.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::{common::ToDFSchema, prelude::SessionContext};
use lakehouse_api::pipeline::Otherwise;
use lakehouse_contract::{
    BronzeManifest, ColumnType, Lineage, ResolvedSilver, StageFailure, StageOutcome, StageSpec, TableRef, Work, keys,
    lineage::{Dataset, Effect, EffectKind, Input, Origin, Output},
};
use lakehouse_shell::storage_failure;
use lakehouse_storage::{Layer, Storage};
use lakehouse_tables::{TableDef, Tables};

use crate::{failure::table_failure, quarantine, schema::TablePlan};

/// The lineage of a silver stage that ended with `outcome`: its source folders, and the tables that it committed.
///
/// # Errors
/// What store and catalog say.
pub(crate) async fn of(spec: &StageSpec, storage: &Storage, catalog_uri: &str, outcome: &StageOutcome) -> Result<Lineage, StageFailure> {
    let Work::Silver { tables: definitions, .. } = &spec.work else { return Ok(Lineage::default()) };
    let bronze = storage.layer(Layer::Bronze).map_err(|error| storage_failure(&error))?;
    let source_uri = |source: &str| bronze.uri(&keys::bronze_source(&spec.pipeline, source));
    let mut lineage = Lineage::default();
    if let Some(key) = outcome.inputs.first() {
        let body = bronze.get(key).await.map_err(|error| storage_failure(&error))?;
        let manifest: Option<BronzeManifest> = serde_json::from_slice(&body).ok();
        for source in manifest.iter().flat_map(|manifest| &manifest.sources) {
            let made: Vec<&ResolvedSilver> = definitions.iter().filter(|table| table.table.from == source.name).collect();
            if made.is_empty() {
                continue;
            }
            let read: BTreeSet<&str> =
                made.iter().flat_map(|table| &table.table.columns).filter_map(|column| field(&column.from)).collect();
            lineage.inputs.push(Input {
                dataset: Dataset {
                    uri: source_uri(&source.name),
                    version: Some(key.clone()),
                    fields: read.into_iter().map(|name| (name.to_owned(), None)).collect(),
                    ..Dataset::default()
                },
                bytes: Some(source.objects.iter().map(|object| object.bytes).sum()),
                files: Some(source.objects.len() as u64),
                judged_as: made.iter().map(|table| format!("silver.{}", table.table.name)).collect(),
            });
        }
    }
    let tables = Tables::connect(storage.clone(), catalog_uri).await.map_err(|error| table_failure(&error))?;
    for report in &outcome.tables {
        let Some(definition) = definitions.iter().find(|table| report.name == format!("silver.{}", table.table.name)) else { continue };
        let plan = TablePlan::new(definition, &spec.owner)?;
        let uri = source_uri(&definition.table.from);
        if report.rows_quarantined > 0
            && let Some(dataset) = dataset(&tables, &quarantine::definition(&plan.definition)).await?
        {
            lineage.outputs.push(Output { report: report.name.clone(), quarantine: true, dataset, ..Output::default() });
        }
        if let Some(dataset) = dataset(&tables, &plan.definition).await? {
            let (columns, rows) = (columns(definition, &uri), rows(definition, &plan, &uri));
            lineage.outputs.push(Output { report: report.name.clone(), quarantine: false, dataset, columns, rows });
        }
    }
    Ok(lineage)
}

async fn dataset(tables: &Tables, definition: &TableDef) -> Result<Option<Dataset>, StageFailure> {
    let table: &TableRef = &definition.table;
    let Some(uri) = tables.location(table).await.map_err(|error| table_failure(&error))? else { return Ok(None) };
    let fields = definition.schema.fields().iter().map(|field| (field.name().clone(), Some(field.data_type().to_string()))).collect();
    Ok(Some(Dataset { uri, table: Some(table.clone()), format: Some(definition.format.name().to_owned()), version: None, fields }))
}

/// The field of the source that `from` names, as it is written there; the interval's bounds are no field of it.
fn field(from: &str) -> Option<&str> {
    (!matches!(from, "$intervalStart" | "$intervalEnd")).then_some(from)
}

fn origin(uri: &str, field: &str, kind: EffectKind) -> Origin {
    Origin { uri: uri.to_owned(), field: field.to_owned(), effects: BTreeSet::from([Effect { kind, masking: false }]) }
}

fn columns(definition: &ResolvedSilver, uri: &str) -> BTreeMap<String, Vec<Origin>> {
    let mut columns = BTreeMap::new();
    for column in &definition.table.columns {
        let Some(name) = field(&column.from) else { continue };
        // Text stays as it is; every other type is read from it.
        let kind = match column.type_.parse() {
            Ok(ColumnType::String | ColumnType::Json) => EffectKind::Identity,
            _ => EffectKind::Transformation,
        };
        columns.insert(column.name.clone(), vec![origin(uri, name, kind)]);
    }
    columns
}

/// The fields that decide which records become rows: keys of duplicates and merges, the column of the interval, what expectations look at.
fn rows(definition: &ResolvedSilver, plan: &TablePlan, uri: &str) -> Vec<Origin> {
    let table = &definition.table;
    let mut named: BTreeSet<String> = BTreeSet::new();
    named.extend(table.deduplicate.iter().flat_map(|rule| rule.key.iter().cloned()));
    named.extend(table.write.merge.iter().flat_map(|merge| merge.key.iter().chain(&merge.sequence_by).cloned()));
    named.extend(table.write.replace_interval.iter().map(|rule| rule.column.clone()));
    let schema = plan.schema.clone().to_dfschema();
    for rule in table.expectations.iter().filter(|rule| matches!(rule.otherwise, Otherwise::Quarantine | Otherwise::Drop)) {
        if let (Some(condition), Ok(schema)) = (&rule.row, &schema)
            && let Ok(parsed) = SessionContext::new().parse_sql_expr(condition, schema)
        {
            named.extend(parsed.column_refs().into_iter().map(|column| column.name.clone()));
        }
    }
    let fields: BTreeSet<&str> =
        table.columns.iter().filter(|column| named.contains(&column.name)).filter_map(|column| field(&column.from)).collect();
    fields.into_iter().map(|name| origin(uri, name, EffectKind::Filter)).collect()
}
