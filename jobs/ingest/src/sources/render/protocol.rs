//! The DevTools protocol over two pipes: JSON, each message ended by a NUL.

use std::{
    collections::HashMap,
    io::{self, PipeReader, PipeWriter},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::unix::pipe,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// Longest message, in bytes: the largest are requests with a body, and parts of a document.
const MOST_BYTES: u64 = 64 << 20;
/// Events that somebody looks at; a page can cause any number of others.
const EVENTS: [&str; 5] =
    ["Fetch.requestPaused", "Inspector.targetCrashed", "Page.frameNavigated", "Page.javascriptDialogOpening", "Page.loadEventFired"];

/// Something that happened in a tab.
#[derive(Debug)]
pub struct Event {
    /// The session of the tab.
    pub session: String,
    /// Its name, such as `Page.loadEventFired`.
    pub method: String,
    /// What is known of it.
    pub params: Value,
}

/// Why a command has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// Chromium is gone.
    #[error("Chromium ended")]
    Gone,
    /// It refuses the command.
    #[error("Chromium refused {0}")]
    Refused(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message {
    id: Option<u64>,
    result: Option<Value>,
    error: Option<Value>,
    method: Option<String>,
    params: Option<Value>,
    session_id: Option<String>,
}

type Answered = oneshot::Sender<Result<Value, Fault>>;

/// Commands that wait for their results; none when nobody answers any more.
type Waiting = Arc<Mutex<Option<HashMap<u64, Answered>>>>;

/// A connection to a Chromium.
pub struct Connection {
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Waiting,
    last: AtomicU64,
    tasks: [JoinHandle<()>; 2],
}

impl Connection {
    /// A connection whose commands go to `commands`, and the events that come from `answers`.
    ///
    /// # Errors
    /// When they are no pipes.
    pub fn new(answers: PipeReader, commands: PipeWriter) -> io::Result<(Self, mpsc::UnboundedReceiver<Event>)> {
        let answers = pipe::Receiver::from_owned_fd(OwnedFd::from(answers))?;
        let commands = pipe::Sender::from_owned_fd(OwnedFd::from(commands))?;
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let (outgoing, queue) = mpsc::unbounded_channel();
        let (events, happened) = mpsc::unbounded_channel();
        let tasks = [tokio::spawn(write(commands, queue)), tokio::spawn(read(answers, waiting.clone(), events))];
        Ok((Self { outgoing, waiting, last: AtomicU64::new(0), tasks }, happened))
    }

    /// Sends a command, to the tab of `session` or to the browser, and waits for its result.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn call(&self, session: Option<&str>, method: &str, params: Value) -> Result<Value, Fault> {
        let (answered, result) = oneshot::channel();
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        lock(&self.waiting).as_mut().ok_or(Fault::Gone)?.insert(id, answered);
        self.send(id, session, method, params)?;
        result.await.map_err(|_| Fault::Gone)?
    }

    /// Sends a command whose result is of no interest: what it is about may be gone already.
    pub fn tell(&self, session: &str, method: &str, params: Value) {
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        // That Chromium is gone is noticed where it is waited for.
        let _ = self.send(id, Some(session), method, params);
    }

    fn send(&self, id: u64, session: Option<&str>, method: &str, params: Value) -> Result<(), Fault> {
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.outgoing.send(bytes).map_err(|_| Fault::Gone)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn lock(waiting: &Waiting) -> MutexGuard<'_, Option<HashMap<u64, Answered>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write(mut pipe: pipe::Sender, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(message) = queue.recv().await {
        if pipe.write_all(&message).await.is_err() {
            return;
        }
    }
}

async fn read(pipe: pipe::Receiver, waiting: Waiting, events: mpsc::UnboundedSender<Event>) {
    let mut pipe = BufReader::new(pipe);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let read = (&mut pipe).take(MOST_BYTES).read_until(0, &mut bytes).await;
        // The end, or a message that is too long to be taken: of what comes after it nothing can be believed.
        if read.is_err() || bytes.pop() != Some(0) {
            break;
        }
        let Ok(message) = serde_json::from_slice::<Message>(&bytes) else { break };
        if let Some(id) = message.id {
            let answered = lock(&waiting).as_mut().and_then(|waiting| waiting.remove(&id));
            if let Some(answered) = answered {
                let result = match message.error {
                    Some(error) => Err(Fault::Refused(error["message"].as_str().unwrap_or_default().to_owned())),
                    None => Ok(message.result.unwrap_or_default()),
                };
                // Whoever asked may have given up.
                let _ = answered.send(result);
            }
        } else if let (Some(method), Some(session)) = (message.method, message.session_id)
            && EVENTS.contains(&method.as_str())
        {
            let _ = events.send(Event { session, method, params: message.params.unwrap_or_default() });
        }
    }
    *lock(&waiting) = None;
}
