//! The work of the gold stage.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use lakehouse_api::pipeline::{TableFormat as DefinedFormat, WriteMode as DefinedMode};
use lakehouse_contract::{
    CommitToken, Progress, Reason, ResolvedGold, StageFailure, StageFuture, StageOutcome, StageSpec, TableRef, TableReport, Work,
    digest_json,
};
use lakehouse_storage::Storage;
use lakehouse_tables::{
    BatchStream, BoxError, Commit, Committed, Declared, PartitionField, Table, TableDef, TableError, TableFormat, Tables, WriteMode,
};

use crate::{
    Engine, SqlError,
    failure::{sql_failure, table_failure},
    models::{Model, ordered, plan, plan_all},
    pins::{Pins, pin},
};

/// Computes the models of `spec` from the tables of `storage` and the catalog at `catalog_uri`.
///
/// Per model `rows_read` are the rows of its query, `rows_written` those that entered the table, and `rows_deduplicated` those that lost in a
/// merge. Never panics on data; every failure is in the outcome, beside what was committed before it.
pub fn run<'a>(spec: &'a StageSpec, storage: &'a Storage, catalog_uri: &'a str, progress: &'a dyn Progress) -> StageFuture<'a> {
    Box::pin(async move {
        let mut outcome = StageOutcome::default();
        if let Err(failure) = work(spec, storage, catalog_uri, progress, &mut outcome).await {
            outcome.failure = Some(failure);
        }
        if spec.lineage.is_some() && !outcome.inputs.is_empty() {
            match crate::lineage::of(spec, storage, catalog_uri, &outcome).await {
                Ok(lineage) => outcome.lineage = lineage,
                Err(failure) => outcome.lineage.fault = Some(format!("the lineage is not known: {failure}")),
            }
        }
        outcome
    })
}

async fn work(
    spec: &StageSpec,
    storage: &Storage,
    catalog_uri: &str,
    progress: &dyn Progress,
    outcome: &mut StageOutcome,
) -> Result<(), StageFailure> {
    let Work::Gold { models: definitions } = &spec.work else {
        return Err(StageFailure::new(Reason::InvalidDefinition, format!("the spec is for {}, not for gold", spec.stage())));
    };
    progress.step("plan models", Some(definitions.len() as u64));
    let engine = Engine::new().map_err(|error| StageFailure::new(error.reason(), error))?;
    let models = ordered(&engine, definitions)?;
    let tables = Tables::connect(storage.clone(), catalog_uri).await.map_err(|error| table_failure(&error))?;
    let read = read_tables(&models);
    let pins = pin(spec, storage, &tables, &read).await?;
    outcome.inputs = pins.inputs();
    for (table, model) in &read {
        register_pinned(&engine, &tables, &pins, table, model).await?;
    }
    let schemas = plan_all(&engine, &models, &spec.interval).await?;
    fitting(&tables, spec, &models, &schemas).await?;
    let mut tokens = BTreeMap::new();
    for (model, schema) in models.iter().zip(schemas) {
        let token = token(spec, model, &pins, &tokens);
        let stage = ModelRun { spec, engine: &engine, tables: &tables, progress, model };
        let (table, committed) = stage.compute(schema, &token).await?;
        if models.iter().any(|other| other.query.tables().contains(&model.table)) {
            let provider = match table.provider(Some(&committed.snapshot)).await {
                // The commit was found, and its state has expired since: the current one holds its rows and what came later.
                Err(TableError::NoSuchSnapshot { .. }) if committed.already => table.provider(None).await,
                other => other,
            };
            let provider = provider.map_err(|error| table_failure(&error))?;
            engine.register(&model.table, provider).map_err(|error| sql_failure(&model.table, &error))?;
        }
        outcome.tables.push(report(&model.table, &committed));
        tokens.insert(model.table.clone(), token);
    }
    Ok(())
}

/// Every table can become what its model gives, before the first one is changed.
async fn fitting(tables: &Tables, spec: &StageSpec, models: &[Model], schemas: &[SchemaRef]) -> Result<(), StageFailure> {
    for (model, schema) in models.iter().zip(schemas) {
        let definition = table_definition(&model.table, &model.definition, schema.clone(), &spec.owner)?;
        tables.ensure_fits(&definition).await.map_err(|error| table_failure(&error))?;
    }
    Ok(())
}

/// The tables that models read and that no model of this run writes, each with the first model that reads it.
fn read_tables(models: &[Model]) -> BTreeMap<TableRef, TableRef> {
    let mut read = BTreeMap::new();
    for model in models {
        for table in model.query.tables() {
            if !models.iter().any(|other| other.table == *table) {
                read.entry(table.clone()).or_insert_with(|| model.table.clone());
            }
        }
    }
    read
}

async fn register_pinned(engine: &Engine, tables: &Tables, pins: &Pins, table: &TableRef, model: &TableRef) -> Result<(), StageFailure> {
    let open = tables.open_table(table).await.map_err(|error| table_failure(&error))?.ok_or_else(|| {
        StageFailure::new(Reason::InputCorrupt, format!("{model}: table {table} was there when the run pinned it and is gone"))
    })?;
    let registered = match pins.snapshot(table) {
        Some(snapshot) => engine.register(table, open.provider(Some(snapshot)).await.map_err(|error| table_failure(&error))?),
        None => engine.register_empty(table, open.schema().await.map_err(|error| table_failure(&error))?),
    };
    registered.map_err(|error| sql_failure(model, &error))
}

