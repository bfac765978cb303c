//! The rules of one table that are about more than one row.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use datafusion::{
    catalog::TableProvider,
    error::DataFusionError,
    functions_aggregate::expr_fn::max,
    prelude::{SessionContext, col, lit},
    scalar::ScalarValue,
};
use lakehouse_api::pipeline::{Distribution, Expectation, Freshness, Otherwise};
use lakehouse_contract::{ExpectationResult, Interval, Reason, RuleKind, StageFailure, TableRef};

use crate::{
    condition::{Aggregated, parse},
    session::{ROWS, quoted, session},
    statistics::{self, count, text},
};

const DAY_MICROS: i64 = 86_400_000_000;

/// The rules of one table that are about more than one row, compiled.
#[derive(Clone, Debug)]
pub struct Rules {
    table: TableRef,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    name: String,
    otherwise: Otherwise,
    check: Check,
}

#[derive(Clone, Debug)]
enum Check {
    Batch { sql: String, condition: Aggregated },
    Distribution(Distribution),
    Table { sql: String, condition: Aggregated },
    Unique(Vec<String>),
    Freshness(Freshness),
}

impl Check {
    const fn kind(&self) -> RuleKind {
        match self {
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
            Self::Batch { sql, .. } | Self::Table { sql, .. } => sql.clone(),
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
        let context = SessionContext::new();
        let mut compiled = Vec::new();
        for rule in rules {
            let condition = |sql: &str| Aggregated::new(&context, table, &rule.name, sql, schema);
            let check = if let Some(sql) = &rule.batch {
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
        Ok(Self { table: table.clone(), rules: compiled })
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
            let found = evaluate(&context, &rule.check, interval).await.map_err(|error| {
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
                observed: Some(found.observed),
                bound: rule.check.bound(),
            });
        }
        Ok(results)
    }
}

async fn evaluate(context: &SessionContext, check: &Check, interval: Option<&Interval>) -> Result<Found, DataFusionError> {
    match check {
        Check::Batch { condition, .. } | Check::Table { condition, .. } => {
            let held = condition.evaluate(context.table(ROWS).await?).await?;
            let rows = context.table(ROWS).await?.count().await? as u64;
            Ok(Found { passed: held.holds, failed: u64::from(!held.holds), checked: Some(rows), observed: held.observed })
        }
        Check::Distribution(of) => {
            let found = statistics::evaluate(context, of).await?;
            Ok(Found { passed: found.holds, failed: u64::from(!found.holds), checked: Some(found.rows), observed: found.observed })
        }
        Check::Unique(columns) => unique(context, columns).await,
        Check::Freshness(of) => {
            let end = interval.map_or(DateTime::<Utc>::MAX_UTC, |interval| interval.end);
            freshness(context, of, end).await
        }
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
