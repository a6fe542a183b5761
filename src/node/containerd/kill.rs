//! The end of a place's processes, without containerd.
//!
//! SIGKILL to its init takes the pid namespace along: the kernel lets an init end only when
//! everything in its namespace has ended, and the mount namespace goes with the last of them. What
//! was frozen is thawed after the signal, so that nothing runs in between. Then whatever else is in
//! the place's cgroups is killed: a place that was never noted down, or a process that joined from
//! outside.
//!
//! A process is named by a descriptor that is checked after it was opened: a pid that was used
//! again is never signalled.

use super::cgroups::{Cgroups, PlaceCgroups};
use super::pidfd::{self, has_ended};
use crate::node::place::InitProcess;
use gardend_controller::record::SandboxId;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// The longest that a kill takes.
pub const DEADLINE: Duration = Duration::from_secs(15);
/// What runs in a place may freeze a cgroup of its own just when it is being thawed: so again.
const THAW_AGAIN: Duration = Duration::from_millis(250);

/// Why a place could not be killed.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// Processes that did not die; each with its name and state.
    #[error("{} still there {} s after SIGKILL: {}", count(.0.len()), DEADLINE.as_secs(), .0.join(", "))]
    Survivors(Vec<String>),
    /// The kernel refused something.
    #[error("{doing}: {source}")]
    System {
        /// What was attempted.
        doing: &'static str,
        /// errno.
        source: io::Error,
    },
}

fn count(processes: usize) -> String {
    if processes == 1 { "a process is".into() } else { format!("{processes} processes are") }
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> KillError {
    move |source| KillError::System { doing, source }
}

/// Kills all that runs in the place. On return it is all dead.
pub(super) async fn kill(place: &Path, cgroups: &Cgroups, id: &SandboxId) -> Result<(), KillError> {
    let deadline = Instant::now() + DEADLINE;
    let init = InitProcess::read(place).map_err(system("reading init.pid"))?;
    let pidfd = init.as_ref().map(InitProcess::open).transpose().map_err(system("opening the init"))?.flatten();
    if let (Some(init), Some(pidfd)) = (init, pidfd) {
        signal(&pidfd)?;
        let tree = || cgroups.tree(id).map_err(system("reading the place's cgroups"));
        if !ended(&pidfd, deadline, tree).await? {
            let mut survivors = tree()?.processes().map_err(system("reading cgroup.procs"))?;
            survivors.insert(init.pid);
            return Err(KillError::Survivors(survivors.into_iter().filter_map(describe).collect()));
        }
    }
    kill_cgroups(cgroups, id, deadline).await
}

/// Whether the init that was noted down in a place's folder runs.
pub(super) fn runs(place: &Path) -> io::Result<bool> {
    let Some(pidfd) = InitProcess::read(place)?.map(|init| init.open()).transpose()?.flatten() else {
        return Ok(false);
    };
    Ok(!has_ended(&pidfd)?)
}

async fn kill_cgroups(cgroups: &Cgroups, id: &SandboxId, deadline: Instant) -> Result<(), KillError> {
    loop {
        let tree = || cgroups.tree(id).map_err(system("reading the place's cgroups"));
        let found = tree()?;
        let alive = living(&found)?;
        if alive.is_empty() {
            return Ok(());
        }
        for (_, pidfd) in &alive {
            signal(pidfd)?;
        }
        for (_, pidfd) in &alive {
            if !ended(pidfd, deadline, tree).await? {
                let survivors = alive.iter().filter(|(_, pidfd)| !has_ended(pidfd).unwrap_or(false));
                return Err(KillError::Survivors(survivors.filter_map(|(pid, _)| describe(*pid)).collect()));
            }
        }
    }
}

fn living(cgroups: &PlaceCgroups) -> Result<Vec<(u32, OwnedFd)>, KillError> {
    let mut alive = Vec::new();
    for pid in cgroups.processes().map_err(system("reading cgroup.procs"))? {
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
        match rustix::process::pidfd_open(raw, PidfdFlags::empty()) {
            // Checked after opening, so that it is still the process that was listed.
            Ok(pidfd) if cgroups.hold(pid) && !has_ended(&pidfd)? => alive.push((pid, pidfd)),
            Ok(_) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(system("opening a process of the place")(error.into())),
        }
    }
    Ok(alive)
}

fn signal(pidfd: &OwnedFd) -> Result<(), KillError> {
    match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(system("sending SIGKILL")(error.into())),
    }
}

impl From<io::Error> for KillError {
    fn from(source: io::Error) -> Self {
        Self::System { doing: "polling a process", source }
    }
}

/// Waits for the end of a process that was signalled, and thaws it meanwhile. False: not by the
/// deadline.
async fn ended(
    process: &OwnedFd,
    deadline: Instant,
    tree: impl Fn() -> Result<PlaceCgroups, KillError>,
) -> Result<bool, KillError> {
    loop {
        tree()?.thaw();
        let until = (Instant::now() + THAW_AGAIN).min(deadline);
        match tokio::time::timeout_at(until, pidfd::ended(process)).await {
            Ok(ready) => return ready.map(|()| true).map_err(KillError::from),
            Err(_) if Instant::now() >= deadline => return Ok(false),
            Err(_) => {}
        }
    }
}

/// "sleep (pid 7, state D, in do_nanosleep)", or nothing where it is gone by now.
fn describe(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let name = stat.get(stat.find('(')? + 1..stat.rfind(')')?)?;
    let state = stat.get(stat.rfind(')')? + 2..)?.split(' ').next()?;
    let place = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    let place = if place.is_empty() || place == "0" { String::new() } else { format!(", in {place}") };
    Some(format!("{name:?} (pid {pid}, state {state}{place})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_survivor_is_described_by_name_pid_and_state() {
        let text = describe(std::process::id()).unwrap();
        assert!(text.contains(&format!("pid {}", std::process::id())) && text.contains("state "), "{text}");
        assert_eq!(describe(u32::MAX), None);
    }
}
