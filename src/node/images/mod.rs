//! The controller's port `Images` made real: images from registries and OCI layouts, kept in
//! containerd's own stores, where its tools see them.
//!
//! ```text
//!   reference ─▶ digest (asked each time: who may have it is the registry's to say)
//!             ─▶ on the node already? held. Else fetched, under a lease: documents and layers to the
//!                content store, layers to the overlayfs snapshotter; named; held
//! ```
//! Held means: a lease and a view of the topmost snapshot, both named after the chain of layers,
//! from the first use until the image is collected. What gardend holds no collection of
//! containerd's takes, whatever becomes of the names.
//!
//! Promises: what several ask for is fetched once; a password serves its pull and is kept nowhere;
//! what a pull that failed or was killed left goes with its lease. Leaves to others: what a
//! container makes of the layers (`mount`).

mod collect;
mod error;
mod fetch;
mod flights;
mod hold;
mod layout;
mod manifest;
mod names;
mod progress;
mod registry;
mod source;
mod transfer;

pub(crate) use names::{LEASE, Names as Marked};
pub use registry::{Mirror, RegistryOptions};

use super::containerd::images::{Blob, Named};
use super::containerd::leases::Collection;
use super::containerd::{CallError, Connection, OwnerMark};
use async_trait::async_trait;
use error::ImageError;
use fetch::{Fetch, Fetched};
use flights::Flights;
use gardend_controller::ports::{Collect, ImageSeen, Images, InUse, NodeError, NodeErrorKind, PullProgress, Pulled};
use gardend_controller::record::{ImageCredentials, ImageDigest, ImageReference, ImageVersion, ResolvedImage};
use hold::Pin;
use manifest::{Config, Document, Platform};
use names::{Names, Written};
use registry::Registries;
use source::Source;
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Notify, OnceCell};
use tokio_util::sync::CancellationToken;
use transfer::{Progress, Turns};

/// A lease of a pull that nobody ended loses its force after so long.
const PULL_EXPIRES: Duration = Duration::from_secs(24 * 3600);

/// What an operator can set.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How registries are reached.
    pub registries: RegistryOptions,
    /// Images that nobody has used for so long go. `None`: never for that.
    pub max_age: Option<Duration>,
    /// What images may take on the disk before unused ones go. `None`: no bound.
    pub max_bytes: Option<u64>,
}

/// The node's images. Cheap to clone.
#[derive(Clone)]
pub struct ImageNode(Arc<Inner>);

struct Inner {
    connection: Connection,
    names: Names,
    registries: Registries,
    platform: Platform,
    max_age: Option<Duration>,
    max_bytes: Option<u64>,
    turns: Turns,
    flights: Flights<ImageDigest, Result<Landed, NodeError>>,
    state: Mutex<State>,
    /// Told when an image that was being removed is gone.
    left: Notify,
    settled: OnceCell<()>,
}

/// What a fetch brings for all who wait.
#[derive(Clone)]
struct Landed {
    image: ResolvedImage,
    pin: Arc<Pin>,
    bytes: u64,
}

#[derive(Default)]
struct State {
    /// By manifests.
    pins: HashMap<ImageDigest, Weak<Pin>>,
    /// Manifests that are being removed.
    leaving: HashSet<ImageDigest>,
    /// What a manifest or index is on this machine, once it was looked at.
    known: HashMap<ImageDigest, ResolvedImage>,
    /// The folders of the layers of chains that are held, the topmost first.
    held: HashMap<ImageDigest, Arc<[PathBuf]>>,
    /// When something was last made of a manifest.
    used: HashMap<ImageDigest, SystemTime>,
    collected: Option<Instant>,
    /// By what they fetch.
    under_way: HashMap<ImageDigest, Arc<Progress>>,
    /// What is fetched for those who ask by this name, and how many they are.
    asked: HashMap<String, (ImageDigest, usize)>,
}

