//! As much of an API server as the commands for clusters talk to, over HTTP on loopback: runs that are listed, made, watched and patched, pods and
//! their logs, pipelines and events; and what goes wrong with a real one, on demand.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Longest wait for anything in a test.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a stream looks whether it shall end.
const TICK: Duration = Duration::from_millis(50);
/// The namespace of everything here.
pub const NAMESPACE: &str = "lake";

/// What the server holds, and how it misbehaves.
#[derive(Default)]
pub struct World {
    version: u64,
    stopped: bool,
    /// LakehousePipelines by name.
    pub pipelines: BTreeMap<String, Value>,
    /// Lakehouses by name.
    pub lakehouses: BTreeMap<String, Value>,
    /// LakehouseBackfills by name.
    pub backfills: BTreeMap<String, Value>,
    /// Events (events.k8s.io/v1).
    pub happened: Vec<Value>,
    /// LakehouseRuns by name.
    pub runs: BTreeMap<String, Value>,
    events: Vec<(u64, &'static str, Value)>,
    /// Pods by name.
    pub pods: BTreeMap<String, Value>,
    logs: BTreeMap<String, Vec<String>>,
    /// `METHOD path` of every request, watches as `WATCH path`.
    pub requests: Vec<String>,
    /// Connections are closed without an answer.
    pub away: bool,
    drops: u64,
    /// The next run is made by somebody else a moment before us.
    pub rival: bool,
    /// Code, reason and message for requests whose `METHOD path` has this in it.
    pub refused: Option<(&'static str, u16, &'static str, &'static str)>,
}

impl World {
    fn put(&mut self, event: &'static str, mut run: Value) -> Value {
        self.version += 1;
        run["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let name = run["metadata"]["name"].as_str().unwrap().to_owned();
        self.events.push((self.version, event, run.clone()));
        if event == "DELETED" {
            self.runs.remove(&name)
        } else {
            self.runs.insert(name, run.clone())
        };
        run
    }

    fn make(&mut self, mut run: Value) -> Value {
        run["metadata"]["uid"] = json!(format!("uid-{}", self.version + 1));
        run["metadata"]["namespace"] = json!(NAMESPACE);
        self.put("ADDED", run)
    }

    /// How many requests have this in `METHOD path`.
    pub fn count(&self, text: &str) -> usize {
        self.requests.iter().filter(|request| request.contains(text)).count()
    }
}

struct Shared {
    world: Mutex<World>,
    changed: Condvar,
}

/// The server; it ends with the value.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: String,
}

impl ApiServer {
    /// One with the pipeline `pulse`.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared { world: Mutex::default(), changed: Condvar::new() });
        let pipeline = json!({
            "apiVersion": "lakehouse.rs/v1alpha1", "kind": "LakehousePipeline", "metadata": {"name": "pulse", "namespace": NAMESPACE},
            "spec": {"lakehouse": "main", "interval": "daily", "parameters": {"limit": "20"}, "ingest": [{"name": "beat", "pulse": {"every": "60s"}}],
                "silver": [{"name": "pulses", "from": "beat", "write": {"append": {}}, "columns": [{"name": "id", "from": "/id", "type": "string"}]}]},
        });
        shared.world.lock().unwrap().pipelines.insert("pulse".to_owned(), pipeline);
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.world.lock().unwrap().stopped {
                    return;
                }
                let shared = Arc::clone(&accepting);
                // A client that went away is no failure of the server.
                thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Self { shared, address }
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self) -> String {
        let cluster = json!({"name": "c", "cluster": {"server": format!("http://{}", self.address)}});
        let context = json!({"name": "x", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}});
        let user = json!({"name": "u", "user": {}});
        json!({"apiVersion": "v1", "kind": "Config", "current-context": "x", "clusters": [cluster], "contexts": [context], "users": [user]})
            .to_string()
    }

