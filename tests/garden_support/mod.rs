//! A server over real TCP, on a controller whose node is in memory, and a client that says exactly
//! the bytes that it is told to.

#![allow(dead_code)] // Each test binary uses its part.

use gardend::garden::{FactSource, Facts, Garden, serve};
use gardend_controller::fake::FakeNode;
use gardend_controller::{Controller, Ledger, Options};
use serde_json::Value;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes, also where the server waits for half a minute (with the clock
/// paused).
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct FixedFacts;

impl FactSource for FixedFacts {
    fn facts(&self) -> io::Result<Facts> {
        Ok(Facts { memory_bytes: 1, disk_bytes: 3, schedulable_disk_bytes: 2 })
    }

    fn cpu_share(&self) -> f64 {
        0.5
    }
}

/// A controller on an empty node in memory.
pub async fn controller(options: Options) -> (Controller, FakeNode) {
    let node = FakeNode::new();
    let controller = Controller::start(options, Ledger::in_memory(), node.node(), "one boot").await.unwrap();
    (controller, node)
}

/// A running front end. Stops when dropped.
pub struct Server {
    pub address: SocketAddr,
    pub node: FakeNode,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(Options::default(), |garden| garden).await
    }

    pub async fn start_with(options: Options, adjust: impl FnOnce(Garden) -> Garden) -> Self {
        let (controller, node) = controller(options).await;
        Self::start_on(controller, node, adjust).await
    }

    /// On a controller that the test keeps, too.
    pub async fn start_on(controller: Controller, node: FakeNode, adjust: impl FnOnce(Garden) -> Garden) -> Self {
        let garden = adjust(Garden::new(controller, FixedFacts));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(vec![listener.try_into().unwrap()], garden, async {
            let _ = stopped.await;
        }));
        Self { address, node, stop: Some(stop), task }
    }

    pub async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, read: Vec::new() }
    }

    /// One request on a connection of its own.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut client = self.connect().await;
        client.request(method, path, body).await;
        client.answer().await
    }

    /// A container with this handle.
    pub async fn create(&self, handle: &str) {
        self.call("POST", "/containers", &format!(r#"{{"handle":"{handle}"}}"#)).await.ok();
    }

    /// Handles, with these filters.
    pub async fn list(&self, query: &str) -> Vec<String> {
        let listed = self.call("GET", &format!("/containers{query}"), "").await.ok();
        listed["Handles"].as_array().unwrap().iter().map(|handle| handle.as_str().unwrap().to_owned()).collect()
    }

    /// Starts a process on a connection of its own; with its first message.
    pub async fn run(&self, handle: &str, spec: &str) -> (Client, Started) {
        let mut client = self.connect().await;
        client.request("POST", &format!("/containers/{handle}/processes"), spec).await;
        assert_eq!(client.head().await, CREATED);
        let started = client.started().await;
        (client, started)
    }

    /// Attaches to a process on a connection of its own.
    pub async fn attach(&self, handle: &str, process: &str) -> (Client, Started) {
        let mut client = self.connect().await;
        client.request("GET", &format!("/containers/{handle}/processes/{process}"), "").await;
        assert_eq!(client.head().await, OK);
        let started = client.started().await;
        (client, started)
    }

    /// Asks for one output; the connection stands behind the head.
    pub async fn output(&self, handle: &str, started: &Started, which: &str) -> Client {
        let mut client = self.connect().await;
        let Started { process, stream } = started;
        let path = format!("/containers/{handle}/processes/{process}/attaches/{stream}/{which}");
        client.request("GET", &path, "").await;
        assert_eq!(client.head().await, OK);
        client
    }

    pub fn tell_to_stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// Resolves once `serve` has returned.
    pub async fn stopped(self) {
        timeout(PATIENCE, self.task).await.expect("the server stops").unwrap();
    }
}

/// What stands before a process's messages, to the byte.
pub const CREATED: &str =
    "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The first message of a process's connection.
#[derive(Debug)]
pub struct Started {
    pub process: String,
    pub stream: String,
}

pub struct Client {
    pub stream: TcpStream,
    read: Vec<u8>,
}

/// A status, headers in lower case, and a body.
#[derive(Debug)]
pub struct Answer {
    pub line: String,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body, which must be one JSON document that ends in a newline.
    pub fn json(&self) -> Value {
        assert!(self.body.ends_with('\n'), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The message of an error in Garden's shape; all five fields must be there, as strings.
    pub fn message(&self) -> String {
        assert!(self.status >= 400, "{self:?}");
        let json = self.json();
        for field in ["Type", "Message", "Handle", "ProcessID", "Binary"] {
            assert!(json[field].is_string(), "{field} in {self:?}");
        }
        json["Message"].as_str().unwrap().to_owned()
    }

    /// The error's type, beside the status that goes with it.
    pub fn error_type(&self) -> String {
        self.message();
        let kind = self.json()["Type"].as_str().unwrap().to_owned();
        let not_found = matches!(kind.as_str(), "ContainerNotFoundError" | "ProcessNotFoundError");
        assert_eq!(self.status == 404, not_found, "{self:?}");
        kind
    }

    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }
}

impl Client {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.expect("the server reads").unwrap();
    }

    pub async fn request(&mut self, method: &str, path: &str, body: &str) {
        self.send(request(method, path, body)).await;
    }

    pub async fn call(&mut self, method: &str, path: &str, body: &str) -> Answer {
        self.request(method, path, body).await;
        self.answer().await
    }

    async fn more(&mut self) -> usize {
        timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await.expect("the server says something").unwrap()
    }

    /// Everything up to and with `end`.
    pub async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end) {
                return self.read.drain(..at + end.len()).collect();
            }
            let read = self.more().await;
            assert_ne!(read, 0, "the server closed after {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    pub async fn head(&mut self) -> String {
        String::from_utf8(self.until(b"\r\n\r\n").await).unwrap()
    }

    pub async fn started(&mut self) -> Started {
        let message = self.json_line().await;
        assert_eq!(message.as_object().unwrap().len(), 2, "{message}");
        let text = |field: &str| message[field].as_str().unwrap().to_owned();
        Started { process: text("process_id"), stream: text("stream_id") }
    }

    /// The exit status in the last message, after which nothing may come but a FIN.
    pub async fn exit_status(&mut self, process: &str) -> i64 {
        let message = self.json_line().await;
        assert_eq!(message["process_id"], process, "{message}");
        assert_eq!(self.rest().await, b"");
        message["exit_status"].as_i64().unwrap_or_else(|| panic!("{message}"))
    }

    pub async fn line(&mut self) -> String {
        String::from_utf8(self.until(b"\n").await).unwrap()
    }

    pub async fn json_line(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }

    /// Everything to the end, which must be a FIN and not a reset.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await > 0 {}
        std::mem::take(&mut self.read)
    }

    /// Waits until the server has closed, be it by a reset, whatever it said before.
    pub async fn ended(&mut self) {
        let ended = async { while matches!(self.stream.read_buf(&mut self.read).await, Ok(read) if read > 0) {} };
        timeout(PATIENCE, ended).await.expect("the server closes");
    }

    /// One whole answer with a Content-Length.
    pub async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let mut lines = head.trim_end().split("\r\n");
        let line = lines.next().unwrap().to_owned();
        let headers: Vec<(String, String)> = lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap();
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { line, status, headers, body: String::new() };
        if status != 100 {
            let length: usize = answer.header("content-length").expect("a length").parse().unwrap();
            while self.read.len() < length {
                assert_ne!(self.more().await, 0, "the body is cut: {answer:?}");
            }
            answer.body = String::from_utf8(self.read.drain(..length).collect()).unwrap();
        }
        answer
    }
}

/// A request as text; with a body where it is not empty.
pub fn request(method: &str, path: &str, body: &str) -> String {
    if body.is_empty() {
        return format!("{method} {path} HTTP/1.1\r\nHost: api\r\n\r\n");
    }
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Waits until something that another task does is done.
pub async fn eventually(mut done: impl AsyncFnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it happens in the end");
}
