//! `lakehouse`: the same pipelines as on a cluster, on this machine; and the client of a cluster, also as `kubectl lakehouse`.
//!
//! Each command is a module of [`commands`]. Behind them: [`manifests`] reads files, [`check`] finds every fault of a definition, [`runs`] keeps
//! runs in the catalog database, [`execute`] carries one run through its stages and goes on where an interrupted one stopped; [`submit`] is
//! behind the commands that talk to a cluster: `submit`, `backfill`, `get`, `logs`, `events`, `retry`, `suspend`, `resume` and `cancel`.

pub mod check;
pub mod commands;
pub mod datadocs;
pub mod erase;
mod error;
pub mod execute;
pub mod manifests;
pub mod place;
pub mod progress;
pub mod runs;
pub mod secrets;
pub mod stale;
pub mod submit;
pub mod table;

pub use error::CliError;

use std::{
    io::{IsTerminal, Write},
    pin::Pin,
};

use clap::{CommandFactory, Parser, Subcommand};
use commands::state::Wanted;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Lakehouse pipelines on this machine and on a cluster.
#[derive(Debug, Parser)]
#[command(name = "lakehouse", version, about, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a pipeline for one interval or a range of them.
    Run(commands::run::RunArguments),
    /// Have a cluster run a pipeline for one interval, and wait for it.
    ///
    /// The run is found again by what it was asked for: pipeline, interval, stages and scope. One that is not finished is adopted; one that
    /// succeeded with the same key is the answer, and nothing is executed; otherwise the next one is made. So the same command goes on where a
    /// killed one stopped.
    Submit(commands::submit::SubmitArguments),
    /// Have a cluster run a pipeline for a range of intervals; or, with `--dry-run`, say which.
    Backfill(commands::backfill::BackfillArguments),
    /// What a cluster has and does: pipelines, runs, and of one run its stages and tables.
    Get(commands::get::GetArguments),
    /// What the stages of a run said, on a cluster or on this machine.
    Logs(commands::logs::LogsArguments),
    /// What happened to pipelines, runs and Lakehouses of a cluster.
    Events(commands::events::EventsArguments),
    /// Make a new run for one on a cluster that failed, from the failed stage on. With the pipeline's present definition.
    Retry(commands::retry::RetryArguments),
    /// On a cluster: a pipeline's schedule, a backfill or a run makes nothing further until `resume`. What is at work ends.
    Suspend(commands::state::StateArguments),
    /// On a cluster: go on with what was suspended.
    Resume(commands::state::StateArguments),
    /// On a cluster: stop it at once, for ever. What was committed stays.
    Cancel(commands::state::StateArguments),
    /// Query the tables with SQL, read-only.
    Sql(commands::sql::SqlArguments),
    /// Put files of this machine where `files` sources find them.
    Upload(commands::upload::UploadArguments),
    /// Check manifests: the rules a cluster applies, and the SQL in them.
    Validate(commands::validate::ValidateArguments),
    /// What a run would make of the tables: a comparison of definitions and tables. Writes nothing.
    #[command(visible_alias = "diff")]
    Plan(commands::plan::PlanArguments),
    /// Remove all rows of a key: from bronze, silver, quarantine and gold, older states of the tables included. No run may be at work.
    Erase(commands::erase::EraseArguments),
    /// Run the unit tests of gold models that manifests hold.
    Test(commands::test::TestArguments),
    /// Quarantined records.
    #[command(subcommand)]
    Quarantine(commands::quarantine::QuarantineCommand),
    /// Rules as other programs have them.
    #[command(subcommand)]
    Export(commands::export::ExportCommand),
    /// A page about the quality of the data: rules, how often they held, and records that did not fit.
    Docs(commands::docs::DocsArguments),
    /// Put tables into a catalog that was lost, or restored from a backup, by their files.
    Register(commands::register::RegisterArguments),
    /// The runs on this machine, newest first.
    Status(commands::status::StatusArguments),
    /// The stage reports of a run as JSON.
    Report(commands::report::ReportArguments),
    /// Whether the store and the catalog answer.
    Doctor(commands::doctor::DoctorArguments),
    /// Buckets of an S3 store.
    #[command(subcommand)]
    Buckets(commands::buckets::BucketsCommand),
    /// A script with which a shell completes this command.
    Completions(commands::completions::CompletionsArguments),
}