/// The commit token: its input are the snapshots of the tables that the model reads and the tokens of the models that it reads.
fn token(spec: &StageSpec, model: &Model, pins: &Pins, tokens: &BTreeMap<TableRef, CommitToken>) -> CommitToken {
    let inputs: Vec<(String, Option<&str>)> = model
        .query
        .tables()
        .iter()
        .map(|table| (table.to_string(), tokens.get(table).map(CommitToken::as_str).or_else(|| pins.snapshot(table))))
        .collect();
    CommitToken::new(&spec.pipeline, &model.table, &spec.interval, &digest_json(&inputs), &model.definition.definition_digest)
}

fn report(table: &TableRef, committed: &Committed) -> TableReport {
    TableReport {
        name: table.to_string(),
        snapshot: Some(committed.snapshot.clone()),
        already_committed: committed.already,
        rows_read: committed.rows_written + committed.rows_superseded,
        rows_written: committed.rows_written,
        rows_deduplicated: committed.rows_superseded,
        files: committed.files,
        bytes_written: committed.bytes,
        ..TableReport::default()
    }
}

/// One model of one run.
struct ModelRun<'a> {
    spec: &'a StageSpec,
    engine: &'a Engine,
    tables: &'a Tables,
    progress: &'a dyn Progress,
    model: &'a Model,
}

impl ModelRun<'_> {
    /// Computes and commits, or finds the commit that is there already.
    async fn compute(&self, schema: SchemaRef, token: &CommitToken) -> Result<(std::sync::Arc<dyn Table>, Committed), StageFailure> {
        let failed = |error| table_failure(&error);
        let definition = table_definition(&self.model.table, &self.model.definition, schema, &self.spec.owner)?;
        let table = self.tables.ensure(&definition).await.map_err(failed)?;
        if let Some(mut found) = table.find_commit(token.as_str()).await.map_err(failed)? {
            found.already = true;
            return Ok((table, found));
        }
        self.progress.step(&format!("compute {}", self.model.table), None);
        let commit = Commit {
            token: token.0.clone(),
            interval: self.spec.interval,
            mode: write_mode(&self.model.table, &self.model.definition.model.write)?,
            summary: BTreeMap::new(),
        };
        let streams = self.streams().await.map_err(|error| sql_failure(&self.model.table, &error))?;
        let staged = table.stage(streams, &commit).await.map_err(failed)?;
        self.progress.advance(staged.rows(), staged.bytes());
        self.progress.step(&format!("commit {}", self.model.table), Some(staged.rows()));
        let committed = table.commit(staged, &commit).await.map_err(failed)?;
        Ok((table, committed))
    }

    /// The rows, one stream per partition of the plan. Planned anew: the models it reads have their rows now.
    async fn streams(&self) -> Result<Vec<BatchStream>, SqlError> {
        let plan = plan(self.engine, self.model, &self.spec.interval).await?;
        let streams = self.engine.data_frame(plan).execute_stream_partitioned().await.map_err(SqlError::of)?;
        Ok(streams.into_iter().map(|stream| stream.map(|batch| batch.map_err(|error| Box::new(error) as BoxError)).boxed()).collect())
    }
}

pub(crate) fn table_definition(
    table: &TableRef,
    definition: &ResolvedGold,
    schema: SchemaRef,
    owner: &str,
) -> Result<TableDef, StageFailure> {
    let layout = &definition.model.table;
    let partition_by = layout
        .partition_by
        .iter()
        .map(|text| text.parse::<PartitionField>())
        .collect::<Result<_, _>>()
        .map_err(|error| StageFailure::new(Reason::InvalidDefinition, format!("{table}: table.partitionBy: {error}")))?;
    let definition = TableDef {
        table: table.clone(),
        format: match layout.format {
            DefinedFormat::Iceberg => TableFormat::Iceberg,
            DefinedFormat::Parquet => TableFormat::Parquet,
            DefinedFormat::Delta => TableFormat::Delta,
        },
        schema,
        partition_by,
        sort_by: layout.sort_by.clone(),
        owner: owner.to_owned(),
        properties: BTreeMap::new(),
        declared: Declared { renamed: definition.model.renamed_columns.clone(), dropped: layout.dropped_columns.clone() },
    };
    definition.validate().map_err(|error| table_failure(&error))?;
    Ok(definition)
}

fn write_mode(table: &TableRef, write: &DefinedMode) -> Result<WriteMode, StageFailure> {
    match write {
        DefinedMode { append: Some(_), .. } => Ok(WriteMode::Append),
        DefinedMode { replace_interval: Some(replace), .. } => Ok(WriteMode::ReplaceInterval { column: replace.column.clone() }),
        DefinedMode { merge: Some(merge), .. } => Ok(WriteMode::Merge { key: merge.key.clone(), sequence_by: merge.sequence_by.clone() }),
        DefinedMode { overwrite: Some(_), .. } => Ok(WriteMode::Overwrite),
        DefinedMode { .. } => Err(StageFailure::new(
            Reason::InvalidDefinition,
            format!("{table}: write needs exactly one of append, replaceInterval, merge, overwrite"),
        )),
    }
}
