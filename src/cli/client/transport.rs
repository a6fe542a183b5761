//! Bytes to and from a server: dialling, plain requests (hyper), hijacked connections (by hand).
//!
//! A hijacked answer says `Transfer-Encoding: chunked` and is raw all the same, as Go's server
//! sends it; an HTTP library would take it at its word, so its head is read here.

use super::error::ClientError;
use super::target::Target;
use super::wire::ErrorBody;
use crate::net::Stream;
use bytes::{Buf, Bytes, BytesMut};
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// A connection is there within this, or not at all.
const DIAL: Duration = Duration::from_secs(5);
/// A refused hijack's body is small and comes at once.
const ERROR_BODY: Duration = Duration::from_secs(5);
/// Answers are larger than this from no server that means well.
const MAX_BODY: usize = 256 << 20;
const MAX_HEAD: usize = 64 << 10;
const MAX_ERROR_BODY: usize = 1 << 20;

/// Everything but RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One part of a path, escaped.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// One request.
pub(super) struct Request {
    method: Method,
    path: String,
    query: String,
    body: Option<Bytes>,
    deadline: Duration,
}

impl Request {
    /// `path` is escaped already.
    pub(super) fn new(method: Method, path: impl Into<String>, deadline: Duration) -> Self {
        Self { method, path: path.into(), query: String::new(), body: None, deadline }
    }

    pub(super) fn query(mut self, key: &str, value: &str) -> Self {
        self.query.push(if self.query.is_empty() { '?' } else { '&' });
        self.query.push_str(&format!("{}={}", segment(key), segment(value)));
        self
    }

    pub(super) fn json(mut self, body: &impl Serialize) -> Self {
        // Plain data with string keys: it cannot fail to become JSON.
        let mut text = serde_json::to_vec(body).expect("a request becomes JSON");
        text.push(b'\n');
        self.body = Some(text.into());
        self
    }

