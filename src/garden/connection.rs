//! One client's connection: HTTP until it ends or a handler takes it over.
//!
//! - Keep-alive, pipelining and HTTP/1.0 are hyper's. A client that closes its own side still gets
//!   its answer, except to a create, which is undone (see `calls::containers`).
//! - A head must arrive within [`HEAD_TIME`]; so long a connection may also stay idle.
//! - What hyper would answer with an empty body is answered in Garden's shape.
//! - A server that shuts down lets the request that runs finish, and never adds
//!   `Connection: close` to an answer that is on its way.

use super::answer::Refusal;
use super::io::HttpSocket;
use super::linger::linger;
use super::socket::Socket;
use super::takeover::{AnswerBody, Exchange, Takeover};
use crate::net::Stream;
use crate::net::secure::Identity;
use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{Instrument, Span, debug, error};

/// How long the head of a request may take.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(30);
/// The largest head. Its first line has a limit of its own, of 64 KiB: the most that a path and
/// query can be as hyper keeps them.
const MAX_HEAD: usize = 128 * 1024;
/// What is read ahead of a body, at most.
const READ_AHEAD: usize = 256 * 1024;
/// How long a connection is kept after a takeover was refused on it.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// How long a client may take to receive an error of the connection's own.
const ERROR_DEADLINE: Duration = Duration::from_secs(5);

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Answering = BoxFuture<Result<http::Response<AnswerBody>, Infallible>>;

/// How HTTP ended on a connection.
enum End {
    TakenOver(Takeover, Span),
    Closed(hyper::Result<()>),
}

/// Serves one connection to its end. `shutdown` lets a request that runs finish and ends the rest.
pub(super) async fn serve(stream: Stream, identity: Identity, router: Router, shutdown: CancellationToken) {
    let socket = Socket::new(stream);
    let exchange = Exchange::new(socket.peer(), identity);
    let io = TokioIo::new(HttpSocket::new(socket, exchange.clone()));
    let service = {
        let exchange = exchange.clone();
        hyper::service::service_fn(move |request| answer(request, router.clone(), exchange.clone()))
    };
    let mut http = http1::Builder::new()
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(READ_AHEAD)
        .max_header_size(MAX_HEAD)
        .serve_connection(io, service);

    let mut stop = pin!(shutdown.cancelled());
    let mut stopping = false;
    let mut after_refusal: Option<Pin<Box<Sleep>>> = None;
    let mut asked_to_end = false;
    let end = poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = http.poll_without_shutdown(cx) {
                return Poll::Ready(End::Closed(result));
            }
            if let Some((takeover, span)) = exchange.takeover() {
                return Poll::Ready(End::TakenOver(takeover, span));
            }
            stopping = stopping || stop.as_mut().poll(cx).is_ready();
            if asked_to_end || exchange.is_busy() {
                return Poll::Pending;
            }
            let over = exchange.is_refused() && {
                let timer = after_refusal.get_or_insert_with(|| Box::pin(sleep(AFTER_REFUSAL)));
                timer.as_mut().poll(cx).is_ready()
            };
            if !stopping && !over {
                return Poll::Pending;
            }
            asked_to_end = true;
            Pin::new(&mut http).graceful_shutdown();
        }
    })
    .await;

    let parts = http.into_parts();
    let socket = parts.io.into_inner().into_socket();
    match end {
        End::TakenOver(takeover, span) => {
            // Either may be dropped anywhere: a stream that is cut is a client that was detached,
            // and what it did not get is kept for the next.
            tokio::select! {
                () = takeover.run(socket, parts.read_buf).instrument(span) => {}
                () = shutdown.cancelled() => debug!("a stream ends with the server"),
            }
        }
        End::Closed(Ok(())) => finish(socket, &shutdown).await,
        End::Closed(Err(error)) => match refusal_for(&error, &parts.read_buf) {
            Some(refusal) => refuse(socket, &refusal).await,
            None => debug!(%error, "a connection failed"),
        },
    }
}

/// Closes a connection whose answers were given, while nothing holds up a server that shuts down.
async fn finish(socket: Socket, shutdown: &CancellationToken) {
    // Both may be dropped anywhere; the socket closes with them.
    tokio::select! {
        () = linger(socket) => {}
        () = async { shutdown.cancelled().await; sleep(Duration::from_millis(200)).await } => {}
    }
}

/// Answers a connection that there is no place for, once it has asked something: clients take an
/// answer that comes before their question for a fault.
pub(super) async fn turn_away(mut socket: Socket, refusal: &Refusal) {
    let mut head = BytesMut::new();
    let asked = timeout(ERROR_DEADLINE, async {
        while !head.windows(4).any(|four| four == b"\r\n\r\n") && head.len() < MAX_HEAD {
            if !matches!(socket.read_buf(&mut head).await, Ok(read) if read > 0) {
                return;
            }
        }
    });
    // One that never asks is answered all the same.
    let _ = asked.await;
    refuse(socket, refusal).await;
}

/// Answers what is no request, and closes.
async fn refuse(mut socket: Socket, refusal: &Refusal) {
    if let Ok(Ok(())) = timeout(ERROR_DEADLINE, socket.write_all(&refusal.as_bytes())).await {
        linger(socket).await;
    }
}

/// What there is to say about a head that could not be read; nothing to a client that went away
/// or stayed idle.
fn refusal_for(error: &hyper::Error, unread: &Bytes) -> Option<Refusal> {
    if error.is_parse_too_large() {
        let message = format!(
            "the request's head is too large; its first line may be 64 KiB, all of it {MAX_HEAD} bytes and 100 headers"
        );
        return Some(Refusal::http(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, message));
    }
    if error.is_parse() {
        return Some(Refusal::bad_request(format!("this is no HTTP/1.1 request: {error}")));
    }
    if error.is_timeout() && !unread.is_empty() {
        let message = format!("the request's head did not arrive within {} seconds", HEAD_TIME.as_secs());
        return Some(Refusal::http(StatusCode::REQUEST_TIMEOUT, message));
    }
    None
}

fn answer(request: Request<Incoming>, router: Router, exchange: Exchange) -> Answering {
    let busy = exchange.begin();
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(exchange);
    Box::pin(async move {
        let answered = AssertUnwindSafe(router.oneshot(request)).catch_unwind().await;
        let response = answered.map_or_else(
            |_| panicked(),
            |response: Result<Response, Infallible>| response.unwrap_or_else(|never| match never {}),
        );
        Ok(response.map(|body| AnswerBody::new(body, busy)))
    })
}

fn panicked() -> Response {
    error!("a request made its handler panic; this is a bug in gardend");
    let message = "gardend failed on this request; its log says more (please report it)";
    Refusal::http(StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
}
