//! What turns a table into the one that its definition describes, or why that cannot be: pure, and the same for `plan` and for a run.
//!
//! A column keeps its identity through a rename, a wider type and another place. Nothing is guessed: a column that the definition no longer
//! has is dropped only when the definition says so, and takes another name only when the definition says which.

use crate::{PartitionField, Result, TableDef, TableError, TableFormat, Transform};
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use lakehouse_contract::TableRef;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a definition says about columns that it had under another name, or no longer has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// By the name of a column: the name that it had before.
    pub renamed: BTreeMap<String, String>,
    /// Columns that the table may lose with all their values.
    pub dropped: Vec<String>,
}

/// A difference between a table and its definition that can be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "camelCase")]
pub enum Change {
    /// A new column, null in all rows that are there.
    AddColumn {
        /// Its name.
        column: String,
        /// Its type, as a definition writes it.
        #[serde(rename = "type")]
        kind: String,
    },
    /// Another name.
    RenameColumn {
        /// The name until now.
        from: String,
        /// The name from now on.
        to: String,
    },
    /// A type that holds every value of the old one.
    WidenColumn {
        /// Its name.
        column: String,
        /// The type until now.
        from: String,
        /// The type from now on.
        to: String,
    },
    /// Null is allowed from now on.
    MakeOptional {
        /// Its name.
        column: String,
    },
    /// The column and its values are no longer read.
    DropColumn {
        /// Its name.
        column: String,
    },
    /// Another place among the columns.
    MoveColumn {
        /// Its name.
        column: String,
        /// The column before it; none: it is the first.
        after: Option<String>,
    },
    /// New files are sorted otherwise.
    ChangeSort {
        /// Columns until now.
        from: Vec<String>,
        /// Columns from now on.
        to: Vec<String>,
    },
    /// New files have Bloom filters on other columns.
    ChangeBloomFilters {
        /// Columns until now.
        from: Vec<String>,
        /// Columns from now on.
        to: Vec<String>,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::AddColumn { column, kind } => write!(f, "add column {column} {kind}"),
            Change::RenameColumn { from, to } => write!(f, "rename column {from} to {to}"),
            Change::WidenColumn { column, from, to } => write!(f, "widen column {column} from {from} to {to}"),
            Change::MakeOptional { column } => write!(f, "make column {column} optional"),
            Change::DropColumn { column } => write!(f, "drop column {column}"),
            Change::MoveColumn { column, after: Some(after) } => write!(f, "move column {column} behind {after}"),
            Change::MoveColumn { column, after: None } => write!(f, "move column {column} to the front"),
            Change::ChangeSort { from, to } => write!(f, "sort new files by [{}], not by [{}]", to.join(", "), from.join(", ")),
            Change::ChangeBloomFilters { from, to } => {
                write!(f, "Bloom filters in new files on [{}], not on [{}]", to.join(", "), from.join(", "))
            }
        }
    }
}

/// What a definition makes of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Evolution {
    /// Whether the table is there already.
    pub exists: bool,
    /// What changes, in the order in which it is applied; all of it in one commit.
    pub changes: Vec<Change>,
    /// Why the definition cannot be applied: every reason. Empty: it can.
    pub refused: Vec<String>,
}

/// A partition field of an existing table.
#[derive(Clone, Debug)]
pub(crate) struct ExistingPartition {
    /// Name of the field itself.
    pub(crate) name: String,
    /// The column that it is computed from.
    pub(crate) column: String,
    /// None: one that no definition can write.
    pub(crate) transform: Option<Transform>,
}

/// An existing table.
#[derive(Clone, Debug)]
pub(crate) struct Existing {
    pub(crate) format: TableFormat,
    /// Columns as readers see them.
    pub(crate) columns: Vec<FieldRef>,
    pub(crate) partitions: Vec<ExistingPartition>,
    pub(crate) sort_by: Vec<String>,
    /// Columns with Bloom filters that a definition asked for.
    pub(crate) bloom_filters: Vec<String>,
}

/// A column of the table to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedColumn {
    /// Place of the column in the existing table; none: it is new.
    pub(crate) source: Option<usize>,
    pub(crate) field: FieldRef,
}

