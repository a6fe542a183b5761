//! Containers on the default rootfs: an overlay of the container's own layer above a copy that
//! all share.
//!
//! An unprivileged container sees the copy with shifted owners: by an idmapped mount where kernel
//! and file system can do that below an overlay (found out at the start, by trying), and else by
//! a second copy, made once.

use super::default_rootfs::{PreparedRootfs, Store};
use super::entry::Home;
use super::error::{Result, attempting, failed, invalid};
use super::layer;
use super::owner::{self, Owner};
use super::tree::Tree;
use super::work::lock;
use super::workshop::{self, Workshop};
use crate::node::disk::{Size, measure};
use crate::node::ids::IdMap;
use crate::node::place::Folders;
use crate::node::quota::{self, Support};
use crate::node::sys::new_user_namespace;
use gardend_controller::record::{ContainerUid, Limits};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;

/// How unprivileged containers get to see root's files as theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shift {
    /// The kernel maps owners on the way.
    Mount,
    /// A copy whose owners are shifted on disk.
    Copy,
}

/// Makes overlays above copies of the default rootfs.
pub(super) struct Overlays {
    folders: Folders,
    store: Store,
    current: PreparedRootfs,
    workshop: Workshop,
    map: IdMap,
    namespace: OwnedFd,
    shift: Shift,
    /// By the keys of copies.
    sizes: Mutex<HashMap<String, Size>>,
}

impl Overlays {
    /// Sets up, and tries both kinds of overlay. Blocks; leaves the calling thread elsewhere, so
    /// that it must end or go home.
    pub(super) fn start(
        folders: &Folders,
        store: Store,
        current: PreparedRootfs,
        map: &IdMap,
        home: &Home,
    ) -> Result<Self> {
        let layers = folders.layers();
        std::fs::create_dir_all(&layers).map_err(attempting(format!("making {}", layers.display())))?;
        let text = map.as_text();
        let namespace = new_user_namespace(&text, &text)
            .map_err(attempting("making a user namespace to map owners with (is user.max_user_namespaces 0?)"))?;
        let workshop = Workshop::build(&layers)?;
        let map = map.clone();
        let mut overlays = Self {
            folders: folders.clone(),
            store,
            current,
            workshop,
            map,
            namespace,
            shift: Shift::Mount,
            sizes: Mutex::default(),
        };
        overlays.try_out(home)?;
        home.enter()?;
        Ok(overlays)
    }

    /// The root of a container: its own layer above the copy that it was made on, or the present
    /// one. Leaves the calling thread in another mount namespace.
    pub(super) fn mount(&self, container: &ContainerUid, owner: Owner, limits: &Limits) -> Result<Tree> {
        let folder = self.folders.layer(container);
        let mode = self.store.root_mode(&self.current)?;
        let key = layer::ensure(&folder, owner, self.current.key(), mode)?;
        let below = self.store.find(&key)?;
        if limits.has_disk() {
            let counted = (!limits.disk_scope_exclusive).then(|| self.size(&below)).transpose()?;
            layer::limit(&folder, limits, counted)?;
        }
        self.overlay(&below, container.as_str(), owner)
    }

    /// Refuses limits of the disk that could not be kept for a container on the present copy.
    pub(super) fn check(&self, limits: &Limits) -> Result<()> {
        let layers = self.folders.layers();
        match quota::support(&layers).map_err(attempting("asking for quotas"))? {
            Support::Enforced => {}
            Support::Counted | Support::None => {
                let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
                let why = quota::explain(&layers, &table);
                return Err(invalid(format!(
                    "limits.disk_limits cannot be kept on this node: {why}; or ask again without them"
                )));
            }
        }
        if limits.disk_scope_exclusive {
            return Ok(());
        }
        let size = self.size(&self.current)?;
        for (name, limit, taken) in
            [("byte_hard", limits.disk_byte_hard, size.bytes), ("inode_hard", limits.disk_inode_hard, size.inodes)]
        {
            if limit > 0 && limit <= taken {
                return Err(invalid(format!(
                    "limits.disk_limits.{name}: {limit} is no more than the default rootfs itself takes ({taken}); \
                     ask for more, or for scope 1 (exclusive), which counts the container's own files alone"
                )));
            }
        }
        Ok(())
    }

    /// What a copy takes: it never changes.
    fn size(&self, rootfs: &PreparedRootfs) -> Result<Size> {
        if let Some(known) = lock(&self.sizes).get(rootfs.key()) {
            return Ok(*known);
        }
        let folder = self.store.plain(rootfs);
        let size = measure(&folder).map_err(attempting(format!("measuring {}", folder.display())))?;
        lock(&self.sizes).insert(rootfs.key().to_owned(), size);
        Ok(size)
    }

