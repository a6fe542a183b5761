//! A container without a pid namespace: the processes that descend from one, as /proc shows them.
//!
//! An orphan is the child of its nearest ancestor that took orphans upon itself, so that whoever
//! descends from such a process does so until it ends, however it was forked.
//! A process is told apart from a later one with its pid by its start time, and is signalled by a
//! descriptor that was checked after it was opened. What is forked just now may be missed: whoever
//! wants the last of them looks again.

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

/// How often it is looked again for what was forked meanwhile.
const LOOKS: usize = 16;

/// A process, as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Its number.
    pub pid: Pid,
    /// Field 22 of /proc/PID/stat, in clock ticks since boot.
    pub start_time: u64,
    /// It has ended, and waits for its parent to take note.
    pub is_zombie: bool,
    parent: i32,
}

impl Seen {
    /// A descriptor of it; `None` where it is gone.
    ///
    /// # Errors
    /// Where the kernel refuses for another reason.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        let pidfd = match pidfd_open(self.pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Checked after opening: the descriptor holds whatever process the pid named just then.
        Ok(read(self.pid.as_raw_nonzero().get()).filter(|now| now.start_time == self.start_time).map(|_| pidfd))
    }
}

/// All that descend from `ancestor`; it itself is not among them.
///
/// # Errors
/// Where /proc cannot be listed.
pub fn of(ancestor: Pid) -> io::Result<Vec<Seen>> {
    Ok(among(&all()?, ancestor))
}

/// Sends a signal to all that descend from `ancestor`, each once, also to what they fork meanwhile.
pub fn signal_all(ancestor: Pid, signal: i32) {
    let Some(signal) = Signal::from_named_raw(signal) else { return };
    let mut reached = HashSet::new();
    for _ in 0..LOOKS {
        let found = of(ancestor).unwrap_or_default();
        let fresh: Vec<Seen> = found.into_iter().filter(|seen| !seen.is_zombie && reached.insert(*seen)).collect();
        if fresh.is_empty() {
            return;
        }
        for pidfd in fresh.iter().filter_map(|seen| seen.open().ok().flatten()) {
            // Ended by now, or another user's by a program that is set to be: not ours to end.
            let _ = pidfd_send_signal(pidfd, signal);
        }
    }
}

/// Every process that can be seen.
///
/// # Errors
/// Where /proc cannot be listed.
pub fn all() -> io::Result<Vec<Seen>> {
    let entries = fs::read_dir("/proc")?.flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(numbers.filter_map(read).collect())
}

/// Those of `all` that descend from `ancestor`; it itself is not among them.
pub fn among(all: &[Seen], ancestor: Pid) -> Vec<Seen> {
    let mut children: HashMap<i32, Vec<Seen>> = HashMap::new();
    for seen in all {
        children.entry(seen.parent).or_default().push(*seen);
    }
    let (mut found, mut next) = (Vec::new(), vec![ancestor.as_raw_nonzero().get()]);
    while let Some(parent) = next.pop() {
        // Taken out: a list that was read while processes came and went may hold a circle.
        for child in children.remove(&parent).unwrap_or_default() {
            next.push(child.pid.as_raw_nonzero().get());
            found.push(child);
        }
    }
    found
}

fn read(pid: i32) -> Option<Seen> {
    parse(Pid::from_raw(pid)?, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command's name, in parentheses, may itself hold spaces and parentheses.
fn parse(pid: Pid, stat: &str) -> Option<Seen> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let is_zombie = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let start_time = fields.nth(17)?.parse().ok()?;
    Some(Seen { pid, start_time, is_zombie, parent })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpid;
    use std::io::Read;
    use std::process::{Command, Stdio};

    fn seen(pid: i32, parent: i32) -> Seen {
        Seen { pid: Pid::from_raw(pid).unwrap(), start_time: 1, is_zombie: false, parent }
    }

    fn pids(found: &[Seen]) -> Vec<i32> {
        let mut pids: Vec<i32> = found.iter().map(|seen| seen.pid.as_raw_nonzero().get()).collect();
        pids.sort_unstable();
        pids
    }

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let fields = "S 7 9 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9999";
        for name in ["sh", "a) Z 3 (b", "((", "x y"] {
            let seen = parse(Pid::from_raw(9).unwrap(), &format!("9 ({name}) {fields}")).unwrap();
            assert_eq!((seen.parent, seen.start_time, seen.is_zombie), (7, 4242, false), "{name}");
        }
        assert!(parse(Pid::from_raw(9).unwrap(), "9 (sh) Z 7 9 9").is_none());
        assert!(parse(Pid::from_raw(9).unwrap(), "").is_none());
    }

    #[test]
    fn children_of_children_count_and_others_do_not() {
        let all = vec![seen(1, 0), seen(10, 1), seen(11, 10), seen(12, 11), seen(20, 1), seen(21, 20)];
        assert_eq!(pids(&among(&all, Pid::from_raw(10).unwrap())), [11, 12]);
    }

    #[test]
    fn a_circle_has_an_end() {
        let all = vec![seen(10, 11), seen(11, 10)];
        assert_eq!(pids(&among(&all, Pid::from_raw(10).unwrap())), [10, 11]);
    }

    #[test]
    fn a_grandchild_is_found_and_signalled() {
        let script = "sleep 1000 & echo $!; wait";
        let mut shell = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut stdout = shell.stdout.take().unwrap();
        while !said.ends_with('\n') {
            let mut byte = [0];
            stdout.read_exact(&mut byte).unwrap();
            said.push(char::from(byte[0]));
        }
        let sleeper: i32 = said.trim().parse().unwrap();
        let shell_pid = Pid::from_child(&shell);
        assert_eq!(pids(&of(shell_pid).unwrap()), [sleeper]);
        assert!(pids(&of(getpid()).unwrap()).contains(&sleeper));
        signal_all(shell_pid, 9);
        assert!(shell.wait().unwrap().success(), "it has waited for its child");
    }
}
