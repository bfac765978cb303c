//! Translates DataFusion filters into Iceberg predicates, to skip files and row groups. What has no exact translation is left out.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use iceberg::expr::{Predicate, Reference};
use iceberg::spec::{Datum, PrimitiveType, Schema, Type};
use std::collections::HashSet;

/// Which columns filters and predicates name: a column is found by its id, whatever its name was when the files were planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns<'a> {
    /// The schema that filters are written for.
    pub(crate) visible: &'a Schema,
    /// The schema that predicates are bound to.
    pub(crate) planned: &'a Schema,
    /// Ids of columns that no predicate may name.
    pub(crate) left_out: &'a HashSet<i32>,
}

/// The conjunction of all filters that translate; none when none does.
pub(crate) fn conjunction(filters: &[Expr], columns: Columns<'_>) -> Option<Predicate> {
    filters.iter().filter_map(|filter| predicate(filter, columns)).reduce(Predicate::and)
}

/// A predicate that holds for every row for which `filter` holds.
pub(crate) fn predicate(filter: &Expr, columns: Columns<'_>) -> Option<Predicate> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            match (predicate(left, columns), predicate(right, columns)) {
                (Some(left), Some(right)) => Some(left.and(right)),
                // One side alone holds for more rows, which is allowed.
                (one, other) => one.or(other),
            }
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => Some(predicate(left, columns)?.or(predicate(right, columns)?)),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => comparison(left, *op, right, columns),
        Expr::IsNull(inner) => Some(Reference::new(column(inner, columns)?.0).is_null()),
        Expr::IsNotNull(inner) => Some(Reference::new(column(inner, columns)?.0).is_not_null()),
        Expr::Between(between) if !between.negated => {
            let low = comparison(&between.expr, Operator::GtEq, &between.low, columns);
            let high = comparison(&between.expr, Operator::LtEq, &between.high, columns);
            match (low, high) {
                (Some(low), Some(high)) => Some(low.and(high)),
                (one, other) => one.or(other),
            }
        }
        // One comparison per value: a predicate over the whole set would prune only by its extremes.
        Expr::InList(list) if !list.negated && list.list.len() <= 64 => {
            let each: Option<Vec<Predicate>> = list.list.iter().map(|value| comparison(&list.expr, Operator::Eq, value, columns)).collect();
            each?.into_iter().reduce(Predicate::or)
        }
        _ => None,
    }
}

fn comparison(left: &Expr, operator: Operator, right: &Expr, columns: Columns<'_>) -> Option<Predicate> {
    if let (Some((name, kind)), Expr::Literal(value, _)) = (column(left, columns), right) {
        return compare(name, kind, operator, value);
    }
    if let (Expr::Literal(value, _), Some((name, kind))) = (left, column(right, columns)) {
        return compare(name, kind, operator.swap()?, value);
    }
    None
}

fn compare(name: &str, kind: &PrimitiveType, operator: Operator, value: &ScalarValue) -> Option<Predicate> {
    let datum = datum(kind, value)?;
    let reference = Reference::new(name);
    Some(match operator {
        Operator::Eq => reference.equal_to(datum),
        Operator::Lt => reference.less_than(datum),
        Operator::LtEq => reference.less_than_or_equal_to(datum),
        Operator::Gt => reference.greater_than(datum),
        Operator::GtEq => reference.greater_than_or_equal_to(datum),
        _ => return None,
    })
}

fn column<'a>(expression: &Expr, columns: Columns<'a>) -> Option<(&'a str, &'a PrimitiveType)> {
    let Expr::Column(column) = expression else { return None };
    let id = columns.visible.field_id_by_name(&column.name).filter(|id| !columns.left_out.contains(id))?;
    let field = columns.planned.field_by_id(id)?;
    match field.field_type.as_ref() {
        Type::Primitive(kind) => Some((field.name.as_str(), kind)),
        _ => None,
    }
}

/// The literal as a value of exactly the column's type. Floats are left out: bounds say nothing about NaN.
fn datum(kind: &PrimitiveType, value: &ScalarValue) -> Option<Datum> {
    Some(match (kind, value) {
        (PrimitiveType::String, ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) | ScalarValue::LargeUtf8(Some(text))) => {
            Datum::string(text)
        }
        (PrimitiveType::Boolean, ScalarValue::Boolean(Some(value))) => Datum::bool(*value),
        (PrimitiveType::Int, ScalarValue::Int32(Some(value))) => Datum::int(*value),
        (PrimitiveType::Long, ScalarValue::Int64(Some(value))) => Datum::long(*value),
        (PrimitiveType::Date, ScalarValue::Date32(Some(days))) => Datum::date(*days),
        (PrimitiveType::Timestamp, ScalarValue::TimestampMicrosecond(Some(micros), None)) => Datum::timestamp_micros(*micros),
        (PrimitiveType::Timestamptz, ScalarValue::TimestampMicrosecond(Some(micros), Some(_))) => Datum::timestamptz_micros(*micros),
        _ => return None,
    })
}
