//! Requests to the API server, counted where they leave.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use http::{Request, Response};
use tower::{Layer, Service};

use super::Metrics;

/// A layer of a client that counts requests by verb and status code.
#[derive(Clone, Debug)]
pub struct CountRequests(Metrics);

impl CountRequests {
    /// Counts into `metrics`.
    pub const fn new(metrics: Metrics) -> Self {
        Self(metrics)
    }
}

impl<S> Layer<S> for CountRequests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, metrics: self.0.clone() }
    }
}

/// A service whose requests are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    metrics: Metrics,
}

impl<S, A, B> Service<Request<A>> for Counted<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let verb = verb(request.method(), request.uri().query().unwrap_or_default());
        let metrics = self.metrics.clone();
        let clock = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = answer.as_ref().map_or_else(|_| "none".to_owned(), |answer| answer.status().as_u16().to_string());
            metrics.requested(verb, code, clock.elapsed().as_secs_f64());
            answer
        })
    }
}

impl Metrics {
    fn requested(&self, verb: &'static str, code: String, seconds: f64) {
        self.shared.requests.get_or_create(&[("verb", verb.to_owned()), ("code", code)]).inc();
        self.shared.request_seconds.get_or_create(&[("verb", verb)]).observe(seconds);
    }
}

/// The verb as audit logs of the API server have it, but for `list`, which is a `get` here.
fn verb(method: &http::Method, query: &str) -> &'static str {
    match *method {
        http::Method::GET if query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1") => "watch",
        http::Method::GET => "get",
        http::Method::POST => "create",
        http::Method::PUT => "update",
        http::Method::PATCH => "patch",
        http::Method::DELETE => "delete",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_counted_by_verb_and_code() {
        let metrics = Metrics::new(1);
        let answers = tower::service_fn(|request: Request<()>| async move {
            match request.uri().path() {
                "/away" => Err("nobody is there"),
                _ => Ok(Response::builder().status(409).body(()).expect("a response")),
            }
        });
        let mut service = CountRequests::new(metrics.clone()).layer(answers);
        let ask = |method: &str, uri: &str| Request::builder().method(method).uri(uri).body(()).expect("a request");
        let _ = service.call(ask("PUT", "/a")).await;
        let _ = service.call(ask("GET", "/a?labelSelector=x&watch=true")).await;
        let _ = service.call(ask("GET", "/away")).await;
        let text = metrics.text();
        for line in [
            "lakehouse_api_requests_total{verb=\"update\",code=\"409\"} 1",
            "lakehouse_api_requests_total{verb=\"watch\",code=\"409\"} 1",
            "lakehouse_api_requests_total{verb=\"get\",code=\"none\"} 1",
            "lakehouse_api_request_duration_seconds_count{verb=\"update\"} 1",
        ] {
            assert!(text.lines().any(|there| there == line), "{line}\n{text}");
        }
    }
}
