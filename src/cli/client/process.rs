//! A process that a client holds on to.
//!
//! Its parts ([`Process`]) are apart, so that each can move to a task of its own. The input is
//! written by one task, so a call that is cancelled never leaves half a message on the wire.

use super::error::ClientError;
use super::target::Target;
use super::transport::{self, Hijacked, Request};
use super::wire::{ProcessPayload, TtySpec};
use gardend_controller::ports::Signal;
use gardend_controller::record::WindowSize;
use http::Method;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};

/// What comes next from a server that has begun to answer.
const FIRST_WORD: Duration = Duration::from_secs(30);
/// The longest message that a server may send: an error's text.
const MAX_MESSAGE: u64 = 1 << 20;

/// Which outputs a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Outputs {
    None,
    Stdout,
    Both,
}

/// A process, attached to. Dropping all of it detaches; the process goes on.
pub struct Process {
    /// Its id.
    pub id: String,
    /// What this attachment's outputs are called.
    pub stream_id: String,
    /// Stdin, signals, window sizes.
    pub input: ProcessInput,
    /// Its stdout (a terminal's whole output), where it was wanted.
    pub stdout: Option<Output>,
    /// Its stderr, where it was wanted.
    pub stderr: Option<Output>,
    /// How it ends.
    pub outcome: ProcessOutcome,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("id", &self.id).field("stream_id", &self.stream_id).finish_non_exhaustive()
    }
}

/// How a process ended, and all that it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its exit status: the code, or 128 + the signal.
    pub status: i32,
    /// Its stdout.
    pub stdout: Vec<u8>,
    /// Its stderr.
    pub stderr: Vec<u8>,
}

impl Process {
    pub(super) async fn open(
        target: &Target,
        handle: &str,
        request: Request,
        outputs: Outputs,
    ) -> Result<Self, ClientError> {
        let what = request.what();
        let (reader, writer) = tokio::io::split(transport::hijack(target, request).await?);
        let mut outcome = ProcessOutcome {
            reader: BufReader::new(reader),
            target: target.clone(),
            what: what.clone(),
            process: String::new(),
            line: Vec::new(),
        };
        let first = tokio::time::timeout(FIRST_WORD, outcome.next()).await;
        let first = first.map_err(|_| ClientError::TimedOut {
            target: target.clone(),
            what: what.clone(),
            after: FIRST_WORD,
        })??;
        let (Some(id), Some(stream_id)) = (first.process_id, first.stream_id) else {
            return Err(ClientError::protocol(target, &what, "its first message names no process and stream"));
        };
        outcome.process.clone_from(&id);
        let output = |name: &'static str| {
            let (handle, id, stream) =
                (transport::segment(handle), transport::segment(&id), transport::segment(&stream_id));
            let path = format!("/containers/{handle}/processes/{id}/attaches/{stream}/{name}");
            transport::hijack(target, Request::new(Method::GET, path, FIRST_WORD))
        };
        let stdout = match outputs {
            Outputs::None => None,
            Outputs::Stdout | Outputs::Both => Some(Output(output("stdout").await?)),
        };
        let stderr = match outputs {
            Outputs::None | Outputs::Stdout => None,
            Outputs::Both => Some(Output(output("stderr").await?)),
        };
        Ok(Self { input: ProcessInput::new(target, &what, &id, writer), id, stream_id, stdout, stderr, outcome })
    }

    /// Reads its outputs to their ends and waits for its own. Its stdin stays open.
    ///
    /// # Errors
    /// The connection was lost, or the server cannot say how it ended.
    pub async fn finish(self) -> Result<Finished, ClientError> {
        let Self { stdout, stderr, mut outcome, input: _input, .. } = self;
        let (stdout, stderr, status) = tokio::join!(drain(stdout), drain(stderr), outcome.wait());
        Ok(Finished { status: status?, stdout, stderr })
    }
}

/// All there is: a lost connection shows in the process's outcome.
async fn drain(output: Option<Output>) -> Vec<u8> {
    let mut all = Vec::new();
    if let Some(mut output) = output {
        let _ = output.read_to_end(&mut all).await;
    }
    all
}

/// Raw bytes of one output, to its end.
pub struct Output(Hijacked);

impl Output {
    /// Asks for no more. What is on its way still comes, and then the end.
    pub async fn stop(&mut self) {
        // A connection that is gone sends no more either.
        let _ = self.0.shutdown().await;
    }
}

