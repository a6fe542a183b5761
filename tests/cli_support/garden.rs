//! A small Garden server that does as the test's programs say, and remembers what it was told.
//!
//! It speaks the wire as the Go server does, hijacked streams included. A program's name says
//! what the process does: see [`Garden::program`].

use super::files::{Files, Node};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Condvar, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

/// The server. Ends with the test.
pub struct Garden {
    runtime: Option<Runtime>,
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// Every request and message, as one line each.
    told: Mutex<Vec<String>>,
    told_more: Condvar,
    containers: Mutex<BTreeMap<String, BTreeMap<String, String>>>,
    processes: Mutex<BTreeMap<String, Arc<Process>>>,
    /// Counts crashes: each ends every connection.
    crashes: watch::Sender<u32>,
    unhealthy: Mutex<Option<String>>,
    numbers: std::sync::atomic::AtomicU32,
    files: Files,
    /// Ports in by container: the node's, the container's.
    ports: Mutex<Vec<(String, u64, u64)>>,
    /// How often figures were asked for.
    looks: std::sync::atomic::AtomicU64,
}

struct Process {
    events: mpsc::UnboundedSender<Event>,
    stdout: tokio::sync::Mutex<mpsc::Receiver<Bytes>>,
    stderr: tokio::sync::Mutex<mpsc::Receiver<Bytes>>,
    end: watch::Receiver<Option<Value>>,
}

enum Event {
    Stdin(String),
    StdinEnd,
    Signal(i64),
}

struct Program {
    spec: Value,
    events: mpsc::UnboundedReceiver<Event>,
    stdout: mpsc::Sender<Bytes>,
    stderr: mpsc::Sender<Bytes>,
}

impl Garden {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            told: Mutex::default(),
            told_more: Condvar::new(),
            containers: Mutex::default(),
            processes: Mutex::default(),
            crashes: watch::channel(0).0,
            unhealthy: Mutex::default(),
            numbers: 0.into(),
            files: Files::default(),
            ports: Mutex::default(),
            looks: 0.into(),
        });
        let garden = Self { runtime: Some(runtime), address, shared };
        garden.listen(listener);
        garden
    }

    /// With one empty container of that handle.
    pub fn with_container(handle: &str) -> Self {
        let garden = Self::start();
        garden.add_container(handle, &[]);
        garden
    }

    pub fn add_container(&self, handle: &str, properties: &[(&str, &str)]) {
        let properties = properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.shared.containers.lock().unwrap().insert(handle.to_owned(), properties);
    }

    pub fn containers(&self) -> Vec<String> {
        self.shared.containers.lock().unwrap().keys().cloned().collect()
    }

    /// Puts something at "HANDLE:/path".
    pub fn put(&self, place: &str, node: Node) {
        self.shared.files.put(place, node);
    }

    /// What is at "HANDLE:/path".
    pub fn file(&self, place: &str) -> Option<Node> {
        self.shared.files.get(place)
    }

    pub fn target(&self) -> String {
        self.address.to_string()
    }

    pub fn be_unhealthy(&self, words: &str) {
        *self.shared.unhealthy.lock().unwrap() = Some(words.to_owned());
    }

    /// Ends every connection and listens no more.
    pub fn crash(&self) {
        self.shared.crashes.send_modify(|crashes| *crashes += 1);
    }

    /// Listens again at the same place.
    pub fn come_back(&self) {
        let listener = super::eventually("the address is free", || StdListener::bind(self.address).ok());
        self.listen(listener);
    }

    /// All it was told so far.
    pub fn told(&self) -> Vec<String> {
        self.shared.told.lock().unwrap().clone()
    }

    /// Waits until it was told something that holds this.
    pub fn wait_to_be_told(&self, part: &str) -> String {
        let told = self.shared.told.lock().unwrap();
        let is_there = |told: &[String]| told.iter().any(|line| line.contains(part));
        let (told, _) =
            self.shared.told_more.wait_timeout_while(told, super::DEADLINE, |told| !is_there(told)).unwrap();
        match told.iter().find(|line| line.contains(part)) {
            Some(line) => line.clone(),
            None => panic!("{part:?} was not told, but {told:#?}"),
        }
    }

    fn listen(&self, listener: StdListener) {
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::clone(&self.shared);
        let runtime = self.runtime.as_ref().unwrap();
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).unwrap()
        };
        // From now on, not from when the task first runs.
        let mut crashes = shared.crashes.subscribe();
        runtime.spawn(async move {
            loop {
                // Both only receive: cancel-safe.
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { return };
                        let (shared, mut crashes) = (Arc::clone(&shared), shared.crashes.subscribe());
                        tokio::spawn(async move {
                            // A crash cuts the connection wherever it is.
                            tokio::select! {
                                () = shared.serve(stream) => {}
                                _ = crashes.changed() => {}
                            }
                        });
                    }
                    _ = crashes.changed() => return,
                }
            }
        });
    }
}

