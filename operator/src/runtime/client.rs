//! The client of the API server. An answer that does not come is an error, not a wait: a connection that died in silence would otherwise keep
//! its object from being looked at for ever.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response, Uri};
use http_body::{Frame, SizeHint};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tower::{BoxError, Layer, Service};

use super::{
    guard::Guard,
    metrics::{CountRequests, Metrics},
};

/// Longest time from a request to the end of its answer. The answer to a watch has to begin in it; whether it still says something is seen by
/// who watches.
const PATIENCE: Duration = Duration::from_secs(30);

/// The cluster that the process runs in, or that the kubeconfig names.
///
/// # Errors
/// When there is neither.
pub async fn cluster() -> anyhow::Result<Config> {
    Config::infer().await.context("no API server: neither in a cluster nor a usable kubeconfig")
}

/// A client for `cluster` whose writes pass `guard`; what is sent is counted in `metrics`.
///
/// # Errors
/// When address or credentials cannot be used.
pub fn connect(mut cluster: Config, guard: &Guard, metrics: &Metrics) -> anyhow::Result<Client> {
    // By default the client holds a request back after 429, 503 and 504, for as long as the server says, and sends it again unseen, behind
    // the guard. An error makes the controller look again instead.
    cluster.default_retry = false;
    let builder = ClientBuilder::try_from(cluster).context("the API server's address or credentials cannot be used")?;
    Ok(builder.with_layer(&CountRequests::new(metrics.clone())).with_layer(guard).with_layer(&Patience(PATIENCE)).build())
}

/// The server did not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer of the API server within {} s", .0.as_secs_f32())]
struct NoAnswer(Duration);

/// Gives every request this time.
#[derive(Clone, Copy, Debug)]
struct Patience(Duration);

impl<S> Layer<S> for Patience {
    type Service = Patient<S>;

    fn layer(&self, inner: S) -> Patient<S> {
        Patient { inner, patience: self.0 }
    }
}

#[derive(Clone, Debug)]
struct Patient<S> {
    inner: S,
    patience: Duration,
}

impl<S, B> Service<Request<Body>> for Patient<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Send + 'static,
{
    type Response = Response<Limited<B>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (patience, deadline, goes_on) = (self.patience, Instant::now() + self.patience, goes_on(request.uri()));
        let answer = self.inner.call(request);
        async move {
            let answer = timeout_at(deadline, answer).await.map_err(|_| NoAnswer(patience))?.map_err(Into::into)?;
            let limit = (!goes_on).then(|| (Box::pin(sleep_until(deadline)), patience));
            Ok(answer.map(|body| Limited { inner: Box::pin(body), limit }))
        }
        .boxed()
    }
}

/// Watches and logs that are followed end at some time or never.
fn goes_on(uri: &Uri) -> bool {
    let flags = uri.query().unwrap_or_default().split('&');
    flags.into_iter().any(|flag| matches!(flag.split_once('='), Some(("watch" | "follow", value)) if value != "false" && value != "0"))
}

/// A body that has to end in time.
struct Limited<B> {
    inner: Pin<Box<B>>,
    limit: Option<(Pin<Box<Sleep>>, Duration)>,
}

impl<B> http_body::Body for Limited<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = this.inner.as_mut().poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some((limit, patience)) = &mut this.limit else { return Poll::Pending };
        limit.as_mut().poll(context).map(|()| Some(Err(NoAnswer(*patience).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    /// A client of a server that says only `words` to every connection, and then nothing.
    async fn client(words: &'static str) -> Client {
        lakehouse_storage::init_tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(words.as_bytes()).await;
                kept.push(stream);
            }
        });
        let config = Config::new(format!("http://{address}").parse().expect("an address"));
        let builder = ClientBuilder::try_from(config).expect("a client");
        builder.with_layer(&Patience(Duration::from_millis(100))).build()
    }

    async fn asked(words: &'static str, uri: &str) -> Result<String, String> {
        let request = Request::get(uri).body(Vec::new()).expect("a request");
        let client = client(words).await;
        match tokio::time::timeout(Duration::from_secs(1), client.request_text(request)).await {
            Ok(answer) => answer.map_err(|error| format!("{:#}", anyhow::Error::from(error))),
            Err(_) => Err("still waiting".to_owned()),
        }
    }

    #[tokio::test]
    async fn silence_is_an_error_before_and_within_an_answer() {
        for words in ["", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"] {
            let error = asked(words, "/api/v1/namespaces/ns/pods").await.expect_err("no answer");
            assert!(error.contains("no answer of the API server within 0.1 s"), "{error}");
            let watched = asked(words, "/api/v1/namespaces/ns/pods?&watch=true&timeoutSeconds=290").await;
            let expected = if words.is_empty() { Err(error) } else { Err("still waiting".to_owned()) };
            assert_eq!(watched, expected);
        }
        let whole = asked("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhalf", "/version").await;
        assert_eq!(whole, Ok("half".to_owned()));
    }
}
