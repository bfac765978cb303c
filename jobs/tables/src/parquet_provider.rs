//! DataFusion's view of a table of Parquet files: exactly those of one state of a plain Parquet or a Delta table.

use crate::Result as TableResult;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PrunableStatistics;
use datafusion::common::{Column, DFSchema, DataFusionError, Result, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicate;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use lakehouse_storage::LayerStore;
use object_store::ObjectMeta;
use object_store::path::Path;
use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

/// One data file.
#[derive(Clone, Debug)]
pub(crate) struct DataObject {
    /// Key relative to the layer.
    pub(crate) key: String,
    pub(crate) bytes: u64,
    /// What is known of its rows without reading it, for the columns of the table.
    pub(crate) statistics: Option<Arc<Statistics>>,
    /// Values of the partition columns that are not taken from the file.
    pub(crate) partition: HashMap<String, ScalarValue>,
}

/// The files of one state of a table.
#[derive(Debug)]
pub(crate) struct ParquetProvider {
    layer: LayerStore,
    schema: SchemaRef,
    /// The same columns, those in front that are read from the files, behind them those whose values stand beside each file.
    stored: TableSchema,
    files: Vec<(Path, DataObject)>,
}

impl ParquetProvider {
    /// `partitions` are the columns whose values stand beside each file and not in it.
    pub(crate) fn new(layer: LayerStore, schema: SchemaRef, partitions: &[String], files: Vec<DataObject>) -> TableResult<Self> {
        let mut located = Vec::with_capacity(files.len());
        for file in files {
            located.push((layer.path(&file.key)?, file));
        }
        let is_partition = |name: &str| partitions.iter().any(|partition| partition == name);
        let (beside, inside): (Vec<_>, Vec<_>) = schema.fields().iter().cloned().partition(|field| is_partition(field.name()));
        let stored = TableSchema::new(Arc::new(Schema::new(inside)), beside);
        Ok(Self { layer, schema, stored, files: located })
    }

    /// Positions in the stored schema of columns of the shown one.
    fn stored_positions(&self, columns: Option<&Vec<usize>>) -> Result<Vec<usize>> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let stored = self.stored.table_schema();
        columns.unwrap_or(&all).iter().map(|column| Ok(stored.index_of(self.schema.field(*column).name())?)).collect()
    }

    /// The files that may hold rows for which the filter is true.
    fn matching(&self, filter: Option<&Arc<dyn PhysicalExpr>>) -> Result<Vec<&(Path, DataObject)>> {
        let known: Vec<_> = self.files.iter().filter_map(|(_, file)| file.statistics.clone()).collect();
        let all = || Ok(self.files.iter().collect());
        let Some(filter) = filter.filter(|_| !known.is_empty() && known.len() == self.files.len()) else { return all() };
        let predicate = PruningPredicate::try_new(filter.clone(), self.schema.clone())?;
        let keep = predicate.prune(&PrunableStatistics::new(known, self.schema.clone()))?;
        Ok(self.files.iter().zip(keep).filter_map(|(file, keep)| keep.then_some(file)).collect())
    }
}

#[async_trait]
impl TableProvider for ParquetProvider {
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
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // Filters name the table they came from; the schema below has no such qualifier.
        let bare: Vec<Expr> = filters.iter().map(unqualified).collect::<Result<_>>()?;
        let bare = conjunction(bare);
        let filter_on = |schema: &Schema| match &bare {
            Some(filter) => state.create_physical_expr(filter.clone(), &DFSchema::try_from(schema.clone())?).map(Some),
            None => Ok(None),
        };
        let files = self.matching(filter_on(&self.schema)?.as_ref())?;
        if files.is_empty() {
            let schema = match projection {
                Some(columns) => Arc::new(self.schema.project(columns)?),
                None => self.schema.clone(),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        // One URL per bucket: the store is rooted there, and paths below it are taken as they are.
        let url = ObjectStoreUrl::parse(self.layer.root_uri())?;
        state.runtime_env().register_object_store(url.as_ref(), self.layer.object_store());
        let mut source = ParquetSource::new(self.stored.clone());
        if let Some(filter) = filter_on(self.stored.table_schema())? {
            source = source.with_predicate(filter);
        }
        let target = state.config().target_partitions().max(1);
        let mut groups: Vec<Vec<PartitionedFile>> = vec![Vec::new(); target.min(files.len())];
        let count = groups.len();
        for (index, (path, file)) in files.into_iter().enumerate() {
            let meta = ObjectMeta {
                location: path.clone(),
                last_modified: chrono::DateTime::UNIX_EPOCH,
                size: file.bytes,
                e_tag: None,
                version: None,
            };
            let mut values = Vec::with_capacity(self.stored.table_partition_cols().len());
            for column in self.stored.table_partition_cols() {
                values.push(file.partition.get(column.name()).cloned().map_or_else(|| ScalarValue::try_from(column.data_type()), Ok)?);
            }
            groups[index % count].push(PartitionedFile::new_from_meta(meta).with_partition_values(values));
        }
        let config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
            .with_projection_indices(Some(self.stored_positions(projection)?))?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

fn unqualified(filter: &Expr) -> Result<Expr> {
    use datafusion::common::tree_node::{Transformed, TreeNode};
    let changed = filter.clone().transform(|expression| match expression {
        Expr::Column(column) if column.relation.is_some() => {
            Ok::<_, DataFusionError>(Transformed::yes(Expr::Column(Column::new_unqualified(column.name))))
        }
        other => Ok(Transformed::no(other)),
    });
    changed.map(|changed| changed.data)
}
