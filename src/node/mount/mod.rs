//! The controller's `Rootfs` port made real: what a container's files are, and how they get into
//! its place.
//!
//! Owns `<state-dir>/layers` and `<state-dir>/rootfs`, and `etc/` in a place's folder. Promises:
//! no mount ever appears in the host's mount namespace, so none can be left there; nothing is
//! forked or executed; whatever a client's path or an image's symlink says, what is mounted or
//! made stays beneath the container's root; no call waits longer than its deadline.
//! Leaves to others: places and their init ([`super::containerd`], [`super::place`]), and killing
//! a place whose furnishing failed.

pub mod default_rootfs;

mod attributes;
mod beneath;
mod compose;
mod copy;
mod entry;
mod error;
mod furnish;
mod identity;
mod layer;
mod overlay;
mod owner;
mod remove;
mod tree;
mod unpack;
mod wanted;
mod work;
mod workshop;

pub use entry::{HostMounts, OwnMounts};
pub use remove::remove_tree;

use super::disk::Size;
use super::ids::IdMap;
use super::images::ImageNode;
use super::network::Resolver;
use super::place::Folders;
use super::rights::PrivilegedMode;
use async_trait::async_trait;
use default_rootfs::Store;
use entry::Home;
use error::{Result, attempting, failed, invalid};
use furnish::{Furnishing, ProcessFurnishing};
use gardend_controller::ports::{NetworkWanted, NodeError, Rootfs};
use gardend_controller::record::{
    ContainerSpec, ContainerUid, Handle, Limits, ProcessImage, ProcessUid, ResolvedImage, RootfsSource, SandboxId,
};
use overlay::{ImageLayers, Overlays};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use wanted::{DefaultRootfs, Wanted};
use work::Workers;

/// What an operator, or a test, can set.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder or a tar for containers that name no rootfs.
    pub default_rootfs: Option<PathBuf>,
    /// Whose paths clients give.
    pub host_mounts: HostMounts,
    /// How unprivileged places map ids; they are refused where they do otherwise.
    pub id_map: IdMap,
    /// How containers find names.
    pub resolver: Resolver,
    /// What privileged containers are given.
    pub privileged_mode: PrivilegedMode,
    /// How long checking and furnishing may take, each.
    pub deadline: Duration,
    /// How long a caller waits for a layer's removal, which goes on meanwhile.
    pub release_deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            default_rootfs: None,
            host_mounts: HostMounts::Own,
            id_map: IdMap::garden(),
            resolver: Resolver::default(),
            privileged_mode: PrivilegedMode::Full,
            deadline: Duration::from_secs(10),
            release_deadline: Duration::from_secs(60),
        }
    }
}

/// Where a container on the default rootfs keeps what it has changed, and what it shares with the
/// others above the same copy.
pub fn layer_of(folders: &Folders, container: &ContainerUid) -> (PathBuf, Option<PathBuf>) {
    let layer = folders.layer(container);
    let below = layer::below(&layer).ok().flatten();
    (layer.join(layer::UPPER), below.map(|key| Store::new(folders).copy_of(&key)))
}

/// Where a container on an image keeps what it has changed.
pub fn upper_of(folders: &Folders, container: &ContainerUid) -> PathBuf {
    folders.layer(container).join(layer::UPPER)
}

/// `seen` with the limits of the disk that are in force on a container's layer.
///
/// # Errors
/// Where they cannot be read.
pub fn disk_limits_in_force(folders: &Folders, container: &ContainerUid, seen: Limits) -> std::io::Result<Limits> {
    layer::limits_in_force(&folders.layer(container), seen)
}

/// The node's mounts. See the module.
#[derive(Clone)]
pub struct MountNode {
    folders: Folders,
    options: Options,
    /// Or why there are none, where nothing needed them at the start.
    overlays: std::result::Result<Arc<Overlays>, Arc<str>>,
    images: Option<ImageNode>,
    workers: Workers,
}

impl MountNode {
    /// The same, with containers and processes on images.
    #[must_use]
    pub fn with_images(self, images: ImageNode) -> Self {
        Self { images: Some(images), ..self }
    }

    /// Prepares what all containers share: copies the default rootfs where that was not done
    /// before, tries overlays out, removes copies that nobody uses any more. Blocks for as long as
    /// that takes; meant for the start.
    ///
    /// # Errors
    /// Where the default rootfs cannot be used, or overlays cannot be made in the state folder.
    pub fn new(folders: Folders, options: Options) -> Result<Self> {
        let (at, asked) = (folders.clone(), options.clone());
        // On a thread of its own, since it goes through several mount namespaces.
        let preparing = std::thread::Builder::new()
            .name("mount-start".into())
            .spawn(move || prepare(&at, &asked))
            .map_err(attempting("starting a thread"))?;
        let overlays =
            preparing.join().map_err(|_| failed("preparing the default rootfs ended in a panic; see the log"))??;
        let overlays = overlays.map(Arc::new).map_err(|error| error.message.into());
        Ok(Self { folders, options, overlays, images: None, workers: Workers::default() })
    }

