//! The port [`Files`]: a pipe and a socket for reports are handed to the place's init, whose child
//! moves the files. gardend itself never looks into a stream.
//!
//! The child's end is seen by the socket's, so that a place that is killed, and an init that ends,
//! need no word of anybody's.

use super::ends::{sized_pipe, unblock};
use super::spec::printable;
use super::{ProcessNode, sys};
use async_trait::async_trait;
use garden_init::packet::{Packet, recv};
use garden_init::wire::{self, Direction, Request, TransferFailure, TransferReport, TransferSpec};
use gardend_controller::ports::{FileStream, Files, FilesError};
use gardend_controller::record::SandboxId;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

/// What flows between gardend and a transfer without either waiting, where the node allows it.
const PIPE_BYTES: usize = 1 << 20;

#[async_trait]
impl Files for ProcessNode {
    async fn stream_in(&self, sandbox: &SandboxId, user: &str, destination: &str) -> Result<FileStream, FilesError> {
        self.begin_transfer(sandbox, Direction::In, user, destination).await
    }

    async fn stream_out(&self, sandbox: &SandboxId, user: &str, source: &str) -> Result<FileStream, FilesError> {
        self.begin_transfer(sandbox, Direction::Out, user, source).await
    }
}

impl ProcessNode {
    async fn begin_transfer(
        &self,
        sandbox: &SandboxId,
        direction: Direction,
        user: &str,
        path: &str,
    ) -> Result<FileStream, FilesError> {
        if user.contains('\0') || path.contains('\0') {
            return Err(FilesError::Other("neither a user nor a path can hold a NUL byte".into()));
        }
        let link = self.inner.link(sandbox).map_err(|error| FilesError::NoAnswer { reason: error.message })?;
        let (pipe, theirs, report, far) = descriptors(direction)
            .map_err(|error| FilesError::Other(format!("no pipe can be made for the stream: {error}")))?;
        let spec = TransferSpec {
            direction,
            user: user.to_owned(),
            path: path.as_bytes().to_vec(),
            // All that the place's init itself has.
            capabilities: u64::MAX,
        };
        let sent = link.send(&Request::Transfer { spec }, &[theirs.as_fd(), far.as_fd()]).await;
        sent.map_err(|reason| FilesError::NoAnswer { reason })?;
        // Its end is seen only where nobody else has a copy.
        drop((theirs, far));
        let mut report = Reports { socket: report, user: user.to_owned() };
        let deadline = self.inner.options.spawn_deadline;
        // Cancel-safe: with the descriptors the transfer ends.
        match timeout(deadline, report.next()).await {
            Err(_) => return Err(FilesError::NoAnswer { reason: format!("it did not begin within {deadline:?}") }),
            Ok(Err(error)) => return Err(error),
            Ok(Ok(TransferReport::Ready)) => {}
            Ok(Ok(_)) => return Err(FilesError::NoAnswer { reason: "it was done before it had begun".into() }),
        }
        let outcome = async move {
            match report.next().await? {
                TransferReport::Done => Ok(()),
                _ => Err(FilesError::NoAnswer { reason: "it began twice".into() }),
            }
        };
        Ok(FileStream { pipe, outcome: Box::pin(outcome) })
    }
}

/// Our end of the pipe and the other, and the same of the socket.
fn descriptors(direction: Direction) -> std::io::Result<(OwnedFd, OwnedFd, AsyncFd<OwnedFd>, OwnedFd)> {
    let (reading, writing) = sized_pipe(PIPE_BYTES)?;
    let (ours, theirs) = match direction {
        Direction::In => (writing, reading),
        Direction::Out => (reading, writing),
    };
    // An end's flags are its own: the other side cannot make it block.
    unblock(&ours)?;
    let (report, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    unblock(&report)?;
    Ok((ours, theirs, sys::watch(report, Interest::READABLE)?, far))
}

/// What a transfer says. It may be anything: it comes out of the container.
struct Reports {
    socket: AsyncFd<OwnedFd>,
    user: String,
}

impl Reports {
    /// The next word that is not of a failure. Cancel-safe: a packet is received whole or stays.
    async fn next(&mut self) -> Result<TransferReport, FilesError> {
        let garbled = |reason: String| FilesError::NoAnswer { reason: format!("it makes no sense: {reason}") };
        let mut buffer = Vec::new();
        loop {
            let mut ready = self.socket.readable().await.map_err(|error| garbled(error.to_string()))?;
            match recv(self.socket.as_fd(), &mut buffer) {
                Ok(Packet::Message(_)) => {
                    return match wire::decode(&buffer).map_err(|error| garbled(error.to_string()))? {
                        TransferReport::Failed(failure) => Err(refusal(failure, &self.user)),
                        report => Ok(report),
                    };
                }
                Ok(Packet::End) => return Err(FilesError::Killed),
                Err(error) if error.would_block() => ready.clear_ready(),
                Err(error) => return Err(garbled(error.to_string())),
            }
        }
    }
}

/// Why a transfer failed, as clients know it.
fn refusal(failure: TransferFailure, user: &str) -> FilesError {
    match failure {
        TransferFailure::UnknownUser => {
            FilesError::UnknownUser { user: if user.is_empty() { "root".into() } else { user.to_owned() } }
        }
        TransferFailure::UnknownGroup { group } => FilesError::UnknownGroup { group: printable(&group) },
        TransferFailure::File { action, path, errno } => FilesError::File {
            action: printable(&action),
            path: printable(&String::from_utf8_lossy(&path)),
            reason: words(errno),
        },
        TransferFailure::Stream { reason } => FilesError::Stream(printable(&reason)),
        TransferFailure::System { call, errno: libc::EAGAIN } => FilesError::Other(format!(
            "{} failed: too many files are being streamed at the same time, or the container has as many processes as \
             it may; try again later",
            printable(&call)
        )),
        TransferFailure::System { call, errno } => FilesError::Other(format!("{}: {}", printable(&call), words(errno))),
        TransferFailure::Malformed { reason } => {
            FilesError::Other(format!("the container's init did not take the request: {}", printable(&reason)))
        }
    }
}

/// The C library's words, which clients look for.
fn words(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_read_as_clients_expect_them() {
        let path = b"/root/\x1b[2Jx".to_vec();
        let denied = TransferFailure::File { action: "open".into(), path, errno: libc::EACCES };
        let text = refusal(denied, "alice").to_string();
        assert!(text.starts_with("cannot open /root/") && text.ends_with(": Permission denied"), "{text}");
        assert!(!text.contains('\x1b'));
        let unknown = refusal(TransferFailure::UnknownUser, "bob").to_string();
        assert_eq!(unknown, "unable to find user bob: no matching entries in passwd file");
        assert!(refusal(TransferFailure::UnknownUser, "").to_string().contains("user root"));
    }

    #[tokio::test]
    async fn whatever_comes_instead_of_a_report_is_an_error() {
        for bytes in [&b"\x01\x09"[..], b"\x07", &[1; 9000]] {
            let (report, far) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
            unblock(&report).unwrap();
            let socket = sys::watch(report, Interest::READABLE).unwrap();
            let mut reports = Reports { socket, user: String::new() };
            garden_init::packet::send(far.as_fd(), bytes, &[]).unwrap();
            assert!(matches!(reports.next().await, Err(FilesError::NoAnswer { .. })), "{bytes:?}");
            drop(far);
            assert_eq!(reports.next().await, Err(FilesError::Killed));
        }
    }
}
