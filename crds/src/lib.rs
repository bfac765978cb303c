//! The API group `lakehouse.rs/v1alpha1` as Rust types: what a user writes, what the operator answers.
//!
//! Types, schema and the rules that the API server applies (CEL), nothing that talks to a cluster. The YAML under
//! `generated/` is written from these types by `cargo run -p lakehouse-api` and a test fails when it drifts.
//!
//! | module | kind |
//! |---|---|
//! | [`lakehouse`] | `Lakehouse`: where data lives and who may reach what |
//! | [`pipeline`] | `LakehousePipeline`: a definition, sources → silver tables → gold models |
//! | [`run`] | `LakehouseRun`: one execution of a pipeline for one interval |
//! | [`backfill`] | `LakehouseBackfill`: a range of intervals, cut into runs |

pub mod backfill;
pub mod common;
pub mod lakehouse;
pub mod lineage;
pub mod manifest;
pub mod pipeline;
pub mod run;
#[cfg(feature = "validate")]
pub mod validate;

pub use backfill::{LakehouseBackfill, LakehouseBackfillSpec, LakehouseBackfillStatus};
pub use lakehouse::{Lakehouse, LakehouseSpec, LakehouseStatus};
pub use pipeline::{LakehousePipeline, LakehousePipelineSpec, LakehousePipelineStatus};
pub use run::{LakehouseRun, LakehouseRunSpec, LakehouseRunStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// API group of every kind here.
pub const GROUP: &str = "lakehouse.rs";
/// Version served and stored.
pub const VERSION: &str = "v1alpha1";

/// The definitions of all kinds, each with the file name it has under `crds/generated`.
pub fn all_crds() -> Vec<(&'static str, CustomResourceDefinition)> {
    vec![
        ("lakehouses.yaml", Lakehouse::crd()),
        ("lakehousepipelines.yaml", LakehousePipeline::crd()),
        ("lakehouseruns.yaml", LakehouseRun::crd()),
        ("lakehousebackfills.yaml", LakehouseBackfill::crd()),
    ]
}

/// The YAML of a definition, as `kubectl apply` takes it.
///
/// # Errors
/// When the definition holds something that YAML cannot say; our own hold nothing of the kind.
pub fn crd_yaml(crd: &CustomResourceDefinition) -> Result<String, serde_yaml::Error> {
    serde_yaml::to_string(crd)
}
