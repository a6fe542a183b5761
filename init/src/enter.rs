//! A process with a root of its own, made from outside: `garden-init enter`.
//!
//! Init may not make a mount namespace (it has no CAP_SYS_ADMIN, and its filters refuse it), so
//! gardend starts this program once more, on the host, for each process that has an image:
//!
//! ```text
//! gardend ── Enter ─▶ A  takes over init's limits, label and seccomp filters, enters its
//!                     │  namespaces
//!                     ├─▶ B  in the place's pid namespace, ends at once
//!                     │   └─▶ C  init's child from then on; unshares its mounts
//!         ◀─ Entered ──────── C
//! gardend furnishes C's mounts, puts it into its cgroup, tells init of it (Adopt)
//!                  init ─ go ─▶ C  becomes the process, as init's own children do
//! ```
//! Promises: A, B and C hold nothing of the host but their descriptors, which end with the exec;
//! C runs nothing of the container's before init knows it; where gardend dies before that, the end
//! of the status socket ends C. It has a single thread, as setns(2) wants it.

use crate::child::{self, Confinement, Inheritance, Privileges, Start, Stdio};
use crate::packet::{self, Packet};
use crate::sys::{self, FilterList};
use crate::wire::{self, MAX_REQUEST, SpawnFailure, SpawnSpec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{DumpableBehavior, PidfdFlags, getpid, pidfd_open, set_dumpable_behavior, umask};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// The word by which the program is started as this; its stdin is the socket to gardend.
pub const COMMAND: &str = "enter";

/// What gardend asks for, encoded in a memfd, since an environment may be large.
/// Beside the packet that carries it (whose bytes mean nothing): the memfd, the pidfd of the
/// place's init, the status socket of the process to come, and without a terminal its stdin,
/// stdout and stderr.
#[derive(Debug, Serialize, Deserialize)]
pub struct Enter {
    /// What to become.
    pub spec: SpawnSpec,
    /// The place's init, in gardend's pid namespace.
    pub init: i32,
    /// The place has a user namespace of its own.
    pub has_user_namespace: bool,
}

/// What gardend is told.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// C waits in a mount namespace of its own. Beside it its pidfd.
    Entered {
        /// Its pid, in the place's pid namespace.
        pid: i32,
    },
    /// Nothing was made, nothing remains.
    Failed {
        /// What was attempted.
        attempt: String,
        /// errno.
        errno: i32,
    },
}

type Attempt<T> = Result<T, (String, i32)>;

/// Does it; the exit status means nothing.
pub fn run() {
    let control = rustix::stdio::stdin();
    let told = receive(control).and_then(|received| enter(control, received));
    if let Err((attempt, errno)) = told {
        tell(control, &Answer::Failed { attempt, errno }, &[]);
    }
}

struct Received {
    request: Enter,
    init: OwnedFd,
    status: OwnedFd,
    stdio: Stdio,
}

fn receive(control: BorrowedFd<'_>) -> Attempt<Received> {
    let malformed = || ("read the request".to_owned(), libc::EBADMSG);
    let mut fds = match packet::recv(control, &mut Vec::new()) {
        Ok(Packet::Message(fds)) => fds.into_iter(),
        _ => return Err(malformed()),
    };
    let (Some(memory), Some(init), Some(status)) = (fds.next(), fds.next(), fds.next()) else {
        return Err(malformed());
    };
    let request: Enter =
        wire::decode(&read(memory).map_err(|error| failed("read the request", &error))?).map_err(|_| malformed())?;
    let stdio = match request.spec.tty {
        Some((columns, rows)) => Stdio::Terminal(columns, rows),
        None => Stdio::Pipes(fds.collect::<Vec<_>>().try_into().map_err(|_| malformed())?),
    };
    Ok(Received { request, init, status, stdio })
}

