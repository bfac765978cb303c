//! The work of the gold stage.

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::SchemaRef;
use chrono::{DateTime, SubsecRound, Utc};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use lakehouse_api::pipeline::{TableFormat as DefinedFormat, WriteMode as DefinedMode};
use lakehouse_contract::{
    Interval, Progress, Reason, Refresh, ResolvedGold, StageFailure, StageFuture, StageOutcome, StageSpec, Staleness, TableRef,
    TableReport, Work, digest_json,
};
use lakehouse_quality::{Recorder, Rules, publish::StagedTable};
use lakehouse_storage::Storage;
use lakehouse_tables::{
    BatchStream, BoxError, Commit, Committed, Declared, PartitionField, Table, TableDef, TableFormat, Tables, WriteMode,
};

use crate::{
    Engine, SqlError,
    failure::{sql_failure, table_failure},
    inputs::Inputs,
    models::{Model, ordered, plan, plan_all, table_of},
    pins::{Pins, pin},
    rules::{self, Judge},
    targets::{Targets, span},
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
    let Work::Gold { models: definitions, refresh } = &spec.work else {
        return Err(StageFailure::new(Reason::InvalidDefinition, format!("the spec is for {}, not for gold", spec.stage())));
    };
    let tables = Tables::connect(storage.clone(), catalog_uri).await.map_err(|error| table_failure(&error))?;
    let mut recorder = Recorder::new(spec);
    let made = make(spec, storage, &tables, definitions, *refresh, progress, &mut recorder, outcome).await;
    // A stage that failed half way may have changed what other intervals were computed from.
    let looked = match made.is_ok() || !outcome.tables.is_empty() {
        true => observe(&tables, definitions).await.map(|found| outcome.staleness = Some(found)),
        false => Ok(()),
    };
    recorder.conclude(made.and(looked), &tables, table_failure).await
}

#[allow(clippy::too_many_arguments, reason = "the parts of a stage, each once")]
async fn make(
    spec: &StageSpec,
    storage: &Storage,
    tables: &Tables,
    definitions: &[ResolvedGold],
    refresh: Option<Refresh>,
    progress: &dyn Progress,
    recorder: &mut Recorder<'_>,
    outcome: &mut StageOutcome,
) -> Result<(), StageFailure> {
    progress.step("plan models", Some(definitions.len() as u64));
    let engine = Engine::new().map_err(|error| StageFailure::new(error.reason(), error))?;
    let models = ordered(&engine, definitions)?;
    let read = read_tables(&models);
    let pins = pin(spec, storage, tables, &read, &models, span(spec, &models, refresh).as_ref()).await?;
    outcome.inputs = pins.inputs();
    for (table, model) in &read {
        register_pinned(&engine, tables, &pins, table, model).await?;
    }
    let schemas = plan_all(&engine, &models, &spec.interval).await?;
    let mut rules = Vec::with_capacity(models.len());
    for (model, schema) in models.iter().zip(&schemas) {
        rules.push(rules::compile(&engine, model, schema).await?);
    }
    fitting(tables, spec, &models, &schemas).await?;
    let targets = Targets { run: spec.interval, grain: spec.grain, refresh, known: pins.commits.intervals(spec.grain), now: Utc::now() };
    let mut inputs = Inputs::new(pins);
    for ((model, schema), mut rules) in models.iter().zip(schemas).zip(rules) {
        // The models that it refers to have their rows now.
        rules::refer(&engine, &mut rules, model, &schema).await?;
        let definition = table_definition(&model.table, &model.definition, schema, &spec.owner)?;
        let table = tables.ensure(&definition).await.map_err(|error| table_failure(&error))?;
        let of_model = ModelRun { spec, engine: &engine, tables, table: &table, progress, model, rules };
        let mut report = TableReport { name: model.table.to_string(), ..TableReport::default() };
        let computed = of_model.compute_all(&targets.of(model, &inputs.commits), &mut inputs, recorder, &mut report).await;
        if report.snapshot.is_some() {
            outcome.tables.push(report);
        }
        let last = computed?;
        if models.iter().any(|other| other.needs().contains(&model.table)) {
            // What was found may be older than the commits that others made for other intervals, which the pins have seen.
            let at = last.filter(|committed| !committed.already).map(|committed| committed.snapshot);
            let provider = table.provider(at.as_deref()).await.map_err(|error| table_failure(&error))?;
            engine.register(&model.table, provider).map_err(|error| sql_failure(&model.table, &error))?;
        }
    }
    Ok(())
}