impl AsyncRead for Output {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

/// How a process ends.
pub struct ProcessOutcome {
    reader: BufReader<ReadHalf<Hijacked>>,
    target: Target,
    what: String,
    process: String,
    line: Vec<u8>,
}

impl ProcessOutcome {
    /// Waits for the exit status: the code, or 128 + the signal. Output may still be on its way.
    /// Cancel-safe: what was read of a message is kept.
    ///
    /// # Errors
    /// The connection was lost, or the server cannot say how the process ended.
    pub async fn wait(&mut self) -> Result<i32, ClientError> {
        loop {
            let message = self.next().await?;
            if let Some(status) = message.exit_status {
                return Ok(status);
            }
            if let Some(message) = message.error {
                return Err(ClientError::Process { process: self.process.clone(), message });
            }
        }
    }

    async fn next(&mut self) -> Result<ProcessPayload<'static>, ClientError> {
        loop {
            let room = MAX_MESSAGE.saturating_sub(self.line.len() as u64);
            let read = (&mut self.reader).take(room).read_until(b'\n', &mut self.line).await;
            let read = read.map_err(|error| ClientError::lost(&self.target, &self.what, error))?;
            let line = std::mem::take(&mut self.line);
            if line.iter().all(u8::is_ascii_whitespace) {
                if read == 0 {
                    let closed = io::Error::other("closed before the process ended");
                    return Err(ClientError::lost(&self.target, &self.what, closed));
                }
                continue;
            }
            return match serde_json::from_slice::<ProcessPayload<'_>>(&line) {
                Ok(message) => Ok(message.without_data()),
                // Cut in the middle.
                Err(_) if !line.ends_with(b"\n") && (line.len() as u64) < MAX_MESSAGE => {
                    let closed = io::Error::other("closed in the middle of a message");
                    Err(ClientError::lost(&self.target, &self.what, closed))
                }
                Err(error) => {
                    let why = format!("a message that cannot be read: {error}");
                    Err(ClientError::protocol(&self.target, &self.what, why))
                }
            };
        }
    }
}

/// What goes to a process. Cheap to clone; messages keep their order.
#[derive(Clone)]
pub struct ProcessInput {
    messages: mpsc::Sender<Message>,
    target: Target,
    what: String,
    process: String,
}

struct Message {
    line: Vec<u8>,
    written: oneshot::Sender<io::Result<()>>,
}

impl ProcessInput {
    fn new(target: &Target, what: &str, process: &str, writer: WriteHalf<Hijacked>) -> Self {
        let (messages, queue) = mpsc::channel(16);
        tokio::spawn(write_messages(writer, queue));
        Self { messages, target: target.clone(), what: what.to_owned(), process: process.to_owned() }
    }

    /// Sends text to stdin; waits while the server does not take it. Garden carries stdin as
    /// JSON, so it is text by nature.
    pub async fn write_stdin(&self, text: &str) -> Result<(), ClientError> {
        self.send(ProcessPayload { source: Some(0), data: Some(text.into()), ..Default::default() }).await
    }

    /// Ends stdin.
    pub async fn close_stdin(&self) -> Result<(), ClientError> {
        self.send(ProcessPayload { source: Some(0), ..Default::default() }).await
    }

    /// Signals the process.
    pub async fn signal(&self, signal: Signal) -> Result<(), ClientError> {
        let signal = match signal {
            Signal::Terminate => 0,
            Signal::Kill => 1,
        };
        self.send(ProcessPayload { signal: Some(signal), ..Default::default() }).await
    }

    /// Gives the terminal a new size.
    pub async fn resize(&self, size: WindowSize) -> Result<(), ClientError> {
        let tty = TtySpec { window_size: Some(size) };
        self.send(ProcessPayload { tty: Some(tty), ..Default::default() }).await
    }

    /// Returns once the kernel has the message.
    async fn send(&self, payload: ProcessPayload<'_>) -> Result<(), ClientError> {
        let payload = ProcessPayload { process_id: Some(self.process.clone()), ..payload };
        // Plain data: it cannot fail to become JSON.
        let mut line = serde_json::to_vec(&payload).expect("a message becomes JSON");
        line.push(b'\n');
        let (written, done) = oneshot::channel();
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let sent = match self.messages.send(Message { line, written }).await {
            Ok(()) => done.await.unwrap_or_else(|_| Err(gone())),
            Err(_) => Err(gone()),
        };
        sent.map_err(|error| ClientError::lost(&self.target, &self.what, error))
    }
}

async fn write_messages(mut writer: WriteHalf<Hijacked>, mut queue: mpsc::Receiver<Message>) {
    while let Some(Message { line, written }) = queue.recv().await {
        let result = writer.write_all(&line).await;
        let failed = result.is_err();
        // Nobody waits for it: the call was cancelled, its message was sent all the same.
        let _ = written.send(result);
        if failed {
            return;
        }
    }
}