    /// The request as errors name it.
    pub(super) fn what(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// Sends a request and answers the body of its answer, or its error.
pub(super) async fn call(target: &Target, request: Request) -> Result<Bytes, ClientError> {
    let (what, deadline) = (request.what(), request.deadline);
    match timeout(deadline, exchange(target, request, &what)).await {
        Ok(answer) => answer,
        Err(_) => Err(ClientError::TimedOut { target: target.clone(), what, after: deadline }),
    }
}

async fn exchange(target: &Target, request: Request, what: &str) -> Result<Bytes, ClientError> {
    let stream = dial(target).await?;
    let lost = |error: hyper::Error| hyper_error(target, what, &error);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let mut connection = AbortOnDrop(tokio::spawn(connection));
    let mut head = http::Request::builder()
        .method(request.method)
        .uri(format!("{}{}", request.path, request.query))
        .header(header::HOST, host(target))
        .header(header::CONNECTION, "close");
    if request.body.is_some() {
        head = head.header(header::CONTENT_TYPE, "application/json");
    }
    let request = head
        .body(Full::new(request.body.unwrap_or_default()))
        .map_err(|error| ClientError::protocol(target, what, format!("the request cannot be made: {error}")))?;
    let answer = match sender.send_request(request).await {
        Ok(answer) => answer,
        // The connection's own end says more than that the request was not sent any more.
        Err(error) if error.is_canceled() => match (&mut connection.0).await {
            Ok(Err(reason)) => return Err(lost(reason)),
            _ => return Err(lost(error)),
        },
        Err(error) => return Err(lost(error)),
    };
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_BODY)
        .collect()
        .await
        .map_err(|error| ClientError::lost(target, what, io::Error::other(error)))?
        .to_bytes();
    drop(connection);
    if status.is_success() { Ok(body) } else { Err(refusal(target, what, status, &body)) }
}

/// The error that an answer holds.
fn refusal(target: &Target, what: &str, status: StatusCode, body: &[u8]) -> ClientError {
    // The first JSON value in it: a chunked body that was read raw has its framing around that.
    let start = body.iter().position(|byte| *byte == b'{').unwrap_or(0);
    let mut values = serde_json::Deserializer::from_slice(&body[start..]).into_iter::<ErrorBody>();
    match values.next() {
        Some(Ok(error)) => ClientError::Garden(error.into()),
        _ => {
            let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
            ClientError::protocol(target, what, format!("status {status} with {:?}", text.trim()))
        }
    }
}

fn hyper_error(target: &Target, what: &str, error: &hyper::Error) -> ClientError {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    if let Some(source) = source {
        let source = source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
        return ClientError::lost(target, what, source);
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return ClientError::lost(target, what, io::Error::other("closed before the answer was complete"));
    }
    ClientError::protocol(target, what, error.to_string())
}

/// Sends a request whose connection is to be taken over; answers what follows the head.
pub(super) async fn hijack(target: &Target, request: Request) -> Result<Hijacked, ClientError> {
    let (what, deadline) = (request.what(), request.deadline);
    match timeout(deadline, take_over(target, request, &what)).await {
        Ok(answer) => answer,
        Err(_) => Err(ClientError::TimedOut { target: target.clone(), what, after: deadline }),
    }
}

async fn take_over(target: &Target, request: Request, what: &str) -> Result<Hijacked, ClientError> {
    let mut stream = dial(target).await?;
    let body = request.body.unwrap_or_default();
    let mut head = format!(
        "{} {}{} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n",
        request.method,
        request.path,
        request.query,
        host(target)
    );
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let lost = |error| ClientError::lost(target, what, error);
    // A server that refuses early may close before it has read the whole body: its answer counts.
    let sent = send(&mut stream, head.as_bytes(), &body).await;
    let mut buffer = BytesMut::with_capacity(4096);
    let head = loop {
        if let Some(head) = parse_head(&buffer).map_err(|why| ClientError::protocol(target, what, why))? {
            break head;
        }
        if stream.read_buf(&mut buffer).await.map_err(lost)? == 0 {
            sent.map_err(lost)?;
            return Err(lost(io::Error::other("closed before it answered")));
        }
    };
    buffer.advance(head.length);
    if head.status.is_success() {
        return Ok(Hijacked { before: buffer.freeze(), stream });
    }
    read_error_body(&mut stream, &mut buffer, head.content_length).await;
    Err(refusal(target, what, head.status, &buffer))
}

async fn send(stream: &mut Stream, head: &[u8], body: &[u8]) -> io::Result<()> {
    stream.write_all(head).await?;
    stream.write_all(body).await?;
    stream.flush().await
}

/// Reads on until the body is whole, the server closes, or it is long enough.
async fn read_error_body(stream: &mut Stream, buffer: &mut BytesMut, length: Option<usize>) {
    let end = length.unwrap_or(MAX_ERROR_BODY).min(MAX_ERROR_BODY);
    let reading =
        async { while buffer.len() < end && !is_whole(buffer) && matches!(stream.read_buf(buffer).await, Ok(1..)) {} };
    // Late or not, what has come is looked at.
    let _ = timeout(ERROR_BODY, reading).await;
}

/// Holds a complete JSON value.
fn is_whole(buffer: &[u8]) -> bool {
    let Some(start) = buffer.iter().position(|byte| *byte == b'{') else { return false };
    let mut values = serde_json::Deserializer::from_slice(&buffer[start..]).into_iter::<serde::de::IgnoredAny>();
    matches!(values.next(), Some(Ok(_)))
}

struct Head {
    length: usize,
    status: StatusCode,
    content_length: Option<usize>,
}

/// `None` while it is not complete.
fn parse_head(buffer: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut headers);
    match answer.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => {
            let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or("it has no status")?;
            let content_length = answer
                .headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case("content-length"))
                .and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok());
            Ok(Some(Head { length, status, content_length }))
        }
        Ok(httparse::Status::Partial) if buffer.len() > MAX_HEAD => Err("its head has no end".to_owned()),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(format!("{error}")),
    }
}

fn host(target: &Target) -> String {
    match target {
        Target::Tcp { .. } => target.to_string(),
        Target::Unix(_) => "gardend".to_owned(),
    }
}

/// Connects to a server.
///
/// # Errors
/// [`ClientError::Unreachable`].
pub(crate) async fn dial(target: &Target) -> Result<Stream, ClientError> {
    let connecting = async {
        match target {
            Target::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                // A keystroke must not wait for the next one.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Target::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        }
    };
    let dialled = match timeout(DIAL, connecting).await {
        Ok(dialled) => dialled,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    dialled.map_err(|source| ClientError::Unreachable { target: target.clone(), source })
}

/// A connection after its head: what came together with the head, then the rest.
pub(super) struct Hijacked {
    before: Bytes,
    stream: Stream,
}

impl AsyncRead for Hijacked {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.before.len().min(buffer.remaining());
        buffer.put_slice(&self.before.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Hijacked {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The task that drives a connection ends with the call that needs it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
