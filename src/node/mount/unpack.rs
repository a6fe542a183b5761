//! Unpacks a tar, plain or gzipped, as a root file system: owners by number, modes, times,
//! extended attributes, hard links, devices; blocks of zeros become holes.
//!
//! Whatever the archive names lands beneath the target: entries are opened as the container would
//! see them ([`super::beneath`]), `..` is refused.

use super::attributes::set_attribute;
use super::beneath::{Kind, Root};
use super::error::{Result, attempting, failed, invalid};
use flate2::read::MultiGzDecoder;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::cell::Cell;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use tar::EntryType;

const BLOCK: usize = 4096;
const XATTR: &str = "SCHILY.xattr.";

/// Unpacks the archive into the folder `target`.
pub(super) fn unpack(archive: &Path, target: &Path) -> Result<()> {
    let shown = archive.display();
    let mut file = File::open(archive).map_err(attempting(format!("opening the tar {shown}")))?;
    let mut head = Vec::new();
    let looked = file.by_ref().take(512).read_to_end(&mut head).and_then(|_| file.rewind());
    looked.map_err(attempting(format!("reading the tar {shown}")))?;
    let reader: Box<dyn Read> = match Format::of(&head) {
        Format::Tar => Box::new(BufReader::with_capacity(1 << 20, file)),
        Format::Gzip => Box::new(BufReader::with_capacity(1 << 20, MultiGzDecoder::new(BufReader::new(file)))),
        Format::Other(what) => {
            return Err(invalid(format!("{shown} is {what}; give a folder, a tar or a gzipped tar")));
        }
    };
    let target = File::open(target).map_err(attempting(format!("opening {}", target.display())))?;
    let mut unpacker = Unpacker { target, folders: Vec::new(), entries: 0 };
    unpacker.all(reader).map_err(|error| failed(format!("unpacking {shown}: {error}")))?;
    if unpacker.entries == 0 {
        return Err(invalid(format!("{shown} holds no files; it cannot be a rootfs")));
    }
    Ok(())
}

enum Format {
    Tar,
    Gzip,
    Other(&'static str),
}

impl Format {
    /// Told by its first 512 bytes, not by its name.
    fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Other("compressed with zstd"),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Self::Other("compressed with xz"),
            [b'B', b'Z', b'h', ..] => Self::Other("compressed with bzip2"),
            _ if head.get(257..262) == Some(b"ustar") => Self::Tar,
            // Tars from before 1988 have no mark, but a sum.
            _ if head.len() == 512 && is_old_header(head) => Self::Tar,
            _ => Self::Other("no tar"),
        }
    }
}

fn is_old_header(head: &[u8]) -> bool {
    let sum: u32 =
        head.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    let text = String::from_utf8_lossy(&head[148..156]).into_owned();
    u32::from_str_radix(text.trim_matches(|c: char| c == '\0' || c == ' '), 8) == Ok(sum) && sum != 8 * 32
}

/// Notes that its end was reached.
struct Watched<R> {
    reader: R,
    at_end: Rc<Cell<bool>>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            self.at_end.set(true);
        }
        Ok(read)
    }
}

struct Unpacker {
    target: File,
    /// Folders get their times last: files made in them change these.
    folders: Vec<(PathBuf, Timestamps)>,
    entries: u64,
}

/// What an entry says about its file.
struct Dress {
    uid: u32,
    gid: u32,
    mode: u32,
    times: Timestamps,
    attributes: Vec<(CString, Vec<u8>)>,
}

