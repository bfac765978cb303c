//! From a table's definition to what decoding, auditing and writing need: columns, origins of their values, schemas.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use lakehouse_api::pipeline::{CastError, Keep, Outside, SilverTable, TableFormat as ApiFormat, TimeUnit, WriteMode as ApiWrite};
use lakehouse_contract::{ColumnType, Decode, Reason, ResolvedSilver, StageFailure, TableRef};
use lakehouse_html::Rules;
use lakehouse_quality::Rules as Quality;
use lakehouse_tables::{Declared, PROCESSED_AT, PartitionField, TableDef, TableFormat, WriteMode, with_history};

use crate::{
    cast::data_type,
    failure::table_failure,
    json::record::Pointers,
    pages,
    row_rules::{RowRule, row_rules},
};

/// Namespace of silver tables.
pub(crate) const SILVER: &str = "silver";

/// Where a column's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The record: slot of [`TablePlan::record`].
    Record(usize),
    /// The document around the records: slot of [`TablePlan::document`].
    Document(usize),
    /// First instant of the interval.
    IntervalStart,
    /// First instant after it.
    IntervalEnd,
    /// When ingest received the object.
    CapturedAt,
    /// Bronze key.
    Object,
    /// Number of the record in its object.
    Position,
    /// The fields that no column takes, as a JSON object.
    Unknown,
}

/// What happens to fields that no column takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// They are not looked at.
    Ignore,
    /// They are kept as a JSON object.
    Capture,
    /// The first one ends the stage.
    Fail,
}

impl Unknown {
    /// The columns of a file that no pointer names, by their places; of columns with the same name the last counts.
    pub(crate) fn columns<'n>(self, names: impl Iterator<Item = &'n str> + Clone, pointers: &Pointers) -> Vec<(usize, String)> {
        if self == Unknown::Ignore {
            return Vec::new();
        }
        let last: HashMap<&str, usize> = names.clone().enumerate().map(|(index, name)| (name, index)).collect();
        let unknown = names.enumerate().filter(|(index, name)| last.get(name) == Some(index) && !pointers.names(name));
        unknown.map(|(index, name)| (index, name.to_owned())).collect()
    }
}

/// A column, ready to be filled.
#[derive(Clone, Debug)]
pub(crate) struct ColumnPlan {
    pub(crate) name: String,
    pub(crate) origin: Origin,
    pub(crate) type_: ColumnType,
    pub(crate) required: bool,
    pub(crate) unit: Option<TimeUnit>,
    pub(crate) on_error: CastError,
}

/// How duplicates are recognised.
#[derive(Clone, Debug)]
pub(crate) struct DeduplicatePlan {
    /// Indices of the key columns.
    pub(crate) key: Vec<usize>,
    pub(crate) keep: Keep,
}

/// How rows outside the interval are treated.
#[derive(Clone, Debug)]
pub(crate) struct IntervalPlan {
    /// Index of the column.
    pub(crate) column: usize,
    pub(crate) outside: Outside,
}

/// A table's definition, compiled.
#[derive(Clone, Debug)]
pub(crate) struct TablePlan {
    pub(crate) table: TableRef,
    /// The source.
    pub(crate) source: String,
    pub(crate) decode: Decode,
    /// Longest NDJSON record, in bytes.
    pub(crate) max_record_bytes: u64,
    pub(crate) columns: Vec<ColumnPlan>,
    /// What to read from each record.
    pub(crate) record: Pointers,
    /// What to read from the document around the records.
    pub(crate) document: Pointers,
    /// Slot of `document` that holds the records.
    pub(crate) records_slot: Option<usize>,
    /// What the records of a page are, where the source has pages.
    pub(crate) rules: Option<Arc<Rules>>,
    /// What happens to fields that no column takes.
    pub(crate) unknown: Unknown,
    /// The columns and `processed_at`, as rows come; a table with history has more.
    pub(crate) schema: SchemaRef,
    pub(crate) deduplicate: Option<DeduplicatePlan>,
    pub(crate) interval: Option<IntervalPlan>,
    /// Rules about one row, in the order of the definition.
    pub(crate) row_rules: Vec<RowRule>,
    /// Rules about more than one row.
    pub(crate) quality: Quality,
    /// Names of all rules, in the order of the definition.
    pub(crate) rule_names: Vec<String>,
    pub(crate) definition: TableDef,
    pub(crate) mode: WriteMode,
    pub(crate) definition_digest: String,
}

