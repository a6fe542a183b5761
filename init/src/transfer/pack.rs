//! Packs a file or a folder of the working folder into a stream.

use super::output::{Broken, Output, Sent};
use super::{Result, file};
use crate::tar::{END, Entry, Kind, Time, head, padding};
use crate::wire::TransferFailure;
use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr, fstat, major, minor, openat, readlinkat,
    statat,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// Folders that are open at the same time: how deep they may be nested.
const MAX_DEPTH: usize = 512;
/// What the names may take of files with several names; beyond it such a file is packed as if each
/// of its names were a file of its own.
const MAX_NAMES: usize = 16 << 20;
/// The extended attributes of one file together.
const MAX_XATTRS: usize = 256 * 1024;

/// Writes a stream of `member`. `asked` is how the client named it. `ready` is called once it was
/// found to be there, and before the first byte.
pub fn run(stream: OwnedFd, member: &[u8], asked: &[u8], ready: impl FnOnce()) -> Result<()> {
    let name = CString::new(member).map_err(|_| TransferFailure::Malformed { reason: "a NUL byte".into() })?;
    let mut packing = Packing { output: Output::new(stream)?, names: HashMap::new(), weight: 0, open: Vec::new() };
    let failed = |error| file("open", asked, error);
    let seen = statat(CWD, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    let found = packing.open(CWD, &name, &seen).map_err(failed)?;
    ready();
    packing.add(found, seen, CWD, &name, member.to_vec())?;
    packing.walk()?;
    packing.output.buffer().extend_from_slice(&END);
    packing.output.flush()
}

/// A folder whose members are being packed.
struct OpenFolder {
    entries: Dir,
    /// The same, to name members by.
    at: Rc<OwnedFd>,
    path: Vec<u8>,
}

struct Packing {
    output: Output,
    /// The first name of each file that has several, by device and inode.
    names: HashMap<(u64, u64), Vec<u8>>,
    weight: usize,
    /// From the one that was asked for to the deepest.
    open: Vec<OpenFolder>,
}

impl Packing {
    fn walk(&mut self) -> Result<()> {
        while let Some(folder) = self.open.last_mut() {
            let entry = match folder.entries.read() {
                None => {
                    self.open.pop();
                    continue;
                }
                Some(entry) => entry.map_err(|error| file("read the folder", &folder.path, error))?,
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = joined(&folder.path, name.to_bytes());
            let name = name.to_owned();
            let at = Rc::clone(&folder.at);
            self.member((*at).as_fd(), &name, path, entry.file_type())?;
        }
        Ok(())
    }

    /// One that has vanished meanwhile is not there.
    fn member(&mut self, at: BorrowedFd<'_>, name: &CStr, path: Vec<u8>, kind: FileType) -> Result<()> {
        // The common case, in as few calls as can be: what it is is known.
        if kind == FileType::RegularFile {
            match open_file(at, name).and_then(|opened| fstat(&opened).map(|seen| (opened, seen))) {
                Ok((opened, seen)) if kind_of(&seen) == FileType::RegularFile => {
                    return self.add(Some(opened), seen, at, name, path);
                }
                // Something else by now.
                Ok(_) | Err(Errno::LOOP) => {}
                Err(Errno::NOENT) => return Ok(()),
                Err(error) => return Err(file("open", &path, error)),
            }
        }
        let seen = match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.map_err(|error| file("look at", &path, error))?,
        };
        let opened = match self.open(at, name, &seen) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.map_err(|error| file("open", &path, error))?,
        };
        self.add(opened, seen, at, name, path)
    }

    /// A file or a folder; nothing else has to be opened, and some of it must not be.
    fn open(&self, at: BorrowedFd<'_>, name: &CStr, seen: &Stat) -> rustix::io::Result<Option<OwnedFd>> {
        match kind_of(seen) {
            FileType::RegularFile => open_file(at, name).map(Some),
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(at, name, flags, Mode::empty()).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn add(
        &mut self,
        opened: Option<OwnedFd>,
        seen: Stat,
        at: BorrowedFd<'_>,
        name: &CStr,
        path: Vec<u8>,
    ) -> Result<()> {
        let kind = match kind_of(&seen) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::Character,
            FileType::BlockDevice => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            // A socket is of no use without its process.
            _ => return Ok(()),
        };
        let mut entry = described(kind, &seen, path);
        if kind != Kind::Folder
            && seen.st_nlink > 1
            && let Some(first) = self.name_before(&seen, &entry.path)
        {
            entry.kind = Kind::HardLink;
            entry.link = first;
            return self.write(&entry);
        }
        if kind == Kind::Symlink {
            let target = readlinkat(at, name, Vec::new()).map_err(|error| file("read the link", &entry.path, error))?;
            entry.link = target.into_bytes();
        }
        let Some(opened) = opened else { return self.write(&entry) };
        entry.xattrs = xattrs(opened.as_fd()).map_err(|error| file("read the attributes of", &entry.path, error))?;
        if kind == Kind::Folder {
            return self.descend(opened, entry);
        }
        entry.size = u64::try_from(seen.st_size).unwrap_or(0);
        self.write(&entry)?;
        match self.output.send(opened.as_fd(), entry.size) {
            Ok(Sent::All) => {}
            // What the header has promised can be had no more; zeros in its place would be a lie.
            Ok(Sent::Short) => {
                let shown = String::from_utf8_lossy(&entry.path);
                let reason = format!("the file {shown:?} became shorter while it was read");
                return Err(TransferFailure::Stream { reason });
            }
            Err(Broken::File(error)) => return Err(file("read", &entry.path, error)),
            Err(Broken::Stream(failure)) => return Err(failure),
        }
        self.output.buffer().extend_from_slice(padding(entry.size));
        self.output.settle()
    }

    fn descend(&mut self, opened: OwnedFd, mut entry: Entry) -> Result<()> {
        if self.open.len() == MAX_DEPTH {
            return Err(file("descend into", &entry.path, Errno::NAMETOOLONG));
        }
        let entries = rustix::io::dup(&opened).and_then(Dir::new);
        let entries = entries.map_err(|error| file("read the folder", &entry.path, error))?;
        self.open.push(OpenFolder { entries, at: Rc::new(opened), path: entry.path.clone() });
        entry.path.push(b'/');
        self.write(&entry)
    }

    fn write(&mut self, entry: &Entry) -> Result<()> {
        head(entry, self.output.buffer());
        self.output.settle()
    }

    /// The name under which a file of several names was packed; notes it where there is none.
    fn name_before(&mut self, seen: &Stat, path: &[u8]) -> Option<Vec<u8>> {
        let key = (seen.st_dev, seen.st_ino);
        if let Some(first) = self.names.get(&key) {
            return Some(first.clone());
        }
        if self.weight < MAX_NAMES {
            self.weight += path.len() + 64;
            self.names.insert(key, path.to_vec());
        }
        None
    }
}

fn open_file(at: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    // One that is swapped for a pipe meanwhile does not block.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty())
}

fn kind_of(seen: &Stat) -> FileType {
    FileType::from_raw_mode(seen.st_mode)
}

fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    [folder, b"/", name].concat()
}

