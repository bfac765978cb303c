//! Leader election by a Lease (`coordination.k8s.io/v1`): one operator writes, others stand by.
//!
//! As in client-go: whoever sees the Lease unchanged for its whole duration, by the own clock, may take it; every write of it carries
//! the version that was seen, so that one of several wins. The leader writes only until `renew_deadline` after its last renewal was *sent*,
//! which is earlier than anybody may take the Lease: see [`super::guard`].

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{sleep, timeout};

use super::guard::Guard;
use crate::names;

/// Which Lease, for whom, and its times. `retry_period < renew_deadline < duration`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// This process; no other one, before or after, has the same.
    pub identity: String,
    /// How long others leave an unchanged Lease alone.
    pub duration: Duration,
    /// How long the leader writes after a renewal.
    pub renew_deadline: Duration,
    /// Between two tries to take or renew it.
    pub retry_period: Duration,
}

/// Why a Lease is lost whose renewals had all gone well.
const STOPPED: &str = "the process was stopped for longer than the lease's renew deadline";

/// What to do about the Lease.
#[derive(Clone, Debug, PartialEq)]
enum Claim {
    /// It is not there: make it.
    Create(Lease),
    /// Take or renew it, in the version that was seen.
    Replace(Lease),
    /// Somebody else holds it.
    Wait(String),
}

/// The Lease as it was first seen in its present version.
struct Seen {
    version: Option<String>,
    since: Instant,
}

/// One candidate.
pub struct Elector {
    api: Api<Lease>,
    settings: Settings,
    guard: Guard,
    seen: Option<Seen>,
}