    /// Gives a process of the place a root of its own. Its mounts go with it, whatever happens.
    ///
    /// # Errors
    /// `Invalid` for what cannot be had, such as an image that is missing.
    pub async fn furnish_process(
        &self,
        (sandbox, uid): (&SandboxId, &ProcessUid),
        process: OwnMounts,
        image: &ProcessImage,
    ) -> Result<()> {
        let furnishing = ProcessFurnishing {
            place: self.folders.place(sandbox),
            process,
            wanted: Wanted::of_process(image)?,
            layer: self.folders.process_layer(sandbox, uid),
            image: self.image(&image.rootfs).await?,
            host: self.options.host_mounts.clone(),
            map: self.options.id_map.clone(),
        };
        let furnish = move |cancelled: &work::Cancelled| furnishing.run(cancelled);
        self.workers.run("giving a process its image", self.options.deadline, furnish).await
    }

    /// Removes what a process on an image has changed, once it has ended. What cannot be removed
    /// goes with its place.
    pub async fn release_process(&self, sandbox: &SandboxId, process: &ProcessUid) -> Result<()> {
        self.remove_layer("a process", self.folders.process_layer(sandbox, process)).await
    }

    /// The same of all processes of a place that is dead.
    pub async fn release_processes(&self, sandbox: &SandboxId) -> Result<()> {
        let folder = self.folders.process_layers(sandbox);
        let remove = move |_: &work::Cancelled| remove_process_layers(&folder);
        let what = format!("releasing the files of the processes of place {sandbox}");
        self.workers.run(&what, self.options.release_deadline, remove).await
    }

    async fn remove_layer(&self, of: &str, layer: PathBuf) -> Result<()> {
        let remove = move |_: &work::Cancelled| layer::remove(&layer);
        self.workers.run(&format!("releasing the files of {of}"), self.options.release_deadline, remove).await
    }

    fn wanted(&self, spec: &ContainerSpec) -> Result<Wanted> {
        let default = self.overlays.as_ref().is_ok_and(|overlays| overlays.has_default());
        Wanted::of(spec, if default { DefaultRootfs::Set } else { DefaultRootfs::NotSet })
    }

    /// What an overlay needs of an image, and what makes it; nothing for other sources.
    async fn image(&self, rootfs: &RootfsSource) -> Result<Option<OnImage>> {
        let RootfsSource::Image(image) = rootfs else { return Ok(None) };
        let overlays = self.overlays_for_images()?;
        let images = self.images.as_ref().ok_or_else(|| invalid("this node has no images"))?;
        let unresolved = || failed(format!("image {} was not pulled yet", image.reference));
        let ResolvedImage { chain, bytes, inodes, .. } = image.resolved.as_ref().ok_or_else(unresolved)?;
        let folders = images.layers(image.resolved.as_ref().ok_or_else(unresolved)?).await?;
        let size = Size { bytes: *bytes, inodes: *inodes };
        Ok(Some(OnImage { overlays, layers: ImageLayers { chain: chain.to_string(), folders, size } }))
    }

    fn overlays_for_images(&self) -> Result<Arc<Overlays>> {
        let why = |why: &Arc<str>| invalid(format!("images cannot be used on this node: {why}"));
        self.overlays.as_ref().map(Arc::clone).map_err(why)
    }
}

/// An image that something is to be furnished with.
struct OnImage {
    overlays: Arc<Overlays>,
    layers: ImageLayers,
}

fn remove_process_layers(folder: &Path) -> Result<()> {
    for name in layer::names(folder)? {
        layer::remove(&folder.join(name))?;
    }
    remove::remove_tree(folder).map_err(attempting(format!("removing {}", folder.display())))?;
    if let Some(all) = folder.parent() {
        // Of the last place; while there are others it stays.
        let _ = std::fs::remove_dir(all);
    }
    Ok(())
}