impl TablePlan {
    /// Compiles a definition.
    ///
    /// # Errors
    /// `InvalidDefinition` or `InvalidSql`, naming the table and the column or expectation.
    pub(crate) fn new(resolved: &ResolvedSilver, owner: &str) -> Result<Self, StageFailure> {
        let silver = &resolved.table;
        let table = TableRef::new(SILVER, &silver.name);
        let invalid = |message: String| StageFailure::new(Reason::InvalidDefinition, format!("{table} {message}"));
        let mut record = Pointers::default();
        let mut document = Pointers::default();
        let mut columns = Vec::with_capacity(silver.columns.len());
        for column in &silver.columns {
            let fault = |message: String| invalid(format!("column {}: {message}", column.name));
            let type_: ColumnType = column.type_.parse().map_err(fault)?;
            let origin = origin(&column.from, &resolved.decode, &mut record, &mut document).map_err(fault)?;
            columns.push(ColumnPlan {
                name: column.name.clone(),
                origin,
                type_,
                required: column.required,
                unit: column.unit,
                on_error: column.on_error,
            });
        }
        let unknown = unknown_fields(silver, &mut columns).map_err(&invalid)?;
        let records_slot = match &resolved.decode {
            Decode::Json { records } => {
                Some(document.add(records).map_err(|message| invalid(format!("records of source {}: {message}", silver.from)))?)
            }
            Decode::Html { .. } => Some(document.add(pages::RECORDS).map_err(invalid)?),
            Decode::Ndjson | Decode::Csv | Decode::Parquet => None,
        };
        let rules = match &resolved.decode {
            Decode::Html { records, fields } => {
                let rules = Rules::new(records, fields);
                Some(Arc::new(rules.map_err(|error| invalid(format!("source {}: scrape.{error}", silver.from)))?))
            }
            _ => None,
        };
        let index = |place: &str, name: &String| {
            columns.iter().position(|column| column.name == *name).ok_or_else(|| {
                let known = columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
                invalid(format!("{place}: column `{name}` does not exist; columns: {known}"))
            })
        };
        let deduplicate = match &silver.deduplicate {
            None => None,
            Some(rule) => Some(DeduplicatePlan {
                key: rule.key.iter().map(|name| index("deduplicate.key", name)).collect::<Result<_, _>>()?,
                keep: rule.keep,
            }),
        };
        let interval = match &silver.write.replace_interval {
            None => None,
            Some(rule) => {
                let column = index("write.replaceInterval.column", &rule.column)?;
                if !matches!(columns[column].type_, ColumnType::Date | ColumnType::Timestamp | ColumnType::Timestamptz) {
                    return Err(invalid(format!(
                        "write.replaceInterval.column: column {} is of type {}, it must be date, timestamp or timestamptz",
                        rule.column, columns[column].type_
                    )));
                }
                Some(IntervalPlan { column, outside: rule.outside })
            }
        };
        let mode = write_mode(&silver.write)
            .ok_or_else(|| invalid("write needs exactly one of append, replaceInterval, merge, overwrite".to_owned()))?;
        let schema = schema(&columns);
        let stored = match &mode {
            WriteMode::History { sequence_by, .. } => with_history(&schema, sequence_by).map_err(&invalid)?,
            _ => schema.clone(),
        };
        let partition_by = silver
            .table
            .partition_by
            .iter()
            .map(|text| text.parse::<PartitionField>().map_err(|error| invalid(format!("table.partitionBy: {error}"))))
            .collect::<Result<_, _>>()?;
        let definition = TableDef {
            table: table.clone(),
            format: match silver.table.format {
                ApiFormat::Iceberg => TableFormat::Iceberg,
                ApiFormat::Parquet => TableFormat::Parquet,
                ApiFormat::Delta => TableFormat::Delta,
            },
            schema: stored,
            partition_by,
            sort_by: silver.table.sort_by.clone(),
            owner: owner.to_owned(),
            properties: BTreeMap::new(),
            declared: Declared {
                renamed: silver.columns.iter().filter_map(|column| Some((column.name.clone(), column.renamed_from.clone()?))).collect(),
                dropped: silver.table.dropped_columns.clone(),
            },
        };
        definition.validate().map_err(|error| table_failure(&error))?;
        let row_rules = row_rules(&table, &silver.expectations, &schema)?;
        let quality = Quality::new(&table, &silver.expectations, &schema)?;
        Ok(Self {
            table,
            source: silver.from.clone(),
            decode: resolved.decode.clone(),
            max_record_bytes: resolved.max_record_bytes,
            columns,
            record,
            document,
            records_slot,
            rules,
            unknown,
            schema,
            deduplicate,
            interval,
            row_rules,
            quality,
            rule_names: silver.expectations.iter().map(|rule| rule.name.clone()).collect(),
            definition,
            mode,
            definition_digest: resolved.definition_digest.clone(),
        })
    }
}

