//! A mount namespace of gardend's own in which overlays are put together.
//!
//! An overlay's layers must be attached somewhere (the kernel takes detached ones only since
//! 6.13), and fsconfig(2) cuts its values at 255 bytes. So there is one namespace, which nobody
//! else sees, with short names for what overlays are made of:
//!
//! ```text
//! /layers            <state-dir>/layers
//! /rootfs/<name>     copies of the default rootfs, as they are or with shifted owners; layers of
//!                    images, while an overlay is put together
//! ```
//! It holds no other mount of the host's, so that it keeps none of them busy. It lives as long as
//! this value; a killed gardend's goes with it.

use super::entry::Home;
use super::error::{Result, attempting};
use super::tree::Tree;
use super::work::lock;
use crate::node::sys::{MountChange, set_mount_attributes, unshare_mounts};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags};
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// See the module.
pub(super) struct Workshop {
    inside: Home,
    attached: Mutex<HashSet<String>>,
}

impl Workshop {
    /// Builds it. Leaves the calling thread inside it.
    pub(super) fn build(layers: &Path) -> Result<Self> {
        unshare_mounts().map_err(attempting("making a mount namespace for overlays"))?;
        let inside = Home::of_this_thread()?;
        strip(layers).map_err(attempting("furnishing the mount namespace for overlays"))?;
        Ok(Self { inside, attached: Mutex::default() })
    }

    /// Moves the calling thread into it.
    pub(super) fn enter(&self) -> Result<()> {
        self.inside.enter()
    }

    /// Attaches the copy of a rootfs at `source` (a path of the calling thread's namespace) as
    /// `name`, unless that was done before. Leaves the calling thread inside.
    pub(super) fn attach(&self, name: &str, source: &Path, id_map: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut attached = lock(&self.attached);
        if attached.contains(name) {
            return self.enter().map_err(io::Error::other);
        }
        let tree = Tree::of_this_mount(source, id_map)?;
        self.enter().map_err(io::Error::other)?;
        let point = lower(name);
        match rustix::fs::mkdirat(CWD, &point, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        tree.attach(open_folder(&point)?)?;
        attached.insert(name.to_owned());
        Ok(())
    }

    /// Attaches a tree under a name of [`lower`], for a while. The calling thread must be inside.
    pub(super) fn show(&self, name: &Path, tree: &Tree) -> io::Result<()> {
        rustix::fs::mkdirat(CWD, name, Mode::RWXU)?;
        let attached = open_folder(name).and_then(|point| tree.attach(point));
        if attached.is_err() {
            // The first error is the one to tell.
            let _ = rustix::fs::unlinkat(CWD, name, AtFlags::REMOVEDIR);
        }
        attached
    }

    /// Takes it away again. Wherever the calling thread is by then.
    pub(super) fn hide(&self, name: &Path) -> io::Result<()> {
        self.enter().map_err(io::Error::other)?;
        rustix::mount::unmount(name, UnmountFlags::DETACH)?;
        rustix::fs::unlinkat(CWD, name, AtFlags::REMOVEDIR).map_err(Into::into)
    }

    /// Takes a copy of a rootfs away again. The calling thread must be inside.
    pub(super) fn detach(&self, name: &str) -> io::Result<()> {
        if lock(&self.attached).remove(name) {
            rustix::mount::unmount(lower(name), UnmountFlags::DETACH)?;
        }
        Ok(())
    }
}

/// Where [`Workshop::attach`] shows a copy.
pub(super) fn lower(name: &str) -> PathBuf {
    Path::new("/rootfs").join(name)
}

/// Where an overlay is mounted that cannot be made detached.
pub(super) fn bench() -> &'static Path {
    Path::new("/bench")
}

/// Where a container's layer is seen.
pub(super) fn layer(name: &Path) -> PathBuf {
    Path::new("/layers").join(name)
}

/// Leaves a small empty root with the layers in it, and nothing else.
fn strip(layers: &Path) -> io::Result<()> {
    let change = MountChange { private: true, recursive: true, ..MountChange::default() };
    set_mount_attributes(CWD, c"/", &change)?;
    let layers_tree = Tree::of_this_mount(layers, None)?;
    let root = empty_root()?;
    root.attach(open_folder(layers)?)?;
    for folder in ["layers", "rootfs"] {
        rustix::fs::mkdirat(&root, folder, Mode::RWXU)?;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    layers_tree.attach(rustix::fs::openat(&root, "layers", flags, Mode::empty())?)?;
    rustix::process::fchdir(&root)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/").map_err(Into::into)
}

fn empty_root() -> io::Result<Tree> {
    let context: OwnedFd = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("source", "gardend"), ("size", "1m"), ("mode", "0700")] {
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let mount = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Tree::of_new_mount(mount)
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(Into::into)
}
