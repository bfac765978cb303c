//! `lakehouse backfill`: a range of intervals on a cluster, as a LakehouseBackfill; or, with `--dry-run`, the list of what it would run.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    pin::pin,
};

use clap::{Args, ValueEnum};
use futures::StreamExt;
use kube::{
    ResourceExt,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use lakehouse_api::{
    LakehouseBackfill, LakehouseBackfillSpec, LakehouseBackfillStatus, LakehousePipeline,
    backfill::{Order, Rerun},
    common::HumanDuration,
    manifest::{Object, documents},
    run::{RunInterval, RunState},
    validate::validate,
};
use lakehouse_contract::{
    Interval, Stage,
    backfill::Layout,
    history::History,
    interval::rfc3339,
    names::{LONGEST, cut},
};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::submit::{RefreshArgument, json_line, name};
use crate::{
    CliError, print,
    submit::{
        SubmitError,
        backfills::{ended, phase},
        cluster::{Cluster, ClusterArguments},
        outcome::one_line,
        signals::Signals,
        tell::Format,
    },
};

/// Options of `backfill`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 made, or with --wait succeeded; 1 it failed or was cancelled, 2 options, definition or rights are refused, \
    3 the cluster does not answer, 4 not finished within --timeout, 130 and 143 stopped by SIGINT and SIGTERM (the backfill goes on)."
)]
pub struct BackfillArguments {
    /// A file with one LakehouseBackfill, instead of the options below.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["pipeline", "from", "to", "name", "max_parallel", "order", "rerun", "max_failed", "stage", "parameter", "refresh"])]
    file: Option<PathBuf>,
    /// Name of the LakehousePipeline.
    #[arg(long, value_parser = name, required_unless_present = "file")]
    pipeline: Option<String>,
    /// First interval: 2024-01-01, 2024-01-01T05 (hourly), 2024-01 (monthly), or the time at which it begins.
    #[arg(long, value_name = "START", required_unless_present = "file")]
    from: Option<String>,
    /// Last interval, which is run too.
    #[arg(long, value_name = "START", required_unless_present = "file")]
    to: Option<String>,
    /// Name of the backfill; default: pipeline, first and last interval. The same name with the same options finds the one that is there.
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// For how many intervals runs may be at work at the same time.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(i32).range(1..=1000))]
    max_parallel: i32,
    /// Which interval goes first.
    #[arg(long, value_enum, default_value_t = OrderArgument::Forward)]
    order: OrderArgument,
    /// What happens to intervals that have run already.
    #[arg(long, value_enum, default_value_t = RerunArgument::Skip)]
    rerun: RerunArgument,
    /// How many intervals may fail; when more have, no further run is made. Default: 3.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=10_000))]
    max_failed: Option<i32>,
    /// Only this stage (ingest, silver or gold); may be given several times, or as a list with commas. Default: all, but without ingest where a source
    /// can no longer be asked.
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    stage: Vec<Stage>,
    /// Value of a parameter that the pipeline declares; may be given several times.
    #[arg(long, alias = "param", value_name = "NAME=VALUE", value_parser = super::run::pair)]
    parameter: Vec<(String, String)>,
    /// What gold computes in one more run at the end.
    #[arg(long, value_enum, value_name = "WHICH")]
    refresh: Option<RefreshArgument>,
    /// Say which intervals would be run, in their order, and make nothing.
    #[arg(long)]
    dry_run: bool,
    /// Wait for the end; the exit status is that of the backfill.
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Longest wait.
    #[arg(long, value_name = "DURATION", default_value = "24h", requires = "wait")]
    timeout: HumanDuration,
    /// Text or JSON; default: text on a terminal, JSON lines otherwise. Progress goes to standard error, the answer to standard output.
    #[arg(short, long, value_enum)]
    output: Option<Format>,
    #[command(flatten)]
    cluster: ClusterArguments,
}

/// See [`Order`].
#[derive(Clone, Copy, Debug, ValueEnum)]
enum OrderArgument {
    /// The oldest.
    Forward,
    /// The newest.
    Backward,
}

/// See [`Rerun`].
#[derive(Clone, Copy, Debug, ValueEnum)]
enum RerunArgument {
    /// They are left alone, also where the run failed.
    Skip,
    /// They are run again unless a run succeeded.
    Failed,
    /// They are run again.
    All,
}

