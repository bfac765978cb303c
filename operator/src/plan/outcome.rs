//! How an attempt ended, from its Job and pod as they were observed.

use chrono::{DateTime, Utc};
use lakehouse_api::common::FailureClass;
use lakehouse_contract::{ExitCode, Reason, Termination, Totals, progress::Position};

use super::report::{Report, Said, read};
use crate::build;

/// A Job of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobView {
    /// Its name.
    pub name: String,
    /// Its identity and version, for whoever deletes it.
    pub version: Version,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// It is being deleted.
    pub deleting: bool,
    /// Its `ttlSecondsAfterFinished`.
    pub ttl: Option<i32>,
    /// The Job controller has not made a pod for it yet.
    pub podless: bool,
    /// Its end, if it has ended.
    pub end: Option<JobEnd>,
    /// Its newest pod.
    pub pod: Option<PodView>,
}

/// Which object, and which state of it, a decision was made on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource: String,
}

/// How the Job controller saw the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// Condition `Complete`.
    Complete,
    /// Condition `Failed`.
    Failed {
        /// Such as `PodFailurePolicy`, `BackoffLimitExceeded` or `DeadlineExceeded`.
        reason: String,
        /// What the Job controller says; with `PodFailurePolicy` which rule matched, also when the pod is gone.
        message: String,
    },
}

/// What counts of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodView {
    /// When it was made.
    pub created: DateTime<Utc>,
    /// Its image.
    pub image: String,
    /// `status.reason`, such as `Evicted`.
    pub reason: Option<String>,
    /// `status.message`.
    pub message: Option<String>,
    /// Reason and message of its condition `DisruptionTarget`: the cluster takes it away.
    pub disruption: Option<(String, String)>,
    /// Its container has not started yet.
    pub pending: bool,
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
    /// What kind of failure it is: whether another attempt is made.
    pub class: FailureClass,
    /// One word: a reason of the contract, or one of the cluster (`Timeout`, `OOMKilled`, `Evicted`, `PodLost`, …).
    pub reason: String,
    /// The line a person reads.
    pub message: String,
    /// What had been done all the same.
    pub report: Option<Box<Termination>>,
}

/// What the Job was allowed, and what its setting is called, for messages that say what to raise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// `jobs.STAGE` of the pipeline.
    pub settings: String,
    /// Longest time of one attempt.
    pub timeout: String,
    /// Memory of the container.
    pub memory: String,
}

impl Failure {
    fn new(class: FailureClass, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { class, reason: reason.into(), message: message.into(), report: None }
    }
}

/// How the attempt of `job` ended; nothing while it has not.
pub fn outcome(job: &JobView, allowed: &Allowed) -> Option<Outcome> {
    let message = job.pod.as_ref().and_then(|pod| pod.exit.as_ref()).and_then(|exit| exit.message.as_deref());
    let (report, said) = match message.map_or(Report::Lost, read) {
        Report::Lost => (None, None),
        Report::Read { termination, failure } => (Some(termination), failure),
        // What is committed stays; the counts cannot be known, and no attempt of this image would tell them.
        Report::Foreign(why) => {
            job.end.as_ref()?;
            return Some(Outcome::Failed(Failure::new(FailureClass::Terminal, Reason::IncompatibleVersion.to_string(), why)));
        }
    };
    match job.end.as_ref()? {
        JobEnd::Complete => Some(Outcome::Succeeded(report)),
        JobEnd::Failed { reason, .. } if reason == "DeadlineExceeded" => Some(Outcome::Failed(late(job, allowed))),
        JobEnd::Failed { reason, message } => Some(Outcome::Failed(match job.pod.as_ref() {
            Some(pod) => failure(pod, report, said, reason, allowed),
            None => without_pod(reason, message),
        })),
    }
}

/// The Job controller stopped the pod at its deadline: what the pod then says (`Interrupted`) is a consequence.
fn late(job: &JobView, allowed: &Allowed) -> Failure {
    let Allowed { settings, timeout, .. } = allowed;
    match job.pod.as_ref().filter(|pod| pod.pending).and_then(|pod| not_started(job, pod)) {
        Some((reason, why)) => {
            Failure::new(FailureClass::NotStarted, reason, format!("its pod did not start within {timeout} ({settings}.timeout): {why}"))
        }
        None => Failure::new(FailureClass::Timeout, "Timeout", format!("not done within {timeout} ({settings}.timeout)")),
    }
}

