//! The rules of one table that are about more than one row; of a model all of its rules.

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::{DataType, SchemaRef};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use datafusion::{
    catalog::TableProvider,
    common::{Column, JoinType},
    error::DataFusionError,
    functions_aggregate::expr_fn::max,
    logical_expr::Expr,
    prelude::{DataFrame, SessionContext, col, lit},
    scalar::ScalarValue,
};
use lakehouse_api::pipeline::{Distribution, Expectation, Freshness, Otherwise, References};
use lakehouse_contract::{ExpectationResult, Interval, Reason, RuleKind, StageFailure, TableRef};
use lakehouse_tables::{TableError, Tables};

use crate::{
    RESULTS,
    condition::{Aggregated, invalid, of_row, parse},
    earlier::Earlier,
    session::{ROWS, quoted, session},
    statistics::{self, count, text},
};

const DAY_MICROS: i64 = 86_400_000_000;

/// The rules of one table, compiled.
#[derive(Clone, Debug)]
pub struct Rules {
    table: TableRef,
    rules: Vec<Rule>,
    earlier: Earlier,
    /// The tables that rows refer to.
    partners: BTreeMap<TableRef, Arc<dyn TableProvider>>,
}

#[derive(Clone, Debug)]
struct Rule {
    name: String,
    otherwise: Otherwise,
    check: Check,
}

#[derive(Clone, Debug)]
enum Check {
    /// Of models alone: rows of silver are looked at while they are read.
    Row {
        sql: String,
        condition: Expr,
    },
    /// Of models alone.
    References {
        table: TableRef,
        to: References,
    },
    Batch {
        sql: String,
        condition: Aggregated,
    },
    Distribution(Distribution),
    Table {
        sql: String,
        condition: Aggregated,
    },
    Unique(Vec<String>),
    Freshness(Freshness),
}

impl Check {
    const fn kind(&self) -> RuleKind {
        match self {
            Self::Row { .. } => RuleKind::Row,
            Self::References { .. } => RuleKind::References,
            Self::Batch { .. } => RuleKind::Batch,
            Self::Distribution(_) => RuleKind::Distribution,
            Self::Table { .. } => RuleKind::Table,
            Self::Unique(_) => RuleKind::Unique,
            Self::Freshness(_) => RuleKind::Freshness,
        }
    }

    const fn is_of_table(&self) -> bool {
        matches!(self, Self::Table { .. } | Self::Unique(_) | Self::Freshness(_))
    }

    /// What is asked for, as a person reads it.
    fn bound(&self) -> String {
        match self {
            Self::Row { sql, .. } | Self::Batch { sql, .. } | Self::Table { sql, .. } => sql.clone(),
            Self::References { table, to } => {
                let columns: Vec<String> = to.columns.iter().map(|(own, other)| format!("{own} → {other}")).collect();
                format!("{table} ({})", columns.join(", "))
            }
            Self::Distribution(of) => statistics::bound(of),
            Self::Unique(columns) => columns.join(", "),
            Self::Freshness(of) => format!("the newest {} must be at most {} older than the end of the interval", of.column, of.max_age),
        }
    }
}

/// What a check found.
struct Found {
    passed: bool,
    failed: u64,
    checked: Option<u64>,
    observed: String,
}

impl Rules {
    /// Compiles those of `rules` that are about more than one row of a table with columns `schema`.
    ///
    /// # Errors
    /// `InvalidSql`, naming table, rule and what is wrong. That other rules name columns that exist is checked with the definition.
    pub fn new(table: &TableRef, rules: &[Expectation], schema: &SchemaRef) -> Result<Self, StageFailure> {
        let rules = rules.iter().filter(|rule| rule.row.is_none() && rule.references.is_none());
        Self::compile(table, rules, schema)
    }

    /// Compiles all rules of a model whose query gives the columns `schema`. The tables that it refers to are to be given by [`Self::refer`].
    ///
    /// # Errors
    /// `InvalidSql`, naming model, rule, field and what is wrong.
    pub fn of_model(table: &TableRef, rules: &[Expectation], schema: &SchemaRef) -> Result<Self, StageFailure> {
        for rule in rules {
            check_types(rule, schema).map_err(|(field, message)| invalid(table, &rule.name, format!("{field}: {message}")))?;
        }
        Self::compile(table, rules.iter(), schema)
    }

