//! The rules of a table as an expectation suite of Great Expectations (GX Core 1.x, the JSON of its `ExpectationSuite`).
//!
//! Only what means the same there is exported; a rule that GX cannot say is named with the reason. GX passes over nulls where a condition of ours
//! is broken by them, so such a condition becomes two expectations; a rule holds when all that carry its name in `meta.lakehouse` do.

use std::collections::BTreeSet;

use arrow::datatypes::SchemaRef;
use datafusion::{
    common::ScalarValue,
    logical_expr::{Expr, Operator, utils::split_conjunction},
    prelude::SessionContext,
};
use lakehouse_api::pipeline::{Bounds, Distribution, Expectation, Otherwise};
use lakehouse_contract::{RuleKind, StageFailure, TableRef};
use serde_json::{Map, Value, json};

use crate::condition::parse;

/// A suite, and the rules that are not in it.
#[derive(Clone, Debug)]
pub struct Suite {
    /// The suite as GX reads it.
    pub json: Value,
    /// Name and reason of every rule that GX cannot say.
    pub left_out: Vec<(String, String)>,
}

/// One expectation of GX: its type and its arguments.
type Said = (&'static str, Map<String, Value>);

/// The suite of a table with columns `schema`.
///
/// # Errors
/// `InvalidSql` for a condition that cannot be parsed.
pub fn suite(table: &TableRef, rules: &[Expectation], schema: &SchemaRef) -> Result<Suite, StageFailure> {
    let context = SessionContext::new();
    let (mut expectations, mut left_out) = (Vec::new(), Vec::new());
    let mut with_quantiles = BTreeSet::new();
    for rule in rules {
        let parsed = |sql: &str| parse(&context, table, &rule.name, sql, schema).map(|(expr, _)| expr);
        let (kind, said) = if let Some(sql) = &rule.row {
            (RuleKind::Row, of_rows(&parsed(sql)?))
        } else if let Some(sql) = &rule.batch {
            (RuleKind::Batch, of_aggregates(&parsed(sql)?))
        } else if let Some(sql) = &rule.table {
            (RuleKind::Table, of_aggregates(&parsed(sql)?))
        } else if let Some(columns) = &rule.unique {
            (RuleKind::Unique, Ok(unique(columns)))
        } else if let Some(distribution) = &rule.distribution {
            let alone = !distribution.looks_back();
            let once = distribution.quantiles.is_empty() || with_quantiles.insert(distribution.column.clone());
            // GX 1.24 takes the values of the one for those of the other.
            let twice = || format!("GX mixes up two expectations of quantiles of one column, and {} has one", distribution.column);
            let said = match (alone, once) {
                (false, _) => Err("GX looks at one set of rows, not at earlier intervals".to_owned()),
                (_, false) => Err(twice()),
                _ => Ok(statistics(distribution)),
            };
            (RuleKind::Distribution, said)
        } else if rule.freshness.is_some() {
            (RuleKind::Freshness, Err("GX has no interval that an age could be counted from".to_owned()))
        } else {
            (RuleKind::References, Err("a GX suite is about one table".to_owned()))
        };
        match said {
            Ok(said) => expectations.extend(said.into_iter().map(|(kind_of_gx, kwargs)| {
                let severity = if rule.otherwise == Otherwise::Fail { "critical" } else { "warning" };
                let meta = json!({"lakehouse": {"rule": rule.name, "kind": kind.as_str()}});
                json!({"type": kind_of_gx, "kwargs": kwargs, "meta": meta, "severity": severity})
            })),
            Err(reason) => left_out.push((rule.name.clone(), reason)),
        }
    }
    let name = table.to_string();
    Ok(Suite { json: json!({"name": name, "expectations": expectations, "meta": {}, "notes": null}), left_out })
}

fn arguments(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn unique(columns: &[String]) -> Vec<Said> {
    vec![match columns {
        [one] => ("expect_column_values_to_be_unique", arguments(json!({"column": one}))),
        several => {
            ("expect_compound_columns_to_be_unique", arguments(json!({"column_list": several, "ignore_row_if": "any_value_is_missing"})))
        }
    }]
}

fn between(column: &str, bounds: Bounds) -> Map<String, Value> {
    arguments(json!({"column": column, "min_value": bounds.min, "max_value": bounds.max}))
}

fn statistics(of: &Distribution) -> Vec<Said> {
    let column = of.column.as_str();
    let mut said = Vec::new();
    let mut add = |kind, bounds: Option<Bounds>| said.extend(bounds.map(|bounds| (kind, between(column, bounds))));
    add("expect_column_mean_to_be_between", of.mean);
    add("expect_column_stdev_to_be_between", of.standard_deviation);
    // GX bounds the share of values that are there.
    let present = of.null_ratio.map(|nulls| Bounds {
        min: nulls.max.map(|max| 1.0 - max),
        max: nulls.min.map(|min| 1.0 - min),
        change_at_most: None,
    });
    add("expect_column_proportion_of_non_null_values_to_be_between", present);
    add("expect_column_proportion_of_unique_values_to_be_between", of.distinct_ratio);
    if !of.quantiles.is_empty() {
        let quantiles: Vec<f64> = of.quantiles.iter().map(|quantile| quantile.at).collect();
        let ranges: Vec<Value> = of.quantiles.iter().map(|quantile| json!([quantile.min, quantile.max])).collect();
        let ranges = json!({"quantiles": quantiles, "value_ranges": ranges});
        // What GX calls an allowed error is how it interpolates; without it, it takes the nearest value.
        let kwargs = json!({"column": column, "quantile_ranges": ranges, "allow_relative_error": "linear"});
        said.push(("expect_column_quantile_values_to_be_between", arguments(kwargs)));
    }
    said
}

/// A condition over one row.
fn of_rows(condition: &Expr) -> Result<Vec<Said>, String> {
    let mut said = Vec::new();
    let present = |column: &str| ("expect_column_values_to_not_be_null", arguments(json!({"column": column})));
    for part in split_conjunction(condition) {
        if let Expr::IsNotNull(inner) = part
            && let Expr::Column(column) = inner.as_ref()
        {
            said.push(present(&column.name));
            continue;
        }
        let (column, expectation) = match part {
            Expr::BinaryExpr(_) | Expr::Between(_) => {
                let (left, range) = range(part)?;
                let Expr::Column(column) = left else { return Err(unsaid(part)) };
                match range {
                    Range::Equal(value) => (column, ("expect_column_values_to_be_in_set", json!({"value_set": [value]}))),
                    Range::Between(kwargs) => (column, ("expect_column_values_to_be_between", kwargs)),
                }
            }
            Expr::InList(list) => {
                let Expr::Column(column) = list.expr.as_ref() else { return Err(unsaid(part)) };
                let values: Option<Vec<Value>> = list.list.iter().map(literal).collect();
                let kind = if list.negated { "expect_column_values_to_not_be_in_set" } else { "expect_column_values_to_be_in_set" };
                (column, (kind, json!({"value_set": values.ok_or_else(|| unsaid(part))?})))
            }
            _ => return Err(unsaid(part)),
        };
        let mut kwargs = arguments(expectation.1);
        kwargs.insert("column".to_owned(), column.name.clone().into());
        said.push(present(&column.name));
        said.push((expectation.0, kwargs));
    }
    Ok(said)
}

/// A condition of aggregates.
fn of_aggregates(condition: &Expr) -> Result<Vec<Said>, String> {
    split_conjunction(condition)
        .into_iter()
        .map(|part| {
            let (left, range) = range(part)?;
            // The planner writes count(*) as another count under this name.
            let left = if let Expr::Alias(alias) = left { alias.expr.as_ref() } else { left };
            let Expr::AggregateFunction(call) = left else { return Err(unsaid(part)) };
            let plain = !call.params.distinct && call.params.filter.is_none();
            let (name, argument) = (call.func.name(), call.params.args.as_slice());
            let mut kwargs = match range {
                Range::Between(kwargs) => arguments(kwargs),
                Range::Equal(value) => arguments(json!({"min_value": value, "max_value": value})),
            };
            match (name, argument) {
                ("count", [Expr::Literal(..)]) if plain => {
                    // GX has no strict bounds for a number of rows, which is a whole one.
                    whole(&mut kwargs).ok_or_else(|| unsaid(part))?;
                    Ok(("expect_table_row_count_to_be_between", kwargs))
                }
                (_, [Expr::Column(column)]) if plain => {
                    let kind = match name {
                        "min" => "expect_column_min_to_be_between",
                        "max" => "expect_column_max_to_be_between",
                        "avg" => "expect_column_mean_to_be_between",
                        "sum" => "expect_column_sum_to_be_between",
                        _ => return Err(unsaid(part)),
                    };
                    kwargs.insert("column".to_owned(), column.name.clone().into());
                    Ok((kind, kwargs))
                }
                _ => Err(unsaid(part)),
            }
        })
        .collect()
}

/// Turns strict bounds of a whole number into inclusive ones.
fn whole(kwargs: &mut Map<String, Value>) -> Option<()> {
    for (bound, strict, step) in [("min_value", "strict_min", 1), ("max_value", "strict_max", -1)] {
        let is_strict = kwargs.remove(strict).is_some_and(|value| value == Value::Bool(true));
        if let Some(value) = kwargs.get_mut(bound).filter(|value| !value.is_null()) {
            *value = (value.as_i64()? + if is_strict { step } else { 0 }).into();
        }
    }
    Some(())
}

enum Range {
    Equal(Value),
    Between(Value),
}

/// What is compared, and with what.
fn range(part: &Expr) -> Result<(&Expr, Range), String> {
    if let Expr::Between(between) = part
        && !between.negated
        && let (Some(low), Some(high)) = (number(&between.low), number(&between.high))
    {
        return Ok((&between.expr, Range::Between(json!({"min_value": low, "max_value": high}))));
    }
    let Expr::BinaryExpr(binary) = part else { return Err(unsaid(part)) };
    let (left, op, right) = match literal(&binary.right) {
        Some(right) => (binary.left.as_ref(), binary.op, right),
        None => {
            let left = literal(&binary.left).ok_or_else(|| unsaid(part))?;
            (binary.right.as_ref(), binary.op.swap().ok_or_else(|| unsaid(part))?, left)
        }
    };
    if op != Operator::Eq && !right.is_number() {
        return Err(unsaid(part));
    }
    let range = match op {
        Operator::Eq => Range::Equal(right),
        Operator::Gt => Range::Between(json!({"min_value": right, "strict_min": true})),
        Operator::GtEq => Range::Between(json!({"min_value": right})),
        Operator::Lt => Range::Between(json!({"max_value": right, "strict_max": true})),
        Operator::LtEq => Range::Between(json!({"max_value": right})),
        _ => return Err(unsaid(part)),
    };
    Ok((left, range))
}

fn number(expr: &Expr) -> Option<Value> {
    literal(expr).filter(Value::is_number)
}

/// A number or a text.
fn literal(expr: &Expr) -> Option<Value> {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(value)), _) => Some((*value).into()),
        Expr::Literal(ScalarValue::UInt64(Some(value)), _) => Some((*value).into()),
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => Some((*value).into()),
        Expr::Literal(ScalarValue::Utf8(Some(value)), _) => Some(value.as_str().into()),
        Expr::Literal(ScalarValue::Boolean(Some(value)), _) => Some((*value).into()),
        Expr::Negative(inner) => match literal(inner)? {
            Value::Number(number) if number.is_i64() => Some((-number.as_i64()?).into()),
            Value::Number(number) => Some((-number.as_f64()?).into()),
            _ => None,
        },
        _ => None,
    }
}

