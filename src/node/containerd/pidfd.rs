//! What a process descriptor can tell.

use super::sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Returns when the process has ended. Cancel-safe: it only looks.
pub(crate) async fn ended(pidfd: &OwnedFd) -> io::Result<()> {
    let watched = sys::watched(pidfd.try_clone()?)?;
    // Bound to a name, since the guard of a descriptor that stays readable is of no interest.
    let _ready = watched.readable().await?;
    Ok(())
}

/// Whether the process has ended, whether or not its parent has seen that.
pub(crate) fn has_ended(pidfd: &OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    Ok(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
}