impl Unpacker {
    fn all(&mut self, reader: impl Read) -> io::Result<()> {
        let ended_early = Rc::new(Cell::new(false));
        let mut archive = tar::Archive::new(Watched { reader, at_end: Rc::clone(&ended_early) });
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            self.one(&mut entry, &path)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        }
        // A whole archive ends in zeros, before the file's own end is ever seen.
        if ended_early.get() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive has no end: it was cut short"));
        }
        for (path, times) in std::mem::take(&mut self.folders) {
            // One that a later entry replaced has no need of them.
            if let Ok(folder) = self.root().open(&path) {
                let itself = rustix::fs::openat(&folder, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
                if let Ok(itself) = itself {
                    rustix::fs::futimens(itself, &times)?;
                }
            }
        }
        Ok(())
    }

    fn root(&self) -> Root<'_> {
        Root::new(&self.target)
    }

    fn one<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &Path) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let path = inside(path)?;
        let dress = Dress::of(entry)?;
        self.entries += 1;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            // The root itself.
            let root = self.target.try_clone()?.into();
            return self.finish_folder(root, path, dress);
        };
        let name = CString::new(name.as_bytes())?;
        let folder = self.root().open_or_make(parent, Kind::Folder)?;
        if kind == EntryType::Directory {
            match rustix::fs::mkdirat(&folder, &*name, Mode::RWXU) {
                Ok(()) => {}
                // There already: it gets the later entry's attributes. A symlink to a folder too.
                Err(Errno::EXIST) if is_folder(&self.root(), &path) => {}
                Err(Errno::EXIST) => {
                    rustix::fs::unlinkat(&folder, &*name, AtFlags::empty())?;
                    rustix::fs::mkdirat(&folder, &*name, Mode::RWXU)?;
                }
                Err(error) => return Err(error.into()),
            }
            let made = self.root().open(&path)?;
            return self.finish_folder(made, path, dress);
        }
        match rustix::fs::unlinkat(&folder, &*name, AtFlags::empty()) {
            Err(Errno::ISDIR) => rustix::fs::unlinkat(&folder, &*name, AtFlags::REMOVEDIR)?,
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match kind {
            EntryType::Link => {
                let first = inside(&link_of(entry)?)?;
                let first_folder = self.root().open(first.parent().unwrap_or(Path::new("/")))?;
                let first_name = first.file_name().ok_or(Errno::INVAL)?;
                // The first name's attributes are this one's.
                return rustix::fs::linkat(first_folder, first_name, &folder, &*name, AtFlags::empty())
                    .map_err(Into::into);
            }
            EntryType::Symlink => rustix::fs::symlinkat(link_of(entry)?, &folder, &*name)?,
            EntryType::Char => make_node(&folder, &name, FileType::CharacterDevice, device_of(entry)?)?,
            EntryType::Block => make_node(&folder, &name, FileType::BlockDevice, device_of(entry)?)?,
            EntryType::Fifo => make_node(&folder, &name, FileType::Fifo, 0)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => write_content(&folder, &name, entry)?,
            other => return Err(io::Error::other(format!("entries of type {other:?} are not understood"))),
        }
        dress.put_on(&folder, &name, kind == EntryType::Symlink)
    }

    fn finish_folder(&mut self, folder: OwnedFd, path: PathBuf, dress: Dress) -> io::Result<()> {
        // Opened once more: a descriptor of a place alone (O_PATH) can carry no changes.
        let folder =
            rustix::fs::openat(&folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        dress.put_on(&folder, c".", false)?;
        self.folders.push((path, dress.times));
        Ok(())
    }
}

impl Dress {
    fn of<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Self> {
        let mut attributes = Vec::new();
        let mut nanoseconds = None;
        if let Some(extensions) = entry.pax_extensions()? {
            for extension in extensions {
                let extension = extension?;
                if let Some(name) = extension.key_bytes().strip_prefix(XATTR.as_bytes()) {
                    attributes.push((CString::new(name)?, extension.value_bytes().to_vec()));
                } else if extension.key_bytes() == b"mtime" {
                    nanoseconds = extension.value().ok().and_then(parse_time);
                }
            }
        }
        let header = entry.header();
        let id =
            |id: u64| u32::try_from(id).map_err(|_| io::Error::other(format!("owner {id} is no user or group id")));
        let whole = Timespec { tv_sec: i64::try_from(header.mtime()?).unwrap_or(0), tv_nsec: 0 };
        let time = nanoseconds.unwrap_or(whole);
        Ok(Self {
            uid: id(header.uid()?)?,
            gid: id(header.gid()?)?,
            mode: header.mode()? & 0o7777,
            times: Timestamps { last_access: time, last_modification: time },
            attributes,
        })
    }

