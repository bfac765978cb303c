//! The log of the attempt under way: what its lines say, and the copy of them that outlives the pod.
//!
//! A pod is deleted with its log, and so is that of a node which is gone. So every line is kept here too, within bounds, and put beside the
//! attempt's report: every half minute while it works, for the attempt that is killed, and at its end. No line holds a credential that this
//! process was given: what the environment has of them is blotted out before a line is written anywhere.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use lakehouse_contract::{StageSpec, env, keys};
use lakehouse_storage::{LayerStore, Storage};
use tokio::task::JoinHandle;
use tracing_subscriber::fmt::MakeWriter;

use crate::layer_of;

/// Bytes of the first lines that are kept: how an attempt began says what it was.
const HEAD: usize = 256 << 10;
/// Bytes of the newest lines that are kept: how it ended says why.
const TAIL: usize = 1 << 20;
/// Longest line that is kept.
const LONGEST: usize = 64 << 10;
/// How often the lines of an attempt at work are put to the store, when there are new ones.
const EVERY: Duration = Duration::from_secs(30);
/// Longest time for putting them at its end, within the grace that a pod has after SIGTERM.
const LIMIT: Duration = Duration::from_secs(8);
/// Values of the environment shorter than this are no secrets: blotting them out would make lines unreadable.
const SHORTEST_SECRET: usize = 6;
/// What stands in place of a credential.
const BLOT: &str = "***";

static JOURNAL: LazyLock<Journal> = LazyLock::new(|| Journal::new(credentials(std::env::vars())));

/// Lines of this process, one JSON object each.
#[derive(Debug)]
struct Journal {
    kept: Mutex<Kept>,
    trace: RwLock<Option<String>>,
    secrets: RwLock<Vec<String>>,
}

/// The first and the newest lines of an attempt.
#[derive(Debug, Default)]
struct Kept {
    head: Vec<u8>,
    head_full: bool,
    tail: VecDeque<Vec<u8>>,
    tail_bytes: usize,
    left_out: u64,
    /// Changes with every line.
    version: u64,
    /// Whether an attempt has begun since the process did.
    begun: bool,
}

impl Journal {
    fn new(secrets: Vec<String>) -> Self {
        Self { kept: Mutex::default(), trace: RwLock::default(), secrets: RwLock::new(secrets) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic elsewhere leaves whole lines.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `line`, with the trace and without credentials.
    fn dressed(&self, line: &[u8]) -> Vec<u8> {
        let mut text = String::from_utf8_lossy(line).into_owned();
        for secret in self.secrets.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), BLOT);
            }
        }
        let trace = self.trace.read().unwrap_or_else(PoisonError::into_inner);
        if let (Some(trace), Some(open)) = (trace.as_ref(), text.trim_end().strip_suffix('}')) {
            text = format!("{open},\"trace_id\":\"{trace}\"}}\n");
        }
        text.into_bytes()
    }

    fn begin(&self, trace: &str) {
        *self.trace.write().unwrap_or_else(PoisonError::into_inner) = Some(trace.to_owned());
        let mut kept = self.kept();
        // What a pod said before its attempt began (a spec that cannot be read) belongs to it; on a laptop several attempts follow each other.
        if kept.begun {
            *kept = Kept { version: kept.version, ..Kept::default() };
        }
        kept.begun = true;
    }
}

impl Kept {
    fn add(&mut self, line: Vec<u8>) {
        self.version += 1;
        if line.len() > LONGEST {
            self.left_out += 1;
            return;
        }
        if !self.head_full && self.head.len() + line.len() <= HEAD {
            self.head.extend(line);
            return;
        }
        self.head_full = true;
        self.tail_bytes += line.len();
        self.tail.push_back(line);
        while self.tail_bytes > TAIL
            && let Some(oldest) = self.tail.pop_front()
        {
            self.tail_bytes -= oldest.len();
            self.left_out += 1;
        }
    }

    fn text(&self) -> Vec<u8> {
        let mut text = self.head.clone();
        if self.left_out > 0 {
            let line = serde_json::json!({"level": "WARN", "message": "lines are left out here", "lines": self.left_out});
            text.extend(format!("{line}\n").into_bytes());
        }
        self.tail.iter().for_each(|line| text.extend(line));
        text
    }
}

/// Writes lines into the journal and, in a pod, to standard error.
#[derive(Clone, Copy, Debug)]
pub struct JournalWriter {
    echo: bool,
}

impl JournalWriter {
    /// One that writes to standard error too (`echo`), or only keeps lines.
    pub const fn new(echo: bool) -> Self {
        Self { echo }
    }
}

impl Write for JournalWriter {
    /// `line` is a whole line: formatters write an event at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let dressed = JOURNAL.dressed(line);
        let written = if self.echo { io::stderr().write_all(&dressed) } else { Ok(()) };
        JOURNAL.kept().add(dressed);
        written.map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.echo { io::stderr().flush() } else { Ok(()) }
    }
}

impl MakeWriter<'_> for JournalWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

/// Further values that no line may hold, such as tokens that came from a file.
pub fn conceal(values: impl IntoIterator<Item = String>) {
    let mut secrets = JOURNAL.secrets.write().unwrap_or_else(PoisonError::into_inner);
    secrets.extend(values.into_iter().flat_map(forms));
    order(&mut secrets);
}

/// The lines of one attempt, put to the store while it works.
pub(crate) struct Archive {
    place: Option<(LayerStore, String)>,
    keeper: JoinHandle<()>,
}

