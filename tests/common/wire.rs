//! Garden as it stands on the wire, spoken by hand and in plain blocking calls: what a test of
//! faults needs is to know exactly which bytes came, and when a connection ended.

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Bounds every read and write that does not say otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Garden server.
#[derive(Clone, Copy, Debug)]
pub struct Garden {
    pub address: SocketAddr,
}

/// Why a request was not carried out.
#[derive(Debug)]
pub enum Refusal {
    /// The server said so.
    Said { kind: String, message: String },
    /// There was no answer: the connection failed or ended.
    Unanswered(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Unanswered(error)
    }
}

impl Refusal {
    /// What the server said; fails where it said nothing.
    pub fn message(&self) -> &str {
        match self {
            Self::Said { message, .. } => message,
            Self::Unanswered(error) => panic!("there was no answer: {error}"),
        }
    }

    pub fn kind(&self) -> &str {
        match self {
            Self::Said { kind, .. } => kind,
            Self::Unanswered(error) => panic!("there was no answer: {error}"),
        }
    }
}

impl Garden {
    fn connect(self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Sends a request and reads the answer's head. The connection is ready for what follows it.
    fn ask(self, method: &str, path: &str, body: &str) -> Result<(u16, usize, BufReader<TcpStream>), Refusal> {
        let mut stream = self.connect()?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut reader = BufReader::new(stream);
        let (status, length) = head(&mut reader)?;
        if status < 400 {
            return Ok((status, length, reader));
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let said: Value = serde_json::from_slice(&body).map_err(io::Error::other)?;
        let text = |field: &str| said[field].as_str().unwrap_or_default().to_owned();
        Err(Refusal::Said { kind: text("Type"), message: text("Message") })
    }

    /// One call, and its answer.
    pub fn call(self, method: &str, path: &str, body: &Value) -> Result<Value, Refusal> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (_, length, mut reader) = self.ask(method, path, &body)?;
        let mut answer = vec![0; length];
        reader.read_exact(&mut answer)?;
        Ok(serde_json::from_slice(&answer).map_err(io::Error::other)?)
    }

    pub fn ping(self) -> Result<(), Refusal> {
        self.call("GET", "/ping", &Value::Null).map(drop)
    }

    /// Creates an unprivileged container on a folder of the host.
    pub fn create(self, handle: &str, rootfs: &std::path::Path) -> Result<(), Refusal> {
        self.call("POST", "/containers", &json!({ "handle": handle, "image": { "uri": rootfs } })).map(drop)
    }

    pub fn destroy(self, handle: &str) -> Result<(), Refusal> {
        self.call("DELETE", &format!("/containers/{handle}"), &Value::Null).map(drop)
    }

    pub fn list(self) -> Vec<String> {
        self.listed("/containers")
    }

    /// Also the containers whose create or destroy has not finished.
    pub fn list_all(self) -> Vec<String> {
        self.listed("/containers?garden.state=all")
    }

    fn listed(self, path: &str) -> Vec<String> {
        let answer = self.call("GET", path, &Value::Null).expect("a list");
        let mut handles: Vec<String> = serde_json::from_value(answer["Handles"].clone()).expect("a list of handles");
        handles.sort();
        handles
    }

    pub fn info(self, handle: &str) -> Result<Value, Refusal> {
        self.call("GET", &format!("/containers/{handle}/info"), &Value::Null)
    }

    /// Starts a shell script. `id` may be empty.
    pub fn run(self, handle: &str, id: &str, script: &str, terminal: bool) -> Result<Attached, Refusal> {
        let mut spec = json!({ "id": id, "path": "/bin/sh", "args": ["-c", script] });
        if terminal {
            spec["tty"] = json!({});
        }
        self.run_spec(handle, &spec)
    }

    /// Starts what the spec says.
    pub fn run_spec(self, handle: &str, spec: &Value) -> Result<Attached, Refusal> {
        let (_, _, reader) = self.ask("POST", &format!("/containers/{handle}/processes"), &spec.to_string())?;
        Attached::new(self, handle, reader)
    }

    pub fn attach(self, handle: &str, process: &str) -> Result<Attached, Refusal> {
        let (_, _, reader) = self.ask("GET", &format!("/containers/{handle}/processes/{process}"), "")?;
        Attached::new(self, handle, reader)
    }

    /// Runs a script to its end: its status and its stdout.
    pub fn output(self, handle: &str, script: &str) -> Result<(i64, String), Refusal> {
        let mut attached = self.run(handle, "", script, false)?;
        let mut stdout = Vec::new();
        attached.stdout()?.read_to_end(&mut stdout)?;
        Ok((attached.status()?, String::from_utf8_lossy(&stdout).into_owned()))
    }
}

/// Reads an answer's head: the status and the length of the body (0 where it says none).
fn head(reader: &mut impl BufRead) -> io::Result<(u16, usize)> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status =
        status.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, format!("no status in {line:?}")))?;
    let mut length = 0;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let lower = line.trim().to_ascii_lowercase();
        if lower.is_empty() {
            return Ok((status, length));
        }
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
}

/// A client's hold on a process.
pub struct Attached {
    garden: Garden,
    handle: String,
    pub process: String,
    stream: String,
    connection: BufReader<TcpStream>,
}

impl Attached {
    fn new(garden: Garden, handle: &str, mut connection: BufReader<TcpStream>) -> Result<Self, Refusal> {
        let first = message(&mut connection)?;
        let text = |field: &str| first[field].as_str().unwrap_or_default().to_owned();
        Ok(Self { garden, handle: handle.into(), process: text("process_id"), stream: text("stream_id"), connection })
    }

    /// The bytes of stdout, to be read to their end.
    pub fn stdout(&self) -> Result<BufReader<TcpStream>, Refusal> {
        let path = format!("/containers/{}/processes/{}/attaches/{}/stdout", self.handle, self.process, self.stream);
        Ok(self.garden.ask("GET", &path, "")?.2)
    }

    pub fn say(&mut self, message: &Value) -> io::Result<()> {
        writeln!(self.connection.get_mut(), "{message}")
    }

    /// Writes to stdin.
    pub fn input(&mut self, text: &str) -> io::Result<()> {
        self.say(&json!({ "source": 0, "data": text }))
    }

    /// Ends stdin.
    pub fn end_input(&mut self) -> io::Result<()> {
        self.say(&json!({ "source": 0 }))
    }

    /// Waits for how the process ended; an error where the server does not tell.
    pub fn status(&mut self) -> io::Result<i64> {
        loop {
            let message = message(&mut self.connection)?;
            if let Some(status) = message["exit_status"].as_i64() {
                return Ok(status);
            }
            if let Some(error) = message["error"].as_str() {
                return Err(io::Error::other(error.to_owned()));
            }
        }
    }
}

fn message(connection: &mut impl BufRead) -> io::Result<Value> {
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_str(&line).map_err(io::Error::other)
}
