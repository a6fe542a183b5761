//! How much of the disk a container's own files take, and may take: project quotas, as ext4 and
//! XFS have them.
//!
//! A layer's folders count to a project of their own from the moment that they are made, wherever
//! the file system counts projects, so that what a container uses is known without a walk. Which
//! project is written on the folders themselves: no state is kept elsewhere. Its number is drawn
//! from [`FIRST`] on (2^30 numbers, beyond those that people and kubelet use) and taken only where
//! nothing counts to it. The limits of a project are taken back before its folder is removed, for
//! as long as the folder is there its removal goes on, and the kernel drops what has neither files
//! nor limits: nothing is left of it.
//!
//! Container root obeys: an overlay writes in its mounter's name without CAP_SYS_RESOURCE, which
//! alone could pass a limit.

mod sys;

use super::disk::Size;
use gardend_controller::record::Limits;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
pub use sys::Quota;

/// The first number of a project of ours; the last is 2^31 - 1.
pub const FIRST: u32 = 1 << 30;
const MASK: u32 = FIRST - 1;
/// Numbers drawn before giving up: each is free, unless something is very wrong.
const DRAWS: usize = 64;
/// What limits of space are counted in.
const BLOCK: u64 = 1024;
/// A limit beyond any disk is none, and the kernel could not count it.
const ENDLESS: u64 = 1 << 60;

/// What a file system can do for containers' disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// Limits are kept.
    Enforced,
    /// What is used is counted, and no limit kept.
    Counted,
    /// Neither.
    None,
}

/// What the file system of a folder can do.
///
/// # Errors
/// Where the folder cannot be opened.
pub fn support(folder: &Path) -> io::Result<Support> {
    Ok(match sys::state(open(folder)?.as_fd()) {
        Ok(state) if state.enforced => Support::Enforced,
        Ok(state) if state.counted => Support::Counted,
        _ => Support::None,
    })
}

/// Why a folder's file system keeps no limits, and what to do.
pub fn explain(folder: &Path, table: &str) -> String {
    let there = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let found = file_system_of(&there, table);
    let (mount_point, kind) = found.unwrap_or_else(|| ("/".into(), "unknown".into()));
    let remedy = match kind.as_str() {
        "xfs" => "mount it with the option `pquota`".to_owned(),
        "ext4" => "switch its features on (unmounted: `tune2fs -O project,quota DEVICE`) and mount it with the option \
                   `prjquota`"
            .to_owned(),
        _ => "use an XFS mounted with `pquota`, or an ext4 mounted with `prjquota`, for --state-dir".to_owned(),
    };
    format!(
        "{} is on a file system ({kind}, mounted at {mount_point}) that keeps no project quotas; {remedy}",
        folder.display()
    )
}

/// The mount point and the kind of the file system that a path is on, in the text of a mountinfo.
fn file_system_of(path: &Path, table: &str) -> Option<(String, String)> {
    let line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mount_point = before.split(' ').nth(4)?;
        let kind = after.split(' ').next()?;
        path.starts_with(mount_point).then(|| (mount_point.to_owned(), kind.to_owned()))
    };
    // Of those at one point the last is on top.
    table.lines().filter_map(line).reduce(|best, next| if next.0.len() >= best.0.len() { next } else { best })
}

/// Lets these folders, in which nothing is yet, count to a project of their own. Nothing where the
/// file system counts none.
///
/// # Errors
/// The kernel's.
pub fn mark(folders: &[&Path]) -> io::Result<()> {
    // Who draws sees what was taken by the one before.
    static DRAWING: Mutex<()> = Mutex::new(());
    let opened = folders.iter().map(|folder| open(folder)).collect::<io::Result<Vec<_>>>()?;
    let Some(first) = opened.first() else { return Ok(()) };
    if !sys::state(first.as_fd()).is_ok_and(|state| state.counted) {
        return Ok(());
    }
    let _drawing = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
    let project = draw(first)?;
    opened.iter().try_for_each(|folder| sys::set_project(folder.as_fd(), project))
}

fn draw(on: &OwnedFd) -> io::Result<u32> {
    for _ in 0..DRAWS {
        let random = getrandom::u32().map_err(|error| io::Error::other(error.to_string()))?;
        let project = FIRST | random & MASK;
        if sys::get(on.as_fd(), project)? == Quota::default() {
            return Ok(project);
        }
    }
    Err(io::Error::other(format!("no project was free among {DRAWS} from {FIRST} on; look with `repquota -P`")))
}

/// The project that a marked folder counts to; `None` for one that is not marked, or not there.
fn project_of(folder: &Path) -> io::Result<Option<(OwnedFd, u32)>> {
    let opened = match open(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        opened => opened?,
    };
    Ok(match sys::project(opened.as_fd()) {
        Ok(project) if project & !MASK == FIRST => Some((opened, project)),
        // Another's, or a file system without projects.
        _ => None,
    })
}

/// Puts limits in force on a marked folder. `shared` is what it shares with others, where that
/// counts too.
///
/// # Errors
/// Where the folder is not marked; the kernel's.
pub fn limit(folder: &Path, limits: &Limits, shared: Size) -> io::Result<()> {
    let unmarked = || io::Error::other(format!("{} counts to no project", folder.display()));
    let (opened, project) = project_of(folder)?.ok_or_else(unmarked)?;
    sys::set(opened.as_fd(), project, wanted(limits, shared))
}

