//! `lakehouse submit`: a run on a cluster, made once or adopted, and waited for.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum};
use kube::ResourceExt;
use lakehouse_api::{LakehousePipeline, LakehouseRun, common::HumanDuration};
use lakehouse_contract::{Interval, Refresh, ResolveError, Stage};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    CliError, print,
    submit::{
        SubmitError,
        cluster::{Cluster, ClusterArguments},
        decide::{Decision, decide},
        logs::Logs,
        naming::{SUBMISSION, Submission, in_order},
        outcome::{Outcome, span},
        signals::{Cause, Signals},
        tell::{Format, How, Teller},
        wait::{Limit, wait},
    },
    table::draw,
};

/// How often others may make the run before us.
const RACES: usize = 5;
/// Pause before the runs are looked at again after such a race.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a signal waits for a request under way, and for the cancelling: a pod has 30 s in all.
const GRACE: Duration = Duration::from_secs(10);

/// Options of `submit`.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 the run succeeded, 1 it failed or was cancelled, 2 options, definition or rights are refused, \
    3 the cluster does not answer, 4 not finished within --timeout, 130 and 143 stopped by SIGINT and SIGTERM.")]
pub struct SubmitArguments {
    /// Name of the LakehousePipeline.
    #[arg(value_parser = name)]
    pipeline: String,
    /// The interval: 2024-01-01, 2024-01-01T05 (hourly), 2024-01 (monthly), or the time at which it begins.
    #[arg(long, value_name = "START")]
    interval: String,
    /// Only this stage (ingest, silver, gold or maintenance); may be given several times, or as a list with commas. Default: all but
    /// maintenance.
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    stage: Vec<Stage>,
    /// Value of a parameter that the pipeline declares; may be given several times.
    #[arg(long, alias = "param", value_name = "NAME=VALUE", value_parser = super::run::pair)]
    parameter: Vec<(String, String)>,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Idempotency key: what succeeded with it is not executed again. Empty: none.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    key: String,
    /// Runs of another scope are others' runs and not adopted. Empty: none.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    scope: String,
    /// The run whose bronze objects are the input of silver. Empty: the newest of the interval.
    #[arg(long, value_name = "RUN", default_value = "", hide_default_value = true)]
    inputs_from: String,
    /// Which intervals gold computes beside this one: those whose inputs have changed since they were computed, or all that the tables have.
    #[arg(long, value_enum, value_name = "WHICH")]
    refresh: Option<RefreshArgument>,
    /// Wait for the end of the run, show its progress and its logs (the default).
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Only make or adopt the run.
    #[arg(long, overrides_with = "wait")]
    no_wait: bool,
    /// Longest wait.
    #[arg(long, value_name = "DURATION", default_value = "2h")]
    timeout: HumanDuration,
    /// What becomes of the run when this process is told to end (SIGTERM, Ctrl-C).
    #[arg(long, value_enum, default_value_t = OnTerminate::Leave)]
    on_terminate: OnTerminate,
    /// Write the outcome, as JSON, into this file.
    #[arg(long, value_name = "FILE", conflicts_with = "no_wait")]
    outcome_file: Option<PathBuf>,
    /// Text or JSON; default: text on a terminal, JSON lines otherwise. Progress goes to standard error, the outcome to standard output.
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

/// What becomes of the run when the one who waits is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnTerminate {
    /// It is cancelled.
    Cancel,
    /// It goes on; the same command adopts it.
    Leave,
}

/// See [`Refresh`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RefreshArgument {
    /// Those whose inputs have changed since.
    Stale,
    /// All.
    Full,
}

impl From<RefreshArgument> for Refresh {
    fn from(argument: RefreshArgument) -> Self {
        match argument {
            RefreshArgument::Stale => Self::Stale,
            RefreshArgument::Full => Self::Full,
        }
    }
}

/// A run that is ours.
struct Submitted {
    cluster: Cluster,
    run: LakehouseRun,
    how: How,
}

/// A name as Kubernetes takes it; anything else would be asked for in vain.
pub(super) fn name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = text.starts_with(plain) && text.ends_with(plain) && text.chars().all(|c| plain(c) || c == '-' || c == '.');
    if fits { Ok(text.to_owned()) } else { Err("a name has lower-case letters, digits, - and . only".to_owned()) }
}