/// The changes and the columns after them. Without a refusal, the columns are those of the definition.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) columns: Vec<PlannedColumn>,
    pub(crate) changes: Vec<Change>,
    pub(crate) refused: Vec<String>,
}

impl Planned {
    /// What is shown of a table that belongs to `owner`.
    pub(crate) fn shown(self, owner: &str, definition: &TableDef) -> Evolution {
        let Self { changes, mut refused, .. } = self;
        if owner != definition.owner {
            refused.insert(0, format!("it belongs to pipeline {owner}, not to {}", definition.owner));
        }
        Evolution { exists: true, changes, refused }
    }

    /// What is to be applied; none when nothing is.
    ///
    /// # Errors
    /// [`TableError::SchemaMismatch`] with every refusal.
    pub(crate) fn accepted(self, table: &TableRef) -> Result<Option<Self>> {
        if !self.refused.is_empty() {
            return Err(TableError::SchemaMismatch { table: table.clone(), refused: self.refused });
        }
        Ok((!self.changes.is_empty()).then_some(self))
    }

    /// Whether the columns change, not only the order of rows in new files.
    pub(crate) fn changes_columns(&self) -> bool {
        self.changes.iter().any(|change| !matches!(change, Change::ChangeSort { .. }))
    }
}

/// Compares a table with its definition.
pub(crate) fn plan(definition: &TableDef, existing: &Existing) -> Planned {
    let mut planner = Planner { definition, existing, taken: BTreeSet::new(), refused: Vec::new() };
    let columns = planner.matched();
    let mut changes = planner.renames(&columns);
    planner.types(&columns, &mut changes);
    planner.additions(&columns, &mut changes);
    planner.drops(&mut changes);
    changes.extend(moves(&columns));
    planner.partitions(&columns);
    planner.sort(&columns, &mut changes);
    planner.bloom_filters(&columns, &mut changes);
    let mut refused = planner.refused;
    refused.extend(changes.iter().filter_map(|change| unsupported(existing.format, change)));
    Planned { columns, changes, refused }
}

struct Planner<'a> {
    definition: &'a TableDef,
    existing: &'a Existing,
    /// Existing columns that have a place in the definition, or a refusal of their own.
    taken: BTreeSet<usize>,
    refused: Vec<String>,
}

