//! The last check before a write leaves the process: does it still hold the lease?
//!
//! It stands in the client itself, so that no controller can forget it. Reads always pass. What is checked is a deadline of the monotonic
//! clock, which goes on while a process is stopped: one that wakes up late finds it passed before it has heard anything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, FutureExt as _, TryFutureExt as _};
use http::{Method, Request};
use kube::client::Body;
use tower::{BoxError, Layer, Service};

/// Value of a deadline that never comes.
const ALWAYS: u64 = u64::MAX;

/// Whether this process may write. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Where the deadline counts from.
    origin: Instant,
    /// Nanoseconds after `origin` until which writes pass.
    until: AtomicU64,
}

/// A write that was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not sent: this operator does not hold the lease (any more)")]
pub struct NotLeader;

impl Guard {
    /// One that lets every write pass: an operator without leader election.
    pub fn open() -> Self {
        Self::until(ALWAYS)
    }

    /// One that lets no write pass before [`Self::extend`].
    pub fn closed() -> Self {
        Self::until(0)
    }

    fn until(until: u64) -> Self {
        Self(Arc::new(Inner { origin: Instant::now(), until: AtomicU64::new(until) }))
    }

    /// Writes pass for `length` after `since`, and no longer.
    pub fn extend(&self, since: Instant, length: Duration) {
        let until = (since + length).saturating_duration_since(self.0.origin).as_nanos();
        self.0.until.store(u64::try_from(until).unwrap_or(ALWAYS - 1), Ordering::Release);
    }

    /// No write passes any more.
    pub fn close(&self) {
        self.0.until.store(0, Ordering::Release);
    }

    /// How long writes still pass; nothing when they do not.
    pub fn left(&self) -> Option<Duration> {
        let until = self.0.until.load(Ordering::Acquire);
        if until == ALWAYS {
            return Some(Duration::MAX);
        }
        let left = Duration::from_nanos(until).checked_sub(self.0.origin.elapsed())?;
        (!left.is_zero()).then_some(left)
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: self.clone(), inner }
    }
}

/// A service behind a [`Guard`].
#[derive(Debug)]
pub struct Guarded<S> {
    guard: Guard,
    inner: S,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + 'static,
    S::Response: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if !reads && self.guard.left().is_none() {
            return futures::future::ready(Err(NotLeader.into())).boxed();
        }
        self.inner.call(request).map_err(Into::into).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_pass_until_the_deadline() {
        let guard = Guard::closed();
        assert_eq!(guard.left(), None);
        let hour = Duration::from_secs(3_600);
        guard.extend(Instant::now(), hour);
        assert!(guard.left().is_some_and(|left| left <= hour));
        // Counted from when the renewal was sent, however long its answer took.
        let Some(before) = Instant::now().checked_sub(Duration::from_millis(50)) else { return };
        let late = Guard::closed();
        late.extend(before, Duration::from_millis(40));
        assert_eq!(late.left(), None);
        late.extend(before, Duration::from_millis(100));
        assert!(late.left().is_some_and(|left| left <= Duration::from_millis(50)));
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(late.left(), None);
        guard.close();
        assert_eq!(guard.left(), None);
        assert_eq!(Guard::open().left(), Some(Duration::MAX));
    }

    #[tokio::test]
    async fn reads_always_pass_and_writes_only_for_the_leader() {
        let guard = Guard::closed();
        let inner = tower::service_fn(async |_: Request<Body>| Ok::<_, std::convert::Infallible>(()));
        let mut service = guard.layer(inner);
        let mut send = async |method: Method| {
            let request = Request::builder().method(method).body(Body::empty()).expect("a request");
            service.call(request).await.map_err(|error| error.downcast_ref::<NotLeader>().copied())
        };
        let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        for method in writes.clone() {
            assert_eq!(send(method).await, Err(Some(NotLeader)));
        }
        assert_eq!(send(Method::GET).await, Ok(()));
        guard.extend(Instant::now(), Duration::from_secs(60));
        for method in writes {
            assert_eq!(send(method).await, Ok(()));
        }
    }
}
