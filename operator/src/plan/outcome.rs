//! How an attempt ended, from its Job and pod as they were observed.

use chrono::{DateTime, Utc};
use lakehouse_contract::{ExitCode, Termination, Totals, progress::Position};

/// A Job of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobView {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// It is being deleted.
    pub deleting: bool,
    /// It has a `ttlSecondsAfterFinished`.
    pub expires: bool,
    /// Its end, if it has ended.
    pub end: Option<JobEnd>,
    /// Its newest pod.
    pub pod: Option<PodView>,
}

/// How the Job controller saw the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// Condition `Complete`.
    Complete,
    /// Condition `Failed`, with its reason, such as `BackoffLimitExceeded` or `DeadlineExceeded`.
    Failed(String),
}

/// What counts of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodView {
    /// `status.reason`, such as `Evicted`.
    pub reason: Option<String>,
    /// Why the container does not run yet: reason and message, such as `ImagePullBackOff`; also `Unschedulable`.
    pub waiting: Option<(String, String)>,
    /// How the container ended.
    pub exit: Option<ContainerExit>,
    /// How far it is, as its log says; nothing where it was not looked for.
    pub progress: Option<Position>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerExit {
    /// Exit code; 128 + signal for a signal.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, …
    pub reason: Option<String>,
    /// The termination message.
    pub message: Option<String>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Done; the report's short form, unless it was lost.
    Succeeded(Option<Box<Termination>>),
    /// Not done.
    Failed(Failure),
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// One word: a reason of the contract, or one of the cluster (`Timeout`, `OOMKilled`, `Evicted`, `PodLost`, …).
    pub reason: String,
    /// The line a person reads.
    pub message: String,
    /// Whether another attempt can help.
    pub retryable: bool,
    /// What had been done all the same.
    pub report: Option<Box<Termination>>,
}

impl Failure {
    fn retryable(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into(), retryable: true, report: None }
    }
}

/// How the attempt of `job` ended; nothing while it has not. `timeout` is what `jobs.timeout` says, for the message.
pub fn outcome(job: &JobView, timeout: &str) -> Option<Outcome> {
    let exit = job.pod.as_ref().and_then(|pod| pod.exit.as_ref());
    let report = exit.and_then(|exit| exit.message.as_deref()).and_then(parse);
    match job.end.as_ref()? {
        JobEnd::Complete => Some(Outcome::Succeeded(report)),
        // The Job controller stopped the pod: what the pod then says (`Interrupted`) is a consequence.
        JobEnd::Failed(reason) if reason == "DeadlineExceeded" => {
            Some(Outcome::Failed(Failure::retryable("Timeout", format!("not done within {timeout} (jobs.timeout)"))))
        }
        JobEnd::Failed(reason) => Some(Outcome::Failed(failure(job.pod.as_ref(), exit, report, reason))),
    }
}

fn failure(pod: Option<&PodView>, exit: Option<&ContainerExit>, report: Option<Box<Termination>>, job_reason: &str) -> Failure {
    let Some(pod) = pod else {
        return Failure::retryable("PodLost", format!("its pod is gone and left no report ({job_reason})"));
    };
    if let Some(termination) = report
        && let Some(reported) = termination.failure.clone()
    {
        return Failure {
            reason: reported.reason.to_string(),
            message: reported.message,
            retryable: reported.retryable,
            report: Some(termination),
        };
    }
    let Some(exit) = exit else {
        let reason = pod.reason.as_deref().unwrap_or("PodLost");
        return Failure::retryable(reason, format!("its pod ended before its container did ({job_reason})"));
    };
    match (exit.reason.as_deref(), exit.code) {
        (Some("OOMKilled"), _) => Failure::retryable("OOMKilled", "killed for want of memory: raise jobs.resources.limits.memory"),
        _ if pod.reason.is_some() => {
            let reason = pod.reason.as_deref().unwrap_or("Evicted");
            Failure::retryable(reason, format!("its pod was stopped by the node ({reason})"))
        }
        (_, code) if code == ExitCode::Terminal as i32 => Failure {
            retryable: false,
            ..Failure::retryable("NoReport", format!("ended with exit code {code} and left no report: see the pod's log"))
        },
        (Some(reason), code) if reason != "Error" && reason != "Completed" => {
            Failure::retryable(reason, format!("its container ended with {reason} (exit code {code})"))
        }
        (_, code) => Failure::retryable("NoReport", format!("ended with exit code {code} and left no report: see the pod's log")),
    }
}

