//! `lakehouse suspend` and `resume`: a pipeline's schedule, a backfill or a run on a cluster.

use std::str::FromStr;

use clap::Args;
use lakehouse_api::{LakehouseBackfill, LakehousePipeline, LakehouseRun, run::RunState};
use serde_json::json;

use crate::{
    CliError, print,
    submit::{
        SubmitError,
        cluster::{Cluster, ClusterArguments},
    },
};

/// Options of `suspend` and `resume`.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 done, 2 refused, 3 the cluster does not answer.")]
pub struct SuspendArguments {
    /// What: pipeline/NAME, backfill/NAME or run/NAME; or with the short names lhp, lhb, lhr.
    #[arg(value_name = "KIND/NAME")]
    object: Object,
    #[command(flatten)]
    cluster: ClusterArguments,
}

/// Something that can be suspended.
#[derive(Clone, Debug)]
enum Object {
    Pipeline(String),
    Backfill(String),
    Run(String),
}

impl FromStr for Object {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, name) = text.split_once('/').unwrap_or(("", text));
        let name = super::submit::name(name)?;
        match kind {
            "pipeline" | "pipelines" | "lhp" | "lakehousepipeline" => Ok(Self::Pipeline(name)),
            "backfill" | "backfills" | "lhb" | "lakehousebackfill" => Ok(Self::Backfill(name)),
            "run" | "runs" | "lhr" | "lakehouserun" => Ok(Self::Run(name)),
            _ => Err(format!("`{text}`: write pipeline/NAME, backfill/NAME or run/NAME")),
        }
    }
}

/// Suspends or resumes.
///
/// # Errors
/// [`CliError::Submit`], with its own exit codes.
pub async fn run(arguments: SuspendArguments, suspend: bool) -> Result<(), CliError> {
    let cluster = Cluster::connect(&arguments.cluster).await?;
    let state = if suspend { RunState::Suspended } else { RunState::Active };
    let shown = match &arguments.object {
        Object::Pipeline(name) => of_pipeline(&cluster, name, suspend).await?,
        Object::Backfill(name) => of_backfill(&cluster, name, state).await?,
        Object::Run(name) => {
            cluster.merge::<LakehouseRun>(name, &json!({"spec": {"state": state}})).await?;
            format!("lakehouserun.lakehouse.rs/{name} {}", word(state))
        }
    };
    print(&format!("{shown}\n"))
}

const fn word(state: RunState) -> &'static str {
    match state {
        RunState::Active => "resumed",
        RunState::Suspended => "suspended",
        RunState::Cancelled => "cancelled",
    }
}

/// Suspends or resumes the schedule of a pipeline; answers the line that says so.
///
/// # Errors
/// [`SubmitError::Refused`] where there is no such pipeline, or it has no schedule; [`SubmitError::Unreachable`].
pub async fn of_pipeline(cluster: &Cluster, name: &str, suspend: bool) -> Result<String, SubmitError> {
    let pipeline = cluster.pipeline(name).await?;
    if pipeline.spec.trigger.as_ref().is_none_or(|trigger| trigger.schedule.is_none()) {
        let message = format!("LakehousePipeline {name}: it has no spec.trigger.schedule: what makes its runs is elsewhere");
        return Err(SubmitError::Refused(message));
    }
    // With the version that was read: a trigger that was changed meanwhile is not given a schedule.
    let version = pipeline.metadata.resource_version;
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"trigger": {"schedule": {"suspend": suspend}}}});
    cluster.merge::<LakehousePipeline>(name, &patch).await?;
    let state = if suspend { RunState::Suspended } else { RunState::Active };
    Ok(format!("lakehousepipeline.lakehouse.rs/{name} {}", word(state)))
}

/// Asks for a state of a backfill; answers the line that says so.
///
/// # Errors
/// [`SubmitError::Refused`] where there is no such backfill, or it was cancelled; [`SubmitError::Unreachable`].
pub async fn of_backfill(cluster: &Cluster, name: &str, state: RunState) -> Result<String, SubmitError> {
    cluster.merge::<LakehouseBackfill>(name, &json!({"spec": {"state": state}})).await?;
    Ok(format!("lakehousebackfill.lakehouse.rs/{name} {}", word(state)))
}
