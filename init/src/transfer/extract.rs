//! Unpacks a stream into the working folder.

use super::input::Input;
use super::{Result, file};
use crate::tar::{Entry, Kind, Reader, Segment, Time};
use crate::wire::TransferFailure;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chownat, fchmod,
    fchown, fsetxattr, fstat, ftruncate, futimens, linkat, makedev, mkdirat, mknodat, openat, seek, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::fs::{SeekFrom, chmodat};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Read at once where content cannot be spliced.
const CHUNK: usize = 128 * 1024;
/// What the folders may take whose times are set at the end; beyond it they are set at once.
const MAX_FOLDERS: usize = 16 << 20;
/// Bits that make a program run as its owner or its group.
const SET_ID: u32 = 0o6000;

/// Reads the stream to its end and makes what it says. Root gives each file its owner; what others
/// unpack is theirs, without the bits that would let a program run as them.
pub fn run(stream: OwnedFd, is_root: bool) -> Result<()> {
    let input = Input::new(stream).map_err(|error| TransferFailure::Stream { reason: error.to_string() })?;
    let mut unpacking = Unpacking { is_root, folders: Vec::new(), weight: 0, chunk: Vec::new() };
    let mut reader = Reader::new(input);
    while let Some(entry) = reader.next_entry()? {
        unpacking.make(&entry, &mut reader)?;
    }
    // What stands behind the end is not looked at, but taken.
    let drained = reader.source().drain();
    drained.map_err(|error| TransferFailure::Stream { reason: format!("the stream cannot be read: {error}") })?;
    unpacking.finish_folders()
}

/// A folder that gets its mode and time when nothing more is put into it.
struct Folder {
    path: CString,
    entry: Entry,
    /// It was there before.
    is_older: bool,
}

struct Unpacking {
    is_root: bool,
    folders: Vec<Folder>,
    /// What they take, about.
    weight: usize,
    chunk: Vec<u8>,
}

impl Unpacking {
    fn make(&mut self, entry: &Entry, reader: &mut Reader<Input>) -> Result<()> {
        let path = clean(&entry.path)?;
        // The folder itself is there, and can be nothing else.
        if path.as_bytes() == b"." && entry.kind != Kind::Folder {
            return Err(file("replace the destination by", &entry.path, Errno::ISDIR));
        }
        match entry.kind {
            Kind::Folder => self.folder(path, entry),
            Kind::File => self.file(&path, entry, reader),
            Kind::HardLink => {
                let target = clean(&entry.link)?;
                if target == path {
                    return Ok(());
                }
                let linked = in_place(&path, || linkat(CWD, &target, CWD, &path, AtFlags::empty()));
                linked.map_err(|error| {
                    // Which of the two is meant is not known otherwise.
                    match statat(CWD, &target, AtFlags::SYMLINK_NOFOLLOW) {
                        Err(missing) => file("make a hard link to", &entry.link, missing),
                        Ok(_) => file("make the hard link", &entry.path, error),
                    }
                })
            }
            Kind::Symlink => {
                let target = c_string(&entry.link)?;
                in_place(&path, || symlinkat(&target, CWD, &path))
                    .map_err(|error| file("make the symbolic link", &entry.path, error))?;
                self.dress_by_name(&path, entry)
            }
            Kind::Fifo | Kind::Character | Kind::Block => {
                let (kind, what) = match entry.kind {
                    Kind::Fifo => (FileType::Fifo, "make the named pipe"),
                    Kind::Character => (FileType::CharacterDevice, "make the character device"),
                    _ => (FileType::BlockDevice, "make the block device"),
                };
                let device = makedev(entry.device.0, entry.device.1);
                in_place(&path, || mknodat(CWD, &path, kind, self.mode(entry), device))
                    .map_err(|error| file(what, &entry.path, error))?;
                self.dress_by_name(&path, entry)
            }
        }
    }

    /// The bits that a file gets.
    fn mode(&self, entry: &Entry) -> Mode {
        let dropped = if self.is_root { 0 } else { SET_ID };
        Mode::from_raw_mode(entry.mode & 0o7777 & !dropped)
    }