    fn put_on(&self, folder: &OwnedFd, name: &std::ffi::CStr, symlink: bool) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if !symlink {
            rustix::fs::chmodat(folder, name, Mode::from_raw_mode(self.mode), AtFlags::empty())?;
        }
        for (key, value) in &self.attributes {
            set_attribute((folder, name), key, value)?;
        }
        rustix::fs::utimensat(folder, name, &self.times, AtFlags::SYMLINK_NOFOLLOW).map_err(Into::into)
    }
}

/// Beneath the root, whatever way it is written; `..` is nobody's honest intent.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => return Err(io::Error::other("an entry of the archive leads out of it by '..'")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(cleaned)
}

fn is_folder(root: &Root<'_>, path: &Path) -> bool {
    root.open(path).is_ok_and(|file| super::tree::is_folder(file).unwrap_or(false))
}

fn link_of<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<PathBuf> {
    let link = entry.link_name()?.ok_or_else(|| io::Error::other("a link that names no target"))?;
    Ok(link.into_owned())
}

fn device_of<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<u64> {
    let number = |number: Option<u32>| number.ok_or_else(|| io::Error::other("a device without a number"));
    let header = entry.header();
    Ok(rustix::fs::makedev(number(header.device_major()?)?, number(header.device_minor()?)?))
}

fn make_node(folder: &OwnedFd, name: &std::ffi::CStr, kind: FileType, device: u64) -> io::Result<()> {
    rustix::fs::mknodat(folder, name, kind, Mode::RUSR, device).map_err(Into::into)
}

fn write_content<R: Read>(folder: &OwnedFd, name: &std::ffi::CStr, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?);
    let expected = entry.size();
    let mut buffer = vec![0u8; 64 * BLOCK];
    let mut position = 0u64;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match entry.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled == 0 {
            break;
        }
        for (number, block) in buffer[..filled].chunks(BLOCK).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                file.write_all_at(block, position + (number * BLOCK) as u64)?;
            }
        }
        position += filled as u64;
    }
    if position < expected {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle of it"));
    }
    file.set_len(position)
}

