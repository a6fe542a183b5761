//! System calls that mount work needs and no safe wrapper offers. The only `unsafe` of mount work.
//!
//! Everything that changes "the calling thread" here changes that thread alone; callers run it on
//! threads of their own, which end afterwards (see [`crate::node::mount`]).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// mount_setattr(2) has one number on every architecture; not every libc names it.
const SYS_MOUNT_SETATTR: libc::c_long = 442;

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// What [`set_mount_attributes`] changes.
#[derive(Default)]
pub struct MountChange<'a> {
    /// Read-only from now on.
    pub read_only: bool,
    /// Sends and receives no mount events from now on.
    pub private: bool,
    /// Shows owners as this user namespace maps them. Only for a tree that was never attached.
    pub id_map: Option<BorrowedFd<'a>>,
    /// All mounts below it as well.
    pub recursive: bool,
}

/// mount_setattr(2) on the mount at `path` beneath `tree` (an empty path: on `tree` itself).
///
/// # Errors
/// Those of mount_setattr(2).
pub fn set_mount_attributes(tree: impl AsFd, path: &std::ffi::CStr, change: &MountChange<'_>) -> io::Result<()> {
    let mut attributes = MountAttr { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 };
    if change.read_only {
        attributes.attr_set |= libc::MOUNT_ATTR_RDONLY;
    }
    if change.private {
        attributes.propagation = libc::MS_PRIVATE;
    }
    if let Some(namespace) = change.id_map {
        attributes.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attributes.userns_fd = namespace.as_raw_fd().unsigned_abs().into();
    }
    let flags = libc::AT_EMPTY_PATH | if change.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is NUL-terminated, the structure is of the size that is passed, and both
    // live until the call returns; the kernel writes to neither.
    let result = unsafe {
        libc::syscall(
            SYS_MOUNT_SETATTR,
            tree.as_fd().as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives the calling thread a root, a working folder and a umask of its own; setns(2) into a
/// mount namespace asks for that.
///
/// # Errors
/// Those of unshare(2).
pub fn unshare_working_folder() -> io::Result<()> {
    // SAFETY: without CLONE_FILES no descriptor changes its meaning for any thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }.map_err(Into::into)
}

/// Gives the calling thread a mount namespace of its own, a copy of the one it was in.
///
/// # Errors
/// Those of unshare(2).
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: without CLONE_FILES no descriptor changes its meaning for any thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.map_err(Into::into)
}

/// Keeps the C library from giving each thread a heap of its own: many threads work for a moment and are
/// then idle, and what each heap keeps for later adds up (8 MB of 36 with 250 containers).
pub fn share_heaps() {
    /// Enough for what allocates at once.
    const HEAPS: i32 = 2;
    // SAFETY: it sets a number that the allocator reads; meant for the start, before there are threads.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

/// Gives the calling thread a network namespace of its own, with nothing in it.
///
/// # Errors
/// Those of unshare(2).
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: without CLONE_FILES no descriptor changes its meaning for any thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.map_err(Into::into)
}

/// Files that the calling thread makes from now on belong to `uid` and `gid`; what it may do stays
/// as it is. So a new file has its owner from its first instant, and nothing is ever chowned by a
/// name that somebody could swap.
///
/// # Errors
/// Where the thread may not (CAP_SETPCAP, CAP_SETUID and CAP_SETGID are needed).
pub fn make_files_as(uid: u32, gid: u32) -> io::Result<()> {
    use rustix::thread::CapabilitiesSecureBits as Bits;
    let bits = rustix::thread::capabilities_secure_bits()?;
    // Without this bit a change of the file system uid drops the capabilities over files.
    if !bits.contains(Bits::NO_SETUID_FIXUP) {
        rustix::thread::set_capabilities_secure_bits(bits | Bits::NO_SETUID_FIXUP)?;
    }
    // SAFETY: both take plain numbers and act on the calling thread's credentials.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
    // Neither call reports a failure; asking with an id that cannot be tells what is in force.
    // SAFETY: as above; an id of -1 changes nothing.
    let (now_gid, now_uid) = unsafe { (libc::setfsgid(u32::MAX), libc::setfsuid(u32::MAX)) };
    if now_gid.cast_unsigned() != gid || now_uid.cast_unsigned() != uid {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    Ok(())
}

/// A new user namespace with these maps, in the format of /proc/PID/uid_map; it lives as long as
/// its descriptor or what was made with it. The process that it takes to make one is gone when
/// this returns.
///
/// # Errors
/// Where the kernel refuses (user.max_user_namespaces, or a map that reaches beyond our own).
pub fn new_user_namespace(uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    let mut pidfd: libc::c_int = -1;
    let flags = libc::CLONE_NEWUSER | libc::CLONE_PIDFD;
    // SAFETY: a plain fork (no shared memory, no new stack) into a new user namespace; the kernel
    // writes the descriptor to `pidfd`, which lives throughout.
    let pid = unsafe { fork_with(flags, &mut pidfd) }?;
    if pid == 0 {
        wait_to_be_killed();
    }
    // SAFETY: clone(2) has just made the descriptor for us and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let namespace = (|| {
        std::fs::write(format!("/proc/{pid}/uid_map"), uid_map)?;
        std::fs::write(format!("/proc/{pid}/gid_map"), gid_map)?;
        Ok(OwnedFd::from(std::fs::File::open(format!("/proc/{pid}/ns/user"))?))
    })();
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL)?;
    reap(&pidfd)?;
    namespace
}

