//! Checks models without any data: against the schemas of the tables that they read.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use lakehouse_contract::{Interval, ResolvedGold, StageFailure, TableRef};
use lakehouse_tables::TableDef;

use crate::{Engine, failure::sql_failure, models, rules, run::table_definition};

/// A model that could not be checked, because the schema of a table it reads is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unchecked {
    /// The model.
    pub model: TableRef,
    /// The table without a known schema.
    pub reads: TableRef,
}

/// Plans every model against empty tables with the schemas of `tables`, as the stage does before it runs any of them.
///
/// Models that read a table which neither `tables` nor another model gives are answered as unchecked, with all models that read them.
///
/// # Errors
/// The first failure, as the stage would report it.
pub async fn check_models(
    definitions: &[ResolvedGold],
    tables: &BTreeMap<TableRef, SchemaRef>,
    interval: &Interval,
) -> Result<Vec<Unchecked>, StageFailure> {
    let engine = Engine::new().map_err(|error| StageFailure::new(error.reason(), error))?;
    Ok(checked(&engine, definitions, tables, interval).await?.unchecked)
}

/// The tables that the models make for `owner`, in the order in which they are computed, and the models that cannot be planned because the
/// schema of a table they read is not known.
///
/// # Errors
/// As [`check_models`].
pub async fn tables_of(
    definitions: &[ResolvedGold],
    tables: &BTreeMap<TableRef, SchemaRef>,
    interval: &Interval,
    owner: &str,
) -> Result<(Vec<TableDef>, Vec<Unchecked>), StageFailure> {
    let engine = Engine::new().map_err(|error| StageFailure::new(error.reason(), error))?;
    let Checked { known, unchecked } = checked(&engine, definitions, tables, interval).await?;
    let made = known.iter().map(|(model, schema)| table_definition(&model.table, &model.definition, schema.clone(), owner));
    Ok((made.collect::<Result<_, _>>()?, unchecked))
}

/// What a check found.
pub(crate) struct Checked {
    /// Models that can be planned, in their order, with the schemas of their tables.
    pub(crate) known: Vec<(models::Model, SchemaRef)>,
    /// The others.
    pub(crate) unchecked: Vec<Unchecked>,
}

pub(crate) async fn checked(
    engine: &Engine,
    definitions: &[ResolvedGold],
    tables: &BTreeMap<TableRef, SchemaRef>,
    interval: &Interval,
) -> Result<Checked, StageFailure> {
    for (table, schema) in tables {
        engine.register_empty(table, schema.clone()).map_err(|error| sql_failure(table, &error))?;
    }
    let mut unchecked: Vec<Unchecked> = Vec::new();
    let mut known = Vec::new();
    let ordered = models::ordered(engine, definitions)?;
    for model in &ordered {
        let is_known = |table: &TableRef| tables.contains_key(table) || known.iter().any(|m: &models::Model| m.table == *table);
        match model.needs().into_iter().find(|table| !is_known(table)) {
            Some(missing) => unchecked.push(Unchecked { model: model.table.clone(), reads: missing }),
            None => known.push(model.clone()),
        }
    }
    let schemas = models::plan_all(engine, &known, interval).await?;
    for (model, schema) in known.iter().zip(&schemas) {
        table_definition(&model.table, &model.definition, schema.clone(), "")?;
        rules::compile(engine, model, schema).await?;
    }
    Ok(Checked { known: known.into_iter().zip(schemas).collect(), unchecked })
}
