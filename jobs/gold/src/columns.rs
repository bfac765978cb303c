//! Which columns of tables the columns of a query come from, read off its logical plan.
//!
//! Direct: the value goes into the column. Indirect: it decides which rows there are, or which value is taken. What a node of the plan does
//! that is not known here is taken for the worst: every column of it comes from every column below.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::{
    common::{Column, DFSchema, JoinType, TableReference, tree_node::TreeNodeRecursion},
    logical_expr::{
        Expr, LogicalPlan,
        expr::{AggregateFunctionParams, WindowFunctionDefinition, WindowFunctionParams},
    },
};
use lakehouse_contract::{
    TableRef,
    lineage::{Effect, EffectKind},
};

/// Columns of tables, each with what it does.
pub(crate) type Sources = BTreeMap<(TableRef, String), BTreeSet<Effect>>;

/// Where a query's columns come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traced {
    /// By name, in the order of the query.
    pub(crate) columns: Vec<(String, Sources)>,
    /// What decides which rows there are, and their order.
    pub(crate) rows: Sources,
}

/// Functions whose result does not give the value away.
const MASKING: [&str; 10] =
    ["md5", "sha224", "sha256", "sha384", "sha512", "digest", "count", "approx_distinct", "bit_length", "octet_length"];

/// Traces a plan that is not optimized yet, as [`crate::Engine::plan`] gives it.
pub(crate) fn of(plan: &LogicalPlan) -> Traced {
    let Below { columns, rows } = trace(plan, None);
    let names = plan.schema().fields().iter().map(|field| field.name().clone());
    Traced { columns: names.zip(columns).collect(), rows }
}

/// The columns of a node by position, and what decides its rows.
#[derive(Clone, Default)]
struct Below {
    columns: Vec<Sources>,
    rows: Sources,
}

/// What an expression sees: the columns below it, and those around the subquery that it is in.
#[derive(Clone, Copy)]
struct Scope<'a> {
    schema: &'a DFSchema,
    below: &'a Below,
    outer: Option<&'a Scope<'a>>,
}

impl Scope<'_> {
    fn column(&self, column: &Column) -> Option<Sources> {
        let index = self.schema.maybe_index_of_column(column)?;
        self.below.columns.get(index).cloned()
    }
}

