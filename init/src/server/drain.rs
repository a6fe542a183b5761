//! Reads away what nobody wants any more, so that whoever still writes it does not die of SIGPIPE.
//!
//! A stream comes here with Forget, when gardend has moved what mattered, and stays until its last
//! writer is gone: a pipe's read end, or a terminal's master, without which the terminal would be
//! hung up. (When a session's leader ends the kernel hangs up what is in its foreground alone.)

use rustix::fs::{OFlags, fcntl_setfl};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Beyond this the oldest is closed after all.
const MAX_STREAMS: usize = 4096;
/// Read at once. Small: it stays init's own memory.
const CHUNK: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub struct Drain {
    streams: VecDeque<OwnedFd>,
}

impl Drain {
    /// Takes a stream, unless it is at its end already.
    pub fn add(&mut self, stream: OwnedFd) {
        // The flag is shared with every copy of the descriptor; only init reads from now on.
        if fcntl_setfl(&stream, OFlags::NONBLOCK).is_err() || is_at_end(stream.as_fd()) {
            return;
        }
        if self.streams.len() == MAX_STREAMS {
            self.streams.pop_front();
        }
        self.streams.push_back(stream);
    }

    /// To wait for.
    pub fn streams(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.streams.iter().map(AsFd::as_fd)
    }

    /// Reads a little from these of [`Drain::streams`], by their number in ascending order, and
    /// closes those that are at their end.
    pub fn turn(&mut self, ready: &[usize]) {
        for &number in ready.iter().rev() {
            if self.streams.get(number).is_some_and(|stream| is_at_end(stream.as_fd())) {
                self.streams.remove(number);
            }
        }
    }
}

fn is_at_end(stream: BorrowedFd<'_>) -> bool {
    let mut chunk = [std::mem::MaybeUninit::<u8>::uninit(); CHUNK];
    match rustix::io::read(stream, &mut chunk) {
        Ok((read, _)) => read.is_empty(),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => false,
        // A terminal that nobody has open any more answers EIO.
        Err(_) => true,
    }
}