/// The reasons for which a pod does not start.
pub const NEVER_STARTED: [&str; 3] = ["ImageUnavailable", "Unschedulable", "NotStarted"];

/// Why the pod of a Job that has not ended does not run: reason and the line a person reads. Nothing once it runs.
pub fn stuck(job: &JobView) -> Option<(&'static str, String)> {
    match &job.pod {
        Some(pod) if pod.pending => not_started(job, pod),
        Some(_) => None,
        None => job.podless.then(|| ("NotStarted", format!("no pod was made: see the events of Job {}", job.name))),
    }
}

fn not_started(job: &JobView, pod: &PodView) -> Option<(&'static str, String)> {
    let Some((reason, why)) = &pod.waiting else {
        return Some(("NotStarted", format!("its pod is being prepared: see the events of the pod of Job {}", job.name)));
    };
    let said = if why.is_empty() { reason.clone() } else { format!("{reason}: {why}") };
    Some(match reason.as_str() {
        "Unschedulable" | "SchedulerError" => ("Unschedulable", said),
        reason if reason.contains("Image") || reason == "RegistryUnavailable" => {
            ("ImageUnavailable", format!("image {}: {said}", pod.image))
        }
        _ => ("NotStarted", said),
    })
}

/// The pod is gone, and with it exit code and report. The Job still says which rule of its `podFailurePolicy` the pod had met.
fn without_pod(reason: &str, message: &str) -> Failure {
    // Where no rule was met: somebody deleted it, or the node went with it.
    let class = build::matched_rule(message).unwrap_or(FailureClass::Disruption);
    let said = if class == FailureClass::Disruption && reason != "PodFailurePolicy" { reason } else { message };
    Failure::new(class, "PodLost", format!("its pod is gone and left no report ({said})"))
}

fn failure(pod: &PodView, report: Option<Box<Termination>>, said: Option<Said>, job_reason: &str, allowed: &Allowed) -> Failure {
    // What is wrong with definition or data is wrong also where the pod was taken away at the same moment.
    if let Some(said) = said.as_ref().filter(|said| !said.retryable) {
        return Failure { report, ..Failure::new(FailureClass::Terminal, said.word.clone(), said.message.clone()) };
    }
    if let Some((reason, why)) = &pod.disruption {
        let word = pod.reason.as_deref().unwrap_or(reason);
        return Failure { report, ..Failure::new(FailureClass::Disruption, word, format!("its pod was taken away by the cluster: {why}")) };
    }
    if let Some(Said { word, reason, message, .. }) = said {
        let (class, message) = match reason {
            // Nobody but the cluster sends the signal.
            Some(Reason::Interrupted) => (FailureClass::Disruption, message),
            Some(Reason::ResourcesExhausted) => {
                (FailureClass::OutOfMemory, format!("{message}: raise {}.resources.limits", allowed.settings))
            }
            Some(Reason::Internal) => (FailureClass::Unexpected, message),
            _ => (FailureClass::Retryable, message),
        };
        return Failure { report, ..Failure::new(class, word, message) };
    }
    silent(pod, job_reason, allowed)
}

/// An attempt that left no report.
fn silent(pod: &PodView, job_reason: &str, allowed: &Allowed) -> Failure {
    let Some(exit) = &pod.exit else {
        let reason = pod.reason.as_deref().unwrap_or("PodLost");
        let why = pod.message.as_deref().unwrap_or(job_reason);
        return Failure::new(FailureClass::Disruption, reason, format!("its pod ended before its container did ({why})"));
    };
    let Allowed { settings, memory, .. } = allowed;
    match (exit.reason.as_deref(), exit.code) {
        (Some("OOMKilled"), _) => Failure::new(
            FailureClass::OutOfMemory,
            "OOMKilled",
            format!("killed for want of memory at its limit of {memory}: raise {settings}.resources.limits.memory"),
        ),
        // Without the condition of a disruption it is the pod that went beyond a limit of its own, such as that of its scratch space.
        _ if pod.reason.is_some() => {
            let reason = pod.reason.as_deref().unwrap_or("Evicted");
            let why = pod.message.as_deref().unwrap_or(reason);
            Failure::new(FailureClass::Unexpected, reason, format!("its pod was stopped by the node: {why}"))
        }
        (_, code) if code == ExitCode::Terminal as i32 => no_report(FailureClass::Terminal, code),
        (_, code) if code == ExitCode::Retryable as i32 => no_report(FailureClass::Retryable, code),
        (Some(reason), code) if reason != "Error" && reason != "Completed" => {
            Failure::new(FailureClass::Unexpected, reason, format!("its container ended with {reason} (exit code {code})"))
        }
        (_, code) => no_report(FailureClass::Unexpected, code),
    }
}

