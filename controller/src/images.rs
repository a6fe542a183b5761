//! Images, from the controller's side: pulled before a container or a process needs them, recorded
//! as what they were found to be, and collected while nothing uses them.
//!
//! Promises: credentials go to the port and nowhere else; an image stays from before it is recorded
//! until its last user is gone; a pull's failure is its create's. The node decides what is too old
//! or too much.

use crate::error::Error;
use crate::ledger::Durable;
use crate::ports::{Collect, ImageSeen, NodeError, NodeErrorKind, PullProgress, Pulled};
use crate::record::{
    ContainerUid, ImageCredentials, ImageDigest, ImageReference, ProcessSpec, ProcessUid, ResolvedImage, Stage,
};
use crate::service::Controller;
use crate::shared::{Key, Shared};
use crate::state::{Failure, keep_event};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Pulls the image of a container that is being created, and records what it is.
pub async fn bring(
    shared: &Arc<Shared>,
    uid: &ContainerUid,
    reference: &ImageReference,
    credentials: Option<&ImageCredentials>,
) -> Result<(), Failure> {
    let pulled = tokio::select! {
        biased;
        pulled = pull(shared, reference, credentials) => pulled,
        // Ends never; dropped, it leaves what it last noted.
        never = note_progress(shared, uid, reference) => match never {},
    };
    let Pulled { image, pin, bytes } = pulled.map_err(|error| Failure::Node(Stage::Image, error))?;
    let event = format!("{reference} was pulled: {bytes} bytes, {}", image.digest);
    let recorded = shared.edit(uid, Durable::Crash, Vec::new(), move |record| {
        record.spec.rootfs.resolve(image.clone());
        record.status.events.retain(|event| !event.starts_with(PULLING));
        if bytes > 0 {
            keep_event(record, event.clone());
        }
    });
    match recorded.await {
        Ok(()) => {}
        Err(Error::Ledger(reason)) => return Err(Failure::Ledger(reason)),
        Err(other) => {
            return Err(Failure::Node(Stage::Image, NodeError::new(NodeErrorKind::Failed, other.to_string())));
        }
    }
    drop(pin);
    shared.wake(Key::Container(uid.clone()));
    Ok(())
}

/// How the event of a pull that is under way begins. There is one, which changes.
const PULLING: &str = "pulling ";
/// A pull is told of once it has taken so long.
const SOON: Duration = Duration::from_secs(1);
/// And then so often.
const AGAIN: Duration = Duration::from_secs(10);

/// Tells in the container's events how far its pull is.
async fn note_progress(
    shared: &Arc<Shared>,
    uid: &ContainerUid,
    reference: &ImageReference,
) -> std::convert::Infallible {
    let mut wait = SOON;
    loop {
        tokio::time::sleep(wait).await;
        let Some(PullProgress { bytes, total, layers, unpacked }) = shared.node.images.pulling(reference) else {
            continue;
        };
        wait = AGAIN;
        let event = format!("{PULLING}{reference}: {bytes} of {total} bytes, {unpacked} of {layers} layers unpacked");
        let noted = shared.edit(uid, Durable::Crash, Vec::new(), move |record| {
            record.status.events.retain(|event| !event.starts_with(PULLING));
            keep_event(record, event.clone());
        });
        if let Err(error) = noted.await {
            // It is told only; what is wrong with the ledger shows in what matters.
            tracing::debug!(%error, "how far a pull is could not be noted");
        }
    }
}

/// Pulls the image of a process that is being started, where it has one, and notes in its spec,
/// and in what is known of it, what it is.
pub async fn bring_for_process(shared: &Shared, uid: &ProcessUid, spec: &mut ProcessSpec) -> Result<(), NodeError> {
    let Some(image) = &mut spec.image else { return Ok(()) };
    let credentials = image.credentials.take();
    let Some(reference) = image.rootfs.unresolved().cloned() else { return Ok(()) };
    let pulled = pull(shared, &reference, credentials.as_ref()).await?;
    image.rootfs.resolve(pulled.image.clone());
    let mut state = shared.state();
    if let Some(kept) = state.processes.get_mut(uid).and_then(|process| process.record.spec.image.as_mut()) {
        kept.rootfs.resolve(pulled.image);
    }
    drop(state);
    // Not under the lock: what it lets go of is not ours.
    drop(pulled.pin);
    Ok(())
}

