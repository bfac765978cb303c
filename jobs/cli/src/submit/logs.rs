//! The logs of a run's stages, line by line while their pods write them, or from the store where the pods are gone. They are a service: whatever is
//! wrong with them ends no wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::AsyncBufReadExt;
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api, ResourceExt,
    api::{ListParams, LogParams},
};
use lakehouse_api::run::{LakehouseRunStatus, StageState, StageStatus};
use lakehouse_contract::Stage;
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use super::{archive::Archive, cluster::cause, tell::Teller};

/// Pause between two looks at the pods of a Job, and before a broken stream is taken up again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the end of a stage waits for the rest of its log.
const REST: Duration = Duration::from_secs(5);
/// How long the log of an attempt that has ended may take, for somebody who asks for it.
const WHOLE: Duration = Duration::from_secs(120);
/// How often in a row a log may fail.
const TRIES: u32 = 5;

/// The logs of one run.
pub struct Logs {
    shared: Arc<Shared>,
    /// Attempts that are followed or were; those that had ended before we came count as such.
    known: BTreeSet<(Stage, i32)>,
    followed: BTreeMap<(Stage, i32), Followed>,
    /// What has ended when it is first seen is read too.
    also_ended: bool,
    /// So are attempts before the present one.
    also_earlier: bool,
    /// Stages that are read; empty: all.
    only: Vec<Stage>,
    /// How long the end of an attempt waits for the rest of its log.
    rest: Duration,
}

/// What is read of the logs of a run, for somebody who asks for them.
pub struct Reading {
    /// Stages; empty: all.
    pub only: Vec<Stage>,
    /// Follow what runs; otherwise read what is there.
    pub live: bool,
    /// Where logs are whose pods are gone.
    pub archive: Archive,
}

struct Followed {
    over: watch::Sender<bool>,
    task: JoinHandle<()>,
}

struct Shared {
    pods: Api<Pod>,
    teller: Arc<Teller>,
    complained: AtomicBool,
    live: bool,
    archive: Option<Archive>,
    unread: AtomicUsize,
}

impl Logs {
    /// Logs that are read from `pods`. `from_start`: also those of stages that have ended when they are first seen.
    pub fn new(pods: Api<Pod>, teller: Arc<Teller>, from_start: bool) -> Self {
        let rest = Self::of(pods, teller, true, None);
        Self { also_ended: from_start, ..rest }
    }

    /// Logs of all attempts that `reading` asks for.
    pub fn all(pods: Api<Pod>, teller: Arc<Teller>, reading: Reading) -> Self {
        let Reading { only, live, archive } = reading;
        Self { only, also_ended: true, also_earlier: true, rest: WHOLE, ..Self::of(pods, teller, live, Some(archive)) }
    }

    fn of(pods: Api<Pod>, teller: Arc<Teller>, live: bool, archive: Option<Archive>) -> Self {
        let shared = Shared { pods, teller, complained: AtomicBool::new(false), live, archive, unread: AtomicUsize::new(0) };
        Self {
            shared: Arc::new(shared),
            known: BTreeSet::new(),
            followed: BTreeMap::new(),
            also_ended: false,
            also_earlier: false,
            only: Vec::new(),
            rest: REST,
        }
    }

    /// How many attempts could not be read.
    pub fn unread(&self) -> usize {
        self.shared.unread.load(Ordering::Relaxed)
    }

    /// Waits a little for the rest of what does not run any more, stage by stage, and begins to follow what runs.
    pub async fn follow(&mut self, status: &LakehouseRunStatus) {
        let runs_now = |key: &(Stage, i32)| status.stages.iter().any(|stage| key_of(stage) == *key && runs(stage) == Some(true));
        let ended: Vec<_> = self.followed.keys().filter(|key| !runs_now(key)).copied().collect();
        for followed in ended.iter().filter_map(|key| self.followed.remove(key)) {
            followed.end(self.rest).await;
        }
        for stage in status.stages.iter().filter(|stage| self.only.is_empty() || self.only.contains(&stage.name)) {
            let (Some(job), Some(running)) = (&stage.job, runs(stage)) else { continue };
            for earlier in (1..stage.attempt).filter(|_| self.also_earlier) {
                if let Some(job) = job_of(job, stage.attempt, earlier)
                    && self.known.insert((stage.name, earlier))
                {
                    Followed::begin(&self.shared, stage.name, earlier, &job).end(self.rest).await;
                }
            }
            if !self.known.insert(key_of(stage)) {
                continue;
            }
            if running && self.shared.live {
                self.followed.insert(key_of(stage), Followed::begin(&self.shared, stage.name, stage.attempt, job));
            } else if self.also_ended {
                Followed::begin(&self.shared, stage.name, stage.attempt, job).end(self.rest).await;
            }
        }
        self.also_ended = true;
    }
}

