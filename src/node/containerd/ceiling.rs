//! What containerd has to give: its shims, and so our places, inherit its limits.

use super::spec::{CapabilitySet, Ceiling};
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// No limit, as the kernel and the OCI specification have it.
const RLIM_INFINITY: u64 = u64::MAX;

/// The capabilities that gardend and the containerd behind `socket` both have in their bounding
/// sets, and the open files and core dumps that containerd's children may have. Where containerd's process
/// cannot be seen (another pid namespace), gardend's own stand for it.
pub(super) fn of(socket: &Path) -> io::Result<Ceiling> {
    let own = CapabilitySet::bounding_in(&fs::read_to_string("/proc/self/status")?)
        .ok_or_else(|| io::Error::other("/proc/self/status names no capability bounding set"))?;
    let peer = peer(socket);
    let read = |file: &str| peer.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/{file}")).ok());
    let theirs = read("status").and_then(|status| CapabilitySet::bounding_in(&status)).unwrap_or(own);
    let limits = read("limits").unwrap_or_default();
    let hard_limit = |name, own| hard(&limits, name).unwrap_or_else(|| getrlimit(own).maximum.unwrap_or(RLIM_INFINITY));
    Ok(Ceiling {
        capabilities: own.intersection(theirs),
        open_files: hard_limit("Max open files", Resource::Nofile),
        core_bytes: hard_limit("Max core file size", Resource::Core),
    })
}

/// The process that listens on the socket.
pub(crate) fn peer(socket: &Path) -> Option<u32> {
    let stream = UnixStream::connect(socket).ok()?;
    let credentials = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    u32::try_from(credentials.pid.as_raw_nonzero().get()).ok()
}

fn hard(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_ascii_whitespace().nth(1)? {
        "unlimited" => Some(RLIM_INFINITY),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_limit_is_the_second_figure() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 20000                files     \n";
        assert_eq!(hard(limits, "Max open files"), Some(20_000));
        assert_eq!(hard("", "Max open files"), None);
    }

    #[test]
    fn without_a_containerd_our_own_limits_stand_for_its() {
        let ceiling = of(Path::new("/nowhere.sock")).unwrap();
        assert!(ceiling.open_files >= 256);
    }
}
