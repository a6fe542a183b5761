//! A tar stream onto this machine. It comes from a container, so nothing is believed of it: no name
//! and no link in it leads out of the folder that it is unpacked in.

use crate::cli::client::io_reason;
use bytes::{Buf, Bytes};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tar::{Archive, Entry, EntryType};
use tokio::sync::mpsc;

/// A stream that another task fetches.
pub(super) struct Pieces {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Pieces {
    pub(super) fn new(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { pieces, piece: Bytes::new() }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// What a stream begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First {
    Folder,
    Link(String),
    Other,
}

/// Reads no more than the first header.
pub(super) fn first(pieces: Pieces) -> io::Result<First> {
    let mut archive = Archive::new(pieces);
    let entry = archive.entries()?.next().ok_or_else(nothing)??;
    Ok(match entry.header().entry_type() {
        EntryType::Directory => First::Folder,
        EntryType::Symlink => {
            let target = entry.link_name_bytes().unwrap_or_default();
            First::Link(String::from_utf8_lossy(&target).into_owned())
        }
        _ => First::Other,
    })
}

fn nothing() -> io::Error {
    io::Error::other("the container sent an empty stream")
}

/// Where a stream goes.
#[derive(Debug)]
pub(super) struct Unpacking {
    destination: PathBuf,
    /// A folder is meant.
    is_folder: bool,
    archive: bool,
}

impl Unpacking {
    pub(super) fn new(destination: &str, archive: bool) -> Self {
        let is_folder = destination.ends_with('/') || destination.ends_with("/.");
        Self { destination: destination.into(), is_folder, archive }
    }

    /// Unpacks a stream that holds one file or folder by its name, or (`contents`) what is in one.
    pub(super) fn run(self, pieces: Pieces, contents: bool) -> io::Result<()> {
        let mut archive = Archive::new(pieces);
        archive.set_preserve_permissions(self.archive);
        archive.set_preserve_ownerships(self.archive);
        archive.set_unpack_xattrs(self.archive);
        let there = fs::metadata(&self.destination).ok();
        let is_there = there.is_some();
        let into_folder = there.is_some_and(|found| found.is_dir());
        let mut entries = archive.entries()?;
        let mut first = entries.next().ok_or_else(nothing)??;
        let sends_folder = first.header().entry_type().is_dir();
        if into_folder {
            let mut folder = Folder::new(self.destination);
            folder.unpack(&mut first)?;
            return folder.unpack_all(entries);
        }
        match (sends_folder, is_there) {
            (true, true) => Err(io::Error::other(format!("'{}' is a file, and no folder", self.destination.display()))),
            (true, false) => {
                let scratch = Scratch::beside(&self.destination)?;
                let mut folder = Folder::new(scratch.path.clone());
                folder.unpack(&mut first)?;
                let name = first.path()?.file_name().map(PathBuf::from);
                folder.unpack_all(entries)?;
                scratch.hand_over(name.filter(|_| !contents), &self.destination)
            }
            (false, _) if self.is_folder => {
                Err(io::Error::other(format!("there is no folder '{}'; make it first", self.destination.display())))
            }
            (false, _) => self.take_place(first),
        }
    }

    /// One file, in the place of another or of nothing.
    fn take_place(self, mut file: Entry<'_, Pieces>) -> io::Result<()> {
        let in_words = |error: &io::Error| in_words(&self.destination, error);
        if file.header().entry_type() != EntryType::Regular {
            // A link, a device or a pipe is made anew.
            if self.destination.symlink_metadata().is_ok() {
                fs::remove_file(&self.destination).map_err(|error| in_words(&error))?;
            }
            return file.unpack(&self.destination).map(drop).map_err(|error| in_words(&error));
        }
        let is_new = !self.destination.exists();
        let mut target = File::create(&self.destination).map_err(|error| in_words(&error))?;
        io::copy(&mut file, &mut target).map_err(|error| in_words(&error))?;
        // One that was there keeps its permissions, as with cp.
        if is_new || self.archive {
            let bits = if self.archive { 0o7777 } else { 0o777 };
            let mode = file.header().mode()? & bits;
            target.set_permissions(PermissionsExt::from_mode(mode)).map_err(|error| in_words(&error))?;
        }
        if self.archive {
            let id = |id: u64| u32::try_from(id).ok();
            let (uid, gid) = (id(file.header().uid()?), id(file.header().gid()?));
            std::os::unix::fs::fchown(&target, uid, gid).map_err(|error| in_words(&error))?;
        }
        Ok(())
    }
}

fn in_words(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("'{}': {}", path.display(), io_reason(error)))
}

/// A folder that is unpacked in. Folders get their own permissions last, since something is to be put
/// into them before.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn unpack(&mut self, entry: &mut Entry<'_, Pieces>) -> io::Result<()> {
        let name = entry.path()?.into_owned();
        if entry.unpack_in(&self.path)? {
            return Ok(());
        }
        // The folder itself is there; anything else that leads nowhere or out is a lie.
        let is_itself = name.components().all(|part| part == std::path::Component::CurDir);
        if is_itself {
            return Ok(());
        }
        Err(io::Error::other(format!("the container sent '{}', which leads out of the destination", name.display())))
    }

    fn unpack_all(&mut self, entries: tar::Entries<'_, Pieces>) -> io::Result<()> {
        for entry in entries {
            self.unpack(&mut entry?)?;
        }
        Ok(())
    }
}