    fn compile<'a>(table: &TableRef, rules: impl Iterator<Item = &'a Expectation>, schema: &SchemaRef) -> Result<Self, StageFailure> {
        let context = SessionContext::new();
        let mut compiled = Vec::new();
        for rule in rules {
            let condition = |sql: &str| Aggregated::new(&context, table, &rule.name, sql, schema);
            let check = if let Some(sql) = &rule.row {
                Check::Row { sql: sql.clone(), condition: of_row(&context, table, &rule.name, sql, schema)?.0 }
            } else if let Some(to) = &rule.references {
                let (namespace, name) = to.table.split_once('.').unwrap_or(("silver", &to.table));
                Check::References { table: TableRef::new(namespace, name), to: to.clone() }
            } else if let Some(sql) = &rule.batch {
                Check::Batch { sql: sql.clone(), condition: condition(sql)? }
            } else if let Some(sql) = &rule.table {
                Check::Table { sql: sql.clone(), condition: condition(sql)? }
            } else if let Some(columns) = &rule.unique {
                Check::Unique(columns.clone())
            } else if let Some(freshness) = &rule.freshness {
                // The column exists, or this says so.
                parse(&context, table, &rule.name, &quoted(&freshness.column), schema)?;
                Check::Freshness(freshness.clone())
            } else if let Some(distribution) = &rule.distribution {
                Check::Distribution(distribution.clone())
            } else {
                continue;
            };
            compiled.push(Rule { name: rule.name.clone(), otherwise: rule.otherwise, check });
        }
        Ok(Self { table: table.clone(), rules: compiled, earlier: Earlier::default(), partners: BTreeMap::new() })
    }

    /// Place of a rule in the definition.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.rules.iter().position(|rule| rule.name == name)
    }

    /// The tables that rows refer to.
    pub fn partners(&self) -> impl Iterator<Item = &TableRef> {
        self.rules.iter().filter_map(|rule| if let Check::References { table, .. } = &rule.check { Some(table) } else { None })
    }

    /// Gives a table that rows refer to, which has the columns that the rules name.
    ///
    /// # Errors
    /// `InvalidSql` for a column that it does not have, or has with another type than `schema`, the columns of the model.
    pub fn refer(&mut self, partner: &TableRef, rows: Arc<dyn TableProvider>, schema: &SchemaRef) -> Result<(), StageFailure> {
        let others = rows.schema();
        for rule in &self.rules {
            let Check::References { table, to } = &rule.check else { continue };
            if table != partner {
                continue;
            }
            for (own, other) in &to.columns {
                let wrong = |message: String| invalid(&self.table, &rule.name, format!("references.columns.{own}: {message}"));
                let own_type = type_of(schema, own).map_err(wrong)?;
                let other_type = type_of(&others, other).map_err(|message| wrong(format!("{table}: {message}")))?;
                if own_type != other_type {
                    let text = "they must be of one type";
                    return Err(wrong(format!("column {own} is of type {own_type}, {table}.{other} of type {other_type}: {text}")));
                }
            }
        }
        self.partners.insert(partner.clone(), rows);
        Ok(())
    }

    /// Reads what rules are compared with: results of the intervals that ended at or before `before`, of the pipeline `owner`. Nothing where no
    /// rule looks back, or there are no results yet.
    ///
    /// # Errors
    /// `failure` of what the table says.
    pub async fn look_back(
        &mut self,
        tables: &Tables,
        owner: &str,
        before: DateTime<Utc>,
        failure: impl Fn(&TableError) -> StageFailure,
    ) -> Result<(), StageFailure> {
        let looking = self.rules.iter().filter_map(|rule| match &rule.check {
            Check::Distribution(of) if of.looks_back() => Some((rule.name.clone(), of.column.clone())),
            _ => None,
        });
        let looking: BTreeMap<String, String> = looking.collect();
        if looking.is_empty() {
            return Ok(());
        }
        let results = TableRef::new(RESULTS.0, RESULTS.1);
        let Some(table) = tables.open_table(&results).await.map_err(|error| failure(&error))? else { return Ok(()) };
        if table.snapshot().await.map_err(|error| failure(&error))?.is_none() {
            return Ok(());
        }
        let rows = table.provider(None).await.map_err(|error| failure(&error))?;
        self.earlier = Earlier::read(rows, owner, &self.table, &looking, before).await.map_err(|error| {
            StageFailure::new(Reason::StoreUnavailable, format!("table {results} cannot be read: {}", error.strip_backtrace()))
        })?;
        Ok(())
    }

    /// Whether one of them is about the whole table, so that [`Self::check_table`] has something to do.
    pub fn any_of_table(&self) -> bool {
        self.rules.iter().any(|rule| rule.check.is_of_table())
    }

    /// Whether one of them is about the rows of a run, so that [`Self::check_batch`] has something to do.
    pub fn any_of_batch(&self) -> bool {
        self.rules.iter().any(|rule| !rule.check.is_of_table())
    }

    /// Checks the rules about the rows of a run, of which `rows` are all; they are read several times.
    ///
    /// # Errors
    /// `SqlFailed` when one cannot be evaluated. A broken rule is a result, see [`crate::failure_of`].
    pub async fn check_batch(&self, rows: Arc<dyn TableProvider>) -> Result<Vec<ExpectationResult>, StageFailure> {
        self.check(rows, None, |check| !check.is_of_table()).await
    }

    /// Checks the rules about the whole table, of which `rows` are all rows, for a run of `interval`.
    ///
    /// # Errors
    /// As [`Self::check_batch`].
    pub async fn check_table(&self, rows: Arc<dyn TableProvider>, interval: &Interval) -> Result<Vec<ExpectationResult>, StageFailure> {
        self.check(rows, Some(interval), Check::is_of_table).await
    }

    async fn check(
        &self,
        rows: Arc<dyn TableProvider>,
        interval: Option<&Interval>,
        wanted: impl Fn(&Check) -> bool,
    ) -> Result<Vec<ExpectationResult>, StageFailure> {
        let open = || {
            let context = session()?;
            context.register_table(ROWS, rows)?;
            Ok::<_, DataFusionError>(context)
        };
        let context = open().map_err(|error| StageFailure::new(Reason::Internal, error.strip_backtrace()))?;
        let mut results = Vec::new();
        for rule in self.rules.iter().filter(|rule| wanted(&rule.check)) {
            let found = self.evaluate(&context, rule, interval).await.map_err(|error| {
                let text = format!("{} expectation {}: {}", self.table, rule.name, error.strip_backtrace());
                StageFailure::new(Reason::SqlFailed, text)
            })?;
            results.push(ExpectationResult {
                name: rule.name.clone(),
                kind: rule.check.kind(),
                otherwise: Some(rule.otherwise),
                passed: found.passed,
                failed: found.failed,
                checked: found.checked,
                observed: Some(found.observed).filter(|observed| !observed.is_empty()),
                bound: rule.check.bound(),
            });
        }
        Ok(results)
    }

    async fn evaluate(&self, context: &SessionContext, rule: &Rule, interval: Option<&Interval>) -> Result<Found, DataFusionError> {
        match &rule.check {
            Check::Row { condition, .. } => rows(context, condition).await,
            Check::References { table, to } => {
                let Some(partner) = self.partners.get(table) else {
                    return Err(DataFusionError::Plan(format!("{table} is not known")));
                };
                references(context, partner.clone(), to).await
            }
            Check::Batch { condition, .. } | Check::Table { condition, .. } => {
                let held = condition.evaluate(context.table(ROWS).await?).await?;
                let rows = context.table(ROWS).await?.count().await? as u64;
                Ok(Found { passed: held.holds, failed: u64::from(!held.holds), checked: Some(rows), observed: held.observed })
            }
            Check::Distribution(of) => {
                let found = statistics::evaluate(context, of, self.earlier.of(&rule.name)).await?;
                Ok(Found { passed: found.holds, failed: u64::from(!found.holds), checked: Some(found.rows), observed: found.observed })
            }
            Check::Unique(columns) => unique(context, columns).await,
            Check::Freshness(of) => {
                let end = interval.map_or(DateTime::<Utc>::MAX_UTC, |interval| interval.end);
                freshness(context, of, end).await
            }
        }
    }
}

