//! `lakehouse get`: what a cluster has and does: pipelines, backfills, runs; of a backfill its runs, of a run its stages and tables.

use std::{
    future::ready,
    io::{IsTerminal, Write},
    iter::once,
    pin::pin,
    time::Duration,
};

use chrono::Utc;
use clap::Args;
use futures::{
    Stream, StreamExt,
    stream::{iter, select},
};
use kube::{
    Resource, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use lakehouse_api::{LakehouseBackfill, LakehousePipeline, LakehouseRun};
use lakehouse_contract::names::BACKFILL_LABEL;
use serde::Serialize;
use serde_json::{Value, json};

use super::output::{Output, show};
use crate::{
    CliError,
    submit::{
        SubmitError, backfills,
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
    after_help = "Exit status: 0 done (with --watch and a run or backfill: it succeeded), 1 it failed or was cancelled, 2 refused, 3 the cluster does not answer."
)]
pub struct GetArguments {
    /// A run, or a pipeline or backfill, whose runs are shown: NAME, run/NAME, pipeline/NAME or backfill/NAME; or all of a kind: pipelines, runs,
    /// backfills. Without it: all pipelines, and the backfills at work.
    name: Option<String>,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Show it again whenever something changes; of a run or backfill until it has ended.
    #[arg(short, long)]
    watch: bool,
    /// Text, with more of it (wide), or the objects.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What is shown.
enum Shown {
    Overview(Vec<LakehousePipeline>, Vec<LakehouseBackfill>),
    Pipelines(Vec<LakehousePipeline>),
    Runs(Vec<LakehouseRun>),
    Run(Box<LakehouseRun>),
    Backfills(Vec<LakehouseBackfill>),
    Backfill(Box<LakehouseBackfill>, Vec<LakehouseRun>),
}

impl Shown {
    /// How what is watched to its end has ended; nothing while it has not, and for what has no end.
    fn ended(&self) -> Option<Result<(), SubmitError>> {
        match self {
            Self::Run(run) => {
                end(run)?;
                Some(Outcome::of(run).and_then(|outcome| outcome.failure()).map_or(Ok(()), |line| Err(SubmitError::Failed(line))))
            }
            Self::Backfill(backfill, _) => backfills::ended(&backfill.name_any(), backfill.status.as_ref()?),
            Self::Overview(..) | Self::Pipelines(_) | Self::Runs(_) | Self::Backfills(_) => None,
        }
    }
}

/// What is asked for.
enum Asked {
    Overview,
    Pipelines,
    Runs,
    RunsOf(String),
    Run(String),
    Backfills,
    Backfill(String),
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
        if let Some(ended) = found.ended() {
            return Ok(ended?);
        }
        tokio::select! {
            change = changes.next() => if change.is_none() { return Ok(()) },
            () = tokio::time::sleep(TICK) => {}
        }
        tokio::time::sleep(TOGETHER).await;
        found = match find(&cluster, &asked).await {
            Err(SubmitError::Refused(_)) if matches!(asked, Asked::Run(_) | Asked::Backfill(_)) => {
                return Err(SubmitError::Deleted(arguments.name.unwrap_or_default()).into());
            }
            other => other?,
        };
        drawn = draw(&arguments, &found, Some(&drawn))?;
    }
}

/// A bare name is a run's, or else a pipeline's, or else a backfill's.
async fn asked(cluster: &Cluster, name: Option<&str>) -> Result<Asked, SubmitError> {
    let Some(name) = name else { return Ok(Asked::Overview) };
    match name.split_once('/') {
        Some(("run" | "runs" | "lhr" | "lakehouserun" | "lakehouseruns", name)) => Ok(Asked::Run(name.to_owned())),
        Some(("pipeline" | "pipelines" | "lhp" | "lakehousepipeline" | "lakehousepipelines", name)) => Ok(Asked::RunsOf(name.to_owned())),
        Some(("backfill" | "backfills" | "lhb" | "lakehousebackfill" | "lakehousebackfills", name)) => Ok(Asked::Backfill(name.to_owned())),
        Some((kind, _)) => {
            Err(SubmitError::Refused(format!("`{kind}` is no kind that is shown: expected run/NAME, pipeline/NAME or backfill/NAME")))
        }
        None => match name {
            "pipelines" | "lhp" => Ok(Asked::Pipelines),
            "runs" | "lhr" => Ok(Asked::Runs),
            "backfills" | "lhb" => Ok(Asked::Backfills),
            _ if cluster.find::<LakehouseRun>(name).await?.is_some() => Ok(Asked::Run(name.to_owned())),
            _ if cluster.find::<LakehousePipeline>(name).await?.is_some() => Ok(Asked::RunsOf(name.to_owned())),
            _ if backfills_or_none(cluster.find::<LakehouseBackfill>(name).await)?.is_some() => Ok(Asked::Backfill(name.to_owned())),
            _ => Err(SubmitError::Refused(format!(
                "{name}: there is no run, no pipeline and no backfill of this name in namespace {}",
                cluster.namespace
            ))),
        },
    }
}

/// Where backfills are shown beside others, whoever may not see them, or has CRDs without them, is shown the others.
fn backfills_or_none<T: Default>(found: Result<T, SubmitError>) -> Result<T, SubmitError> {
    match found {
        Err(SubmitError::Refused(_)) => Ok(T::default()),
        other => other,
    }
}

async fn find(cluster: &Cluster, asked: &Asked) -> Result<Shown, SubmitError> {
    let absent = |kind: &str, name: &str| {
        SubmitError::Refused(format!("{kind} {name}: there is none of this name in namespace {}", cluster.namespace))
    };
    Ok(match asked {
        Asked::Overview => {
            let mut all: Vec<LakehouseBackfill> = backfills_or_none(cluster.all().await)?;
            all.retain(backfills::is_at_work);
            Shown::Overview(cluster.all().await?, all)
        }
        Asked::Pipelines => Shown::Pipelines(cluster.all().await?),
        Asked::Runs => Shown::Runs(cluster.all().await?),
        Asked::Run(name) => Shown::Run(Box::new(cluster.run(name).await?)),
        Asked::RunsOf(pipeline) => {
            if cluster.find::<LakehousePipeline>(pipeline).await?.is_none() {
                return Err(absent("LakehousePipeline", pipeline));
            }
            let mut runs: Vec<LakehouseRun> = cluster.all().await?;
            runs.retain(|run| run.spec.pipeline == *pipeline);
            Shown::Runs(runs)
        }
        Asked::Backfills => Shown::Backfills(cluster.all().await?),
        Asked::Backfill(name) => {
            let Some(backfill) = cluster.find::<LakehouseBackfill>(name).await? else { return Err(absent("LakehouseBackfill", name)) };
            let runs = cluster.labelled(&format!("{BACKFILL_LABEL}={name}")).await?;
            Shown::Backfill(Box::new(backfill), backfills::runs_of(name, runs))
        }
    })
}

/// Something that is shown may have changed.
fn changes(cluster: &Cluster, asked: &Asked) -> impl Stream<Item = ()> + use<> {
    let every = watcher::Config::default;
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    // A pipeline's status follows its runs, and a backfill's too.
    let runs = match asked {
        Asked::Run(name) => Some(named(name)),
        Asked::Backfill(name) => Some(watcher::Config::default().labels(&format!("{BACKFILL_LABEL}={name}"))),
        Asked::Overview | Asked::Pipelines | Asked::Runs | Asked::RunsOf(_) => Some(every()),
        Asked::Backfills => None,
    };
    let of_backfills = match asked {
        Asked::Backfill(name) => Some(named(name)),
        Asked::Overview | Asked::Backfills => Some(every()),
        Asked::Pipelines | Asked::Runs | Asked::RunsOf(_) | Asked::Run(_) => None,
    };
    let runs =
        runs.map(|only| watcher(cluster.api::<LakehouseRun>(), only).default_backoff().filter_map(|event| ready(event.ok().map(drop))));
    let of_backfills =
        of_backfills.map(|only| watcher(cluster.backfills(), only).default_backoff().filter_map(|event| ready(event.ok().map(drop))));
    select(iter(runs).flatten(), iter(of_backfills).flatten())
}

/// Shows what was found, unless the same was `before`; answers what it is.
fn draw(arguments: &GetArguments, found: &Shown, before: Option<&Value>) -> Result<Value, CliError> {
    let now = Utc::now();
    let value = match found {
        Shown::Overview(pipelines, backfills) => list(objects(pipelines).chain(objects(backfills))),
        Shown::Pipelines(all) => list(objects(all)),
        Shown::Runs(all) => list(objects(all)),
        Shown::Run(run) => object(run.as_ref()),
        Shown::Backfills(all) => list(objects(all)),
        Shown::Backfill(backfill, runs) => list(once(object(backfill.as_ref())).chain(runs.iter().map(object))),
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
        Shown::Overview(pipelines, backfills) if backfills.is_empty() => tree::pipelines(pipelines, wide),
        Shown::Overview(pipelines, backfills) => format!("{}\n{}", tree::pipelines(pipelines, wide), backfills::table(backfills, wide)),
        Shown::Pipelines(all) => tree::pipelines(all, wide),
        Shown::Runs(all) => tree::runs(all, wide, now),
        Shown::Run(run) => tree::tree(run, wide, now),
        Shown::Backfills(all) => backfills::table(all, wide),
        Shown::Backfill(backfill, runs) => backfills::tree(backfill, runs, wide, now),
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

/// The same of several, by name.
fn objects<K: Resource<DynamicType = ()> + Serialize + Clone>(all: &[K]) -> impl Iterator<Item = Value> {
    let mut all: Vec<&K> = all.iter().collect();
    all.sort_by_key(|object| object.name_any());
    all.into_iter().map(object)
}

fn list(items: impl Iterator<Item = Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items.collect::<Vec<_>>()})
}
