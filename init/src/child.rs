//! What a new process does between fork and exec.
//!
//! Everything that touches the container's files happens here and not in init: a file system that
//! hangs or a file that lies (a passwd that is a FIFO, a folder that is swapped) stops this process
//! alone. It speaks to init by [`Report`] over a socket that exec closes: its end without
//! [`Report::Failed`] means that the program runs.
//! The order matters: what needs root's rights first, then the limits, then the rights go, and the
//! working folder is entered with the user's own.

mod files;
mod folder;
mod privileges;
mod program;
mod terminal;

use crate::accounts::{Account, AccountError};
use crate::sys::{ExecImage, FilterList};
use crate::wire::{SpawnFailure, SpawnSpec};
use crate::{accounts, environment, packet, sys, wire};
use program::Lookup;
use rustix::io::Errno;
use rustix::stdio;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub(crate) use folder::ensure as ensure_folder;
pub use privileges::Privileges;

/// No path that the kernel takes is longer; what is reported back is cut to it.
const PATH_MAX: usize = 4096;
/// RLIMIT_NOFILE.
#[allow(clippy::unnecessary_cast, reason = "not every C library has it as the same type")]
pub const OPEN_FILES: u32 = libc::RLIMIT_NOFILE as u32;

/// What the process tells init.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Beside it the master of the terminal that was made.
    Terminal,
    /// It could not become what was asked, and ends.
    Failed(SpawnFailure),
}

/// The process's ends of its input and output.
#[derive(Debug)]
pub enum Stdio {
    /// Standard input, output and error.
    Pipes([OwnedFd; 3]),
    /// A terminal that is yet to be made, this wide and high.
    Terminal(u16, u16),
}

/// When a process becomes what it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At once.
    Now,
    /// When init says so.
    WhenReleased,
}

/// What init knows since its own start and hands on to each process.
#[derive(Clone, Copy, Debug)]
pub struct Inheritance {
    /// What it may give and take.
    pub privileges: Privileges,
    /// The soft and hard limit on open files that it was started with, before it raised its own.
    pub open_files: Option<(u64, u64)>,
    /// The kernel would rather kill others than init; the same shall not hold for processes.
    pub is_spared_by_oom: bool,
}

/// What a process is confined by beside what it inherits. Init's own children inherit all there is.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    /// Loaded while it still has the right to.
    pub filters: FilterList,
}

impl Inheritance {
    /// Makes this process as likely to be chosen as any other.
    pub(crate) fn end_oom_protection(&self) {
        if self.is_spared_by_oom {
            files::end_oom_protection();
        }
    }
}

/// Becomes the process that `spec` tells, or reports over `status` why not.
pub fn become_process(
    start: Start,
    spec: &SpawnSpec,
    stdio: &Stdio,
    inheritance: &Inheritance,
    confinement: &Confinement,
    status: BorrowedFd<'_>,
) {
    let Err(failure) = attempt(start, spec, stdio, inheritance, confinement, status);
    report(status, failure);
}

/// Tells why the process is not to be.
pub fn report(status: BorrowedFd<'_>, failure: SpawnFailure) {
    if let Ok(bytes) = wire::encode(&Report::Failed(cut(failure))) {
        // Nobody is left to hear of a failure to report one.
        let _ = packet::send(status, &bytes, &[]);
    }
}

/// The kernel would rather kill others than this process, and so its children.
pub fn is_spared_by_oom() -> bool {
    std::fs::read_to_string("/proc/self/oom_score_adj").is_ok_and(|score| score.trim_start().starts_with('-'))
}

fn attempt(
    start: Start,
    spec: &SpawnSpec,
    stdio: &Stdio,
    inheritance: &Inheritance,
    confinement: &Confinement,
    status: BorrowedFd<'_>,
) -> Result<Infallible, SpawnFailure> {
    close_what_is_inits(stdio, status);
    sys::restore_signals();
    if start == Start::WhenReleased {
        wait_for_release(status)?;
    }
    rustix::process::setsid().map_err(|error| system("setsid", error))?;
    rustix::process::chdir("/").map_err(|error| system("chdir to /", error))?;

    let account = account(&spec.user)?;
    match stdio {
        Stdio::Pipes(ends) => attach_pipes(ends, account.uid),
        Stdio::Terminal(columns, rows) => terminal::attach(*columns, *rows, account.uid, status),
    }?;
    let environment = environment::complete(&spec.env, &account, &account.home, spec.tty.is_some());
    let candidates = strings("path", environment::candidates(&spec.path, &environment))?;
    let arguments = strings("args", [spec.path.clone()].into_iter().chain(spec.args.iter().cloned()))?;
    let image = ExecImage::new(arguments, strings("env", environment)?);
    let dir = if spec.dir.is_empty() { account.home.clone() } else { spec.dir.clone() };
    let dir = strings("dir", [dir])?.remove(0);
    let dir_failed = |error: Errno| SpawnFailure::Dir { dir: dir.to_bytes().to_vec(), errno: error.raw_os_error() };

    inheritance.end_oom_protection();
    folder::ensure(&dir, &account, &inheritance.privileges).map_err(dir_failed)?;
    limit(&spec.rlimits, inheritance.open_files)?;
    confinement
        .filters
        .load()
        .map_err(|error| SpawnFailure::System { call: "seccomp".into(), errno: errno(&error) })?;
    inheritance.privileges.assume(&account, spec.capabilities)?;
    rustix::process::chdir(dir.as_c_str()).map_err(dir_failed)?;
    Err(program::exec(Lookup::of(&spec.path), &candidates, &image))
}

