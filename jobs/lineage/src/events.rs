//! The events of one attempt of a stage.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use lakehouse_api::pipeline::{Expectation, Otherwise};
use lakehouse_contract::{
    Lineage, LineageSpec, Reason, StageReport, StageSpec, TableReport, Work,
    lineage::{Input, Output},
    progress::Position,
};
use serde_json::{Map, Value, json};

use crate::{
    facets::{EVENT_SCHEMA, PRODUCER, PROGRESS_SCHEMA, column_lineage, facet, of_dataset, output_statistics},
    names::{dataset_name, parent_id, run_id},
};

/// The event of an attempt that begins.
pub fn started(spec: &StageSpec, to: &LineageSpec, at: DateTime<Utc>) -> Value {
    event(spec, to, "START", at, run_facets(spec, to), Vec::new(), Vec::new())
}

/// The event of an attempt that is at work, and how far it is. The published schema has no facet for that: this one is ours, as its rules for
/// further facets say.
pub fn running(spec: &StageSpec, to: &LineageSpec, at: DateTime<Utc>, position: &Position) -> Value {
    let mut facets = run_facets(spec, to);
    let mut progress = json!({
        "_producer": PRODUCER,
        "_schemaURL": PROGRESS_SCHEMA,
        "step": position.step,
        "rows": position.rows,
        "bytes": position.bytes,
    });
    if let Some(total) = position.total {
        progress["total"] = total.into();
    }
    facets.insert("lakehouse_progress".to_owned(), progress);
    event(spec, to, "RUNNING", at, facets, Vec::new(), Vec::new())
}

/// The event of an attempt that ended: `COMPLETE`, `FAIL`, or `ABORT` when it was told to stop. Its outputs are what is committed.
pub fn ended(spec: &StageSpec, to: &LineageSpec, report: &StageReport, lineage: &Lineage) -> Value {
    let mut facets = run_facets(spec, to);
    let kind = match &report.failure {
        None => "COMPLETE",
        Some(failure) if failure.reason == Reason::Interrupted => "ABORT",
        Some(_) => "FAIL",
    };
    if let Some(failure) = &report.failure {
        let message = format!("{}: {}", failure.reason, failure.message);
        facets.insert(
            "errorMessage".to_owned(),
            facet("1-0-1/ErrorMessageRunFacet", json!({"message": message, "programmingLanguage": "RUST"})),
        );
    }
    let rules = rules(spec);
    let tests: Vec<Value> = report.tables.iter().flat_map(|table| tests(table, &rules)).collect();
    if !tests.is_empty() {
        facets.insert("test".to_owned(), facet("1-0-1/TestRunFacet", json!({"tests": tests})));
    }
    let tables: BTreeMap<&str, &TableReport> = report.tables.iter().map(|table| (table.name.as_str(), table)).collect();
    let inputs = lineage.inputs.iter().map(|input| input_dataset(input, to, &tables, &rules)).collect();
    let outputs = lineage
        .outputs
        .iter()
        .filter_map(|output| Some(output_dataset(output, to, tables.get(output.report.as_str()).copied()?)))
        .collect();
    event(spec, to, kind, report.finished_at, facets, inputs, outputs)
}

#[allow(clippy::too_many_arguments, reason = "the parts of an event, each once")]
fn event(
    spec: &StageSpec,
    to: &LineageSpec,
    kind: &str,
    at: DateTime<Utc>,
    run_facets: Map<String, Value>,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
) -> Value {
    json!({
        "eventType": kind,
        "eventTime": time(at),
        "producer": PRODUCER,
        "schemaURL": EVENT_SCHEMA,
        "run": {"runId": run_id(&spec.owner, &spec.run.id, spec.stage(), spec.attempt).to_string(), "facets": run_facets},
        "job": {"namespace": to.namespace, "name": format!("{}.{}", spec.pipeline, spec.stage()), "facets": job_facets(spec)},
        "inputs": inputs,
        "outputs": outputs,
    })
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

fn run_facets(spec: &StageSpec, to: &LineageSpec) -> Map<String, Value> {
    let mut facets = Map::new();
    let parent = json!({
        "run": {"runId": parent_id(&spec.owner, &spec.run.id).to_string()},
        "job": {"namespace": to.namespace, "name": spec.pipeline},
    });
    facets.insert("parent".to_owned(), facet("1-2-0/ParentRunFacet", parent));
    let nominal = json!({"nominalStartTime": time(spec.interval.start), "nominalEndTime": time(spec.interval.end)});
    facets.insert("nominalTime".to_owned(), facet("1-0-1/NominalTimeRunFacet", nominal));
    let engine = json!({"name": "lakehouse", "version": env!("CARGO_PKG_VERSION"), "openlineageAdapterVersion": env!("CARGO_PKG_VERSION")});
    facets.insert("processing_engine".to_owned(), facet("1-1-1/ProcessingEngineRunFacet", engine));
    facets
}

fn job_facets(spec: &StageSpec) -> Map<String, Value> {
    let mut facets = Map::new();
    let kind = json!({"processingType": "BATCH", "integration": "LAKEHOUSE", "jobType": spec.stage().as_str().to_ascii_uppercase()});
    facets.insert("jobType".to_owned(), facet("2-0-4/JobTypeJobFacet", kind));
    if let Work::Gold { models, .. } = &spec.work {
        let statements: Vec<String> =
            models.iter().map(|model| format!("-- gold.{}\n{}", model.model.name, model.model.sql.trim())).collect();
        facets.insert("sql".to_owned(), facet("1-1-0/SQLJobFacet", json!({"query": statements.join(";\n"), "dialect": "datafusion"})));
    }
    facets
}

/// The expectations of a silver or gold stage by table and name.
fn rules(spec: &StageSpec) -> BTreeMap<(String, String), Expectation> {
    let of = |table: String, rules: &[Expectation]| {
        rules.iter().cloned().map(move |rule| ((table.clone(), rule.name.clone()), rule)).collect::<Vec<_>>()
    };
    match &spec.work {
        Work::Silver { tables, .. } => {
            tables.iter().flat_map(|table| of(format!("silver.{}", table.table.name), &table.table.expectations)).collect()
        }
        Work::Gold { models, .. } => {
            models.iter().flat_map(|model| of(format!("gold.{}", model.model.name), &model.model.expectations)).collect()
        }
        Work::Ingest { .. } | Work::Maintenance { .. } => BTreeMap::new(),
    }
}

/// `error` for a rule that ends the stage, `warn` for one that lets it go on.
fn severity(rule: Option<&Expectation>) -> &'static str {
    match rule.map(|rule| rule.otherwise) {
        Some(Otherwise::Fail) => "error",
        _ => "warn",
    }
}

