//! `main` of an image: spec in, exit code out.

use std::process::ExitCode as ProcessExit;

use lakehouse_contract::{
    CONTRACT_VERSION, ExitCode, Progress, Reason, Stage, StageFailure, StageOutcome, StageSpec, Termination, Totals, env, version,
};
use lakehouse_storage::Storage;

use crate::{LogProgress, execute, init_json_logs, open_storage, stop, storage_failure};

/// Runs the stage whose spec is the file named by `LAKEHOUSE_STAGE_SPEC`, writes the termination message and returns the
/// contract's exit code. SIGTERM ends the work with reason `Interrupted`: nothing half done becomes visible; work that keeps what it has so
/// far is waited for ([`stop`]).
pub async fn image_main<F>(stage: Stage, work: F) -> ProcessExit
where
    F: AsyncFnOnce(&StageSpec, &Storage, &dyn Progress) -> StageOutcome,
{
    init_json_logs();
    lakehouse_storage::init_tls();
    let (failure, termination) = match prepare(stage) {
        Err(failure) => {
            tracing::error!(reason = %failure.reason, "{}", failure.message);
            let termination = Termination {
                contract: CONTRACT_VERSION,
                failure: Some((&failure).into()),
                totals: Totals::default(),
                maintenance: None,
                stale: None,
                tables: Vec::new(),
                report: None,
                report_digest: None,
            };
            (Some(failure), termination)
        }
        Ok((spec, storage)) => {
            let progress = LogProgress::default();
            let interruptible = async |spec: &StageSpec, storage: &Storage, progress: &dyn Progress| {
                let mut working = std::pin::pin!(work(spec, storage, progress));
                tokio::select! {
                    outcome = &mut working => outcome,
                    () = terminated() => stop::ended_early(working).await.unwrap_or_else(|| StageOutcome {
                        failure: Some(StageFailure::new(Reason::Interrupted, "stopped by SIGTERM before the stage was done")),
                        ..StageOutcome::default()
                    }),
                }
            };
            let (report, termination) = execute(&spec, &storage, &progress, interruptible).await;
            (report.failure.map(|f| StageFailure { reason: f.reason, message: f.message }), termination)
        }
    };
    write_termination(&termination);
    ProcessExit::from(failure.map_or(ExitCode::Succeeded, |failure| failure.exit_code()) as u8)
}

fn prepare(stage: Stage) -> Result<(StageSpec, Storage), StageFailure> {
    let invalid = |message: String| StageFailure::new(Reason::InvalidDefinition, message);
    let path = std::env::var(env::STAGE_SPEC)
        .map_err(|_| invalid(format!("{} is not set: it names the file with the stage's spec", env::STAGE_SPEC)))?;
    let text = std::fs::read_to_string(&path).map_err(|error| invalid(format!("stage spec {path}: {error}")))?;
    let spec = version::read_spec(&path, &text)?;
    if spec.stage() != stage {
        return Err(invalid(format!("stage spec {path} is for {}, this image runs {stage}", spec.stage())));
    }
    let storage = open_storage(&spec.store).map_err(|error| storage_failure(&error))?;
    Ok((spec, storage))
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        // Without a handler the signal ends the process, which is what it would do anyway.
        Err(_) => std::future::pending().await,
    }
}

fn write_termination(termination: &Termination) {
    let path = std::env::var(env::TERMINATION_PATH).unwrap_or_else(|_| env::DEFAULT_TERMINATION_PATH.to_owned());
    if let Err(error) = std::fs::write(&path, termination.to_message()) {
        tracing::warn!(%error, path, "the termination message could not be written");
    }
}