fn described(kind: Kind, seen: &Stat, path: Vec<u8>) -> Entry {
    Entry {
        mode: seen.st_mode & 0o7777,
        uid: seen.st_uid.into(),
        gid: seen.st_gid.into(),
        mtime: Time {
            seconds: seen.st_mtime,
            nanoseconds: u32::try_from(seen.st_mtime_nsec).unwrap_or(0).min(999_999_999),
        },
        device: match kind {
            Kind::Character | Kind::Block => (major(seen.st_rdev), minor(seen.st_rdev)),
            _ => (0, 0),
        },
        ..Entry::new(kind, path)
    }
}

/// A user's own attributes, and a program's capabilities; none where the file system has none.
fn xattrs(opened: BorrowedFd<'_>) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = Vec::with_capacity(1024);
    loop {
        match flistxattr(opened, spare_capacity(&mut names)) {
            Ok(_) => break,
            Err(Errno::RANGE) if names.capacity() < MAX_XATTRS => {
                names = Vec::with_capacity(names.capacity() * 4);
            }
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
    }
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0) {
        if !name.starts_with(b"user.") && name != b"security.capability" {
            continue;
        }
        let Ok(c_name) = CString::new(name) else { continue };
        let mut value = Vec::with_capacity(64 * 1024);
        match fgetxattr(opened, c_name.as_c_str(), spare_capacity(&mut value)) {
            Ok(_) => found.push((name.to_vec(), value)),
            // Gone meanwhile, or not for this user.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