impl Drop for Garden {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn tell(&self, line: String) {
        self.told.lock().unwrap().push(line);
        self.told_more.notify_all();
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let Some((method, path, body)) = read_request(&mut reader).await else { return };
        let is_stream = path.contains("/files?");
        let text = if is_stream { String::new() } else { String::from_utf8_lossy(&body).trim().to_owned() };
        self.tell(format!("{method} {path} {text}").trim().to_owned());
        let (route, query) = path.split_once('?').unwrap_or((&path, ""));
        let parts: Vec<String> = route.split('/').skip(1).map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let spec: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        match (method.as_str(), parts.as_slice()) {
            ("POST", ["gardend", "v1", "images", "pull"]) => pull_image(&mut writer, &spec).await,
            ("POST", ["containers", handle, "processes"]) => match self.start(handle, spec).await {
                Ok(id) => self.hijack(reader, writer, &id, "201 Created").await,
                Err(error) => answer(&mut writer, Err(error)).await,
            },
            ("GET", ["containers", _, "processes", id]) => {
                let known = self.processes.lock().unwrap().contains_key(*id);
                if known {
                    self.hijack(reader, writer, id, "200 OK").await;
                } else {
                    let error = error("ProcessNotFoundError", &format!("unknown process: {id}"));
                    answer(&mut writer, Err(error)).await;
                }
            }
            ("GET", ["containers", _, "processes", id, "attaches", _, stream]) => {
                self.output(reader, writer, id, stream).await;
            }
            ("GET", ["containers", handle, "files"]) => {
                let source = argument(query, "source");
                let packed = self
                    .of(handle, |_| Ok(json!({})))
                    .and_then(|_| self.files.pack(handle, &source).map_err(|words| error("", &words)));
                match packed {
                    Ok(tar) => send_stream(&mut writer, &tar, source == "/cut").await,
                    Err(error) => answer(&mut writer, Err(error)).await,
                }
            }
            ("PUT", ["containers", handle, "files"]) => {
                let destination = argument(query, "destination");
                let unpacked = self
                    .of(handle, |_| Ok(json!({})))
                    .and_then(|_| self.files.unpack(handle, &destination, &body).map_err(|words| error("", &words)));
                answer(&mut writer, unpacked.map(|()| json!({}))).await;
            }
            (method, parts) => {
                let result = self.plain(method, parts, query, &spec).await;
                answer(&mut writer, result).await;
            }
        }
    }