    /// What it holds, to look at and to change.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().unwrap()
    }

    /// Waits until the world is so.
    pub fn until(&self, what: &str, is_so: impl Fn(&World) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(&self.world()) {
            assert!(Instant::now() < deadline, "still waiting for {what}: {:#?}", self.world().requests);
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A run that somebody made.
    pub fn add_run(&self, run: Value) {
        self.world().make(run);
        self.shared.changed.notify_all();
    }

    /// The operator writes a status.
    pub fn set_status(&self, run: &str, condition: (&str, &str, &str), stages: Value) {
        let mut world = self.world();
        let mut object = world.runs[run].clone();
        let condition = json!({"type": "Succeeded", "status": condition.0, "reason": condition.1, "message": condition.2, "lastTransitionTime": "2024-06-23T00:00:00Z"});
        object["status"] = json!({"conditions": [condition], "stages": stages, "rowsRead": 3, "rowsWritten": 2, "rowsQuarantined": 1});
        world.put("MODIFIED", object);
        self.shared.changed.notify_all();
    }

    /// Somebody deletes a run.
    pub fn delete(&self, run: &str) {
        let mut world = self.world();
        let object = world.runs[run].clone();
        world.put("DELETED", object);
        self.shared.changed.notify_all();
    }

    /// The pod of a Job, in this state (`running` or `terminated`).
    pub fn set_pod(&self, job: &str, state: &str) {
        let name = format!("{job}-pod");
        let state = if state == "running" { json!({"running": {}}) } else { json!({"terminated": {"exitCode": 0}}) };
        let status = json!({"name": "stage", "image": "i", "imageID": "i", "ready": true, "restartCount": 0, "state": state});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"job-name": job}},
            "spec": {"containers": [{"name": "stage"}]}, "status": {"containerStatuses": [status]}});
        self.world().pods.insert(name, pod);
        self.shared.changed.notify_all();
    }

    /// The pod of a Job writes a line.
    pub fn log(&self, job: &str, line: &str) {
        let mut world = self.world();
        let lines = world.logs.entry(format!("{job}-pod")).or_default();
        lines.push(format!("2024-06-22T00:00:00.{:03}Z {line}", lines.len()));
        self.shared.changed.notify_all();
    }

    /// Every watch and every log breaks.
    pub fn drop_streams(&self) {
        self.world().drops += 1;
        self.shared.changed.notify_all();
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Ok(mut world) = self.shared.world.lock() {
            world.stopped = true;
        }
        self.shared.changed.notify_all();
        // Wakes the accepting thread; it may be gone.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        reader.read_line(&mut line)?;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query: BTreeMap<String, String> = query.split('&').filter_map(|pair| pair.split_once('=')).map(decoded).collect();
        self.answer(reader.into_inner(), method, path, &query, body)
    }

    fn answer(&self, stream: TcpStream, method: &str, path: &str, query: &BTreeMap<String, String>, body: Value) -> std::io::Result<()> {
        let watched = query.get("watch").is_some_and(|watch| watch == "true" || watch == "1");
        let request = format!("{} {path}", if watched { "WATCH" } else { method });
        let mut world = self.world.lock().unwrap();
        world.requests.push(request.clone());
        if world.away {
            return Ok(());
        }
        if let Some((_, code, reason, message)) = world.refused.filter(|(part, ..)| request.contains(part)) {
            drop(world);
            return respond(stream, code, &status(code, reason, message, ""));
        }
        let parts: Vec<&str> = path.split('/').skip_while(|part| *part != "namespaces").skip(1).collect();
        assert_eq!(parts.first(), Some(&NAMESPACE), "{path}");
        let wanted = query.get("fieldSelector").and_then(|selector| selector.strip_prefix("metadata.name=")).map(str::to_owned);
        let label = query.get("labelSelector").and_then(|selector| selector.split_once('='));
        let (code, answer) = match (method, &parts[1..]) {
            ("GET", ["lakehousepipelines", name]) => found(world.pipelines.get(*name), "lakehousepipelines.lakehouse.rs", name),
            ("GET", ["lakehousepipelines"]) => {
                let items = world.pipelines.values().cloned().collect();
                (200, list("LakehousePipelineList", items, world.version))
            }
            ("GET", ["lakehouses", name]) => found(world.lakehouses.get(*name), "lakehouses.lakehouse.rs", name),
            ("GET", ["lakehousebackfills", name]) => found(world.backfills.get(*name), "lakehousebackfills.lakehouse.rs", name),
            ("GET", ["lakehousebackfills"]) => {
                let items = world.backfills.values().cloned().collect();
                (200, list("LakehouseBackfillList", items, world.version))
            }
            ("GET", ["events"]) => {
                let about = query.get("fieldSelector").and_then(|selector| selector.strip_prefix("regarding.name="));
                let named = |event: &&Value| about.is_none_or(|name| event["regarding"]["name"] == name);
                let items = world.happened.iter().filter(named).cloned().collect();
                (200, list("EventList", items, world.version))
            }
            ("GET", ["lakehouseruns"]) if watched => {
                drop(world);
                let from = query["resourceVersion"].parse().unwrap();
                return self.watch(stream, wanted.as_deref().unwrap(), from);
            }
            ("GET", ["lakehouseruns"]) => {
                let named = |run: &&Value| wanted.as_ref().is_none_or(|name| run["metadata"]["name"] == **name);
                let items: Vec<Value> = world.runs.values().filter(named).filter(|run| has(run, label)).cloned().collect();
                (200, list("LakehouseRunList", items, world.version))
            }
            ("GET", ["lakehouseruns", name]) => found(world.runs.get(*name), "lakehouseruns.lakehouse.rs", name),
            ("POST", ["lakehouseruns"]) => {
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                if std::mem::take(&mut world.rival) {
                    world.make(body.clone());
                }
                if world.runs.contains_key(&name) {
                    (409, status(409, "AlreadyExists", &format!("lakehouseruns.lakehouse.rs \"{name}\" already exists"), &name))
                } else {
                    (201, world.make(body))
                }
            }
            ("PATCH", ["lakehouseruns", name]) => {
                let mut run = world.runs[*name].clone();
                if body["metadata"]["uid"] == run["metadata"]["uid"] {
                    run["spec"]["state"] = body["spec"]["state"].clone();
                    (200, world.put("MODIFIED", run))
                } else {
                    (409, status(409, "Conflict", "the UID in the precondition does not match", name))
                }
            }
            ("GET", ["pods"]) => {
                let items = world.pods.values().filter(|pod| has(pod, label)).cloned().collect();
                (200, list("PodList", items, world.version))
            }
            ("GET", ["pods", name]) => found(world.pods.get(*name), "pods", name),
            ("GET", ["pods", name, "log"]) => {
                drop(world);
                return self.stream_log(stream, name, query.get("follow").is_some_and(|follow| follow == "true"));
            }
            other => panic!("the client asks for something new: {other:?}"),
        };
        drop(world);
        self.changed.notify_all();
        respond(stream, code, &answer)
    }

    /// Sends events about `name` that are newer than `version`, until streams are dropped.
    fn watch(&self, mut stream: TcpStream, name: &str, mut version: u64) -> std::io::Result<()> {
        begin_chunks(&mut stream)?;
        let mut world = self.world.lock().unwrap();
        let drops = world.drops;
        while !world.stopped && world.drops == drops {
            let news: Vec<(u64, Value)> = world
                .events
                .iter()
                .filter(|(at, _, run)| *at > version && run["metadata"]["name"] == name)
                .map(|(at, event, run)| (*at, json!({"type": event, "object": run})))
                .collect();
            for (at, event) in news {
                chunk(&mut stream, &event.to_string())?;
                version = at;
            }
            world = self.changed.wait_timeout(world, TICK).unwrap().0;
        }
        Ok(())
    }

    /// Sends the log of a pod from its begin (a server knows whole seconds only), and if it is followed to the end of its container.
    fn stream_log(&self, mut stream: TcpStream, pod: &str, follow: bool) -> std::io::Result<()> {
        begin_chunks(&mut stream)?;
        let mut sent = 0;
        let mut world = self.world.lock().unwrap();
        let drops = world.drops;
        while !world.stopped && world.drops == drops {
            for line in world.logs.get(pod).into_iter().flatten().skip(sent) {
                chunk(&mut stream, line)?;
                sent += 1;
            }
            if !follow || world.pods[pod]["status"]["containerStatuses"][0]["state"].get("terminated").is_some() {
                return stream.write_all(b"0\r\n\r\n");
            }
            world = self.changed.wait_timeout(world, TICK).unwrap().0;
        }
        Ok(())
    }
}

