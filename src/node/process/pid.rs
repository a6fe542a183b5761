//! Which process of the host a process of a place is. Only the kernel is asked, never the init.

use rustix::process::Pid;
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The pid behind a pidfd, in our pid namespace; 0 where it has ended and was reaped.
/// `None` where the descriptor is no pidfd.
pub fn of_pidfd(pidfd: BorrowedFd<'_>) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim();
    // -1: reaped.
    Some(pid.parse().unwrap_or(0))
}

/// The host's pids of an init's children, by their pids inside. Children are all that an init
/// speaks of; what is no child of it (any more) is not found.
pub fn of_children(init: Pid) -> Vec<(i32, u32)> {
    let init = init.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap_or_default();
    let inside = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        Some((line.split_ascii_whitespace().last()?.parse().ok()?, pid.parse().ok()?))
    };
    children.split_ascii_whitespace().filter_map(inside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{PidfdFlags, pidfd_open};
    use std::os::fd::AsFd;
    use std::process::Command;

    #[test]
    fn a_process_is_found_by_its_pidfd_and_among_the_children() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        assert_eq!(of_pidfd(pidfd.as_fd()), Some(child.id()));
        let children = of_children(rustix::process::getpid());
        // The test's thread is the parent's task, and not its main one, where children are listed by task.
        let main_thread = rustix::thread::gettid() == rustix::process::getpid();
        assert!(!main_thread || children.iter().any(|(_, host)| *host == child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(of_pidfd(pidfd.as_fd()), Some(0));
        let file = fs::File::open("/dev/null").unwrap();
        assert_eq!(of_pidfd(file.as_fd()), None);
    }
}