fn trace(plan: &LogicalPlan, outer: Option<&Scope<'_>>) -> Below {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let table = table_of(&scan.table_name);
            let own = |name: &str| match &table {
                Some(table) => Sources::from([((table.clone(), name.to_owned()), BTreeSet::from([direct(EffectKind::Identity)]))]),
                None => Sources::new(),
            };
            Below { columns: scan.projected_schema.fields().iter().map(|field| own(field.name())).collect(), rows: Sources::new() }
        }
        LogicalPlan::Projection(projection) => {
            let below = trace(&projection.input, outer);
            let scope = Scope { schema: projection.input.schema(), below: &below, outer };
            let columns = projection.expr.iter().map(|expression| value(expression, scope)).collect();
            Below { columns, rows: below.rows.clone() }
        }
        LogicalPlan::Filter(filter) => {
            let mut below = trace(&filter.input, outer);
            let by = effect(&value(&filter.predicate, Scope { schema: filter.input.schema(), below: &below, outer }), EffectKind::Filter);
            add(&mut below.rows, by);
            below
        }
        LogicalPlan::Aggregate(aggregate) => {
            let below = trace(&aggregate.input, outer);
            let scope = Scope { schema: aggregate.input.schema(), below: &below, outer };
            let mut rows = below.rows.clone();
            let mut groups: Vec<Expr> = Vec::new();
            for expression in &aggregate.group_expr {
                match expression {
                    Expr::GroupingSet(set) => {
                        for inner in set.distinct_expr() {
                            groups.push(inner.clone());
                        }
                    }
                    other => groups.push(other.clone()),
                }
            }
            let grouped: Vec<Sources> = groups.iter().map(|expression| value(expression, scope)).collect();
            for sources in &grouped {
                add(&mut rows, effect(sources, EffectKind::GroupBy));
            }
            let calls: Vec<Sources> = aggregate.aggr_expr.iter().map(|expression| value(expression, scope)).collect();
            // Between the groups and the calls a grouping set has columns of its own, which come from nowhere.
            let between = aggregate.schema.fields().len().saturating_sub(grouped.len() + calls.len());
            let columns = grouped.into_iter().chain(std::iter::repeat_n(Sources::new(), between)).chain(calls).collect();
            Below { columns, rows }
        }
        LogicalPlan::Window(window) => {
            let mut below = trace(&window.input, outer);
            let scope = Scope { schema: window.input.schema(), below: &below, outer };
            let more: Vec<Sources> = window.window_expr.iter().map(|expression| value(expression, scope)).collect();
            below.columns.extend(more);
            below
        }
        LogicalPlan::Sort(sort) => {
            let mut below = trace(&sort.input, outer);
            let mut by = Sources::new();
            for key in &sort.expr {
                let sources = value(&key.expr, Scope { schema: sort.input.schema(), below: &below, outer });
                add(&mut by, effect(&sources, EffectKind::Sort));
            }
            add(&mut below.rows, by);
            below
        }
        LogicalPlan::Join(join) => {
            let (left, right) = (trace(&join.left, outer), trace(&join.right, outer));
            let mut rows = left.rows.clone();
            add(&mut rows, right.rows.clone());
            for (one, other) in &join.on {
                let sides = [(one, join.left.schema(), &left), (other, join.right.schema(), &right)];
                for (expression, schema, below) in sides {
                    add(&mut rows, effect(&value(expression, Scope { schema, below, outer }), EffectKind::Join));
                }
            }
            if let Some(filter) = &join.filter
                && let Ok(schema) = join.left.schema().join(join.right.schema())
            {
                let both = Below { columns: left.columns.iter().chain(&right.columns).cloned().collect(), rows: Sources::new() };
                add(&mut rows, effect(&value(filter, Scope { schema: &schema, below: &both, outer }), EffectKind::Join));
            }
            let mark = || std::iter::once(Sources::new());
            let columns: Vec<Sources> = match join.join_type {
                JoinType::LeftSemi | JoinType::LeftAnti => left.columns,
                JoinType::RightSemi | JoinType::RightAnti => right.columns,
                JoinType::LeftMark => left.columns.into_iter().chain(mark()).collect(),
                JoinType::RightMark => right.columns.into_iter().chain(mark()).collect(),
                _ => left.columns.into_iter().chain(right.columns).collect(),
            };
            Below { columns, rows }
        }
        LogicalPlan::Union(union) => {
            let mut all = Below { columns: vec![Sources::new(); union.schema.fields().len()], rows: Sources::new() };
            for input in &union.inputs {
                let below = trace(input, outer);
                for (column, sources) in all.columns.iter_mut().zip(below.columns) {
                    add(column, sources);
                }
                add(&mut all.rows, below.rows);
            }
            all
        }
        LogicalPlan::Distinct(datafusion::logical_expr::Distinct::All(input)) => {
            let mut below = trace(input, outer);
            let by: Vec<Sources> = below.columns.iter().map(|sources| effect(sources, EffectKind::GroupBy)).collect();
            by.into_iter().for_each(|sources| add(&mut below.rows, sources));
            below
        }
        LogicalPlan::RecursiveQuery(query) => {
            let mut below = trace(&query.static_term, outer);
            let again = trace(&query.recursive_term, outer);
            for (column, sources) in below.columns.iter_mut().zip(again.columns) {
                add(column, sources);
            }
            add(&mut below.rows, again.rows);
            below
        }
        LogicalPlan::Subquery(subquery) => trace(&subquery.subquery, outer),
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => {
            Below { columns: vec![Sources::new(); plan.schema().fields().len()], rows: Sources::new() }
        }
        LogicalPlan::SubqueryAlias(_) | LogicalPlan::Limit(_) | LogicalPlan::Repartition(_) => {
            plan.inputs().first().map(|input| trace(input, outer)).unwrap_or_default()
        }
        other => unknown(other, outer),
    }
}

/// A node that is not known here.
fn unknown(plan: &LogicalPlan, outer: Option<&Scope<'_>>) -> Below {
    let mut every = Sources::new();
    let mut rows = Sources::new();
    for input in plan.inputs() {
        let below = trace(input, outer);
        below.columns.into_iter().for_each(|sources| add(&mut every, through(&sources, EffectKind::Transformation, false)));
        add(&mut rows, below.rows);
    }
    Below { columns: vec![every; plan.schema().fields().len()], rows }
}