/// What `settings` make of the Lease that was `found` and has not changed for `unchanged`.
fn claim(found: Option<&Lease>, settings: &Settings, unchanged: Duration, now: Timestamp) -> Claim {
    let spec = |acquired: Option<MicroTime>, transitions: i32| LeaseSpec {
        holder_identity: Some(settings.identity.clone()),
        lease_duration_seconds: Some(i32::try_from(settings.duration.as_secs()).unwrap_or(i32::MAX).max(1)),
        acquire_time: Some(acquired.unwrap_or(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    };
    let Some(found) = found else {
        let metadata =
            ObjectMeta { name: Some(settings.name.clone()), namespace: Some(settings.namespace.clone()), ..ObjectMeta::default() };
        return Claim::Create(Lease { metadata, spec: Some(spec(None, 0)) });
    };
    let held = found.spec.clone().unwrap_or_default();
    let holder = held.holder_identity.unwrap_or_default();
    let transitions = held.lease_transitions.unwrap_or_default();
    let next = if holder == settings.identity {
        spec(held.acquire_time, transitions)
    } else {
        let length = Duration::from_secs(held.lease_duration_seconds.unwrap_or_default().try_into().unwrap_or_default());
        if !holder.is_empty() && unchanged < length {
            return Claim::Wait(holder);
        }
        spec(None, transitions.saturating_add(1))
    };
    Claim::Replace(Lease { spec: Some(next), ..found.clone() })
}

impl Elector {
    /// A candidate for the Lease of `settings`. `client` must not pass `guard`, which is what the Lease opens.
    pub fn new(client: Client, settings: Settings, guard: Guard) -> Self {
        Self { api: Api::namespaced(client, &settings.namespace), settings, guard, seen: None }
    }

    /// Stands by until the Lease is held; `standing_by` is called whenever somebody else was seen to hold it.
    pub async fn acquire(&mut self, standing_by: impl Fn()) {
        let mut told = String::new();
        loop {
            match self.try_hold().await {
                Ok(None) => {
                    tracing::info!(lease = self.settings.name, identity = self.settings.identity, "leads");
                    return;
                }
                Ok(Some(holder)) => {
                    standing_by();
                    if told != holder {
                        tracing::info!(lease = self.settings.name, holder, "stands by");
                        told = holder;
                    }
                }
                Err(error) => tracing::warn!(lease = self.settings.name, %error, "the lease cannot be read or written"),
            }
            sleep(self.settings.retry_period).await;
        }
    }

    /// Renews the Lease until it is lost, which closes the guard. Gives the reason.
    pub async fn hold(&mut self) -> String {
        let mut failed = STOPPED.to_owned();
        loop {
            sleep(self.settings.retry_period).await;
            match self.guard.left() {
                // Woken late: somebody else may lead by now.
                None => return self.lost(failed),
                Some(left) => match timeout(left, self.try_hold()).await {
                    Ok(Ok(None)) => failed = STOPPED.to_owned(),
                    Ok(Ok(Some(holder))) => return self.lost(format!("{holder} holds it")),
                    Ok(Err(error)) => {
                        tracing::warn!(lease = self.settings.name, %error, "the lease was not renewed");
                        failed = format!("not renewed in time: {error}");
                    }
                    Err(_) => return self.lost("not renewed in time: the API server does not answer".to_owned()),
                },
            }
        }
    }

    fn lost(&self, why: String) -> String {
        self.guard.close();
        why
    }

    /// Gives the Lease back, so that another one need not wait for its end. Call it when nothing writes any more.
    pub async fn release(&mut self) {
        self.guard.close();
        if let Err(error) = timeout(self.settings.retry_period, self.give_back()).await.unwrap_or(Ok(())) {
            // It ends by itself.
            tracing::warn!(lease = self.settings.name, %error, "the lease was not given back");
        }
    }

    async fn give_back(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.settings.name).await? else { return Ok(()) };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(self.settings.identity.as_str()) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        self.api.replace(&self.settings.name, &parameters(), &lease).await?;
        tracing::info!(lease = self.settings.name, "gave the lease back");
        Ok(())
    }

    /// One try to take or renew the Lease: nothing when it is held now, else who holds it.
    async fn try_hold(&mut self) -> Result<Option<String>, kube::Error> {
        let found = self.api.get_opt(&self.settings.name).await?;
        let version = found.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        let seen = match self.seen.take().filter(|seen| seen.version == version) {
            Some(seen) => seen,
            None => Seen { version, since: Instant::now() },
        };
        let unchanged = seen.since.elapsed();
        self.seen = Some(seen);
        let sent = Instant::now();
        let written = match claim(found.as_ref(), &self.settings, unchanged, Timestamp::now()) {
            Claim::Wait(holder) => return Ok(Some(holder)),
            Claim::Create(lease) => self.api.create(&parameters(), &lease).await,
            Claim::Replace(lease) => self.api.replace(&self.settings.name, &parameters(), &lease).await,
        };
        match written {
            Ok(_) => {
                self.guard.extend(sent, self.settings.renew_deadline);
                Ok(None)
            }
            // Somebody was faster; the next look says who.
            Err(kube::Error::Api(status)) if status.is_conflict() && self.guard.left().is_none() => {
                Ok(Some("another candidate".to_owned()))
            }
            Err(error) => Err(error),
        }
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(names::MANAGER.to_owned()), ..PostParams::default() }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    use http::{Method, Request, Response, StatusCode};
    use kube::client::Body;

    use super::*;

    fn settings(identity: &str) -> Settings {
        Settings {
            namespace: "ns".to_owned(),
            name: "lakehouse-operator".to_owned(),
            identity: identity.to_owned(),
            duration: Duration::from_secs(2),
            renew_deadline: Duration::from_millis(1_400),
            retry_period: Duration::from_millis(100),
        }
    }

    /// An API server with one Lease: what counts is that a write of an old version is refused.
    #[derive(Clone, Default)]
    struct Server {
        lease: Arc<Mutex<Option<Lease>>>,
        down: Arc<Mutex<bool>>,
    }

    impl Server {
        fn client(&self) -> Client {
            let server = self.clone();
            let service = tower::service_fn(move |request: Request<Body>| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            });
            Client::new(service, "ns")
        }

        fn holder(&self) -> String {
            let lease = self.lease.lock().expect("no panic").clone();
            lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default()
        }

        async fn answer(&self, request: Request<Body>) -> Response<Body> {
            let (head, body) = request.into_parts();
            let sent = body.collect_bytes().await.expect("a body");
            let answer =
                |code: StatusCode, body: String| Response::builder().status(code).body(Body::from(body.into_bytes())).expect("an answer");
            let refuse = |code: StatusCode, reason: &str| {
                let status = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code.as_u16()});
                answer(code, status.to_string())
            };
            if *self.down.lock().expect("no panic") {
                return refuse(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
            }
            let mut there = self.lease.lock().expect("no panic");
            let version = there.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
            if head.method == Method::GET {
                return match there.as_ref() {
                    Some(lease) => answer(StatusCode::OK, serde_json::to_string(lease).expect("JSON")),
                    None => refuse(StatusCode::NOT_FOUND, "NotFound"),
                };
            }
            let mut lease: Lease = serde_json::from_slice(&sent).expect("a Lease");
            if lease.metadata.resource_version != version {
                return refuse(StatusCode::CONFLICT, "Conflict");
            }
            let next = version.and_then(|version| version.parse::<u64>().ok()).unwrap_or_default() + 1;
            lease.metadata.resource_version = Some(next.to_string());
            let text = serde_json::to_string(&lease).expect("JSON");
            *there = Some(lease);
            answer(StatusCode::OK, text)
        }

        fn candidate(&self, identity: &str) -> (Elector, Guard) {
            let guard = Guard::closed();
            (Elector::new(self.client(), settings(identity), guard.clone()), guard)
        }
    }

    #[test]
    fn an_unchanged_lease_is_taken_after_its_duration_and_a_released_one_at_once() {
        let now = Timestamp::UNIX_EPOCH;
        let me = settings("me");
        let Claim::Create(mut lease) = claim(None, &settings("other"), Duration::ZERO, now) else { panic!("there is none") };
        assert_eq!(claim(Some(&lease), &me, Duration::from_millis(1_999), now), Claim::Wait("other".to_owned()));
        let Claim::Replace(taken) = claim(Some(&lease), &me, Duration::from_secs(2), now) else { panic!("it ended") };
        let spec = taken.spec.expect("a spec");
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("me"), Some(1)));
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
        }
        assert!(matches!(claim(Some(&lease), &me, Duration::ZERO, now), Claim::Replace(_)));
        // Renewing keeps when it was taken, and counts no transition.
        let Claim::Create(own) = claim(None, &me, Duration::ZERO, now) else { panic!("there is none") };
        let later = Timestamp::from_second(60).expect("a time");
        let Claim::Replace(renewed) = claim(Some(&own), &me, Duration::ZERO, later) else { panic!("it is ours") };
        let spec = renewed.spec.expect("a spec");
        assert_eq!((spec.acquire_time, spec.renew_time, spec.lease_transitions), (Some(MicroTime(now)), Some(MicroTime(later)), Some(0)));
    }

    #[tokio::test]
    async fn a_standby_takes_over_after_the_end_of_a_leader_and_not_before_it_stopped_writing() {
        let server = Server::default();
        let (mut first, writes) = server.candidate("first");
        first.acquire(|| panic!("nobody else is there")).await;
        assert!(writes.left().is_some());
        let (mut second, late) = server.candidate("second");
        let begun = Instant::now();
        // The first one is stopped: it renews no more.
        second.acquire(|| assert!(late.left().is_none())).await;
        assert!(writes.left().is_none(), "two write at the same time");
        assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
        // It wakes up.
        assert_eq!(first.hold().await, STOPPED);
        assert_eq!(server.holder(), "second");
        first.release().await;
        assert_eq!(server.holder(), "second", "only what is one's own is given back");
    }

    #[tokio::test]
    async fn a_released_lease_is_taken_at_the_next_look() {
        let server = Server::default();
        let (mut first, writes) = server.candidate("first");
        first.acquire(|| ()).await;
        let (mut second, _) = server.candidate("second");
        let released = async {
            sleep(Duration::from_millis(500)).await;
            first.release().await;
            assert!(writes.left().is_none());
            Instant::now()
        };
        let taken = async {
            second.acquire(|| ()).await;
            Instant::now()
        };
        let (released, taken) = tokio::join!(released, taken);
        assert!(taken - released < Duration::from_secs(1), "{:?}", taken - released);
    }

    #[tokio::test]
    async fn a_leader_outlives_a_short_outage_and_not_a_long_one() {
        let server = Server::default();
        let (mut leader, writes) = server.candidate("first");
        leader.acquire(|| ()).await;
        let down = |down| *server.down.lock().expect("no panic") = down;
        let weather = async {
            sleep(Duration::from_millis(500)).await;
            down(true);
            sleep(Duration::from_millis(500)).await;
            down(false);
            sleep(Duration::from_millis(2_000)).await;
            assert!(writes.left().is_some(), "it was renewed in time");
            down(true);
        };
        let (why, ()) = tokio::join!(leader.hold(), weather);
        assert!(why.starts_with("not renewed in time"), "{why}");
        assert!(writes.left().is_none());
    }
}