fn decoded((name, value): (&str, &str)) -> (String, String) {
    let (mut bytes, mut rest) = (Vec::new(), value.bytes());
    while let Some(byte) = rest.next() {
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).unwrap() as u8;
        bytes.push(if byte == b'%' { digit() * 16 + digit() } else { byte });
    }
    (name.to_owned(), String::from_utf8(bytes).unwrap())
}

fn has(object: &Value, label: Option<(&str, &str)>) -> bool {
    label.is_none_or(|(name, value)| object["metadata"]["labels"][name] == value)
}

fn list(kind: &str, items: Vec<Value>, version: u64) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"resourceVersion": version.to_string()}, "items": items})
}

fn found(object: Option<&Value>, resource: &str, name: &str) -> (u16, Value) {
    match object {
        Some(object) => (200, object.clone()),
        None => (404, status(404, "NotFound", &format!("{resource} \"{name}\" not found"), name)),
    }
}

fn status(code: u16, reason: &str, message: &str, name: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "details": {"name": name}, "code": code})
}

fn respond(mut stream: TcpStream, code: u16, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    write!(stream, "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

fn begin_chunks(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
}

fn chunk(stream: &mut TcpStream, line: &str) -> std::io::Result<()> {
    write!(stream, "{:x}\r\n{line}\n\r\n", line.len() + 1)
}