/// The limits as the kernel counts them.
fn wanted(limits: &Limits, shared: Size) -> Quota {
    // What is used up from the start still is a limit, and not none.
    let own = |limit: u64, shared: u64| match limit {
        0 | ENDLESS.. => 0,
        limit => limit.saturating_sub(shared).max(1),
    };
    let blocks = |limit: u64| own(limit, shared.bytes).div_ceil(BLOCK);
    Quota {
        space_hard: blocks(limits.disk_byte_hard),
        space_soft: blocks(limits.disk_byte_soft),
        inodes_hard: own(limits.disk_inode_hard, shared.inodes),
        inodes_soft: own(limits.disk_inode_soft, shared.inodes),
        ..Quota::default()
    }
}

/// The limits in force on a folder, with what it shares where that counts too.
///
/// # Errors
/// The kernel's.
pub fn in_force(folder: &Path, shared: Size, seen: &mut Limits) -> io::Result<()> {
    let quota = match project_of(folder)? {
        Some((opened, project)) => sys::get(opened.as_fd(), project)?,
        None => Quota::default(),
    };
    let whole = |limit: u64, shared: u64| if limit == 0 { 0 } else { limit.saturating_add(shared) };
    seen.disk_byte_hard = whole(quota.space_hard.saturating_mul(BLOCK), shared.bytes);
    seen.disk_byte_soft = whole(quota.space_soft.saturating_mul(BLOCK), shared.bytes);
    seen.disk_inode_hard = whole(quota.inodes_hard, shared.inodes);
    seen.disk_inode_soft = whole(quota.inodes_soft, shared.inodes);
    Ok(())
}

/// What a folder takes, where the kernel counts it.
pub fn used(folder: &Path) -> Option<Size> {
    let (opened, project) = project_of(folder).ok()??;
    let quota = sys::get(opened.as_fd(), project).ok()?;
    // Its own folders are there: nothing at all is what a file system says that does not count.
    (quota.inodes > 0).then_some(Size { bytes: quota.space, inodes: quota.inodes })
}

/// Takes the limits of a folder back, before it is removed.
///
/// # Errors
/// The kernel's.
pub fn release(folder: &Path) -> io::Result<()> {
    let Some((opened, project)) = project_of(folder)? else { return Ok(()) };
    match sys::get(opened.as_fd(), project) {
        Ok(quota) if wanted_of(quota) != Quota::default() => sys::set(opened.as_fd(), project, Quota::default()),
        Ok(_) => Ok(()),
        // Quotas were switched off meanwhile.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The limits alone.
fn wanted_of(quota: Quota) -> Quota {
    Quota {
        space_hard: quota.space_hard,
        space_soft: quota.space_soft,
        inodes_hard: quota.inodes_hard,
        inodes_soft: quota.inodes_soft,
        ..Quota::default()
    }
}

fn open(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(folder, flags, Mode::empty())
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: Size = Size { bytes: 10_000, inodes: 7 };

    #[test]
    fn limits_are_counted_up_to_whole_blocks_and_never_down_to_none() {
        let limits = Limits { disk_byte_hard: 1, disk_byte_soft: 1025, disk_inode_hard: 5, ..Limits::default() };
        let quota = wanted(&limits, Size::default());
        assert_eq!((quota.space_hard, quota.space_soft, quota.inodes_hard, quota.inodes_soft), (1, 2, 5, 0));
        assert_eq!(wanted(&Limits::default(), SHARED), Quota::default());
        assert_eq!(wanted(&Limits { disk_byte_hard: u64::MAX, ..Limits::default() }, SHARED), Quota::default());
    }

    #[test]
    fn what_is_shared_comes_off_a_total_and_leaves_a_limit() {
        let limits = Limits { disk_byte_hard: 20_240, disk_inode_hard: 5, ..Limits::default() };
        let quota = wanted(&limits, SHARED);
        assert_eq!((quota.space_hard, quota.inodes_hard), (10, 1));
    }

    #[test]
    fn the_file_system_is_named_with_what_would_help() {
        let table = "22 1 254:0 / / rw - ext4 /dev/vda rw\n30 22 0:5 / /tmp rw - tmpfs tmpfs rw\n\
                     31 22 0:6 / /tmp/deep rw - xfs /dev/vdb rw\n";
        let words = |path: &str| explain(Path::new(path), table);
        assert!(words("/tmp/x").contains("tmpfs, mounted at /tmp") && words("/tmp/x").contains("--state-dir"));
        assert!(words("/tmp/deep/x").contains("xfs, mounted at /tmp/deep") && words("/tmp/deep/x").contains("pquota"));
        assert!(words("/nowhere").contains("ext4, mounted at /)") && words("/nowhere").contains("tune2fs"));
    }

    #[test]
    fn a_folder_without_a_project_has_no_figures_and_no_limits_and_is_released() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(used(folder.path()), None);
        release(folder.path()).unwrap();
        release(&folder.path().join("missing")).unwrap();
        let mut seen = Limits { disk_byte_hard: 5, ..Limits::default() };
        in_force(folder.path(), SHARED, &mut seen).unwrap();
        assert_eq!(seen, Limits::default());
        if support(folder.path()).unwrap() != Support::Enforced {
            let error = limit(folder.path(), &seen, SHARED).unwrap_err();
            assert!(error.to_string().contains("no project"), "{error}");
        }
    }
}
