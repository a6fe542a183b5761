//! Removing a folder that a stranger filled: any depth, any mode, immutable files.
//!
//! Promises: a bounded number of descriptors and of stack, whatever the depth; symlinks are
//! removed, never followed; nothing beneath a mount is touched (the removal fails instead).

use rustix::fs::{AtFlags, Dir, FileType, IFlags, Mode, OFlags, RenameFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Deeper folders are moved up first.
const MAX_DEPTH: usize = 64;

/// Removes `path` and all that is in it. One that is not there is removed.
///
/// # Errors
/// What the kernel says, and where something is mounted.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a path of something"));
    };
    let name = CString::new(name.as_encoded_bytes())?;
    let parent = match open_folder(rustix::fs::CWD, &CString::new(parent.as_os_str().as_encoded_bytes())?) {
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    let top = match open_folder(&parent, &name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return unlink(&parent, &name, AtFlags::empty()).map_err(Into::into),
        Err(error) => return Err(error.into()),
    };
    refuse_mount(&parent, &name)?;
    let mut moved = 0;
    loop {
        let before = moved;
        empty(&top, &top, 0, &mut moved)?;
        if moved == before {
            break;
        }
    }
    unlink(&parent, &name, AtFlags::REMOVEDIR).map_err(Into::into)
}

/// Empties `folder`, but for folders that were moved up into `top`, counted in `moved`.
fn empty(top: &OwnedFd, folder: &OwnedFd, depth: usize, moved: &mut u64) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    for (name, kind) in names {
        if !matches!(kind, FileType::Directory | FileType::Unknown) {
            unlink(folder, &name, AtFlags::empty())?;
            continue;
        }
        refuse_mount(folder, &name)?;
        let below = match open_folder(folder, &name) {
            Err(Errno::NOTDIR | Errno::LOOP) => {
                unlink(folder, &name, AtFlags::empty())?;
                continue;
            }
            result => result?,
        };
        if depth == MAX_DEPTH {
            move_up(top, folder, &name, moved)?;
            continue;
        }
        empty(top, &below, depth + 1, moved)?;
        drop(below);
        unlink(folder, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

fn move_up(top: &OwnedFd, folder: &OwnedFd, name: &CStr, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        let new = format!(".deep-{moved}");
        match retry_mutable(folder, name, || {
            rustix::fs::renameat_with(folder, name, top, &*new, RenameFlags::NOREPLACE)
        }) {
            Err(Errno::EXIST) => {}
            result => return result.map_err(Into::into),
        }
    }
}

fn unlink(folder: &OwnedFd, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
    match retry_mutable(folder, name, || rustix::fs::unlinkat(folder, name, flags)) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Does it, and once more without the immutable and append-only marks where it is refused.
fn retry_mutable(folder: &OwnedFd, name: &CStr, act: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    match act() {
        Err(Errno::PERM) => {
            make_mutable(folder);
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            // Only folders and plain files carry marks; opening anything else could have effects.
            let kind = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if matches!(FileType::from_raw_mode(kind.st_mode), FileType::Directory | FileType::RegularFile)
                && let Ok(file) = rustix::fs::openat(folder, name, flags, Mode::empty())
            {
                make_mutable(&file);
            }
            act()
        }
        result => result,
    }
}

/// Best effort: what comes of it is seen by the second attempt.
fn make_mutable(file: &OwnedFd) {
    if let Ok(flags) = rustix::fs::ioctl_getflags(file) {
        let _ = rustix::fs::ioctl_setflags(file, flags - (IFlags::IMMUTABLE | IFlags::APPEND));
    }
}

fn open_folder(folder: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

fn refuse_mount(folder: &OwnedFd, name: &CStr) -> io::Result<()> {
    let seen = rustix::fs::statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    if seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        let text = format!("something is mounted on {} in it; unmount that first", name.to_string_lossy());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_folder_deeper_than_descriptors_last_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        fs::create_dir(&top).unwrap();
        let mut deepest = fs::File::open(&top).unwrap();
        for level in 0..3000 {
            let name = format!("level-{level}-{}", "x".repeat(40));
            rustix::fs::mkdirat(&deepest, &*name, Mode::RWXU).unwrap();
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(&deepest, "f", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .unwrap();
            deepest = rustix::fs::openat(&deepest, &*name, flags, Mode::empty()).unwrap().into();
        }
        drop(deepest);
        remove_tree(&top).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn immutable_files_and_closed_folders_are_removed_and_symlinks_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (top, kept) = (folder.path().join("top"), folder.path().join("kept"));
        fs::create_dir_all(top.join("closed/below")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "").unwrap();
        std::os::unix::fs::symlink(&kept, top.join("closed/link")).unwrap();
        fs::write(top.join("closed/immutable"), "").unwrap();
        fs::write(top.join("closed/below/appended"), "").unwrap();
        let mut marked = Vec::new();
        for (name, flag) in [
            ("closed/immutable", IFlags::IMMUTABLE),
            ("closed/below/appended", IFlags::APPEND),
            ("closed", IFlags::IMMUTABLE),
        ] {
            let file = fs::File::open(top.join(name)).unwrap();
            marked.push(rustix::fs::ioctl_setflags(&file, flag).is_ok());
        }
        assert!(marked.iter().all(|done| *done), "the test's file system knows the marks");
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        assert!(kept.join("file").exists());
    }

    #[test]
    fn what_is_not_there_is_removed_and_a_file_is_too() {
        let folder = tempfile::tempdir().unwrap();
        remove_tree(&folder.path().join("missing")).unwrap();
        remove_tree(&folder.path().join("missing/below")).unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        remove_tree(&folder.path().join("file")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
