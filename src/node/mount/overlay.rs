//! Containers on the default rootfs or on an image: an overlay of the container's own layer above
//! what all share, a copy or the image's layers.
//!
//! An unprivileged container sees what is below with shifted owners: by idmapped mounts where
//! kernel and file system can do that below an overlay (found out by trying), and else by another
//! copy, made once.

use super::compose::{compose, compose_for_reading};
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
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

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
    current: Option<PreparedRootfs>,
    workshop: Workshop,
    map: IdMap,
    namespace: OwnedFd,
    shift: Shift,
    /// By the keys of copies.
    sizes: Mutex<HashMap<String, Size>>,
    /// Numbers the places in the workshop where layers are seen while an overlay is put together.
    shown: AtomicU64,
    /// One image is copied at a time.
    copying: Mutex<()>,
}

/// An image's layers on the host.
#[derive(Clone, Debug)]
pub(super) struct ImageLayers {
    /// The name of them all together.
    pub(super) chain: String,
    /// Their folders, the topmost first.
    pub(super) folders: Arc<[PathBuf]>,
    /// What they take.
    pub(super) size: Size,
}

impl Overlays {
    /// Sets up, and tries both kinds of overlay. Blocks; leaves the calling thread elsewhere, so
    /// that it must end or go home.
    pub(super) fn start(
        folders: &Folders,
        store: Store,
        current: Option<PreparedRootfs>,
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
            shown: AtomicU64::new(0),
            copying: Mutex::default(),
        };
        overlays.try_out(home)?;
        home.enter()?;
        Ok(overlays)
    }

    /// The root of a container: its own layer above the copy that it was made on, or the present
    /// one. Leaves the calling thread in another mount namespace.
    pub(super) fn mount(&self, container: &ContainerUid, owner: Owner, limits: &Limits) -> Result<Tree> {
        let folder = self.folders.layer(container);
        let current = self.current()?;
        let mode = self.store.root_mode(current)?;
        let key = layer::ensure(&folder, owner, current.key(), mode)?;
        let below = self.store.find(&key)?;
        if limits.has_disk() {
            let counted = (!limits.disk_scope_exclusive).then(|| self.size(&below)).transpose()?;
            layer::limit(&folder, limits, counted)?;
        }
        self.overlay(&below, container.as_str(), owner)
    }

    /// The root of a container, or of a process, on an image: a layer of its own in `folder`, which
    /// is one of those of this gardend, above the image's. Leaves the calling thread in another
    /// mount namespace.
    pub(super) fn mount_image(
        &self,
        folder: &Path,
        image: &ImageLayers,
        owner: Owner,
        limits: &Limits,
        home: &Home,
    ) -> Result<Tree> {
        let top = image.folders.first().ok_or_else(|| failed("an image without layers"))?;
        let what = || format!("looking at the image's layer {}", top.display());
        let mode = std::fs::metadata(top).map_err(attempting(what()))?.mode() & 0o7777;
        let below = layer::ensure(folder, owner, &image.chain, mode)?;
        if below != image.chain {
            return Err(failed(format!("the writable layer {} is above another image, {below}", folder.display())));
        }
        if limits.has_disk() {
            let counted = (!limits.disk_scope_exclusive).then_some(image.size);
            if let Some(size) = counted {
                refuse_too_small(limits, size, "the image")?;
            }
            layer::limit(folder, limits, counted)?;
        }
        let within = folder.strip_prefix(self.folders.layers()).map_err(attempting("finding a writable layer"))?;
        let within = workshop::layer(within);
        let told = |error: io::Error| failed(format!("overlay of {} above an image: {error}", folder.display()));
        if owner == Owner::HOST_ROOT || self.shift == Shift::Mount {
            let id_map = (owner != Owner::HOST_ROOT).then_some(self.namespace.as_fd());
            match self.show(&image.folders, id_map)? {
                Ok(shown) => return compose(&within, &shown.names).map_err(told),
                Err(error) if id_map.is_some() && cannot_map(&error) => {
                    tracing::debug!(%error, "the image's file system cannot map owners");
                    home.enter()?;
                }
                Err(error) => return Err(attempting("showing the image's layers to an overlay")(error)),
            }
        }
        let copy = self.shifted_image(image, home)?;
        home.enter()?;
        let shown = self.show(&[copy], None)?.map_err(attempting("showing an image's copy to an overlay"))?;
        compose(&within, &shown.names).map_err(told)
    }

    /// A copy of an image with shifted owners, made once an image and never once a container.
    fn shifted_image(&self, image: &ImageLayers, home: &Home) -> Result<PathBuf> {
        let key = image_key(&image.chain);
        let copying = lock(&self.copying);
        let made = self.store.image_copy(&key, &self.map);
        if !made.is_dir() {
            tracing::info!(image = image.chain, "copying an image with shifted owners: no idmapped overlays here");
            let shown = self.show(&image.folders, None)?.map_err(attempting("showing an image's layers"))?;
            // Only to be read: it is what the layers are together.
            let merged = compose_for_reading(&shown.names).map_err(attempting("putting an image together"))?;
            home.enter()?;
            self.store.copy_image(&made, merged.as_fd(), &self.map)?;
        }
        drop(copying);
        Ok(made)
    }

    /// Shows folders in the workshop, and enters it. They are taken out of sight again with the
    /// answer; an overlay that was made of them keeps them itself.
    fn show(&self, folders: &[PathBuf], id_map: Option<BorrowedFd<'_>>) -> Result<io::Result<Shown<'_>>> {
        let trees = folders.iter().map(|folder| Tree::of_this_mount(folder, id_map)).collect::<io::Result<Vec<_>>>();
        let trees = match trees {
            Ok(trees) => trees,
            Err(error) => return Ok(Err(error)),
        };
        self.workshop.enter()?;
        let number = self.shown.fetch_add(1, Ordering::Relaxed);
        let mut shown = Shown { workshop: &self.workshop, names: Vec::with_capacity(trees.len()) };
        for (index, tree) in trees.iter().enumerate() {
            let name = workshop::lower(&format!("{number:x}.{index:x}"));
            if let Err(error) = self.workshop.show(&name, tree) {
                return Ok(Err(error));
            }
            shown.names.push(name);
        }
        Ok(Ok(shown))
    }

    fn current(&self) -> Result<&PreparedRootfs> {
        self.current
            .as_ref()
            .ok_or_else(|| invalid("this server has no default rootfs; start gardend with --default-rootfs"))
    }

    /// Whether containers may name no rootfs.
    pub(super) fn has_default(&self) -> bool {
        self.current.is_some()
    }

    /// Refuses limits of the disk that could not be kept for a container on the present copy.
    pub(super) fn check(&self, limits: &Limits) -> Result<()> {
        self.check_quotas()?;
        if limits.disk_scope_exclusive {
            return Ok(());
        }
        refuse_too_small(limits, self.size(self.current()?)?, "the default rootfs")
    }

    /// Refuses limits of the disk where there are no quotas.
    pub(super) fn check_quotas(&self) -> Result<()> {
        let layers = self.folders.layers();
        match quota::support(&layers).map_err(attempting("asking for quotas"))? {
            Support::Enforced => Ok(()),
            Support::Counted | Support::None => {
                let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
                let why = quota::explain(&layers, &table);
                Err(invalid(format!(
                    "limits.disk_limits cannot be kept on this node: {why}; or ask again without them"
                )))
            }
        }
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
        compose(&workshop::layer(Path::new(layer_name)), &[lower]).map_err(|error| {
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
                "{}; images and the default rootfs need a --state-dir on a file system that can carry overlays \
                 (ext4, xfs, btrfs, tmpfs; not overlay or NFS), and {state} is on one that cannot, \
                 or the kernel has no overlay",
                error.message
            )));
        }
        let root = owner::of_root(&self.map);
        if let Err(error) = self.try_for(root, home) {
            tracing::info!(reason = %error, "no idmapped overlays here: unprivileged containers get a copy of the default rootfs with shifted owners");
            self.workshop.enter()?;
            let name = format!("{}.shifted", self.tried().key());
            self.workshop.detach(&name).map_err(attempting("detaching an idmapped copy"))?;
            self.shift = Shift::Copy;
            if self.current.is_some() {
                self.try_for(root, home)?;
            }
        }
        Ok(())
    }

    /// What overlays are tried out with: the default rootfs, or an empty folder.
    fn tried(&self) -> PreparedRootfs {
        self.current.clone().unwrap_or_else(PreparedRootfs::empty)
    }

    fn try_for(&self, owner: Owner, home: &Home) -> Result<()> {
        home.enter()?;
        // No container's uid, so nobody takes it for one's.
        let name = "trial";
        let folder = self.folders.layers().join(name);
        layer::remove(&folder)?;
        let tried = self.tried();
        layer::ensure(&folder, owner, tried.key(), 0o755)?;
        let result = self.overlay(&tried, name, owner).map(drop);
        home.enter()?;
        layer::remove(&folder)?;
        result
    }
}

/// Folders that are seen in the workshop until this goes.
struct Shown<'a> {
    workshop: &'a Workshop,
    names: Vec<PathBuf>,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(error) = self.workshop.hide(name) {
                tracing::debug!(name = %name.display(), %error, "a layer stays in the workshop");
            }
        }
    }
}

/// What says that a file system cannot be mounted with shifted owners.
fn cannot_map(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS))
}

/// A name for a folder: as long as those of copies of the default rootfs.
fn image_key(chain: &str) -> String {
    chain.rsplit(':').next().unwrap_or(chain).to_owned()
}

/// Refuses a limit in total that what is below exhausts alone.
fn refuse_too_small(limits: &Limits, size: Size, what: &str) -> Result<()> {
    for (name, limit, taken) in
        [("byte_hard", limits.disk_byte_hard, size.bytes), ("inode_hard", limits.disk_inode_hard, size.inodes)]
    {
        if limit > 0 && limit <= taken {
            return Err(invalid(format!(
                "limits.disk_limits.{name}: {limit} is no more than {what} itself takes ({taken}); \
                 ask for more, or for scope 1 (exclusive), which counts the container's own files alone"
            )));
        }
    }
    Ok(())
}
