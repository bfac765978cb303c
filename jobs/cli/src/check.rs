//! Every fault of manifests: what the API server refuses, what cannot be resolved, and SQL that cannot be planned.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use chrono::Utc;
use lakehouse_api::{LakehousePipeline, LakehousePipelineSpec, validate::validate};
use lakehouse_contract::{Interval, ResolvedGold, ResolvedSilver, StoreLocation, TableRef, Work, resolve::Request, resolve::resolve};

use crate::{
    CliError,
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

/// Checks every document of a bundle, in its order.
pub async fn check(bundle: &Bundle) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let mut resolved = Vec::new();
    for located in &bundle.documents {
        let mut verdict = Verdict { object: shown(located), faults: Vec::new(), notes: Vec::new() };
        verdict.faults.extend(validate(&located.document.value).iter().map(ToString::to_string));
        let pipeline = bundle.pipelines.iter().find(|(file, pipeline)| {
            *file == located.file
                && located.document.kind() == "LakehousePipeline"
                && pipeline.metadata.name.as_deref() == Some(located.document.name())
        });
        if let Some((_, pipeline)) = pipeline.filter(|_| verdict.faults.is_empty()) {
            match resolve_pipeline(bundle, pipeline) {
                Ok(plan) => resolved.push((verdicts.len(), plan)),
                Err(fault) => verdict.faults.push(fault),
            }
        }
        verdicts.push(verdict);
    }
    let schemas = check_silver(&resolved, &mut verdicts);
    for (index, plan) in &resolved {
        let verdict = &mut verdicts[*index];
        match lakehouse_gold::check_models(&plan.models, &schemas, &plan.interval).await {
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
    verdicts
}

/// All faults of a bundle, one line each.
pub fn faults(bundle: &Bundle, verdicts: &[Verdict]) -> Vec<String> {
    let of = |verdict: &Verdict| verdict.faults.iter().map(|fault| format!("{}: {fault}", verdict.object)).collect::<Vec<_>>();
    bundle.unreadable.iter().cloned().chain(verdicts.iter().flat_map(of)).collect()
}

/// A pipeline without faults, compiled.
pub struct Compiled {
    /// Its definition.
    pub definition: LakehousePipelineSpec,
    /// An interval that it can have.
    pub interval: Interval,
    /// Its gold models.
    pub models: Vec<ResolvedGold>,
    /// The schemas of all silver tables of the bundle.
    pub schemas: BTreeMap<TableRef, SchemaRef>,
}

/// The pipelines of a bundle in which [`check`] found no fault, in their order.
///
/// # Errors
/// [`CliError::Invalid`] for one that has a fault all the same.
pub fn plans(bundle: &Bundle) -> Result<Vec<Compiled>, CliError> {
    let resolved = bundle.pipelines.iter().map(|(_, pipeline)| resolve_pipeline(bundle, pipeline).map_err(CliError::Invalid));
    let resolved: Vec<Plan> = resolved.collect::<Result<_, _>>()?;
    let mut schemas = BTreeMap::new();
    for table in resolved.iter().flat_map(|plan| &plan.tables) {
        let schema = lakehouse_silver::check(table).map_err(|failure| CliError::Invalid(failure.to_string()))?;
        schemas.insert(TableRef::new("silver", &table.table.name), schema);
    }
    let pipelines = bundle.pipelines.iter().zip(resolved);
    let compiled = |definition: &LakehousePipelineSpec, plan: Plan| Compiled {
        definition: definition.clone(),
        interval: plan.interval,
        models: plan.models,
        schemas: schemas.clone(),
    };
    Ok(pipelines.map(|((_, pipeline), plan)| compiled(&pipeline.spec, plan)).collect())
}

fn shown(located: &Located) -> String {
    format!("{}: {} {}", located.file.display(), located.document.kind(), located.document.name())
}

struct Plan {
    interval: Interval,
    tables: Vec<ResolvedSilver>,
    models: Vec<ResolvedGold>,
}

fn resolve_pipeline(bundle: &Bundle, pipeline: &LakehousePipeline) -> Result<Plan, String> {
    let lakehouse = bundle.lakehouse_of(pipeline)?;
    let name = pipeline.metadata.name.clone().unwrap_or_default();
    let now = Utc::now();
    let interval = Interval::last_complete(pipeline.spec.interval, now);
    let request = Request {
        run_name: name.clone(),
        pipeline: name,
        namespace: NAMESPACE.to_owned(),
        run_uid: String::new(),
        created_at: now,
        interval,
        stages: Vec::new(),
        inputs_from: None,
        parameters: BTreeMap::new(),
        store: StoreLocation::Local { root: String::new(), landing: None },
    };
    let mut plan = Plan { interval, tables: Vec::new(), models: Vec::new() };
    for spec in resolve(&pipeline.spec, &lakehouse, &request).map_err(|error| error.to_string())? {
        match spec.work {
            Work::Ingest { .. } => {}
            Work::Silver { tables, .. } => plan.tables = tables,
            Work::Gold { models } => plan.models = models,
        }
    }
    Ok(plan)
}

/// Compiles every silver table as the stage does; answers the schemas that models may read.
fn check_silver(resolved: &[(usize, Plan)], verdicts: &mut [Verdict]) -> BTreeMap<TableRef, SchemaRef> {
    let mut schemas = BTreeMap::new();
    for (index, plan) in resolved {
        for table in &plan.tables {
            match lakehouse_silver::check(table) {
                Ok(schema) => {
                    schemas.insert(TableRef::new("silver", &table.table.name), schema);
                }
                Err(failure) => verdicts[*index].faults.push(failure.to_string()),
            }
        }
    }
    schemas
}
