//! Rules that name columns and tables: those exist, and have types that the rule can be about.

use std::collections::{BTreeMap, BTreeSet};

use lakehouse_api::pipeline::{Bounds, Distribution, Expectation, GoldModel, References, SilverTable};

use crate::ColumnType;

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{table} expectation {rule}: {field}: {message}")]
pub struct Fault {
    /// The table with the rule: `silver.NAME` or `gold.NAME`.
    pub table: String,
    /// The rule.
    pub rule: String,
    /// Field within the rule.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// Checks the rules of all tables of a pipeline.
///
/// # Errors
/// The first [`Fault`].
pub fn check(tables: &[SilverTable]) -> Result<(), Fault> {
    for table in tables {
        for rule in &table.expectations {
            rule_of(table, rule, tables).map_err(|(field, message)| Fault {
                table: format!("silver.{}", table.name),
                rule: rule.name.clone(),
                field,
                message,
            })?;
        }
    }
    levels(tables).map(drop)
}

/// Checks what can be said of the rules of models without their queries, whose columns are known only once they are planned.
///
/// # Errors
/// The first [`Fault`].
pub fn check_models(models: &[GoldModel]) -> Result<(), Fault> {
    for model in models {
        for rule in &model.expectations {
            rule_of_model(model, rule).map_err(|(field, message)| Fault {
                table: format!("gold.{}", model.name),
                rule: rule.name.clone(),
                field,
                message,
            })?;
        }
    }
    Ok(())
}

fn rule_of_model(model: &GoldModel, rule: &Expectation) -> Result<(), Wrong> {
    if let Some(columns) = &rule.unique
        && let Some((_, column)) = columns.iter().enumerate().find(|(index, column)| columns[..*index].contains(column))
    {
        return Err(("unique".to_owned(), format!("column `{column}` stands twice")));
    }
    if let Some(to) = &rule.references {
        let own = format!("gold.{}", model.name);
        if !to.table.contains('.') {
            let message = format!("`{0}`: a model refers to silver.{0} or gold.{0}", to.table);
            return Err(("references.table".to_owned(), message));
        }
        if to.table == own {
            return Err(("references.table".to_owned(), format!("{own} refers to itself")));
        }
    }
    rule.distribution.as_ref().map_or(Ok(()), bounds)
}

/// The tables by how far they refer to others: those of the first level to none, those of each further one only to earlier levels.
///
/// # Errors
/// The rule by which tables refer to each other in a circle, or to themselves.
pub fn levels(tables: &[SilverTable]) -> Result<Vec<BTreeSet<String>>, Fault> {
    let mut levels: Vec<BTreeSet<String>> = Vec::new();
    let mut placed = BTreeSet::new();
    let mut waiting: Vec<&SilverTable> = tables.iter().collect();
    while !waiting.is_empty() {
        let ready = |table: &SilverTable| references(table).all(|(_, to)| placed.contains(&to.table));
        let (next, rest): (Vec<&SilverTable>, Vec<&SilverTable>) = waiting.into_iter().partition(|table| ready(table));
        if next.is_empty() {
            return Err(circle(&rest));
        }
        let names: BTreeSet<String> = next.into_iter().map(|table| table.name.clone()).collect();
        placed.extend(names.iter().cloned());
        levels.push(names);
        waiting = rest;
    }
    Ok(levels)
}

fn references(table: &SilverTable) -> impl Iterator<Item = (&Expectation, &References)> {
    table.expectations.iter().filter_map(|rule| Some((rule, rule.references.as_ref()?)))
}

/// The fault of tables of which none is free of references to another of them: from any of them, the way leads into the circle.
fn circle(tables: &[&SilverTable]) -> Fault {
    let next: BTreeMap<&str, (&Expectation, &str)> = tables
        .iter()
        .filter_map(|table| {
            let back = references(table).find(|(_, to)| tables.iter().any(|other| other.name == to.table));
            back.map(|(rule, to)| (table.name.as_str(), (rule, to.table.as_str())))
        })
        .collect();
    let mut way: Vec<&str> = Vec::new();
    let mut at = tables.first().map_or("", |table| table.name.as_str());
    while !way.contains(&at) {
        way.push(at);
        at = next.get(at).map_or("", |(_, to)| to);
    }
    let start = way.iter().position(|name| *name == at).unwrap_or_default();
    let shown: Vec<&str> = way[start..].iter().copied().chain([at]).collect();
    Fault {
        table: format!("silver.{at}"),
        rule: next.get(at).map(|(rule, _)| rule.name.clone()).unwrap_or_default(),
        field: "references.table".to_owned(),
        message: format!("tables must not refer to each other in a circle: {}", shown.join(" → ")),
    }
}

type Wrong = (String, String);

fn rule_of(table: &SilverTable, rule: &Expectation, tables: &[SilverTable]) -> Result<(), Wrong> {
    if let Some(columns) = &rule.unique {
        for (index, column) in columns.iter().enumerate() {
            type_of(table, column).map_err(|message| ("unique".to_owned(), message))?;
            if columns[..index].contains(column) {
                return Err(("unique".to_owned(), format!("column `{column}` stands twice")));
            }
        }
    }
    if let Some(freshness) = &rule.freshness {
        let field = || "freshness.column".to_owned();
        let kind = type_of(table, &freshness.column).map_err(|message| (field(), message))?;
        if !matches!(kind, ColumnType::Date | ColumnType::Timestamp | ColumnType::Timestamptz) {
            let message = format!("column {} is of type {kind}, it must be date, timestamp or timestamptz", freshness.column);
            return Err((field(), message));
        }
    }
    if let Some(to) = &rule.references {
        partner(table, to, tables)?;
    }
    if let Some(distribution) = &rule.distribution {
        statistics(table, distribution)?;
    }
    Ok(())
}

fn partner(table: &SilverTable, to: &References, tables: &[SilverTable]) -> Result<(), Wrong> {
    let Some(other) = tables.iter().find(|other| other.name == to.table) else {
        let known = tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>().join(", ");
        let message = format!("the pipeline has no silver table `{}`; it has: {known}", to.table);
        return Err(("references.table".to_owned(), message));
    };
    for (column, partner) in &to.columns {
        let field = || format!("references.columns.{column}");
        let own = type_of(table, column).map_err(|message| (field(), message))?;
        let others = type_of(other, partner).map_err(|message| (field(), format!("silver.{}: {message}", other.name)))?;
        if own != others {
            let message =
                format!("column {column} is of type {own}, silver.{}.{partner} of type {others}: they must be of one type", to.table);
            return Err((field(), message));
        }
    }
    Ok(())
}

fn statistics(table: &SilverTable, distribution: &Distribution) -> Result<(), Wrong> {
    let kind = type_of(table, &distribution.column).map_err(|message| ("distribution.column".to_owned(), message))?;
    let number = matches!(kind, ColumnType::Int | ColumnType::Long | ColumnType::Float | ColumnType::Double | ColumnType::Decimal(..));
    for (name, of_numbers, _) in bounded(distribution) {
        if of_numbers && !number {
            let message = format!("column {} is of type {kind}, which has no such statistic: it must be a number", distribution.column);
            return Err((format!("distribution.{name}"), message));
        }
    }
    bounds(distribution)
}

/// The statistics that are bounded: field, whether it is one of numbers, bounds.
fn bounded(distribution: &Distribution) -> impl Iterator<Item = (String, bool, Bounds)> {
    let quantiles = distribution.quantiles.iter().enumerate();
    let quantiles = quantiles.map(|(index, of)| (format!("quantiles[{index}]"), true, Some(of.bounds())));
    let all = [
        ("mean".to_owned(), true, distribution.mean),
        ("standardDeviation".to_owned(), true, distribution.standard_deviation),
        ("nullRatio".to_owned(), false, distribution.null_ratio),
        ("distinctRatio".to_owned(), false, distribution.distinct_ratio),
    ];
    all.into_iter().chain(quantiles).filter_map(|(name, of_numbers, bounds)| Some((name, of_numbers, bounds?)))
}

/// Bounds can be met, and earlier intervals are named only where something is compared with them.
fn bounds(distribution: &Distribution) -> Result<(), Wrong> {
    for (name, _, bounds) in bounded(distribution) {
        if let (Some(min), Some(max)) = (bounds.min, bounds.max)
            && min > max
        {
            return Err((format!("distribution.{name}"), format!("min {min} is greater than max {max}")));
        }
    }
    if distribution.against.is_some() && !distribution.looks_back() {
        let message = "no statistic has changeAtMost, so that nothing is compared with earlier intervals".to_owned();
        return Err(("distribution.against".to_owned(), message));
    }
    Ok(())
}

/// The type of a column of the table, or of `processed_at`, which every table has.
fn type_of(table: &SilverTable, name: &str) -> Result<ColumnType, String> {
    if name == "processed_at" {
        return Ok(ColumnType::Timestamptz);
    }
    let captured = table.unknown_fields.as_ref().and_then(|rule| rule.capture.as_ref()).map(|capture| capture.column.as_str());
    if captured == Some(name) {
        return Ok(ColumnType::Json);
    }
    match table.columns.iter().find(|column| column.name == name) {
        Some(column) => column.type_.parse(),
        None => {
            let known = table.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
            Err(format!("column `{name}` does not exist; columns: {known}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn table(name: &str, rules: Value) -> SilverTable {
        let columns = json!([
            {"name": "id", "from": "/id", "type": "long"},
            {"name": "at", "from": "/at", "type": "timestamptz"},
            {"name": "name", "from": "/name", "type": "string"},
            {"name": "price", "from": "/price", "type": "decimal(10,2)"},
        ]);
        let table = json!({"name": name, "from": "events", "write": {"append": {}}, "columns": columns, "expectations": rules});
        serde_json::from_value(table).unwrap()
    }

    fn to(table: &str) -> Value {
        json!([{"name": "known", "references": {"table": table, "columns": {"id": "id"}}, "otherwise": "warn"}])
    }

    #[test]
    fn what_a_rule_names_exists_and_fits() {
        let cases = [
            (json!({"unique": ["idd"]}), "unique: column `idd` does not exist; columns: id, at, name, price"),
            (json!({"unique": ["id", "id"]}), "unique: column `id` stands twice"),
            (
                json!({"freshness": {"column": "name", "maxAge": "1h"}}),
                "freshness.column: column name is of type string, it must be date, timestamp or timestamptz",
            ),
            (
                json!({"references": {"table": "others", "columns": {"id": "id"}}}),
                "references.table: the pipeline has no silver table `others`; it has: t, parents",
            ),
            (
                json!({"references": {"table": "parents", "columns": {"id": "key"}}}),
                "references.columns.id: silver.parents: column `key` does not exist; columns: id, at, name, price",
            ),
            (
                json!({"references": {"table": "parents", "columns": {"id": "name"}}}),
                "references.columns.id: column id is of type long, silver.parents.name of type string: they must be of one type",
            ),
            (
                json!({"distribution": {"column": "name", "mean": {"min": 1.0}}}),
                "distribution.mean: column name is of type string, which has no such statistic: it must be a number",
            ),
            (
                json!({"distribution": {"column": "price", "quantiles": [{"at": 0.5, "min": 3, "max": 2}]}}),
                "distribution.quantiles[0]: min 3 is greater than max 2",
            ),
            (
                json!({"distribution": {"column": "price", "mean": {"min": 3}, "against": 3}}),
                "distribution.against: no statistic has changeAtMost, so that nothing is compared with earlier intervals",
            ),
        ];
        for (mut rule, expected) in cases {
            rule["name"] = "rule".into();
            rule["otherwise"] = "fail".into();
            let fault = check(&[table("t", json!([rule])), table("parents", json!([]))]).unwrap_err();
            assert_eq!((fault.table.as_str(), fault.rule.as_str()), ("silver.t", "rule"));
            assert_eq!(format!("{}: {}", fault.field, fault.message), expected);
        }
    }

    #[test]
    fn rules_of_a_model_say_what_is_wrong_before_its_query_is_planned() {
        let cases = [
            (json!({"unique": ["id", "id"]}), "unique: column `id` stands twice"),
            (
                json!({"references": {"table": "coins", "columns": {"id": "id"}}}),
                "references.table: `coins`: a model refers to silver.coins or gold.coins",
            ),
            (json!({"references": {"table": "gold.m", "columns": {"id": "id"}}}), "references.table: gold.m refers to itself"),
            (json!({"distribution": {"column": "x", "mean": {"min": 3, "max": 2}}}), "distribution.mean: min 3 is greater than max 2"),
        ];
        for (mut rule, expected) in cases {
            rule["name"] = "rule".into();
            rule["otherwise"] = "fail".into();
            let model = json!({"name": "m", "write": {"overwrite": {}}, "sql": "select 1", "expectations": [rule]});
            let fault = check_models(&[serde_json::from_value(model).unwrap()]).unwrap_err();
            assert_eq!((fault.table.as_str(), fault.rule.as_str()), ("gold.m", "rule"));
            assert_eq!(format!("{}: {}", fault.field, fault.message), expected);
        }
    }

    #[test]
    fn tables_stand_after_those_that_they_refer_to() {
        let tables = [table("a", to("b")), table("b", to("c")), table("c", json!([])), table("d", json!([]))];
        let levels = levels(&tables).unwrap();
        let shown: Vec<String> = levels.iter().map(|level| level.iter().cloned().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(shown, ["c d", "b", "a"]);
    }

    #[test]
    fn a_circle_is_shown() {
        let fault = check(&[table("x", to("a")), table("a", to("b")), table("b", to("a"))]).unwrap_err();
        assert_eq!((fault.table.as_str(), fault.field.as_str()), ("silver.a", "references.table"));
        assert!(fault.message.ends_with("a → b → a"), "{}", fault.message);
        let fault = check(&[table("a", to("a"))]).unwrap_err();
        assert!(fault.message.ends_with("a → a"), "{}", fault.message);
    }
}
