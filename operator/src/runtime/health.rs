//! `/healthz`: the process answers. `/readyz`: the caches of every namespace are filled, or another operator leads and this one stands by.
//! `/metrics`: for Prometheus.

use std::{
    net::SocketAddr,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::metrics::{self, Metrics};

/// Longest time one request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often a probe asks, and its pause between two questions: a minute in all where connections are refused at once.
const PROBES: usize = 30;
const PROBE_PAUSE: Duration = Duration::from_secs(2);
/// Most bytes read of a request; its first line is enough.
const REQUEST_BYTES: usize = 1024;

/// Counts the namespaces whose caches are not filled yet.
#[derive(Debug)]
pub struct Health {
    pending: AtomicUsize,
    stands_by: AtomicBool,
}

impl Health {
    /// Not ready before `namespaces` of them have called [`Self::namespace_ready`].
    pub fn new(namespaces: usize) -> Self {
        Self { pending: AtomicUsize::new(namespaces), stands_by: AtomicBool::new(false) }
    }

    /// The caches of one namespace are filled.
    pub fn namespace_ready(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether another operator leads, whose place this one would take.
    pub fn stands_by(&self, stands_by: bool) {
        self.stands_by.store(stands_by, Ordering::Relaxed);
    }

    fn answer(&self, path: &str, metrics: &Metrics) -> Answer {
        match path.split('?').next().unwrap_or_default() {
            "/healthz" => Answer::text("200 OK", "ok\n"),
            "/readyz" if self.pending.load(Ordering::Relaxed) == 0 => Answer::text("200 OK", "ok\n"),
            "/readyz" if self.stands_by.load(Ordering::Relaxed) => Answer::text("200 OK", "stands by\n"),
            "/readyz" => Answer::text("503 Service Unavailable", "caches are not filled yet\n"),
            "/metrics" => Answer { status: "200 OK", content_type: metrics::CONTENT_TYPE, body: metrics.text() },
            _ => Answer::text("404 Not Found", "there are /healthz, /readyz and /metrics\n"),
        }
    }
}

/// An answer to a request.
struct Answer {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

impl Answer {
    fn text(status: &'static str, body: &str) -> Self {
        Self { status, content_type: "text/plain", body: body.to_owned() }
    }
}

/// Answers on `address` until the handle is aborted.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(address: SocketAddr, health: Arc<Health>, metrics: Metrics) -> anyhow::Result<JoinHandle<()>> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (health, metrics) = (Arc::clone(&health), metrics.clone());
                    tokio::spawn(async move {
                        // A probe that hangs up or hangs harms nobody but itself.
                        let _ = tokio::time::timeout(TIMEOUT, respond(stream, &health, &metrics)).await;
                    });
                }
                // Out of file descriptors, most likely: pause instead of spinning.
                Err(error) => {
                    tracing::warn!(%error, "health endpoint");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }))
}

async fn respond(mut stream: TcpStream, health: &Health, metrics: &Metrics) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(REQUEST_BYTES);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_BYTES {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let text = String::from_utf8_lossy(&request);
    let path = text.split_whitespace().nth(1).unwrap_or_default();
    let Answer { status, content_type, body } = health.answer(path, metrics);
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// Asks the operator at `target` (host:port) until it says that it is ready.
///
/// # Errors
/// When it has not within a minute, with its last answer.
pub async fn probe(target: &str) -> anyhow::Result<()> {
    let mut last = String::new();
    for _ in 0..PROBES {
        last = match tokio::time::timeout(TIMEOUT, ask(target)).await {
            Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200") => {
                tracing::info!(target, "the operator is ready");
                return Ok(());
            }
            Ok(Ok(answer)) => answer.lines().last().unwrap_or("an empty answer").to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", TIMEOUT.as_secs()),
        };
        tokio::time::sleep(PROBE_PAUSE).await;
    }
    anyhow::bail!("the operator at {target} is not ready: {last}")
}

async fn ask(target: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(format!("GET /readyz HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("the endpoint listens");
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    #[tokio::test]
    async fn ready_when_every_namespace_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let health = Arc::new(Health::new(2));
        let server = serve(address, Arc::clone(&health), Metrics::new(1)).await.expect("it starts");
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        health.stands_by(true);
        assert!(get(address, "/readyz").await.ends_with("stands by\n"));
        health.stands_by(false);
        health.namespace_ready();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        health.namespace_ready();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        probe(&address.to_string()).await.expect("it is ready");
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
        let metrics = get(address, "/metrics").await;
        assert!(metrics.contains("openmetrics-text") && metrics.ends_with("# EOF\n"), "{metrics}");
        server.abort();
    }
}
