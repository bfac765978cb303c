//! The lineage of a gold stage: which tables its models read, and which columns their columns come from.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::SchemaRef;
use lakehouse_contract::{
    Lineage, StageFailure, StageOutcome, StageSpec, TableRef, Work,
    lineage::{Dataset, Input, Origin, Output},
};
use lakehouse_storage::Storage;
use lakehouse_tables::Tables;

use crate::{
    Engine, columns,
    columns::Sources,
    failure::{sql_failure, table_failure},
    models::{ordered, plan, plan_all},
};

/// The lineage of a gold stage that ended with `outcome`. Plans the models against empty tables; nothing is read.
///
/// # Errors
/// What the catalog says, and what planning says, which the stage said before.
pub(crate) async fn of(spec: &StageSpec, storage: &Storage, catalog_uri: &str, outcome: &StageOutcome) -> Result<Lineage, StageFailure> {
    let Work::Gold { models: definitions, .. } = &spec.work else { return Ok(Lineage::default()) };
    let engine = Engine::new().map_err(|error| StageFailure::new(error.reason(), error))?;
    let models = ordered(&engine, definitions)?;
    let tables = Tables::connect(storage.clone(), catalog_uri).await.map_err(|error| table_failure(&error))?;
    let mut known: BTreeMap<TableRef, Dataset> = BTreeMap::new();
    let mut lineage = Lineage::default();
    for text in &outcome.inputs {
        let (name, snapshot) = text.rsplit_once('@').unwrap_or((text, ""));
        let Some((namespace, name)) = name.split_once('.') else { continue };
        let table = TableRef::new(namespace, name);
        let Some((mut dataset, schema)) = dataset(&tables, &table).await? else { continue };
        engine.register_empty(&table, schema).map_err(|error| sql_failure(&table, &error))?;
        dataset.version = Some(snapshot.to_owned());
        known.insert(table, dataset.clone());
        lineage.inputs.push(Input { dataset, ..Input::default() });
    }
    plan_all(&engine, &models, &spec.interval).await?;
    for model in &models {
        let name = model.table.to_string();
        let Some((dataset, _)) = dataset(&tables, &model.table).await? else { continue };
        known.insert(model.table.clone(), dataset.clone());
        let plan = plan(&engine, model, &spec.interval).await.map_err(|error| sql_failure(&model.table, &error))?;
        let traced = columns::of(&plan);
        let columns =
            traced.columns.iter().filter(|(_, sources)| !sources.is_empty()).map(|(column, from)| (column.clone(), origins(from, &known)));
        lineage.outputs.push(Output {
            report: name,
            quarantine: false,
            columns: columns.collect(),
            rows: origins(&traced.rows, &known),
            dataset,
        });
    }
    // A model that reads another model of the stage has that as its input too.
    let read: BTreeSet<&TableRef> = models.iter().flat_map(|model| model.query.tables()).collect();
    let made = models.iter().filter(|model| read.contains(&model.table)).filter_map(|model| known.get(&model.table));
    lineage.inputs.extend(made.map(|dataset| Input { dataset: dataset.clone(), ..Input::default() }));
    Ok(lineage)
}

async fn dataset(tables: &Tables, table: &TableRef) -> Result<Option<(Dataset, SchemaRef)>, StageFailure> {
    let failed = |error| table_failure(&error);
    let Some(uri) = tables.location(table).await.map_err(failed)? else { return Ok(None) };
    let Some(open) = tables.open_table(table).await.map_err(failed)? else { return Ok(None) };
    let schema = open.schema().await.map_err(failed)?;
    let fields = schema.fields().iter().map(|field| (field.name().clone(), Some(field.data_type().to_string()))).collect();
    let format = Some(open.format().name().to_owned());
    Ok(Some((Dataset { uri, table: Some(table.clone()), format, version: None, fields }, schema)))
}

fn origins(sources: &Sources, known: &BTreeMap<TableRef, Dataset>) -> Vec<Origin> {
    let origin = |((table, field), effects): (&(TableRef, String), &BTreeSet<_>)| {
        Some(Origin { uri: known.get(table)?.uri.clone(), field: field.clone(), effects: effects.clone() })
    };
    sources.iter().filter_map(origin).collect()
}