/// Before anything is read or written, so that all of it counts where the process will be by then.
fn wait_for_release(status: BorrowedFd<'_>) -> Result<(), SpawnFailure> {
    match packet::recv(status, &mut Vec::new()) {
        Ok(packet::Packet::Message(_)) => Ok(()),
        // Init is gone, and so is everything.
        _ => Err(SpawnFailure::System { call: "wait to be released".into(), errno: libc::EPIPE }),
    }
}

/// The copies of init's descriptors would hold others' pipes open for as long as this process
/// needs to its exec, which a file system that hangs can make long.
fn close_what_is_inits(stdio: &Stdio, status: BorrowedFd<'_>) {
    let mut kept = vec![status];
    if let Stdio::Pipes(ends) = stdio {
        kept.extend(ends.iter().map(AsFd::as_fd));
    }
    sys::close_all_but(&kept);
}

/// Whom the container's own files know by this name.
pub(crate) fn account(user: &str) -> Result<Account, SpawnFailure> {
    let passwd = files::read_bounded(c"/etc/passwd").map_err(|error| system("read /etc/passwd", error))?;
    let group = files::read_bounded(c"/etc/group").map_err(|error| system("read /etc/group", error))?;
    accounts::resolve(user, &passwd, &group).map_err(|error| match error {
        AccountError::UnknownUser => SpawnFailure::UnknownUser,
        AccountError::UnknownGroup(group) => SpawnFailure::UnknownGroup { group },
    })
}

fn attach_pipes(ends: &[OwnedFd; 3], uid: u32) -> Result<(), SpawnFailure> {
    for end in ends {
        files::give(end.as_fd(), uid);
    }
    let attached = stdio::dup2_stdin(&ends[0])
        .and_then(|()| stdio::dup2_stdout(&ends[1]))
        .and_then(|()| stdio::dup2_stderr(&ends[2]));
    attached.map_err(|error| system("dup2", error))
}

fn limit(asked: &[(u32, u64)], open_files: Option<(u64, u64)>) -> Result<(), SpawnFailure> {
    let failed = |error: io::Error| SpawnFailure::System { call: "setrlimit".into(), errno: errno(&error) };
    if let Some((soft, hard)) = open_files {
        sys::set_limit(OPEN_FILES, soft, hard).map_err(failed)?;
    }
    for &(resource, value) in asked {
        let (_, ceiling) = sys::limit(resource)
            .map_err(|_| SpawnFailure::Malformed { reason: format!("there is no resource limit {resource}") })?;
        sys::set_limit(resource, value, value).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => SpawnFailure::Rlimit { resource, asked: value, ceiling },
            _ => failed(error),
        })?;
    }
    Ok(())
}

fn strings(what: &str, list: impl IntoIterator<Item = Vec<u8>>) -> Result<Vec<CString>, SpawnFailure> {
    let strings = list.into_iter().map(CString::new).collect::<Result<_, _>>();
    strings.map_err(|_| SpawnFailure::Malformed { reason: format!("a NUL byte in {what}") })
}

/// What echoes the request is cut, so that the report fits into a packet.
fn cut(failure: SpawnFailure) -> SpawnFailure {
    match failure {
        SpawnFailure::Dir { mut dir, errno } => {
            dir.truncate(PATH_MAX);
            SpawnFailure::Dir { dir, errno }
        }
        SpawnFailure::UnknownGroup { group } => {
            SpawnFailure::UnknownGroup { group: group.chars().take(PATH_MAX).collect() }
        }
        other => other,
    }
}

fn system(call: &str, error: Errno) -> SpawnFailure {
    SpawnFailure::System { call: call.to_owned(), errno: error.raw_os_error() }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
