//! A reader's socket: whether its peer is still there, and how it is ended.
//!
//! A stream that was read to its end, or whose peer has stopped reading, ends with FIN; one that
//! is taken from a reader who fell too far behind ends with RST, so that nobody takes it for whole.
//! A unix socket knows no RST and ends as any other would; the log tells.

use super::ready;
use crate::node::process::sys;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown, sockopt};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// How long the peer may take to close after everything has left the socket.
const LINGER: Duration = Duration::from_secs(1);
/// How long everything may take to leave the socket of a slow peer after the stream's end.
const LINGER_UNSENT: Duration = Duration::from_secs(60);
/// What a peer that sends where it should only read may send before it is taken for gone.
const MAX_UNASKED: u64 = 16 << 20;

/// A connected socket that output goes into.
#[derive(Debug)]
pub struct Reader {
    socket: AsyncFd<OwnedFd>,
    unasked: u64,
    /// Tells the one who waits that it is over.
    done: oneshot::Sender<()>,
}

impl Reader {
    /// Takes a connected stream socket over.
    ///
    /// # Errors
    /// Where it is none, or the runtime cannot watch it.
    pub fn new(socket: OwnedFd, done: oneshot::Sender<()>) -> io::Result<Self> {
        fcntl_setfl(&socket, fcntl_getfl(&socket)? | OFlags::NONBLOCK)?;
        // Not for unix sockets, and no harm where they are refused.
        let _ = sockopt::set_tcp_nodelay(&socket, true);
        let _ = sockopt::set_tcp_keepidle(&socket, Duration::from_secs(30));
        let _ = sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(10));
        let _ = sockopt::set_tcp_keepcnt(&socket, 6);
        let _ = sockopt::set_socket_keepalive(&socket, true);
        Ok(Self { socket: sys::watch(socket, sys::BOTH)?, unasked: 0, done })
    }

    /// The socket.
    pub fn socket(&self) -> &AsyncFd<OwnedFd> {
        &self.socket
    }

    /// Reads and discards what the peer sends (it has nothing to say; unread, it would turn our
    /// FIN into a RST). True once the peer has closed or is not to be had.
    pub fn poll_gone(&mut self, context: &mut Context<'_>) -> bool {
        let mut buffer = [0; 4096];
        loop {
            let Poll::Ready(ready) = self.socket.poll_read_ready(context) else { return false };
            let Ok(mut ready) = ready else { return true };
            match receive(self.socket.as_fd(), &mut buffer) {
                Ok(0) => return true,
                Ok(bytes) => {
                    self.unasked += bytes as u64;
                    if self.unasked > MAX_UNASKED {
                        return true;
                    }
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(_) => return true,
            }
        }
    }

    /// Whether the peer has closed, as of now and not as of the last event.
    pub fn peer_closed(&self) -> bool {
        ready::peer_closed(&self.socket)
    }

    /// Whether the socket takes bytes as of now.
    pub fn writable(&self) -> bool {
        ready::writable(&self.socket)
    }

    /// Ends the stream: everything that was written arrives, then the end.
    pub fn finish(self) {
        let Self { socket, done, .. } = self;
        finish(socket);
        let _ = done.send(());
    }

    /// Breaks the connection off, so that its peer knows that something is missing.
    pub fn cut(self) {
        let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
        let _ = self.done.send(());
    }
}

impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Ends a stream for which there is nothing (more) to send.
pub fn finish_unread(socket: OwnedFd) {
    let nonblocking = fcntl_getfl(&socket).and_then(|flags| fcntl_setfl(&socket, flags | OFlags::NONBLOCK));
    if nonblocking.is_ok()
        && let Ok(socket) = sys::watch(socket, sys::BOTH)
    {
        finish(socket);
    }
}

/// Sends the end, then keeps the socket in the background until the peer has closed too.
fn finish(socket: AsyncFd<OwnedFd>) {
    // Without a runtime (it is going down) closing is all that can be done.
    if shutdown(&socket, Shutdown::Write).is_ok()
        && let Ok(runtime) = Handle::try_current()
    {
        runtime.spawn(linger(socket));
    }
}

async fn linger(socket: AsyncFd<OwnedFd>) {
    let start = Instant::now();
    let mut budget = MAX_UNASKED;
    let mut buffer = [0; 4096];
    loop {
        let look_again = Instant::now() + LINGER;
        // Cancel-safe: readiness only; what is there is read below, at once.
        match timeout_at(look_again, socket.readable()).await {
            Ok(Ok(mut ready)) => match receive(socket.as_fd(), &mut buffer) {
                Ok(0) => return,
                Ok(bytes) => {
                    budget = budget.saturating_sub(bytes as u64);
                    if budget == 0 {
                        return;
                    }
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(_) => return,
            },
            Ok(Err(_)) => return,
            Err(_) => {
                let unsent = sys::unsent(&socket).unwrap_or(0);
                if unsent == 0 || start.elapsed() > LINGER_UNSENT {
                    return;
                }
            }
        }
    }
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    recv(socket, buffer, RecvFlags::DONTWAIT).map(|(_, bytes)| bytes)
}
