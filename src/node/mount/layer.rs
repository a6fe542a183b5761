//! Writable layers: what a container on the default rootfs has changed, on the host's disk.
//!
//! ```text
//! <state-dir>/layers/<container>/
//!     u        the overlay's upper folder; its root belongs to the container's root
//!     w        the overlay's work folder
//!     rootfs   which copy of the default rootfs is below: a layer fits no other
//! ```
//! Made whole under another name and renamed, so that a crash leaves a layer or none. A layer is
//! kept when its place dies, and is used again by the next place of the same container.

use super::error::{Result, attempting, failed};
use super::owner::Owner;
use super::remove::remove_tree;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};
use std::io;
use std::path::Path;

/// The overlay's upper folder, in its layer.
pub(super) const UPPER: &str = "u";
/// The overlay's work folder, in its layer.
pub(super) const WORK: &str = "w";
const BELOW: &str = "rootfs";
/// Ends the name of a layer that is being made.
const UNFINISHED: &str = ".new";

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

/// Which copy of a rootfs a layer is above; `None` where there is no layer.
pub(super) fn below(layer: &Path) -> Result<Option<String>> {
    let file = layer.join(BELOW);
    match std::fs::read_to_string(&file) {
        Ok(text) if !text.is_empty() => Ok(Some(text)),
        Ok(_) => Err(failed(format!("{} is empty; the layer cannot be used", file.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(format!("reading {}: {error}", file.display()))),
    }
}

fn make(layer: &Path, owner: Owner, rootfs: &str, root_mode: u32) -> io::Result<()> {
    let unfinished = unfinished(layer);
    match std::fs::create_dir(&unfinished) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove_tree(&unfinished)?;
            std::fs::create_dir(&unfinished)?;
        }
        result => result?,
    }
    let (upper, work) = (unfinished.join(UPPER), unfinished.join(WORK));
    std::fs::create_dir(&upper)?;
    std::fs::create_dir(&work)?;
    rustix::fs::chmod(&unfinished, Mode::from_raw_mode(0o700))?;
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    rustix::fs::chownat(CWD, &upper, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::chmod(&upper, Mode::from_raw_mode(root_mode))?;
    std::fs::write(unfinished.join(BELOW), rootfs)?;
    std::fs::rename(&unfinished, layer)
}

/// Removes a layer, whole or not. One that is not there is removed.
pub(super) fn remove(layer: &Path) -> Result<()> {
    for folder in [layer.to_owned(), unfinished(layer)] {
        remove_tree(&folder).map_err(attempting(format!("removing the writable layer {}", folder.display())))?;
    }
    Ok(())
}

/// Whose layers are in this folder, whole or not: names as they are, for the caller to judge.
pub(super) fn names(layers: &Path) -> Result<Vec<String>> {
    let listed = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(layers)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name.strip_suffix(UNFINISHED).unwrap_or(&name).to_owned());
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    };
    match listed() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(attempting(format!("listing {}", layers.display()))),
    }
}

fn unfinished(layer: &Path) -> std::path::PathBuf {
    let mut name = layer.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
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
        std::fs::create_dir_all(folder.path().join("one.new/u/half")).unwrap();
        assert_eq!(names(folder.path()).unwrap(), ["one"]);
        ensure(&layer, Owner::HOST_ROOT, "key", 0o755).unwrap();
        assert_eq!(std::fs::read_dir(layer.join(UPPER)).unwrap().count(), 0);
        assert_eq!(names(folder.path()).unwrap(), ["one"]);
    }
}
