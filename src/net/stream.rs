//! A connection, over TCP or a unix socket.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

/// The same of either.
macro_rules! each {
    ($stream:expr, $inner:ident => $act:expr) => {
        match $stream {
            Stream::Tcp($inner) => $act,
            Stream::Unix($inner) => $act,
        }
    };
}

impl Stream {
    /// The bare descriptor, still non-blocking.
    ///
    /// # Errors
    /// Where the runtime cannot let go of it.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        Ok(each!(self, stream => stream.into_std()?.into()))
    }

    /// The same socket once more, with a readiness of its own.
    ///
    /// # Errors
    /// Where there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let copy = self.as_fd().try_clone_to_owned()?;
        Ok(match self {
            Self::Tcp(_) => Self::Tcp(TcpStream::from_std(copy.into())?),
            Self::Unix(_) => Self::Unix(UnixStream::from_std(copy.into())?),
        })
    }

    /// Ends our side; reading goes on.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn end(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self, rustix::net::Shutdown::Write)?)
    }

    /// Waits until the socket is ready for this, or has ended. Cancel-safe.
    ///
    /// # Errors
    /// Where the runtime is going down.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        each!(self, stream => stream.ready(interest).await)
    }

    /// Does something non-blocking with the socket; its readiness is forgotten where it would block.
    ///
    /// # Errors
    /// Those of what is done.
    pub fn try_io<T>(&self, interest: Interest, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        each!(self, stream => stream.try_io(interest, act))
    }

    /// [`AsyncRead::poll_read`] of a stream that is shared.
    pub fn poll_read_shared(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(each!(self, stream => stream.poll_read_ready(cx)))?;
            match each!(self, stream => stream.try_read_buf(buffer)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result.map(drop)),
            }
        }
    }

    /// [`AsyncWrite::poll_write_vectored`] of a stream that is shared.
    pub fn poll_write_shared(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(each!(self, stream => stream.poll_write_ready(cx)))?;
            match each!(self, stream => stream.try_write_vectored(slices)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        each!(self, stream => stream.as_fd())
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}
