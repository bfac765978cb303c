//! Expectations: SQL conditions over one row, or over all rows that would be written.

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, BooleanArray, RecordBatch},
    buffer::BooleanBuffer,
    compute::prep_null_mask_filter,
    datatypes::{DataType, SchemaRef},
};
use datafusion::{
    common::{DFSchema, tree_node::TreeNodeRecursion},
    datasource::MemTable,
    execution::context::SQLOptions,
    logical_expr::{Expr, ExprSchemable},
    physical_expr::PhysicalExpr,
    prelude::SessionContext,
};
use lakehouse_api::pipeline::{Expectation, Otherwise};
use lakehouse_contract::{ExpectationResult, Reason, StageFailure, TableRef};

/// The expectations of one table, compiled.
#[derive(Clone, Debug)]
pub(crate) struct Expectations {
    table: TableRef,
    /// Row rules, in the order of the definition.
    pub(crate) rows: Vec<RowRule>,
    batch: Vec<BatchRule>,
    /// Names in the order of the definition.
    order: Vec<String>,
}

/// A condition that every row must fulfil.
#[derive(Clone, Debug)]
pub(crate) struct RowRule {
    pub(crate) name: String,
    pub(crate) otherwise: Otherwise,
    /// The condition as it was written.
    pub(crate) sql: String,
    condition: Arc<dyn PhysicalExpr>,
}

#[derive(Clone, Debug)]
struct BatchRule {
    name: String,
    otherwise: Otherwise,
    sql: String,
}

impl Expectations {
    /// Compiles the rules against the table's schema.
    ///
    /// # Errors
    /// `InvalidSql`, naming table, expectation and what is wrong.
    pub(crate) fn new(table: &TableRef, rules: &[Expectation], schema: &SchemaRef) -> Result<Self, StageFailure> {
        let context = SessionContext::new();
        let mut compiled =
            Self { table: table.clone(), rows: Vec::new(), batch: Vec::new(), order: rules.iter().map(|r| r.name.clone()).collect() };
        for rule in rules {
            match (&rule.row, &rule.batch) {
                (Some(sql), None) => compiled.rows.push(RowRule {
                    name: rule.name.clone(),
                    otherwise: rule.otherwise,
                    sql: sql.clone(),
                    condition: row_condition(&context, table, &rule.name, sql, schema)?,
                }),
                (None, Some(sql)) => {
                    parse(&context, table, &rule.name, sql, schema)?;
                    compiled.batch.push(BatchRule { name: rule.name.clone(), otherwise: rule.otherwise, sql: sql.clone() });
                }
                _ => {
                    return Err(StageFailure::new(
                        Reason::InvalidDefinition,
                        format!("{table} expectation {}: it needs exactly one of row, batch", rule.name),
                    ));
                }
            }
        }
        Ok(compiled)
    }

    /// Checks the batch rules over `batches`, the rows that would be written, and adds their results to `results`.
    ///
    /// # Errors
    /// `ExpectationFailed` for a broken rule with `otherwise: fail`; `InvalidSql` or `SqlFailed` when it cannot be evaluated.
    pub(crate) async fn check_batch(
        &self,
        schema: &SchemaRef,
        batches: &[RecordBatch],
        results: &mut Vec<ExpectationResult>,
    ) -> Result<(), StageFailure> {
        if !self.batch.is_empty() {
            let context = SessionContext::new();
            let rows =
                MemTable::try_new(schema.clone(), vec![batches.to_vec()]).and_then(|rows| context.register_table("batch", Arc::new(rows)));
            rows.map_err(|error| StageFailure::new(Reason::Internal, error))?;
            for rule in &self.batch {
                let passed = self.evaluate(&context, rule).await?;
                if !passed && rule.otherwise == Otherwise::Fail {
                    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
                    return Err(StageFailure::new(
                        Reason::ExpectationFailed,
                        format!("{} expectation {}: `{}` does not hold over the {rows} rows of this run", self.table, rule.name, rule.sql),
                    ));
                }
                results.push(ExpectationResult { name: rule.name.clone(), passed, failed: u64::from(!passed) });
            }
        }
        results.sort_by_key(|result| self.order.iter().position(|name| *name == result.name));
        Ok(())
    }