    async fn plain(&self, method: &str, parts: &[&str], query: &str, spec: &Value) -> Result<Value, Value> {
        let query: Vec<(String, String)> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').map_or((decoded(pair), String::new()), |(k, v)| (decoded(k), decoded(v))))
            .collect();
        match (method, parts) {
            ("GET", ["ping"]) => match self.unhealthy.lock().unwrap().clone() {
                Some(words) => Err(error("UnrecoverableError", &words)),
                None => Ok(json!({})),
            },
            ("GET", ["gardend", "v1", "images"]) => Ok(json!({ "images": [image("web", true), image("old", false)] })),
            ("POST", ["gardend", "v1", "images", "prune"]) => {
                let web = json!({ "names": [], "digest": "sha256:abc", "bytes": 1024 });
                let all = spec["all"].as_bool() == Some(true);
                Ok(json!({ "images": if all { vec![image("old", false), web] } else { vec![image("old", false)] } }))
            }
            ("POST", ["containers"]) => self.create(spec),
            ("GET", ["containers"]) => {
                let containers = self.containers.lock().unwrap();
                let holds = |properties: &BTreeMap<String, String>| {
                    query.iter().filter(|(key, _)| key != "garden.state").all(|(k, v)| properties.get(k) == Some(v))
                };
                let handles: Vec<&String> =
                    containers.iter().filter(|(_, properties)| holds(properties)).map(|(handle, _)| handle).collect();
                Ok(json!({ "Handles": handles }))
            }
            ("GET", ["containers", "bulk_info"]) => {
                let handles = query.iter().find(|(key, _)| key == "handles").map(|(_, value)| value.clone());
                let entry = |handle: &str| match (handle, self.info(handle)) {
                    ("broken", _) => json!({"Info": {}, "Err": error("", "its place does not answer")}),
                    (_, Ok(info)) => json!({"Info": info, "Err": null}),
                    (_, Err(error)) => json!({"Info": {}, "Err": error}),
                };
                let handles = handles.unwrap_or_default();
                Ok(handles.split(',').map(|handle| (handle.to_owned(), entry(handle))).collect())
            }
            ("GET", ["containers", handle, "info"]) => self.info(handle),
            ("GET", ["containers", "bulk_metrics"]) => {
                let look = self.looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let handles = query.iter().find(|(key, _)| key == "handles").map(|(_, value)| value.clone());
                let entry = |handle: &str| match self.of(handle, |_| Ok(json!({}))) {
                    Ok(_) => json!({"Metrics": metrics(handle, look), "Err": null}),
                    Err(error) => json!({"Metrics": {}, "Err": error}),
                };
                let handles = handles.unwrap_or_default();
                Ok(handles.split(',').map(|handle| (handle.to_owned(), entry(handle))).collect())
            }
            ("GET", ["containers", handle, "limits", kind]) => self.of(handle, |properties| {
                let limited = properties.contains_key("limited");
                Ok(match *kind {
                    _ if !limited => json!({}),
                    "memory" => json!({"limit_in_bytes": 64 << 20}),
                    "cpu" => json!({"weight": 512, "limit_in_shares": 512}),
                    "disk" => json!({"byte_hard": 1 << 30, "scope": 1}),
                    _ => json!({"rate": 1_000_000, "burst": 2_000_000}),
                })
            }),
            ("POST", ["containers", handle, "net", "in"]) => self.of(handle, |_| self.open_port(handle, spec)),
            ("POST", ["containers", handle, "net", "out"]) => self.of(handle, |_| Ok(json!({}))),
            ("DELETE", ["containers", handle]) => {
                let stuck = *handle == "stuck";
                if stuck {
                    return Err(error("", "container 'stuck' is stuck: a process does not die"));
                }
                let mut containers = self.containers.lock().unwrap();
                containers.remove(*handle).map(|_| json!({})).ok_or_else(|| unknown(handle))
            }
            ("PUT", ["containers", handle, "stop"]) => self.stop(handle, spec).await,
            ("GET", ["containers", handle, "properties"]) => self.of(handle, |properties| Ok(json!(properties))),
            ("GET", ["containers", handle, "properties", key]) => {
                self.of(handle, |properties| match properties.get(*key) {
                    Some(value) => Ok(json!({ "value": value })),
                    None => Err(error("", &format!("property does not exist: {key}"))),
                })
            }
            ("PUT", ["containers", handle, "properties", key]) => self.of(handle, |properties| {
                properties.insert((*key).to_owned(), spec["value"].as_str().unwrap_or_default().to_owned());
                Ok(json!({}))
            }),
            ("DELETE", ["containers", handle, "properties", key]) => self.of(handle, |properties| {
                properties.remove(*key);
                Ok(json!({}))
            }),
            _ => Err(error("", "no such route")),
        }
    }

    fn of(
        &self,
        handle: &str,
        act: impl FnOnce(&mut BTreeMap<String, String>) -> Result<Value, Value>,
    ) -> Result<Value, Value> {
        self.containers.lock().unwrap().get_mut(handle).map_or_else(|| Err(unknown(handle)), act)
    }

