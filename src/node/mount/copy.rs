//! Copies a folder as `cp -a -x` does: owners, modes, times, extended attributes, hard links,
//! devices, holes; one file system, and no symlink followed. Where asked to, with owners shifted.
//!
//! Leaves to others: making the copy appear at once (it is filled in place), and writing it to disk.

use super::attributes::copy_attributes;
use crate::node::ids::IdMap;
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// One copy in the making.
pub(super) struct Copier {
    shift: Option<IdMap>,
    device: u64,
    /// Files with several names: where the first was copied to, beneath the target.
    links: HashMap<(u64, u64), CString>,
}

impl Copier {
    /// With owners as they are, or as the host's ids of what they are inside.
    pub(super) fn new(shift: Option<IdMap>) -> Self {
        Self { shift, device: 0, links: HashMap::new() }
    }

    /// Copies what is in `source` into the folder `target`, and its own attributes onto it.
    pub(super) fn copy(mut self, source: &Path, target: &Path) -> io::Result<()> {
        let source_folder = open_folder(rustix::fs::CWD, source).map_err(at(source))?;
        let target_folder = open_folder(rustix::fs::CWD, target).map_err(at(target))?;
        let stat = rustix::fs::fstat(&source_folder).map_err(at(source))?;
        self.device = stat.st_dev;
        self.folder(
            &source_folder,
            &target_folder,
            &target_folder,
            &mut source.as_os_str().as_encoded_bytes().to_vec(),
            b"",
        )?;
        self.dress_folder(&source_folder, &target_folder, &stat).map_err(at(source))
    }

    /// `shown` is the path for errors, `below` the path beneath the target.
    fn folder(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        top: &OwnedFd,
        shown: &mut Vec<u8>,
        below: &[u8],
    ) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in Dir::read_from(source).map_err(at_bytes(shown))? {
            let name = entry.map_err(at_bytes(shown))?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        let length = shown.len();
        for name in names {
            shown.push(b'/');
            shown.extend_from_slice(name.to_bytes());
            let below =
                if below.is_empty() { name.to_bytes().to_vec() } else { [below, b"/", name.to_bytes()].concat() };
            let stat = rustix::fs::statat(source, &*name, AtFlags::SYMLINK_NOFOLLOW).map_err(at_bytes(shown))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                rustix::fs::mkdirat(target, &*name, Mode::RWXU).map_err(at_bytes(shown))?;
                let source_folder = open_folder(source, &*name).map_err(at_bytes(shown))?;
                let target_folder = open_folder(target, &*name).map_err(at_bytes(shown))?;
                if stat.st_dev == self.device {
                    self.folder(&source_folder, &target_folder, top, shown, &below)?;
                }
                self.dress_folder(&source_folder, &target_folder, &stat).map_err(at_bytes(shown))?;
            } else {
                self.file(source, target, &name, &stat, top, &below).map_err(at_bytes(shown))?;
            }
            shown.truncate(length);
        }
        Ok(())
    }

    fn file(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        name: &CStr,
        stat: &Stat,
        top: &OwnedFd,
        below: &[u8],
    ) -> io::Result<()> {
        if stat.st_nlink > 1 {
            let identity = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&identity) {
                return rustix::fs::linkat(top, &**first, target, name, AtFlags::empty()).map_err(Into::into);
            }
            self.links.insert(identity, CString::new(below)?);
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::RegularFile => copy_content(source, target, name, stat)?,
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(source, name, Vec::new())?;
                rustix::fs::symlinkat(&*link, target, name)?;
            }
            // Sockets too: cp -a copies them, useless as they are.
            _ => rustix::fs::mknodat(target, name, kind, Mode::RUSR, stat.st_rdev)?,
        }
        self.own(target, name, stat)?;
        if kind != FileType::Symlink {
            // After the owner: a change of owner takes the setuid bit off.
            rustix::fs::chmodat(target, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
        }
        copy_attributes((source, name), (target, name), self.shift.as_ref())?;
        rustix::fs::utimensat(target, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW).map_err(Into::into)
    }

    fn own(&self, folder: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
        let shifted = |id| self.shift.as_ref().map_or(id, |map| map.outside(id));
        let (uid, gid) = (Uid::from_raw(shifted(stat.st_uid)), Gid::from_raw(shifted(stat.st_gid)));
        rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(Into::into)
    }

    fn dress_folder(&self, source: &OwnedFd, target: &OwnedFd, stat: &Stat) -> io::Result<()> {
        self.own(target, c".", stat)?;
        rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        copy_attributes((source, c"."), (target, c"."), self.shift.as_ref())?;
        rustix::fs::futimens(target, &times(stat)).map_err(Into::into)
    }
}

/// Whether `inner` is `outer` or in it, by whatever path.
pub(super) fn contains(outer: &Path, inner: &Path) -> bool {
    let identity = |path: &Path| rustix::fs::stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino));
    let Some(wanted) = identity(outer) else { return false };
    let Ok(inner) = std::fs::canonicalize(inner) else { return false };
    inner.ancestors().any(|ancestor| identity(ancestor) == Some(wanted))
}

