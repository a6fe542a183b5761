//! Making, replacing, limiting and reaping processes.

use super::checked;
use crate::wire::Exit;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

/// A process that [`fork`] made.
#[derive(Debug)]
pub struct Child {
    /// Ours to reap: the number is not another's before that.
    pub pid: i32,
    /// Made together with the process, so that no other can be meant.
    pub pidfd: OwnedFd,
}

/// A process that has ended and is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    /// Free for others from now on.
    pub pid: i32,
    /// How it ended.
    pub exit: Exit,
}

/// Runs `body` in a new process, with a copy of this one's memory. The process ends when `body`
/// returns; nothing of the caller's is dropped in it.
///
/// # Errors
/// As `clone(2)`.
pub fn fork(body: impl FnOnce()) -> io::Result<Child> {
    fork_with(libc::SIGCHLD, body)
}

/// As [`fork`], for a process that is none of the container's: its end is told by its pidfd alone,
/// [`reap`] and [`is_childless`] pass it over, and [`reap_apart`] takes it. (To the kernel it is a
/// child without an exit signal, which nothing that a container can do makes of another.) It must
/// neither fork nor exec.
///
/// # Errors
/// As `clone(2)`.
pub fn fork_apart(body: impl FnOnce()) -> io::Result<Child> {
    fork_with(0, body)
}

/// It is clone(2) and not clone3(2), which the usual seccomp profiles refuse. To be called from a
/// process with a single thread, whose memory is whole in the copy: init is one.
fn fork_with(exit_signal: libc::c_int, body: impl FnOnce()) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    let flags = (libc::CLONE_PIDFD | exit_signal) as libc::c_ulong;
    let nothing = ptr::null::<libc::c_void>();
    // SAFETY: without CLONE_VM and with a null stack this is fork(2): the child goes on with a copy
    // of everything. The kernel writes the pidfd to the third argument (in the parent alone); the
    // others are not looked at under these flags.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, nothing, &raw mut pidfd, nothing, nothing) };
    match i32::try_from(pid) {
        Ok(0) => {
            // Without this a panic would unwind into the parent's frames and be a second init.
            let code = if catch_unwind(AssertUnwindSafe(body)).is_ok() { 127 } else { 125 };
            exit_at_once(code)
        }
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(pid) if pid > 0 => Ok(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends this process without running anything that was registered for its end.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// Arguments and environment in the form that execve(2) takes, so that [`ExecImage::exec`]
/// allocates nothing: it may run under a limit on memory.
#[derive(Debug)]
pub struct ExecImage {
    /// Own the strings that the pointers point at, and are never changed.
    _strings: [Vec<CString>; 2],
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
}

impl ExecImage {
    /// Both in their order; `arguments` begins with the program's name.
    pub fn new(arguments: Vec<CString>, environment: Vec<CString>) -> Self {
        let pointers = |strings: &[CString]| -> Vec<_> {
            strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
        };
        Self {
            arguments: pointers(&arguments),
            environment: pointers(&environment),
            _strings: [arguments, environment],
        }
    }

    /// Replaces this process; comes back only with the reason why not.
    pub fn exec(&self, program: &CStr) -> io::Error {
        // SAFETY: both arrays end in a null pointer; their other elements point into strings that
        // `self` owns (a CString's bytes do not move with it).
        unsafe { libc::execve(program.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// Closes every descriptor of this process but 0, 1, 2 and `kept`, behind the backs of their
/// owners: for a process that [`fork`] has just made, which touches none of its parent's.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) {
    let mut kept: Vec<libc::c_uint> = kept.iter().filter_map(|fd| fd.as_raw_fd().try_into().ok()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for next in kept.into_iter().filter(|fd| *fd >= 3).chain([libc::c_uint::MAX]) {
        if first < next {
            // SAFETY: takes numbers only. A kernel or a seccomp profile without it leaves the
            // descriptors open, every one of which is closed by exec as well.
            unsafe { libc::syscall(libc::SYS_close_range, first, next - 1, 0 as libc::c_uint) };
        }
        first = next.saturating_add(1);
    }
}

/// Takes the next process that has ended, if there is one.
///
/// # Errors
/// `ECHILD` where there is no child at all.
pub fn reap() -> io::Result<Option<Reaped>> {
    wait(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG)
}

/// Takes this process of [`fork_apart`]'s, if it has ended.
///
/// # Errors
/// `ECHILD` where there is none.
pub fn reap_apart(pid: i32) -> io::Result<bool> {
    let id = libc::id_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ECHILD))?;
    wait(libc::P_PID, id, libc::WEXITED | libc::WNOHANG | libc::__WCLONE).map(|reaped| reaped.is_some())
}

/// Whether there is no child at all, running or ended.
pub fn is_childless() -> bool {
    let looked = wait(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT);
    looked.is_err_and(|error| error.raw_os_error() == Some(libc::ECHILD))
}

fn wait(of: libc::idtype_t, id: libc::id_t, options: libc::c_int) -> io::Result<Option<Reaped>> {
    // SAFETY: all zeroes is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { MaybeUninit::zeroed().assume_init() };
    loop {
        // SAFETY: `info` is ours to be written.
        match checked(unsafe { libc::waitid(of, id, &raw mut info, options) }) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // SAFETY: waitid has filled the part of the union for SIGCHLD, or left the zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    // A code is eight bits wide and a signal seven.
    let status = (status & 0xff) as u8;
    let exit = if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) };
    Ok((pid != 0).then_some(Reaped { pid, exit }))
}

/// This process's soft and hard limit.
///
/// # Errors
/// `EINVAL` for a resource that the kernel does not know.
pub fn limit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limits = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no new limits are given, and `limits` is ours to be written.
    checked(unsafe { libc::prlimit64(0, resource as _, ptr::null(), &raw mut limits) })?;
    Ok((limits.rlim_cur, limits.rlim_max))
}

/// Sets this process's soft and hard limit.
///
/// # Errors
/// As `setrlimit(2)`.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limits = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limits` is only read, and the old limits are not asked for.
    checked(unsafe { libc::prlimit64(0, resource as _, &raw const limits, ptr::null_mut()) }).map(drop)
}

/// From now on this process makes and opens files as this user and group. (The kernel takes the
/// capabilities over files away as it goes from root to another; the caller may take them back.)
pub fn set_file_owner(uid: u32, gid: u32) {
    // SAFETY: both take numbers only. They report nothing: what they could not do shows in the
    // call on a file that follows.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
}

/// Gives memory that is not in use back to the kernel.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number; the allocator's own state is its own business.
    unsafe {
        libc::malloc_trim(0);
    }
}