/// Makes or adopts the run, and waits for its end.
///
/// # Errors
/// [`SubmitError`], by way of [`CliError::Submit`].
pub async fn run(arguments: SubmitArguments) -> Result<(), CliError> {
    let limit = Limit { given: arguments.timeout, deadline: Instant::now() + arguments.timeout.0 };
    if let Some(path) = &arguments.outcome_file {
        check_folder(path)?;
    }
    let mut signals = Signals::listen()?;
    let submitted = {
        let mut work = pin!(submit(&arguments));
        tokio::select! {
            submitted = &mut work => submitted?,
            // The request under way may be the one that makes the run: its answer says what there is to cancel.
            cause = signals.next() => return Err(match timeout(GRACE, work).await {
                Ok(Ok(submitted)) => stopped(&arguments, &submitted, cause).await,
                Ok(Err(error)) => error,
                Err(_) => SubmitError::Stopped { cause, fate: "no run was made, as far as the API server has answered".to_owned() },
            }
            .into()),
        }
    };
    let format = Format::or_suitable(arguments.output);
    let name = submitted.run.name_any();
    let teller = Arc::new(Teller::new(format, &name));
    teller.submitted(&submitted.run, submitted.how);
    if arguments.no_wait && !arguments.wait {
        return print(&reference(format, &submitted));
    }
    let ended = if submitted.how == How::Finished {
        submitted.run.clone()
    } else {
        let mut logs = Logs::new(submitted.cluster.pods(), Arc::clone(&teller), submitted.how == How::Created);
        tokio::select! {
            ended = wait(&submitted.cluster, &submitted.run, &mut logs, limit, &teller) => ended?,
            cause = signals.next() => return Err(stopped(&arguments, &submitted, cause).await.into()),
        }
    };
    let Some(outcome) = Outcome::of(&ended) else { return Err(SubmitError::Deleted(name).into()) };
    let written = arguments.outcome_file.as_deref().map_or(Ok(()), |path| write(path, &outcome));
    print(&shown(format, &outcome))?;
    match outcome.failure() {
        Some(line) => Err(SubmitError::Failed(line).into()),
        None => Ok(written?),
    }
}

/// Finds or makes the run.
async fn submit(arguments: &SubmitArguments) -> Result<Submitted, SubmitError> {
    let cluster = Cluster::connect(&arguments.cluster).await?;
    let pipeline = cluster.pipeline(&arguments.pipeline).await?;
    let asked = submission(arguments, &pipeline)?;
    let selector = format!("{SUBMISSION}={}", asked.digest());
    let mut name = String::new();
    for _ in 0..RACES {
        let runs = cluster.labelled(&selector).await?;
        match decide(&runs, &asked) {
            Decision::Create { ordinal, retry_of } => {
                let wanted = asked.run(ordinal, retry_of);
                if let Some(run) = cluster.create(&wanted).await? {
                    return Ok(Submitted { cluster, run, how: How::Created });
                }
                name = wanted.name_any();
                sleep(PAUSE).await;
            }
            Decision::Adopt(run) => return Ok(Submitted { run: run.clone(), cluster, how: How::Adopted }),
            Decision::Finished(run) => return Ok(Submitted { run: run.clone(), cluster, how: How::Finished }),
            Decision::Conflict(conflict) => return Err(conflict.into()),
        }
    }
    let namespace = &cluster.namespace;
    Err(SubmitError::Refused(format!(
        "LakehouseRun {name}: one of this name is in namespace {namespace} without the label {selector}: delete it or give a --scope"
    )))
}