/// What an expression's value comes from.
fn value(expression: &Expr, scope: Scope<'_>) -> Sources {
    match expression {
        Expr::Column(column) => scope.column(column).unwrap_or_default(),
        Expr::OuterReferenceColumn(_, column) => scope.outer.and_then(|outer| outer.column(column)).unwrap_or_default(),
        Expr::Alias(alias) => value(&alias.expr, scope),
        Expr::Case(case) => {
            let mut sources = Sources::new();
            for (when, then) in &case.when_then_expr {
                add(&mut sources, effect(&value(when, scope), EffectKind::Conditional));
                add(&mut sources, value(then, scope));
            }
            if let Some(of) = &case.expr {
                add(&mut sources, effect(&value(of, scope), EffectKind::Conditional));
            }
            if let Some(otherwise) = &case.else_expr {
                add(&mut sources, value(otherwise, scope));
            }
            sources
        }
        Expr::AggregateFunction(call) => {
            let AggregateFunctionParams { args, filter, order_by, .. } = &call.params;
            let mut sources = all(args, scope, EffectKind::Aggregation, MASKING.contains(&call.func.name()));
            if let Some(filter) = filter {
                add(&mut sources, effect(&value(filter, scope), EffectKind::Filter));
            }
            for key in order_by {
                add(&mut sources, effect(&value(&key.expr, scope), EffectKind::Sort));
            }
            sources
        }
        Expr::WindowFunction(call) => {
            let WindowFunctionParams { args, partition_by, order_by, filter, .. } = &call.params;
            let kind = match call.fun {
                WindowFunctionDefinition::AggregateUDF(_) => EffectKind::Aggregation,
                WindowFunctionDefinition::WindowUDF(_) => EffectKind::Transformation,
            };
            let mut sources = all(args, scope, kind, MASKING.contains(&call.fun.name()));
            for by in partition_by.iter().chain(order_by.iter().map(|key| &key.expr)) {
                add(&mut sources, effect(&value(by, scope), EffectKind::Window));
            }
            if let Some(filter) = filter {
                add(&mut sources, effect(&value(filter, scope), EffectKind::Filter));
            }
            sources
        }
        Expr::ScalarSubquery(subquery) => {
            let inner = trace(&subquery.subquery, Some(&scope));
            let mut sources = inner.rows;
            inner.columns.iter().for_each(|column| add(&mut sources, through(column, EffectKind::Transformation, false)));
            sources
        }
        Expr::Exists(exists) => decided(&exists.subquery.subquery, scope),
        Expr::InSubquery(within) => {
            let mut sources = through(&value(&within.expr, scope), EffectKind::Transformation, false);
            add(&mut sources, decided(&within.subquery.subquery, scope));
            sources
        }
        Expr::ScalarFunction(call) => all(&call.args, scope, EffectKind::Transformation, MASKING.contains(&call.func.name())),
        other => {
            let mut sources = Sources::new();
            let visited = datafusion::common::tree_node::TreeNode::apply_children(other, |child| {
                add(&mut sources, through(&value(child, scope), EffectKind::Transformation, false));
                Ok(TreeNodeRecursion::Continue)
            });
            debug_assert!(visited.is_ok(), "nothing in it fails");
            sources
        }
    }
}

/// What a subquery decides without giving a value of its own.
fn decided(subquery: &LogicalPlan, scope: Scope<'_>) -> Sources {
    let inner = trace(subquery, Some(&scope));
    let mut sources = inner.rows;
    inner.columns.iter().for_each(|column| add(&mut sources, effect(column, EffectKind::Conditional)));
    sources
}

fn all(expressions: &[Expr], scope: Scope<'_>, kind: EffectKind, masking: bool) -> Sources {
    let mut sources = Sources::new();
    expressions.iter().for_each(|expression| add(&mut sources, through(&value(expression, scope), kind, masking)));
    sources
}

const fn direct(kind: EffectKind) -> Effect {
    Effect { kind, masking: false }
}

/// The sources of a value after one more step. The kinds are in order: an aggregate of a function is an aggregate.
fn through(sources: &Sources, kind: EffectKind, masking: bool) -> Sources {
    let step = |effect: &Effect| {
        if effect.kind.is_direct() { Effect { kind: effect.kind.max(kind), masking: effect.masking || masking } } else { *effect }
    };
    sources.iter().map(|(column, effects)| (column.clone(), effects.iter().map(step).collect())).collect()
}

/// What a value does that decides something.
fn effect(sources: &Sources, kind: EffectKind) -> Sources {
    let step = |effect: &Effect| if effect.kind.is_direct() { direct(kind) } else { *effect };
    sources.iter().map(|(column, effects)| (column.clone(), effects.iter().map(step).collect())).collect()
}

