//! Images on the fake node.

use super::Call;
use super::ports::Life;
use super::world::World;
use crate::ports::{Collect, ImageSeen, Images, InUse, NodeError, NodeErrorKind, PullProgress, Pulled};
use crate::record::{ImageCredentials, ImageDigest, ImageLocation, ImageReference, ResolvedImage};
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::SystemTime;

/// The same for the same name.
fn image(name: &str) -> ResolvedImage {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let digest = |salt: u64| ImageDigest::new(format!("sha256:{:016x}{salt:048x}", hasher.finish()));
    let digest = |salt| digest(salt).expect("it is one");
    ResolvedImage { digest: digest(0), chain: digest(1), env: vec![format!("IMAGE={name}")], bytes: 1024, inodes: 8 }
}

fn seen(world: &World, in_use: &BTreeSet<ImageDigest>) -> Vec<ImageSeen> {
    let seen = |(name, image): (&String, &ResolvedImage)| ImageSeen {
        names: vec![name.clone()],
        digest: image.digest.clone(),
        bytes: image.bytes,
        last_used: SystemTime::UNIX_EPOCH,
        in_use: in_use.contains(&image.digest),
    };
    world.images.iter().map(seen).collect()
}

#[async_trait]
impl Images for Life {
    async fn pull(
        &self,
        reference: &ImageReference,
        credentials: Option<&ImageCredentials>,
    ) -> Result<Pulled, NodeError> {
        self.plain(Call::Pull, |world| {
            let missing =
                matches!(reference.location(), ImageLocation::Registry { host, .. } if host == "missing.example");
            if missing {
                return Err(NodeError::new(NodeErrorKind::Invalid, format!("{reference}: manifest unknown")));
            }
            world.credentials.extend(credentials.cloned());
            let image = image(&reference.name());
            world.images.insert(reference.name(), image.clone());
            let pin = Arc::clone(world.pins.entry(image.digest.clone()).or_default());
            Ok(Pulled { image, pin, bytes: 0 })
        })
        .await
    }

    async fn list(&self, in_use: InUse<'_>) -> Result<Vec<ImageSeen>, NodeError> {
        self.plain(Call::ListImages, |_| Ok(())).await?;
        Ok(self.images_seen(in_use))
    }

    /// Nothing is ever too old or too much here.
    async fn collect(&self, which: Collect, in_use: InUse<'_>) -> Result<Vec<ImageSeen>, NodeError> {
        self.plain(Call::Collect, |_| Ok(())).await?;
        let unused = self.surplus(which, in_use).await?;
        self.world().images.retain(|name, _| !unused.iter().any(|image| image.names.contains(name)));
        Ok(unused)
    }

    async fn surplus(&self, which: Collect, in_use: InUse<'_>) -> Result<Vec<ImageSeen>, NodeError> {
        if which != Collect::Unused {
            return Ok(Vec::new());
        }
        let mut unused = self.images_seen(in_use);
        unused.retain(|image| !image.in_use);
        Ok(unused)
    }

    /// Pulls take no time here.
    fn pulling(&self, _: &ImageReference) -> Option<PullProgress> {
        None
    }
}

impl Life {
    fn images_seen(&self, in_use: InUse<'_>) -> Vec<ImageSeen> {
        // First: what is let go of meanwhile is in use by then.
        let held: BTreeSet<ImageDigest> = {
            let world = self.world();
            let held = world.pins.iter().filter(|(_, pin)| Arc::strong_count(pin) > 1);
            held.map(|(digest, _)| digest.clone()).collect()
        };
        // Not under the lock of the world: it asks the controller.
        let used: BTreeSet<ImageDigest> = in_use().union(&held).cloned().collect();
        seen(&self.world(), &used)
    }
}