impl Archive {
    /// An attempt begins, of a run with this trace.
    pub(crate) fn begin(spec: &StageSpec, storage: &Storage, trace: &str) -> Self {
        JOURNAL.begin(trace);
        let key = keys::log(&spec.pipeline, &spec.run.id, spec.stage(), spec.attempt);
        let place = storage.layer(layer_of(spec.stage())).ok().map(|layer| (layer.clone(), key));
        Self { keeper: tokio::spawn(keep(place.clone())), place }
    }

    /// It ended: what it said last is put too. That it cannot be is no fault of the attempt.
    pub(crate) async fn end(self) {
        self.keeper.abort();
        // A put under way would else come after the last one.
        let _ = self.keeper.await;
        let Some((layer, key)) = self.place else { return };
        let text = JOURNAL.kept().text();
        // Nothing is kept where no subscriber writes here: in tests, and in programs that log for themselves.
        if text.is_empty() {
            return;
        }
        match tokio::time::timeout(LIMIT, layer.put(&key, text)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, key, "the log could not be put to the store"),
            Err(_) => tracing::warn!(key, "the log could not be put to the store within {} s", LIMIT.as_secs()),
        }
    }
}

async fn keep(place: Option<(LayerStore, String)>) {
    let Some((layer, key)) = place else { return };
    let mut put = 0;
    loop {
        tokio::time::sleep(EVERY).await;
        let (version, text) = {
            let kept = JOURNAL.kept();
            if kept.version == put {
                continue;
            }
            (kept.version, kept.text())
        };
        // The next time, or the end, tries again.
        if layer.put(&key, text).await.is_ok() {
            put = version;
        }
    }
}

/// The credentials among variables of an environment.
fn credentials(variables: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let mut found: Vec<String> = variables
        .filter_map(|(name, value)| match name.as_str() {
            env::SECRET_ACCESS_KEY | "AWS_SESSION_TOKEN" | env::LINEAGE_TOKEN => Some(value),
            env::CATALOG_URI => password(&value),
            name if name.starts_with("LAKEHOUSE_CONNECTION_") && name.ends_with("_TOKEN") => Some(value),
            _ => None,
        })
        .flat_map(forms)
        .collect();
    order(&mut found);
    found
}

/// The password of a URI such as `postgresql://user:password@host/catalog`, as it stands there.
fn password(uri: &str) -> Option<String> {
    let (_, rest) = uri.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user, _) = authority.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password.to_owned())
}

/// A value as it is and as it stands within JSON.
fn forms(value: String) -> Vec<String> {
    let value = value.trim().to_owned();
    if value.len() < SHORTEST_SECRET {
        return Vec::new();
    }
    let quoted = serde_json::to_string(&value).unwrap_or_default();
    let within = quoted.trim_start_matches('"').trim_end_matches('"').to_owned();
    if within == value { vec![value] } else { vec![within, value] }
}

/// The longest first: one may be a part of another.
fn order(secrets: &mut Vec<String>) {
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_trace_and_no_credential() {
        let environment = [
            ("AWS_SECRET_ACCESS_KEY", "canary-key"),
            ("LAKEHOUSE_CATALOG_URI", "postgresql://me:canary-password@db:5432/catalog"),
            ("LAKEHOUSE_CONNECTION_SHOP_TOKEN", "canary\"token"),
            ("LAKEHOUSE_LINEAGE_TOKEN", "short"),
            ("HOME", "/home/canary"),
        ];
        let journal = Journal::new(credentials(environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()))));
        let line = "{\"message\":\"canary-key canary-password canary\\\"token short /home/canary\"}\n";
        let before: serde_json::Value = serde_json::from_slice(&journal.dressed(line.as_bytes())).expect("it is JSON");
        assert_eq!(before, serde_json::json!({"message": "*** *** *** short /home/canary"}));
        journal.begin("0af7651916cd43dd8448eb211c80319c");
        let after: serde_json::Value = serde_json::from_slice(&journal.dressed(b"{\"level\":\"INFO\"}\n")).expect("it is JSON");
        assert_eq!(after, serde_json::json!({"level": "INFO", "trace_id": "0af7651916cd43dd8448eb211c80319c"}));
        assert_eq!(journal.dressed(b"no object\n"), b"no object\n");
    }

    #[test]
    fn the_first_and_the_newest_lines_stay() {
        let mut kept = Kept::default();
        let line = |number: usize| format!("{{\"number\":{number:0>100}}}\n");
        for number in 0..20_000 {
            kept.add(line(number).into_bytes());
        }
        kept.add(vec![b'x'; LONGEST + 1]);
        let text = String::from_utf8(kept.text()).expect("it is text");
        assert!(text.len() <= HEAD + TAIL + 200, "{}", text.len());
        assert!(text.starts_with(&line(0)) && text.ends_with(&line(19_999)));
        let lines = text.lines().count() - 1;
        let marked = format!("\"lines\":{}", 20_001 - lines);
        assert!(text.contains(&marked), "{marked}");
    }

    #[test]
    fn an_attempt_has_its_own_lines() {
        let journal = Journal::new(Vec::new());
        journal.kept().add(b"before\n".to_vec());
        journal.begin("a");
        journal.kept().add(b"first\n".to_vec());
        assert_eq!(journal.kept().text(), b"before\nfirst\n");
        journal.begin("b");
        assert_eq!(journal.kept().text(), b"");
    }
}
