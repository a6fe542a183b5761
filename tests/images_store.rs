//! Images in containerd's stores: what is kept, what is collected, and what that frees; on every
//! containerd. Pulls from registries are tried by the real Garden client (tests/go).

#[path = "common/containerd.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod containerd;
#[path = "common/image.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod image;

use containerd::{Host, Version, ctr, folder, versions};
use gardend::node::containerd::{Connection, NAMESPACE, OwnerMark};
use gardend::node::images::{ImageNode, Options};
use gardend_controller::ports::{Collect, ImageSeen, Images, InUse};
use gardend_controller::record::{ImageDigest, ImageReference, ResolvedImage};
use image::Layout;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A containerd, and layouts to pull from.
struct World {
    below: tempfile::TempDir,
    host: Host,
    version: Version,
}

impl World {
    fn new(version: &Version) -> Self {
        println!("{}", version.name);
        let below = folder();
        let host = Host::start(version, below.path());
        Self { below, host, version: version.clone() }
    }

    /// The images of one gardend. Another one of the same name is the next gardend in its place.
    fn gardend(&self, name: &str, options: Options) -> ImageNode {
        let folder = self.below.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        let owner = OwnerMark::of(&folder, &folder).unwrap();
        ImageNode::new(Connection::lazy(&self.host.socket(), NAMESPACE), owner, options).unwrap()
    }

    /// An image of one file of so many bytes that do not shrink, above what all of them share.
    fn image(&self, name: &str, bytes: usize) -> ImageReference {
        let layout = Layout::new(self.below.path().join("layouts").join(name));
        let mut state =
            name.bytes().fold(88_172_645_463_325_252_u64, |state, byte| state.wrapping_mul(31) ^ u64::from(byte));
        let noise: String = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b'!' + u8::try_from(state % 90).unwrap())
        })
        .take(bytes)
        .collect();
        let layers = [image::one_file("shared", "by all"), image::one_file("noise", &noise)];
        layout.image("1.0", &layers, &["A=b"]).parse().unwrap()
    }

    fn ctr(&self, arguments: &[&str]) -> String {
        ctr(&self.version, &self.host.socket(), arguments)
    }

    /// What containerd has on the disk.
    fn size(&self) -> u64 {
        gardend::node::disk::measure(&self.below.path().join("host/root")).unwrap().bytes
    }

    fn assert_empty(&self) {
        for what in [&["images", "ls", "-q"][..], &["content", "ls", "-q"], &["leases", "ls", "-q"]] {
            assert_eq!(self.ctr(what), "", "{what:?}");
        }
        assert_eq!(self.ctr(&["snapshots", "ls"]).lines().count(), 1, "only the heading");
        assert_eq!(snapshots(self.below.path()), Vec::<PathBuf>::new());
    }
}

fn snapshots(below: &Path) -> Vec<PathBuf> {
    containerd::entries(&below.join("host/root/io.containerd.snapshotter.v1.overlayfs/snapshots"))
}

async fn pull(images: &ImageNode, reference: &ImageReference) -> ResolvedImage {
    images.pull(reference, None).await.unwrap().image
}

fn nobody() -> BTreeSet<ImageDigest> {
    BTreeSet::new()
}

fn user_of(image: &ResolvedImage) -> impl Fn() -> BTreeSet<ImageDigest> + Send + Sync {
    let used = BTreeSet::from([image.digest.clone(), image.chain.clone()]);
    move || used.clone()
}

fn names(images: &[ImageSeen]) -> Vec<&str> {
    images.iter().flat_map(|image| &image.names).map(|name| name.rsplit('/').next().unwrap()).collect()
}

/// On every containerd, with a runtime that ends with it.
fn on_every_containerd(test: impl AsyncFn(&World)) {
    for version in versions() {
        let world = World::new(&version);
        tokio::runtime::Runtime::new().unwrap().block_on(test(&world));
    }
}

#[test]
fn what_nobody_uses_is_removed_by_request_and_its_space_is_free_at_once() {
    on_every_containerd(async |world| {
        let images = world.gardend("one", Options::default());
        pull(&images, &world.image("warm-up", 10)).await;
        images.collect(Collect::Unused, &nobody).await.unwrap();
        let before = world.size();
        let used = pull(&images, &world.image("used", 100_000)).await;
        pull(&images, &world.image("unused", 4 << 20)).await;
        assert!(world.size() > before + (7 << 20), "packed and unpacked");

        let removed = images.collect(Collect::Unused, &user_of(&used)).await.unwrap();
        assert_eq!(names(&removed), ["unused:1.0"]);
        assert!(world.size() < before + (1 << 20), "{} before, {} now", before, world.size());
        let there = images.list(&user_of(&used)).await.unwrap();
        assert_eq!((names(&there), there[0].in_use), (vec!["used:1.0"], true));
        let layers = images.layers(&used).await.unwrap();
        assert!(layers.iter().all(|layer| layer.is_dir()) && layers[0].join("noise").is_file());

        images.collect(Collect::Unused, &nobody).await.unwrap();
        world.assert_empty();
    });
}