fn copy_content(source: &OwnedFd, target: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    let reading = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let from = rustix::fs::openat(source, name, reading, Mode::empty())?;
    let writing = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = rustix::fs::openat(target, name, writing, Mode::RUSR | Mode::WUSR)?;
    if rustix::fs::ioctl_ficlone(&to, &from).is_ok() {
        return Ok(());
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    rustix::fs::ftruncate(&to, size)?;
    let mut position = 0;
    while position < size {
        let start = match rustix::fs::seek(&from, SeekFrom::Data(position)) {
            Ok(start) => start,
            // Nothing but a hole to the end.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&from, SeekFrom::Hole(start))?.min(size);
        copy_range(&from, &to, start, end)?;
        position = end.max(start + 1);
    }
    Ok(())
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, mut start: u64, end: u64) -> io::Result<()> {
    while start < end {
        let length = usize::try_from((end - start).min(1 << 30)).unwrap_or(1 << 30);
        let (mut read, mut write) = (start, start);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), length) {
            // It became shorter while we read it.
            Ok(0) => return Ok(()),
            Ok(copied) => start += copied as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return copy_by_hand(from, to, start, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &OwnedFd, to: &OwnedFd, mut start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0u8; 256 * 1024];
    while start < end {
        let wanted = usize::try_from(end - start).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = match rustix::io::pread(from, &mut buffer[..wanted], start) {
            Ok(0) => return Ok(()),
            Err(Errno::INTR) => continue,
            result => result?,
        };
        let mut written = 0;
        while written < read {
            match rustix::io::pwrite(to, &buffer[written..read], start + written as u64) {
                Err(Errno::INTR) => {}
                result => written += result?,
            }
        }
        start += read as u64;
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    let time =
        |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanoseconds).unwrap_or(0) };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn open_folder(folder: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

fn at<E: Into<io::Error>>(path: &Path) -> impl FnOnce(E) -> io::Error {
    at_bytes(path.as_os_str().as_encoded_bytes())
}

fn at_bytes<E: Into<io::Error>>(path: &[u8]) -> impl FnOnce(E) -> io::Error {
    move |error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("{}: {error}", String::from_utf8_lossy(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};

    fn copied(shift: Option<IdMap>, fill: impl FnOnce(&Path)) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("source"), folder.path().join("target"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        fill(&source);
        Copier::new(shift).copy(&source, &target).unwrap();
        (folder, target)
    }

    #[test]
    fn everything_about_a_file_is_copied() {
        let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
        let (_folder, target) = copied(None, |source| {
            fs::create_dir(source.join("d")).unwrap();
            fs::write(source.join("d/f"), "content").unwrap();
            chown(source.join("d/f"), Some(12), Some(34)).unwrap();
            fs::set_permissions(source.join("d/f"), fs::Permissions::from_mode(0o6751)).unwrap();
            rustix::fs::setxattr(source.join("d/f"), "user.key", b"value", rustix::fs::XattrFlags::empty()).unwrap();
            fs::hard_link(source.join("d/f"), source.join("again")).unwrap();
            symlink("/nowhere", source.join("link")).unwrap();
            chown(source.join("d"), Some(7), Some(8)).unwrap();
            fs::File::open(source.join("d/f")).unwrap().set_modified(old).unwrap();
            fs::File::open(source.join("d")).unwrap().set_modified(old).unwrap();
            let here = fs::File::open(source).unwrap();
            rustix::fs::mknodat(&here, "null", FileType::CharacterDevice, Mode::RWXU, rustix::fs::makedev(1, 3))
                .unwrap();
            rustix::fs::mknodat(&here, "fifo", FileType::Fifo, Mode::RWXU, 0).unwrap();
        });
        let file = fs::metadata(target.join("d/f")).unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (12, 34, 0o6751));
        assert_eq!(file.modified().unwrap(), old);
        assert_eq!(fs::metadata(target.join("d")).unwrap().modified().unwrap(), old);
        assert_eq!(fs::metadata(target.join("d")).unwrap().uid(), 7);
        assert_eq!(fs::metadata(target.join("again")).unwrap().ino(), file.ino());
        assert_eq!(fs::read(target.join("d/f")).unwrap(), b"content");
        let mut value = [0u8; 16];
        let length = rustix::fs::getxattr(target.join("d/f"), "user.key", &mut value).unwrap();
        assert_eq!(&value[..length], b"value");
        assert_eq!(fs::read_link(target.join("link")).unwrap(), Path::new("/nowhere"));
        let device = fs::metadata(target.join("null")).unwrap();
        assert!(device.file_type().is_char_device() && device.rdev() == rustix::fs::makedev(1, 3));
        assert!(fs::metadata(target.join("fifo")).unwrap().file_type().is_fifo());
    }

    #[test]
    fn holes_stay_holes() {
        let (_folder, target) = copied(None, |source| {
            let file = fs::File::create(source.join("sparse")).unwrap();
            file.set_len(64 << 20).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, b"x", 32 << 20).unwrap();
        });
        let sparse = fs::File::open(target.join("sparse")).unwrap();
        let metadata = sparse.metadata().unwrap();
        assert_eq!(metadata.len(), 64 << 20);
        assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
        let mut byte = [0u8];
        std::os::unix::fs::FileExt::read_exact_at(&sparse, &mut byte, 32 << 20).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn shifted_owners_are_the_hosts_ids_of_what_they_are_inside() {
        let (_folder, target) = copied(Some(IdMap::garden()), |source| {
            fs::write(source.join("roots"), "").unwrap();
            fs::write(source.join("others"), "").unwrap();
            chown(source.join("others"), Some(1000), Some(0)).unwrap();
        });
        let owner = |name: &str| {
            let metadata = fs::metadata(target.join(name)).unwrap();
            (metadata.uid(), metadata.gid())
        };
        assert_eq!(owner("roots"), (4_294_967_294, 4_294_967_294));
        assert_eq!(owner("others"), (1000, 4_294_967_294));
        assert_eq!(owner("."), (4_294_967_294, 4_294_967_294));
    }

    #[test]
    fn an_error_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = Copier::new(None).copy(&folder.path().join("missing"), folder.path()).unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
