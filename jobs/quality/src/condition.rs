//! The SQL of a rule: a condition over columns, or over aggregates of them.

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::{
    common::{
        Column, DFSchema, SchemaError,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    error::DataFusionError,
    logical_expr::{Expr, ExprSchemable, utils::find_aggregate_exprs},
    prelude::{DataFrame, SessionContext, cast},
};
use lakehouse_contract::{Reason, StageFailure, TableRef};

/// The failure of a rule whose SQL cannot be used.
pub fn invalid(table: &TableRef, name: &str, message: impl std::fmt::Display) -> StageFailure {
    StageFailure::new(Reason::InvalidSql, format!("{table} expectation {name}: {message}"))
}

/// The expression of a rule, with its columns checked and without subqueries.
///
/// # Errors
/// `InvalidSql`, naming table, rule and what is wrong.
pub fn parse(
    context: &SessionContext,
    table: &TableRef,
    name: &str,
    sql: &str,
    schema: &SchemaRef,
) -> Result<(Expr, DFSchema), StageFailure> {
    let df_schema = DFSchema::try_from(schema.as_ref().clone()).map_err(|error| invalid(table, name, error.strip_backtrace()))?;
    let expr = context.parse_sql_expr(sql, &df_schema).map_err(|error| {
        if let DataFusionError::SchemaError(error, _) = error.find_root()
            && let SchemaError::FieldNotFound { field, .. } = error.as_ref()
        {
            let known = schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ");
            return invalid(table, name, format!("column `{}` does not exist; columns: {known}", field.name));
        }
        invalid(table, name, error.strip_backtrace())
    })?;
    let mut subquery = false;
    let visited = TreeNode::apply(&expr, |node| {
        subquery |= matches!(node, Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_));
        Ok(TreeNodeRecursion::Continue)
    });
    visited.map_err(|error| invalid(table, name, error.strip_backtrace()))?;
    if subquery {
        return Err(invalid(table, name, "a condition cannot have a subquery"));
    }
    Ok((expr, df_schema))
}

/// The condition of a rule about one row, and the columns that it is of.
///
/// # Errors
/// `InvalidSql` also for a condition that is neither true nor false, or has an aggregate.
pub fn of_row(
    context: &SessionContext,
    table: &TableRef,
    name: &str,
    sql: &str,
    schema: &SchemaRef,
) -> Result<(Expr, DFSchema), StageFailure> {
    let (condition, columns) = parse(context, table, name, sql, schema)?;
    if !find_aggregate_exprs([&condition]).is_empty() {
        return Err(invalid(table, name, format!("`{sql}` has an aggregate, which one row does not have: write batch or table")));
    }
    let kind = condition.get_type(&columns).map_err(|error| invalid(table, name, error.strip_backtrace()))?;
    if !matches!(kind, DataType::Boolean | DataType::Null) {
        return Err(invalid(table, name, format!("`{sql}` is of type {kind}, a condition must be true or false")));
    }
    Ok((condition, columns))
}

/// A condition of aggregates, such as `count(*) >= 10 AND max(price) < 100`.
#[derive(Clone, Debug)]
pub(crate) struct Aggregated {
    aggregates: Vec<Expr>,
    /// The condition over the columns `a0`, `a1`, … of the aggregates.
    condition: Expr,
}

/// Whether a condition held, and the values of its aggregates.
pub(crate) struct Held {
    pub(crate) holds: bool,
    /// `count(*) = 4, max(price) = 2`.
    pub(crate) observed: String,
}

impl Aggregated {
    /// # Errors
    /// `InvalidSql` also for a condition that is not of aggregates alone, or neither true nor false.
    pub(crate) fn new(context: &SessionContext, table: &TableRef, name: &str, sql: &str, schema: &SchemaRef) -> Result<Self, StageFailure> {
        let (expr, df_schema) = parse(context, table, name, sql, schema)?;
        let wrong = |error: DataFusionError| invalid(table, name, error.strip_backtrace());
        let kind = expr.get_type(&df_schema).map_err(wrong)?;
        if !matches!(kind, DataType::Boolean | DataType::Null) {
            return Err(invalid(table, name, format!("`{sql}` is of type {kind}, a condition must be true or false")));
        }
        let aggregates = find_aggregate_exprs([&expr]);
        let replaced = expr.transform_down(|node| {
            Ok(match aggregates.iter().position(|aggregate| *aggregate == node) {
                Some(index) => Transformed::new(Expr::Column(Column::from_name(column(index))), true, TreeNodeRecursion::Jump),
                None => Transformed::no(node),
            })
        });
        let condition = replaced.map_err(wrong)?.data;
        let known: Vec<String> = (0..aggregates.len()).map(column).collect();
        if aggregates.is_empty() || condition.column_refs().iter().any(|used| !known.contains(&used.name)) {
            return Err(invalid(table, name, format!("`{sql}` must be made of aggregates, such as count(*) >= 10")));
        }
        Ok(Self { aggregates, condition })
    }

    /// Evaluates the condition over all rows of `frame`, which are read once.
    pub(crate) async fn evaluate(&self, frame: DataFrame) -> Result<Held, DataFusionError> {
        let named = self.aggregates.iter().enumerate().map(|(index, aggregate)| aggregate.clone().alias(column(index)));
        let frame = frame.aggregate(Vec::new(), named.collect())?;
        let condition = cast(self.condition.clone(), DataType::Boolean).alias("holds");
        let values = (0..self.aggregates.len()).map(|index| Expr::Column(Column::from_name(column(index))));
        let batches = frame.select(std::iter::once(condition).chain(values).collect::<Vec<_>>())?.collect().await?;
        let Some(row) = batches.iter().find(|batch| batch.num_rows() == 1) else {
            return Err(DataFusionError::Internal("a condition of aggregates gave no row".to_owned()));
        };
        let holds = crate::statistics::boolean(row, 0);
        let shown = self.aggregates.iter().enumerate().map(|(index, aggregate)| {
            format!("{} = {}", show(aggregate), crate::statistics::text(row, index + 1).unwrap_or_else(|| "null".to_owned()))
        });
        Ok(Held { holds, observed: shown.collect::<Vec<_>>().join(", ") })
    }
}

fn column(index: usize) -> String {
    format!("a{index}")
}

/// An aggregate as it was written.
fn show(aggregate: &Expr) -> String {
    aggregate.schema_name().to_string().replace("count(Int64(1))", "count(*)")
}
