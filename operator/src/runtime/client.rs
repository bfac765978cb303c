//! The client of the API server. An answer that does not come is an error, not a wait: a connection that died in silence would otherwise keep
//! its object from being looked at for ever. A read whose connection was closed before its answer began is sent again: API servers and load
//! balancers close connections that are idle, and one of them may be closed in the instant in which it is taken for a read.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use futures::{
    FutureExt,
    future::{BoxFuture, Ready, ready},
};
use http::{Method, Request, Response, Uri};
use http_body::{Frame, SizeHint};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tower::{
    BoxError, Layer, Service,
    buffer::BufferLayer,
    retry::{Policy, RetryLayer},
};

use super::{
    guard::Guard,
    metrics::{CountRequests, Metrics},
};

/// Longest time from a request to the end of its answer. The answer to a watch has to begin in it; whether it still says something is seen by
/// who watches.
const PATIENCE: Duration = Duration::from_secs(30);

/// Requests that may wait to be taken, as many as the client itself lets wait.
const WAITING: usize = 1024;

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
    let builder = builder.with_layer(&CountRequests::new(metrics.clone())).with_layer(guard);
    // What sends again needs a service that it can clone.
    let builder = builder.with_layer(&BufferLayer::new(WAITING)).with_layer(&RetryLayer::new(ReadOnceMore { left: 1 }));
    Ok(builder.with_layer(&Patience(PATIENCE)).build())
}

/// The server did not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer of the API server within {} s", .0.as_secs_f32())]
struct NoAnswer(Duration);

/// Sends a GET once more whose connection ended without any of its answer.
#[derive(Clone, Copy, Debug)]
struct ReadOnceMore {
    left: u8,
}

impl<R> Policy<Request<Body>, R, BoxError> for ReadOnceMore {
    type Future = Ready<()>;

    fn retry(&mut self, request: &mut Request<Body>, result: &mut Result<R, BoxError>) -> Option<Self::Future> {
        let error = result.as_ref().err()?;
        let again = self.left > 0 && request.method() == Method::GET && connection_ended(error.as_ref());
        again.then(|| {
            self.left -= 1;
            ready(())
        })
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        (request.method() == Method::GET).then(|| {
            let mut again = Request::new(Body::empty());
            *again.method_mut() = request.method().clone();
            *again.uri_mut() = request.uri().clone();
            *again.headers_mut() = request.headers().clone();
            again
        })
    }
}

/// Whether an error says that a connection that had been made was closed or reset.
fn connection_ended(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    std::iter::successors(Some(error), |error| error.source()).any(|cause| {
        let of_hyper = cause.downcast_ref::<hyper::Error>().is_some_and(|error| error.is_incomplete_message() || error.is_canceled());
        let of_socket = cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof));
        of_hyper || of_socket
    })
}

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
    use std::sync::{Arc, Mutex};
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

    /// A server that answers the first request of each connection with `ok`, and closes at the second; and the requests that came.
    async fn forgetful() -> (Client, Arc<Mutex<Vec<String>>>) {
        lakehouse_storage::init_tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                for answers in [true, false] {
                    let mut request = [0; 4096];
                    let length = stream.read(&mut request).await.unwrap_or_default();
                    let words = String::from_utf8_lossy(&request[..length]).into_owned();
                    seen.lock().expect("no panic").push(words.lines().next().unwrap_or_default().to_owned());
                    if answers {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                }
            }
        });
        let config = Config::new(format!("http://{address}").parse().expect("an address"));
        let client = connect(config, &Guard::open(), &Metrics::new(1)).expect("a client");
        (client, asked)
    }

    #[tokio::test]
    async fn a_read_whose_connection_was_closed_is_sent_again_and_a_write_is_not() {
        let (client, asked) = forgetful().await;
        for path in ["/one", "/two"] {
            let request = Request::get(path).body(Vec::new()).expect("a request");
            assert_eq!(client.request_text(request).await.expect("an answer"), "ok");
        }
        let line = |text: &str| format!("{text} HTTP/1.1");
        assert_eq!(*asked.lock().expect("no panic"), [line("GET /one"), line("GET /two"), line("GET /two")]);
        let request = Request::delete("/three").body(Vec::new()).expect("a request");
        let error = client.request_text(request).await.expect_err("may have been done");
        let said = format!("{:#}", anyhow::Error::from(error));
        assert!(said.contains("connection closed before message completed"), "{said}");
        assert_eq!(asked.lock().expect("no panic").iter().filter(|line| line.starts_with("DELETE")).count(), 1);
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
