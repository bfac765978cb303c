//! The SQL session of gold models and of `lakehouse sql`: registered tables only.
//!
//! A session sees the tables that were registered as `silver.NAME`, `gold.NAME`, `quarantine.NAME` or `quality.NAME` and nothing else: no files, no URLs, no
//! DDL, DML, COPY or SET, one query at a time. Its memory is bounded and it spills to the temporary folder. Identifiers are case-insensitive
//! unless quoted, literals such as `0.1` are exact decimals, times without a zone are UTC.

use std::{num::NonZeroUsize, sync::Arc};

use arrow::datatypes::SchemaRef;
use datafusion::{
    catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider, TableProvider},
    common::ParamValues,
    datasource::empty::EmptyTable,
    execution::{
        SendableRecordBatchStream, SessionStateBuilder,
        memory_pool::{FairSpillPool, TrackConsumersPool},
        runtime_env::RuntimeEnvBuilder,
    },
    logical_expr::LogicalPlan,
    prelude::{DataFrame, SQLOptions, SessionConfig, SessionContext},
};
use lakehouse_contract::TableRef;
use lakehouse_shell::memory;

use crate::{SqlError, exact, statement::Query};

/// Namespaces that SQL sees.
pub const NAMESPACES: [&str; 4] = ["silver", "gold", "quarantine", "quality"];
const CATALOG: &str = "lakehouse";
/// The schema of bare names; it stays empty.
const NO_SCHEMA: &str = "none";
/// Memory to plan with for each partition, in bytes: operators that cannot spill below some megabytes share it.
const PARTITION: usize = 16 << 20;
/// How many consumers of memory an error names.
const NAMED_CONSUMERS: usize = 3;

/// A locked-down SQL session. Cheap to make; tables are registered one by one.
pub struct Engine {
    context: SessionContext,
}

impl Engine {
    /// A session without tables, with memory for [`memory::limit`] bytes and one partition per core, or fewer where each would have too little of it.
    ///
    /// # Errors
    /// [`SqlError`] when the temporary folder cannot be used.
    pub fn new() -> Result<Self, SqlError> {
        let mut config = SessionConfig::new()
            .with_target_partitions(memory::threads(PARTITION))
            .with_information_schema(true)
            .with_default_catalog_and_schema(CATALOG, NO_SCHEMA)
            .with_create_default_catalog_and_schema(false);
        let options = config.options_mut();
        options.sql_parser.parse_float_as_decimal = true;
        options.execution.time_zone = Some("+00:00".to_owned());
        let named = NonZeroUsize::new(NAMED_CONSUMERS).unwrap_or(NonZeroUsize::MIN);
        let pool = TrackConsumersPool::new(FairSpillPool::new(memory::limit()), named);
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).build_arc().map_err(SqlError::of)?;
        let state = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features().build();
        let context = SessionContext::new_with_state(state);
        exact::register(&context);
        let catalog = MemoryCatalogProvider::new();
        for namespace in NAMESPACES.into_iter().chain([NO_SCHEMA]) {
            catalog.register_schema(namespace, Arc::new(MemorySchemaProvider::new())).map_err(SqlError::of)?;
        }
        context.register_catalog(CATALOG, Arc::new(catalog));
        Ok(Self { context })
    }

    /// Makes a table visible, in the place of one with the same name.
    ///
    /// # Errors
    /// [`SqlError`] when its namespace is not one of [`NAMESPACES`].
    pub fn register(&self, table: &TableRef, provider: Arc<dyn TableProvider>) -> Result<(), SqlError> {
        let schema = self.schema(&table.namespace)?;
        schema.deregister_table(&table.name).map_err(SqlError::of)?;
        schema.register_table(table.name.clone(), provider).map(drop).map_err(SqlError::of)
    }

    /// A table that was registered.
    ///
    /// # Errors
    /// [`SqlError::UnknownTable`].
    pub(crate) async fn provider(&self, table: &TableRef) -> Result<Arc<dyn TableProvider>, SqlError> {
        let found = self.schema(&table.namespace)?.table(&table.name).await.map_err(SqlError::of)?;
        found.ok_or_else(|| SqlError::UnknownTable { table: table.clone(), known: self.tables() })
    }

    /// Makes a table without rows visible, to plan against.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub fn register_empty(&self, table: &TableRef, schema: SchemaRef) -> Result<(), SqlError> {
        self.register(table, Arc::new(EmptyTable::new(schema)))
    }

    fn schema(&self, namespace: &str) -> Result<Arc<dyn SchemaProvider>, SqlError> {
        let catalog = self.context.catalog(CATALOG);
        let known = NAMESPACES.contains(&namespace);
        catalog
            .filter(|_| known)
            .and_then(|c| c.schema(namespace))
            .ok_or_else(|| SqlError::Invalid(format!("namespace {namespace} is none of {}", NAMESPACES.join(", "))))
    }

    /// Names of the registered tables, ordered.
    pub fn tables(&self) -> Vec<TableRef> {
        let mut tables: Vec<TableRef> = NAMESPACES
            .iter()
            .filter_map(|namespace| Some((namespace, self.schema(namespace).ok()?)))
            .flat_map(|(namespace, schema)| schema.table_names().into_iter().map(move |name| TableRef::new(*namespace, name)))
            .collect();
        tables.sort();
        tables
    }

    /// Parses one query.
    ///
    /// # Errors
    /// [`SqlError::Invalid`] for bad syntax, more than one statement, and whatever is not a query.
    pub fn parse(&self, sql: &str) -> Result<Query, SqlError> {
        Query::parse(&self.context.state(), sql)
    }

    /// Plans a query against the registered tables and binds its parameters.
    ///
    /// # Errors
    /// [`SqlError::Invalid`] in one line that names the unknown table or column, with what there is.
    pub async fn plan(&self, query: &Query, parameters: ParamValues) -> Result<LogicalPlan, SqlError> {
        query.check_tables(&self.tables())?;
        let state = self.context.state();
        let plan = state.statement_to_plan(query.statement().clone()).await.map_err(SqlError::of)?;
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(SqlError::of)?;
        plan.with_param_values(parameters).map_err(SqlError::of)
    }

    /// Optimizes a plan for nothing but its errors: types that do not go together are found here, before anything runs.
    ///
    /// # Errors
    /// [`SqlError::Invalid`].
    pub fn check(&self, plan: &LogicalPlan) -> Result<LogicalPlan, SqlError> {
        self.context.state().optimize(plan).map_err(SqlError::of)
    }

    /// The rows of a plan.
    pub fn data_frame(&self, plan: LogicalPlan) -> DataFrame {
        DataFrame::new(self.context.state(), plan)
    }

    /// The rows of a query that has no parameters, as they come.
    ///
    /// # Errors
    /// [`SqlError`] of planning; errors of single batches convert into it.
    pub async fn stream(&self, query: &Query) -> Result<SendableRecordBatchStream, SqlError> {
        if let Some(name) = query.parameters().first() {
            return Err(SqlError::Invalid(format!("`${name}` has a value in models only: write a time such as '2024-01-01T00:00:00Z'")));
        }
        let plan = self.plan(query, ParamValues::List(Vec::new())).await?;
        self.data_frame(plan).execute_stream().await.map_err(SqlError::of)
    }
}
