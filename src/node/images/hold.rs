//! What keeps images where they are: pins, from a pull's answer until somebody has recorded it, and
//! holds, of chains of layers, for as long as the image is on the node.

use super::{Inner, names};
use crate::node::containerd::leases::Collection;
use crate::node::containerd::snapshots::SNAPSHOTTER;
use crate::node::containerd::{CallError, NAMESPACE};
use gardend_controller::record::{ImageDigest, ResolvedImage};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

/// What keeps an image that is about to be used.
pub(super) struct Pin;

impl Inner {
    /// Ends what an earlier gardend's pulls left. Once.
    pub(super) async fn settle(&self) -> Result<(), CallError> {
        let settle = async {
            self.connection.ensure_namespace(NAMESPACE).await?;
            let leases = self.connection.leases(names::LEASE, self.names.owner()).await?;
            for lease in leases.iter().map(|lease| &lease.id).filter(|id| id.starts_with(&self.names.pulls())) {
                tracing::info!(lease, "what a pull of an earlier gardend left is given up");
                self.connection.delete_lease(lease, Collection::Later).await?;
            }
            Ok(())
        };
        self.settled.get_or_try_init(|| settle).await.map(drop)
    }

    /// Keeps an image from being collected. One that is just being removed is waited for.
    pub(super) async fn pin(&self, manifest: &ImageDigest) -> Arc<Pin> {
        loop {
            let left = self.left.notified();
            {
                let mut state = self.state();
                if !state.leaving.contains(manifest) {
                    let pin = state.pins.get(manifest).and_then(Weak::upgrade).unwrap_or_else(|| Arc::new(Pin));
                    state.pins.retain(|_, pin| pin.strong_count() > 0);
                    state.pins.insert(manifest.clone(), Arc::downgrade(&pin));
                    state.used.insert(manifest.clone(), SystemTime::now());
                    return pin;
                }
            }
            left.await;
        }
    }

    /// Sees to it that an image's layers stay, and tells where they are.
    pub(super) async fn hold(&self, image: &ResolvedImage) -> Result<Arc<[PathBuf]>, CallError> {
        let chain = &image.chain;
        let known = || self.state().held.get(chain).cloned();
        if let Some(layers) = known() {
            return Ok(layers);
        }
        let name = self.names.hold(chain);
        let turn = self.turns.of(&name);
        let _held = turn.lock().await;
        if let Some(layers) = known() {
            return Ok(layers);
        }
        self.connection.ensure_namespace(NAMESPACE).await?;
        // With what it is written: its name may be taken away, or move to another image.
        let mut labels = self.names.image_labels(&image.digest, chain, image.bytes, false);
        labels.extend(self.names.lease_labels());
        self.connection.create_lease(&name, labels, None).await?;
        // Before it is looked for, so that what is found stays.
        self.connection.hold_snapshot(&name, SNAPSHOTTER, &name).await?;
        match self.connection.view_snapshot(&name, &name, chain.as_str()).await {
            Ok(layers) => {
                let layers: Arc<[PathBuf]> = layers.into();
                self.state().held.insert(chain.clone(), Arc::clone(&layers));
                Ok(layers)
            }
            Err(error) => {
                if error.is_not_found() {
                    self.connection.delete_lease(&name, Collection::Later).await?;
                }
                Err(error)
            }
        }
    }
}