/// Seconds with a fraction, as pax writes them.
fn parse_time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let (tv_sec, tv_nsec) = (seconds.parse().ok()?, digits.parse().ok()?);
    // Before 1970 the fraction would count the other way; whole seconds are exact enough there.
    Some(Timespec { tv_sec, tv_nsec: if seconds.starts_with('-') { 0 } else { tv_nsec } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::GzEncoder;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    fn header(kind: EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(12);
        header.set_gid(34);
        header.set_mtime(1_000_000_000);
        header.set_size(size);
        header
    }

    fn example() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header(EntryType::Directory, 0o1777, 0), "./tmp/", io::empty()).unwrap();
        builder.append_data(&mut header(EntryType::Regular, 0o4755, 7), "./usr/bin/tool", &b"content"[..]).unwrap();
        builder.append_link(&mut header(EntryType::Symlink, 0o777, 0), "bin", "usr/bin").unwrap();
        // Through the symlink, as images are made.
        builder.append_data(&mut header(EntryType::Regular, 0o644, 2), "bin/other", &b"ab"[..]).unwrap();
        builder.append_link(&mut header(EntryType::Link, 0o644, 0), "hard", "usr/bin/tool").unwrap();
        let mut device = header(EntryType::Char, 0o666, 0);
        device.set_device_major(1).unwrap();
        device.set_device_minor(3).unwrap();
        builder.append_data(&mut device, "dev/null", io::empty()).unwrap();
        let zeros = vec![0u8; 8 << 20];
        builder.append_data(&mut header(EntryType::Regular, 0o644, 8 << 20), "zeros", &zeros[..]).unwrap();
        builder.append_pax_extensions([("SCHILY.xattr.user.key", &b"value"[..])]).unwrap();
        builder.append_data(&mut header(EntryType::Regular, 0o644, 0), "marked", io::empty()).unwrap();
        builder.into_inner().unwrap()
    }

    fn unpacked(archive: &[u8]) -> (tempfile::TempDir, Result<()>) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("archive"), archive).unwrap();
        fs::create_dir(folder.path().join("target")).unwrap();
        let result = unpack(&folder.path().join("archive"), &folder.path().join("target"));
        (folder, result)
    }

    #[test]
    fn a_tar_is_unpacked_with_all_that_it_says_gzipped_or_not() {
        let mut gzipped = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzipped.write_all(&example()).unwrap();
        for archive in [example(), gzipped.finish().unwrap()] {
            let (folder, result) = unpacked(&archive);
            result.unwrap();
            let target = folder.path().join("target");
            let tool = fs::metadata(target.join("usr/bin/tool")).unwrap();
            assert_eq!((tool.uid(), tool.gid(), tool.mode() & 0o7777, tool.mtime()), (12, 34, 0o4755, 1_000_000_000));
            assert_eq!(fs::metadata(target.join("hard")).unwrap().ino(), tool.ino());
            let tmp = fs::metadata(target.join("tmp")).unwrap();
            assert_eq!((tmp.mode() & 0o7777, tmp.mtime()), (0o1777, 1_000_000_000));
            assert_eq!(fs::read_link(target.join("bin")).unwrap(), Path::new("usr/bin"));
            assert_eq!(fs::read(target.join("usr/bin/other")).unwrap(), b"ab");
            assert!(fs::metadata(target.join("dev/null")).unwrap().file_type().is_char_device());
            let zeros = fs::metadata(target.join("zeros")).unwrap();
            assert_eq!(zeros.len(), 8 << 20);
            assert_eq!(zeros.blocks(), 0);
            let mut value = [0u8; 8];
            assert_eq!(rustix::fs::getxattr(target.join("marked"), "user.key", &mut value).unwrap(), 5);
        }
    }

    #[test]
    fn an_archive_that_was_cut_short_is_refused_wherever_the_cut_is() {
        let whole = example();
        for length in [512, 1024, 1536, 2000, 2560, whole.len() - 1024] {
            let (_folder, result) = unpacked(&whole[..length]);
            assert!(result.is_err(), "cut at {length}");
        }
        let mut gzipped = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzipped.write_all(&whole).unwrap();
        let gzipped = gzipped.finish().unwrap();
        assert!(unpacked(&gzipped[..gzipped.len() / 2]).1.is_err());
    }

    #[test]
    fn nothing_lands_outside_the_target() {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_link(&mut header(EntryType::Symlink, 0o777, 0), "out", "../../..").unwrap();
        builder.append_link(&mut header(EntryType::Symlink, 0o777, 0), "abs", "/etc").unwrap();
        builder.append_data(&mut header(EntryType::Regular, 0o644, 1), "out/escaped", &b"x"[..]).unwrap();
        builder.append_data(&mut header(EntryType::Regular, 0o644, 1), "abs/escaped", &b"x"[..]).unwrap();
        let (folder, result) = unpacked(&builder.into_inner().unwrap());
        result.unwrap();
        assert!(folder.path().join("target/escaped").exists());
        assert!(folder.path().join("target/etc/escaped").exists());
        assert!(!folder.path().join("escaped").exists());
        assert!(!Path::new("/etc/escaped").exists());
    }

    #[test]
    fn what_is_no_tar_is_refused_by_what_it_is() {
        for (content, word) in
            [(&b"#!/bin/sh\n"[..], "no tar"), (&[0x28, 0xb5, 0x2f, 0xfd, 0][..], "zstd"), (&[][..], "no tar")]
        {
            let error = unpacked(content).1.unwrap_err();
            assert!(error.message.contains(word), "{error}");
        }
    }
}
