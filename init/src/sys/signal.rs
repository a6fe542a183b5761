//! Signals: to others, and from children.

use super::checked;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// The highest signal number.
pub const MAX_SIGNAL: i32 = 64;
/// How large the kernel has a set of signals.
const SIGNAL_SET_BYTES: usize = 8;

/// Whom [`kill`] signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One process: a child of ours that is not reaped yet.
    Process(i32),
    /// The group that this child leads.
    Group(i32),
    /// All that this process may signal, but itself and init: for pid 1, its whole namespace.
    Everything,
}

/// Sends a signal.
///
/// # Errors
/// As `kill(2)`.
pub fn kill(target: Target, signal: i32) -> io::Result<()> {
    let number = match target {
        Target::Process(pid) if pid > 0 => pid,
        Target::Group(pid) if pid > 1 => -pid,
        Target::Everything => -1,
        Target::Process(_) | Target::Group(_) => return Err(io::Error::from_raw_os_error(libc::ESRCH)),
    };
    // SAFETY: takes numbers only.
    checked(unsafe { libc::kill(number, signal) }).map(drop)
}

/// Tells when a child has ended.
#[derive(Debug)]
pub struct ChildSignals(OwnedFd);

impl ChildSignals {
    /// Forgets the signals that have come, so that the descriptor is ready again only after the
    /// next. (They are merged: what has ended is asked of the kernel.)
    pub fn clear(&self) {
        let mut signals = MaybeUninit::<[libc::signalfd_siginfo; 4]>::uninit();
        // SAFETY: the kernel writes at most the size given to memory that is ours; nobody reads it.
        // The descriptor does not block.
        unsafe {
            libc::read(self.0.as_raw_fd(), signals.as_mut_ptr().cast(), size_of::<[libc::signalfd_siginfo; 4]>());
        }
    }
}

impl AsFd for ChildSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Blocks every signal for good, with every disposition as the kernel has it by default, and
/// hears of children through a descriptor. A real fault still kills: the kernel unblocks it.
///
/// # Errors
/// As `signalfd(2)`.
pub fn take_signals() -> io::Result<ChildSignals> {
    // SAFETY: the sets are ours, initialised by sigfillset and sigemptyset before they are used.
    // `default` is as large as the kernel's sigaction on every 64-bit machine, and is only read;
    // the default is a valid disposition for every signal (for KILL and STOP the kernel refuses).
    unsafe {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(all.as_mut_ptr());
        checked(libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut()))?;
        // By the kernel's own call: the C library keeps two signals to itself, and whoever started
        // us may have ignored them. All zeroes is SIG_DFL without flags, at the kernel's size.
        let default = [0_u64; 4];
        for signal in 1..=MAX_SIGNAL {
            libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, ptr::null::<u8>(), SIGNAL_SET_BYTES);
        }
        let mut child = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(child.as_mut_ptr());
        libc::sigaddset(child.as_mut_ptr(), libc::SIGCHLD);
        let fd = checked(libc::signalfd(-1, child.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(ChildSignals(OwnedFd::from_raw_fd(fd)))
    }
}

/// Lets every signal through again, for a process that is to become another program.
pub fn restore_signals() {
    // SAFETY: the set is ours, initialised by sigemptyset.
    unsafe {
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}
