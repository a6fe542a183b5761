//! Waiting until a process that was started listens on its socket.

use super::pidfd::has_ended;
use super::sys;
use super::watch::Watch;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between binding its socket and listening on it a process needs some microseconds.
const BOUND_NOT_LISTENING: Duration = Duration::from_micros(200);

/// Why it does not listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotListening {
    #[error("it ended before it listened on {0}")]
    Ended(String),
    #[error("it did not listen on {0} within {1} s")]
    Deadline(String, u64),
    #[error("{0} cannot be watched: {1}")]
    Watch(String, io::Error),
}

/// A socket that is expected in a folder.
pub(crate) struct Expected<'a> {
    /// The folder is there already.
    pub folder: &'a Path,
    /// The socket's name in it. A stale one was removed before.
    pub name: &'a str,
    /// Its type.
    pub kind: SocketType,
}

/// Returns when the kernel accepts a connection to the socket.
pub(crate) async fn wait(expected: Expected<'_>, process: &OwnedFd, deadline: Duration) -> Result<(), NotListening> {
    let shown = || expected.folder.join(expected.name).display().to_string();
    match tokio::time::timeout(deadline, watch(&expected, process)).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(NotListening::Ended(shown())),
        Ok(Err(error)) => Err(NotListening::Watch(shown(), error)),
        Err(_) => Err(NotListening::Deadline(shown(), deadline.as_secs())),
    }
}

/// True: it listens. False: the process has ended.
async fn watch(expected: &Expected<'_>, process: &OwnedFd) -> io::Result<bool> {
    let folder = rustix::fs::open(expected.folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // A socket's path must fit into 108 bytes, whatever the folder is called.
    let socket = PathBuf::from(format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), expected.name));
    if let Attempt::Accepted = connect(&socket, expected.kind)? {
        return Ok(true);
    }
    let entries = Watch::entries(expected.folder)?;
    let listens = until(&socket, expected.kind, process, &entries).await;
    // The kernel closes a watch within a grace period of its own, most often after 10 ms and more:
    // nobody has to wait for that.
    drop(tokio::task::spawn_blocking(move || drop(entries)));
    listens
}

async fn until(socket: &Path, kind: SocketType, process: &OwnedFd, entries: &Watch) -> io::Result<bool> {
    let end = sys::watched(process.try_clone()?)?;
    loop {
        match connect(socket, kind)? {
            Attempt::Accepted => return Ok(true),
            // Bound, and about to listen: no event tells of that.
            Attempt::Refused if has_ended(process)? => return Ok(false),
            Attempt::Refused => tokio::time::sleep(BOUND_NOT_LISTENING).await,
            Attempt::Missing => {
                // Cancel-safe, both: an event that is not taken is found by the next attempt.
                tokio::select! {
                    changed = entries.changed() => changed?,
                    ended = end.readable() => return ended.map(|_| false),
                }
            }
        }
    }
}

enum Attempt {
    Accepted,
    Refused,
    Missing,
}

fn connect(socket: &Path, kind: SocketType) -> io::Result<Attempt> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    match rustix::net::connect(&probe, &SocketAddrUnix::new(socket)?) {
        // A full backlog is a listener's.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Ok(Attempt::Accepted),
        Err(rustix::io::Errno::CONNREFUSED) => Ok(Attempt::Refused),
        Err(rustix::io::Errno::NOENT) => Ok(Attempt::Missing),
        Err(error) => Err(error.into()),
    }
}
