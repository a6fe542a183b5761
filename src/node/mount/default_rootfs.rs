//! The default rootfs: a folder or a tar that the operator names, copied once into the state
//! folder, so that containers neither wait for a copy nor see the original change under them.
//!
//! ```text
//! <state-dir>/rootfs/<key>/      the key is a digest of what the original looks like
//!     root/                      the copy
//!     shifted/                   where the kernel cannot map owners: for unprivileged containers
//! ```
//! Promises: a copy is whole or not there (made under another name, synced, renamed). An original
//! that has not changed is not copied again. A copy stays while a container's layer is above it.

use super::copy::{Copier, contains};
use super::error::{Result, attempting, failed, invalid};
use super::remove::remove_tree;
use super::unpack;
use crate::node::ids::IdMap;
use crate::node::place::Folders;
use rustix::fs::{CWD, Mode, OFlags};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const COPY: &str = "root";
const SHIFTED: &str = "shifted";
/// The key of an empty one, and no digest.
const EMPTY: &str = "empty";
/// Where copies of images with shifted owners are, beside the default rootfs's.
const IMAGES: &str = "images";
/// Is in the names of what is being made.
const PARTIAL: &str = ".partial";
/// Part of every key: copies that were made otherwise are made again.
const FORMAT: &str = "1";

/// A copy of a default rootfs, ready for containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedRootfs {
    key: String,
}

impl PreparedRootfs {
    /// Not a copy of anything: an empty folder.
    pub(super) fn empty() -> Self {
        Self { key: EMPTY.to_owned() }
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }
}

/// Copies the folder or tar at `path`, unless it was copied before. Blocks for as long as that
/// takes; meant for the start.
///
/// # Errors
/// `Invalid` where `path` cannot be a rootfs, `Failed` where it cannot be copied.
pub fn prepare(folders: &Folders, path: &Path) -> Result<PreparedRootfs> {
    Store::new(folders).prepare(path)
}

/// All copies.
#[derive(Clone, Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    pub(super) fn new(folders: &Folders) -> Self {
        Self { folder: folders.state().join("rootfs") }
    }

    /// As [`Self::plain`], of a copy that is known by its key alone.
    pub(super) fn copy_of(&self, key: &str) -> PathBuf {
        self.folder.join(key).join(COPY)
    }

    /// See [`prepare`].
    pub(super) fn prepare(&self, given: &Path) -> Result<PreparedRootfs> {
        let shown = given.display();
        let path = match fs::canonicalize(given) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(invalid(format!("the default rootfs {shown} does not exist; correct --default-rootfs")));
            }
            result => result.map_err(attempting(format!("looking at the default rootfs {shown}")))?,
        };
        let metadata = fs::metadata(&path).map_err(attempting(format!("looking at the default rootfs {shown}")))?;
        if !metadata.is_dir() && !metadata.is_file() {
            return Err(invalid(format!(
                "the default rootfs {shown} is neither a folder nor a tar; correct --default-rootfs"
            )));
        }
        make_folder(&self.folder)?;
        if metadata.is_dir() && contains(&path, &self.folder) {
            return Err(invalid(format!(
                "the default rootfs {shown} contains gardend's own state ({}); choose another folder",
                self.folder.display()
            )));
        }
        let key = key_of(&path, &metadata).map_err(attempting(format!("reading the default rootfs {shown}")))?;
        let rootfs = PreparedRootfs { key };
        if self.plain(&rootfs).is_dir() {
            return Ok(rootfs);
        }
        let making = format!("copying the default rootfs {shown} to {}", self.folder.display());
        tracing::info!(rootfs = %shown, "copying the default rootfs");
        self.make(&self.plain(&rootfs), &making, |target| {
            if metadata.is_dir() {
                Copier::new(None).copy(&path, target).map_err(attempting(making.clone()))
            } else {
                unpack::unpack(&path, target)
            }
        })?;
        Ok(rootfs)
    }

    /// A copy that was made before.
    pub(super) fn find(&self, key: &str) -> Result<PreparedRootfs> {
        let rootfs = PreparedRootfs { key: key.to_owned() };
        let named = key.len() == 16 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
        if named && self.plain(&rootfs).is_dir() {
            return Ok(rootfs);
        }
        Err(failed(format!(
            "the copy of the default rootfs that this container was made on, {:?}, is gone from {}",
            key,
            self.folder.display()
        )))
    }

    /// Where the copy is.
    pub(super) fn plain(&self, rootfs: &PreparedRootfs) -> PathBuf {
        self.copy_of(&rootfs.key)
    }

    /// Where the copy with shifted owners is; made now where it is missing.
    pub(super) fn shifted(&self, rootfs: &PreparedRootfs, map: &IdMap) -> Result<PathBuf> {
        let shifted = self.folder.join(&rootfs.key).join(shifted_name(map));
        if !shifted.is_dir() {
            let making = format!("copying the default rootfs with shifted owners to {}", shifted.display());
            let plain = self.plain(rootfs);
            self.make(&shifted, &making, |target| {
                Copier::new(Some(map.clone())).copy(&plain, target).map_err(attempting(making.clone()))
            })?;
        }
        Ok(shifted)
    }

    /// Where an image's copy with shifted owners is, whether it is there or not.
    pub(super) fn image_copy(&self, key: &str, map: &IdMap) -> PathBuf {
        self.folder.join(IMAGES).join(key).join(shifted_name(map))
    }

    /// Makes such a copy of what `merged` is open on.
    pub(super) fn copy_image(&self, target: &Path, merged: BorrowedFd<'_>, map: &IdMap) -> Result<()> {
        let making = format!("copying an image with shifted owners to {}", target.display());
        let source = PathBuf::from(format!("/proc/self/fd/{}/.", merged.as_raw_fd()));
        self.make(target, &making, |target| {
            Copier::new(Some(map.clone())).copy(&source, target).map_err(attempting(making.clone()))
        })
    }

    /// Removes copies of images that no longer are on the node: all but those of these keys.
    pub(super) fn remove_images_but(&self, used: &BTreeSet<String>) -> Result<()> {
        let folder = self.folder.join(IMAGES);
        let what = || format!("tidying {}", folder.display());
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(attempting(what()))?,
        };
        for entry in entries {
            let entry = entry.map_err(attempting(what()))?;
            if !entry.file_name().to_str().is_some_and(|name| used.contains(name)) {
                remove_tree(&entry.path()).map_err(attempting(format!("removing {}", entry.path().display())))?;
            }
        }
        Ok(())
    }

    /// Makes the folder of [`PreparedRootfs::empty`].
    pub(super) fn make_empty(&self) -> Result<()> {
        make_folder(&self.plain(&PreparedRootfs::empty()))
    }

    /// The mode of the root folder itself.
    pub(super) fn root_mode(&self, rootfs: &PreparedRootfs) -> Result<u32> {
        let folder = self.plain(rootfs);
        let metadata = fs::metadata(&folder).map_err(attempting(format!("looking at {}", folder.display())))?;
        Ok(metadata.mode() & 0o7777)
    }

    /// Removes what a crash left half made, and copies whose key nobody uses.
    pub(super) fn remove_all_but(&self, used: &BTreeSet<String>) -> Result<()> {
        let what = || format!("tidying {}", self.folder.display());
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(attempting(what()))?,
        };
        for entry in entries {
            let entry = entry.map_err(attempting(what()))?;
            let name = entry.file_name();
            let kept = name.to_str().is_some_and(|name| name == IMAGES || used.contains(name));
            if !kept {
                remove_tree(&entry.path()).map_err(attempting(format!("removing {}", entry.path().display())))?;
                continue;
            }
            for part in fs::read_dir(entry.path()).map_err(attempting(what()))? {
                let part = part.map_err(attempting(what()))?;
                if part.file_name().as_bytes().ends_with(PARTIAL.as_bytes()) {
                    remove_tree(&part.path()).map_err(attempting(format!("removing {}", part.path().display())))?;
                }
            }
        }
        Ok(())
    }

    /// Fills a folder under another name and renames it to `target` once it is whole and on disk.
    fn make(&self, target: &Path, making: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let mut partial = target.as_os_str().to_owned();
        partial.push(PARTIAL);
        let partial = PathBuf::from(partial);
        let parent = target.parent().unwrap_or(&self.folder);
        remove_tree(&partial).map_err(attempting(making.to_owned()))?;
        make_folder(parent)?;
        let filled = fs::create_dir(&partial).map_err(attempting(making.to_owned())).and_then(|()| fill(&partial));
        let made = filled.and_then(|()| publish(&partial, target, parent).map_err(attempting(making.to_owned())));
        if made.is_err() {
            // The first error is the one to tell; what stays is removed at the next start.
            let _ = remove_tree(&partial);
        }
        made
    }
}

