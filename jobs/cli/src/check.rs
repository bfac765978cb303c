//! Every fault of manifests: what the API server refuses, what cannot be resolved, and SQL that cannot be planned.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use chrono::Utc;
use lakehouse_api::{LakehousePipeline, LakehousePipelineSpec, manifest::Object, validate::validate};
use lakehouse_contract::{
    Interval, ResolvedGold, ResolvedSilver, StoreLocation, TableRef, Work, backfill::Layout, resolve::Request, resolve::resolve, schedule,
};

use crate::{
    execute::NAMESPACE,
    manifests::{Bundle, Located},
};

/// What was found about one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `FILE: KIND NAME`.
    pub object: String,
    /// What is wrong; empty: nothing.
    pub faults: Vec<String>,
    /// What could not be checked.
    pub notes: Vec<String>,
}

/// What a check of a bundle found.
pub struct Checked {
    /// One for every document, in its order.
    pub verdicts: Vec<Verdict>,
    /// The pipelines that can be resolved.
    pub pipelines: Vec<Compiled>,
    /// The schemas of all silver tables, which models may read.
    pub schemas: BTreeMap<TableRef, SchemaRef>,
}

/// A pipeline, resolved for an interval that it can have.
pub struct Compiled {
    /// Place of its verdict.
    verdict: usize,
    /// Its name.
    pub name: String,
    /// The namespace that its manifest says.
    pub namespace: Option<String>,
    /// Its definition.
    pub definition: LakehousePipelineSpec,
    /// The interval.
    pub interval: Interval,
    /// Its silver tables.
    pub tables: Vec<ResolvedSilver>,
    /// Its gold models.
    pub models: Vec<ResolvedGold>,
}

/// Checks every document of a bundle.
pub async fn check(bundle: &Bundle) -> Checked {
    let mut verdicts = Vec::new();
    let mut pipelines = Vec::new();
    for located in &bundle.documents {
        let mut verdict = Verdict { object: shown(located), faults: Vec::new(), notes: Vec::new() };
        verdict.faults.extend(validate(&located.document.value).iter().map(ToString::to_string));
        let pipeline = bundle.pipelines.iter().find(|(file, pipeline)| {
            *file == located.file
                && located.document.kind() == "LakehousePipeline"
                && pipeline.metadata.name.as_deref() == Some(located.document.name())
        });
        if let Some((_, pipeline)) = pipeline.filter(|_| verdict.faults.is_empty()) {
            match resolve_pipeline(bundle, pipeline, verdicts.len()) {
                Ok(compiled) => pipelines.push(compiled),
                Err(fault) => verdict.faults.push(fault),
            }
        }
        if verdict.faults.is_empty() {
            verdict.faults.extend(fault_of_backfill(bundle, located));
        }
        verdicts.push(verdict);
    }
    let schemas = check_silver(&pipelines, &mut verdicts);
    for pipeline in &pipelines {
        let verdict = &mut verdicts[pipeline.verdict];
        match lakehouse_gold::check_models(&pipeline.models, &schemas, &pipeline.interval).await {
            Ok(unchecked) => verdict.notes.extend(
                unchecked
                    .into_iter()
                    .map(|missing| format!("{}: not checked, it reads {}, which no given file defines", missing.model, missing.reads)),
            ),
            // What is wrong with a silver table is said once, not by each model that reads it.
            Err(_) if !verdict.faults.is_empty() => {}
            Err(failure) => verdict.faults.push(failure.to_string()),
        }
    }
    Checked { verdicts, pipelines, schemas }
}

/// All faults of a bundle, one line each.
pub fn faults(bundle: &Bundle, verdicts: &[Verdict]) -> Vec<String> {
    let of = |verdict: &Verdict| verdict.faults.iter().map(|fault| format!("{}: {fault}", verdict.object)).collect::<Vec<_>>();
    bundle.unreadable.iter().cloned().chain(verdicts.iter().flat_map(of)).collect()
}

fn shown(located: &Located) -> String {
    format!("{}: {} {}", located.file.display(), located.document.kind(), located.document.name())
}

/// What is wrong with a backfill of a pipeline that the files have.
fn fault_of_backfill(bundle: &Bundle, located: &Located) -> Option<String> {
    let Ok(Object::Backfill(backfill)) = located.document.object() else { return None };
    let of = |(_, pipeline): &&(_, LakehousePipeline)| pipeline.metadata.name.as_deref() == Some(backfill.spec.pipeline.as_str());
    let (_, pipeline) = bundle.pipelines.iter().find(of)?;
    Layout::new(&backfill.spec, &pipeline.spec).err().map(|error| error.to_string())
}

fn resolve_pipeline(bundle: &Bundle, pipeline: &LakehousePipeline, verdict: usize) -> Result<Compiled, String> {
    let lakehouse = bundle.lakehouse_of(pipeline)?;
    schedule::check(&pipeline.spec).map_err(|error| error.to_string())?;
    let name = pipeline.metadata.name.clone().unwrap_or_default();
    let now = Utc::now();
    let interval = Interval::last_complete(pipeline.spec.interval, now);
    let request = Request {
        run_name: name.clone(),
        pipeline: name.clone(),
        namespace: NAMESPACE.to_owned(),
        run_uid: String::new(),
        created_at: now,
        interval,
        stages: Vec::new(),
        inputs_from: None,
        refresh: None,
        parameters: BTreeMap::new(),
        store: StoreLocation::Local { root: String::new(), landing: None },
    };
    let (namespace, definition) = (pipeline.metadata.namespace.clone(), pipeline.spec.clone());
    let mut compiled = Compiled { verdict, name, namespace, definition, interval, tables: Vec::new(), models: Vec::new() };
    for spec in resolve(&pipeline.spec, &lakehouse, &request).map_err(|error| error.to_string())? {
        match spec.work {
            Work::Ingest { .. } | Work::Maintenance { .. } => {}
            Work::Silver { tables, .. } => compiled.tables = tables,
            Work::Gold { models, .. } => compiled.models = models,
        }
    }
    Ok(compiled)
}

/// Compiles every silver table as the stage does; answers the schemas that models may read.
fn check_silver(pipelines: &[Compiled], verdicts: &mut [Verdict]) -> BTreeMap<TableRef, SchemaRef> {
    let mut schemas = BTreeMap::new();
    for pipeline in pipelines {
        for table in &pipeline.tables {
            match lakehouse_silver::check(table) {
                Ok(schema) => {
                    schemas.insert(TableRef::new("silver", &table.table.name), schema);
                }
                Err(failure) => verdicts[pipeline.verdict].faults.push(failure.to_string()),
            }
        }
    }
    schemas
}
