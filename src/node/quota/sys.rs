//! quotactl_fd(2) and the project of a folder. The only `unsafe` of quotas.
//!
//! Structures and numbers: linux/quota.h, linux/dqblk_xfs.h, linux/fs.h.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const PRJQUOTA: u32 = 2;
const Q_GETQUOTA: u32 = 0x80_0007;
const Q_SETQUOTA: u32 = 0x80_0008;
/// ext4 answers it too: the kernel translates.
const Q_XGETQSTATV: u32 = 0x5808;
const QIF_LIMITS: u32 = 1 | 4;
const FS_QUOTA_PDQ_ACCT: u16 = 1 << 4;
const FS_QUOTA_PDQ_ENFD: u16 = 1 << 5;
const FS_XFLAG_PROJINHERIT: u32 = 0x200;
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820_u32 as libc::Ioctl;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// `struct if_dqblk`. Limits of space in units of 1,024 bytes, what is used in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Quota {
    pub space_hard: u64,
    pub space_soft: u64,
    pub space: u64,
    pub inodes_hard: u64,
    pub inodes_soft: u64,
    pub inodes: u64,
    pub space_grace: u64,
    pub inodes_grace: u64,
    /// Which of the fields are meant.
    pub valid: u32,
}

/// What a file system does with the quotas of projects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct State {
    pub counted: bool,
    pub enforced: bool,
}

fn quotactl(on: BorrowedFd<'_>, command: u32, id: u32, data: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: every caller passes the structure that its command reads or writes, which outlives
    // the call.
    let result = unsafe { libc::syscall(libc::SYS_quotactl_fd, on.as_raw_fd(), (command << 8) | PRJQUOTA, id, data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Of the file system that `on` is on.
///
/// # Errors
/// ENOSYS, and others, where it has no quotas at all.
pub fn state(on: BorrowedFd<'_>) -> io::Result<State> {
    // `struct fs_quota_statv` is shorter; its first byte is the version that is asked for, its
    // second word the flags.
    let mut buffer = [0u64; 64];
    buffer[0] = u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 0, 0]);
    quotactl(on, Q_XGETQSTATV, 0, buffer.as_mut_ptr().cast())?;
    let bytes = buffer[0].to_ne_bytes();
    let flags = u16::from_ne_bytes([bytes[2], bytes[3]]);
    Ok(State { counted: flags & FS_QUOTA_PDQ_ACCT != 0, enforced: flags & FS_QUOTA_PDQ_ENFD != 0 })
}

/// What a project may have and has. One that nobody has heard of has nothing.
///
/// # Errors
/// Where quotas are off, or may not be read.
pub fn get(on: BorrowedFd<'_>, project: u32) -> io::Result<Quota> {
    let mut quota = Quota::default();
    match quotactl(on, Q_GETQUOTA, project, (&raw mut quota).cast()) {
        // XFS says so of one that has never had anything.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Quota::default()),
        got => got.map(|()| Quota { valid: 0, ..quota }),
    }
}

/// Sets what a project may have; 0 is no limit.
///
/// # Errors
/// Where quotas are off, or the limit is beyond what the file system can count (ERANGE).
pub fn set(on: BorrowedFd<'_>, project: u32, limits: Quota) -> io::Result<()> {
    let mut quota = Quota { valid: QIF_LIMITS, ..limits };
    quotactl(on, Q_SETQUOTA, project, (&raw mut quota).cast())
}

/// The project that a folder counts to.
///
/// # Errors
/// Where the file system has no projects (ENOTTY, EOPNOTSUPP).
pub fn project(folder: BorrowedFd<'_>) -> io::Result<u32> {
    attributes(folder).map(|attributes| attributes.projid)
}

fn attributes(folder: BorrowedFd<'_>) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the kernel writes one `struct fsxattr`, which this is.
    let result = unsafe { libc::ioctl(folder.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut attributes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(attributes) }
}

/// Lets a folder, and all that is made in it from now on, count to a project.
///
/// # Errors
/// Where the file system has no projects, or we may not.
pub fn set_project(folder: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let before = attributes(folder)?;
    let after = Attributes { projid: project, xflags: before.xflags | FS_XFLAG_PROJINHERIT, ..before };
    // SAFETY: the kernel reads one `struct fsxattr`, which this is.
    let result = unsafe { libc::ioctl(folder.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const after) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
