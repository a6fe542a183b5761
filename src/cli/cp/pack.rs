//! Files of this machine as a tar stream, packed on a thread of their own.

use super::AHEAD;
use crate::cli::client::{Pieces, io_reason};
use crate::cli::outcome::Failure;
use bytes::Bytes;
use rustix::fs::{major, minor};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;

/// Bytes sent at once.
const PIECE: usize = 256 << 10;

/// What is to be packed, and under which name.
#[derive(Debug)]
pub(super) struct Packing {
    path: PathBuf,
    found: Metadata,
    /// None: what is in it, and not itself.
    name: Option<PathBuf>,
    keep_owners: bool,
}

impl Packing {
    /// Finds a file or folder. A link is itself, unless it is to be followed, or ends in a slash.
    pub(super) fn of(source: &str, follow: bool, keep_owners: bool) -> Result<Self, Failure> {
        let failed = |error: &io::Error| Failure::Words(format!("cannot copy '{source}': {}", io_reason(error)));
        let path = PathBuf::from(source);
        let follow = follow || source.ends_with('/') || source.ends_with("/.");
        let found = if follow { fs::metadata(&path) } else { fs::symlink_metadata(&path) };
        let found = found.map_err(|error| failed(&error))?;
        if source.ends_with('/') && !found.is_dir() {
            return Err(failed(&io::ErrorKind::NotADirectory.into()));
        }
        let is_contents = source.ends_with("/.") || matches!(source, "." | "./");
        let name = match path.file_name().map(OsStr::to_owned) {
            _ if is_contents => None,
            Some(name) => Some(PathBuf::from(name)),
            // It ends in `..`, or is the root.
            None => path.canonicalize().map_err(|error| failed(&error))?.file_name().map(PathBuf::from),
        };
        Ok(Self { path, found, name, keep_owners })
    }

    pub(super) fn is_folder(&self) -> bool {
        self.found.is_dir()
    }

    /// What is in the folder, and not the folder itself.
    pub(super) fn take_contents(&mut self) {
        self.name = None;
    }

    /// Gives it another name.
    pub(super) fn name(&mut self, name: &str) {
        self.name = Some(name.into());
    }

    /// Packs from now on, a bounded way ahead.
    pub(super) fn start(self) -> Result<Pieces, Failure> {
        let (sender, pieces) = mpsc::channel(AHEAD);
        let packed = std::thread::Builder::new().name("pack".to_owned()).spawn(move || {
            if let Err(error) = self.run(&sender) {
                // Nobody is told where nobody reads any more.
                let _ = sender.blocking_send(Err(error));
            }
        });
        packed.map(|_| pieces).map_err(|error| Failure::Words(format!("cannot start a thread: {error}")))
    }

    fn run(&self, pieces: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
        let mut tar = Tar { builder: Builder::new(Sink { pieces, buffer: Vec::new() }), keep_owners: self.keep_owners };
        match &self.name {
            Some(name) => tar.add(&self.path, name, &self.found)?,
            None => tar.contents(&self.path, Path::new(""))?,
        }
        tar.builder.into_inner()?.flush()
    }
}

struct Tar<'a> {
    builder: Builder<Sink<'a>>,
    keep_owners: bool,
}

impl Tar<'_> {
    fn add(&mut self, path: &Path, name: &Path, found: &Metadata) -> io::Result<()> {
        self.add_one(path, name, found).map_err(|error| in_words(path, &error))?;
        if found.is_dir() { self.contents(path, name) } else { Ok(()) }
    }

    fn contents(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.map_err(|error| in_words(path, &error))?;
        entries.sort_unstable_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            match fs::symlink_metadata(&path) {
                Ok(found) => self.add(&path, &name.join(entry.file_name()), &found)?,
                // It went meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(in_words(&path, &error)),
            }
        }
        Ok(())
    }

    fn add_one(&mut self, path: &Path, name: &Path, found: &Metadata) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_metadata(found);
        if !self.keep_owners {
            header.set_uid(0);
            header.set_gid(0);
        }
        let kind = found.file_type();
        header.set_size(0);
        if kind.is_file() {
            header.set_size(found.len());
            let file = Exactly { file: File::open(path)?, left: found.len() };
            return self.builder.append_data(&mut header, name, file);
        }
        if kind.is_symlink() {
            return self.builder.append_link(&mut header, name, fs::read_link(path)?);
        }
        let special = match () {
            () if kind.is_dir() => EntryType::Directory,
            () if kind.is_fifo() => EntryType::Fifo,
            () if kind.is_char_device() => EntryType::Char,
            () if kind.is_block_device() => EntryType::Block,
            // A socket is of no use without its process.
            () => return Ok(()),
        };
        header.set_entry_type(special);
        if matches!(special, EntryType::Char | EntryType::Block) {
            #[allow(clippy::unnecessary_cast, reason = "not every system has it as the same type")]
            let device = found.rdev() as rustix::fs::Dev;
            header.set_device_major(major(device))?;
            header.set_device_minor(minor(device))?;
        }
        self.builder.append_data(&mut header, name, io::empty())
    }
}

fn in_words(path: &Path, error: &io::Error) -> io::Error {
    // One that was put into words further down, or is the stream's own end.
    if error.get_ref().is_some() || error.kind() == io::ErrorKind::BrokenPipe {
        return io::Error::new(error.kind(), error.to_string());
    }
    io::Error::new(error.kind(), format!("cannot copy '{}': {}", path.display(), io_reason(error)))
}

/// A file's bytes, as many as its header has promised.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 {
            return Ok(0);
        }
        let read = self.file.read(&mut buffer[..room])?;
        if read == 0 {
            return Err(io::Error::other("it became shorter while it was read"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Where the stream goes.
struct Sink<'a> {
    pieces: &'a mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.buffer);
        if piece.is_empty() {
            return Ok(());
        }
        self.pieces.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
