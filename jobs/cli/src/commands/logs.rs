//! `lakehouse logs`: what the stages of a run said, all attempts in order: from their pods, and from the store where the pods are gone.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use kube::ResourceExt;
use lakehouse_api::common::HumanDuration;
use lakehouse_contract::{RunId, Stage};
use lakehouse_shell::open_storage;
use lakehouse_storage::CatalogDb;
use tokio::time::Instant;

use crate::{
    CliError,
    place::Local,
    runs::{RunRecord, Runs},
    submit::{
        SubmitError,
        archive::Archive,
        cluster::{Cluster, ClusterArguments},
        logs::{Logs, Reading},
        outcome::{Outcome, end},
        tell::{Format, Teller},
        wait::{Limit, wait},
    },
};

/// Options of `logs`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 everything was read (with --follow: the run succeeded), 1 something could not be read, or the run failed or was \
    cancelled, 2 refused, 3 the cluster does not answer, 4 not finished within --timeout."
)]
pub struct LogsArguments {
    /// The run. With --local it may be left out: the newest.
    #[arg(required_unless_present = "local")]
    run: Option<String>,
    /// Go on until the run has ended, with its coming stages and attempts.
    #[arg(short, long, conflicts_with = "local")]
    follow: bool,
    /// Only this stage; may be given several times, or as a list with commas.
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    stage: Vec<Stage>,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Longest time to follow.
    #[arg(long, value_name = "DURATION", default_value = "24h", requires = "follow")]
    timeout: HumanDuration,
    /// URL of the store's endpoint as it is reached from here, for logs whose pods are gone; default: that of the Lakehouse. Keys come from
    /// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    #[arg(long, value_name = "URL", env = "LAKEHOUSE_STORE_ENDPOINT")]
    store_endpoint: Option<String>,
    /// A run of this machine, in this folder; without DIR: `.lakehouse`.
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = ".lakehouse", conflicts_with_all = ["namespace", "context", "kubeconfig"])]
    local: Option<PathBuf>,
    /// Lines with their stage before them, or one JSON object per line with run, stage, attempt and line.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Prints logs to standard output.
///
/// # Errors
/// [`SubmitError`], by way of [`CliError::Submit`]; [`CliError::Invalid`] for a run that is not on this machine.
pub async fn run(arguments: LogsArguments) -> Result<(), CliError> {
    match &arguments.local {
        Some(folder) => of_machine(&arguments, &Local::open(Some(folder))?).await,
        None => Ok(of_cluster(&arguments).await?),
    }
}

async fn of_cluster(arguments: &LogsArguments) -> Result<(), SubmitError> {
    let cluster = Cluster::connect(&arguments.cluster).await?;
    let run = cluster.run(arguments.run.as_deref().unwrap_or_default()).await?;
    let id = RunId::new(&run.name_any(), &run.uid().unwrap_or_default());
    // Who may see runs may not see Lakehouses, perhaps: then there are the pods all the same.
    let lakehouse = cluster.lakehouse_of(&run.spec.pipeline).await.ok().flatten();
    let endpoint = arguments.store_endpoint.clone();
    let archive = Archive::of_cluster(&run.spec.pipeline, id, lakehouse.as_ref().map(|found| &found.spec), endpoint);
    let teller = Arc::new(Teller::of_logs(arguments.output, &run.name_any()));
    let live = arguments.follow && end(&run).is_none();
    let reading = Reading { only: arguments.stage.clone(), live, archive };
    let mut logs = Logs::all(cluster.pods(), Arc::clone(&teller), reading);
    let ended = if live {
        let limit = Limit { given: arguments.timeout, deadline: Instant::now() + arguments.timeout.0 };
        wait(&cluster, &run, &mut logs, limit, &teller).await?
    } else {
        logs.follow(&run.status.clone().unwrap_or_default()).await;
        run
    };
    if arguments.follow
        && let Some(line) = Outcome::of(&ended).and_then(|outcome| outcome.failure())
    {
        return Err(SubmitError::Failed(line));
    }
    match logs.unread() {
        0 => Ok(()),
        1 => Err(SubmitError::Failed(format!("run {}: the log of 1 attempt could not be read", ended.name_any()))),
        some => Err(SubmitError::Failed(format!("run {}: the logs of {some} attempts could not be read", ended.name_any()))),
    }
}

async fn of_machine(arguments: &LogsArguments, local: &Local) -> Result<(), CliError> {
    let runs = Runs::open(CatalogDb::connect(&local.catalog_uri()).await?).await?;
    let asked = arguments.run.as_deref();
    let found = runs.list(asked).await?.into_iter().next().ok_or_else(|| match asked {
        Some(name) => CliError::Invalid(format!("there is no run `{name}`: `lakehouse status` lists them")),
        None => CliError::Invalid("there is no run yet".to_owned()),
    })?;
    let teller = Teller::of_logs(arguments.output, &found.id().0);
    let archive = Archive::new(found.pipeline.clone(), found.id(), open_storage(&local.location(None))?);
    let mut unread = 0;
    for (stage, attempt) in attempts(&found).filter(|(stage, _)| arguments.stage.is_empty() || arguments.stage.contains(stage)) {
        let number = i32::try_from(attempt).unwrap_or(i32::MAX);
        match archive.read(stage, attempt).await {
            Ok(text) => text.lines().for_each(|line| teller.log(stage, number, line)),
            Err(why) => {
                unread += 1;
                teller.note(&format!("the log of {stage}, attempt {attempt}, cannot be read: {why}"));
            }
        }
    }
    if unread > 0 {
        return Err(SubmitError::Failed(format!("run {}: {unread} logs could not be read", found.id())).into());
    }
    Ok(())
}

fn attempts(run: &RunRecord) -> impl Iterator<Item = (Stage, u32)> + '_ {
    run.stages.iter().flat_map(|record| (1..=record.attempt).map(|attempt| (record.stage, attempt)))
}