fn no_report(class: FailureClass, code: i32) -> Failure {
    Failure::new(class, "NoReport", format!("ended with exit code {code} and left no report: see the pod's log"))
}

/// The totals of a report, or zeros where it was lost.
pub fn totals(report: Option<&Termination>) -> Totals {
    report.map(|termination| termination.totals).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailureClass::{Disruption, NotStarted, OutOfMemory, Retryable, Terminal, Timeout, Unexpected};
    use lakehouse_contract::StageFailure;

    fn ended(reason: &str, message: &str, pod: Option<PodView>) -> JobView {
        let end = JobEnd::Failed { reason: reason.to_owned(), message: message.to_owned() };
        JobView { end: Some(end), pod, ..JobView::default() }
    }

    fn failed(code: i32, reason: &str, message: Option<String>) -> JobView {
        let exit = ContainerExit { code, reason: Some(reason.to_owned()), message };
        ended("BackoffLimitExceeded", "", Some(PodView { exit: Some(exit), ..PodView::default() }))
    }

    fn allowed() -> Allowed {
        Allowed { settings: "jobs.silver".into(), timeout: "1h".into(), memory: "1Gi".into() }
    }

    fn what(job: &JobView) -> Failure {
        match outcome(job, &allowed()) {
            Some(Outcome::Failed(failure)) => failure,
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    fn why(job: &JobView) -> (String, FailureClass) {
        let failure = what(job);
        (failure.reason, failure.class)
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
        assert_eq!(outcome(&JobView::default(), &allowed()), None);
    }

    #[test]
    fn the_report_decides_when_there_is_one() {
        for (code, reason, class) in [
            (20, Reason::ExpectationFailed, Terminal),
            (10, Reason::StoreUnavailable, Retryable),
            (10, Reason::Interrupted, Disruption),
            (10, Reason::ResourcesExhausted, OutOfMemory),
            (1, Reason::Internal, Unexpected),
        ] {
            assert_eq!(why(&failed(code, "Error", Some(message(reason)))), (reason.to_string(), class));
        }
        let full = what(&failed(10, "Error", Some(message(Reason::ResourcesExhausted))));
        assert_eq!(full.message, "why: raise jobs.silver.resources.limits");
    }

    #[test]
    fn without_a_report_exit_code_and_cluster_decide() {
        for (code, reason, expected) in [
            (10, "Error", ("NoReport", Retryable)),
            (20, "Error", ("NoReport", Terminal)),
            (1, "Error", ("NoReport", Unexpected)),
            (128, "StartError", ("StartError", Unexpected)),
            (137, "OOMKilled", ("OOMKilled", OutOfMemory)),
        ] {
            assert_eq!(why(&failed(code, reason, None)), (expected.0.to_owned(), expected.1));
        }
        assert_eq!(why(&failed(137, "Error", Some("half a mess".into()))), ("NoReport".to_owned(), Unexpected));
        let oom = what(&failed(137, "OOMKilled", None)).message;
        assert_eq!(oom, "killed for want of memory at its limit of 1Gi: raise jobs.silver.resources.limits.memory");
    }

    #[test]
    fn a_pod_that_the_cluster_took_is_no_failure_of_the_job() {
        let taken = |code: i32, report: Option<Reason>| {
            let mut job = failed(code, "Error", report.map(message));
            let pod = job.pod.as_mut().unwrap();
            pod.disruption = Some(("EvictionByEvictionAPI".to_owned(), "Eviction API: evicting".to_owned()));
            why(&job)
        };
        assert_eq!(taken(143, None), ("EvictionByEvictionAPI".to_owned(), Disruption));
        assert_eq!(taken(10, Some(Reason::Interrupted)), ("EvictionByEvictionAPI".to_owned(), Disruption));
        assert_eq!(taken(20, Some(Reason::CastFailed)), ("CastFailed".to_owned(), Terminal), "data stays at fault");
        // The kubelet's word for a node under pressure stands beside the condition; alone it is a limit of the pod's own.
        let mut evicted = failed(137, "Error", None);
        evicted.pod.as_mut().unwrap().reason = Some("Evicted".to_owned());
        evicted.pod.as_mut().unwrap().message = Some("Usage of EmptyDir volume \"tmp\" exceeds the limit \"8Gi\".".to_owned());
        assert_eq!(why(&evicted), ("Evicted".to_owned(), Unexpected));
        assert!(what(&evicted).message.contains("exceeds the limit"));
        evicted.pod.as_mut().unwrap().disruption = Some(("TerminationByKubelet".to_owned(), "The node was low on memory".to_owned()));
        assert_eq!(why(&evicted), ("Evicted".to_owned(), Disruption));
        // A node that refuses the pod.
        let refused = PodView { reason: Some("OutOfcpu".to_owned()), ..PodView::default() };
        assert_eq!(why(&ended("BackoffLimitExceeded", "", Some(refused))), ("OutOfcpu".to_owned(), Disruption));
    }

    #[test]
    fn the_job_remembers_the_class_of_a_pod_that_is_gone() {
        let lost = |reason: &str, message: &str| why(&ended(reason, message, None));
        assert_eq!(lost("BackoffLimitExceeded", "Job has reached the specified backoff limit"), ("PodLost".to_owned(), Disruption));
        let code = |code: i32, rule: usize| {
            format!("Container stage for pod ns/x-silver-1-abcde failed with exit code {code} matching FailJob rule at index {rule}")
        };
        assert_eq!(lost("PodFailurePolicy", &code(20, 0)).1, Terminal);
        let condition = "Pod ns/x-silver-1-abcde has condition DisruptionTarget matching FailJob rule at index 1";
        assert_eq!(lost("PodFailurePolicy", condition).1, Disruption);
        assert_eq!(lost("PodFailurePolicy", &code(10, 2)).1, Retryable);
        assert!(what(&ended("PodFailurePolicy", &code(20, 0), None)).message.contains("exit code 20"));
    }

    #[test]
    fn a_report_of_another_contract_ends_the_run_also_when_its_job_succeeded() {
        let newer = message(Reason::Internal).replacen("\"contract\":1", "\"contract\":2", 1);
        let mut job = failed(0, "Completed", Some(newer));
        assert_eq!(why(&job), ("IncompatibleVersion".to_owned(), Terminal));
        job.end = Some(JobEnd::Complete);
        assert_eq!(why(&job), ("IncompatibleVersion".to_owned(), Terminal));
        assert!(what(&job).message.contains("upgrade the operator"));
        job.end = None;
        assert_eq!(outcome(&job, &allowed()), None);
    }

    #[test]
    fn late_is_another_thing_than_never_started() {
        let interrupted = ContainerExit { code: 10, reason: Some("Error".to_owned()), message: Some(message(Reason::Interrupted)) };
        let late = ended("DeadlineExceeded", "", Some(PodView { exit: Some(interrupted), ..PodView::default() }));
        assert_eq!(why(&late), ("Timeout".to_owned(), Timeout));
        assert_eq!(what(&late).message, "not done within 1h (jobs.silver.timeout)");
        let waiting = Some(("ImagePullBackOff".to_owned(), "Back-off pulling image".to_owned()));
        let pod = PodView { pending: true, image: "lakehouse/silver:9".to_owned(), waiting, ..PodView::default() };
        let never = ended("DeadlineExceeded", "", Some(pod));
        assert_eq!(why(&never), ("ImageUnavailable".to_owned(), NotStarted));
        assert!(what(&never).message.contains("image lakehouse/silver:9: ImagePullBackOff"), "{}", what(&never).message);
    }

    #[test]
    fn a_complete_job_succeeded_also_without_its_report() {
        let job = JobView { end: Some(JobEnd::Complete), pod: Some(PodView::default()), ..JobView::default() };
        assert_eq!(outcome(&job, &allowed()), Some(Outcome::Succeeded(None)));
    }
}