/// The Job of another attempt of a stage: its name ends with the number.
fn job_of(job: &str, attempt: i32, other: i32) -> Option<String> {
    job.strip_suffix(&format!("-{attempt}")).map(|begin| format!("{begin}-{other}"))
}

fn key_of(stage: &StageStatus) -> (Stage, i32) {
    (stage.name, stage.attempt)
}

/// Whether the stage's attempt runs (true) or has ended (false); nothing while it has not begun.
fn runs(stage: &StageStatus) -> Option<bool> {
    match stage.state {
        StageState::Running => Some(true),
        StageState::Succeeded | StageState::Failed => Some(false),
        StageState::Pending if stage.retry_at.is_some() => Some(false),
        StageState::Pending | StageState::Skipped => None,
    }
}

impl Followed {
    fn begin(shared: &Arc<Shared>, stage: Stage, number: i32, job: &str) -> Self {
        let (over, is_over) = watch::channel(false);
        let attempt = Attempt { shared: Arc::clone(shared), stage, number, job: job.to_owned() };
        Self { over, task: tokio::spawn(attempt.follow(is_over)) }
    }

    async fn end(self, rest: Duration) {
        // A task that is gone has read everything.
        let _ = self.over.send(true);
        let abort = self.task.abort_handle();
        if tokio::time::timeout(rest, self.task).await.is_err() {
            abort.abort();
        }
    }
}

/// The attempt of a stage.
struct Attempt {
    shared: Arc<Shared>,
    stage: Stage,
    number: i32,
    job: String,
}

