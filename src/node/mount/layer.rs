//! Writable layers: what a container on the default rootfs or an image has changed, on the host's
//! disk.
//!
//! ```text
//! <state-dir>/layers/<container>/
//!     u        the overlay's upper folder; its root belongs to the container's root
//!     w        the overlay's work folder
//!     below    bytes and inodes of that copy, where they count towards the container's limits
//!     rootfs   a link that names what is below, a copy of the default rootfs or an image's chain of
//!              layers: a layer fits no other
//! ```
//! The link is made last, so that a layer that a crash left half made is known by its lack, and is
//! made anew. A layer is kept when its place dies, and is used again by the next place of the same
//! container.

use super::error::{Result, attempting, failed};
use super::owner::Owner;
use super::remove::remove_tree;
use crate::node::disk::Size;
use crate::node::quota;
use gardend_controller::record::Limits;
use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;
use std::io;
use std::path::Path;

/// The overlay's upper folder, in its layer.
pub(super) const UPPER: &str = "u";
/// The overlay's work folder, in its layer.
pub(super) const WORK: &str = "w";
const BELOW: &str = "rootfs";
const SIZE_BELOW: &str = "below";

/// Makes the layer at `layer` where there is none; answers which copy of a rootfs it is above.
pub(super) fn ensure(layer: &Path, owner: Owner, rootfs: &str, root_mode: u32) -> Result<String> {
    match below(layer)? {
        Some(below) => Ok(below),
        None => {
            make(layer, owner, rootfs, root_mode)
                .map_err(attempting(format!("making the writable layer {}", layer.display())))?;
            Ok(rootfs.to_owned())
        }
    }
}

/// Which copy of a rootfs a layer is above; `None` where there is no whole layer.
pub(super) fn below(layer: &Path) -> Result<Option<String>> {
    let link = layer.join(BELOW);
    match std::fs::read_link(&link) {
        Ok(name) => Ok(Some(name.to_string_lossy().into_owned())),
        // What is no folder is no layer of ours.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(failed(format!("reading {}: {error}", link.display()))),
    }
}

fn make(layer: &Path, owner: Owner, rootfs: &str, root_mode: u32) -> io::Result<()> {
    let folder = |path: &Path, mode| rustix::fs::mkdir(path, Mode::from_raw_mode(mode));
    match folder(layer, 0o700) {
        Err(Errno::EXIST) => {
            quota::release(&layer.join(UPPER))?;
            remove_tree(layer)?;
            folder(layer, 0o700)?;
        }
        result => result?,
    }
    let upper = layer.join(UPPER);
    folder(&layer.join(WORK), 0o700)?;
    folder(&upper, root_mode)?;
    quota::mark(&[&layer.join(WORK), &upper])?;
    if owner != Owner::HOST_ROOT {
        rustix::fs::chown(&upper, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    }
    // The caller's umask, and chown's care about set-id bits, count for nothing here.
    if rustix::fs::stat(&upper)?.st_mode & 0o7777 != root_mode {
        rustix::fs::chmod(&upper, Mode::from_raw_mode(root_mode))?;
    }
    rustix::fs::symlink(rootfs, layer.join(BELOW)).map_err(Into::into)
}

/// Puts limits of the disk in force on a layer. `below` is the size of the copy where that counts too.
pub(super) fn limit(layer: &Path, limits: &Limits, below: Option<Size>) -> Result<()> {
    let set = || {
        if let Some(Size { bytes, inodes }) = below {
            std::fs::write(layer.join(SIZE_BELOW), format!("{bytes} {inodes}\n"))?;
        }
        quota::limit(&layer.join(UPPER), limits, below.unwrap_or_default())
    };
    set().map_err(attempting(format!("limiting the writable layer {}", layer.display())))
}

/// The limits of the disk that are in force on a layer.
pub(super) fn limits_in_force(layer: &Path, mut seen: Limits) -> io::Result<Limits> {
    let below = match std::fs::read_to_string(layer.join(SIZE_BELOW)) {
        Ok(text) => {
            let mut numbers = text.split_ascii_whitespace().map(|number| number.parse().unwrap_or(0));
            Size { bytes: numbers.next().unwrap_or(0), inodes: numbers.next().unwrap_or(0) }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Size::default(),
        Err(error) => return Err(error),
    };
    quota::in_force(&layer.join(UPPER), below, &mut seen)?;
    Ok(seen)
}

/// Removes a layer, whole or not. One that is not there is removed.
pub(super) fn remove(layer: &Path) -> Result<()> {
    // As long as the folder is there its project is known.
    quota::release(&layer.join(UPPER)).map_err(attempting(format!("taking the limits of {} back", layer.display())))?;
    remove_tree(layer).map_err(attempting(format!("removing the writable layer {}", layer.display())))
}

/// Whose layers are in this folder, whole or not: names as they are, for the caller to judge.
pub(super) fn names(layers: &Path) -> Result<Vec<String>> {
    let listed = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(layers)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    };
    match listed() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(attempting(format!("listing {}", layers.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_layer_is_made_once_and_keeps_what_it_is_above() {
        let folder = tempfile::tempdir().unwrap();
        let layer = folder.path().join("one");
        let owner = Owner { uid: 4_294_967_294, gid: 4_294_967_294 };
        assert_eq!(ensure(&layer, owner, "first", 0o711).unwrap(), "first");
        let upper = std::fs::metadata(layer.join(UPPER)).unwrap();
        assert_eq!((upper.uid(), upper.gid(), upper.mode() & 0o7777), (owner.uid, owner.gid, 0o711));
        std::fs::write(layer.join(UPPER).join("kept"), "").unwrap();
        assert_eq!(ensure(&layer, owner, "second", 0o755).unwrap(), "first");
        assert!(layer.join(UPPER).join("kept").exists());
        remove(&layer).unwrap();
        remove(&layer).unwrap();
        assert_eq!(names(folder.path()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_layer_that_a_crash_left_half_made_is_listed_and_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let layer = folder.path().join("one");
        std::fs::create_dir_all(folder.path().join("one/u/half")).unwrap();
        assert_eq!(names(folder.path()).unwrap(), ["one"]);
        ensure(&layer, Owner::HOST_ROOT, "key", 0o755).unwrap();
        assert_eq!(std::fs::read_dir(layer.join(UPPER)).unwrap().count(), 0);
        assert_eq!(names(folder.path()).unwrap(), ["one"]);
    }
}
