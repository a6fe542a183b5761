//! A process with files of its own: made from outside by `garden-init enter`
//! ([`garden_init::enter`] tells how), furnished, put into its container's cgroup, and then handed
//! to its init, which lets it go on and keeps it as its own.
//!
//! Promises: whatever fails on the way, what was made is killed and nothing is left; it runs
//! nothing of the container's before its init knows it.

use super::{pid, spec, sys};
use crate::node::containerd::{CapabilitySet, Cgroups};
use crate::node::mount::{MountNode, OwnMounts};
use crate::node::place::{Folders, InitProcess};
use crate::node::{blank, cgroup};
use garden_init::enter::{Answer, COMMAND, Enter};
use garden_init::packet::{Packet, recv, send};
use garden_init::wire::{self, SpawnSpec};
use gardend_controller::ports::SpawnError;
use gardend_controller::record::{ProcessImage, ProcessUid, SandboxId};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Signal;
use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;
use tokio::time::timeout;

/// From the start of the helper until its process waits: milliseconds.
const ENTERS: Duration = Duration::from_secs(10);

/// What making such processes needs. Without it they are refused.
pub struct Images {
    folders: Folders,
    mounts: MountNode,
    cgroups: Cgroups,
    /// garden-init in memory: a container's root who reached the helper could not change it.
    program: OwnedFd,
    /// One helper at a time in each place: while it reads an init's filters no other can.
    turns: Mutex<HashMap<SandboxId, Weak<tokio::sync::Mutex<()>>>>,
}

/// A process that waits for its init's word. Killed where it is dropped.
pub struct Waiting {
    /// In its place's pid namespace.
    pub inside: i32,
    /// Of the process.
    pub pidfd: OwnedFd,
    wanted: bool,
}

impl Waiting {
    /// From now on its init answers for it.
    pub fn handed_over(mut self) {
        self.wanted = true;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.wanted {
            // It may have ended by itself; its init reaps it either way.
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
    }
}

impl Images {
    /// With garden-init as this gardend brings it along.
    ///
    /// # Errors
    /// Where the kernel makes no file in memory.
    pub fn new(folders: Folders, mounts: MountNode, cgroups: Cgroups) -> io::Result<Self> {
        Ok(Self { folders, mounts, cgroups, program: in_memory(blank::init_program())?, turns: Mutex::default() })
    }

    /// Makes a process in the place with the image as its root. `status` and `stdio` are its own
    /// ends; `to_join` are groups below the place's.
    ///
    /// # Errors
    /// What cannot be had, or went wrong.
    pub async fn make(
        &self,
        (sandbox, process): (&SandboxId, &ProcessUid),
        image: &ProcessImage,
        wanted: SpawnSpec,
        status: &OwnedFd,
        stdio: &[OwnedFd],
        to_join: &[PathBuf],
    ) -> Result<Waiting, SpawnError> {
        let program = String::from_utf8_lossy(&wanted.path).into_owned();
        let other = |what: String| SpawnError::Other(format!("process {program:?} could not be started: {what}"));
        let gone = || SpawnError::InitGone { reason: "it has ended".into() };
        let place = self.folders.place(sandbox);
        let init = InitProcess::read(&place).map_err(|error| other(error.to_string()))?.ok_or_else(gone)?;
        let pidfd = init.open().map_err(|error| other(error.to_string()))?.ok_or_else(gone)?;
        let request = self.request(&init, wanted).map_err(|error| other(error.to_string()))?;
        let memory = in_file(&request)?;
        let fds: Vec<BorrowedFd<'_>> =
            [memory.as_fd(), pidfd.as_fd(), status.as_fd()].into_iter().chain(stdio.iter().map(AsFd::as_fd)).collect();
        let turn = self.turn(sandbox);
        let held = turn.lock().await;
        let entered = timeout(ENTERS, self.enter(&fds)).await;
        drop(held);
        let waiting = entered
            .unwrap_or_else(|_| Err(format!("it did not enter the container within {ENTERS:?}")))
            .map_err(other)?;
        let host = pid::of_pidfd(waiting.pidfd.as_fd()).filter(|pid| *pid != 0);
        let host = host.ok_or_else(|| other("it ended before it had its image".into()))?;
        let own = waiting.pidfd.try_clone().map_err(|error| other(error.to_string()))?;
        self.mounts
            .furnish_process((sandbox, process), OwnMounts { pid: host, pidfd: own }, image)
            .await
            .map_err(|error| SpawnError::Other(error.message))?;
        let entered = self.cgroups.enter(sandbox, host, to_join).and_then(|()| cgroup::join(host, to_join));
        entered.map_err(|error| other(format!("it cannot be held to its container's limits: {error}")))?;
        Ok(waiting)
    }

