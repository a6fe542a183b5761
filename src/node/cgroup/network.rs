//! What a place's network has carried.

use crate::node::place::InitProcess;
use gardend_controller::ports::NetworkUsage;
use std::fs;
use std::io;
use std::path::Path;

/// Of all links of the place but its loopback; `None` where it has no other.
///
/// # Errors
/// `NotFound` where its init is gone.
pub fn usage(place: &Path) -> io::Result<Option<NetworkUsage>> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let init = InitProcess::read(place)?.ok_or_else(gone)?;
    let table =
        fs::read_to_string(format!("/proc/{}/net/dev", init.pid)).map_err(|error| match error.raw_os_error() {
            // It has ended and is not reaped yet.
            Some(libc::EINVAL | libc::ESRCH) => gone(),
            _ => error,
        })?;
    // Checked after reading: the pid may be another's by now.
    match InitProcess::of_pid(init.pid) {
        Ok(seen) if seen == init => Ok(sum(&table)),
        _ => Err(gone()),
    }
}

fn sum(table: &str) -> Option<NetworkUsage> {
    let link = |line: &str| {
        let (name, figures) = line.split_once(':')?;
        let mut figures = figures.split_ascii_whitespace().map(str::parse::<u64>);
        let (received, sent) = (figures.next()?.ok()?, figures.nth(7)?.ok()?);
        // The kernel's own tunnels are in every namespace and carry nothing.
        let carries = name.trim() != "lo" && (received > 0 || sent > 0 || is_ethernet(name.trim()));
        carries.then_some(NetworkUsage { received, sent })
    };
    table.lines().filter_map(link).reduce(|sum, one| NetworkUsage {
        received: sum.received.saturating_add(one.received),
        sent: sum.sent.saturating_add(one.sent),
    })
}

fn is_ethernet(name: &str) -> bool {
    name.starts_with("eth")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    9000      10    0    0    0     0          0         0     9000      10    0    0    0     0       0          0
";

    #[test]
    fn a_loopback_alone_is_no_network_and_every_other_link_counts() {
        assert_eq!(sum(HEAD), None);
        let two = format!(
            "{HEAD}  eth0:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n  eth1: 100 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n"
        );
        assert_eq!(sum(&two), Some(NetworkUsage { received: 100, sent: 7 }));
    }

    #[test]
    fn a_place_without_an_init_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(usage(folder.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
        let me = InitProcess::of_pid(std::process::id()).unwrap();
        InitProcess { start_time: me.start_time + 1, ..me }.write(folder.path()).unwrap();
        assert_eq!(usage(folder.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
