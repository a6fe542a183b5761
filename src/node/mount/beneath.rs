//! Opening and making files beneath a root that is not ours, whose symlinks mean what they mean
//! inside it: none leads out of it, at any instant, whoever changes it meanwhile.
//!
//! Every descriptor comes from openat2(2) with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS. What is
//! made belongs to whom the calling thread makes files for ([`crate::node::sys::make_files_as`]).

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// As many as the kernel follows in one path.
const MAX_SYMLINKS: usize = 40;
/// openat2(2) says EAGAIN where somebody renames on its way.
const MAX_RACES: usize = 1000;

/// What to make where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
}

/// A folder that is the root of all that is named through it.
#[derive(Clone, Copy)]
pub(super) struct Root<'a>(BorrowedFd<'a>);

impl<'a> Root<'a> {
    pub(super) fn new(folder: &'a impl AsFd) -> Self {
        Self(folder.as_fd())
    }

    /// A descriptor (O_PATH) of what is there, symlinks followed.
    pub(super) fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open_with(path, ResolveFlags::empty())
    }

    fn open_with(&self, path: &Path, more: ResolveFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
        for _ in 0..MAX_RACES {
            match rustix::fs::openat2(self.0, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Like [`Self::open`], and makes what is missing: every folder on the way, and the last
    /// component as `kind`. What a dangling symlink names is made as well, inside.
    pub(super) fn open_or_make(&self, path: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
        match self.open(path) {
            Err(Errno::NOENT) => self.open_with(&self.make(path, kind)?, ResolveFlags::NO_SYMLINKS),
            result => result,
        }
    }

    /// The folder of this name right beneath the root, made where missing. A symlink is ELOOP,
    /// wherever it leads.
    pub(super) fn own_folder(&self, name: &str) -> Result<OwnedFd, Errno> {
        let path = Path::new(name);
        match self.open_with(path, ResolveFlags::NO_SYMLINKS) {
            Err(Errno::NOENT) => {
                make_one(self.0, path.as_os_str(), Kind::Folder)?;
                self.open_with(path, ResolveFlags::NO_SYMLINKS)
            }
            result => result,
        }
    }

    /// Walks the path a component at a time. Answers where it led, without symlinks.
    fn make(&self, path: &Path, kind: Kind) -> Result<PathBuf, Errno> {
        let mut resolved = PathBuf::from("/");
        let mut ahead: VecDeque<OsString> = steps(path).collect();
        let mut symlinks = 0;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                resolved.pop();
                continue;
            }
            let folder = self.open_with(&resolved, ResolveFlags::NO_SYMLINKS)?;
            match rustix::fs::readlinkat(&folder, &*name, Vec::new()) {
                Ok(link) => {
                    symlinks += 1;
                    if symlinks > MAX_SYMLINKS {
                        return Err(Errno::LOOP);
                    }
                    let link = PathBuf::from(OsString::from_vec(link.into_bytes()));
                    if link.is_absolute() {
                        resolved = PathBuf::from("/");
                    }
                    for step in steps(&link).collect::<Vec<_>>().into_iter().rev() {
                        ahead.push_front(step);
                    }
                    continue;
                }
                Err(Errno::NOENT) => make_one(&folder, &name, if ahead.is_empty() { kind } else { Kind::Folder })?,
                // There, and no symlink.
                Err(Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
            resolved.push(&name);
        }
        Ok(resolved)
    }

    /// Whether `file` is the root itself (the same mount's same folder).
    pub(super) fn is(&self, file: impl AsFd) -> Result<bool, Errno> {
        let identity = |fd: BorrowedFd<'_>| {
            let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
            let seen = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, wanted)?;
            Ok((seen.stx_ino, seen.stx_mnt_id, seen.stx_dev_major, seen.stx_dev_minor))
        };
        Ok(identity(self.0)? == identity(file.as_fd())?)
    }
}

