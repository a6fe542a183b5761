//! What the port of images promises, and what containers on an image see of each other.

use super::Contract;
use crate::ports::{Collect, NodeErrorKind};
use crate::record::{ContainerSpec, ContainerUid, ExitStatus, ImageDigest, ImageReference, RootfsSource};
use std::collections::BTreeSet;

/// All of it.
pub(super) async fn check_all(contract: &Contract, image: &ImageReference, no_image: &ImageReference) {
    an_image_that_is_not_there_is_refused_by_its_name(contract, no_image).await;
    an_image_stays_while_it_is_held_or_used_and_goes_after(contract, image).await;
    containers_of_one_image_share_it_and_nothing_else(contract, image).await;
}

/// `Invalid`, and the error says which.
async fn an_image_that_is_not_there_is_refused_by_its_name(contract: &Contract, no_image: &ImageReference) {
    let refused = contract.node.images.pull(no_image, None).await;
    let refused = refused.err().expect("it is not there");
    assert_eq!(refused.kind, NodeErrorKind::Invalid, "{refused}");
    assert!(refused.message.contains(no_image.as_str()), "{refused}");
}

async fn seen_in_use(contract: &Contract, digest: &ImageDigest) -> Option<bool> {
    let seen = contract.node.images.list(&BTreeSet::new).await.expect("images are listed");
    seen.iter().find(|image| image.digest == *digest).map(|image| image.in_use)
}

/// A pin counts as use; whoever asks for it twice gets the same.
async fn an_image_stays_while_it_is_held_or_used_and_goes_after(contract: &Contract, image: &ImageReference) {
    let images = &contract.node.images;
    let (first, second) = tokio::join!(images.pull(image, None), images.pull(image, None));
    let (first, second) = (first.expect("it is pulled"), second.expect("it is pulled"));
    assert_eq!(first.image, second.image);
    let digest = first.image.digest.clone();
    drop(first);
    let collect = async |used: BTreeSet<ImageDigest>| {
        let removed = images.collect(Collect::Unused, &|| used.clone()).await.expect("images are collected");
        removed.iter().any(|image| image.digest == digest)
    };
    assert!(!collect(BTreeSet::new()).await, "it is held");
    assert_eq!(seen_in_use(contract, &digest).await, Some(true));
    drop(second);
    assert_eq!(seen_in_use(contract, &digest).await, Some(false));
    assert!(!collect(BTreeSet::from([digest.clone()])).await, "it is used");
    assert!(collect(BTreeSet::new()).await, "nobody needs it");
    assert!(!collect(BTreeSet::new()).await, "it is gone");
    assert_eq!(seen_in_use(contract, &digest).await, None);
}

/// And it is pulled again where it has gone.
async fn containers_of_one_image_share_it_and_nothing_else(contract: &Contract, image: &ImageReference) {
    let images = &contract.node.images;
    let pulled = images.pull(image, None).await.expect("it is pulled");
    let mut spec = ContainerSpec { rootfs: RootfsSource::image(image.clone()), ..contract.spec.clone() };
    spec.rootfs.resolve(pulled.image.clone());
    let (one, other) = (
        contract.place_of(&spec, ContainerUid::generate(), None).await,
        contract.place_of(&spec, ContainerUid::generate(), None).await,
    );
    for place in [&one, &other] {
        let process = place.spawn(&(contract.programs.exit)(3)).await;
        assert_eq!(contract.exit_of(&process).await, ExitStatus::Code(3));
    }
    one.remove().await;
    other.remove().await;
    drop(pulled.pin);
    let removed = images.collect(Collect::Unused, &BTreeSet::new).await.expect("images are collected");
    assert!(removed.iter().any(|image| image.digest == pulled.image.digest), "{removed:?}");
}