impl Planner<'_> {
    fn index(&self, name: &str) -> Option<usize> {
        self.existing.columns.iter().position(|column| column.name() == name)
    }

    /// The columns of the definition with the existing columns that they are.
    fn matched(&mut self) -> Vec<PlannedColumn> {
        let mut columns = Vec::with_capacity(self.definition.schema.fields().len());
        for field in self.definition.schema.fields() {
            let name = field.name();
            let before = self.definition.declared.renamed.get(name);
            let old = before.and_then(|before| self.index(before));
            let source = match (self.index(name), old) {
                (Some(same), Some(old)) => {
                    let before = self.existing.columns[old].name();
                    self.refused.push(format!(
                        "column {name} is renamed from {before}, and the table has both: take the rename out of the definition, and list \
                         {before} in droppedColumns if its values are not needed"
                    ));
                    self.taken.insert(old);
                    Some(same)
                }
                (same, old) => same.or(old),
            };
            self.taken.extend(source);
            columns.push(PlannedColumn { source, field: field.clone() });
        }
        columns
    }

    fn renames(&mut self, columns: &[PlannedColumn]) -> Vec<Change> {
        let mut changes = Vec::new();
        for (old, new) in self.kept(columns) {
            if old.name() != new.name() {
                changes.push(Change::RenameColumn { from: old.name().clone(), to: new.name().clone() });
            }
        }
        changes
    }

    /// Existing columns beside what they become.
    fn kept<'c>(&self, columns: &'c [PlannedColumn]) -> Vec<(FieldRef, &'c Field)> {
        columns.iter().filter_map(|column| Some((self.existing.columns[column.source?].clone(), column.field.as_ref()))).collect()
    }

    fn types(&mut self, columns: &[PlannedColumn], changes: &mut Vec<Change>) {
        for (old, new) in self.kept(columns) {
            let name = new.name();
            if !same_type(old.data_type(), new.data_type()) {
                let (from, to) = (type_name(old.data_type()), type_name(new.data_type()));
                if !is_wider(old.data_type(), new.data_type()) {
                    self.refused.push(format!(
                        "column {name} is {from}, the definition says {to}: an existing column only becomes long from int, double from float, \
                         or a decimal of more digits with the same scale; add a column under another name for another type"
                    ));
                } else if let Some(partition) = self.partition_of(old.name(), |transform| !matches!(transform, Some(Transform::Bucket(_))))
                {
                    self.refused.push(format!(
                        "column {name} is {from}, the definition says {to}: partition field {partition} is computed from it and would change its type"
                    ));
                } else {
                    changes.push(Change::WidenColumn { column: name.clone(), from, to });
                }
            }
            match (old.is_nullable(), new.is_nullable()) {
                (false, true) => changes.push(Change::MakeOptional { column: name.clone() }),
                (true, false) => self.refused.push(format!(
                    "column {name} is optional in the table and required in the definition: rows that are there may lack it; leave it optional, \
                     an expectation can demand it of new rows"
                )),
                _ => {}
            }
        }
    }

    fn partition_of(&self, column: &str, which: impl Fn(Option<Transform>) -> bool) -> Option<&str> {
        let found = self.existing.partitions.iter().find(|partition| partition.column == column && which(partition.transform));
        found.map(|partition| partition.name.as_str())
    }

    fn additions(&mut self, columns: &[PlannedColumn], changes: &mut Vec<Change>) {
        for column in columns.iter().filter(|column| column.source.is_none()) {
            let name = column.field.name();
            if column.field.is_nullable() {
                changes.push(Change::AddColumn { column: name.clone(), kind: type_name(column.field.data_type()) });
            } else {
                self.refused.push(format!("new column {name} is required, but the rows of the table lack it: make it optional"));
            }
        }
    }

    fn drops(&mut self, changes: &mut Vec<Change>) {
        for (index, column) in self.existing.columns.iter().enumerate() {
            let name = column.name();
            if self.taken.contains(&index) {
                continue;
            }
            if !self.definition.declared.dropped.contains(name) {
                self.refused.push(format!(
                    "column {name} of the table is not in the definition: list it in droppedColumns to drop it with its values, or say at the \
                     column that takes its place that it is renamed from {name}"
                ));
            } else if let Some(partition) = self.partition_of(name, |_| true) {
                self.refused.push(format!("column {name} cannot be dropped: partition field {partition} is computed from it"));
            } else {
                changes.push(Change::DropColumn { column: name.clone() });
            }
        }
    }

    /// The name that an existing column gets; none when it is dropped.
    fn name_after(&self, columns: &[PlannedColumn], name: &str) -> Option<String> {
        let index = self.index(name)?;
        columns.iter().find(|column| column.source == Some(index)).map(|column| column.field.name().clone())
    }

    fn partitions(&mut self, columns: &[PlannedColumn]) {
        let shown = |partition: &ExistingPartition| {
            let column = self.name_after(columns, &partition.column).unwrap_or_else(|| partition.column.clone());
            match partition.transform {
                Some(transform) => PartitionField { column, transform }.to_string(),
                None => format!("unknown({column})"),
            }
        };
        let partitions = crate::definition::show_partitions(self.existing.partitions.iter().map(shown));
        let mut refused = Vec::new();
        if partitions != self.definition.partition_text() {
            refused.push(format!(
                "it has the partitions {partitions}, the definition says {}: an existing table keeps its partitions; give the table another \
                 name and run its intervals again",
                self.definition.partition_text()
            ));
        }
        for partition in &self.existing.partitions {
            let source = self.index(&partition.column);
            let clash = columns.iter().find(|column| *column.field.name() == partition.name && column.source != source);
            // A column that bore the name all the time was accepted when the table was made.
            if let Some(column) =
                clash.filter(|column| column.source.is_none_or(|old| *self.existing.columns[old].name() != partition.name))
            {
                refused.push(format!(
                    "column {} cannot have this name: a partition field of {} has it",
                    column.field.name(),
                    partition.column
                ));
            }
        }
        self.refused.extend(refused);
    }

    fn sort(&mut self, columns: &[PlannedColumn], changes: &mut Vec<Change>) {
        let after: Vec<Option<String>> = self.existing.sort_by.iter().map(|name| self.name_after(columns, name)).collect();
        let wanted = &self.definition.sort_by;
        if after.len() != wanted.len() || after.iter().zip(wanted).any(|(after, wanted)| after.as_ref() != Some(wanted)) {
            changes.push(Change::ChangeSort { from: self.existing.sort_by.clone(), to: wanted.clone() });
        }
    }

    fn bloom_filters(&mut self, columns: &[PlannedColumn], changes: &mut Vec<Change>) {
        let after: BTreeSet<Option<String>> = self.existing.bloom_filters.iter().map(|name| self.name_after(columns, name)).collect();
        let wanted: BTreeSet<Option<String>> = self.definition.bloom_filters.iter().cloned().map(Some).collect();
        if after != wanted {
            let (from, to) = (self.existing.bloom_filters.clone(), self.definition.bloom_filters.clone());
            changes.push(Change::ChangeBloomFilters { from, to });
        }
    }
}