/// What is stale in the tables of models now, as [`crate::stale`] finds it.
async fn observe(tables: &Tables, definitions: &[ResolvedGold]) -> Result<Staleness, StageFailure> {
    // The clock before the tables: whoever looks later has seen what was committed until then.
    let observed_at = Utc::now().trunc_subsecs(6);
    let names: Vec<TableRef> = definitions.iter().map(table_of).collect();
    let found = crate::stale(tables, &names).await?;
    Ok(Staleness { observed_at, tables: found.into_iter().map(|(table, starts)| (table.to_string(), starts)).collect() })
}

/// Every table can become what its model gives, before the first one is changed.
async fn fitting(tables: &Tables, spec: &StageSpec, models: &[Model], schemas: &[SchemaRef]) -> Result<(), StageFailure> {
    for (model, schema) in models.iter().zip(schemas) {
        let definition = table_definition(&model.table, &model.definition, schema.clone(), &spec.owner)?;
        tables.ensure_fits(&definition).await.map_err(|error| table_failure(&error))?;
    }
    Ok(())
}

/// The tables that models read or refer to and that no model of this run writes, each with the first model that does.
fn read_tables(models: &[Model]) -> BTreeMap<TableRef, TableRef> {
    let mut read = BTreeMap::new();
    for model in models {
        for table in model.needs() {
            if !models.iter().any(|other| other.table == table) {
                read.entry(table).or_insert_with(|| model.table.clone());
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

/// Adds a commit to the report of its table; `refreshed` is the start of an interval that is not the run's.
fn enter(report: &mut TableReport, committed: &Committed, refreshed: Option<DateTime<Utc>>) {
    let is_first = report.snapshot.is_none();
    report.already_committed = committed.already && (is_first || report.already_committed);
    report.snapshot = Some(committed.snapshot.clone());
    report.rows_read += committed.rows_written + committed.rows_superseded;
    report.rows_written += committed.rows_written;
    report.rows_deduplicated += committed.rows_superseded;
    report.files += committed.files;
    report.bytes_written += committed.bytes;
    report.refreshed.extend(refreshed);
}

/// One model of one run.
struct ModelRun<'a> {
    spec: &'a StageSpec,
    engine: &'a Engine,
    tables: &'a Tables,
    table: &'a Arc<dyn Table>,
    progress: &'a dyn Progress,
    model: &'a Model,
    rules: Rules,
}

impl ModelRun<'_> {
    /// Computes and commits intervals one after the other, enters each commit into `report`, and answers the last.
    async fn compute_all(
        &self,
        intervals: &[Interval],
        inputs: &mut Inputs,
        recorder: &mut Recorder<'_>,
        report: &mut TableReport,
    ) -> Result<Option<Committed>, StageFailure> {
        let mut last = None;
        if matches!(&self.spec.work, Work::Gold { refresh: Some(Refresh::Full), .. }) {
            self.replace_merged(intervals, inputs, recorder).await?;
        }
        for interval in intervals {
            let mut judge = Judge::new(&self.model.table, &self.rules, *interval, self.tables, recorder).await?;
            let committed = self.compute(interval, inputs, &mut judge).await?;
            judge.tell(report);
            enter(report, &committed, (*interval != self.spec.interval).then_some(interval.start));
            last = Some(committed);
        }
        Ok(last)
    }

    /// Computes and commits an interval, or finds the commit that is there already.
    async fn compute(&self, interval: &Interval, inputs: &mut Inputs, judge: &mut Judge<'_, '_>) -> Result<Committed, StageFailure> {
        let failed = |error| table_failure(&error);
        let model = self.model.of_interval(self.spec.grain, interval);
        let (token, origin) = inputs.identity(self.spec, &model, interval);
        let committed = match self.table.find_commit(token.as_str()).await.map_err(failed)? {
            Some(found) => {
                judge.found(&found);
                Committed { already: true, ..found }
            }
            None => {
                let name = if *interval == self.spec.interval {
                    model.table.to_string()
                } else {
                    format!("{} of {}", model.table, interval.label(self.spec.grain))
                };
                self.progress.step(&format!("compute {name}"), None);
                let commit = Commit {
                    token: token.0.clone(),
                    interval: *interval,
                    mode: write_mode(&model.table, &model.definition.model.write)?,
                    origin: Some(origin.clone()),
                    summary: BTreeMap::new(),
                };
                let (schema, rows) = self.streams(&model, interval).await?;
                let rows = judge.rows(schema, rows).await?;
                let staged = self.table.stage(rows, &commit).await.map_err(failed)?;
                self.progress.advance(staged.rows(), staged.bytes());
                self.progress.step(&format!("commit {name}"), Some(staged.rows()));
                judge.publish(StagedTable { table: self.table.clone(), staged, commit }).await?
            }
        };
        inputs.enter(&model, interval, token, origin);
        Ok(committed)
    }

    /// Puts what a merge of all `intervals` into an empty table would give in the place of a merge table's rows, in one commit; readers see
    /// the rows before or those after. Merged into the old rows, those whose key no interval gives any more would stay, and rows that another
    /// definition computed would be ties. Nothing happens when the table has the commits of all intervals already.
    async fn replace_merged(&self, intervals: &[Interval], inputs: &Inputs, recorder: &mut Recorder<'_>) -> Result<(), StageFailure> {
        let failed = |error| table_failure(&error);
        let mode = write_mode(&self.model.table, &self.model.definition.model.write)?;
        let Some(newest) = intervals.last().filter(|_| matches!(mode, WriteMode::Merge { .. })) else { return Ok(()) };
        let (mut tokens, mut streams, mut found) = (Vec::new(), Vec::new(), true);
        for interval in intervals {
            let model = self.model.of_interval(self.spec.grain, interval);
            let (token, _) = inputs.identity(self.spec, &model, interval);
            found = found && self.table.find_commit(token.as_str()).await.map_err(failed)?.is_some();
            tokens.push(token);
            streams.push((model, interval));
        }
        if found {
            return Ok(());
        }
        let mut rows = Vec::new();
        for (model, interval) in streams {
            let (schema, of_interval) = self.streams(&model, interval).await?;
            let mut judge = Judge::new(&self.model.table, &self.rules, *interval, self.tables, recorder).await?;
            rows.extend(judge.rows(schema, of_interval).await?);
        }
        self.progress.step(&format!("compute {} of all intervals", self.model.table), None);
        let commit = Commit { token: digest_json(&tokens), interval: *newest, mode, origin: None, summary: BTreeMap::new() };
        let merged = self.table.stage(rows, &commit).await.map_err(failed)?;
        let commit = Commit { mode: WriteMode::Overwrite, ..commit };
        let staged = self.table.stage(vec![merged.into_winners()], &commit).await.map_err(failed)?;
        self.progress.step(&format!("commit {} of all intervals", self.model.table), Some(staged.rows()));
        let mut judge = Judge::new(&self.model.table, &self.rules, *newest, self.tables, recorder).await?;
        judge.publish(StagedTable { table: self.table.clone(), staged, commit }).await.map(drop)
    }

    /// The rows with their columns, one stream per partition of the plan. Planned anew: the models it reads have their rows now.
    async fn streams(&self, model: &Model, interval: &Interval) -> Result<(SchemaRef, Vec<BatchStream>), StageFailure> {
        let failed = |error: SqlError| sql_failure(&model.table, &error);
        let plan = plan(self.engine, model, interval).await.map_err(failed)?;
        let planned = plan.schema().inner().clone();
        let streams = self.engine.data_frame(plan).execute_stream_partitioned().await.map_err(|error| failed(SqlError::of(error)))?;
        let schema = streams.first().map_or(planned, |stream| stream.schema());
        let boxed = |stream: SendableRecordBatchStream| stream.map(|batch| batch.map_err(|error| Box::new(error) as BoxError)).boxed();
        Ok((schema, streams.into_iter().map(boxed).collect()))
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
        bloom_filters: layout.bloom_filters.clone(),
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
