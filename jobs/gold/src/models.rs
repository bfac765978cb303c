//! Models: parsed, ordered by what they read, and planned before any of them runs.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::SchemaRef;
use datafusion::{
    common::{
        ParamValues, ScalarValue,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Expr, LogicalPlan, Volatility},
};
use lakehouse_contract::{Interval, IntervalGrain, Reason, ResolvedGold, StageFailure, TableRef};

use crate::{Engine, SqlError, failure::sql_failure, schema::table_schema, statement::Query};

/// A model with its query.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) table: TableRef,
    pub(crate) definition: ResolvedGold,
    pub(crate) query: Query,
}

impl Model {
    /// The tables that its query reads, and those that the rows of its result refer to.
    pub(crate) fn needs(&self) -> BTreeSet<TableRef> {
        let named = self.definition.model.expectations.iter().filter_map(|rule| rule.references.as_ref()?.table.split_once('.'));
        let partners = named.map(|(namespace, name)| TableRef::new(namespace, name));
        self.query.tables().iter().cloned().chain(partners).collect()
    }

    /// Whether every commit replaces the whole table.
    pub(crate) fn overwrites(&self) -> bool {
        self.definition.model.write.overwrite.is_some()
    }

    /// The model as it is computed for `interval`.
    pub(crate) fn of_interval(&self, grain: IntervalGrain, interval: &Interval) -> Self {
        let mut model = self.clone();
        model.definition.read_start = Interval::shifted(grain, interval.start, -self.definition.model.lookback);
        model
    }
}

/// The table of a model.
pub(crate) fn table_of(definition: &ResolvedGold) -> TableRef {
    TableRef::new("gold", &definition.model.name)
}

/// The models in an order in which each comes after those it reads or refers to; otherwise the order of the definition.
///
/// # Errors
/// `InvalidSql` for a query that cannot be parsed, and for models that read each other in a circle, which it names.
pub(crate) fn ordered(engine: &Engine, definitions: &[ResolvedGold]) -> Result<Vec<Model>, StageFailure> {
    let mut waiting = Vec::with_capacity(definitions.len());
    for definition in definitions {
        let table = table_of(definition);
        let query = engine.parse(&definition.model.sql).map_err(|error| sql_failure(&table, &error))?;
        if !query.is_select() || query.reads_information() {
            let message = "a model is a SELECT from tables of the namespaces silver and gold".to_owned();
            return Err(sql_failure(&table, &SqlError::Invalid(message)));
        }
        waiting.push(Model { table, definition: definition.clone(), query });
    }
    let mut ordered: Vec<Model> = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let names: BTreeSet<&TableRef> = waiting.iter().map(|model| &model.table).collect();
        let ready = waiting.iter().position(|model| model.needs().iter().all(|table| !names.contains(table)));
        match ready {
            Some(index) => ordered.push(waiting.remove(index)),
            None => return Err(circle(&waiting)),
        }
    }
    Ok(ordered)
}

/// Every model of `waiting` reads another of them, so following the first that each reads ends in a circle.
fn circle(waiting: &[Model]) -> StageFailure {
    let reads: BTreeMap<&TableRef, &TableRef> = waiting
        .iter()
        .filter_map(|model| {
            let needs = model.needs();
            let next = waiting.iter().find(|other| needs.contains(&other.table))?;
            Some((&model.table, &next.table))
        })
        .collect();
    let mut path: Vec<&TableRef> = reads.keys().next().copied().into_iter().collect();
    while let Some(next) = path.last().and_then(|last| reads.get(last)) {
        let seen = path.iter().position(|table| table == next);
        path.push(next);
        if let Some(seen) = seen {
            path.drain(..seen);
            break;
        }
    }
    let shown = path.iter().map(ToString::to_string).collect::<Vec<_>>().join(" → ");
    StageFailure::new(Reason::InvalidSql, format!("gold models read each other in a circle: {shown}"))
}

/// Plans every model against the registered tables and answers the schema that each table gets; a model that others read is registered as an
/// empty table with that schema.
///
/// # Errors
/// `InvalidSql` that names the model and what is wrong with it.
pub(crate) async fn plan_all(engine: &Engine, models: &[Model], interval: &Interval) -> Result<Vec<SchemaRef>, StageFailure> {
    let mut schemas = Vec::with_capacity(models.len());
    for model in models {
        let planned = async {
            let plan = plan(engine, model, interval).await?;
            let optimized = engine.check(&plan)?;
            let schema = table_schema(optimized.schema().as_arrow())?;
            check_columns(model, &schema)?;
            engine.register_empty(&model.table, schema.clone())?;
            Ok(schema)
        };
        schemas.push(planned.await.map_err(|error| sql_failure(&model.table, &error))?);
    }
    Ok(schemas)
}

/// The plan of one model with its parameters bound.
pub(crate) async fn plan(engine: &Engine, model: &Model, interval: &Interval) -> Result<LogicalPlan, SqlError> {
    let plan = engine.plan(&model.query, parameters(interval, &model.definition)).await?;
    check_repeatable(&plan)?;
    Ok(plan)
}

fn parameters(interval: &Interval, definition: &ResolvedGold) -> ParamValues {
    let instant =
        |time: chrono::DateTime<chrono::Utc>| ScalarValue::TimestampMicrosecond(Some(time.timestamp_micros()), Some("UTC".into()));
    ParamValues::from(vec![
        ("start", instant(interval.start)),
        ("end", instant(interval.end)),
        ("readStart", instant(definition.read_start)),
    ])
}

/// Columns that the write mode and the layout name must be in the result.
fn check_columns(model: &Model, schema: &SchemaRef) -> Result<(), SqlError> {
    let write = &model.definition.model.write;
    let mut named: Vec<(&str, &String)> = Vec::new();
    if let Some(replace) = &write.replace_interval {
        named.push(("write.replaceInterval.column", &replace.column));
    }
    if let Some(merge) = &write.merge {
        named.extend(merge.key.iter().map(|column| ("write.merge.key", column)));
        named.extend(merge.sequence_by.iter().map(|column| ("write.merge.sequenceBy", column)));
    }
    named.extend(model.definition.model.table.sort_by.iter().map(|column| ("table.sortBy", column)));
    for (field, column) in named {
        if schema.field_with_name(column).is_err() {
            let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            let message = format!("{field} names `{column}`, which the query does not give; columns: {}", columns.join(", "));
            return Err(SqlError::Invalid(message));
        }
    }
    Ok(())
}

/// A model must give the same rows whenever it runs: no clock, no random numbers.
fn check_repeatable(plan: &LogicalPlan) -> Result<(), SqlError> {
    let mut found = None;
    let visited = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|inner| {
                if let Expr::ScalarFunction(call) = inner
                    && call.func.signature().volatility != Volatility::Immutable
                {
                    found = Some(call.func.name().to_owned());
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    visited.map_err(SqlError::of)?;
    match found {
        None => Ok(()),
        Some(name) => Err(SqlError::Invalid(format!(
            "{name}() gives another answer on each run: a model must give the same rows again; use $start and $end for times"
        ))),
    }
}
