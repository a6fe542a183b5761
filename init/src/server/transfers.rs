//! The processes that move files, until they are reaped. Nothing else is known of them here: each
//! reports to whoever asked for it, over a socket of its own.

use crate::child::Inheritance;
use crate::sys;
use crate::transfer;
use crate::wire::{TransferFailure, TransferSpec};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// At the same time.
pub const MAX_TRANSFERS: usize = 128;

/// See the module.
#[derive(Debug, Default)]
pub struct Transfers {
    running: Vec<(i32, OwnedFd)>,
}

impl Transfers {
    /// Forks. What comes of it is said over the socket among `fds`.
    pub fn begin(&mut self, spec: &TransferSpec, fds: Vec<OwnedFd>, inheritance: &Inheritance) {
        // Without both there is nobody to say it to; the end of the other one says enough.
        let Ok([stream, report]) = <[OwnedFd; 2]>::try_from(fds) else { return };
        let failed = |call: &str, errno| TransferFailure::System { call: call.to_owned(), errno };
        if self.running.len() == MAX_TRANSFERS {
            return transfer::refuse(report.as_fd(), failed("keep one more transfer", libc::EAGAIN));
        }
        let mut stream = Some(stream);
        let child = sys::fork_apart(|| {
            if let Some(stream) = stream.take() {
                transfer::run(spec, stream, report.as_fd(), inheritance);
            }
        });
        match child {
            Ok(child) => self.running.push((child.pid, child.pidfd)),
            Err(error) => {
                transfer::refuse(report.as_fd(), failed("clone", error.raw_os_error().unwrap_or(libc::EAGAIN)))
            }
        }
    }

    /// To wait for: each is ready when it has ended.
    pub fn watched(&self) -> impl Iterator<Item = (i32, BorrowedFd<'_>)> {
        self.running.iter().map(|(pid, pidfd)| (*pid, pidfd.as_fd()))
    }

    /// Takes one that has ended.
    pub fn reap(&mut self, pid: i32) {
        // An error: it is nobody's any more.
        if sys::reap_apart(pid).unwrap_or(true) {
            self.running.retain(|(known, _)| *known != pid);
        }
    }
}
