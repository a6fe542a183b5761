//! The socket as hyper sees it, with two habits of its own.
//!
//! - A client that takes no byte of an answer for [`STALL`] loses its connection.
//! - What hyper answers by itself to a head that it cannot read (an empty 400, 414 or 431) is
//!   dropped here; the connection's task then writes the same in Garden's shape.

use super::socket::Socket;
use super::takeover::Exchange;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a client may take none of our bytes.
const STALL: Duration = Duration::from_secs(60);

pub(super) struct HttpSocket {
    socket: Socket,
    exchange: Exchange,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl HttpSocket {
    pub(super) fn new(socket: Socket, exchange: Exchange) -> Self {
        Self { socket, exchange, stalled: None }
    }

    pub(super) fn into_socket(self) -> Socket {
        self.socket
    }

    /// Keeps the time of a write that does not move.
    fn watched(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.exchange.set_blocked(written.is_pending());
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + STALL)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Whether hyper wrote this by itself. Only asked between exchanges, when nothing of ours begins
/// a write, and our errors always have a body.
fn is_automatic(bytes: &[u8]) -> bool {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let head = &bytes[..end.unwrap_or(bytes.len())];
    head.starts_with(b"HTTP/1.")
        && head.get(8..10) == Some(b" 4")
        && head.split(|byte| *byte == b'\n').any(|line| {
            line.eq_ignore_ascii_case(b"content-length: 0\r") || line.eq_ignore_ascii_case(b"content-length: 0")
        })
}

impl AsyncRead for HttpSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for HttpSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.exchange.is_busy() && is_automatic(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.watched(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = slices {
            return self.poll_write(cx, only);
        }
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.watched(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_refusal_is_hypers_own() {
        assert!(is_automatic(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n"));
        assert!(is_automatic(b"HTTP/1.1 431 Too Large\r\ndate: x\r\ncontent-length: 0\r\n\r\n"));
        assert!(!is_automatic(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 10\r\n\r\ncontent-length: 0\r\n"));
        assert!(!is_automatic(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
        assert!(!is_automatic(b"HTTP/1.1 100 Continue\r\n\r\n"));
        assert!(!is_automatic(b""));
    }
}