/// What is logged unless RUST_LOG says otherwise. What the libraries of Kubernetes warn of is said by `submit` in its own words.
const LOGGED: &str = "warn,lakehouse_shell=off,lakehouse_ingest=error,kube_client=off,kube_runtime=off";

/// What is kept of a stage's log, beside its report: what a pod would say.
const KEPT: &str = "info,sqlx=warn,kube_client=off,kube_runtime=off";

/// Parses the command line, runs the command and answers the exit code of the contract: 0 done, 10 try again, 20 a fault of definition, data
/// or credential, 1 anything else; `submit` has its own, see [`submit::SubmitError`]. A failure is one line on standard error.
pub fn main() -> Pin<Box<dyn Future<Output = std::process::ExitCode>>> {
    Box::pin(command())
}

async fn command() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    let shown = if std::io::stderr().is_terminal() {
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).boxed()
    } else {
        tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed()
    };
    let kept = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(lakehouse_shell::JournalWriter::new(false));
    let logs = tracing_subscriber::registry().with(shown.with_filter(filter)).with(kept.with_filter(EnvFilter::new(KEPT)));
    // A second call keeps the first subscriber.
    let _ = logs.try_init();
    lakehouse_storage::init_tls();
    let outcome = match arguments.command {
        Command::Run(arguments) => Box::pin(commands::run::run(arguments)).await,
        Command::Submit(arguments) => Box::pin(commands::submit::run(arguments)).await,
        Command::Backfill(arguments) => Box::pin(commands::backfill::run(arguments)).await,
        Command::Get(arguments) => Box::pin(commands::get::run(arguments)).await,
        Command::Logs(arguments) => Box::pin(commands::logs::run(arguments)).await,
        Command::Events(arguments) => Box::pin(commands::events::run(arguments)).await,
        Command::Retry(arguments) => Box::pin(commands::retry::run(arguments)).await,
        Command::Suspend(arguments) => Box::pin(commands::state::run(arguments, Wanted::Suspended)).await,
        Command::Resume(arguments) => Box::pin(commands::state::run(arguments, Wanted::Active)).await,
        Command::Cancel(arguments) => Box::pin(commands::state::run(arguments, Wanted::Cancelled)).await,
        Command::Completions(arguments) => commands::completions::run(&arguments, Arguments::command()),
        Command::Sql(arguments) => Box::pin(commands::sql::run(arguments)).await,
        Command::Upload(arguments) => commands::upload::run(arguments).await,
        Command::Validate(arguments) => commands::validate::run(arguments).await,
        Command::Plan(arguments) => Box::pin(commands::plan::run(arguments)).await,
        Command::Erase(arguments) => Box::pin(commands::erase::run(arguments)).await,
        Command::Test(arguments) => commands::test::run(arguments).await,
        Command::Quarantine(command) => Box::pin(commands::quarantine::run(command)).await,
        Command::Export(command) => Box::pin(commands::export::run(command)).await,
        Command::Docs(arguments) => Box::pin(commands::docs::run(arguments)).await,
        Command::Register(arguments) => Box::pin(commands::register::run(arguments)).await,
        Command::Status(arguments) => commands::status::run(arguments).await,
        Command::Report(arguments) => commands::report::run(arguments).await,
        Command::Doctor(arguments) => commands::doctor::run(arguments).await,
        Command::Buckets(command) => commands::buckets::run(command).await,
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to read a message that cannot be written.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            std::process::ExitCode::from(error.exit_code())
        }
    }
}

/// Writes to standard output; a reader that went away (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(CliError::Output(error)),
        _ => Ok(()),
    }
}