impl State {
    fn is_pinned(&self, manifest: &ImageDigest) -> bool {
        self.pins.get(manifest).is_some_and(|pin| pin.strong_count() > 0)
    }

    /// Whether an image of these layers is about to be used.
    fn pins_chain(&self, chain: &ImageDigest) -> bool {
        self.known.values().any(|image| image.chain == *chain && self.is_pinned(&image.digest))
    }
}

impl ImageNode {
    /// On a containerd, as the gardend of this mark. Nothing is asked of containerd yet.
    ///
    /// # Errors
    /// Which option is wrong, and why.
    pub fn new(connection: Connection, owner: OwnerMark, options: Options) -> Result<Self, NodeError> {
        let wrong = |said: String| NodeError::new(NodeErrorKind::Invalid, said);
        let registries = Registries::new(options.registries).map_err(wrong)?;
        Ok(Self(Arc::new(Inner {
            connection,
            names: Names::of(owner),
            registries,
            platform: Platform::of_this_machine(),
            max_age: options.max_age,
            max_bytes: options.max_bytes,
            turns: Turns::default(),
            flights: Flights::default(),
            state: Mutex::default(),
            left: Notify::new(),
            settled: OnceCell::new(),
        })))
    }

    /// The folders of an image's layers, the topmost first. They stay for as long as it is in use.
    ///
    /// # Errors
    /// Where they are not there any more, or containerd does not answer.
    pub async fn layers(&self, image: &ResolvedImage) -> Result<Arc<[PathBuf]>, NodeError> {
        self.0.hold(image).await.map_err(|error| {
            if error.is_not_found() {
                let said = format!(
                    "the layers of image {} are gone from containerd; destroy the container and create it again",
                    image.digest
                );
                return NodeError::new(NodeErrorKind::Failed, said);
            }
            error.into()
        })
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a manifest or index is, by what containerd has of it; `None` where something is missing.
    async fn present(&self, top: &ImageDigest) -> Result<Option<ResolvedImage>, ImageError> {
        if let Some(known) = self.state().known.get(top) {
            return Ok(Some(known.clone()));
        }
        let mut digest = top.clone();
        let manifest = loop {
            let Some(bytes) = self.document(&digest).await? else { return Ok(None) };
            match Document::parse(&bytes)? {
                // No deeper than what was fetched.
                Document::Index(entries) => digest = self.platform.choose(&entries)?.digest.clone(),
                Document::Manifest(manifest) => break manifest,
            }
        };
        let Some(bytes) = self.document(&manifest.config.digest).await? else { return Ok(None) };
        let config = Config::parse(&bytes, manifest.layers.len(), &self.platform)?;
        let chain = config.chain();
        let Some(last) = chain.last() else { return Ok(None) };
        let (mut bytes, mut inodes) = (0, 0);
        for name in &chain {
            match self.connection.snapshot_usage(name.as_str()).await {
                Ok(usage) => (bytes, inodes) = (bytes + usage.bytes, inodes + usage.inodes),
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        let image = ResolvedImage { digest, chain: last.clone(), env: config.env, bytes, inodes };
        self.state().known.insert(top.clone(), image.clone());
        Ok(Some(image))
    }

    async fn document(&self, digest: &ImageDigest) -> Result<Option<Vec<u8>>, CallError> {
        self.connection.read_content(digest.as_str(), registry::MAX_DOCUMENT).await
    }

    /// What anybody may have who asks for this name, where that is on the node.
    async fn free(&self, reference: &ImageReference, source: &Source) -> Result<Option<ImageDigest>, CallError> {
        let written = self.written(&reference.name()).await?;
        let free = written.filter(|(_, written)| written.anonymous && source.is_anonymous());
        Ok(free.and_then(|(named, _)| ImageDigest::new(named.target.digest).ok()))
    }

    /// The name, where it is one of ours.
    async fn written(&self, name: &str) -> Result<Option<(Named, Written)>, CallError> {
        let named = self.connection.image(name).await?;
        Ok(named.and_then(|named| self.names.read(&named.labels).map(|written| (named, written))))
    }

    /// Which image is meant now. Where its registry is away, what anybody may have and is here
    /// will do.
    async fn resolve(&self, reference: &ImageReference, source: &Source) -> Result<ImageDigest, ImageError> {
        if let (Source::Registry { .. }, ImageVersion::Digest(digest)) = (source, reference.version())
            && self.free(reference, source).await?.as_ref() == Some(digest)
        {
            return Ok(digest.clone());
        }
        match source.resolve(reference.version()).await {
            Err(ImageError::Registry(error)) if error.is_transient() => match self.free(reference, source).await? {
                Some(digest) => {
                    tracing::warn!(image = %reference, %error, "its registry does not answer; what is here of it is used");
                    Ok(digest)
                }
                None => Err(error.into()),
            },
            resolved => resolved,
        }
    }

    async fn pull(
        self: &Arc<Self>,
        reference: &ImageReference,
        credentials: Option<&ImageCredentials>,
    ) -> Result<Landed, NodeError> {
        let failed = |error: ImageError| error.of(reference);
        self.settle().await.map_err(|error| failed(error.into()))?;
        let source = Arc::new(Source::of(reference, credentials, &self.registries).map_err(failed)?);
        let top = self.resolve(reference, &source).await.map_err(failed)?;
        if let Some(landed) = self.here(reference, &top, &source).await.map_err(failed)? {
            return Ok(landed);
        }
        let (inner, name) = (Arc::clone(self), reference.name());
        let (shown, of, from) = (reference.to_string(), top.clone(), Arc::clone(&source));
        if self.flights.knows(&top) {
            tracing::info!(image = %reference, "waiting for a pull that is under way");
        }
        let begin = |cancelled| inner.fetch(shown, name, of, from, cancelled);
        let _asked = self.ask(reference.name(), &top);
        let landed = self.flights.join(top.clone(), begin).await;
        let landed = landed.unwrap_or_else(|| Err(failed(ImageError::Node("its pull ended in a panic".into()))))?;
        // It may have been fetched by another name.
        self.name(reference, &top, &landed.image, &source).await.map_err(failed)?;
        Ok(landed)
    }

    /// What is on the node already, held.
    async fn here(
        self: &Arc<Self>,
        reference: &ImageReference,
        top: &ImageDigest,
        source: &Source,
    ) -> Result<Option<Landed>, ImageError> {
        let Some(image) = self.present(top).await? else { return Ok(None) };
        let pin = self.pin(&image.digest).await;
        match self.hold(&image).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {
                self.state().known.remove(top);
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        if !self.name(reference, top, &image, source).await? {
            self.state().known.remove(top);
            return Ok(None);
        }
        Ok(Some(Landed { image, pin, bytes: 0 }))
    }

    /// Gives the image the name that it was asked for by, unless it has it. False where the
    /// documents are gone, as they are after a name was taken away or moved: a name for what is not
    /// there would be a lie.
    async fn name(
        self: &Arc<Self>,
        reference: &ImageReference,
        top: &ImageDigest,
        image: &ResolvedImage,
        source: &Source,
    ) -> Result<bool, ImageError> {
        let name = reference.name();
        let written = self.written(&name).await?;
        if written.is_some_and(|(named, _)| named.target.digest == top.as_str()) {
            return Ok(true);
        }
        let labels = self.names.image_labels(&image.digest, &image.chain, image.bytes, source.is_anonymous());
        let (inner, top, manifest) = (Arc::clone(self), top.clone(), image.digest.clone());
        // On its own: whoever asked may go away, and the lease would be left.
        let named = tokio::spawn(async move { inner.name_leased(name, &top, &manifest, labels).await });
        named.await.unwrap_or_else(|_| Err(ImageError::Node("naming it ended in a panic".into())))
    }

    async fn name_leased(
        &self,
        name: String,
        top: &ImageDigest,
        manifest: &ImageDigest,
        labels: HashMap<String, String>,
    ) -> Result<bool, ImageError> {
        let lease = self.names.pull();
        let expires = SystemTime::now() + PULL_EXPIRES;
        self.connection.create_lease(&lease, self.names.lease_labels(), Some(expires)).await?;
        let named = async {
            // Held before it is looked for, until the name holds it: the name that it had may move
            // away at this moment, and containerd collect.
            self.connection.hold_content(&lease, top.as_str()).await?;
            let Some(bytes) = self.document(top).await? else { return Ok(false) };
            if manifest != top && self.document(manifest).await?.is_none() {
                return Ok(false);
            }
            let target =
                Blob { media_type: manifest::media_type(&bytes), digest: top.to_string(), size: bytes.len() as u64 };
            self.connection.name_image(&Named { name, target, labels }).await?;
            Ok(true)
        };
        let named = named.await;
        self.end_lease(&lease).await;
        named
    }

    /// Ends the lease of a pull, however that went.
    async fn end_lease(&self, lease: &str) {
        if let Err(error) = self.connection.delete_lease(lease, Collection::Later).await {
            tracing::warn!(%error, "the lease of a pull is left; it loses its force within a day");
        }
    }

    /// Fetches an image, names it and holds it.
    async fn fetch(
        self: Arc<Self>,
        shown: String,
        name: String,
        top: ImageDigest,
        source: Arc<Source>,
        cancelled: CancellationToken,
    ) -> Result<Landed, NodeError> {
        let lease = self.names.pull();
        let failed = |error: ImageError| error.of(&shown);
        let expires = SystemTime::now() + PULL_EXPIRES;
        let made = self.connection.create_lease(&lease, self.names.lease_labels(), Some(expires)).await;
        made.map_err(|error| failed(error.into()))?;
        let progress = self.begin_progress(&top);
        let fetch = Fetch {
            connection: self.connection.clone(),
            names: self.names.clone(),
            platform: self.platform.clone(),
            turns: self.turns.clone(),
            source: Arc::clone(&source),
            shown: shown.clone(),
            top: top.clone(),
            lease: lease.clone(),
            progress: progress.progress(),
            // What ends its parts, where one has failed, is not what says that nobody waits.
            cancelled: cancelled.child_token(),
        };
        let landed = async {
            let Fetched { image, target, bytes } = fetch.run().await?;
            let pin = self.pin(&image.digest).await;
            // Pinned and known: nobody takes its layers away.
            self.state().known.insert(top, image.clone());
            self.hold(&image).await?;
            let labels = self.names.image_labels(&image.digest, &image.chain, image.bytes, source.is_anonymous());
            self.connection.name_image(&Named { name, target, labels }).await?;
            Ok(Landed { image, pin, bytes })
        };
        let landed = landed.await;
        self.end_lease(&lease).await;
        landed.map_err(failed)
    }
}

#[async_trait]
impl Images for ImageNode {
    async fn pull(
        &self,
        reference: &ImageReference,
        credentials: Option<&ImageCredentials>,
    ) -> Result<Pulled, NodeError> {
        let Landed { image, pin, bytes } = self.0.pull(reference, credentials).await?;
        let pin: Arc<dyn Any + Send + Sync> = pin;
        Ok(Pulled { image, pin, bytes })
    }

    async fn list(&self, in_use: InUse<'_>) -> Result<Vec<ImageSeen>, NodeError> {
        Ok(self.0.list(in_use).await?)
    }

    async fn collect(&self, which: Collect, in_use: InUse<'_>) -> Result<Vec<ImageSeen>, NodeError> {
        Ok(self.0.collect(which, in_use).await?)
    }

    async fn surplus(&self, which: Collect, in_use: InUse<'_>) -> Result<Vec<ImageSeen>, NodeError> {
        Ok(self.0.surplus(which, in_use).await?)
    }

    fn pulling(&self, reference: &ImageReference) -> Option<PullProgress> {
        self.0.pulling(&reference.name())
    }
}