/// A folder beside the destination, on the same file system, that becomes it or goes.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn beside(destination: &Path) -> io::Result<Self> {
        let parent = destination.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for number in 0..1000 {
            let path = parent.join(format!(".gardend-cp-{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(in_words(parent, &error)),
            }
        }
        Err(io::Error::other(format!("'{}' is full of folders named .gardend-cp-*; remove them", parent.display())))
    }

    /// What was unpacked, or a folder of that name in it, becomes the destination.
    fn hand_over(self, name: Option<PathBuf>, destination: &Path) -> io::Result<()> {
        let made = match name {
            Some(name) => self.path.join(name),
            None => {
                // As any folder that is made anew.
                fs::set_permissions(&self.path, PermissionsExt::from_mode(0o755))?;
                self.path.clone()
            }
        };
        fs::rename(&made, destination).map_err(|error| in_words(destination, &error))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may have become the destination.
        if self.path.exists() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tar::{Builder, Header};

    /// A stream of these: a name, and a file's content, a link's target or nothing for a folder.
    enum Member<'a> {
        File(&'a str, &'a str),
        Link(&'a str, &'a str),
        Folder(&'a str),
    }
    use Member::{File as F, Folder as D, Link as L};

    fn stream(members: &[Member<'_>]) -> Pieces {
        let mut builder = Builder::new(Vec::new());
        for member in members {
            let mut header = Header::new_gnu();
            header.set_mode(0o4755);
            let (name, kind, content) = match member {
                F(name, content) => (name, EntryType::Regular, *content),
                L(name, _) => (name, EntryType::Symlink, ""),
                D(name) => (name, EntryType::Directory, ""),
            };
            header.set_entry_type(kind);
            if let L(_, target) = member {
                header.set_link_name(target).unwrap();
            }
            header.set_size(content.len() as u64);
            // By hand: the library itself refuses to write a name that leads out.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        let (sender, pieces) = mpsc::channel(1000);
        for piece in builder.into_inner().unwrap().chunks(100) {
            sender.try_send(Ok(Bytes::copy_from_slice(piece))).unwrap();
        }
        Pieces::new(pieces)
    }

    fn unpack(destination: &Path, contents: bool, members: &[Member<'_>]) -> io::Result<()> {
        Unpacking::new(destination.to_str().unwrap(), false).run(stream(members), contents)
    }

    #[test]
    fn a_folder_goes_into_one_that_is_there_and_becomes_one_that_is_not() {
        let here = tempfile::tempdir().unwrap();
        let (there, new) = (here.path().join("there"), here.path().join("new"));
        fs::create_dir(&there).unwrap();
        let folder = [D("dir/"), F("dir/a", "1"), D("dir/sub"), F("dir/sub/b", "2")];
        unpack(&there, false, &folder).unwrap();
        unpack(&new, false, &folder).unwrap();
        for path in ["there/dir/a", "there/dir/sub/b", "new/a", "new/sub/b"] {
            assert!(here.path().join(path).is_file(), "{path}");
        }
        let contents = [D("./"), F("./a", "1")];
        unpack(&here.path().join("bare"), true, &contents).unwrap();
        unpack(&there, true, &contents).unwrap();
        assert!(here.path().join("bare/a").is_file() && there.join("a").is_file());
        assert_eq!(fs::read_dir(here.path()).unwrap().count(), 3, "nothing is left beside them");
    }

    #[test]
    fn a_file_becomes_what_is_not_there_takes_a_files_place_and_goes_into_a_folder() {
        let here = tempfile::tempdir().unwrap();
        let file = here.path().join("file");
        unpack(&file, false, &[F("a", "one")]).unwrap();
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
            0o755,
            "no bits that make a program another's"
        );
        unpack(&file, false, &[F("a", "2")]).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "2");
        unpack(here.path(), false, &[F("a", "three")]).unwrap();
        assert_eq!(fs::read_to_string(here.path().join("a")).unwrap(), "three");
        let error = unpack(&here.path().join("no/"), false, &[F("a", "x")]).unwrap_err();
        assert!(error.to_string().contains("there is no folder"), "{error}");
        let error = unpack(&file, false, &[D("dir")]).unwrap_err();
        assert!(error.to_string().contains("is a file"), "{error}");
    }

    #[test]
    fn nothing_that_a_container_sends_leads_out_of_the_destination() {
        let here = tempfile::tempdir().unwrap();
        let (outside, inside) = (here.path().join("outside"), here.path().join("inside"));
        fs::create_dir(&outside).unwrap();
        fs::create_dir(&inside).unwrap();
        let target = outside.to_str().unwrap();
        for members in [
            &[F("../outside/x", "1")][..],
            &[D("dir"), L("dir/link", target), F("dir/link/x", "1")],
            &[L("link", target), F("link/x", "1")],
        ] {
            assert!(unpack(&inside, false, members).is_err());
            assert!(
                unpack(&here.path().join("new"), false, members).is_err() || !here.path().join("new/link/x").exists()
            );
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_stream_that_is_cut_is_no_success() {
        let here = tempfile::tempdir().unwrap();
        let (sender, pieces) = mpsc::channel(10);
        let mut header = Header::new_gnu();
        header.set_path("a").unwrap();
        header.set_size(1000);
        header.set_mode(0o644);
        header.set_cksum();
        sender.try_send(Ok(Bytes::copy_from_slice(header.as_bytes()))).unwrap();
        sender.try_send(Err(io::Error::other("cut"))).unwrap();
        let destination = here.path().join("a");
        assert!(Unpacking::new(destination.to_str().unwrap(), false).run(Pieces::new(pieces), false).is_err());
    }

    #[test]
    fn the_first_header_tells_what_is_there() {
        assert_eq!(first(stream(&[D("dir/"), F("dir/a", "")])).unwrap(), First::Folder);
        assert_eq!(first(stream(&[F("a", "x")])).unwrap(), First::Other);
        assert_eq!(first(stream(&[L("a", "../b")])).unwrap(), First::Link("../b".to_owned()));
    }
}