/// Owners on disk are one map's.
fn shifted_name(map: &IdMap) -> String {
    if *map == IdMap::garden() {
        return SHIFTED.to_owned();
    }
    let digest = Sha256::digest(map.to_string());
    format!("{SHIFTED}-{}", digest[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn publish(partial: &Path, target: &Path, parent: &Path) -> io::Result<()> {
    rustix::fs::syncfs(open(partial)?)?;
    fs::rename(partial, target)?;
    rustix::fs::fsync(open(parent)?).map_err(Into::into)
}

fn open(folder: &Path) -> io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, folder, flags, Mode::empty()).map_err(Into::into)
}

/// Nobody but root looks into copies: they hold setuid files of whoever made the image.
fn make_folder(folder: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(attempting(format!("making {}", folder.display())))
}

/// A digest of what an original looks like: of a tar its path, size and times, of a folder those
/// of everything in it.
fn key_of(path: &Path, metadata: &Metadata) -> io::Result<String> {
    let mut digest = Sha256::new();
    digest.update(FORMAT);
    digest.update(path.as_os_str().as_bytes());
    digest_one(&mut digest, Path::new(""), metadata);
    if metadata.is_dir() {
        digest_folder(&mut digest, path, metadata.dev())?;
    }
    Ok(digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

fn digest_folder(digest: &mut Sha256, folder: &Path, device: u64) -> io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let metadata = entry.metadata()?;
        digest_one(digest, Path::new(&entry.file_name()), &metadata);
        if metadata.is_dir() && metadata.dev() == device {
            digest_folder(digest, &entry.path(), device)?;
        }
    }
    // So that a file after a folder differs from one in it.
    digest.update([0xff]);
    Ok(())
}

fn digest_one(digest: &mut Sha256, name: &Path, metadata: &Metadata) {
    let name = name.as_os_str().as_bytes();
    digest.update((name.len() as u64).to_le_bytes());
    digest.update(name);
    let numbers = [u64::from(metadata.mode()), u64::from(metadata.uid()), u64::from(metadata.gid()), metadata.rdev()];
    numbers.iter().for_each(|number| digest.update(number.to_le_bytes()));
    // A folder's size says how the file system stores it, and nothing else.
    let size = if metadata.is_dir() { 0 } else { metadata.size() };
    digest.update(size.to_le_bytes());
    for time in [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()] {
        digest.update(time.to_le_bytes());
    }
}
