//! Watching a run to its end. A watch that breaks is taken up again; an API server that is away is waited for.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use kube::{
    ResourceExt,
    core::Status,
    runtime::{
        WatchStreamExt,
        watcher::{self, watch_object},
    },
};
use lakehouse_api::{LakehouseRun, common::HumanDuration};
use tokio::time::{Instant, sleep_until};

use super::{
    SubmitError,
    changes::changes,
    cluster::{Cluster, cause},
    logs::Logs,
    outcome::{end, one_line, phase},
    tell::Teller,
};

/// After this long without access it is not the API server that is starting: the right is missing.
const DENIED: Duration = Duration::from_secs(60);

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// As it was given.
    pub given: HumanDuration,
    /// When it is over.
    pub deadline: Instant,
}

/// Waits until `run` has ended, says what happens and passes its `logs` on.
///
/// # Errors
/// [`SubmitError::TimedOut`], [`SubmitError::Deleted`], or [`SubmitError::Refused`] when the run may not be watched.
pub async fn wait(
    cluster: &Cluster,
    run: &LakehouseRun,
    logs: &mut Logs,
    limit: Limit,
    teller: &Arc<Teller>,
) -> Result<LakehouseRun, SubmitError> {
    let name = run.name_any();
    let mut watch = pin!(watch_object(cluster.runs(), &name).default_backoff());
    let mut before = None;
    let mut absence = Absence::default();
    loop {
        let seen = tokio::select! {
            seen = watch.next() => seen,
            () = sleep_until(limit.deadline) => {
                let (reason, message) = before.as_ref().map_or(("nothing", ""), phase);
                let seen = format!("{}{}", one_line(&format!("{reason}: {message}")), absence.note());
                return Err(SubmitError::TimedOut { run: name, limit: limit.given, seen });
            }
        };
        match seen {
            Some(Ok(Some(now))) if now.metadata.uid == run.metadata.uid => {
                absence = Absence { told: absence.told, ..Absence::default() };
                let status = now.status.clone().unwrap_or_default();
                let news = changes(before.as_ref(), &status);
                logs.follow(&status).await;
                news.iter().for_each(|change| teller.change(change));
                if end(&now).is_some() {
                    return Ok(now);
                }
                before = Some(status);
            }
            Some(Err(error)) => absence.met(&error, &name, teller)?,
            Some(Ok(_)) | None => return Err(SubmitError::Deleted(name)),
        }
    }
}

/// What is known of an API server that does not let us watch.
#[derive(Default)]
struct Absence {
    errors: u32,
    denied_since: Option<Instant>,
    said: String,
    told: bool,
}

impl Absence {
    /// Another try failed. One failure is a connection that broke; at the second in a row the person who waits is told, once.
    fn met(&mut self, error: &watcher::Error, run: &str, teller: &Teller) -> Result<(), SubmitError> {
        self.errors += 1;
        self.said = said(error);
        let denied = status(error).is_some_and(|status| matches!(status.code, 401 | 403));
        match (denied, self.denied_since) {
            (true, Some(since)) if since.elapsed() >= DENIED => {
                return Err(SubmitError::Refused(format!("cannot watch LakehouseRun {run}: {}", self.said)));
            }
            (true, since) => self.denied_since = since.or_else(|| Some(Instant::now())),
            (false, _) => self.denied_since = None,
        }
        if self.errors == 2 && !self.told {
            self.told = true;
            teller.note(&format!("the API server does not answer as it should ({}); it is asked again until --timeout", self.said));
        }
        Ok(())
    }

    fn note(&self) -> String {
        if self.errors == 0 { String::new() } else { format!(" (since then the API server does not answer as it should: {})", self.said) }
    }
}

fn status(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

fn said(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            cause(error)
        }
        watcher::Error::WatchError(status) => one_line(&status.message),
        error @ watcher::Error::NoResourceVersion => error.to_string(),
    }
}
