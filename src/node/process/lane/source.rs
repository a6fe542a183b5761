//! Where a process's output comes from: a pipe, which a terminal's master is pumped into.
//!
//! A terminal has no pipe of its own. Its bytes are spliced from the master into a relay pipe of
//! which init holds both ends: from there on it is a pipe like any other, and a byte is in the
//! terminal, in the relay, or further, at any instant. (splice(2) from a terminal works on every
//! kernel from 5.11 on; there is no path that would carry bytes through this process.)
//!
//! After the process's exit only what is there at that time still comes: [`Source::exit`] counts
//! it. What a surviving grandchild writes later is init's to discard.

use super::ready::{at_end, readable, writable};
use crate::node::process::sys;
use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::{SpliceFlags, splice};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// What one splice from a terminal asks for; a terminal holds 4 KiB at a time.
const TERMINAL_CHUNK: usize = 16 << 10;
/// What a terminal may still give after its process's exit: more than it can hold (8 KiB in
/// flight, 4 KiB ready), so that a grandchild that goes on writing does not keep it for ever.
const TERMINAL_REST: u64 = 64 << 10;

/// What says that a pipe is ready.
pub type ReadyGuard<'a> = AsyncFdReadyGuard<'a, OwnedFd>;

/// Where output comes from.
#[derive(Debug)]
pub struct Source {
    pipe: AsyncFd<OwnedFd>,
    terminal: Option<Terminal>,
    /// What still comes; `None` while the process runs.
    left: Option<u64>,
}

#[derive(Debug)]
struct Terminal {
    master: Arc<AsyncFd<OwnedFd>>,
    relay: AsyncFd<OwnedFd>,
    left: Option<u64>,
}

impl Source {
    /// The reading end of a pipe, non-blocking.
    ///
    /// # Errors
    /// Where the runtime cannot watch it.
    pub fn pipe(reading: OwnedFd) -> io::Result<Self> {
        Ok(Self { pipe: sys::watch(reading, Interest::READABLE)?, terminal: None, left: None })
    }

    /// A terminal's master, and both ends of its relay pipe, all non-blocking.
    ///
    /// # Errors
    /// Where the runtime cannot watch them.
    pub fn terminal(master: Arc<AsyncFd<OwnedFd>>, writing: OwnedFd, reading: OwnedFd) -> io::Result<Self> {
        let relay = sys::watch(writing, Interest::WRITABLE)?;
        Ok(Self { terminal: Some(Terminal { master, relay, left: None }), ..Self::pipe(reading)? })
    }

    /// The process has ended: what it wrote is all there now.
    pub fn exit(&mut self) {
        match &mut self.terminal {
            Some(terminal) => terminal.left = terminal.left.or(Some(TERMINAL_REST)),
            None => self.left = self.left.or_else(|| Some(self.waiting())),
        }
    }

    /// The process has ended, and what it wrote is to be moved without waiting for any reader.
    pub fn draining(&self) -> bool {
        self.left.is_some() || self.terminal.as_ref().is_some_and(|terminal| terminal.left.is_some())
    }

    /// How much may be taken at once of `count` that are wanted.
    pub fn allowed(&self, count: usize) -> usize {
        self.left.map_or(count, |left| count.min(usize::try_from(left).unwrap_or(usize::MAX)))
    }

    /// Notes what was taken.
    pub fn taken(&mut self, bytes: usize) {
        self.left = self.left.map(|left| left.saturating_sub(bytes as u64));
    }

    /// Nothing more comes that was not there at the exit.
    pub fn drained(&self) -> bool {
        self.left == Some(0)
    }

    /// Bytes in the pipe as of now.
    pub fn waiting(&self) -> u64 {
        ioctl_fionread(&self.pipe).unwrap_or(0)
    }

    /// The pipe is empty and has no writers any more.
    pub fn at_end(&self) -> bool {
        at_end(&self.pipe)
    }

    /// Whether the pipe has something, or its end; else leaves a waker. The guard is to be cleared
    /// by whoever finds it empty after all; a relay that was just pumped into has none.
    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<Option<ReadyGuard<'_>>>> {
        match self.pipe.poll_read_ready(context) {
            Poll::Ready(guard) => Poll::Ready(guard.map(Some)),
            Poll::Pending if self.terminal.is_some() && self.waiting() > 0 => Poll::Ready(Ok(None)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Moves what the terminal has into the relay; nothing to do without a terminal. Pending once
    /// nothing more can be moved now; `Ready` only where the moved bytes are over `budget`.
    pub fn poll_terminal(&mut self, context: &mut Context<'_>, budget: usize) -> Poll<()> {
        let mut moved = 0;
        while let Some(terminal) = &mut self.terminal {
            if moved >= budget {
                return Poll::Ready(());
            }
            match ready!(terminal.poll_move(context)) {
                Ok(bytes) => moved += bytes,
                Err(()) => {
                    // Its end, or that of what it may still give: the relay is all that is left.
                    self.terminal = None;
                    self.left = Some(self.waiting());
                }
            }
        }
        Poll::Pending
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Terminal {
    /// One move. `Err` at the terminal's end.
    fn poll_move(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, ()>> {
        let mut contradictions = 0;
        loop {
            let ended = self.left.is_some();
            if self.left == Some(0) {
                return Poll::Ready(Err(()));
            }
            let Ok(mut room) = ready!(self.relay.poll_write_ready(context)) else { return Poll::Ready(Err(())) };
            let mut data = match self.master.poll_read_ready(context) {
                Poll::Ready(Ok(data)) => Some(data),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(())),
                // After the exit what there is to read is asked for, and not waited for.
                Poll::Pending if ended => None,
                Poll::Pending => return Poll::Pending,
            };
            let count = self.left.map_or(TERMINAL_CHUNK, |left| TERMINAL_CHUNK.min(left as usize));
            match splice(self.master.get_ref(), None, self.relay.get_ref(), None, count, SpliceFlags::NONBLOCK) {
                Ok(0) => return Poll::Ready(Err(())),
                Ok(bytes) => {
                    self.left = self.left.map(|left| left.saturating_sub(bytes as u64));
                    return Poll::Ready(Ok(bytes));
                }
                Err(Errno::INTR) => {}
                // Either side may be what is not ready. A clearing that is wrong by now is
                // harmless: the next event finds its waker registered.
                Err(Errno::AGAIN) if !writable(self.relay.get_ref()) => room.clear_ready(),
                Err(Errno::AGAIN) if contradictions > 8 || !readable(self.master.get_ref()) => {
                    if ended {
                        return Poll::Ready(Err(()));
                    }
                    if let Some(data) = &mut data {
                        data.clear_ready();
                    }
                }
                Err(Errno::AGAIN) => contradictions += 1,
                // EIO: every copy of the other side is closed.
                Err(_) => return Poll::Ready(Err(())),
            }
        }
    }
}