fn tests<'a>(table: &'a TableReport, rules: &'a BTreeMap<(String, String), Expectation>) -> impl Iterator<Item = Value> + 'a {
    table.expectations.iter().map(|result| {
        let rule = rules.get(&(table.name.clone(), result.name.clone()));
        let mut test = json!({
            "name": format!("{}.{}", table.name, result.name),
            "status": if result.passed { "pass" } else { "fail" },
            "severity": severity(rule),
            "type": "custom_sql",
            "actual": format!("{} rows broke it", result.failed),
        });
        if let Some(condition) = rule.and_then(|rule| rule.row.as_ref().or(rule.batch.as_ref())) {
            test["content"] = condition.clone().into();
            test["contentType"] = "sql".into();
        }
        test
    })
}

fn input_dataset(
    input: &Input,
    to: &LineageSpec,
    tables: &BTreeMap<&str, &TableReport>,
    rules: &BTreeMap<(String, String), Expectation>,
) -> Value {
    let name = dataset_name(&input.dataset.uri);
    let judged: Vec<&&TableReport> = input.judged_as.iter().filter_map(|table| tables.get(table.as_str())).collect();
    let mut facets = Map::new();
    let mut statistics = Map::new();
    // Every table of a source reads all of it.
    if let Some(rows) = judged.iter().map(|table| table.rows_read).max() {
        statistics.insert("rowCount".to_owned(), rows.into());
    }
    for (key, value) in [("size", input.bytes), ("fileCount", input.files)] {
        if let Some(value) = value {
            statistics.insert(key.to_owned(), value.into());
        }
    }
    if !statistics.is_empty() {
        facets.insert("inputStatistics".to_owned(), facet("1-0-0/InputStatisticsInputDatasetFacet", Value::Object(statistics)));
    }
    let assertions: Vec<Value> = judged
        .iter()
        .flat_map(|table| table.expectations.iter().map(move |result| (table, result)))
        .map(|(table, result)| {
            let rule = rules.get(&(table.name.clone(), result.name.clone()));
            json!({"assertion": format!("{}.{}", table.name, result.name), "success": result.passed, "severity": severity(rule)})
        })
        .collect();
    if !assertions.is_empty() {
        facets.insert(
            "dataQualityAssertions".to_owned(),
            facet("1-1-0/DataQualityAssertionsDatasetFacet", json!({"assertions": assertions})),
        );
    }
    let about = of_dataset(&input.dataset, &name, &to.namespace, input.dataset.version.as_deref());
    json!({"namespace": name.namespace, "name": name.name, "facets": about, "inputFacets": facets})
}

fn output_dataset(output: &Output, to: &LineageSpec, report: &TableReport) -> Value {
    let name = dataset_name(&output.dataset.uri);
    let version = output.dataset.version.as_deref().or(report.snapshot.as_deref().filter(|_| !output.quarantine));
    let mut about = of_dataset(&output.dataset, &name, &to.namespace, version);
    if let Some(columns) = column_lineage(output) {
        about.insert("columnLineage".to_owned(), columns);
    }
    let mut facets = Map::new();
    // A commit that was found is another run's: this one wrote nothing.
    if !report.already_committed {
        facets.insert("outputStatistics".to_owned(), output_statistics(output, report));
    }
    json!({"namespace": name.namespace, "name": name.name, "facets": about, "outputFacets": facets})
}