fn read(memory: OwnedFd) -> io::Result<Vec<u8>> {
    let file = fs::File::from(memory);
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let mut bytes = vec![0; size.min(2 * MAX_REQUEST)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// A, and in it B and C.
fn enter(control: BorrowedFd<'_>, received: Received) -> Attempt<()> {
    let Received { request, init, status, stdio } = received;
    drop(sys::take_signals().map_err(|error| failed("reset signals", &error))?);
    umask(rustix::fs::Mode::from_raw_mode(0o022));
    for resource in 0..16 {
        sys::take_limit_of(request.init, resource).map_err(|error| failed("read init's limits", &error))?;
    }
    take_oom_score(request.init);
    take_label(request.init)?;
    let filters =
        FilterList::of_process(request.init).map_err(|error| failed("read init's seccomp filters", &error))?;
    // Its number was not another's, if it still lives once all was read of it.
    if has_ended(init.as_fd()) {
        return Err(("find the container's init".to_owned(), libc::ESRCH));
    }
    sys::enter_namespaces(init.as_fd(), request.has_user_namespace)
        .map_err(|error| failed("enter the container's namespaces", &error))?;
    sys::become_root().map_err(|error| failed("become the container's root", &error))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| failed("become non-dumpable", &error.into()))?;
    drop(init);
    let between = sys::fork(|| {
        // Its end makes init the parent of what it has made.
        let made = sys::fork(|| wait_and_become(control, &request, &stdio, status.as_fd(), filters));
        if let Err(error) = made {
            let (attempt, errno) = failed("fork in the container", &error);
            tell(control, &Answer::Failed { attempt, errno }, &[]);
        }
    });
    let between = between.map_err(|error| failed("fork into the container", &error))?;
    // Its pid namespace could not end before it is reaped.
    sys::wait_for(between.pid).map_err(|error| failed("wait for a child", &error))
}

/// C.
fn wait_and_become(
    control: BorrowedFd<'_>,
    request: &Enter,
    stdio: &Stdio,
    status: BorrowedFd<'_>,
    filters: FilterList,
) {
    if let Err((attempt, errno)) = announce(control) {
        return tell(control, &Answer::Failed { attempt, errno }, &[]);
    }
    // Nobody goes on from here before init knows it. The end of the socket, or anything else: it
    // is not wanted any more.
    if !matches!(packet::recv(status, &mut Vec::new()), Ok(Packet::Message(_))) {
        return;
    }
    let privileges = match Privileges::of_this_process() {
        Ok(privileges) => privileges,
        Err(error) => {
            let failure = SpawnFailure::System { call: "capget".into(), errno: error.raw_os_error() };
            return child::report(status, failure);
        }
    };
    let inheritance = Inheritance { privileges, open_files: None, is_spared_by_oom: false };
    let confinement = Confinement { filters };
    child::become_process(Start::Now, &request.spec, stdio, &inheritance, &confinement, status);
}

fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(0)
}

fn announce(control: BorrowedFd<'_>) -> Attempt<()> {
    sys::unshare_mounts().map_err(|error| failed("make a mount namespace", &error))?;
    let own = getpid();
    let pidfd = pidfd_open(own, PidfdFlags::empty()).map_err(|error| failed("open a pidfd", &error.into()))?;
    tell(control, &Answer::Entered { pid: own.as_raw_nonzero().get() }, &[pidfd.as_fd()]);
    Ok(())
}

/// What init's own children have: its score, but for the protection that init alone has. A lower
/// one than ours is refused without CAP_SYS_RESOURCE; ours stays then.
fn take_oom_score(init: i32) {
    let score = fs::read_to_string(format!("/proc/{init}/oom_score_adj")).ok();
    let score: i32 = score.and_then(|score| score.trim().parse().ok()).unwrap_or(0);
    let _ = fs::write("/proc/self/oom_score_adj", score.max(0).to_string());
}

/// From its exec on the process is confined by the security module as init is. Where both have
/// the same label, or there is no such module, nothing is to be done.
fn take_label(init: i32) -> Attempt<()> {
    let label = |process: &str| fs::read_to_string(format!("/proc/{process}/attr/current")).unwrap_or_default();
    let (theirs, ours) = (label(&init.to_string()), label("self"));
    match on_exec(&theirs, &ours) {
        Some(text) => {
            fs::write("/proc/self/attr/exec", text).map_err(|error| failed("take over init's security label", &error))
        }
        None => Ok(()),
    }
}

/// What is to be written for the next exec. A label with colons is SELinux's, any other AppArmor's.
fn on_exec(theirs: &str, ours: &str) -> Option<String> {
    let clean = |label: &str| label.trim_end_matches(['\0', '\n']).trim().to_owned();
    let (theirs, ours) = (clean(theirs), clean(ours));
    if theirs.is_empty() || theirs == ours {
        return None;
    }
    let is_selinux = theirs.split(':').count() >= 4;
    let profile = theirs.split(" (").next().unwrap_or_default();
    Some(if is_selinux { theirs } else { format!("exec {profile}") })
}

fn tell(control: BorrowedFd<'_>, answer: &Answer, fds: &[BorrowedFd<'_>]) {
    if let Ok(bytes) = wire::encode(answer) {
        // Nobody is left to hear it.
        let _ = packet::send(control, &bytes, fds);
    }
}

fn failed(attempt: &str, error: &io::Error) -> (String, i32) {
    (attempt.to_owned(), error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_taken_over_in_the_words_of_its_module() {
        assert_eq!(on_exec("", "unconfined\n"), None);
        assert_eq!(on_exec("unconfined\n", "unconfined\n"), None);
        assert_eq!(on_exec("gardend-default (enforce)\n", "unconfined\n").unwrap(), "exec gardend-default");
        let context = "system_u:system_r:container_t:s0:c1,c2";
        assert_eq!(on_exec(&format!("{context}\0"), "system_u:system_r:gardend_t:s0\0").unwrap(), context);
    }
}
