//! DataFusion's view of an Iceberg table: files are planned by the metadata and read by groups, one partition each.

use crate::schema::{file_schema, reader_schema};
use crate::{Result as TableResult, filter};
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::{StreamExt, TryStreamExt};
use iceberg::scan::FileScanTask;
use iceberg::spec::Type;
use iceberg::table::Table;
use lakehouse_contract::TableRef;
use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// A file is read in pieces of at least this size when there are fewer files than partitions.
const PIECE_BYTES: u64 = 16 * 1024 * 1024;

/// One snapshot of an Iceberg table, with the table's current schema.
#[derive(Debug)]
pub(crate) struct IcebergProvider {
    table: Table,
    snapshot: Option<i64>,
    schema: SchemaRef,
}

impl IcebergProvider {
    pub(crate) fn new(name: &TableRef, table: Table, snapshot: Option<i64>) -> TableResult<Self> {
        let schema = reader_schema(file_schema(name, table.metadata().current_schema())?.as_ref());
        Ok(Self { table, snapshot, schema })
    }

    /// Ids of columns that had another type once.
    ///
    /// The planner of the `iceberg` crate takes bounds of the old type for bounds that no value of the new type fits, and would skip files
    /// that hold rows: no file is skipped by these columns.
    fn widened(&self) -> HashSet<i32> {
        let metadata = self.table.metadata();
        let fields = metadata.current_schema().as_struct().fields().iter();
        let differs = |id: i32, kind: &Type| {
            metadata.schemas_iter().any(|schema| schema.field_by_id(id).is_some_and(|field| *field.field_type != *kind))
        };
        fields.filter(|field| differs(field.id, &field.field_type)).map(|field| field.id).collect()
    }

    /// The files to read, each with the current schema and the projected columns.
    async fn tasks(&self, filters: &[Expr], columns: &[String]) -> iceberg::Result<Vec<FileScanTask>> {
        let metadata = self.table.metadata();
        let Some(snapshot) = self.snapshot.map_or(metadata.current_snapshot(), |id| metadata.snapshot_by_id(id)) else {
            return Ok(Vec::new());
        };
        // Planning knows only the columns that the snapshot had, by the names and types of then; reading fills later ones with null.
        let then = snapshot.schema(metadata)?;
        let current = metadata.current_schema();
        let ids: Vec<i32> = columns.iter().filter_map(|name| current.field_id_by_name(name)).collect();
        let known = ids.iter().filter_map(|id| then.name_by_field_id(*id));
        let mut scan = self.table.scan().snapshot_id(snapshot.snapshot_id()).select(known);
        let widened = self.widened();
        let names = filter::Columns { visible: current, planned: &then, left_out: &widened };
        if let Some(predicate) = filter::conjunction(filters, names) {
            scan = scan.with_filter(predicate);
        }
        let mut tasks: Vec<FileScanTask> = scan.build()?.plan_files().await?.try_collect().await?;
        let evolved = metadata.schemas_iter().len() > 1;
        for task in &mut tasks {
            task.schema = current.clone();
            task.project_field_ids.clone_from(&ids);
            // Partition values are in the files as well; without the spec no column becomes a constant of another type.
            task.partition = None;
            task.partition_spec = None;
            if evolved {
                // A file may lack a column of the predicate; the filter above the scan decides about its rows.
                task.predicate = None;
            }
        }
        tasks.sort_by(|a, b| a.data_file_path.cmp(&b.data_file_path));
        Ok(tasks)
    }
}

#[async_trait]
impl TableProvider for IcebergProvider {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let schema = self.table.metadata().current_schema();
        let widened = self.widened();
        let columns = filter::Columns { visible: schema, planned: schema, left_out: &widened };
        let support = filters.iter().map(|expression| match filter::predicate(expression, columns) {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        });
        Ok(support.collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => self.schema.clone(),
        };
        let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let tasks = self.tasks(filters, &names).await.map_err(external)?;
        let groups = group(tasks, state.config().target_partitions());
        Ok(Arc::new(IcebergScan::new(self.table.clone(), schema, groups)))
    }
}

