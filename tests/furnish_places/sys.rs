//! A stand-in for a blank place: a process in namespaces of its own, in a small read-only root
//! with `/newroot`, `/proc`, `/dev` and `/sys`, put together as an OCI runtime does it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// Whether the place has a user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Unprivileged,
    Privileged,
}

struct Paths {
    blank: CString,
    proc: CString,
    dev: CString,
    pts: CString,
    shm: CString,
    null: CString,
    sys: CString,
    masked: CString,
}

/// Starts a blank place in the folder `blank` and answers its pid and a descriptor of it once it
/// is ready.
pub fn start_place(blank: &Path, kind: Kind, map: &str) -> io::Result<(u32, OwnedFd)> {
    let below = |name: &str| CString::new(blank.join(name).into_os_string().into_encoded_bytes()).unwrap();
    let paths = Paths {
        blank: below(""),
        proc: below("proc"),
        dev: below("dev"),
        pts: below("dev/pts"),
        shm: below("dev/shm"),
        null: below("dev/null"),
        sys: below("sys"),
        masked: below("proc/version"),
    };
    let (go_read, go_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (done_read, done_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut pidfd: libc::c_int = -1;
    let mut flags =
        libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET;
    flags |= libc::CLONE_PIDFD | libc::SIGCHLD;
    if kind == Kind::Unprivileged {
        flags |= libc::CLONE_NEWUSER;
    }
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: a plain fork into new namespaces; the child makes bare system calls and nothing else.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), none, &raw mut pidfd, none, none) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        // SAFETY: this is the child, alone in its copy of the memory; what it is given lives on.
        unsafe { be_place(&paths, go_read.as_raw_fd(), done_write.as_raw_fd()) }
    }
    // SAFETY: made for us by clone(2) just now.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    drop((go_read, done_write));
    if kind == Kind::Unprivileged {
        std::fs::write(format!("/proc/{pid}/uid_map"), map)?;
        std::fs::write(format!("/proc/{pid}/gid_map"), map)?;
    }
    rustix::io::write(&go_write, b"g")?;
    let mut step = [0u8; 2];
    let read = rustix::io::read(&done_read, &mut step)?;
    if read == 0 || step[0] != 0 {
        kill(&pidfd);
        return Err(io::Error::other(format!("the stand-in place failed at step {} with errno {}", step[0], step[1])));
    }
    Ok((pid as u32, pidfd))
}

/// Kills a place's init and waits until it is gone, and with it all that ran there.
pub fn kill(pidfd: &OwnedFd) {
    let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
    let options = rustix::process::WaitIdOptions::EXITED;
    let _ = rustix::process::waitid(rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(pidfd)), options);
}

/// The life of a place's init.
///
/// # Safety
/// Only in a child that is alone in its memory.
unsafe fn be_place(paths: &Paths, go: i32, done: i32) -> ! {
    // SAFETY: system calls on strings and descriptors that live as long as the process.
    unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        let mut byte = 0u8;
        if libc::read(go, (&raw mut byte).cast(), 1) != 1 {
            libc::_exit(1);
        }
        let (step, errno) = match assemble(paths) {
            Ok(()) => (0u8, 0u8),
            Err(step) => (step, *libc::__errno_location() as u8),
        };
        // Nothing of the tests' stays open in here.
        libc::write(done, [step, errno].as_ptr().cast(), 2);
        libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0u32);
        loop {
            libc::syscall(libc::SYS_ppoll, 0usize, 0usize, 0usize, 0usize, 0usize);
        }
    }
}

/// # Safety
/// As [`be_place`].
unsafe fn assemble(paths: &Paths) -> Result<(), u8> {
    let none = std::ptr::null::<libc::c_char>();
    let mount =
        |step: u8, source: *const libc::c_char, target: &CStr, kind: &CStr, flags: libc::c_ulong, data: &CStr| {
            // SAFETY: NUL-terminated strings.
            let result = unsafe { libc::mount(source, target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
            if result == 0 { Ok(()) } else { Err(step) }
        };
    let check = |step: u8, result: libc::c_long| if result < 0 { Err(step) } else { Ok(()) };
    // SAFETY: as above, and plain numbers.
    unsafe {
        check(1, libc::syscall(libc::SYS_setresgid, 0, 0, 0))?;
        check(2, libc::syscall(libc::SYS_setresuid, 0, 0, 0))?;
        mount(3, none, c"/", c"", libc::MS_REC | libc::MS_SLAVE, c"")?;
        let blank = paths.blank.as_c_str();
        mount(4, blank.as_ptr(), blank, c"", libc::MS_BIND | libc::MS_REC, c"")?;
        mount(5, c"proc".as_ptr(), &paths.proc, c"proc", libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC, c"")?;
        mount(6, c"tmpfs".as_ptr(), &paths.dev, c"tmpfs", libc::MS_NOSUID, c"mode=755")?;
        check(7, libc::mkdir(paths.pts.as_ptr(), 0o755).into())?;
        check(8, libc::mkdir(paths.shm.as_ptr(), 0o1777).into())?;
        mount(
            9,
            c"devpts".as_ptr(),
            &paths.pts,
            c"devpts",
            libc::MS_NOSUID | libc::MS_NOEXEC,
            c"newinstance,ptmxmode=0666",
        )?;
        mount(10, c"shm".as_ptr(), &paths.shm, c"tmpfs", libc::MS_NOSUID | libc::MS_NODEV, c"mode=1777,size=65536k")?;
        let null = libc::open(paths.null.as_ptr(), libc::O_CREAT | libc::O_WRONLY | libc::O_CLOEXEC, 0o666);
        check(11, null.into())?;
        libc::close(null);
        mount(12, c"/dev/null".as_ptr(), &paths.null, c"", libc::MS_BIND, c"")?;
        mount(
            13,
            c"sysfs".as_ptr(),
            &paths.sys,
            c"sysfs",
            libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            c"",
        )?;
        mount(14, c"/dev/null".as_ptr(), &paths.masked, c"", libc::MS_BIND, c"")?;
        check(15, libc::chdir(blank.as_ptr()).into())?;
        check(16, libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check(17, libc::umount2(c".".as_ptr(), libc::MNT_DETACH).into())?;
        mount(18, none, c"/", c"", libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY, c"")?;
        check(19, libc::sethostname(c"blank".as_ptr(), 5).into())
    }
}
