//! Brings events to a file and to an endpoint, within bounds.

use std::{io::Write, time::Duration};

use lakehouse_contract::{LineageEndpoint, LineageSpec};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

/// First pause before an event is sent again; it doubles.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Where events go.
#[derive(Clone, Debug)]
pub struct Delivery {
    to: LineageSpec,
    token: Option<String>,
}

impl Delivery {
    /// Delivery as `to` says, with the token that `environment` has for it.
    pub fn new(to: &LineageSpec, environment: impl Fn(&str) -> Option<String>) -> Self {
        let name = to.http.as_ref().and_then(|http| http.token_env.as_deref());
        Self { to: to.clone(), token: name.and_then(environment) }
    }

    /// Delivers one event.
    ///
    /// # Errors
    /// One line, without the token, that says what did not get the event. Both places are tried.
    pub async fn send(&self, event: &Value) -> Result<(), String> {
        let mut faults = Vec::new();
        if let Some(path) = &self.to.file
            && let Err(error) = append(path, event)
        {
            faults.push(format!("{path}: {error}"));
        }
        if let Some(endpoint) = &self.to.http
            && let Err(fault) = self.post(endpoint, event).await
        {
            faults.push(format!("{}: {fault}", endpoint.url));
        }
        if faults.is_empty() { Ok(()) } else { Err(format!("lineage event not delivered: {}", faults.join("; "))) }
    }

    /// Posts an event until it is taken, refused, or the time is over.
    async fn post(&self, endpoint: &LineageEndpoint, event: &Value) -> Result<(), String> {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirect could bring the token to another host.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| error.to_string())?;
        let limit = Duration::from_secs(endpoint.timeout_seconds);
        let deadline = Instant::now() + limit;
        let mut pause = PAUSE;
        let mut last = "no answer".to_owned();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut request = client.post(endpoint.url.clone()).header("content-type", "application/json").body(event.to_string());
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            match timeout(left, request.send()).await {
                Err(_) => {}
                Ok(Ok(answer)) if answer.status().is_success() => return Ok(()),
                Ok(Ok(answer)) => {
                    let status = answer.status();
                    if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS && status != StatusCode::REQUEST_TIMEOUT {
                        return Err(format!("refused with {status}"));
                    }
                    last = format!("answered {status}");
                }
                Ok(Err(error)) => last = what_failed(&error).to_owned(),
            }
            if Instant::now() + pause >= deadline {
                return Err(format!("{last} within {} s", limit.as_secs()));
            }
            sleep(pause).await;
            pause *= 2;
        }
    }
}

/// What a request failed by, in words of ours: the library's have the URL again.
fn what_failed(error: &reqwest::Error) -> &'static str {
    if error.is_connect() {
        "no connection"
    } else if error.is_timeout() {
        "no answer"
    } else {
        "the connection broke"
    }
}

/// Adds one line to a file, in one write, so that lines of several processes do not mix.
fn append(path: &str, event: &Value) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("{event}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    /// A server that answers its first requests with these statuses, the last one for ever; and what it was sent.
    async fn server(statuses: &'static [u16]) -> (url::Url, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/api/v1/lineage", listener.local_addr().unwrap()).parse().unwrap();
        let (send, receive) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            for number in 0.. {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let mut text = String::new();
                let mut buffer = [0; 4096];
                while !text.ends_with('}') {
                    let read = stream.read(&mut buffer).await.unwrap();
                    text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
                }
                let _ = send.send(text);
                let status = statuses[number.min(statuses.len() - 1)];
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (url, receive)
    }

    fn delivery(url: url::Url) -> Delivery {
        let http = LineageEndpoint { url, token_env: Some("TOKEN".into()), timeout_seconds: 2 };
        let to = LineageSpec { namespace: "test".into(), http: Some(http), file: None, running_seconds: 30 };
        Delivery::new(&to, |name| (name == "TOKEN").then(|| "sesame".to_owned()))
    }

    #[tokio::test]
    async fn an_endpoint_that_is_busy_is_asked_again_with_the_token() {
        let (url, mut requests) = server(&[503, 429, 201]).await;
        delivery(url).send(&serde_json::json!({"a": 1})).await.unwrap();
        for _ in 0..3 {
            let request = requests.recv().await.unwrap();
            assert!(request.starts_with("POST /api/v1/lineage ") && request.ends_with("{\"a\":1}"), "{request}");
            assert!(request.to_lowercase().contains("authorization: bearer sesame"), "{request}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_final_and_said_without_the_token() {
        let (url, mut requests) = server(&[422]).await;
        let fault = delivery(url).send(&serde_json::json!({})).await.unwrap_err();
        assert!(fault.contains("refused with 422") && !fault.contains("sesame"), "{fault}");
        requests.recv().await.unwrap();
        assert!(requests.try_recv().is_err(), "it was asked once");
    }

    #[tokio::test]
    async fn an_endpoint_that_is_down_is_given_up_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        // It takes connections and never answers.
        let begun = Instant::now();
        let fault = delivery(url).send(&serde_json::json!({})).await.unwrap_err();
        assert!(fault.contains("no answer within 2 s"), "{fault}");
        assert!(begun.elapsed() < Duration::from_secs(4));
    }
}
