//! A server over real TCP, and a client that says exactly the bytes that it is told to.

#![allow(dead_code)] // Each test binary uses its part.

use gardend::garden::{FactSource, Facts, Garden, serve};
use gardend_controller::Controller;
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
}

/// A running front end. Stops when dropped.
pub struct Server {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn start(controller: Controller) -> Self {
        Self::start_with(Garden::new(controller, FixedFacts)).await
    }

    pub async fn start_with(garden: Garden) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listener, garden, async {
            let _ = stopped.await;
        }));
        Self { address, stop: Some(stop), task }
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

    pub fn tell_to_stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// Resolves once `serve` has returned.
    pub async fn stopped(self) {
        timeout(PATIENCE, self.task).await.expect("the server stops").unwrap();
    }
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

    /// One whole answer with a Content-Length.
    pub async fn answer(&mut self) -> Answer {
        let head = String::from_utf8(self.until(b"\r\n\r\n").await).unwrap();
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
