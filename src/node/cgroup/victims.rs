//! Which process the kernel killed for want of memory, and which limit it had run into: told only
//! by the kernel's log. Where that may not be read (no CAP_SYSLOG), nobody knows, and kills are
//! counted all the same.

use super::{OWN, TOP};
use gardend_controller::record::ProcessUid;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};

/// The longest record that the kernel gives.
const RECORD: usize = 8 * 1024;
/// Places of which the last victim is kept.
const MOST: usize = 4_096;

/// Whom the kernel chose, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// The process's name, which it may have chosen itself.
    pub name: String,
    /// On the host.
    pub pid: u32,
    /// What was reached.
    pub end: End,
}

/// What somebody was killed for the end of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The machine's memory.
    Machine,
    /// What the container may have.
    Container,
    /// What a process with limits of its own may have.
    Process(ProcessUid),
}

/// The kernel's log, read from its beginning on.
#[derive(Debug)]
pub struct Victims {
    state: Mutex<Option<State>>,
}

#[derive(Debug)]
struct State {
    log: File,
    last: HashMap<String, Victim>,
}

impl Victims {
    /// Of this machine.
    pub fn of_machine() -> Self {
        let log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open("/dev/kmsg");
        let log = log.inspect_err(|error| {
            tracing::info!(%error, "/dev/kmsg cannot be read: what is killed for want of memory is told without its name");
        });
        Self { state: Mutex::new(log.ok().map(|log| State { log, last: HashMap::new() })) }
    }

    /// The last one in a place of `owner`.
    pub fn last(&self, owner: &str, place: &str) -> Option<Victim> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = state.as_mut()?;
        state.read_on(owner);
        state.last.get(place).cloned()
    }
}

impl State {
    fn read_on(&mut self, owner: &str) {
        let mut record = vec![0; RECORD];
        loop {
            match self.log.read(&mut record) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    if let Some((place, victim)) = victim(&text, owner) {
                        if self.last.len() >= MOST {
                            self.last.clear();
                        }
                        self.last.insert(place, victim);
                    }
                }
                // Overwritten before it was read: on with what is there.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {}
                Err(_) => return,
            }
        }
    }
}

/// `oom-kill:constraint=...,oom_memcg=/a,task_memcg=/a/b,task=name,pid=7,uid=0`. The name may hold
/// anything, so that what comes before is found from the front, and what comes after from the end.
fn victim(record: &str, owner: &str) -> Option<(String, Victim)> {
    let (_, text) = record.lines().next()?.split_once(";oom-kill:constraint=")?;
    let (before, rest) = text.split_once(",task_memcg=")?;
    let (group, rest) = rest.split_once(",task=")?;
    let (name, rest) = rest.rsplit_once(",pid=")?;
    let pid = rest.split(',').next()?.parse().ok()?;
    let ours = format!("/{TOP}/{owner}/");
    let place = group.strip_prefix(&ours)?.split('/').next()?.to_owned();
    let limited = before.split_once(",oom_memcg=").and_then(|(_, path)| path.strip_prefix(&format!("{ours}{place}")));
    let own = |below: &str| ProcessUid::parse(below.split('/').nth(1)?.strip_prefix(OWN)?);
    let end = limited.map_or(End::Machine, |below| own(below).map_or(End::Container, End::Process));
    let name = name.chars().take(64).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    Some((place, Victim { name, pid, end }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: &str = "6,1044,88212345,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=p,mems_allowed=0,oom_memcg=/gardend/o/p/run,task_memcg=/gardend/o/p/run,task=dd,pid=4711,uid=0\n SUBSYSTEM=x\n";

    #[test]
    fn the_log_names_the_process_and_the_limit() {
        let expected = Victim { name: "dd".into(), pid: 4711, end: End::Container };
        assert_eq!(victim(LIMIT, "o"), Some(("p".into(), expected)));
        assert_eq!(victim(LIMIT, "other"), None);
        assert_eq!(victim("6,1,1,-;eth0: link up\n", "o"), None);
    }

    #[test]
    fn a_machine_without_memory_is_told_apart_from_a_limit() {
        let global = LIMIT.replace("oom_memcg=/gardend/o/p/run", "global_oom");
        assert_eq!(victim(&global, "o").unwrap().1.end, End::Machine);
        let uid = ProcessUid::generate();
        let own = LIMIT.replace("p/run", &format!("p/{OWN}{uid}"));
        assert_eq!(victim(&own, "o").unwrap().1.end, End::Process(uid));
    }

    #[test]
    fn a_name_that_lies_stays_a_name() {
        let lying = LIMIT.replace("task=dd", "task=x,task_memcg=/gardend/o/q,task=y,pid=1,\u{1b}");
        let (place, victim) = victim(&lying, "o").unwrap();
        assert_eq!((place.as_str(), victim.pid), ("p", 4711));
        assert!(!victim.name.contains('\u{1b}'), "{victim:?}");
    }
}
