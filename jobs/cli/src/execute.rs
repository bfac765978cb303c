//! One run: its lease, its stages in order, and how an interrupted one goes on.
//!
//! Per pipeline and interval one process is at work. It holds a lease of a few seconds in the catalog database and renews it; when it dies,
//! the lease ends, and the next process with the same request goes on with the same run: finished stages are not executed again, and the stage
//! that was interrupted gets its next attempt, which finds whatever was committed.

use std::{collections::BTreeMap, time::Duration};

use chrono::Utc;
use lakehouse_api::{LakehousePipelineSpec, LakehouseSpec, common::FailureClass};
use lakehouse_contract::{
    Interval, IntervalGrain, LineageSpec, Progress, Reason, Stage, StageFailure, StageReport, StageSpec, StoreLocation, TraceContext, Work,
    digest_json, env, resolve::Request, resolve::resolve,
};
use lakehouse_ingest::Options;
use lakehouse_storage::{CatalogDb, Lease, LeaseOptions, Storage, StorageError};
use uuid::Uuid;

use crate::{
    CliError,
    progress::RunProgress,
    runs::{RunRecord, RunState, Runs, StageRecord},
    secrets::Secrets,
};

/// Namespace of the owner of tables on a laptop.
pub const NAMESPACE: &str = "local";
/// Time after which the lease of a process that died is free.
const LEASE: Duration = Duration::from_secs(10);
/// Pause before a stage that lost a race for a commit is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// A request of this machine for all stages of an interval, for an [`Order`], which gives the run its name.
pub fn request(pipeline: &str, interval: Interval, store: StoreLocation) -> Request {
    Request {
        pipeline: pipeline.to_owned(),
        namespace: NAMESPACE.to_owned(),
        run_name: String::new(),
        run_uid: String::new(),
        created_at: chrono::DateTime::default(),
        interval,
        stages: Vec::new(),
        inputs_from: None,
        refresh: None,
        parameters: BTreeMap::new(),
        store,
    }
}

/// What is asked for.
pub struct Order<'a> {
    /// Pipeline name.
    pub pipeline: &'a str,
    /// Its definition.
    pub definition: &'a LakehousePipelineSpec,
    /// The Lakehouse, for its connections.
    pub lakehouse: &'a LakehouseSpec,
    /// Everything else but name, UID and creation time, which are those of the run.
    pub request: Request,
    /// Of the stage silver, only try again what is in the quarantine of these tables.
    pub replay: Option<Vec<String>>,
    /// Make a new run where one with the same request has succeeded.
    pub again: bool,
    /// Longest wait for another process that is at work on the interval.
    pub wait: Duration,
    /// Where lineage goes, beside the reports: a file or an endpoint.
    pub lineage: Option<&'a LineageSpec>,
}

/// Where runs are executed.
pub struct Workshop {
    /// The store.
    pub storage: Storage,
    /// URI of the catalog.
    pub catalog_uri: String,
    /// The catalog database, with the leases.
    pub db: CatalogDb,
    /// The runs in it.
    pub runs: Runs,
    /// Tokens of connections.
    pub secrets: Secrets,
}

/// A run that ended well, and whether this process did anything for it.
pub struct Finished {
    /// The run.
    pub run: RunRecord,
    /// It had been done before.
    pub already: bool,
}

impl Workshop {
    /// Executes an order to its end.
    ///
    /// # Errors
    /// [`CliError::Busy`] when another process is at work on the interval, [`CliError::Stage`] for the stage that failed.
    pub async fn execute(&self, order: &Order<'_>) -> Result<Finished, CliError> {
        let label = order.request.interval.label(order.definition.interval);
        let lease = self.lease(order, &label).await?;
        let outcome = self.held(order, &label, &lease).await;
        let released = lease.release().await;
        let finished = outcome?;
        released?;
        Ok(finished)
    }

    /// Takes the lease. A holder whose process lives is reported at once; that of a dead one is waited for, it ends within [`LEASE`].
    async fn lease(&self, order: &Order<'_>, label: &str) -> Result<Lease, CliError> {
        let resource = format!("run/{NAMESPACE}/{}/{label}", order.pipeline);
        let holder = format!("process {} ({})", std::process::id(), Uuid::new_v4().simple());
        let busy = |holder: String| CliError::Busy { pipeline: order.pipeline.to_owned(), interval: label.to_owned(), holder };
        if let Some(other) = self.db.lease_holder(&resource).await?.filter(|other| order.wait.is_zero() && is_alive(other)) {
            return Err(busy(shown(&other)));
        }
        let options = LeaseOptions { ttl: LEASE, wait: order.wait.max(LEASE + PAUSE), ..LeaseOptions::default() };
        match self.db.acquire_lease(&resource, &holder, options).await {
            Err(StorageError::LeaseBusy { holder, .. }) => Err(busy(shown(&holder))),
            other => Ok(other?),
        }
    }