fn add(to: &mut Sources, more: Sources) {
    for (column, effects) in more {
        to.entry(column).or_default().extend(effects);
    }
}

fn table_of(reference: &TableReference) -> Option<TableRef> {
    // A name without a namespace is that of a WITH RECURSIVE.
    reference.schema().map(|namespace| TableRef::new(namespace, reference.table()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::ParamValues;

    use super::*;
    use crate::Engine;

    /// The sources of each column as `table.column KIND KIND`, and of the rows under `*`.
    async fn traced(sql: &str) -> Vec<String> {
        let engine = Engine::new().unwrap();
        let schema =
            |names: &[&str]| Arc::new(Schema::new(names.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect::<Vec<_>>()));
        engine.register_empty(&TableRef::new("silver", "a"), schema(&["id", "x", "y"])).unwrap();
        engine.register_empty(&TableRef::new("silver", "b"), schema(&["id", "z"])).unwrap();
        let query = engine.parse(sql).unwrap();
        let Traced { columns, rows } = of(&engine.plan(&query, ParamValues::List(Vec::new())).await.unwrap());
        columns.into_iter().chain([("*".to_owned(), rows)]).map(|(name, sources)| format!("{name}: {}", show(&sources))).collect()
    }

    fn show(sources: &Sources) -> String {
        let one = |((table, column), effects): (&(TableRef, String), &BTreeSet<Effect>)| {
            let kinds: Vec<String> =
                effects.iter().map(|effect| format!("{}{}", effect.kind.name(), if effect.masking { "!" } else { "" })).collect();
            format!("{}.{column} {}", table.name, kinds.join(" "))
        };
        sources.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    #[tokio::test]
    async fn values_and_filters() {
        assert_eq!(
            traced("SELECT id, x + 1 AS more, 7 AS seven, CASE WHEN y > 0 THEN x ELSE id END AS chosen FROM silver.a WHERE y < 3").await,
            [
                "id: a.id IDENTITY",
                "more: a.x TRANSFORMATION",
                "seven: ",
                "chosen: a.id IDENTITY, a.x IDENTITY, a.y CONDITIONAL",
                "*: a.y FILTER",
            ]
        );
    }

    #[tokio::test]
    async fn joins_aggregates_and_order() {
        assert_eq!(
            traced(
                "SELECT p.id, sum(p.x * q.z) AS total, count(q.z) AS many, md5(cast(p.id AS varchar)) AS hashed
                 FROM silver.a p JOIN silver.b q ON p.id = q.id GROUP BY p.id HAVING max(p.y) > 1 ORDER BY total"
            )
            .await,
            [
                "id: a.id IDENTITY",
                "total: a.x AGGREGATION, b.z AGGREGATION",
                "many: b.z AGGREGATION!",
                "hashed: a.id TRANSFORMATION!",
                "*: a.id JOIN GROUP_BY, a.x SORT, a.y FILTER, b.id JOIN, b.z SORT",
            ]
        );
    }

    #[tokio::test]
    async fn through_with_union_window_and_subqueries() {
        assert_eq!(
            traced(
                "WITH both AS (SELECT id, x AS v FROM silver.a UNION ALL SELECT id, z FROM silver.b)
                 SELECT id, row_number() OVER (PARTITION BY id ORDER BY v) AS place, lag(v) OVER (ORDER BY id) AS before
                 FROM both WHERE id IN (SELECT y FROM silver.a) AND EXISTS (SELECT 1 FROM silver.b WHERE b.z = both.v)"
            )
            .await,
            [
                "id: a.id IDENTITY, b.id IDENTITY",
                "place: a.id WINDOW, a.x WINDOW, b.id WINDOW, b.z WINDOW",
                "before: a.id WINDOW, a.x TRANSFORMATION, b.id WINDOW, b.z TRANSFORMATION",
                "*: a.id FILTER, a.x FILTER, a.y CONDITIONAL, b.id FILTER, b.z FILTER",
            ]
        );
    }

    #[tokio::test]
    async fn a_scalar_subquery_gives_a_value() {
        assert_eq!(
            traced("SELECT (SELECT max(z) FROM silver.b WHERE b.id = a.id) AS top FROM silver.a").await,
            ["top: a.id FILTER, b.id FILTER, b.z AGGREGATION", "*: "]
        );
    }
}
