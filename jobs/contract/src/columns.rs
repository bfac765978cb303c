//! Column types of silver tables, parsed once.

use std::{fmt, str::FromStr};

/// Type of a silver column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// UTF-8 text.
    String,
    /// true or false.
    Boolean,
    /// 32-bit signed.
    Int,
    /// 64-bit signed.
    Long,
    /// IEEE 754 single.
    Float,
    /// IEEE 754 double.
    Double,
    /// Exact decimal: precision 1 … 38 digits, scale 0 … precision.
    Decimal(u8, u8),
    /// Days.
    Date,
    /// Microseconds without zone.
    Timestamp,
    /// Microseconds, UTC.
    Timestamptz,
    /// JSON text of the value, stored as string.
    Json,
}

impl FromStr for ColumnType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "string" => Self::String,
            "boolean" => Self::Boolean,
            "int" => Self::Int,
            "long" => Self::Long,
            "float" => Self::Float,
            "double" => Self::Double,
            "date" => Self::Date,
            "timestamp" => Self::Timestamp,
            "timestamptz" => Self::Timestamptz,
            "json" => Self::Json,
            other => return decimal(other),
        })
    }
}

fn decimal(text: &str) -> Result<ColumnType, String> {
    let unknown = || {
        format!(
            "`{text}` is not a type: one of string, boolean, int, long, float, double, decimal(P,S), date, timestamp, timestamptz, json"
        )
    };
    let inner = text.strip_prefix("decimal(").and_then(|t| t.strip_suffix(')')).ok_or_else(unknown)?;
    let (precision, scale) = inner.split_once(',').ok_or_else(unknown)?;
    let precision: u8 = precision.trim().parse().map_err(|_| unknown())?;
    let scale: u8 = scale.trim().parse().map_err(|_| unknown())?;
    if precision == 0 || precision > 38 || scale > precision {
        return Err(format!("`{text}`: precision must be 1 … 38 and scale at most the precision"));
    }
    Ok(ColumnType::Decimal(precision, scale))
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::String => "string",
            Self::Boolean => "boolean",
            Self::Int => "int",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Decimal(precision, scale) => return write!(f, "decimal({precision},{scale})"),
            Self::Date => "date",
            Self::Timestamp => "timestamp",
            Self::Timestamptz => "timestamptz",
            Self::Json => "json",
        };
        f.write_str(name)
    }
}