impl Attempt {
    /// Reads the logs of its pods, one after the other, until it `is_over` and none is left.
    async fn follow(self, mut is_over: watch::Receiver<bool>) {
        let selector = ListParams::default().labels(&format!("job-name={}", self.job));
        let mut read = BTreeSet::new();
        let mut failures = 0;
        loop {
            // Looked at before the pods are, so that a last look follows the end.
            let last = *is_over.borrow_and_update();
            match self.shared.pods.list(&selector).await {
                Ok(pods) => {
                    failures = 0;
                    let mut pods = pods.items;
                    pods.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
                    for pod in pods.iter().filter(|pod| started(pod)) {
                        if read.insert(pod.name_any()) {
                            self.read(pod).await;
                        }
                    }
                }
                Err(error) => {
                    failures += 1;
                    if last || failures == TRIES || !may_pass(&error) {
                        return self.complain(&cause(&error));
                    }
                }
            }
            if last {
                if read.is_empty() {
                    self.read_archive().await;
                }
                return;
            }
            tokio::select! {
                () = sleep(PAUSE) => {}
                // A sender that is gone means that nobody wants to know any more.
                changed = is_over.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Reads what the attempt left in the store.
    async fn read_archive(&self) {
        let why = match &self.shared.archive {
            None => "its pod is gone or never started".to_owned(),
            Some(archive) => match archive.read(self.stage, self.number.unsigned_abs()).await {
                Ok(text) => return text.lines().for_each(|line| self.shared.teller.log(self.stage, self.number, line)),
                Err(why) => format!("its pod is gone or never started, and {why}"),
            },
        };
        self.complain(&why);
    }

    /// Reads the log of one pod to its end, over broken streams too.
    async fn read(&self, pod: &Pod) {
        let name = pod.name_any();
        let mut position = Position::default();
        let mut failures = 0;
        loop {
            let streamed = self.stream(&name, container(pod), &mut position).await;
            // A server that goes away ends the stream as a container does: the pod tells which it was.
            let ended = match streamed {
                Ok(()) if !self.shared.live => return,
                Ok(()) => self.shared.pods.get(&name).await.map(|pod| ended(&pod)),
                Err(error) => Err(error),
            };
            match ended {
                Ok(true) => return,
                Ok(false) => failures = 0,
                Err(error) => {
                    failures += 1;
                    if failures == TRIES || !may_pass(&error) {
                        return self.complain(&cause(&error));
                    }
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Passes lines on until the stream ends.
    async fn stream(&self, pod: &str, container: Option<String>, position: &mut Position) -> kube::Result<()> {
        let since_time = position.time();
        let parameters = LogParams { container, follow: self.shared.live, timestamps: true, since_time, ..LogParams::default() };
        let mut stream = std::pin::pin!(self.shared.pods.log_stream(pod, &parameters).await?);
        let begin = position.last.clone();
        let mut bytes = Vec::new();
        while stream.read_until(b'\n', &mut bytes).await.map_err(kube::Error::ReadEvents)? > 0 {
            let line = String::from_utf8_lossy(&bytes);
            let (time, text) = line.trim_end_matches(['\n', '\r']).split_once(' ').unwrap_or((line.trim_end(), ""));
            // The server knows whole seconds: what was read before a break comes again.
            if begin.is_empty() || later(time, &begin) {
                self.shared.teller.log(self.stage, self.number, text);
                position.last = time.to_owned();
            }
            bytes.clear();
        }
        Ok(())
    }

    /// Says that a log cannot be read: of every attempt to somebody who asked for logs, otherwise once per run.
    fn complain(&self, why: &str) {
        self.shared.unread.fetch_add(1, Ordering::Relaxed);
        if self.shared.archive.is_some() {
            return self.shared.teller.note(&format!("the log of {}, attempt {}, cannot be read: {why}", self.stage, self.number));
        }
        if !self.shared.complained.swap(true, Ordering::Relaxed) {
            let (stage, number) = (self.stage, self.number);
            self.shared.teller.note(&format!("the log of {stage}, attempt {number}, cannot be read ({why}); the run goes on"));
        }
    }
}

/// How far a log was read.
#[derive(Default)]
struct Position {
    /// Time of the last line, as the server wrote it.
    last: String,
}

impl Position {
    fn time(&self) -> Option<Timestamp> {
        self.last.parse().ok()
    }
}

/// Whether `time` is after `begin`; servers leave trailing zeros out, so that texts do not compare.
fn later(time: &str, begin: &str) -> bool {
    match (time.parse::<Timestamp>(), begin.parse::<Timestamp>()) {
        (Ok(time), Ok(begin)) => time > begin,
        _ => true,
    }
}

/// Whether a request can be answered another time.
fn may_pass(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        _ => true,
    }
}

/// The pod's container; ours have one, an injected one stands behind it.
fn container(pod: &Pod) -> Option<String> {
    pod.spec.as_ref().and_then(|spec| spec.containers.first()).map(|container| container.name.clone())
}

fn state(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::ContainerState> {
    let name = container(pod)?;
    pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|status| status.name == name)?.state.as_ref()
}

fn started(pod: &Pod) -> bool {
    state(pod).is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

fn ended(pod: &Pod) -> bool {
    state(pod).is_some_and(|state| state.terminated.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn stage(value: Value) -> StageStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_attempt_runs_or_has_ended_or_has_not_begun() {
        assert_eq!(runs(&stage(json!({"name": "ingest", "state": "Pending", "attempt": 1, "job": "j"}))), None);
        assert_eq!(runs(&stage(json!({"name": "ingest", "state": "Running", "attempt": 1, "job": "j"}))), Some(true));
        let waits = json!({"name": "ingest", "state": "Pending", "attempt": 1, "job": "j", "retryAt": "2024-01-01T00:00:00Z"});
        assert_eq!(runs(&stage(waits)), Some(false));
        for state in ["Succeeded", "Failed"] {
            assert_eq!(runs(&stage(json!({"name": "ingest", "state": state, "attempt": 1}))), Some(false));
        }
        assert_eq!(runs(&stage(json!({"name": "ingest", "state": "Skipped"}))), None);
    }

    #[test]
    fn attempts_have_jobs_of_one_name_and_their_number() {
        assert_eq!(job_of("r-0f0e0d0c-silver-12", 12, 2).as_deref(), Some("r-0f0e0d0c-silver-2"));
        assert_eq!(job_of("another", 12, 2), None);
    }

    #[test]
    fn times_compare_as_times() {
        assert!(later("2024-01-01T00:00:00.12Z", "2024-01-01T00:00:00.113Z"));
        assert!(!later("2024-01-01T00:00:00.1Z", "2024-01-01T00:00:00.10Z"));
        assert!(later("not a time", "2024-01-01T00:00:00Z"));
    }

    #[test]
    fn a_pod_starts_with_its_first_container() {
        let pod = |state: Value| -> Pod {
            let statuses = json!([{"name": "proxy", "state": {"running": {}}}, {"name": "stage", "state": state}]);
            let statuses: Vec<Value> = statuses
                .as_array()
                .unwrap()
                .iter()
                .cloned()
                .map(|mut status| {
                    for (field, value) in
                        [("image", json!("i")), ("imageID", json!("i")), ("ready", json!(true)), ("restartCount", json!(0))]
                    {
                        status[field] = value;
                    }
                    status
                })
                .collect();
            let containers = json!([{"name": "stage"}, {"name": "proxy"}]);
            serde_json::from_value(
                json!({"metadata": {"name": "p"}, "spec": {"containers": containers}, "status": {"containerStatuses": statuses}}),
            )
            .unwrap()
        };
        let waiting = pod(json!({"waiting": {"reason": "ContainerCreating"}}));
        assert!(!started(&waiting) && !ended(&waiting));
        let running = pod(json!({"running": {"startedAt": "2024-01-01T00:00:00Z"}}));
        assert!(started(&running) && !ended(&running));
        let terminated = pod(json!({"terminated": {"exitCode": 0}}));
        assert!(started(&terminated) && ended(&terminated));
        assert_eq!(container(&running).as_deref(), Some("stage"));
    }
}