/// The fewest kept columns that have to move for the order of the definition.
fn moves(columns: &[PlannedColumn]) -> Vec<Change> {
    let kept: Vec<(usize, usize)> = columns.iter().enumerate().filter_map(|(place, column)| Some((place, column.source?))).collect();
    // Longest run of columns that stand in the old order: per column the length of the best run that ends with it, and the one before.
    let mut best: Vec<(usize, Option<usize>)> = Vec::with_capacity(kept.len());
    for (at, (_, source)) in kept.iter().enumerate() {
        let before = (0..at).filter(|earlier| kept[*earlier].1 < *source).max_by_key(|earlier| (best[*earlier].0, usize::MAX - earlier));
        best.push((before.map_or(1, |before| best[before].0 + 1), before));
    }
    let mut stays = BTreeSet::new();
    let mut next = (0..best.len()).max_by_key(|at| (best[*at].0, usize::MAX - at));
    while let Some(at) = next {
        stays.insert(at);
        next = best[at].1;
    }
    let moved = kept.iter().enumerate().filter(|(at, _)| !stays.contains(at));
    moved
        .map(|(_, (place, _))| Change::MoveColumn {
            column: columns[*place].field.name().clone(),
            after: place.checked_sub(1).map(|before| columns[before].field.name().clone()),
        })
        .collect()
}

/// Why a format cannot do this to an existing table.
fn unsupported(format: TableFormat, change: &Change) -> Option<String> {
    const ADVICE: &str = "it needs format iceberg, or a table under another name whose intervals are run again";
    match (format, change) {
        (TableFormat::Iceberg, _)
        | (_, Change::AddColumn { .. } | Change::MakeOptional { .. } | Change::MoveColumn { .. } | Change::ChangeSort { .. }) => None,
        (_, Change::RenameColumn { from, to }) => {
            Some(format!("column {from} cannot become {to}: readers of {format} files know columns by the names in them; {ADVICE}"))
        }
        (_, Change::WidenColumn { column, from, to }) => {
            Some(format!("column {column} is {from}, the definition says {to}: the types stand in the {format} files; {ADVICE}"))
        }
        (_, Change::ChangeBloomFilters { .. }) => Some(format!("{format} files have no Bloom filters; {ADVICE}")),
        (_, Change::DropColumn { column }) => {
            Some(format!("column {column} cannot be dropped: it stays in the {format} files that are there; {ADVICE}"))
        }
    }
}

fn same_type(one: &DataType, other: &DataType) -> bool {
    match (one, other) {
        (DataType::Timestamp(one, Some(_)), DataType::Timestamp(other, Some(_))) => one == other,
        _ => one == other,
    }
}

/// Whether every value of `from` is one of `to`, by the rules of Iceberg format version 2.
fn is_wider(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::Int32, DataType::Int64) | (DataType::Float32, DataType::Float64) => true,
        (DataType::Decimal128(digits, scale), DataType::Decimal128(more, same)) => more > digits && same == scale,
        _ => false,
    }
}

/// A type as a definition writes it.
pub(crate) fn type_name(kind: &DataType) -> String {
    match kind {
        DataType::Utf8 => "string".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int32 => "int".to_owned(),
        DataType::Int64 => "long".to_owned(),
        DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Date32 => "date".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, None) => "timestamp".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamptz".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