async fn pull(
    shared: &Shared,
    reference: &ImageReference,
    credentials: Option<&ImageCredentials>,
) -> Result<Pulled, NodeError> {
    let pulled = shared.node.images.pull(reference, credentials).await;
    if let Err(error) = &pulled {
        tracing::warn!(image = %reference, %error, "an image was not pulled");
    }
    pulled
}

/// The images of everything that is there, wanted or not, until nothing of it is left.
pub fn in_use(shared: &Shared) -> BTreeSet<ImageDigest> {
    let state = shared.state();
    let containers = state.containers.values().filter_map(|container| container.record.spec.rootfs.resolved());
    let processes = state.processes.values().filter(|process| process.alive());
    let processes = processes.filter_map(|process| process.record.spec.image.as_ref()?.rootfs.resolved());
    let digests = |image: &ResolvedImage| [image.digest.clone(), image.chain.clone()];
    containers.chain(processes).flat_map(digests).collect()
}

/// Removes what is too old or too much. Called by every look of the sweeper.
pub async fn collect_surplus(shared: Arc<Shared>) {
    match shared.node.images.collect(Collect::Routine, &|| in_use(&shared)).await {
        Ok(removed) => {
            for image in removed {
                tracing::info!(
                    image = image.names.join(", "),
                    bytes = image.bytes,
                    "an image that nobody uses was removed"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "images could not be looked through"),
    }
}

/// An image that is on the node, and who uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownImage {
    /// What the node knows of it.
    pub seen: ImageSeen,
    /// Handles of containers, and `handle/process` of processes that have it as their own.
    pub users: Vec<String>,
}

/// Who uses which manifest.
fn users(shared: &Shared) -> BTreeMap<ImageDigest, Vec<String>> {
    let state = shared.state();
    let mut users: BTreeMap<ImageDigest, Vec<String>> = BTreeMap::new();
    for container in state.containers.values() {
        if let Some(image) = container.record.spec.rootfs.resolved() {
            users.entry(image.digest.clone()).or_default().push(container.record.handle.to_string());
        }
    }
    for process in state.processes.values().filter(|process| process.alive()) {
        let image = process.record.spec.image.as_ref().and_then(|image| image.rootfs.resolved());
        let owner = state.containers.get(&process.record.container);
        if let (Some(image), Some(owner)) = (image, owner) {
            let user = format!("{}/{}", owner.record.handle, process.record.id);
            users.entry(image.digest.clone()).or_default().push(user);
        }
    }
    users.values_mut().for_each(|users| users.sort());
    users
}

impl Controller {
    /// The images that are on the node, the one used last first.
    ///
    /// # Errors
    /// [`Error::Node`] where the node cannot tell.
    pub async fn images(&self) -> Result<Vec<KnownImage>, Error> {
        let seen = self.shared.node.images.list(&|| in_use(&self.shared)).await?;
        let mut users = users(&self.shared);
        let known = |seen: ImageSeen| KnownImage { users: users.remove(&seen.digest).unwrap_or_default(), seen };
        Ok(seen.into_iter().map(known).collect())
    }

    /// Sees to it that an image is on the node. It may be collected once what is answered is
    /// dropped. Dropped before, the pull is given up, unless others wait for it.
    ///
    /// # Errors
    /// [`Error::Node`] says why it is not.
    pub async fn pull_image(
        &self,
        reference: &ImageReference,
        credentials: Option<&ImageCredentials>,
    ) -> Result<Pulled, Error> {
        let _pass = self.shared.gate.enter()?;
        Ok(pull(&self.shared, reference, credentials).await?)
    }

    /// How far the pull of an image is, where one is under way.
    pub fn pulling(&self, reference: &ImageReference) -> Option<PullProgress> {
        self.shared.node.images.pulling(reference)
    }

    /// Removes images that nobody uses; answers which.
    ///
    /// # Errors
    /// [`Error::Node`] where one could not be removed; others may be gone.
    pub async fn prune_images(&self, which: Collect) -> Result<Vec<ImageSeen>, Error> {
        let _pass = self.shared.gate.enter()?;
        Ok(self.shared.node.images.collect(which, &|| in_use(&self.shared)).await?)
    }

    /// What [`Controller::prune_images`] would remove now.
    ///
    /// # Errors
    /// [`Error::Node`] where the node cannot tell.
    pub async fn prunable_images(&self, which: Collect) -> Result<Vec<ImageSeen>, Error> {
        Ok(self.shared.node.images.surplus(which, &|| in_use(&self.shared)).await?)
    }
}
