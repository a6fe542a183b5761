//! Bytes to and from a server: dialling, plain requests (hyper), hijacked connections (by hand).
//!
//! A hijacked answer says `Transfer-Encoding: chunked` and is raw all the same, as Go's server
//! sends it; an HTTP library would take it at its word, so its head is read here.

use super::error::ClientError;
use super::target::Target;
use super::wire::ErrorBody;
use crate::net::{Stream, secure};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::TryStreamExt;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
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
    let body = Full::new(request.body.clone().unwrap_or_default());
    begin(target, &request, body, what).await?.whole().await
}

/// Sends a request; answers once the head of its answer is there.
async fn begin<B>(target: &Target, request: &Request, body: B, what: &str) -> Result<Answer, ClientError>
where
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = dial(target).await?;
    let lost = |error: hyper::Error| hyper_error(target, what, &error);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let mut connection = AbortOnDrop(tokio::spawn(connection));
    let mut head = http::Request::builder()
        .method(request.method.clone())
        .uri(format!("{}{}", request.path, request.query))
        .header(header::HOST, host(target))
        .header(header::CONNECTION, "close");
    if let Some(authorization) = authorization(target)? {
        head = head.header(header::AUTHORIZATION, authorization);
    }
    if request.body.is_some() {
        head = head.header(header::CONTENT_TYPE, "application/json");
    }
    let request = head
        .body(body)
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
    let (head, body) = answer.into_parts();
    let (target, what) = (target.clone(), what.to_owned());
    Ok(Answer { target, what, status: head.status, body, _connection: connection })
}

/// An answer whose body is still coming.
pub(super) struct Answer {
    target: Target,
    what: String,
    status: StatusCode,
    body: Incoming,
    _connection: AbortOnDrop<hyper::Result<()>>,
}

impl Answer {
    /// All of its body, or the error that it is.
    async fn whole(self) -> Result<Bytes, ClientError> {
        if !self.status.is_success() {
            return Err(self.refusal().await);
        }
        let lost = |error| ClientError::lost(&self.target, &self.what, io::Error::other(error));
        Ok(Limited::new(self.body, MAX_BODY).collect().await.map_err(lost)?.to_bytes())
    }

    /// The error that it is.
    async fn refusal(self) -> ClientError {
        match Limited::new(self.body, MAX_BODY).collect().await {
            Ok(body) => refusal(&self.target, &self.what, self.status, &body.to_bytes()),
            Err(error) => ClientError::lost(&self.target, &self.what, io::Error::other(error)),
        }
    }

    /// The next piece of its body; `None` at its end. Cancel-safe: a frame is given whole or stays.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(_)) => {
                    let cut = io::Error::other("cut by the server before the stream was whole; its log says why");
                    return Err(ClientError::lost(&self.target, &self.what, cut));
                }
            }
        }
    }

    pub(super) fn timed_out(&self, after: Duration) -> ClientError {
        ClientError::TimedOut { target: self.target.clone(), what: self.what.clone(), after }
    }
}

/// Sends a request whose answer is a stream.
pub(super) async fn receive_stream(target: &Target, request: Request) -> Result<Answer, ClientError> {
    let (what, deadline) = (request.what(), request.deadline);
    let beginning = async {
        let body = Full::new(request.body.clone().unwrap_or_default());
        let answer = begin(target, &request, body, &what).await?;
        match answer.status.is_success() {
            true => Ok(answer),
            false => Err(answer.refusal().await),
        }
    };
    let timed_out = |_| ClientError::TimedOut { target: target.clone(), what: what.clone(), after: deadline };
    timeout(deadline, beginning).await.map_err(timed_out)?
}

/// Sends a request whose body is a stream. `stall`: how long the server may take no piece; `finish`:
/// how long its answer may take once it has all.
pub(super) async fn send_stream(
    target: &Target,
    request: Request,
    mut pieces: mpsc::Receiver<io::Result<Bytes>>,
    stall: Duration,
    finish: Duration,
) -> Result<(), ClientError> {
    let what = request.what();
    let timed_out = |after| ClientError::TimedOut { target: target.clone(), what: what.clone(), after };
    // One piece at a time: a piece that was taken is on its way.
    let (sender, mut queue) = mpsc::channel::<io::Result<Bytes>>(1);
    let body = StreamBody::new(futures_util::stream::poll_fn(move |cx| queue.poll_recv(cx)).map_ok(Frame::data));
    let mut answering = std::pin::pin!(async { begin(target, &request, body, &what).await?.whole().await.map(drop) });
    let feeding = async {
        while let Some(piece) = pieces.recv().await {
            let failed = piece.as_ref().err().map(|error| io::Error::new(error.kind(), error.to_string()));
            match timeout(stall, sender.send(piece)).await {
                Err(_) => return Err(timed_out(stall)),
                // Refused: the answer says why.
                Ok(Err(_)) => return Ok(()),
                Ok(Ok(())) => {}
            }
            if let Some(source) = failed {
                return Err(ClientError::Stream { source });
            }
        }
        drop(sender);
        Ok(())
    };
    let mut feeding = std::pin::pin!(feeding);
    // Both are pinned, and go on where they were.
    tokio::select! {
        biased;
        answer = &mut answering => return answer,
        fed = &mut feeding => fed?,
    }
    timeout(finish, answering).await.map_err(|_| timed_out(finish))?
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
    if let Some(authorization) = authorization(target)? {
        head.push_str(&format!("Authorization: {authorization}\r\n"));
    }
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
        Target::Tls { .. } => target.to_string().trim_start_matches("https://").to_owned(),
        Target::Unix(_) => "gardend".to_owned(),
    }
}

/// Proof of who asks, for servers that are spoken to in secret.
fn authorization(target: &Target) -> Result<Option<String>, ClientError> {
    let Target::Tls { credentials, .. } = target else { return Ok(None) };
    let unusable = |error| ClientError::Unreachable { target: target.clone(), source: io::Error::other(error) };
    Ok(credentials.read_token().map_err(unusable)?.map(|token| format!("Bearer {token}")))
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
            Target::Tls { host, port, credentials } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                secure::connect(stream, host, credentials).await.map(Stream::Unix)
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
