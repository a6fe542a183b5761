//! A client's connection, shared between HTTP, a stream that takes it over, and whoever only asks
//! whether the client is still there.

use crate::net::Stream;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// One owner's share of a connection. At most one reads and one writes at a time.
#[derive(Clone, Debug)]
pub(super) struct Socket(Arc<Stream>);

impl Socket {
    pub(super) fn new(stream: Stream) -> Self {
        Self(Arc::new(stream))
    }

    pub(super) fn peer(&self) -> Peer {
        Peer(Arc::downgrade(&self.0))
    }

    /// The bare descriptor, still non-blocking, where this is the only share.
    pub(super) fn into_fd(self) -> io::Result<OwnedFd> {
        let stream = Arc::into_inner(self.0).ok_or_else(|| io::Error::other("the connection is still shared"))?;
        stream.into_fd()
    }

    /// Sends FIN; reading goes on.
    pub(super) fn end(&self) -> io::Result<()> {
        self.0.end()
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_shared(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write_shared(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write_shared(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.end())
    }
}

/// The client at the other end, to ask after without reading from it.
#[derive(Clone, Debug)]
pub(super) struct Peer(Weak<Stream>);

impl Peer {
    /// Waits until the client has closed its side, or the connection is gone. A client that closes
    /// one side alone looks the same as one that left; nothing but writing tells them apart.
    pub(super) async fn gone(&self) {
        let own = match self.0.upgrade() {
            // A descriptor of our own has a readiness of its own: bytes that nobody reads yet (a
            // pipelined request) do not hide the end of the stream behind them.
            Some(stream) => stream.try_clone(),
            None => return,
        };
        match own {
            Ok(own) => closed(&own).await,
            Err(error) => {
                tracing::warn!(%error, "cannot watch whether a client is still there");
                std::future::pending().await
            }
        }
    }
}

async fn closed(stream: &Stream) {
    // An error here means that the runtime is going down.
    while let Ok(ready) = stream.ready(Interest::READABLE).await {
        if ready.is_read_closed() {
            return;
        }
        // Bytes, which are not for us. Looked at and left: the next event comes with more of them,
        // or with the end.
        let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UnixStream};
    use tokio::time::timeout;

    async fn tcp() -> (Stream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0.into(), client.into())
    }

    fn unix() -> (Stream, Stream) {
        let (server, client) = UnixStream::pair().unwrap();
        (server.into(), client.into())
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_noticed_behind_bytes_that_nobody_reads() {
        for (stream, mut client) in [tcp().await, unix()] {
            let mut socket = Socket::new(stream);
            let peer = socket.peer();
            client.write_all(b"unread").await.unwrap();
            assert!(timeout(Duration::from_millis(50), peer.gone()).await.is_err(), "it is still there");
            drop(client);
            timeout(Duration::from_secs(5), peer.gone()).await.expect("it is gone");
            let mut rest = Vec::new();
            socket.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"unread", "watching takes nothing away");
        }
    }

    #[tokio::test]
    async fn the_descriptor_can_be_taken_while_a_peer_is_held() {
        for (stream, mut client) in [tcp().await, unix()] {
            let socket = Socket::new(stream);
            let peer = socket.peer();
            let fd = socket.into_fd().unwrap();
            rustix::io::write(&fd, b"x").unwrap();
            drop(fd);
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, b"x");
            peer.gone().await;
        }
    }
}