/// What a rule of a model names is there, and of a type that it can be about.
fn check_types(rule: &Expectation, schema: &SchemaRef) -> Result<(), (&'static str, String)> {
    for column in rule.unique.iter().flatten() {
        type_of(schema, column).map_err(|message| ("unique", message))?;
    }
    if let Some(freshness) = &rule.freshness {
        let kind = type_of(schema, &freshness.column).map_err(|message| ("freshness.column", message))?;
        if !matches!(kind, DataType::Date32 | DataType::Timestamp(..)) {
            let message = format!("column {} is of type {kind}, it must be date, timestamp or timestamptz", freshness.column);
            return Err(("freshness.column", message));
        }
    }
    for own in rule.references.iter().flat_map(|to| to.columns.keys()) {
        type_of(schema, own).map_err(|message| ("references.columns", message))?;
    }
    if let Some(of) = &rule.distribution {
        let kind = type_of(schema, &of.column).map_err(|message| ("distribution.column", message))?;
        let of_numbers = of.mean.is_some() || of.standard_deviation.is_some() || !of.quantiles.is_empty();
        if of_numbers && !kind.is_numeric() {
            let message = format!("column {} is of type {kind}: mean, standardDeviation and quantiles need a number", of.column);
            return Err(("distribution", message));
        }
    }
    Ok(())
}