    async fn held(&self, order: &Order<'_>, label: &str, lease: &Lease) -> Result<Finished, CliError> {
        let identity = identity(order);
        let known = self.runs.newest(&identity).await?;
        let run = match known {
            Some(run) if run.state == RunState::Succeeded && !order.again && !has_maintenance(&run) => {
                return Ok(Finished { run, already: true });
            }
            Some(run) if goes_on(&run) => run,
            _ => new_run(order, label, identity),
        };
        let run = self.stages(order, run, lease).await?;
        Ok(Finished { run, already: false })
    }

    async fn stages(&self, order: &Order<'_>, mut run: RunRecord, lease: &Lease) -> Result<RunRecord, CliError> {
        let mut request = order.request.clone();
        (request.run_name, request.run_uid, request.created_at) = (run.name.clone(), run.uid.clone(), run.created_at);
        let mut specs = resolve(order.definition, order.lakehouse, &request).map_err(|error| CliError::Invalid(error.to_string()))?;
        for spec in &mut specs {
            if let Work::Silver { replay, .. } = &mut spec.work {
                replay.clone_from(&order.replay);
            }
        }
        for spec in &specs {
            if !run.stages.iter().any(|record| record.stage == spec.stage()) {
                run.stages.push(StageRecord { stage: spec.stage(), attempt: 0, report: None });
            }
        }
        run.state = RunState::Running;
        run.finished_at = None;
        let progress = RunProgress::new(&run.id().0);
        for (index, mut spec) in specs.into_iter().enumerate() {
            // As store and catalog, the endpoint of a Lakehouse is that of its cluster: here events stay beside the reports unless the
            // command says more.
            if let Some(kept) = &mut spec.lineage {
                kept.http = None;
            }
            if let Some(asked) = order.lineage {
                spec.lineage = Some(asked.clone());
            }
            if run.stages[index].succeeded() {
                continue;
            }
            let settings = order.definition.jobs.clone().unwrap_or_default();
            let retries = settings.limits(spec.stage(), FailureClass::Retryable).map_or(0, |limits| limits.retries.unsigned_abs());
            let report = self.stage(&mut run, index, spec, retries, &progress, lease).await?;
            if let Some(failure) = report.failure {
                run.state = RunState::Failed;
                run.finished_at = Some(Utc::now());
                self.runs.put(&run).await?;
                return Err(CliError::Stage {
                    pipeline: run.pipeline.clone(),
                    run: run.id().0,
                    stage: report.stage.to_string(),
                    failure: StageFailure { reason: failure.reason, message: failure.message },
                });
            }
        }
        run.state = RunState::Succeeded;
        run.finished_at = Some(Utc::now());
        self.runs.put(&run).await?;
        Ok(run)
    }

