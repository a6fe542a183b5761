//! Descriptors that the runtime watches.

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that is watched for this until it is dropped.
///
/// # Errors
/// The kernel's: it cannot be waited for, or too many are.
pub(super) fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open file until it is dropped, which the AsyncFd does after
    // it has deregistered it (and a forgotten AsyncFd never does).
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