    fn folder(&mut self, path: CString, entry: &Entry) -> Result<()> {
        let failed = |error| file("make the folder", &entry.path, error);
        // Something is to be put into it, whatever its mode will be.
        let mode = Mode::from_raw_mode(entry.mode & 0o777 | 0o700);
        let is_folder = || {
            let seen = statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW);
            seen.is_ok_and(|seen| FileType::from_raw_mode(seen.st_mode) == FileType::Directory)
        };
        let mut is_older = path.as_bytes() == b".";
        if !is_older {
            is_older = in_place(&path, || match mkdirat(CWD, &path, mode) {
                Err(Errno::EXIST) if is_folder() => Ok(true),
                made => made.map(|()| false),
            })
            .map_err(failed)?;
        }
        self.weight += size_of::<Folder>() + path.as_bytes().len() + entry.path.len() + weight(&entry.xattrs);
        self.folders.push(Folder { path, entry: entry.clone(), is_older });
        if self.weight > MAX_FOLDERS { self.finish_folders() } else { Ok(()) }
    }

    /// The deepest first: a folder's mode may close it.
    fn finish_folders(&mut self) -> Result<()> {
        self.weight = 0;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        for folder in std::mem::take(&mut self.folders).into_iter().rev() {
            let Folder { path, entry, is_older } = folder;
            let dressed = match openat(CWD, &path, flags, Mode::empty()) {
                Ok(opened) => self.dress(opened.as_fd(), &entry),
                // A later member has taken its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(error) => Err(file("open", &entry.path, error)),
            };
            match dressed {
                // Somebody else's: it is left as it is. (`./` is in many streams, for /tmp too.)
                Err(TransferFailure::File { errno: libc::EPERM | libc::EACCES | libc::EROFS, .. }) if is_older => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &CStr, entry: &Entry, reader: &mut Reader<Input>) -> Result<()> {
        let made = self.new_file(path, entry).map_err(|error| file("make the file", &entry.path, error))?;
        self.fill(made.as_fd(), entry, reader)?;
        self.dress(made.as_fd(), entry)
    }

    fn new_file(&self, path: &CStr, entry: &Entry) -> rustix::io::Result<OwnedFd> {
        let always = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        match in_place(path, || openat(CWD, path, always | OFlags::CREATE | OFlags::EXCL, mode)) {
            // A file that is mounted there (/etc/hosts is) can be written to but not removed.
            Err(Errno::BUSY) => openat(CWD, path, always | OFlags::TRUNC, Mode::empty()),
            other => other,
        }
    }

    fn fill(&mut self, to: BorrowedFd<'_>, entry: &Entry, reader: &mut Reader<Input>) -> Result<()> {
        let Some((real_size, pieces)) = &entry.sparse else {
            return self.copy(to, entry, entry.size, reader);
        };
        let failed = |error| file("write to", &entry.path, error);
        for Segment { offset, length } in pieces {
            seek(to, SeekFrom::Start(*offset)).map_err(failed)?;
            self.copy(to, entry, *length, reader)?;
        }
        ftruncate(to, *real_size).map_err(failed)
    }

    /// So many bytes of the stream, to where the file stands.
    fn copy(&mut self, to: BorrowedFd<'_>, entry: &Entry, bytes: u64, reader: &mut Reader<Input>) -> Result<()> {
        let failed = |error| file("write to", &entry.path, error);
        let mut left = bytes;
        while left > 0 {
            match reader.source().splice_to(to, left).map_err(failed)? {
                Some(moved) if moved > 0 => {
                    reader.taken(moved);
                    left -= moved;
                    continue;
                }
                // Not this way, or at the stream's end, of which reading tells.
                _ => {}
            }
            self.chunk.resize(CHUNK, 0);
            let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let read = reader.read_content(&mut self.chunk[..wanted])?;
            let mut rest = &self.chunk[..read];
            while !rest.is_empty() {
                match rustix::io::write(to, rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(failed(error)),
                }
            }
            left -= read as u64;
        }
        Ok(())
    }

    /// Owner, attributes, mode and time, each of which would undo one before. What is right already
    /// is left: each change is one more in the file system's journal.
    fn dress(&self, what: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
        let seen = fstat(what).map_err(|error| file("look at", &entry.path, error))?;
        let mut has_mode = seen.st_mode & 0o7777 == self.mode(entry).as_raw_mode();
        if self.is_root && (u64::from(seen.st_uid), u64::from(seen.st_gid)) != (entry.uid, entry.gid) {
            let (uid, gid) = owner(entry);
            tolerated(fchown(what, uid, gid)).map_err(|error| file("change the owner of", &entry.path, error))?;
            // A new owner takes away the bits that let a program run as it.
            has_mode &= entry.mode & SET_ID == 0;
        }
        for (name, value) in &entry.xattrs {
            self.set_xattr(what, entry, name, value)?;
        }
        if !has_mode {
            fchmod(what, self.mode(entry)).map_err(|error| file("change the mode of", &entry.path, error))?;
        }
        futimens(what, &times(entry.mtime)).map_err(|error| file("set the time of", &entry.path, error))
    }

    /// What is not opened: links, pipes, devices.
    fn dress_by_name(&self, path: &CStr, entry: &Entry) -> Result<()> {
        if self.is_root {
            let (uid, gid) = owner(entry);
            tolerated(chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW))
                .map_err(|error| file("change the owner of", &entry.path, error))?;
            if entry.kind != Kind::Symlink && entry.mode & SET_ID != 0 {
                chmodat(CWD, path, self.mode(entry), AtFlags::empty())
                    .map_err(|error| file("change the mode of", &entry.path, error))?;
            }
        }
        utimensat(CWD, path, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| file("set the time of", &entry.path, error))
    }

    /// What the file system or the user's rights do not allow is left out, as GNU tar does, but for
    /// the capabilities of a program that root unpacks: without them it would not do its work.
    fn set_xattr(&self, what: BorrowedFd<'_>, entry: &Entry, name: &[u8], value: &[u8]) -> Result<()> {
        let is_capability = name == b"security.capability";
        // A node's labels are its own matter, and nobody else's files are another's.
        let is_wanted = name.starts_with(b"user.") || self.is_root && (is_capability || name.starts_with(b"trusted."));
        if !is_wanted {
            return Ok(());
        }
        match fsetxattr(what, c_string(name)?.as_c_str(), value, XattrFlags::empty()) {
            Err(error) if is_capability && error != Errno::OPNOTSUPP => {
                Err(file("set the capabilities of", &entry.path, error))
            }
            Err(Errno::NOSPC | Errno::DQUOT) => Err(file("set an attribute of", &entry.path, Errno::NOSPC)),
            _ => Ok(()),
        }
    }
}