/// What happens to fields that no column takes; the column that keeps them is added to `columns`.
fn unknown_fields(silver: &SilverTable, columns: &mut Vec<ColumnPlan>) -> Result<Unknown, String> {
    let Some(rule) = &silver.unknown_fields else { return Ok(Unknown::Ignore) };
    match (&rule.ignore, &rule.capture, &rule.fail) {
        (Some(_), None, None) => Ok(Unknown::Ignore),
        (None, None, Some(_)) => Ok(Unknown::Fail),
        (None, Some(capture), None) => {
            columns.push(ColumnPlan {
                name: capture.column.clone(),
                origin: Origin::Unknown,
                type_: ColumnType::Json,
                required: false,
                unit: None,
                on_error: CastError::Quarantine,
            });
            Ok(Unknown::Capture)
        }
        _ => Err("unknownFields needs exactly one of ignore, capture, fail".to_owned()),
    }
}

fn origin(from: &str, decode: &Decode, record: &mut Pointers, document: &mut Pointers) -> Result<Origin, String> {
    if let Some(first) = from.strip_prefix('/') {
        if first.contains('/') && matches!(decode, Decode::Csv | Decode::Parquet) {
            return Err(format!("`{from}`: the source has columns, not documents: write /NAME of one column"));
        }
        return record.add(from).map(Origin::Record);
    }
    if let Some(pointer) = from.strip_prefix("$document") {
        if !matches!(decode, Decode::Json { .. } | Decode::Html { .. }) {
            return Err(format!("`{from}`: only a source of JSON documents or pages has a document around its records"));
        }
        return document.add(pointer).map(Origin::Document);
    }
    Ok(match from {
        "$intervalStart" => Origin::IntervalStart,
        "$intervalEnd" => Origin::IntervalEnd,
        "$capturedAt" => Origin::CapturedAt,
        "$object" => Origin::Object,
        "$position" => Origin::Position,
        other => {
            return Err(format!(
                "`{other}` is neither a JSON Pointer nor one of $intervalStart, $intervalEnd, $capturedAt, $document/POINTER, $object, $position"
            ));
        }
    })
}

fn write_mode(write: &ApiWrite) -> Option<WriteMode> {
    match (&write.append, &write.replace_interval, &write.merge, &write.overwrite) {
        (Some(_), None, None, None) => Some(WriteMode::Append),
        (None, Some(rule), None, None) => Some(WriteMode::ReplaceInterval { column: rule.column.clone() }),
        (None, None, Some(rule), None) if rule.history => {
            Some(WriteMode::History { key: rule.key.clone(), sequence_by: rule.sequence_by.clone() })
        }
        (None, None, Some(rule), None) => Some(WriteMode::Merge { key: rule.key.clone(), sequence_by: rule.sequence_by.clone() }),
        (None, None, None, Some(_)) => Some(WriteMode::Overwrite),
        _ => None,
    }
}

fn schema(columns: &[ColumnPlan]) -> SchemaRef {
    let mut fields: Vec<Field> = columns.iter().map(|column| Field::new(&column.name, data_type(column.type_), !column.required)).collect();
    fields.push(Field::new(PROCESSED_AT, timestamptz(), false));
    Arc::new(Schema::new(fields))
}

/// The Arrow type of `timestamptz`.
pub(crate) fn timestamptz() -> DataType {
    data_type(ColumnType::Timestamptz)
}