/// clone(2) without a new stack, exit signal or shared memory: returns 0 in the child.
///
/// # Safety
/// The child of a process with threads may only make system calls that need no lock: no
/// allocation, no libc function that is not async-signal-safe.
unsafe fn fork_with(flags: libc::c_int, pidfd: &mut libc::c_int) -> io::Result<libc::pid_t> {
    let none = std::ptr::null_mut::<libc::c_void>();
    let pidfd: *mut libc::c_int = pidfd;
    // s390x alone has the first two arguments the other way round.
    #[cfg(not(target_arch = "s390x"))]
    // SAFETY: as the function's own contract says.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), none, pidfd, none, none) };
    #[cfg(target_arch = "s390x")]
    // SAFETY: as the function's own contract says.
    let pid = unsafe { libc::syscall(libc::SYS_clone, none, libc::c_long::from(flags), pidfd, none, none) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid as libc::pid_t) }
}

fn wait_to_be_killed() -> ! {
    // SAFETY: system calls on plain numbers. The first ends this process with its maker.
    unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    loop {
        // SAFETY: ppoll(2) on nothing, without a timeout or a mask, waits for a signal.
        unsafe { libc::syscall(libc::SYS_ppoll, 0usize, 0usize, 0usize, 0usize, 0usize) };
    }
}

fn reap(pidfd: &OwnedFd) -> io::Result<()> {
    loop {
        // SAFETY: all zeros is a valid siginfo_t, and the kernel only writes to it. __WALL because
        // the child was made without an exit signal.
        let result = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let id = pidfd.as_raw_fd().unsigned_abs();
            libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED | libc::__WALL)
        };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_namespace_is_made_and_no_process_is_left_of_it() {
        let namespace =
            new_user_namespace("0 4294967294 1\n1 1 4294967293\n", "0 4294967294 1\n1 1 4294967293\n").unwrap();
        let ours = rustix::fs::stat("/proc/self/ns/user").unwrap();
        assert_ne!(rustix::fs::fstat(&namespace).unwrap().st_ino, ours.st_ino);
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        assert_eq!(children.trim(), "");
    }

    #[test]
    fn files_belong_to_whom_they_are_made_for_and_the_thread_keeps_its_rights() {
        let folder = tempfile::tempdir().unwrap();
        let sealed = folder.path().join("sealed");
        std::fs::create_dir(&sealed).unwrap();
        std::fs::set_permissions(&sealed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let file = sealed.join("file");
        let made = file.clone();
        std::thread::spawn(move || {
            make_files_as(4_294_967_294, 4_294_967_294).unwrap();
            std::fs::write(made, "").unwrap();
        })
        .join()
        .unwrap();
        use std::os::unix::fs::MetadataExt;
        let seen = std::fs::metadata(&file).unwrap();
        assert_eq!((seen.uid(), seen.gid()), (4_294_967_294, 4_294_967_294));
        let own = folder.path().join("own");
        std::fs::write(&own, "").unwrap();
        assert_eq!(std::fs::metadata(&own).unwrap().uid(), 0, "no other thread is touched");
    }
}