    /// The layer of this name above a copy.
    fn overlay(&self, below: &PreparedRootfs, layer_name: &str, owner: Owner) -> Result<Tree> {
        let lower = self.attach(below, owner)?;
        compose(&workshop::layer(layer_name), &lower).map_err(|error| {
            let layers = self.folders.layers();
            failed(format!("overlay of {} above the default rootfs: {error}", layers.join(layer_name).display()))
        })
    }

    /// Shows a copy in the workshop, and enters it. Answers the copy's name there.
    fn attach(&self, rootfs: &PreparedRootfs, owner: Owner) -> Result<std::path::PathBuf> {
        let (name, source, id_map);
        if owner == Owner::HOST_ROOT {
            (name, source, id_map) = (format!("{}.plain", rootfs.key()), self.store.plain(rootfs), None);
        } else {
            name = format!("{}.shifted", rootfs.key());
            (source, id_map) = match self.shift {
                Shift::Mount => (self.store.plain(rootfs), Some(self.namespace.as_fd())),
                Shift::Copy => (self.store.shifted(rootfs, &self.map)?, None),
            };
        }
        let what = format!("showing the default rootfs's copy {} to an overlay", source.display());
        self.workshop.attach(&name, &source, id_map).map_err(attempting(what))?;
        Ok(workshop::lower(&name))
    }

    fn try_out(&mut self, home: &Home) -> Result<()> {
        if let Err(error) = self.try_for(Owner::HOST_ROOT, home) {
            let state = self.folders.state().display();
            return Err(failed(format!(
                "{}; the default rootfs needs a --state-dir on a file system that can carry overlays \
                 (ext4, xfs, btrfs, tmpfs; not overlay or NFS), and {state} is on one that cannot, \
                 or the kernel has no overlay",
                error.message
            )));
        }
        let root = owner::of_root(&self.map);
        if let Err(error) = self.try_for(root, home) {
            tracing::info!(reason = %error, "no idmapped overlays here: unprivileged containers get a copy of the default rootfs with shifted owners");
            self.workshop.enter()?;
            let name = format!("{}.shifted", self.current.key());
            self.workshop.detach(&name).map_err(attempting("detaching an idmapped copy"))?;
            self.shift = Shift::Copy;
            self.try_for(root, home)?;
        }
        Ok(())
    }

    fn try_for(&self, owner: Owner, home: &Home) -> Result<()> {
        home.enter()?;
        // No container's uid, so nobody takes it for one's.
        let name = "trial";
        let folder = self.folders.layers().join(name);
        layer::remove(&folder)?;
        layer::ensure(&folder, owner, self.current.key(), 0o755)?;
        let result = self.overlay(&self.current, name, owner).map(drop);
        home.enter()?;
        layer::remove(&folder)?;
        result
    }
}

/// Puts an overlay together. Paths within the layer are relative: short, and no secret of the
/// host's in the container's mount table.
fn compose(layer: &Path, lower: &Path) -> io::Result<Tree> {
    rustix::process::chdir(layer)?;
    let context: OwnedFd = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let told = |error: rustix::io::Errno| explain(&context, error);
    let lower = lower.as_os_str();
    rustix::mount::fsconfig_set_string(context.as_fd(), "source", "overlay").map_err(told)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "lowerdir", lower).map_err(told)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "upperdir", layer::UPPER).map_err(told)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "workdir", layer::WORK).map_err(told)?;
    // A layer outlives its mounts and is used again at once: no claims on it by earlier ones.
    rustix::mount::fsconfig_set_string(context.as_fd(), "index", "off").map_err(told)?;
    // Folders of the image can be renamed, as on any other file system.
    rustix::mount::fsconfig_set_string(context.as_fd(), "redirect_dir", "on").map_err(told)?;
    rustix::mount::fsconfig_create(context.as_fd()).map_err(told)?;
    let mount = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(told)?;
    Tree::of_new_mount(mount)
}

/// The error, with what the kernel noted about it.
fn explain(context: &OwnedFd, error: rustix::io::Errno) -> io::Error {
    let mut notes = Vec::new();
    let mut buffer = [0u8; 1024];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) {
        notes.push(String::from_utf8_lossy(&buffer[..length]).trim().to_owned());
    }
    if notes.is_empty() { error.into() } else { io::Error::other(format!("{error} ({})", notes.join("; "))) }
}