/// The components that lead somewhere, `..` among them.
fn steps(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

fn make_one(folder: impl AsFd, name: &OsStr, kind: Kind) -> Result<(), Errno> {
    let made = match kind {
        Kind::Folder => rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        // Somebody else made it just now; whether it is of use shows when it is opened.
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

/// `path` as seen from `/`, without `.`, `..` and doubled slashes; `..` stops at the root.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for step in steps(path) {
        if step == ".." {
            cleaned.pop();
        } else {
            cleaned.push(step);
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root_of(folder: &tempfile::TempDir) -> fs::File {
        fs::create_dir(folder.path().join("root")).unwrap();
        fs::create_dir(folder.path().join("outside")).unwrap();
        fs::File::open(folder.path().join("root")).unwrap()
    }

    fn where_is(file: &OwnedFd) -> PathBuf {
        use std::os::fd::AsRawFd;
        fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
    }

    #[test]
    fn no_symlink_and_no_dots_lead_out_of_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let root_file = root_of(&folder);
        let root = Root::new(&root_file);
        let inside = folder.path().join("root");
        symlink(folder.path().join("outside"), inside.join("absolute")).unwrap();
        symlink("../outside", inside.join("relative")).unwrap();
        symlink("../../../../../../etc", inside.join("far")).unwrap();
        for path in ["/absolute/x", "relative/x", "far/x", "../outside/x", "/far/../../../y/x", "a/../../../z"] {
            for kind in [Kind::File, Kind::Folder] {
                let made = root.open_or_make(&Path::new(path).join(format!("{kind:?}")), kind).unwrap();
                assert!(where_is(&made).starts_with(&inside), "{path}: {:?}", where_is(&made));
            }
        }
        assert_eq!(fs::read_dir(folder.path().join("outside")).unwrap().count(), 0);
        assert!(!Path::new("/etc/x").exists());
    }

    #[test]
    fn a_folder_of_the_roots_own_is_made_and_no_symlink_stands_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let root_file = root_of(&folder);
        let root = Root::new(&root_file);
        root.own_folder("proc").unwrap();
        root.own_folder("proc").unwrap();
        assert!(folder.path().join("root/proc").is_dir());
        symlink("proc", folder.path().join("root/sys")).unwrap();
        assert_eq!(root.own_folder("sys").unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn what_a_dangling_symlink_names_is_made_inside() {
        let folder = tempfile::tempdir().unwrap();
        let root_file = root_of(&folder);
        fs::create_dir(folder.path().join("root/etc")).unwrap();
        symlink("../run/resolved/hosts", folder.path().join("root/etc/hosts")).unwrap();
        Root::new(&root_file).open_or_make(Path::new("/etc/hosts"), Kind::File).unwrap();
        assert!(folder.path().join("root/run/resolved/hosts").is_file());
    }

    #[test]
    fn a_loop_of_symlinks_and_a_file_on_the_way_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let root_file = root_of(&folder);
        let root = Root::new(&root_file);
        symlink("b", folder.path().join("root/a")).unwrap();
        symlink("a", folder.path().join("root/b")).unwrap();
        fs::write(folder.path().join("root/file"), "").unwrap();
        assert_eq!(root.open_or_make(Path::new("/a/x"), Kind::Folder).unwrap_err(), Errno::LOOP);
        assert_eq!(root.open_or_make(Path::new("/file/x"), Kind::Folder).unwrap_err(), Errno::NOTDIR);
    }

    #[test]
    fn a_symlink_that_is_swapped_all_the_time_never_leads_outside() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let root_file = root_of(&folder);
        let inside = folder.path().join("root");
        fs::create_dir(inside.join("swapped")).unwrap();
        symlink(folder.path().join("outside"), inside.join("link")).unwrap();
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let handle = fs::File::open(&inside).unwrap();
                while !end.load(Ordering::Relaxed) {
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(&handle, "swapped", &handle, "link", flags).unwrap();
                }
            });
            for round in 0..2000 {
                let path = PathBuf::from(format!("/swapped/{round}/x"));
                if let Ok(made) = Root::new(&root_file).open_or_make(&path, Kind::Folder) {
                    assert!(where_is(&made).starts_with(&inside));
                }
            }
            end.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::read_dir(folder.path().join("outside")).unwrap().count(), 0);
    }

    #[test]
    fn the_root_is_known_by_whatever_name() {
        let folder = tempfile::tempdir().unwrap();
        let root_file = root_of(&folder);
        let root = Root::new(&root_file);
        symlink("/", folder.path().join("root/self")).unwrap();
        assert!(root.is(root.open(Path::new("/self")).unwrap()).unwrap());
        let below = root.open_or_make(Path::new("/below"), Kind::Folder).unwrap();
        assert!(!root.is(below).unwrap());
    }

    #[test]
    fn a_path_is_cleaned_as_seen_from_the_root() {
        for (given, cleaned) in
            [("a//b/./c", "/a/b/c"), ("/../../x", "/x"), ("a/..", "/"), ("", "/"), ("/a/../b", "/b")]
        {
            assert_eq!(clean(Path::new(given)), Path::new(cleaned));
        }
    }
}
