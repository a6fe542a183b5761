//! The end of a container that no namespace holds together.
//!
//! What belongs to a place: its garden-init, by the note in the place's folder or by its own name;
//! what descends from it; and, where an init died before its children did, whatever carries the
//! place's mark in the environment that it was started with. A program that throws its environment
//! away and whose init was killed by somebody else is found by nothing.
//!
//! All is stopped before it is killed, so that nothing is forked meanwhile, and init goes last, so
//! that no orphan gets away.

use crate::node::containerd::pidfd::{ended, has_ended};
use crate::node::place::InitProcess;
use garden_init::descendants::{self, Seen};
use gardend_controller::record::SandboxId;
use rustix::process::{Pid, Signal, pidfd_send_signal};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The longest that a kill takes.
const DEADLINE: Duration = Duration::from_secs(15);
/// Looks for what was forked while others were stopped.
const LOOKS: usize = 64;
/// The variable that every process of a place has.
const MARK: &str = "GARDEND_PLACE";

/// Why a place could not be killed.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// Processes that did not die, by their pids.
    #[error("still there {} s after SIGKILL: processes {}", DEADLINE.as_secs(), .0.join(", "))]
    Survivors(Vec<String>),
    /// The kernel refused something.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// What the processes of a place carry in their environment.
pub fn mark(id: &SandboxId) -> String {
    format!("{MARK}={id}")
}

/// What the init of a place calls itself to whoever lists processes.
pub fn name(id: &SandboxId) -> String {
    format!("garden-init {id}")
}

/// Whether the init that was noted down runs.
pub fn runs(place: &Path) -> io::Result<bool> {
    match InitProcess::read(place)?.map(|init| init.open()).transpose()?.flatten() {
        Some(pidfd) => Ok(!has_ended(&pidfd)?),
        None => Ok(false),
    }
}

/// Kills all that belongs to the place. On return it is all dead.
pub async fn kill(place: &Path, id: &SandboxId) -> Result<(), KillError> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let found = look(place, id)?;
        // Init last: until then it is the parent of every orphan.
        let targets = if found.others.is_empty() { found.inits } else { freeze(place, id, found.others)? };
        if targets.is_empty() {
            return Ok(());
        }
        let opened: Vec<(Pid, OwnedFd)> = targets
            .iter()
            .filter_map(|seen| seen.open().transpose().map(|opened| opened.map(|pidfd| (seen.pid, pidfd))))
            .collect::<io::Result<_>>()?;
        let mut refused = None;
        for (_, pidfd) in &opened {
            if let Err(error) = signal(pidfd, Signal::KILL) {
                refused = Some(error);
            }
        }
        for (pid, pidfd) in &opened {
            let until = if refused.is_some() { Instant::now() } else { deadline };
            // Cancel-safe: it only looks.
            if timeout_at(until, ended(pidfd)).await.is_err() && !has_ended(pidfd)? {
                let survivors = opened.iter().filter(|(_, pidfd)| !has_ended(pidfd).unwrap_or(false));
                let survivors = survivors.map(|(pid, _)| pid.as_raw_nonzero().to_string()).collect();
                tracing::debug!(place = %id, pid = %pid.as_raw_nonzero(), ?refused, "a process does not die");
                return Err(KillError::Survivors(survivors));
            }
        }
    }
}

struct Found {
    inits: Vec<Seen>,
    /// Alive, and none of the inits.
    others: Vec<Seen>,
}

/// Stops all, and what they forked until they were stopped.
fn freeze(place: &Path, id: &SandboxId, mut found: Vec<Seen>) -> io::Result<Vec<Seen>> {
    let mut stopped = HashSet::new();
    for _ in 0..LOOKS {
        let fresh: Vec<Seen> = found.iter().copied().filter(|seen| stopped.insert(*seen)).collect();
        if fresh.is_empty() {
            break;
        }
        for pidfd in fresh.iter().filter_map(|seen| seen.open().ok().flatten()) {
            // What may not be stopped may not be killed either, and shows then.
            let _ = signal(&pidfd, Signal::STOP);
        }
        found = look(place, id)?.others;
    }
    Ok(found)
}

fn look(place: &Path, id: &SandboxId) -> io::Result<Found> {
    let all = descendants::all()?;
    let noted = InitProcess::read(place)?;
    let is_noted = |seen: &Seen| {
        noted.is_some_and(|init| {
            seen.start_time == init.start_time && i64::from(init.pid) == i64::from(seen.pid.as_raw_nonzero().get())
        })
    };
    let (mark, name) = (mark(id), name(id));
    let (mut inits, mut marked) = (Vec::new(), Vec::new());
    for seen in all.iter().filter(|seen| !seen.is_zombie) {
        if is_noted(seen) || first_word(seen.pid, "cmdline").is_some_and(|word| word == name.as_bytes()) {
            inits.push(*seen);
        } else if carries(seen.pid, mark.as_bytes()) {
            marked.push(*seen);
        }
    }
    let mut others: HashSet<Seen> = marked.iter().copied().collect();
    for root in inits.iter().chain(&marked) {
        others.extend(descendants::among(&all, root.pid).into_iter().filter(|seen| !seen.is_zombie));
    }
    // A process that was forked in gardend's own name is on its way to be the init: not one yet.
    let others = others.into_iter().filter(|seen| !inits.contains(seen)).collect();
    Ok(Found { inits, others })
}

fn first_word(pid: Pid, file: &str) -> Option<Vec<u8>> {
    let text = fs::read(format!("/proc/{}/{file}", pid.as_raw_nonzero())).ok()?;
    text.split(|byte| *byte == 0).next().map(<[u8]>::to_vec)
}

/// Another user's cannot be read, nor was it started here by anybody but root.
fn carries(pid: Pid, mark: &[u8]) -> bool {
    let text = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
    text.split(|byte| *byte == 0).any(|entry| entry == mark)
}

fn signal(pidfd: &OwnedFd, signal: Signal) -> io::Result<()> {
    match pidfd_send_signal(pidfd, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[tokio::test]
    async fn what_carries_the_mark_is_ended_with_its_children_and_nobody_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let (id, other) = (SandboxId::generate(), SandboxId::generate());
        let sleeper = |id: &SandboxId| {
            let script = "env -i sleep 1000 & wait";
            Command::new("sh").args(["-c", script]).env(MARK, id.as_str()).spawn().unwrap()
        };
        let (mut ours, mut theirs) = (sleeper(&id), sleeper(&other));
        let child = Pid::from_child(&ours);
        while descendants::of(child).unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let grandchild = descendants::of(child).unwrap()[0];
        kill(folder.path(), &id).await.unwrap();
        assert!(!ours.wait().unwrap().success());
        // It has no parent any more who would take note of its end for us.
        let pidfd = grandchild.open().unwrap();
        assert!(pidfd.is_none_or(|pidfd| has_ended(&pidfd).unwrap()));
        assert!(theirs.try_wait().unwrap().is_none());
        kill(folder.path(), &other).await.unwrap();
        theirs.wait().unwrap();
    }

    #[tokio::test]
    async fn a_place_that_is_not_there_is_dead() {
        let folder = tempfile::tempdir().unwrap();
        kill(&folder.path().join("none"), &SandboxId::generate()).await.unwrap();
        assert!(!runs(&folder.path().join("none")).unwrap());
    }
}