fn type_of(schema: &SchemaRef, column: &str) -> Result<DataType, String> {
    schema.field_with_name(column).map(|field| field.data_type().clone()).map_err(|_| {
        let known = schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        format!("column `{column}` does not exist; columns: {known}")
    })
}

/// Rows in which a condition is not true, with the first of them in the order of their values: results of a run that is repeated are equal.
async fn rows(context: &SessionContext, condition: &Expr) -> Result<Found, DataFusionError> {
    let all = context.table(ROWS).await?;
    let checked = all.clone().count().await? as u64;
    let broken = all.filter(condition.clone().is_not_true())?;
    let failed = broken.clone().count().await? as u64;
    let example = if failed > 0 { first(broken).await? } else { String::new() };
    Ok(Found { passed: failed == 0, failed, checked: Some(checked), observed: example })
}

/// Rows without a partner. Those with a null among their columns are not looked at.
async fn references(context: &SessionContext, partner: Arc<dyn TableProvider>, to: &References) -> Result<Found, DataFusionError> {
    let named = |name: &String| Expr::Column(Column::from_name(name));
    let known = to.columns.keys().map(|own| named(own).is_not_null()).reduce(Expr::and).unwrap_or_else(|| lit(true));
    let rows = context.table(ROWS).await?.filter(known)?.select(to.columns.keys().map(named).collect::<Vec<_>>())?;
    let checked = rows.clone().count().await? as u64;
    // Under names of their own: columns of both sides may be called the same.
    let others: Vec<String> = (0..to.columns.len()).map(|index| format!("lakehouse.{index}")).collect();
    let partners = to.columns.values().zip(&others).map(|(other, name)| named(other).alias(name)).collect::<Vec<_>>();
    let partners = context.read_table(partner)?.select(partners)?;
    let own: Vec<&str> = to.columns.keys().map(String::as_str).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let alone = rows.join(partners, JoinType::LeftAnti, &own, &others, None)?;
    let failed = alone.clone().count().await? as u64;
    let example = if failed > 0 { first(alone).await? } else { String::new() };
    Ok(Found { passed: failed == 0, failed, checked: Some(checked), observed: example })
}

/// The first row in the order of its values, as `column=value, …`.
async fn first(rows: DataFrame) -> Result<String, DataFusionError> {
    let names: Vec<String> = rows.schema().fields().iter().map(|field| field.name().clone()).collect();
    let order = names.iter().map(|name| Expr::Column(Column::from_name(name)).sort(true, false)).collect();
    let batches = rows.sort(order)?.limit(0, Some(1))?.collect().await?;
    Ok(batches.iter().find(|batch| batch.num_rows() > 0).map_or_else(String::new, |row| {
        let values =
            names.iter().enumerate().map(|(index, name)| format!("{name}={}", text(row, index).unwrap_or_else(|| "null".to_owned())));
        shortened(&values.collect::<Vec<_>>().join(", "))
    }))
}

