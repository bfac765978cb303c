//! What can be wrong with SQL, in one line.

use std::fmt::Write;

use datafusion::common::{Column, DataFusionError, SchemaError};
use lakehouse_contract::{Reason, TableRef};

/// Columns that an error lists at most.
const LISTED: usize = 40;

/// Why a query cannot be planned or failed.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// Syntax, a column, a type, or a statement that is not allowed.
    #[error("{0}")]
    Invalid(String),
    /// A table that does not exist.
    #[error("table {table} does not exist; there are: {}", show(known))]
    UnknownTable {
        /// The table.
        table: TableRef,
        /// What there is.
        known: Vec<TableRef>,
    },
    /// It failed while it ran, such as by an overflow or a division by zero.
    #[error("{0}")]
    Failed(String),
    /// Memory or disk ran out.
    #[error("{0}")]
    Resources(String),
    /// A table could not be read; the store or its content is at fault.
    #[error("{0}")]
    Read(Box<dyn std::error::Error + Send + Sync>),
}

fn show(tables: &[TableRef]) -> String {
    if tables.is_empty() {
        return "none".to_owned();
    }
    tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl SqlError {
    /// Sorts and rewords an error of the engine.
    pub(crate) fn of(error: DataFusionError) -> Self {
        match error {
            DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => Self::of(*inner),
            DataFusionError::Shared(inner) => Self::shared(&inner),
            DataFusionError::Collection(errors) => match errors.into_iter().next() {
                Some(first) => Self::of(first),
                None => Self::Failed("it failed without a reason".to_owned()),
            },
            DataFusionError::External(cause) => Self::Read(cause),
            DataFusionError::ObjectStore(cause) => Self::Read(cause),
            DataFusionError::IoError(cause) => Self::Read(Box::new(cause)),
            DataFusionError::ParquetError(cause) => Self::Read(cause),
            other => Self::shared(&other),
        }
    }

    /// As [`Self::of`] for an error that others hold too.
    fn shared(error: &DataFusionError) -> Self {
        match error.find_root() {
            DataFusionError::SchemaError(schema, _) => Self::Invalid(schema_error(schema)),
            DataFusionError::SQL(cause, _) => Self::Invalid(one_line(&format!("syntax: {}", strip(&cause.to_string())))),
            DataFusionError::Plan(text) | DataFusionError::NotImplemented(text) | DataFusionError::Configuration(text) => {
                Self::Invalid(one_line(text))
            }
            DataFusionError::ResourcesExhausted(text) => Self::Resources(one_line(text)),
            DataFusionError::ArrowError(cause, _) => Self::Failed(one_line(&cause.to_string())),
            DataFusionError::Execution(text) => Self::Failed(one_line(text)),
            other => Self::Failed(one_line(&other.to_string())),
        }
    }

    /// As [`Self::of`] for an error behind a reference: the cause of a failed read keeps its text.
    pub(crate) fn shared_of(error: &DataFusionError) -> Self {
        match error.find_root() {
            DataFusionError::External(cause) => Self::Read(cause.to_string().into()),
            DataFusionError::ObjectStore(cause) => Self::Read(cause.to_string().into()),
            DataFusionError::IoError(cause) => Self::Read(cause.to_string().into()),
            DataFusionError::ParquetError(cause) => Self::Read(cause.to_string().into()),
            other => Self::shared(other),
        }
    }

    /// The documented reason of this error.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Invalid(_) | Self::UnknownTable { .. } => Reason::InvalidSql,
            Self::Failed(_) => Reason::SqlFailed,
            Self::Resources(_) => Reason::ResourcesExhausted,
            Self::Read(_) => Reason::StoreUnavailable,
        }
    }
}

impl From<DataFusionError> for SqlError {
    fn from(error: DataFusionError) -> Self {
        Self::of(error)
    }
}

/// Without the parser's own prefix.
fn strip(text: &str) -> &str {
    text.strip_prefix("sql parser error: ").unwrap_or(text)
}

/// White space of any kind as single spaces, without the backtrace that the engine may append.
pub(crate) fn one_line(text: &str) -> String {
    let text = text.split("\n\nbacktrace:").next().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn schema_error(error: &SchemaError) -> String {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => unknown_column(field, valid_fields),
        SchemaError::AmbiguousReference { field } => {
            format!("column `{}` is ambiguous: write TABLE.{}", field.flat_name(), field.name)
        }
        other => one_line(&other.to_string()),
    }
}

fn unknown_column(field: &Column, valid: &[Column]) -> String {
    let mut text = format!("column `{}` does not exist", field.flat_name());
    let nearest = valid.iter().map(|column| (distance(&column.name, &field.name), column)).min_by_key(|(steps, _)| *steps);
    if let Some((steps, column)) = nearest
        && steps <= 2.max(field.name.len() / 3)
    {
        // Writing to a String cannot fail.
        let _ = write!(text, "; did you mean `{}`?", column.name);
    }
    if !valid.is_empty() {
        let names: Vec<&str> = valid.iter().take(LISTED).map(|column| column.name.as_str()).collect();
        let more = if valid.len() > LISTED { ", …" } else { "" };
        let _ = write!(text, "; columns: {}{more}", names.join(", "));
    }
    text
}

/// Steps of inserting, deleting or replacing a character that lead from one text to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_column_is_suggested() {
        assert_eq!(distance("price_usd", "prise_usd"), 1);
        let valid = [Column::new_unqualified("coin_id"), Column::new_unqualified("price_usd")];
        let text = unknown_column(&Column::new_unqualified("prise_usd"), &valid);
        assert_eq!(text, "column `prise_usd` does not exist; did you mean `price_usd`?; columns: coin_id, price_usd");
    }
}
