//! `lakehouse get`: what a cluster has and does: pipelines, runs, and of one run its stages and tables.

use std::{
    io::{IsTerminal, Write},
    pin::pin,
    time::Duration,
};

use chrono::Utc;
use clap::Args;
use futures::{Stream, StreamExt};
use kube::{
    Resource, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use lakehouse_api::{LakehousePipeline, LakehouseRun};
use serde::Serialize;
use serde_json::{Value, json};

use super::output::{Output, show};
use crate::{
    CliError,
    submit::{
        SubmitError,
        cluster::{Cluster, ClusterArguments},
        outcome::{Outcome, end},
        tree,
    },
};

/// Changes that come together are shown together.
const TOGETHER: Duration = Duration::from_millis(200);
/// How often the durations of what runs are shown anew on a terminal.
const TICK: Duration = Duration::from_secs(5);

/// Options of `get`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 done (with --watch and a run: it succeeded), 1 the run failed or was cancelled, 2 refused, 3 the cluster does not answer."
)]
pub struct GetArguments {
    /// A run, or a pipeline, whose runs are shown: NAME, run/NAME or pipeline/NAME. Without it: all pipelines.
    name: Option<String>,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Show it again whenever something changes; of a run until it has ended.
    #[arg(short, long)]
    watch: bool,
    /// Text, with more of it (wide), or the objects.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What is shown.
enum Shown {
    Pipelines(Vec<LakehousePipeline>),
    Runs(Vec<LakehouseRun>),
    Run(Box<LakehouseRun>),
}

/// What is asked for.
enum Asked {
    Pipelines,
    RunsOf(String),
    Run(String),
}

/// Shows what is asked for.
///
/// # Errors
/// [`SubmitError`], by way of [`CliError::Submit`].
pub async fn run(arguments: GetArguments) -> Result<(), CliError> {
    let cluster = Cluster::connect(&arguments.cluster).await?;
    let asked = asked(&cluster, arguments.name.as_deref()).await?;
    let mut found = find(&cluster, &asked).await?;
    let mut drawn = draw(&arguments, &found, None)?;
    if !arguments.watch {
        return Ok(());
    }
    let changes = changes(&cluster, &asked);
    let mut changes = pin!(changes);
    loop {
        if let Shown::Run(run) = &found
            && end(run).is_some()
        {
            return match Outcome::of(run).and_then(|outcome| outcome.failure()) {
                Some(line) => Err(SubmitError::Failed(line).into()),
                None => Ok(()),
            };
        }
        tokio::select! {
            change = changes.next() => if change.is_none() { return Ok(()) },
            () = tokio::time::sleep(TICK) => {}
        }
        tokio::time::sleep(TOGETHER).await;
        found = match find(&cluster, &asked).await {
            Err(SubmitError::Refused(_)) if matches!(asked, Asked::Run(_)) => {
                return Err(SubmitError::Deleted(arguments.name.unwrap_or_default()).into());
            }
            other => other?,
        };
        drawn = draw(&arguments, &found, Some(&drawn))?;
    }
}

/// A bare name is a run's, or else a pipeline's.
async fn asked(cluster: &Cluster, name: Option<&str>) -> Result<Asked, SubmitError> {
    let Some(name) = name else { return Ok(Asked::Pipelines) };
    match name.split_once('/') {
        Some(("run" | "runs" | "lhr" | "lakehouserun" | "lakehouseruns", name)) => Ok(Asked::Run(name.to_owned())),
        Some(("pipeline" | "pipelines" | "lhp" | "lakehousepipeline" | "lakehousepipelines", name)) => Ok(Asked::RunsOf(name.to_owned())),
        Some((kind, _)) => Err(SubmitError::Refused(format!("`{kind}` is no kind that is shown: expected run/NAME or pipeline/NAME"))),
        None if cluster.find::<LakehouseRun>(name).await?.is_some() => Ok(Asked::Run(name.to_owned())),
        None if cluster.find::<LakehousePipeline>(name).await?.is_some() => Ok(Asked::RunsOf(name.to_owned())),
        None => {
            Err(SubmitError::Refused(format!("{name}: there is no run and no pipeline of this name in namespace {}", cluster.namespace)))
        }
    }
}

async fn find(cluster: &Cluster, asked: &Asked) -> Result<Shown, SubmitError> {
    Ok(match asked {
        Asked::Pipelines => Shown::Pipelines(cluster.all().await?),
        Asked::Run(name) => Shown::Run(Box::new(cluster.run(name).await?)),
        Asked::RunsOf(pipeline) => {
            if cluster.find::<LakehousePipeline>(pipeline).await?.is_none() {
                return Err(SubmitError::Refused(format!(
                    "LakehousePipeline {pipeline}: there is none of this name in namespace {}",
                    cluster.namespace
                )));
            }
            let mut runs: Vec<LakehouseRun> = cluster.all().await?;
            runs.retain(|run| run.spec.pipeline == *pipeline);
            Shown::Runs(runs)
        }
    })
}

/// Something that is shown may have changed.
fn changes(cluster: &Cluster, asked: &Asked) -> impl Stream<Item = ()> + use<> {
    let only = match asked {
        Asked::Run(name) => watcher::Config::default().fields(&format!("metadata.name={name}")),
        Asked::Pipelines | Asked::RunsOf(_) => watcher::Config::default(),
    };
    // A pipeline's status follows its runs.
    watcher(cluster.api::<LakehouseRun>(), only).default_backoff().filter_map(|event| std::future::ready(event.ok().map(drop)))
}

/// Shows what was found, unless the same was `before`; answers what it is.
fn draw(arguments: &GetArguments, found: &Shown, before: Option<&Value>) -> Result<Value, CliError> {
    let now = Utc::now();
    let value = match found {
        Shown::Pipelines(all) => list(all),
        Shown::Runs(all) => list(all),
        Shown::Run(run) => object(run.as_ref()),
    };
    let clears = arguments.watch && std::io::stdout().is_terminal();
    if before == Some(&value) && !clears {
        return Ok(value);
    }
    if clears {
        // Clears the screen and begins at its top.
        let _ = std::io::stdout().write_all(b"\x1b[H\x1b[2J");
    }
    show(arguments.output, &value, |wide| match found {
        Shown::Pipelines(all) => tree::pipelines(all, wide),
        Shown::Runs(all) => tree::runs(all, wide, now),
        Shown::Run(run) => tree::tree(run, wide, now),
    })?;
    Ok(value)
}

/// An object as the API server has it, without what only servers need.
fn object<K: Resource<DynamicType = ()> + Serialize + Clone>(object: &K) -> Value {
    let mut plain = object.clone();
    plain.meta_mut().managed_fields = None;
    // Our own types: there is nothing that JSON cannot say.
    serde_json::to_value(&plain).unwrap_or_default()
}

fn list<K: Resource<DynamicType = ()> + Serialize + Clone>(all: &[K]) -> Value {
    let mut all: Vec<&K> = all.iter().collect();
    all.sort_by_key(|object| object.name_any());
    json!({"apiVersion": "v1", "kind": "List", "items": all.into_iter().map(object).collect::<Vec<_>>()})
}