    fn open_port(&self, handle: &str, spec: &Value) -> Result<Value, Value> {
        let mut ports = self.ports.lock().unwrap();
        let asked = |name: &str| spec[name].as_u64().unwrap_or(0);
        let host = if asked("host_port") == 0 { 60_000 + ports.len() as u64 } else { asked("host_port") };
        let container = if asked("container_port") == 0 { host } else { asked("container_port") };
        if ports.iter().any(|(_, taken, _)| *taken == host) {
            return Err(error("", &format!("port {host} of the node is taken")));
        }
        ports.push((handle.to_owned(), host, container));
        Ok(json!({"host_port": host, "container_port": container}))
    }

    fn create(&self, spec: &Value) -> Result<Value, Value> {
        let uri = spec["image"]["uri"].as_str().unwrap_or_default();
        if uri == "/missing" {
            return Err(error("", "rootfs '/missing' does not exist"));
        }
        let handle = match spec["handle"].as_str() {
            Some(handle) => handle.to_owned(),
            None => format!("made-{}", self.number()),
        };
        let mut containers = self.containers.lock().unwrap();
        if containers.contains_key(&handle) {
            return Err(error("", &format!("Handle '{handle}' already in use")));
        }
        let properties = serde_json::from_value(spec["properties"].clone()).unwrap_or_default();
        containers.insert(handle.clone(), properties);
        Ok(json!({ "Handle": handle }))
    }

    fn info(&self, handle: &str) -> Result<Value, Value> {
        let containers = self.containers.lock().unwrap();
        let properties = containers.get(handle).ok_or_else(|| unknown(handle))?;
        let processes = self.processes.lock().unwrap();
        let running: Vec<&String> =
            processes.iter().filter(|(_, process)| process.end.borrow().is_none()).map(|(id, _)| id).collect();
        let ports = self.ports.lock().unwrap();
        let mapped: Vec<Value> = ports
            .iter()
            .filter(|(of, ..)| of == handle)
            .map(|(_, host, container)| json!({"HostPort": host, "ContainerPort": container}))
            .collect();
        let external = properties.get("external").cloned().unwrap_or_default();
        Ok(json!({
            "State": if properties.contains_key("stopped") { "stopped" } else { "active" },
            "Events": [], "HostIP": "", "ContainerIP": "", "ContainerIPv6": "", "ExternalIP": external,
            "ContainerPath": format!("/run/gardend/places/{handle}"),
            "ProcessIDs": running, "Properties": properties, "MappedPorts": mapped,
        }))
    }