/// Does `make`, for which the folders above are made where they are missing, and what is in the
/// way is removed, once each.
fn in_place<T>(path: &CStr, mut make: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    let (mut has_cleared, mut has_parents) = (false, false);
    loop {
        match make() {
            Err(Errno::EXIST) if !has_cleared => {
                has_cleared = true;
                remove(path)?;
            }
            Err(Errno::NOENT) if !has_parents => {
                has_parents = true;
                make_parents(path)?;
            }
            other => return other,
        }
    }
}

/// A folder goes only when it is empty.
fn remove(path: &CStr) -> rustix::io::Result<()> {
    match unlinkat(CWD, path, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(CWD, path, AtFlags::REMOVEDIR),
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn make_parents(path: &CStr) -> rustix::io::Result<()> {
    let path = path.to_bytes();
    for slash in path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at) {
        let Ok(parent) = CString::new(&path[..slash]) else { continue };
        match mkdirat(CWD, &parent, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A member's name below the working folder, without what is not needed; `.` for that itself.
fn clean(name: &[u8]) -> Result<CString> {
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                let shown = String::from_utf8_lossy(&name[..name.len().min(super::PATH_MAX)]);
                return Err(TransferFailure::Stream { reason: format!("the name {shown:?} of a member holds '..'") });
            }
            part => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    if path.is_empty() {
        path.push(b'.');
    }
    c_string(&path)
}

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| TransferFailure::Stream { reason: "a NUL byte in a name".into() })
}

/// `None` for a number that cannot be one.
fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    let id = |number: u64| u32::try_from(number).ok().filter(|number| *number != u32::MAX);
    (id(entry.uid).map(Uid::from_raw), id(entry.gid).map(Gid::from_raw))
}

/// A number that the container's user namespace does not have: the file stays its maker's.
fn tolerated(done: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match done {
        Err(Errno::INVAL | Errno::OVERFLOW) => Ok(()),
        other => other,
    }
}

fn times(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: i64::from(mtime.nanoseconds) as _ },
    }
}

fn weight(xattrs: &[(Vec<u8>, Vec<u8>)]) -> usize {
    xattrs.iter().map(|(name, value)| name.len() + value.len() + size_of::<(Vec<u8>, Vec<u8>)>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cleaned(name: &str) -> Option<String> {
        clean(name.as_bytes()).ok().map(|path| path.into_string().unwrap())
    }

    #[test]
    fn names_are_below_the_working_folder() {
        for (name, path) in [
            ("a/b", Some("a/b")),
            ("/a//b/", Some("a/b")),
            ("./a/./b", Some("a/b")),
            (".", Some(".")),
            ("./", Some(".")),
            ("", Some(".")),
            ("/", Some(".")),
            ("..", None),
            ("a/../b", None),
            ("/../etc", None),
            ("...", Some("...")),
            ("a/..b", Some("a/..b")),
            ("a\0b", None),
        ] {
            assert_eq!(cleaned(name).as_deref(), path, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn no_name_leads_elsewhere(name in "[a./\u{0}]{0,20}") {
            if let Some(path) = cleaned(&name) {
                prop_assert!(!path.starts_with('/') && !path.ends_with('/') && !path.is_empty());
                prop_assert!(path.split('/').all(|part| part != ".." && !part.is_empty()));
            }
        }
    }
}
