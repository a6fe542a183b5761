//! The shim processes that containerd starts for our groups.
//!
//! They are containerd's: it starts them, and each ends by itself when its last place is deleted.
//! Two things keep one from that: a create that was cut off may leave it with a container that
//! containerd does not know of, and one that hangs does nothing at all. So when a group has come to
//! its end, its shim is given a moment, and then killed. It is found by its command line: the
//! namespace, containerd's address, and the place that founded the group.

use super::NAMESPACE;
use super::groups::GroupId;
use super::labels::hex;
use super::pidfd;
use rustix::process::{Pid, PidfdFlags, Signal};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where shims listen: containerd's default, whatever its own folders are.
const SOCKETS: &str = "/run/containerd/s";
/// How long a killed shim may take to be gone.
const DIES: Duration = Duration::from_secs(5);

/// A shim that runs.
pub(super) struct Shim {
    pid: u32,
    pidfd: OwnedFd,
    /// The files of the sockets that it listens on, which it can no longer remove when it is killed.
    sockets: Vec<PathBuf>,
}

/// How the end of a shim came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself.
    Own,
    /// It was killed.
    Killed,
}

impl Shim {
    /// The shim of a group on the containerd behind `socket`, where there is one.
    pub fn find(group: &GroupId, socket: &Path) -> io::Result<Option<Self>> {
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if !is_shim(pid, group, socket) {
                continue;
            }
            let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
            match rustix::process::pidfd_open(raw, PidfdFlags::empty()) {
                // Checked again after opening: it is that process that will be signalled.
                Ok(pidfd) if is_shim(pid, group, socket) => {
                    return Ok(Some(Self { pid, pidfd, sockets: listening_sockets(pid) }));
                }
                Ok(_) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Waits for its end, and kills it where that has not come after `patience`.
    pub async fn end(self, patience: Duration) -> io::Result<End> {
        if tokio::time::timeout(patience, pidfd::ended(&self.pidfd)).await.is_ok() {
            return Ok(End::Own);
        }
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        let died = tokio::time::timeout(DIES, pidfd::ended(&self.pidfd)).await;
        died.map_err(|_| io::Error::other(format!("shim {} does not die of SIGKILL", self.pid)))??;
        for socket in &self.sockets {
            // Another shim cannot have it: the name is the group's.
            let _ = fs::remove_file(socket);
        }
        Ok(End::Killed)
    }
}

/// Removes the socket's file of a shim that somebody killed, and that is gone by now: containerd
/// 1.6 leaves it. Its name is told by containerd's pkg/shim `SocketAddress`: the hash of
/// containerd's address, the namespace and the group.
pub(super) fn remove_socket(group: &GroupId, socket: &Path) -> io::Result<()> {
    let name = socket.join(NAMESPACE).join(group.as_str());
    let name = hex(&Sha256::digest(name.as_os_str().as_bytes()));
    match fs::remove_file(Path::new(SOCKETS).join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// All shims in our namespace of the containerd behind `socket`, whoever's: their pids and the founders
/// of their groups.
///
/// # Errors
/// Where /proc cannot be read.
pub(crate) fn shims_of(socket: &Path) -> io::Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        found.extend(founder_of(pid, socket).map(|founder| (pid, founder)));
    }
    Ok(found)
}

fn is_shim(pid: u32, group: &GroupId, socket: &Path) -> bool {
    founder_of(pid, socket).is_some_and(|founder| founder == group.founder())
}

/// What a shim of ours was started for; `None`: it is none.
fn founder_of(pid: u32, socket: &Path) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut arguments = line.split(|&byte| byte == 0);
    let program = arguments.next().map(|program| Path::new(OsStr::from_bytes(program)));
    let named = program.and_then(Path::file_name).is_some_and(|name| name.as_bytes().starts_with(b"containerd-shim"));
    let arguments: Vec<_> = arguments.collect();
    let value = |flag: &[u8]| arguments.windows(2).find(|pair| pair[0] == flag).map(|pair| pair[1]);
    let ours = named
        && value(b"-namespace") == Some(NAMESPACE.as_bytes())
        && value(b"-address") == Some(socket.as_os_str().as_bytes());
    value(b"-id").filter(|_| ours).map(|id| String::from_utf8_lossy(id).into_owned())
}

/// Files of the unix sockets that the process listens on.
fn listening_sockets(pid: u32) -> Vec<PathBuf> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
    let inode = |link: PathBuf| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
    let inodes: BTreeSet<_> = links.filter_map(inode).collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    listening(&table).filter(|(inode, _)| inodes.contains(*inode)).map(|(_, path)| path.into()).collect()
}

/// Inode and path of each socket that accepts connections: proc(5), /proc/net/unix.
fn listening(table: &str) -> impl Iterator<Item = (&str, &str)> {
    table.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let accepts = fields.nth(3) == Some("00010000");
        let (inode, path) = (fields.nth(2)?, fields.next()?);
        (accepts && path.starts_with('/')).then_some((inode, path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_accept_connections_are_told_from_connected_ones() {
        let table = "\
Num       RefCount Protocol Flags    Type St Inode Path
000000001: 00000002 00000000 00010000 0001 01 4711 /run/containerd/s/abc
000000002: 00000003 00000000 00000000 0001 03 4712 /run/containerd/s/abc
000000003: 00000002 00000000 00010000 0005 01 4713 @abstract
";
        assert_eq!(listening(table).collect::<Vec<_>>(), [("4711", "/run/containerd/s/abc")]);
    }

    #[test]
    fn the_files_of_a_process_s_own_sockets_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(listening_sockets(std::process::id()).contains(&path));
    }
}
