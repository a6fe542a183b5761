//! Detached mount trees: made on the host's side, attached to nothing, gone with their descriptor.
//!
//! Every tree is private, all the way down, from before its first move: one that stays a peer of
//! a mount of the host (any, where `/` is shared) would make the pivot fail and carry the
//! container's mounts back to the host.

use crate::node::sys::{MountChange, set_mount_attributes};
use rustix::fs::{CWD, FileType};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A mount tree that may or may not be attached yet.
pub(super) struct Tree(OwnedFd);

/// Whether it can be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    AsItIs,
    ReadOnly,
}

impl Tree {
    /// What is at `path`, with the mounts below it.
    pub(super) fn of(path: &Path, access: Access) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        Self::prepared(open_tree(CWD, path, flags)?, access)
    }

    /// What `file` is open on, with the mounts below it.
    pub(super) fn of_file(file: impl AsFd, access: Access) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_EMPTY_PATH;
        Self::prepared(open_tree(file, "", flags)?, access)
    }

    /// What is at `path`, without the mounts below it.
    pub(super) fn of_this_mount(path: &Path, id_map: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, path, flags)?;
        set_mount_attributes(&tree, c"", &MountChange { private: true, id_map, ..MountChange::default() })?;
        Ok(Self(tree))
    }

    /// What fsmount(2) made.
    pub(super) fn of_new_mount(mount: OwnedFd) -> io::Result<Self> {
        Self::prepared(mount, Access::AsItIs)
    }

    fn prepared(tree: OwnedFd, access: Access) -> io::Result<Self> {
        let read_only = access == Access::ReadOnly;
        let change = MountChange { read_only, private: true, recursive: true, id_map: None };
        set_mount_attributes(&tree, c"", &change)?;
        Ok(Self(tree))
    }

    /// Mounts it on what `target` is open on, in the calling thread's mount namespace.
    pub(super) fn attach(&self, target: impl AsFd) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.0, "", target, "", flags).map_err(Into::into)
    }

    /// A folder, and not a file.
    pub(super) fn is_folder(&self) -> io::Result<bool> {
        is_folder(&self.0)
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether a descriptor is of a folder.
pub(super) fn is_folder(file: impl AsFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) == FileType::Directory)
}
