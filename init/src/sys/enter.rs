//! Into the namespaces of another process, under its seccomp filters.

use super::checked;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Every kind of namespace that a place has of its own, but for the user's.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;
/// linux/ptrace.h; not every libc names it.
const PTRACE_SECCOMP_GET_FILTER: u32 = 0x420c;
/// No process has more filters than this many instructions in all (MAX_INSNS_PER_PATH).
const MAX_FILTERS: usize = 1024;

/// One seccomp filter: a program of classic BPF, as the kernel gives and takes it.
#[derive(Clone)]
struct Filter(Vec<libc::sock_filter>);

impl std::fmt::Debug for FilterList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} filters", self.0.len())
    }
}

/// All filters of a process, the one that was loaded last first.
#[derive(Clone, Default)]
pub struct FilterList(Vec<Filter>);

impl FilterList {
    /// Of another process, which is stopped for as long as they are read. Needs CAP_SYS_ADMIN and
    /// CAP_SYS_PTRACE on the host, and a kernel with CONFIG_CHECKPOINT_RESTORE.
    ///
    /// # Errors
    /// As `ptrace(2)`.
    pub fn of_process(pid: i32) -> io::Result<Self> {
        // SAFETY: no memory of ours is involved.
        checked_long(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0_usize, 0_usize) })?;
        let filters = stop(pid).and_then(|()| read_all(pid));
        // It goes on in any case: also where this fails, as soon as we end.
        // SAFETY: no memory of ours is involved.
        let detached = checked_long(unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, 0_usize, 0_usize) });
        filters.and_then(|filters| detached.map(|_| Self(filters)))
    }

    /// Loads them all for this process, without giving up the right to gain privileges by exec.
    ///
    /// # Errors
    /// As `seccomp(2)`; `EACCES` without CAP_SYS_ADMIN in the own user namespace.
    pub fn load(&self) -> io::Result<()> {
        for Filter(program) in self.0.iter().rev() {
            let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
            let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
            // SAFETY: the program lives until the call returns; the kernel copies it.
            checked_long(unsafe {
                libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0 as libc::c_uint, &raw const program)
            })?;
        }
        Ok(())
    }
}

fn stop(pid: i32) -> io::Result<()> {
    // SAFETY: no memory of ours is involved.
    checked_long(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, pid, 0_usize, 0_usize) })?;
    loop {
        let mut status = 0;
        // SAFETY: `status` is ours to be written.
        match checked(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }) {
            Ok(_) if libc::WIFSTOPPED(status) => return Ok(()),
            // It has ended instead.
            Ok(_) => return Err(io::Error::from_raw_os_error(libc::ESRCH)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn read_all(pid: i32) -> io::Result<Vec<Filter>> {
    let mut filters = Vec::new();
    while filters.len() < MAX_FILTERS {
        match read(pid, filters.len()) {
            Ok(filter) => filters.push(filter),
            // No filter of that number; without any, EINVAL.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && filters.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(filters)
}

fn read(pid: i32, number: usize) -> io::Result<Filter> {
    let request = PTRACE_SECCOMP_GET_FILTER as _;
    // SAFETY: without a buffer the call answers the number of instructions alone.
    let count = checked_long(unsafe { libc::ptrace(request, pid, number, ptr::null_mut::<libc::sock_filter>()) })?;
    let mut program = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; usize::try_from(count).unwrap_or(0)];
    // SAFETY: a filter does not change, so that what is written is as long as what was answered
    // before; the process is stopped.
    checked_long(unsafe { libc::ptrace(request, pid, number, program.as_mut_ptr()) })?;
    Ok(Filter(program))
}

fn checked_long(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Moves this process (with its children to come, as to the pid namespace) into every namespace of
/// the process behind `pidfd`. It must have a single thread.
///
/// # Errors
/// As `setns(2)`.
pub fn enter_namespaces(pidfd: BorrowedFd<'_>, with_user: bool) -> io::Result<()> {
    let kinds = if with_user { NAMESPACES | libc::CLONE_NEWUSER } else { NAMESPACES };
    // SAFETY: takes numbers only.
    checked(unsafe { libc::setns(pidfd.as_raw_fd(), kinds) }).map(drop)
}

/// Gives this process a mount namespace of its own: a copy of the one it is in.
///
/// # Errors
/// As `unshare(2)`.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: takes a number only; the process has one thread.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNS) }).map(drop)
}

/// Takes over the other process's limit on a resource, as far as that is allowed.
///
/// # Errors
/// As `prlimit(2)`, where the other's cannot be read.
pub fn take_limit_of(pid: i32, resource: u32) -> io::Result<()> {
    let mut limits = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no new limits are given, and `limits` is ours to be written.
    checked(unsafe { libc::prlimit64(pid, resource as _, ptr::null(), &raw mut limits) })?;
    // Higher than our own is refused without CAP_SYS_RESOURCE; ours stays then.
    let _ = super::set_limit(resource, limits.rlim_cur, limits.rlim_max);
    Ok(())
}

/// Whether the process behind the descriptor is a child of this one's that has not been reaped.
pub fn is_child(pidfd: BorrowedFd<'_>) -> bool {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    let Ok(number) = libc::id_t::try_from(pidfd.as_raw_fd()) else { return false };
    loop {
        // SAFETY: nothing is written without a siginfo_t.
        match checked(unsafe { libc::waitid(libc::P_PIDFD, number, ptr::null_mut(), options) }) {
            Ok(_) => return true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

/// Waits for a child's end.
///
/// # Errors
/// As `waitpid(2)`.
pub fn wait_for(pid: i32) -> io::Result<()> {
    loop {
        // SAFETY: nothing is written without a status.
        match checked(unsafe { libc::waitpid(pid, ptr::null_mut(), libc::__WALL) }) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Becomes root of the user namespace that was entered.
///
/// # Errors
/// As `setresuid(2)`.
pub fn become_root() -> io::Result<()> {
    // SAFETY: all three take numbers and a null pointer with no elements.
    unsafe {
        checked(libc::setgroups(0, ptr::null()))?;
        checked(libc::setresgid(0, 0, 0))?;
        checked(libc::setresuid(0, 0, 0))?;
    }
    Ok(())
}