/// Makes the backfill, or says what it would run.
///
/// # Errors
/// [`CliError::Submit`], with its own exit codes.
pub async fn run(arguments: BackfillArguments) -> Result<(), CliError> {
    let format = Format::or_suitable(arguments.output);
    let from_file = arguments.file.as_ref().map(|file| read(file)).transpose()?;
    let cluster = Cluster::connect(&arguments.cluster).await?;
    let wanted = match (&from_file, &arguments.pipeline) {
        (Some(backfill), _) => &backfill.spec.pipeline,
        (None, Some(pipeline)) => pipeline,
        (None, None) => return Err(SubmitError::Refused("--pipeline or --file is needed".to_owned()).into()),
    };
    let pipeline = cluster.pipeline(wanted).await?;
    let mut backfill = match from_file {
        Some(backfill) => backfill,
        None => asked(&arguments, &pipeline)?,
    };
    let name = backfill.name_any();
    let refused = |error: String| SubmitError::Refused(format!("LakehouseBackfill {name}: {error}"));
    let layout = Layout::new(&backfill.spec, &pipeline.spec).map_err(|error| refused(error.to_string()))?;
    if arguments.dry_run {
        return dry_run(&cluster, &pipeline, &backfill, &layout, format).await;
    }
    if let Some(namespace) = &backfill.metadata.namespace
        && *namespace != cluster.namespace
    {
        return Err(refused(format!("metadata.namespace is {namespace}, and it is made in {}: give --namespace", cluster.namespace)).into());
    }
    backfill.metadata.namespace = None;
    let mut signals = Signals::listen()?;
    let (there, made) = cluster.create_backfill(&backfill).await?;
    let same = LakehouseBackfillSpec { state: backfill.spec.state, max_parallel: backfill.spec.max_parallel, ..there.spec.clone() };
    if same != backfill.spec {
        return Err(refused("there is one of this name that was asked for otherwise: give another --name".to_owned()).into());
    }
    let how = if made { "created" } else { "found" };
    if !arguments.wait {
        return print(&match format {
            Format::Text => format!("lakehousebackfill.lakehouse.rs/{name} {how}\n"),
            Format::Json => json_line(&json!({"backfill": name, "pipeline": pipeline.name_any(), "how": how})),
        });
    }
    tell(format, &json!({"event": "submitted", "backfill": name, "how": how}), &format!("backfill {name}: {how}"));
    let status = tokio::select! {
        status = wait(&cluster, &there, arguments.timeout, format) => status?,
        cause = signals.next() => {
            let fate = format!("backfill {name} goes on; lakehouse suspend backfill/{name} pauses it");
            return Err(SubmitError::Stopped { cause, fate }.into());
        }
    };
    let (outcome, reason, message) = phase(&status);
    match format {
        Format::Text => print(&format!("backfill {name}: {reason}: {message}\n"))?,
        Format::Json => print(&json_line(&json!({
            "backfill": name, "outcome": if outcome == "True" { "Succeeded" } else { "Failed" }, "reason": reason, "message": message,
            "planned": status.planned, "skipped": status.skipped, "succeeded": status.succeeded, "failed": status.failed,
            "remaining": status.remaining, "failedRuns": status.failed_runs,
        })))?,
    }
    Ok(ended(&name, &status).unwrap_or(Ok(()))?)
}

/// The one backfill of a file.
fn read(file: &Path) -> Result<LakehouseBackfill, CliError> {
    let text = std::fs::read_to_string(file).map_err(|source| CliError::File { path: file.to_owned(), source })?;
    let refused = |message: String| SubmitError::Refused(format!("{}: {message}", file.display()));
    let mut found = Vec::new();
    for document in documents(&text).map_err(|error| refused(one_line(&error.to_string())))? {
        let faults = validate(&document.value);
        if !faults.is_empty() {
            let faults: Vec<String> = faults.iter().map(|fault| format!("{} {}: {fault}", document.kind(), document.name())).collect();
            return Err(refused(faults.join("; ")).into());
        }
        match document.object().map_err(|error| refused(one_line(&error.to_string())))? {
            Object::Backfill(backfill) => found.push(*backfill),
            _ => continue,
        }
    }
    match (found.pop(), found.is_empty()) {
        (Some(backfill), true) => Ok(backfill),
        (Some(_), false) => Err(refused("it has more than one LakehouseBackfill: kubectl apply takes them all".to_owned()).into()),
        (None, _) => Err(refused("it has no LakehouseBackfill".to_owned()).into()),
    }
}

