//! Rules about one row: SQL conditions, and partners in other tables. Rules about more than one row are in `lakehouse_quality`.

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, BooleanArray, RecordBatch},
    buffer::BooleanBuffer,
    compute::prep_null_mask_filter,
    datatypes::{DataType, SchemaRef},
};
use datafusion::{physical_expr::PhysicalExpr, prelude::SessionContext};
use lakehouse_api::pipeline::{Expectation, Otherwise, References};
use lakehouse_contract::{ExpectationResult, Reason, RuleKind, StageFailure, TableRef};
use lakehouse_quality::condition::{invalid, of_row};

use crate::{
    json::value::shorten,
    partners::{Partner, Partners},
};

/// A rule that every row must fulfil.
#[derive(Clone, Debug)]
pub(crate) struct RowRule {
    pub(crate) name: String,
    pub(crate) otherwise: Otherwise,
    pub(crate) check: RowCheck,
}

/// What a rule about one row asks for.
#[derive(Clone, Debug)]
pub(crate) enum RowCheck {
    /// A condition, as it was written, and compiled.
    Condition { sql: String, condition: Arc<dyn PhysicalExpr> },
    /// A partner in another table.
    Partner(Partner),
}

/// Compiles the rules about one row against the table's schema, in the order of the definition.
///
/// # Errors
/// `InvalidSql` or `InvalidDefinition`, naming table, expectation and what is wrong.
pub(crate) fn row_rules(table: &TableRef, rules: &[Expectation], schema: &SchemaRef) -> Result<Vec<RowRule>, StageFailure> {
    let context = SessionContext::new();
    let mut compiled = Vec::new();
    for rule in rules {
        let kinds = [
            rule.row.is_some(),
            rule.batch.is_some(),
            rule.table.is_some(),
            rule.unique.is_some(),
            rule.freshness.is_some(),
            rule.references.is_some(),
            rule.distribution.is_some(),
        ];
        if kinds.into_iter().filter(|given| *given).count() != 1 {
            let text = "it needs exactly one of row, batch, table, unique, freshness, references, distribution";
            return Err(StageFailure::new(Reason::InvalidDefinition, format!("{table} expectation {}: {text}", rule.name)));
        }
        let check = if let Some(sql) = &rule.row {
            RowCheck::Condition { sql: sql.clone(), condition: row_condition(&context, table, &rule.name, sql, schema)? }
        } else if let Some(to) = &rule.references {
            RowCheck::Partner(partner(table, &rule.name, to, schema)?)
        } else {
            continue;
        };
        compiled.push(RowRule { name: rule.name.clone(), otherwise: rule.otherwise, check });
    }
    Ok(compiled)
}

fn partner(table: &TableRef, name: &str, to: &References, schema: &SchemaRef) -> Result<Partner, StageFailure> {
    let (mut own, mut others, mut types, mut shown) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (column, other) in &to.columns {
        let index = schema.index_of(column).map_err(|error| invalid(table, name, error))?;
        own.push(index);
        others.push(other.clone());
        types.push(schema.field(index).data_type().clone());
        shown.push(format!("{column} → {other}"));
    }
    let to = TableRef::new(&table.namespace, &to.table);
    Ok(Partner { shown: format!("{to} ({})", shown.join(", ")), table: to, own, others, types })
}

impl RowRule {
    /// Per row: whether the rule is fulfilled.
    ///
    /// # Errors
    /// `SqlFailed` when the evaluation fails, such as by an overflow.
    pub(crate) fn holds(&self, table: &TableRef, batch: &RecordBatch, partners: &Partners) -> Result<BooleanArray, StageFailure> {
        let failed =
            |error: &dyn std::fmt::Display| StageFailure::new(Reason::SqlFailed, format!("{table} expectation {}: {error}", self.name));
        let condition = match &self.check {
            RowCheck::Partner(partner) => return partners.holds(&self.name, partner, batch).map_err(|error| failed(&error)),
            RowCheck::Condition { condition, .. } => condition,
        };
        let result = condition.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
        let result = result.map_err(|error| failed(&error.strip_backtrace()))?;
        Ok(match result.data_type() {
            DataType::Boolean if result.null_count() > 0 => prep_null_mask_filter(result.as_boolean()),
            DataType::Boolean => result.as_boolean().clone(),
            // The condition `NULL`.
            _ => BooleanArray::new(BooleanBuffer::new_unset(batch.num_rows()), None),
        })
    }

    /// Why a row of `batch` that breaks it is in quarantine.
    pub(crate) fn reason(&self, batch: &RecordBatch, row: usize) -> String {
        match &self.check {
            RowCheck::Condition { sql, .. } => format!("`{sql}` does not hold"),
            RowCheck::Partner(partner) => {
                let values = partner.own.iter().zip(&partner.others).map(|(own, other)| {
                    let value = arrow::util::display::array_value_to_string(batch.column(*own), row);
                    format!("{other}={}", shorten(&value.unwrap_or_default()))
                });
                format!("{} has no row with {}", partner.table, values.collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// What became of it.
    pub(crate) fn result(&self, checked: u64, failed: u64, example: Option<String>) -> ExpectationResult {
        let (kind, bound) = match &self.check {
            RowCheck::Condition { sql, .. } => (RuleKind::Row, sql.clone()),
            RowCheck::Partner(partner) => (RuleKind::References, partner.shown.clone()),
        };
        ExpectationResult {
            name: self.name.clone(),
            kind,
            otherwise: Some(self.otherwise),
            passed: failed == 0,
            failed,
            checked: Some(checked),
            observed: example,
            bound,
        }
    }
}

fn row_condition(
    context: &SessionContext,
    table: &TableRef,
    name: &str,
    sql: &str,
    schema: &SchemaRef,
) -> Result<Arc<dyn PhysicalExpr>, StageFailure> {
    let (expr, df_schema) = of_row(context, table, name, sql, schema)?;
    context.create_physical_expr(expr, &df_schema).map_err(|error| invalid(table, name, error.strip_backtrace()))
}