    /// A process has ended: what it changed of its image goes.
    pub async fn release(&self, sandbox: &SandboxId, process: &ProcessUid) {
        if !self.folders.process_layer(sandbox, process).exists() {
            return;
        }
        if let Err(error) = self.mounts.release_process(sandbox, process).await {
            tracing::warn!(%process, %error, "a process's files stay until its container goes");
        }
    }

    /// A place is dead, and all its processes are.
    pub async fn release_all(&self, sandbox: &SandboxId) {
        if !self.folders.process_layers(sandbox).exists() {
            return;
        }
        if let Err(error) = self.mounts.release_processes(sandbox).await {
            tracing::warn!(%sandbox, %error, "files of processes stay until the next start");
        }
    }

    fn turn(&self, sandbox: &SandboxId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        let known = turns.get(sandbox).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let turn = Arc::default();
            turns.insert(sandbox.clone(), Arc::downgrade(&turn));
            turn
        })
    }

    fn request(&self, init: &InitProcess, mut wanted: SpawnSpec) -> io::Result<Enter> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", init.pid))?;
        // Init's own are inherited by its children; here they must be said.
        let bounding = CapabilitySet::bounding_in(&status);
        wanted.capabilities = bounding.ok_or_else(|| io::Error::other("init has no bounding set"))?.0;
        let user = |process: &str| std::fs::read_link(PathBuf::from("/proc").join(process).join("ns/user"));
        let has_user_namespace = user(&init.pid.to_string())? != user("self")?;
        Ok(Enter { spec: wanted, init: i32::try_from(init.pid).map_err(io::Error::other)?, has_user_namespace })
    }

    async fn enter(&self, fds: &[BorrowedFd<'_>]) -> Result<Waiting, String> {
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.map_err(|error| format!("no socket can be made: {error}"))?;
        send(ours.as_fd(), b"enter", fds).map_err(|error| format!("its helper cannot be asked: {error}"))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|error| error.to_string())?;
        let ours = sys::watch(ours, Interest::READABLE).map_err(|error| error.to_string())?;
        let mut command = std::process::Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()));
        command.arg0("garden-init").arg(COMMAND).env_clear().current_dir("/");
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let mut command = Command::from(command);
        // Dropped half-way: it is killed, and reaped by the runtime.
        let child = command.kill_on_drop(true).spawn();
        let mut child = child.map_err(|error| format!("its helper cannot be started: {error}"))?;
        // Our copy of its end would hide that it has ended.
        drop(command);
        let answer = answer(&ours).await;
        // It ends as soon as the process in between has; after that nothing of ours is its parent.
        let ended = child.wait().await.map_err(|error| format!("its helper cannot be waited for: {error}"));
        answer.and_then(|waiting| ended.map(|_| waiting))
    }
}

async fn answer(control: &AsyncFd<OwnedFd>) -> Result<Waiting, String> {
    let mut buffer = Vec::new();
    let mut fds = loop {
        // Cancel-safe: a packet is received whole or stays in the queue.
        let mut ready = control.readable().await.map_err(|error| error.to_string())?;
        match recv(control.as_fd(), &mut buffer) {
            Ok(Packet::Message(fds)) => break fds.into_iter(),
            Ok(Packet::End) => return Err("its helper ended without a word".into()),
            Err(error) if error.would_block() => ready.clear_ready(),
            Err(error) => return Err(error.to_string()),
        }
    };
    match wire::decode(&buffer).map_err(|error| error.to_string())? {
        Answer::Entered { pid } => {
            let pidfd = fds.next().ok_or("its helper gave no pidfd")?;
            Ok(Waiting { inside: pid, pidfd, wanted: false })
        }
        Answer::Failed { attempt, errno } => {
            let hint = match errno {
                libc::EINVAL | libc::EIO if attempt.contains("seccomp") => {
                    " (the kernel needs CONFIG_CHECKPOINT_RESTORE for it)"
                }
                libc::EACCES | libc::EPERM => {
                    " (gardend needs CAP_SYS_ADMIN and CAP_SYS_PTRACE for it, and no seccomp filter of its own)"
                }
                _ => "",
            };
            Err(format!("cannot {attempt}: {}{hint}", spec::words(errno)))
        }
    }
}

fn in_file(request: &Enter) -> Result<OwnedFd, SpawnError> {
    let bytes = wire::encode(request).map_err(spec::encoding)?;
    in_memory(&bytes).map_err(|error| SpawnError::Other(format!("the request cannot be put into a file: {error}")))
}

/// A file in memory that nobody can change any more.
fn in_memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Said since 6.3, where the node may refuse what does not say it; unknown before.
    let file = match memfd_create("garden-init", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create("garden-init", flags)?,
        made => made?,
    };
    let mut file = std::fs::File::from(file);
    file.write_all(bytes)?;
    let file = OwnedFd::from(file);
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file)
}