/// The backfill that the options mean.
fn asked(arguments: &BackfillArguments, pipeline: &LakehousePipeline) -> Result<LakehouseBackfill, SubmitError> {
    let grain = pipeline.spec.interval;
    let interval = |option: &str, text: &Option<String>| {
        let parsed = Interval::parse(grain, text.as_deref().unwrap_or_default());
        parsed.map_err(|error| SubmitError::Refused(format!("LakehousePipeline {}: --{option}: {error}", pipeline.name_any())))
    };
    let (first, last) = (interval("from", &arguments.from)?, interval("to", &arguments.to)?);
    if last.start < first.start {
        return Err(SubmitError::Refused("--to: it lies before --from".to_owned()));
    }
    let suffix = format!("-{}-{}", first.label(grain).to_lowercase(), last.label(grain).to_lowercase());
    let name = pipeline.name_any();
    let name = arguments.name.clone().unwrap_or_else(|| format!("{}{suffix}", cut(&name, LONGEST - suffix.len())));
    let spec = LakehouseBackfillSpec {
        pipeline: pipeline.name_any(),
        range: RunInterval { start: first.start, end: last.end },
        max_parallel: arguments.max_parallel,
        order: match arguments.order {
            OrderArgument::Forward => Order::Forward,
            OrderArgument::Backward => Order::Backward,
        },
        rerun: match arguments.rerun {
            RerunArgument::Skip => Rerun::Skip,
            RerunArgument::Failed => Rerun::Failed,
            RerunArgument::All => Rerun::All,
        },
        max_failed: arguments.max_failed,
        stages: (!arguments.stage.is_empty()).then(|| arguments.stage.clone()),
        parameters: arguments.parameter.iter().cloned().collect::<BTreeMap<_, _>>(),
        refresh: arguments.refresh.map(Into::into),
        dry_run: false,
        state: RunState::Active,
    };
    let backfill = LakehouseBackfill::new(&name, spec);
    let faults = validate(&serde_json::to_value(&backfill).unwrap_or_default());
    match faults.first() {
        None => Ok(backfill),
        Some(fault) => Err(SubmitError::Refused(format!("LakehouseBackfill {name}: {fault}"))),
    }
}

/// What would be run now, of what has run and is running.
async fn dry_run(
    cluster: &Cluster,
    pipeline: &LakehousePipeline,
    backfill: &LakehouseBackfill,
    layout: &Layout,
    format: Format,
) -> Result<(), CliError> {
    let runs = cluster.labelled("").await?;
    let completed = pipeline.status.as_ref().map(|status| status.completed_intervals.clone()).unwrap_or_default();
    let of_pipeline = runs.iter().filter(|run| run.spec.pipeline == backfill.spec.pipeline);
    let history = History::new(&pipeline.spec, &completed, of_pipeline);
    let planned: Vec<&Interval> =
        layout.intervals.iter().filter(|interval| !history.skips(backfill.spec.rerun, interval, &layout.stages)).collect();
    let skipped = layout.intervals.len() - planned.len();
    print(&match format {
        Format::Text => {
            let mut text: String = planned.iter().map(|interval| format!("{}\n", interval.label(layout.grain))).collect();
            text.push_str(&format!("{} of {} intervals would be run, {skipped} are left alone\n", planned.len(), layout.intervals.len()));
            text
        }
        Format::Json => json_line(&json!({
            "pipeline": backfill.spec.pipeline, "planned": planned.len(), "skipped": skipped, "stages": layout.stages,
            "intervals": planned.iter().map(|interval| rfc3339(interval.start)).collect::<Vec<_>>(),
        })),
    })
}

/// Watches it to its end, and says what is new.
async fn wait(
    cluster: &Cluster,
    backfill: &LakehouseBackfill,
    limit: HumanDuration,
    format: Format,
) -> Result<LakehouseBackfillStatus, SubmitError> {
    let name = backfill.name_any();
    let deadline = Instant::now() + limit.0;
    let mut watch = pin!(watch_object(cluster.backfills(), &name).default_backoff());
    let mut last = String::new();
    let mut trouble = String::new();
    loop {
        let seen = tokio::select! {
            seen = watch.next() => seen,
            () = sleep_until(deadline) => {
                let message = format!("backfill {name}: not finished within {limit} (--timeout), it goes on; last seen: {last}{trouble}");
                return Err(SubmitError::Unfinished(one_line(&message)));
            }
        };
        match seen {
            Some(Ok(Some(now))) if now.metadata.uid == backfill.metadata.uid => {
                trouble.clear();
                let status = now.status.unwrap_or_default();
                let (outcome, reason, message) = phase(&status);
                if outcome != "Unknown" {
                    return Ok(status);
                }
                let estimate = status.estimated_completion.map(|time| format!("; done at about {}", rfc3339(time))).unwrap_or_default();
                let line = format!("{reason}: {message}{estimate}");
                if line != last {
                    let event = json!({"event": "status", "backfill": name, "reason": reason, "message": message, "active": status.active,
                        "succeeded": status.succeeded, "failed": status.failed, "remaining": status.remaining,
                        "estimatedCompletion": status.estimated_completion.map(rfc3339)});
                    tell(format, &event, &format!("backfill {name}: {line}"));
                    last = line;
                }
            }
            // The watch is taken up again.
            Some(Err(error)) => trouble = format!(" (the API server does not answer as it should: {})", one_line(&error.to_string())),
            Some(Ok(_)) | None => return Err(SubmitError::Failed(format!("backfill {name}: it was deleted before it had ended"))),
        }
    }
}

fn tell(format: Format, event: &serde_json::Value, text: &str) {
    let line = match format {
        Format::Text => text.to_owned(),
        Format::Json => event.to_string(),
    };
    // Nobody is left to read what cannot be written.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