/// What is asked for of this pipeline.
fn submission(arguments: &SubmitArguments, pipeline: &LakehousePipeline) -> Result<Submission, SubmitError> {
    let refused = |message: String| SubmitError::Refused(format!("LakehousePipeline {}: {message}", arguments.pipeline));
    let grain = pipeline.spec.interval;
    let interval = Interval::parse(grain, &arguments.interval).map_err(|error| refused(format!("--interval: {error}")))?;
    if let Some((name, _)) = arguments.parameter.iter().find(|(name, _)| !pipeline.spec.parameters.contains_key(name)) {
        return Err(refused(ResolveError::UnknownParameter(name.clone()).to_string()));
    }
    let absent = |stage: &&Stage| match stage {
        Stage::Ingest => false,
        Stage::Silver => pipeline.spec.silver.is_empty(),
        Stage::Gold => pipeline.spec.gold.is_empty(),
        Stage::Maintenance => pipeline.spec.maintenance.is_none(),
    };
    if let Some(stage) = arguments.stage.iter().find(absent) {
        return Err(refused(ResolveError::NoSuchStage(*stage).to_string()));
    }
    let stages = in_order(&arguments.stage);
    if arguments.refresh.is_some() && (!stages.contains(&Stage::Gold) || pipeline.spec.gold.is_empty()) {
        return Err(refused("--refresh: it is the gold stage that refreshes, and the run would not have it".to_owned()));
    }
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    Ok(Submission {
        pipeline: arguments.pipeline.clone(),
        grain,
        interval,
        stages,
        scope: given(&arguments.scope),
        key: given(&arguments.key),
        parameters: arguments.parameter.iter().cloned().collect::<BTreeMap<_, _>>(),
        inputs_from: given(&arguments.inputs_from),
        refresh: arguments.refresh.map(Into::into),
    })
}

/// What is done, and said, when a signal ends the wait.
async fn stopped(arguments: &SubmitArguments, submitted: &Submitted, cause: Cause) -> SubmitError {
    let name = submitted.run.name_any();
    let fate = match arguments.on_terminate {
        _ if submitted.how == How::Finished => format!("run {name} had ended"),
        OnTerminate::Leave => format!("run {name} goes on, the same command adopts it"),
        OnTerminate::Cancel => match timeout(GRACE, submitted.cluster.cancel(&submitted.run)).await {
            Ok(Ok(())) => format!("run {name} is cancelled"),
            Ok(Err(error)) => format!("run {name} goes on: {error}"),
            Err(_) => format!("run {name} goes on: the API server did not answer within {} s", GRACE.as_secs()),
        },
    };
    SubmitError::Stopped { cause, fate }
}

/// Refuses, before anything is made, a file that could not be written in the end.
fn check_folder(path: &Path) -> Result<(), SubmitError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() && !path.is_dir() {
        return Ok(());
    }
    let problem =
        if path.is_dir() { format!("{} is a folder", path.display()) } else { format!("there is no folder {}", folder.display()) };
    Err(SubmitError::Refused(format!("--outcome-file {}: {problem}", path.display())))
}

pub(super) fn json_line(value: &impl serde::Serialize) -> String {
    // Names, numbers and times: there is nothing that JSON cannot say.
    format!("{}\n", serde_json::to_string(value).unwrap_or_default())
}

fn write(path: &Path, outcome: &Outcome) -> Result<(), SubmitError> {
    std::fs::write(path, json_line(outcome)).map_err(|source| SubmitError::OutcomeFile { path: path.to_owned(), source })
}

/// The run, for whoever does not wait.
fn reference(format: Format, submitted: &Submitted) -> String {
    let run = &submitted.run;
    match format {
        Format::Text => format!("lakehouserun.lakehouse.rs/{} {}\n", run.name_any(), submitted.how.as_str()),
        Format::Json => json_line(&json!({
            "run": run.name_any(), "pipeline": run.spec.pipeline, "interval": span(&run.spec.interval), "how": submitted.how.as_str(),
        })),
    }
}

/// The outcome on standard output.
fn shown(format: Format, outcome: &Outcome) -> String {
    if format == Format::Json {
        return json_line(outcome);
    }
    let stages: Vec<Vec<String>> = outcome
        .stages
        .iter()
        .map(|stage| {
            let counts = [stage.rows_read, stage.rows_written, stage.rows_quarantined, stage.rows_deduplicated, stage.rows_dropped];
            let mut row = vec![stage.name.to_string(), format!("{:?}", stage.state), stage.attempt.to_string()];
            row.extend(counts.map(|count| count.to_string()));
            row
        })
        .collect();
    let header = ["stage", "state", "attempt", "read", "written", "quarantined", "deduplicated", "dropped"];
    let mut text = format!("run {}: {}\n{}", outcome.run, outcome.message, draw(&header, &stages));
    if !outcome.tables.is_empty() {
        let row = |table: &lakehouse_api::run::TableStatus| {
            vec![table.name.clone(), table.rows_written.to_string(), table.snapshot.clone().unwrap_or_default()]
        };
        let tables: Vec<Vec<String>> = outcome.tables.iter().map(row).collect();
        text.push_str(&draw(&["table", "written", "snapshot"], &tables));
    }
    text
}