fn prepare(folders: &Folders, options: &Options) -> Result<Result<Overlays>> {
    let store = Store::new(folders);
    let current = match &options.default_rootfs {
        Some(path) => Some(default_rootfs::prepare(folders, path)?),
        None => None,
    };
    let mut used: BTreeSet<String> = current.iter().map(|rootfs| rootfs.key().to_owned()).collect();
    remove_layers_of_dead_places(folders)?;
    for name in layer::names(&folders.layers())? {
        used.extend(layer::below(&folders.layers().join(name))?);
    }
    store.remove_all_but(&used)?;
    let hex = |chain: &String| chain.rsplit(':').next().map(str::to_owned);
    store.remove_images_but(&used.iter().filter_map(hex).collect())?;
    if current.is_none() {
        store.make_empty()?;
    }
    crate::node::sys::unshare_working_folder().map_err(attempting("giving the mount thread its own working folder"))?;
    let home = Home::of_this_thread()?;
    let needed = current.is_some();
    let overlays = Overlays::start(folders, store, current, &options.id_map, &home);
    match overlays {
        Err(error) if !needed => {
            tracing::info!(reason = %error, "no overlays here: containers on images are refused");
            home.enter()?;
            Ok(Err(error))
        }
        overlays => overlays.map(Ok),
    }
}

/// What processes on images left in places that are not there any more.
fn remove_layers_of_dead_places(folders: &Folders) -> Result<()> {
    let all = folders.all_process_layers();
    for name in layer::names(&all)? {
        if !folders.places().join(&name).exists() {
            remove_process_layers(&all.join(name))?;
        }
    }
    Ok(())
}

#[async_trait]
impl Rootfs for MountNode {
    async fn check(&self, spec: &ContainerSpec) -> std::result::Result<(), NodeError> {
        let wanted = self.wanted(spec)?;
        let host = self.options.host_mounts.clone();
        let limits = spec.limits;
        let overlays = match &wanted.rootfs {
            RootfsSource::Default => self.overlays.as_ref().ok().cloned(),
            RootfsSource::Image(_) => Some(self.overlays_for_images()?),
            RootfsSource::Raw(path) if limits.has_disk() => {
                return Err(invalid(format!(
                    "limits.disk_limits cannot be kept for a rootfs that is a folder of the node's own ({}): its files \
                     are not gardend's to count; put the folder on a file system of that size, or ask again without them",
                    path.display()
                )));
            }
            RootfsSource::Raw(_) => None,
        };
        let on_default = wanted.rootfs == RootfsSource::Default;
        let look = move |_: &work::Cancelled| {
            match overlays.filter(|_| limits.has_disk()) {
                Some(overlays) if on_default => overlays.check(&limits)?,
                // Of an image the size is not known yet.
                Some(overlays) => overlays.check_quotas()?,
                None => {}
            }
            if matches!(host, HostMounts::Of(_)) {
                crate::node::sys::unshare_working_folder()
                    .map_err(attempting("giving the mount thread its own working folder"))?;
            }
            host.enter()?;
            wanted.look()
        };
        self.workers.run("looking at the rootfs and bind mount sources", self.options.deadline, look).await
    }

    async fn furnish(
        &self,
        sandbox: &SandboxId,
        container: &ContainerUid,
        handle: &Handle,
        spec: &ContainerSpec,
        network: Option<&NetworkWanted>,
    ) -> std::result::Result<(), NodeError> {
        let furnishing = Furnishing {
            place: self.folders.place(sandbox),
            container: container.clone(),
            handle: handle.clone(),
            network: network.cloned(),
            resolver: self.options.resolver.clone(),
            privileged: self.options.privileged_mode.rights(spec.privileged).is_full(),
            limits: spec.limits,
            wanted: self.wanted(spec)?,
            host: self.options.host_mounts.clone(),
            map: self.options.id_map.clone(),
            overlays: self.overlays.as_ref().ok().cloned(),
            layer: self.folders.layer(container),
            image: self.image(&spec.rootfs).await?,
        };
        let claim = self.workers.claim(container, self.options.deadline).await?;
        let furnish = move |cancelled: &work::Cancelled| {
            let _claim = claim;
            furnishing.run(cancelled)
        };
        self.workers.run(&format!("furnishing container {handle}"), self.options.deadline, furnish).await
    }

    async fn release(&self, container: &ContainerUid) -> std::result::Result<(), NodeError> {
        let layer = self.folders.layer(container);
        let claim = self.workers.claim(container, self.options.release_deadline).await?;
        let remove = move |_: &work::Cancelled| {
            let _claim = claim;
            layer::remove(&layer)
        };
        self.workers
            .run(&format!("releasing the files of container {container}"), self.options.release_deadline, remove)
            .await
    }

    async fn list(&self) -> std::result::Result<Vec<ContainerUid>, NodeError> {
        let layers = self.folders.layers();
        let names = move |_: &work::Cancelled| layer::names(&layers);
        let names = self.workers.run("listing writable layers", self.options.deadline, names).await?;
        Ok(names.iter().filter_map(|name| ContainerUid::parse(name)).collect())
    }
}