    /// A gentle stop of "stubborn" waits for a rough one.
    async fn stop(&self, handle: &str, spec: &Value) -> Result<Value, Value> {
        self.of(handle, |_| Ok(json!({})))?;
        if handle == "stubborn" && spec["kill"] == false {
            let mut looks = tokio::time::interval(std::time::Duration::from_millis(2));
            while !self.told.lock().unwrap().iter().any(|line| line.ends_with(r#"/stop {"kill":true}"#)) {
                looks.tick().await;
            }
        }
        Ok(json!({}))
    }

    fn number(&self) -> u32 {
        self.numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    /// "slow" takes until the test says so.
    async fn start(self: &Arc<Self>, handle: &str, spec: Value) -> Result<String, Value> {
        if spec["path"] == "slow" {
            self.until_told_to_go_on().await;
        }
        self.spawn(handle, spec)
    }

    async fn until_told_to_go_on(&self) {
        let mut looks = tokio::time::interval(std::time::Duration::from_millis(2));
        while !self.told.lock().unwrap().iter().any(|line| line == "test: go on") {
            looks.tick().await;
        }
    }

    fn spawn(self: &Arc<Self>, handle: &str, spec: Value) -> Result<String, Value> {
        self.of(handle, |_| Ok(json!({})))?;
        let path = spec["path"].as_str().unwrap_or_default();
        match path {
            "missing" | "bash" => {
                let words = format!("exec: \"{path}\": executable file not found in $PATH");
                return Err(error("ExecutableNotFoundError", &words));
            }
            "sh" if handle == "bare" => {
                return Err(error("ExecutableNotFoundError", "exec: \"sh\": executable file not found in $PATH"));
            }
            "/etc/passwd" => return Err(error("", "exec: \"/etc/passwd\": permission denied")),
            _ => {}
        }
        let id = spec["id"].as_str().map_or_else(|| format!("process-{}", self.number()), str::to_owned);
        let (events, to_program) = mpsc::unbounded_channel();
        let (stdout, from_stdout) = mpsc::channel(16);
        let (stderr, from_stderr) = mpsc::channel(16);
        let (ended, end) = watch::channel(None);
        let process = Process { events, stdout: from_stdout.into(), stderr: from_stderr.into(), end };
        self.processes.lock().unwrap().insert(id.clone(), Arc::new(process));
        let (shared, process_id) = (Arc::clone(self), id.clone());
        tokio::spawn(async move {
            let mut message = shared.program(Program { spec, events: to_program, stdout, stderr }).await;
            message["process_id"] = process_id.into();
            let _ = ended.send(Some(message));
        });
        Ok(id)
    }

    /// What processes do, by the name of their program.
    async fn program(&self, program: Program) -> Value {
        let Program { spec, mut events, stdout, stderr } = program;
        let args: Vec<&str> = spec["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let say = |text: String| stdout.send(text.into());
        match spec["path"].as_str().unwrap_or_default() {
            // Its arguments on stdout, a word on stderr, its first argument as status.
            "exit" => {
                let _ = say("to stdout\n".to_owned()).await;
                let _ = stderr.send("to stderr\n".into()).await;
                json!({ "exit_status": args[0].parse::<i32>().unwrap() })
            }
            "spec" => {
                let _ = say(format!("{spec}\n")).await;
                json!({ "exit_status": 0 })
            }
            // Stdin on stdout until its end.
            "cat" => {
                while let Some(event) = events.recv().await {
                    match event {
                        Event::Stdin(text) => drop(say(text).await),
                        Event::StdinEnd => break,
                        Event::Signal(_) => return json!({ "exit_status": 143 }),
                    }
                }
                json!({ "exit_status": 0 })
            }
            // A terminal's program: shows what is typed; "q" ends it.
            "sh" | "top" => {
                let _ = say("ready\r\n".to_owned()).await;
                while let Some(event) = events.recv().await {
                    match event {
                        Event::Stdin(text) if text == "q" => return json!({ "exit_status": 7 }),
                        Event::Stdin(text) => drop(say(format!("<{}>", text.escape_default())).await),
                        Event::StdinEnd => {}
                        Event::Signal(0) => {}
                        Event::Signal(_) => return json!({ "exit_status": 137 }),
                    }
                }
                json!({ "exit_status": 0 })
            }
            // Ends by signals alone; with "stubborn" not by TERM, with "immortal" by none.
            "wait" | "slow" => {
                let _ = say("ready\n".to_owned()).await;
                while let Some(event) = events.recv().await {
                    match event {
                        Event::Signal(0) if args.is_empty() => return json!({ "exit_status": 143 }),
                        Event::Signal(1) if !args.contains(&"immortal") => return json!({ "exit_status": 137 }),
                        _ => {}
                    }
                }
                json!({ "exit_status": 0 })
            }
            // Writes for ever.
            "yes" => {
                let page = Bytes::from("y\n".repeat(8192));
                loop {
                    // Both only wait for room or a message: cancel-safe.
                    tokio::select! {
                        sent = stdout.send(page.clone()) => if sent.is_err() { return json!({ "exit_status": 141 }) },
                        Some(event) = events.recv() => if let Event::Signal(_) = event { return json!({ "exit_status": 143 }) },
                    }
                }
            }
            // As many bytes as its argument says, all different in their places.
            "bytes" => {
                let total: u64 = args[0].parse().unwrap();
                let mut at = 0;
                while at < total {
                    let page: Vec<u8> = (at..(at + 65536).min(total)).map(|n| (n * 31 % 251) as u8).collect();
                    at += page.len() as u64;
                    if stdout.send(page.into()).await.is_err() {
                        break;
                    }
                }
                json!({ "exit_status": 0 })
            }
            // Takes one message of stdin and no more; told "go" by a signal.
            "deaf" => {
                let _ = say("ready\n".to_owned()).await;
                loop {
                    if let Some(Event::Signal(_)) = events.recv().await {
                        return json!({ "exit_status": 143 });
                    }
                }
            }
            // A line before the test says so, and one after.
            "two-lines" => {
                let _ = say("one\n".to_owned()).await;
                self.until_told_to_go_on().await;
                let _ = say("two\n".to_owned()).await;
                json!({ "exit_status": 3 })
            }
            "lost" => json!({ "error": "its container was destroyed" }),
            other => {
                let _ = say(format!("no such test program: {other}\n")).await;
                json!({ "exit_status": 99 })
            }
        }
    }

    async fn hijack(
        self: Arc<Self>,
        mut reader: BufReader<OwnedReadHalf>,
        mut writer: OwnedWriteHalf,
        id: &str,
        status: &str,
    ) {
        let Some(process) = self.processes.lock().unwrap().get(id).cloned() else { return };
        let stream = format!("stream-{}", self.number());
        let first = json!({ "process_id": id, "stream_id": stream });
        // In one piece: what follows a head must be found wherever the head ends.
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{first}\n"
        );
        if writer.write_all(head.as_bytes()).await.is_err() {
            return;
        }
        let reading = async {
            let mut line = String::new();
            while let Ok(1..) = reader.read_line(&mut line).await {
                self.tell(format!("{id}: {}", line.trim()));
                let message: Value = serde_json::from_str(&line).unwrap();
                line.clear();
                let event = if let Some(signal) = message["signal"].as_i64() {
                    Event::Signal(signal)
                } else if let Some(text) = message["data"].as_str() {
                    Event::Stdin(text.to_owned())
                } else if message["source"] == 0 {
                    Event::StdinEnd
                } else {
                    continue;
                };
                let is_deaf = matches!(event, Event::Stdin(_)) && id == "deaf";
                let _ = process.events.send(event);
                if is_deaf {
                    // Its pipe is full: nothing more is read from this client.
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut end = process.end.clone();
        let ending = async { end.wait_for(Option::is_some).await.map(|end| end.clone().unwrap_or_default()) };
        // The reading is not needed once the process has ended.
        let end = tokio::select! {
            () = reading => return,
            end = ending => end,
        };
        if let Ok(end) = end {
            let _ = writer.write_all(format!("{end}\n").as_bytes()).await;
            let _ = writer.shutdown().await;
        }
    }

    async fn output(&self, mut reader: BufReader<OwnedReadHalf>, mut writer: OwnedWriteHalf, id: &str, stream: &str) {
        let process = self.processes.lock().unwrap().get(id).cloned();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = writer.write_all(head.as_bytes()).await;
        let Some(process) = process else { return };
        let queue = if stream == "stdout" { &process.stdout } else { &process.stderr };
        let mut byte = [0];
        // All three only wait: cancel-safe.
        let mut queue = tokio::select! {
            queue = queue.lock() => queue,
            _ = reader.read(&mut byte) => return,
        };
        loop {
            let piece = tokio::select! {
                piece = queue.recv() => piece,
                _ = reader.read(&mut byte) => return,
            };
            let Some(piece) = piece else { return };
            if writer.write_all(&piece).await.is_err() {
                return;
            }
        }
    }
}

impl Garden {
    /// A process that nobody knows any more.
    pub fn forget(&self, process: &str) {
        self.shared.processes.lock().unwrap().remove(process);
    }

    /// Lets "two-lines" and "slow" go on.
    pub fn go_on(&self) {
        self.shared.tell("test: go on".to_owned());
    }
}

async fn read_request(reader: &mut BufReader<OwnedReadHalf>) -> Option<(String, String, Vec<u8>)> {
    let mut line = String::new();
    reader.read_line(&mut line).await.ok()?;
    let mut words = line.split_ascii_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).await.ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        chunked |= header == "transfer-encoding: chunked";
    }
    if chunked {
        let body = read_chunks(reader).await?;
        return Some((method, path, body));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.ok()?;
    Some((method, path, body))
}

async fn read_chunks(reader: &mut BufReader<OwnedReadHalf>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.ok()?;
        let length = usize::from_str_radix(line.trim(), 16).ok()?;
        let mut chunk = vec![0; length + 2];
        reader.read_exact(&mut chunk).await.ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(&chunk[..length]);
    }
}

/// A tar stream as an answer; one that is to be cut ends before its length.
async fn send_stream(writer: &mut OwnedWriteHalf, tar: &[u8], is_cut: bool) {
    let length = tar.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\nContent-Length: {length}\r\n\r\n");
    let sent = if is_cut { &tar[..600] } else { tar };
    let _ = writer.write_all(&[head.as_bytes(), sent].concat()).await;
    let _ = writer.shutdown().await;
}

/// One argument of a query.
fn argument(query: &str, name: &str) -> String {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| decoded(value)).next().unwrap_or_default()
}

/// Of every container the same, and more processor time each time.
fn metrics(handle: &str, look: u64) -> Value {
    json!({
        "MemoryStat": {"TotalUsageTowardLimit": 3 << 20, "rss": 1}, "CPUStat": {"Usage": look * 100_000_000},
        "DiskStat": {"ExclusiveBytesUsed": 5000, "TotalBytesUsed": 9000}, "PidStat": {"Current": 2, "Max": 0},
        "NetworkStat": if handle == "web" { json!({"RxBytes": 2048, "TxBytes": 100}) } else { Value::Null },
        "Age": 1, "CPUEntitlement": 1,
    })
}

fn image(name: &str, in_use: bool) -> Value {
    let users: &[&str] = if in_use { &["a", "b/shell"] } else { &[] };
    json!({
        "names": [format!("docker.io/library/{name}:latest")], "digest": format!("sha256:{}", "1a".repeat(32)),
        "bytes": 5 << 20, "last_used": "2020-01-01T00:00:00Z", "in_use": in_use, "used_by": users,
    })
}

/// What becomes of it is in the image's name.
async fn pull_image(writer: &mut OwnedWriteHalf, spec: &Value) {
    let uri = spec["uri"].as_str().unwrap_or_default();
    if uri.contains("refused") {
        return answer(writer, Err(error("", &format!("{uri}: registry.example refuses: authentication required"))))
            .await;
    }
    let progress =
        |bytes: u64| json!({"progress": {"bytes": bytes, "total": 4 << 20, "layers": 3, "unpacked": bytes >> 20}});
    let end = match () {
        () if uri.contains("breaks") => {
            json!({"error": error("ServiceUnavailableError", "registry.example: the connection broke")})
        }
        () if uri.contains("hangs-up") => json!({"progress": null}),
        () => json!({"pulled": {
            "name": "docker.io/library/app:1", "digest": "sha256:1a1a", "bytes": 9 << 20,
            "fetched": if uri.contains("there") { 0 } else { 4 << 20 },
        }}),
    };
    let _ =
        writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n").await;
    for line in [json!({"progress": null}), progress(1 << 20), progress(4 << 20), end] {
        let _ = writer.write_all(format!("{line}\n").as_bytes()).await;
    }
    let _ = writer.shutdown().await;
}

async fn answer(writer: &mut OwnedWriteHalf, result: Result<Value, Value>) {
    let (status, body) = match &result {
        Ok(body) => ("200 OK", body),
        Err(body)
            if body["Type"]
                .as_str()
                .is_some_and(|kind| kind.ends_with("NotFoundError") && !kind.starts_with("Exec")) =>
        {
            ("404 Not Found", body)
        }
        Err(body) => ("500 Internal Server Error", body),
    };
    let body = format!("{body}\n");
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = writer.write_all(format!("{head}{body}").as_bytes()).await;
    let _ = writer.shutdown().await;
}

fn error(kind: &str, message: &str) -> Value {
    json!({ "Type": kind, "Message": message, "Handle": "", "ProcessID": "", "Binary": "" })
}

fn unknown(handle: &str) -> Value {
    json!({ "Type": "ContainerNotFoundError", "Message": format!("unknown handle: {handle}"), "Handle": handle })
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}