fn external(error: iceberg::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Spreads tasks over at most `partitions` groups of similar size; large files are cut into pieces.
fn group(tasks: Vec<FileScanTask>, partitions: usize) -> Vec<Vec<FileScanTask>> {
    let partitions = partitions.max(1);
    let total: u64 = tasks.iter().map(|task| task.file_size_in_bytes).sum();
    let share = (total / partitions as u64).max(PIECE_BYTES);
    let mut pieces = Vec::new();
    for task in tasks {
        let size = task.file_size_in_bytes;
        // Deletes apply to positions in the whole file.
        let count = if task.deletes.is_empty() { size.div_ceil(share).max(1) } else { 1 };
        if count == 1 {
            pieces.push(FileScanTask { start: 0, length: 0, ..task });
            continue;
        }
        for piece in 0..count {
            let (start, end) = (size * piece / count, size * (piece + 1) / count);
            pieces.push(FileScanTask { start, length: end - start, record_count: None, ..task.clone() });
        }
    }
    let cost = |task: &FileScanTask| if task.length == 0 { task.file_size_in_bytes } else { task.length };
    pieces.sort_by_key(|task| std::cmp::Reverse(cost(task)));
    let mut groups: Vec<(u64, Vec<FileScanTask>)> = (0..partitions.min(pieces.len())).map(|_| (0, Vec::new())).collect();
    for piece in pieces {
        if let Some(smallest) = groups.iter_mut().min_by_key(|(size, _)| *size) {
            smallest.0 += cost(&piece).max(1);
            smallest.1.push(piece);
        }
    }
    groups.into_iter().map(|(_, tasks)| tasks).collect()
}

/// Reads groups of files.
struct IcebergScan {
    table: Table,
    schema: SchemaRef,
    groups: Vec<Vec<FileScanTask>>,
    properties: Arc<PlanProperties>,
}

impl IcebergScan {
    fn new(table: Table, schema: SchemaRef, groups: Vec<Vec<FileScanTask>>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(groups.len().max(1)),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { table, schema, groups, properties: Arc::new(properties) }
    }
}

impl fmt::Debug for IcebergScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IcebergScan").field("table", self.table.identifier()).field("groups", &self.groups.len()).finish()
    }
}

impl DisplayAs for IcebergScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: usize = self.groups.iter().map(Vec::len).sum();
        write!(f, "IcebergScan: table={}, groups={}, files={files}", self.table.identifier(), self.groups.len())
    }
}

impl ExecutionPlan for IcebergScan {
    fn name(&self) -> &str {
        "IcebergScan"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let tasks = self.groups.get(partition).cloned().unwrap_or_default();
        let reader = self
            .table
            .reader_builder()
            // DataFusion runs one task per partition: the files of a group follow each other.
            .with_data_file_concurrency_limit(1)
            .with_batch_size(context.session_config().batch_size())
            .build();
        let tasks = futures::stream::iter(tasks.into_iter().map(Ok)).boxed();
        let schema = self.schema.clone();
        let batches = reader
            .read(tasks)
            .map_err(external)?
            .stream()
            .map_err(external)
            .and_then(move |batch| std::future::ready(present(&batch, &schema)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches)))
    }
}

/// The batch with the names and types that readers see.
fn present(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns: Result<Vec<ArrayRef>> = schema
        .fields()
        .iter()
        .map(|field| {
            let column = batch.column_by_name(field.name()).ok_or_else(|| {
                DataFusionError::External(Box::new(iceberg::Error::new(
                    iceberg::ErrorKind::DataInvalid,
                    format!("column {} is missing in a batch", field.name()),
                )))
            })?;
            if column.data_type() == field.data_type() { Ok(column.clone()) } else { Ok(cast(column, field.data_type())?) }
        })
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns?, &options)?)
}
