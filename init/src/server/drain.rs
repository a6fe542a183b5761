//! Reads away what nobody wants any more, so that whoever still writes it does not die of SIGPIPE.
//!
//! A pipe comes here with Forget, when gardend has moved what mattered, and stays until its last
//! writer is gone. A terminal never does: the kernel hangs it up when its session's leader ends.

use rustix::fs::{OFlags, fcntl_setfl};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Beyond this the oldest is closed after all.
const MAX_PIPES: usize = 4096;
/// Read at once. Small: it stays init's own memory.
const CHUNK: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub struct Drain {
    pipes: VecDeque<OwnedFd>,
}

impl Drain {
    /// Takes a pipe's read end, unless it is at its end already.
    pub fn add(&mut self, pipe: OwnedFd) {
        // The flag is shared with every copy of the descriptor; only init reads from now on.
        if fcntl_setfl(&pipe, OFlags::RDONLY | OFlags::NONBLOCK).is_err() || is_at_end(pipe.as_fd()) {
            return;
        }
        if self.pipes.len() == MAX_PIPES {
            self.pipes.pop_front();
        }
        self.pipes.push_back(pipe);
    }

    /// To wait for.
    pub fn pipes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pipes.iter().map(AsFd::as_fd)
    }

    /// Reads a little from these of [`Drain::pipes`], by their number in ascending order, and
    /// closes those that are at their end.
    pub fn turn(&mut self, ready: &[usize]) {
        for &number in ready.iter().rev() {
            if self.pipes.get(number).is_some_and(|pipe| is_at_end(pipe.as_fd())) {
                self.pipes.remove(number);
            }
        }
    }
}

fn is_at_end(pipe: BorrowedFd<'_>) -> bool {
    let mut chunk = [std::mem::MaybeUninit::<u8>::uninit(); CHUNK];
    match rustix::io::read(pipe, &mut chunk) {
        Ok((read, _)) => read.is_empty(),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => false,
        Err(_) => true,
    }
}