    async fn evaluate(&self, context: &SessionContext, rule: &BatchRule) -> Result<bool, StageFailure> {
        let failure =
            |reason, error: &dyn std::fmt::Display| StageFailure::new(reason, format!("{} expectation {}: {error}", self.table, rule.name));
        let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let query = format!("SELECT CAST(({}\n) AS BOOLEAN) FROM batch", rule.sql);
        let frame =
            context.sql_with_options(&query, options).await.map_err(|error| failure(Reason::InvalidSql, &error.strip_backtrace()))?;
        let result = frame.collect().await.map_err(|error| failure(Reason::SqlFailed, &error.strip_backtrace()))?;
        match result.as_slice() {
            [one] if one.num_rows() == 1 && one.num_columns() == 1 => {
                let value = one.column(0).as_boolean();
                Ok(value.is_valid(0) && value.value(0))
            }
            _ => Err(failure(Reason::InvalidSql, &"a batch condition must be made of aggregates, such as count(*) >= 10")),
        }
    }
}

impl RowRule {
    /// Per row: whether the condition is true. Null is not.
    ///
    /// # Errors
    /// `SqlFailed` when the evaluation fails, such as by an overflow.
    pub(crate) fn holds(&self, table: &TableRef, batch: &RecordBatch) -> Result<BooleanArray, StageFailure> {
        let result = self.condition.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
        let result = result.map_err(|error| {
            StageFailure::new(Reason::SqlFailed, format!("{table} expectation {}: {}", self.name, error.strip_backtrace()))
        })?;
        Ok(match result.data_type() {
            DataType::Boolean if result.null_count() > 0 => prep_null_mask_filter(result.as_boolean()),
            DataType::Boolean => result.as_boolean().clone(),
            // The condition `NULL`.
            _ => BooleanArray::new(BooleanBuffer::new_unset(batch.num_rows()), None),
        })
    }
}

fn invalid(table: &TableRef, name: &str, message: impl std::fmt::Display) -> StageFailure {
    StageFailure::new(Reason::InvalidSql, format!("{table} expectation {name}: {message}"))
}

/// The expression of a rule, with its columns checked and without subqueries.
fn parse(context: &SessionContext, table: &TableRef, name: &str, sql: &str, schema: &SchemaRef) -> Result<(Expr, DFSchema), StageFailure> {
    let df_schema = DFSchema::try_from(schema.as_ref().clone()).map_err(|error| invalid(table, name, error.strip_backtrace()))?;
    let expr = context.parse_sql_expr(sql, &df_schema).map_err(|error| {
        if let datafusion::error::DataFusionError::SchemaError(error, _) = error.find_root()
            && let datafusion::common::SchemaError::FieldNotFound { field, .. } = error.as_ref()
        {
            let known = schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ");
            return invalid(table, name, format!("column `{}` does not exist; columns: {known}", field.name));
        }
        invalid(table, name, error.strip_backtrace())
    })?;
    let mut subquery = false;
    let visited = datafusion::common::tree_node::TreeNode::apply(&expr, |node| {
        subquery |= matches!(node, Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_));
        Ok(TreeNodeRecursion::Continue)
    });
    visited.map_err(|error| invalid(table, name, error.strip_backtrace()))?;
    if subquery {
        return Err(invalid(table, name, "a condition cannot have a subquery"));
    }
    Ok((expr, df_schema))
}

fn row_condition(
    context: &SessionContext,
    table: &TableRef,
    name: &str,
    sql: &str,
    schema: &SchemaRef,
) -> Result<Arc<dyn PhysicalExpr>, StageFailure> {
    let (expr, df_schema) = parse(context, table, name, sql, schema)?;
    let plan = || {
        let kind = expr.get_type(&df_schema)?;
        Ok::<_, datafusion::error::DataFusionError>((kind, context.create_physical_expr(expr.clone(), &df_schema)?))
    };
    let (kind, condition) = plan().map_err(|error| invalid(table, name, error.strip_backtrace()))?;
    if !matches!(kind, DataType::Boolean | DataType::Null) {
        return Err(invalid(table, name, format!("`{sql}` is of type {kind}, a condition must be true or false")));
    }
    Ok(condition)
}