fn unsaid(part: &Expr) -> String {
    format!("GX has no expectation for `{}`", part.human_display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    fn said(rules: Value) -> (Vec<String>, Vec<String>) {
        let columns = [("id", DataType::Int64), ("price", DataType::Float64), ("kind", DataType::Utf8)];
        let schema = Arc::new(Schema::new(columns.map(|(name, kind)| Field::new(name, kind, true)).to_vec()));
        let rules: Vec<Expectation> = serde_json::from_value(rules).unwrap_or_else(|error| panic!("{error}"));
        let suite = suite(&TableRef::new("silver", "t"), &rules, &schema).unwrap_or_else(|error| panic!("{error}"));
        let all = suite.json["expectations"].as_array().cloned().unwrap_or_default();
        let shown = all
            .iter()
            .map(|one| format!("{} {} {}", one["meta"]["lakehouse"]["rule"].as_str().unwrap_or_default(), one["type"], one["kwargs"]));
        (shown.collect(), suite.left_out.into_iter().map(|(rule, why)| format!("{rule}: {why}")).collect())
    }

    #[test]
    fn what_gx_can_say_is_said() {
        let (said, left) = said(json!([
            {"name": "a", "row": "price > 0 AND kind IN ('x', 'y')", "otherwise": "warn"},
            {"name": "b", "batch": "count(*) > 9 AND max(price) <= -0.5", "otherwise": "fail"},
            {"name": "c", "unique": ["id", "kind"], "otherwise": "fail"},
            {"name": "d", "distribution": {"column": "price", "nullRatio": {"max": 0.25}}, "otherwise": "warn"},
        ]));
        assert_eq!(
            said,
            [
                r#"a "expect_column_values_to_not_be_null" {"column":"price"}"#,
                r#"a "expect_column_values_to_be_between" {"min_value":0,"strict_min":true,"column":"price"}"#,
                r#"a "expect_column_values_to_not_be_null" {"column":"kind"}"#,
                r#"a "expect_column_values_to_be_in_set" {"value_set":["x","y"],"column":"kind"}"#,
                r#"b "expect_table_row_count_to_be_between" {"min_value":10}"#,
                r#"b "expect_column_max_to_be_between" {"max_value":-0.5,"column":"price"}"#,
                r#"c "expect_compound_columns_to_be_unique" {"column_list":["id","kind"],"ignore_row_if":"any_value_is_missing"}"#,
                r#"d "expect_column_proportion_of_non_null_values_to_be_between" {"column":"price","min_value":0.75,"max_value":null}"#,
            ]
        );
        assert_eq!(left, Vec::<String>::new());
    }

    #[test]
    fn what_it_cannot_say_is_named() {
        let (said, left) = said(json!([
            {"name": "either", "row": "price > 0 OR id > 0", "otherwise": "warn"},
            {"name": "two", "row": "price > id", "otherwise": "warn"},
            {"name": "distinct", "batch": "count(distinct id) > 1", "otherwise": "warn"},
            {"name": "fresh", "freshness": {"column": "id", "maxAge": "1h"}, "otherwise": "warn"},
        ]));
        assert_eq!(said, Vec::<String>::new());
        let names: Vec<&str> = left.iter().filter_map(|text| text.split(':').next()).collect();
        assert_eq!(names, ["either", "two", "distinct", "fresh"]);
        assert!(left.iter().all(|text| text.contains("GX")), "{left:?}");
    }
}
