//! Images, from the controller's side: pulled before a container or a process needs them, recorded
//! as what they were found to be, and collected while nothing uses them.
//!
//! Promises: credentials go to the port and nowhere else; an image stays from before it is recorded
//! until its last user is gone; a pull's failure is its create's. The node decides what is too old
//! or too much.

use crate::error::Error;
use crate::ledger::Durable;
use crate::observe::Observation;
use crate::ports::{Collect, ImageSeen, NodeError, NodeErrorKind, Pulled};
use crate::record::{
    ContainerUid, ImageCredentials, ImageDigest, ImageReference, ProcessSpec, ProcessUid, ResolvedImage, Stage,
};
use crate::service::Controller;
use crate::shared::{Key, Shared};
use crate::state::{Failure, keep_event};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::time::Instant;
use tracing::Instrument;

/// Pulls the image of a container that is being created, and records what it is.
pub async fn bring(
    shared: &Arc<Shared>,
    uid: &ContainerUid,
    reference: &ImageReference,
    credentials: Option<&ImageCredentials>,
) -> Result<(), Failure> {
    let pulled = pull(shared, reference, credentials).await;
    let Pulled { image, pin, bytes } = pulled.map_err(|error| Failure::Node(Stage::Image, error))?;
    let event = format!("{reference} was pulled: {bytes} bytes, {}", image.digest);
    let recorded = shared.edit(uid, Durable::Crash, Vec::new(), move |record| {
        record.spec.rootfs.resolve(image.clone());
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
    let began = Instant::now();
    let span = tracing::info_span!("pull", image = %reference);
    let pulled = shared.node.images.pull(reference, credentials).instrument(span).await;
    let bytes = pulled.as_ref().map_or(0, |pulled| pulled.bytes);
    shared.options.observing.tell(Observation::Pull { bytes, failed: pulled.is_err(), took: began.elapsed() });
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
    match shared.node.images.collect(Collect::Surplus, &|| in_use(&shared)).await {
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

impl Controller {
    /// The images that are on the node.
    ///
    /// # Errors
    /// [`Error::Node`] where the node cannot tell.
    pub async fn images(&self) -> Result<Vec<ImageSeen>, Error> {
        Ok(self.shared.node.images.list(&|| in_use(&self.shared)).await?)
    }

    /// Sees to it that an image is on the node. It may be collected as soon as this has returned.
    ///
    /// # Errors
    /// [`Error::Node`] says why it is not.
    pub async fn pull_image(
        &self,
        reference: &ImageReference,
        credentials: Option<&ImageCredentials>,
    ) -> Result<ResolvedImage, Error> {
        let _pass = self.shared.gate.enter()?;
        Ok(pull(&self.shared, reference, credentials).await?.image)
    }

    /// Removes every image that nobody uses; answers which.
    ///
    /// # Errors
    /// [`Error::Node`] where one could not be removed; others may be gone.
    pub async fn prune_images(&self) -> Result<Vec<ImageSeen>, Error> {
        let _pass = self.shared.gate.enter()?;
        Ok(self.shared.node.images.collect(Collect::Unused, &|| in_use(&self.shared)).await?)
    }
}
