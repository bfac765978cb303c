//! The rules of models: compiled with the plans, and asked before a result is published.

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use lakehouse_contract::{ExpectationResult, Interval, Reason, StageFailure, TableRef, TableReport};
use lakehouse_quality::{
    Recorded, Recorder, Rules, Spool, failure_of,
    publish::{self, Outcome, StagedTable},
};
use lakehouse_tables::{BatchStream, Committed, TableError, Tables};

use crate::{
    Engine, SqlError,
    failure::{sql_failure, table_failure},
    models::Model,
};

/// Key of the results within a commit's summary: an attempt that finds the commit has them too.
const RESULTS: &str = "expectations";

/// Compiles the rules of a model that gives the columns `schema`; the tables that it refers to are registered.
///
/// # Errors
/// `InvalidSql` that names the model, the rule and what is wrong.
pub(crate) async fn compile(engine: &Engine, model: &Model, schema: &SchemaRef) -> Result<Rules, StageFailure> {
    let mut rules = Rules::of_model(&model.table, &model.definition.model.expectations, schema)?;
    refer(engine, &mut rules, model, schema).await?;
    Ok(rules)
}

/// Gives the rules the tables that they refer to as they are registered now.
///
/// # Errors
/// As [`compile`].
pub(crate) async fn refer(engine: &Engine, rules: &mut Rules, model: &Model, schema: &SchemaRef) -> Result<(), StageFailure> {
    let partners: Vec<TableRef> = rules.partners().cloned().collect();
    for partner in partners {
        let rows = engine.provider(&partner).await.map_err(|error| sql_failure(&model.table, &error))?;
        rules.refer(&partner, rows, schema)?;
    }
    Ok(())
}

/// The rules of one model for one interval, and what was found.
pub(crate) struct Judge<'a, 'b> {
    table: &'a TableRef,
    rules: Rules,
    interval: Interval,
    recorder: &'a mut Recorder<'b>,
    results: Vec<ExpectationResult>,
}

impl<'a, 'b> Judge<'a, 'b> {
    /// A judge that knows the results of earlier intervals.
    ///
    /// # Errors
    /// What the table of results says.
    pub(crate) async fn new(
        table: &'a TableRef,
        rules: &Rules,
        interval: Interval,
        tables: &Tables,
        recorder: &'a mut Recorder<'b>,
    ) -> Result<Self, StageFailure> {
        let mut rules = rules.clone();
        rules.look_back(tables, recorder.owner(), interval.start, table_failure).await?;
        Ok(Self { table, rules, interval, recorder, results: Vec::new() })
    }

    /// Asks the rules about the rows that a commit would write; answers the rows.
    ///
    /// # Errors
    /// `ExpectationFailed`, or what computing the rows says.
    pub(crate) async fn rows(&mut self, schema: SchemaRef, rows: Vec<BatchStream>) -> Result<Vec<BatchStream>, StageFailure> {
        if !self.rules.any_of_batch() {
            return Ok(rows);
        }
        let parts = rows.len();
        let spool = Spool::fill(schema, rows).await;
        let spool = spool.map_err(|cause| table_failure(&TableError::Source { table: self.table.clone(), cause }))?;
        let provider = spool.provider().map_err(|error| sql_failure(self.table, &SqlError::of(error)))?;
        let found = self.rules.check_batch(provider).await?;
        self.enter(found)?;
        Ok(spool.into_streams(parts))
    }

    /// Asks the rules about the whole table as the commit would make it, and publishes it.
    ///
    /// # Errors
    /// `ExpectationFailed`: nothing is published then. `CommitConflict` where other writers changed the table again and again.
    pub(crate) async fn publish(&mut self, mut staged: StagedTable) -> Result<Committed, StageFailure> {
        if !self.rules.any_of_table() {
            staged.commit.summary = summary(&self.results)?;
            let committed = staged.commit().await.map_err(|error| table_failure(&error))?;
            self.record(Some(&committed));
            return Ok(committed);
        }
        match staged.publish(self).await? {
            Outcome::Already(committed) => {
                self.found(&committed);
                Ok(committed)
            }
            Outcome::Published(committed) => {
                self.record(Some(&committed));
                Ok(committed)
            }
        }
    }

    /// Takes the results of a commit that is there already.
    pub(crate) fn found(&mut self, committed: &Committed) {
        self.results = committed.summary.get(RESULTS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        self.record(Some(committed));
    }

    /// Adds what was found to the report of the table. Of several intervals a rule has the result of the last, or of the last that broke it.
    pub(crate) fn tell(self, report: &mut TableReport) {
        for result in self.results {
            match report.expectations.iter_mut().find(|known| known.name == result.name) {
                Some(known) if known.passed || !result.passed => *known = result,
                Some(_) => {}
                None => report.expectations.push(result),
            }
        }
    }

    /// Enters results; the failure of the first that ends the stage.
    fn enter(&mut self, found: Vec<ExpectationResult>) -> Result<(), StageFailure> {
        self.results.retain(|known| !found.iter().any(|result| result.name == known.name));
        self.results.extend(found);
        let rules = &self.rules;
        self.results.sort_by_key(|result| rules.position(&result.name));
        self.record(None);
        failure_of(self.table, &self.results).map_or(Ok(()), Err)
    }

    fn record(&mut self, committed: Option<&Committed>) {
        if self.results.is_empty() {
            return;
        }
        self.recorder.add(Recorded {
            interval: Some(self.interval),
            table: self.table.to_string(),
            snapshot: committed.map(|committed| committed.snapshot.clone()),
            results: self.results.clone(),
            ..Recorded::default()
        });
    }
}

impl publish::Judge for Judge<'_, '_> {
    async fn look(&mut self, rows: Arc<dyn TableProvider>) -> Result<(), StageFailure> {
        let found = self.rules.check_table(rows, &self.interval).await?;
        self.enter(found)
    }

    fn summary(&self) -> Result<BTreeMap<String, String>, StageFailure> {
        summary(&self.results)
    }

    fn failure(&self, error: &TableError) -> StageFailure {
        table_failure(error)
    }
}

fn summary(results: &[ExpectationResult]) -> Result<BTreeMap<String, String>, StageFailure> {
    if results.is_empty() {
        return Ok(BTreeMap::new());
    }
    let text = serde_json::to_string(results).map_err(|error| StageFailure::new(Reason::Internal, error))?;
    Ok(BTreeMap::from([(RESULTS.to_owned(), text)]))
}