/// A row as long as a message may quote it.
fn shortened(row: &str) -> String {
    const LONGEST: usize = 200;
    match row.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &row[..end]),
        None => row.to_owned(),
    }
}

/// Groups that have more than one row. Rows with a null among the columns are in no group.
async fn unique(context: &SessionContext, columns: &[String]) -> Result<Found, DataFusionError> {
    let names: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
    let (list, known) = (names.join(", "), names.iter().map(|name| format!("{name} IS NOT NULL")).collect::<Vec<_>>().join(" AND "));
    let groups = format!("SELECT {list}, count(*) AS \"lakehouse.n\" FROM {ROWS} WHERE {known} GROUP BY {list}");
    let several = |then: &str| format!("sum(CASE WHEN \"lakehouse.n\" > 1 THEN {then} ELSE 0 END)");
    let query = format!("SELECT sum(\"lakehouse.n\"), {}, {} FROM ({groups})", several("\"lakehouse.n\""), several("1"));
    let batches = context.sql(&query).await?.collect().await?;
    let Some(row) = batches.iter().find(|batch| batch.num_rows() == 1) else {
        return Err(DataFusionError::Internal("counting gave no row".to_owned()));
    };
    let (checked, failed, keys) = (count(row, 0), count(row, 1), count(row, 2));
    if keys == 0 {
        return Ok(Found { passed: true, failed: 0, checked: Some(checked), observed: format!("{checked} rows, each with its own") });
    }
    // The same one whatever the order of files: results of a run that is repeated are equal.
    let query = format!("SELECT {list} FROM ({groups}) WHERE \"lakehouse.n\" > 1 ORDER BY {list} LIMIT 1");
    let batches = context.sql(&query).await?.collect().await?;
    let example = batches.iter().find(|batch| batch.num_rows() > 0).map(|row| {
        let shown = columns.iter().enumerate();
        shown.map(|(index, column)| format!("{column}={}", text(row, index).unwrap_or_default())).collect::<Vec<_>>().join(", ")
    });
    let observed = format!("{keys} stand in {failed} rows, such as {}", example.unwrap_or_default());
    Ok(Found { passed: false, failed, checked: Some(checked), observed })
}

/// The newest value before the end of the interval, and how far that lies back.
async fn freshness(context: &SessionContext, of: &Freshness, end: DateTime<Utc>) -> Result<Found, DataFusionError> {
    let frame = context.table(ROWS).await?;
    let column = || datafusion::logical_expr::Expr::Column(datafusion::common::Column::from_name(&of.column));
    let micros = end.timestamp_micros();
    let kind = frame.schema().as_arrow().field_with_name(&of.column)?.data_type().clone();
    let limit = match &kind {
        // A date stands for its midnight.
        DataType::Date32 => ScalarValue::Date32(Some(micros.div_euclid(DAY_MICROS) as i32 + i32::from(micros.rem_euclid(DAY_MICROS) > 0))),
        DataType::Timestamp(_, zone) => ScalarValue::TimestampMicrosecond(Some(micros), zone.clone()),
        other => {
            return Err(DataFusionError::Plan(format!(
                "column {} is of type {other}, it must be date, timestamp or timestamptz",
                of.column
            )));
        }
    };
    let newest = frame.filter(column().lt(lit(limit)))?.aggregate(Vec::new(), vec![max(column()).alias("newest")])?;
    let batches = newest.select(vec![col("newest")])?.collect().await?;
    let value = batches.iter().find(|batch| batch.num_rows() == 1).map(|row| ScalarValue::try_from_array(row.column(0), 0)).transpose()?;
    let newest = match value {
        Some(ScalarValue::Date32(Some(days))) => DateTime::from_timestamp_micros(i64::from(days) * DAY_MICROS),
        Some(ScalarValue::TimestampMicrosecond(Some(micros), _)) => DateTime::from_timestamp_micros(micros),
        _ => None,
    };
    let oldest = TimeDelta::from_std(of.max_age.0).unwrap_or(TimeDelta::MAX);
    let passed = newest.is_some_and(|newest| end - newest <= oldest);
    let observed = newest.map_or_else(|| "no value".to_owned(), |newest| newest.to_rfc3339_opts(SecondsFormat::AutoSi, true));
    Ok(Found { passed, failed: u64::from(!passed), checked: None, observed })
}