fn parse(message: &str) -> Option<Box<Termination>> {
    serde_json::from_str(message).ok().map(Box::new)
}

/// The totals of a report, or zeros where it was lost.
pub fn totals(report: Option<&Termination>) -> Totals {
    report.map(|termination| termination.totals).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lakehouse_contract::{Reason, StageFailure};

    fn ended(end: JobEnd, exit: Option<ContainerExit>) -> JobView {
        JobView { end: Some(end), pod: Some(PodView { exit, ..PodView::default() }), ..JobView::default() }
    }

    fn failed(code: i32, reason: &str, message: Option<String>) -> JobView {
        let exit = ContainerExit { code, reason: Some(reason.to_owned()), message };
        ended(JobEnd::Failed("BackoffLimitExceeded".to_owned()), Some(exit))
    }

    fn why(job: &JobView) -> (String, bool) {
        match outcome(job, "1h") {
            Some(Outcome::Failed(failure)) => (failure.reason, failure.retryable),
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    fn message(reason: Reason) -> String {
        let failure = StageFailure::new(reason, "why");
        Termination {
            contract: 1,
            failure: Some((&failure).into()),
            totals: Totals::default(),
            maintenance: None,
            stale: None,
            tables: Vec::new(),
            report: None,
            report_digest: None,
        }
        .to_message()
    }

    #[test]
    fn a_running_job_has_no_outcome() {
        assert_eq!(outcome(&JobView::default(), "1h"), None);
    }

    #[test]
    fn the_report_decides_when_there_is_one() {
        let data = failed(20, "Error", Some(message(Reason::ExpectationFailed)));
        assert_eq!(why(&data), ("ExpectationFailed".to_owned(), false));
        let store = failed(10, "Error", Some(message(Reason::StoreUnavailable)));
        assert_eq!(why(&store), ("StoreUnavailable".to_owned(), true));
    }

    #[test]
    fn without_a_report_exit_code_and_cluster_decide() {
        assert_eq!(why(&failed(10, "Error", None)), ("NoReport".to_owned(), true));
        assert_eq!(why(&failed(20, "Error", None)), ("NoReport".to_owned(), false));
        assert_eq!(why(&failed(137, "Error", Some("half a mess".into()))), ("NoReport".to_owned(), true));
        assert_eq!(why(&failed(137, "OOMKilled", None)), ("OOMKilled".to_owned(), true));
        assert_eq!(why(&failed(128, "StartError", None)), ("StartError".to_owned(), true));
        let mut evicted = failed(137, "Error", None);
        evicted.pod.as_mut().unwrap().reason = Some("Evicted".to_owned());
        assert_eq!(why(&evicted), ("Evicted".to_owned(), true));
        let lost = JobView { pod: None, ..failed(1, "Error", None) };
        assert_eq!(why(&lost), ("PodLost".to_owned(), true));
        let late = ended(
            JobEnd::Failed("DeadlineExceeded".to_owned()),
            Some(ContainerExit { code: 10, reason: Some("Error".to_owned()), message: Some(message(Reason::Interrupted)) }),
        );
        assert_eq!(why(&late), ("Timeout".to_owned(), true));
    }

    #[test]
    fn a_complete_job_succeeded_also_without_its_report() {
        let job = ended(JobEnd::Complete, None);
        assert_eq!(outcome(&job, "1h"), Some(Outcome::Succeeded(None)));
    }
}