#[test]
fn what_is_in_use_outlives_every_collection_of_containerds_and_the_loss_of_its_name() {
    on_every_containerd(async |world| {
        let images = world.gardend("one", Options::default());
        let reference = world.image("used", 1000);
        let used = pull(&images, &reference).await;
        world.ctr(&["images", "rm", "--sync", &reference.name()]);
        // Whatever else is removed makes containerd look at everything.
        let other = pull(&images, &world.image("other", 1000)).await;
        world.ctr(&["images", "rm", "--sync", &world.image("other", 1000).name()]);
        // The next gardend, which finds its users in its records.
        let images = world.gardend("one", Options::default());
        let layers = images.layers(&used).await.unwrap();
        assert!(layers[0].join("noise").is_file() && layers[1].join("shared").is_file());
        // It is told of, though nothing names it; and so is the other, which nobody uses, until it is collected.
        let seen = images.list(&user_of(&used)).await.unwrap();
        assert!(seen.iter().all(|one| names(std::slice::from_ref(one)).is_empty()), "{seen:?}");
        let mut told: Vec<_> = seen.iter().map(|one| (&one.digest, one.in_use)).collect();
        told.sort_by_key(|(_, in_use)| *in_use);
        assert_eq!(told, [(&other.digest, false), (&used.digest, true)]);
        let digests = async |collect, users: InUse<'_>| {
            let surplus = images.surplus(collect, users).await.unwrap();
            surplus.into_iter().map(|one| one.digest).collect::<BTreeSet<_>>()
        };
        assert_eq!(digests(Collect::Unused, &user_of(&used)).await, [other.digest.clone()].into());
        assert_eq!(digests(Collect::Surplus, &nobody).await, [other.digest, used.digest.clone()].into());
        images.collect(Collect::Surplus, &user_of(&used)).await.unwrap();
        assert!(layers[0].join("noise").is_file());

        // Once nobody uses it, nothing keeps it, though its name went long before.
        let images = world.gardend("one", Options::default());
        images.collect(Collect::Surplus, &nobody).await.unwrap();
        world.assert_empty();
    });
}

#[test]
fn an_image_is_removed_when_it_was_used_last_too_long_ago() {
    on_every_containerd(async |world| {
        let aged = || world.gardend("one", Options { max_age: Some(Duration::from_secs(2)), ..Options::default() });
        let old = pull(&aged(), &world.image("old", 1000)).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        pull(&aged(), &world.image("new", 1000)).await;
        assert_eq!(names(&aged().collect(Collect::Surplus, &user_of(&old)).await.unwrap()), [""; 0]);
        let removed = aged().collect(Collect::Surplus, &nobody).await.unwrap();
        assert_eq!(names(&removed), ["old:1.0"]);
        // And without a bound never.
        let kept = world.gardend("one", Options::default());
        assert_eq!(names(&kept.collect(Collect::Surplus, &nobody).await.unwrap()), [""; 0]);
    });
}

#[test]
fn images_that_take_too_much_go_the_one_used_longest_ago_first_and_none_that_is_used() {
    on_every_containerd(async |world| {
        let full = || world.gardend("one", Options { max_bytes: Some(2 << 20), ..Options::default() });
        let images = full();
        let first = pull(&images, &world.image("first", 1 << 20)).await;
        // Marks of last use are in seconds.
        for name in ["second", "third"] {
            tokio::time::sleep(Duration::from_millis(1100)).await;
            pull(&images, &world.image(name, 900 << 10)).await;
        }
        let removed = full().collect(Collect::Surplus, &user_of(&first)).await.unwrap();
        assert_eq!(names(&removed), ["second:1.0"]);
        let there = full().list(&nobody).await.unwrap();
        assert_eq!(names(&there), ["third:1.0", "first:1.0"]);
    });
}

#[test]
fn two_gardends_on_one_containerd_share_layers_and_leave_each_others_images_alone() {
    on_every_containerd(async |world| {
        let (one, other) = (world.gardend("one", Options::default()), world.gardend("other", Options::default()));
        let reference = world.image("both", 1000);
        let image = pull(&one, &reference).await;
        assert_eq!(pull(&other, &reference).await, image);
        let third = pull(&other, &world.image("others", 1000)).await;
        one.collect(Collect::Unused, &nobody).await.unwrap();
        let layers = other.layers(&image).await.unwrap();
        assert!(layers[0].join("noise").is_file());
        assert_eq!(other.layers(&third).await.unwrap()[1], layers[1]);
        let there = other.list(&nobody).await.unwrap();
        let mut there = names(&there);
        there.sort_unstable();
        assert_eq!(there, ["both:1.0", "others:1.0"]);
    });
}

#[test]
fn an_image_that_is_asked_for_while_it_is_removed_is_there_afterwards() {
    on_every_containerd(async |world| {
        let images = world.gardend("one", Options::default());
        let reference = world.image("wanted", 1000);
        for _ in 0..8 {
            let first = images.pull(&reference, None).await.unwrap();
            drop(first);
            let (removed, pulled) =
                tokio::join!(images.collect(Collect::Unused, &nobody), images.pull(&reference, None));
            removed.unwrap();
            let pulled = pulled.unwrap();
            assert!(images.layers(&pulled.image).await.unwrap()[0].join("noise").is_file());
            let seen = images.list(&nobody).await.unwrap();
            assert!(seen.iter().any(|seen| seen.in_use && seen.digest == pulled.image.digest), "{seen:?}");
        }
    });
}
