//! How a handler takes its connection over from HTTP, and what else handlers and the connection
//! that they run on tell each other.
//!
//! A handler cannot have the connection, which HTTP holds while the handler runs. So it leaves a
//! [`Takeover`] and never answers; the connection's task finds it, takes HTTP apart, writes the
//! head and goes on with the bare socket.

use super::answer::Refusal;
use super::socket::{Peer, Socket};
use super::stream::serve_process;
use crate::net::secure::Identity;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use gardend_controller::{Attachment, Output};
use http::StatusCode;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tracing::{Span, debug};

/// How long a client may take to receive the head.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// What goes on over a connection instead of HTTP.
pub(super) enum Takeover {
    /// A process's messages.
    Process { status: StatusCode, attachment: Attachment },
    /// One of its outputs, raw.
    Output(Output),
}

impl Takeover {
    /// Writes the head and goes on to the end. `early` is what the client sent behind its request.
    pub(super) async fn run(self, mut socket: Socket, early: Bytes) {
        let status = match &self {
            Self::Process { status, .. } => *status,
            Self::Output(_) => StatusCode::OK,
        };
        // Not chunked in truth. It is what Garden's own server says, and what its client needs to
        // hear in order to leave the connection open.
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
        match timeout(HEAD_DEADLINE, socket.write_all(head.as_bytes())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return debug!(%error, "the client is gone before its stream began"),
            Err(_) => return debug!("the client does not take the head of its stream"),
        }
        match self {
            Self::Process { attachment, .. } => serve_process(socket, early, attachment).await,
            Self::Output(output) => match socket.into_fd() {
                Ok(fd) => output.send_to(fd).await,
                Err(error) => tracing::error!(%error, "a connection cannot be handed over"),
            },
        }
    }
}

/// What a connection and the handlers that run on it share.
#[derive(Clone)]
pub(super) struct Exchange(Arc<Shared>);

struct Shared {
    peer: Peer,
    identity: Identity,
    takeover: Mutex<Option<(Takeover, Span)>>,
    /// A request has been read, and its answer has not yet been given to HTTP in whole.
    busy: AtomicBool,
    /// The client will not use this connection again.
    refused: AtomicBool,
    /// Bytes of ours wait for the client to take them.
    blocked: AtomicBool,
}

impl Exchange {
    pub(super) fn new(peer: Peer, identity: Identity) -> Self {
        Self(Arc::new(Shared {
            peer,
            identity,
            takeover: Mutex::new(None),
            busy: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
        }))
    }

    /// The client.
    pub(super) fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// Who that is.
    pub(super) fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Leaves `takeover` for the connection's task. Never resolves: the task drops the handler.
    pub(super) async fn take_over(&self, takeover: Takeover) -> Response {
        *self.0.takeover.lock().unwrap_or_else(PoisonError::into_inner) = Some((takeover, Span::current()));
        std::future::pending().await
    }

    /// Answers with an error where a takeover was asked for. Garden's client forgets such a
    /// connection without closing it, so we close it, shortly after and without saying so in the
    /// head, which would cost it the error.
    pub(super) fn refuse(&self, refusal: impl Into<Refusal>) -> Response {
        self.0.refused.store(true, Ordering::Relaxed);
        refusal.into().into_response()
    }

    /// What was left, and the span of the request that left it.
    pub(super) fn takeover(&self) -> Option<(Takeover, Span)> {
        // Bytes of an earlier answer that HTTP still holds would be lost with it.
        if self.0.blocked.load(Ordering::Relaxed) {
            return None;
        }
        self.0.takeover.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn is_busy(&self) -> bool {
        self.0.busy.load(Ordering::Relaxed)
    }

    pub(super) fn is_refused(&self) -> bool {
        self.0.refused.load(Ordering::Relaxed)
    }

    pub(super) fn set_blocked(&self, blocked: bool) {
        self.0.blocked.store(blocked, Ordering::Relaxed);
    }

    /// A request has been read. The guard goes with its answer's body.
    pub(super) fn begin(&self) -> Busy {
        self.0.busy.store(true, Ordering::Relaxed);
        Busy(self.clone())
    }
}

/// Lasts from a request's head to the end of its answer.
pub(super) struct Busy(Exchange);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.busy.store(false, Ordering::Relaxed);
    }
}

/// An answer's body, with which the exchange ends.
pub(super) struct AnswerBody {
    body: Body,
    _busy: Busy,
}

impl AnswerBody {
    pub(super) fn new(body: Body, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