    /// Attempts of one stage until it ends otherwise than by a lost race for a commit.
    async fn stage(
        &self,
        run: &mut RunRecord,
        index: usize,
        spec: StageSpec,
        retries: u32,
        progress: &RunProgress,
        lease: &Lease,
    ) -> Result<StageReport, CliError> {
        let mut raced = 0;
        loop {
            lease.ensure_held()?;
            run.stages[index].attempt += 1;
            self.runs.put(run).await?;
            let spec = spec.clone().with_attempt(run.stages[index].attempt);
            progress.stage(spec.stage(), spec.attempt);
            let trace = TraceContext::of_run(&run.uid).attempt(spec.stage(), spec.attempt);
            let report = self.attempt(&spec, trace, progress).await;
            progress.ended(&report);
            run.stages[index].report = Some(report.clone());
            self.runs.put(run).await?;
            let lost_a_race = report.failure.as_ref().is_some_and(|failure| failure.reason == Reason::CommitConflict);
            if !lost_a_race || raced >= retries {
                return Ok(report);
            }
            raced += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn attempt(&self, spec: &StageSpec, trace: TraceContext, progress: &RunProgress) -> StageReport {
        let work = async |spec: &StageSpec, storage: &Storage, progress: &dyn Progress| match spec.stage() {
            Stage::Ingest => {
                let secrets = self.secrets.clone();
                let environment = std::sync::Arc::new(move |name: &str| secrets.variable(name));
                let options = Options { environment, ..Options::default() };
                Box::pin(lakehouse_ingest::run_with(spec, storage, progress, &options)).await
            }
            Stage::Silver => Box::pin(lakehouse_silver::run(spec, storage, &self.catalog_uri, progress)).await,
            Stage::Gold => Box::pin(lakehouse_gold::run(spec, storage, &self.catalog_uri, progress)).await,
            Stage::Maintenance => Box::pin(lakehouse_maintenance::run(spec, storage, &self.catalog_uri, progress)).await,
        };
        let environment = |name: &str| match name {
            env::TRACEPARENT => Some(trace.to_string()),
            other => self.secrets.variable(other),
        };
        lakehouse_shell::execute_in(spec, &self.storage, progress, environment, work).await.0
    }
}

/// Refuses while a process of this machine is at work on an interval of a pipeline.
///
/// # Errors
/// [`CliError::Busy`] that names it.
pub async fn busy(db: &CatalogDb, pipeline: &str) -> Result<(), CliError> {
    for run in Runs::open(db.clone()).await?.list(None).await? {
        if run.pipeline == pipeline
            && run.state == RunState::Running
            && let Some(holder) = db.lease_holder(&format!("run/{NAMESPACE}/{pipeline}/{}", run.interval)).await?
            && is_alive(&holder)
        {
            return Err(CliError::Busy { pipeline: pipeline.to_owned(), interval: run.interval, holder: shown(&holder) });
        }
    }
    Ok(())
}

/// Whether a run that did not succeed is continued: it was interrupted, or failed by something that passes. One that failed by its
/// definition or its data begins anew, so that mended input is fetched.
fn goes_on(run: &RunRecord) -> bool {
    let passing = |record: &StageRecord| record.report.as_ref().and_then(|r| r.failure.as_ref()).is_some_and(|f| f.retryable);
    match run.state {
        RunState::Running => true,
        RunState::Failed => run.stages.iter().any(passing),
        RunState::Succeeded => false,
    }
}

/// Whether a run's outcome is out of date at once: what maintenance has to do depends on the tables, not on the interval.
fn has_maintenance(run: &RunRecord) -> bool {
    run.stages.iter().any(|record| record.stage == Stage::Maintenance)
}

fn new_run(order: &Order<'_>, label: &str, identity: String) -> RunRecord {
    RunRecord {
        uid: Uuid::new_v4().to_string(),
        name: format!("{}-{}", order.pipeline, label.to_ascii_lowercase()),
        pipeline: order.pipeline.to_owned(),
        interval: label.to_owned(),
        identity,
        state: RunState::Running,
        stages: Vec::new(),
        // Microseconds are what tables keep of `processed_at`.
        created_at: chrono::SubsecRound::trunc_subsecs(Utc::now(), 6),
        finished_at: None,
    }
}

/// Digest of what decides the outcome of a run. Connections are part of it, schedules and job settings are not.
fn identity(order: &Order<'_>) -> String {
    let definition = order.definition;
    let request = &order.request;
    let run = digest_json(&(
        order.pipeline,
        (&definition.interval, &definition.parameters, &definition.ingest, &definition.silver, &definition.gold),
        &order.lakehouse.connections,
        (&request.interval, &request.stages, &request.parameters, &request.store),
    ));
    // A run that refreshes or replays nothing is the one that it was before runs could.
    let refreshed = match request.refresh {
        None => run,
        Some(refresh) => digest_json(&(run, refresh)),
    };
    match &order.replay {
        None => refreshed,
        Some(tables) => digest_json(&(refreshed, "replay", tables, &request.inputs_from)),
    }
}

/// The intervals that options ask for, in order.
///
/// # Errors
/// [`CliError::Invalid`].
pub fn intervals(grain: IntervalGrain, one: Option<&str>, span: Option<(&str, &str)>) -> Result<Vec<Interval>, CliError> {
    let parse = |text: &str| Interval::parse(grain, text).map_err(|error| CliError::Invalid(error.to_string()));
    if let Some((from, to)) = span {
        let (mut next, last) = (parse(from)?, parse(to)?);
        if next > last {
            return Err(CliError::Invalid(format!("--from {from} is after --to {to}")));
        }
        let mut intervals = Vec::new();
        while next <= last {
            intervals.push(next);
            next = next.next(grain);
        }
        return Ok(intervals);
    }
    Ok(vec![match one {
        Some(text) => parse(text)?,
        None => Interval::last_complete(grain, Utc::now()),
    }])
}

/// `process 123` of a holder.
fn shown(holder: &str) -> String {
    holder.split(" (").next().unwrap_or_default().to_owned()
}

/// Whether the process of a holder lives, as far as this machine can tell.
fn is_alive(holder: &str) -> bool {
    let pid = holder.strip_prefix("process ").and_then(|rest| rest.split(' ').next());
    pid.is_some_and(|pid| std::path::Path::new("/proc").join(pid).exists()) || !std::path::Path::new("/proc/self").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_both_ends() {
        let days = intervals(IntervalGrain::Daily, None, Some(("2024-02-28", "2024-03-01"))).unwrap();
        let labels: Vec<String> = days.iter().map(|day| day.label(IntervalGrain::Daily)).collect();
        assert_eq!(labels, ["2024-02-28", "2024-02-29", "2024-03-01"]);
        let error = intervals(IntervalGrain::Daily, None, Some(("2024-03-01", "2024-02-28"))).unwrap_err();
        assert_eq!(error.to_string(), "--from 2024-03-01 is after --to 2024-02-28");
    }

    #[test]
    fn only_a_living_process_is_alive() {
        assert!(is_alive(&format!("process {} (x)", std::process::id())));
        assert!(!is_alive("process 4194305 (x)"));
    }
}
