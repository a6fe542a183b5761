//! Containers on images: layers of containerd's, seen by all and changed by none.

use crate::common::containerd::{Host, pinned};
use crate::image::{Layout, one_file};
use crate::world::{MAPPED, Source, World, in_both_worlds, in_world, mount_tmpfs, privileged, unmount};
use gardend::node::containerd::{Connection, NAMESPACE, OwnerMark};
use gardend::node::images::{self, ImageNode};
use gardend::node::mount::MountNode;
use gardend_controller::ports::{Images, Rootfs};
use gardend_controller::record::{ContainerSpec, ImageReference, RootfsSource};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A tar of a folder.
fn packed(folder: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.follow_symlinks(false);
    tar.append_dir_all(".", folder).unwrap();
    tar.into_inner().unwrap()
}

/// A tar of an empty file with this name and owner.
fn owned(path: &str, id: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    header.set_mode(0o644);
    header.set_uid(id);
    header.set_gid(id);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, path, std::io::empty()).unwrap();
    tar.into_inner().unwrap()
}

/// An image of several layers, one of which takes from another.
fn image(world: &World) -> ImageReference {
    let layers = [
        packed(&world.rootfs("base")),
        one_file("etc/gone", "below"),
        owned("etc/.wh.gone", 0),
        owned("etc/others", 1000),
    ];
    Layout::new(world.path("layout")).image("1", &layers, &[]).parse().unwrap()
}

struct Fixture {
    host: Host,
    images: ImageNode,
    node: MountNode,
}

impl Fixture {
    fn new(world: &World) -> Self {
        let _runtime = world.enter();
        let host = Host::start(&pinned(), &world.path(""));
        let owner = OwnerMark::of(world.folders.state(), world.folders.run()).unwrap();
        let connection = Connection::lazy(&host.socket(), NAMESPACE);
        let images = ImageNode::new(connection, owner, images::Options::default()).unwrap();
        Self { host, node: world.node().with_images(images.clone()), images }
    }

    fn spec(&self, world: &World, reference: ImageReference) -> ContainerSpec {
        let mut rootfs = RootfsSource::image(reference.clone());
        rootfs.resolve(world.block_on(self.images.pull(&reference, None)).unwrap().image);
        ContainerSpec { rootfs, ..ContainerSpec::default() }
    }
}

/// What a container on [`image`] sees, and what it changes stays its own.
fn is_as_it_should_be(world: &World, node: &MountNode, spec: &ContainerSpec) {
    for spec in [spec.clone(), privileged(spec.clone())] {
        for _ in 0..2 {
            let place = world.furnish(node, "one", &spec).unwrap();
            let seen = place.shell("stat -c %u:%g / /bin/busybox /etc/others; ls /etc/gone");
            assert_eq!(seen.1, "0:0\n0:0\n1000:1000\nls: /etc/gone: No such file or directory\n");
            assert_eq!(place.shell("echo more >> /etc/passwd; rm /etc/others; mkdir /etc/gone"), (0, String::new()));
            let upper = world.folders.layer(&place.container).join("u/etc/passwd");
            assert_eq!(fs::metadata(upper).unwrap().uid(), if spec.privileged { 0 } else { MAPPED });
            place.kill();
            world.block_on(node.release(&place.container)).unwrap();
        }
    }
}

#[test]
fn an_image_is_seen_with_its_owners_and_changed_by_nobody() {
    in_both_worlds(|world| {
        let fixture = Fixture::new(world);
        let spec = fixture.spec(world, image(world));
        is_as_it_should_be(world, &fixture.node, &spec);
        assert!(!world.folders.state().join("rootfs/images").exists(), "nothing was copied");
    });
}

#[test]
fn where_owners_cannot_be_mapped_by_the_kernel_an_image_is_copied_once() {
    in_world(Source::Private, |world| {
        let state = world.path("state");
        crate::world::mount_without_id_maps(&state);
        let fixture = Fixture::new(world);
        let spec = fixture.spec(world, image(world));
        is_as_it_should_be(world, &fixture.node, &spec);
        let copies = || fs::read_dir(state.join("rootfs/images")).unwrap().count();
        assert_eq!(copies(), 1);
        drop(fixture);
        // Of an image that no container is on, the copy goes with the next start.
        drop(world.node());
        assert_eq!(copies(), 0);
        unmount(&state).unwrap();
    });
}

#[test]
fn nothing_of_gardends_keeps_an_images_layers_busy_once_its_containers_are_gone() {
    in_world(Source::Shared, |world| {
        let host = world.make("host");
        mount_tmpfs(&host);
        let mut fixture = Fixture::new(world);
        let spec = fixture.spec(world, image(world));
        let place = world.furnish(&fixture.node, "one", &spec).unwrap();
        assert_eq!(place.read("/etc/passwd").lines().count(), 1);
        place.kill();
        world.block_on(fixture.node.release(&place.container)).unwrap();
        fixture.host.kill();
        unmount(&host).expect("a gardend that runs holds none of containerd's files");
        drop(fixture.node);
    });
}

#[test]
fn a_layer_fits_the_image_that_it_was_made_on_and_no_other() {
    in_world(Source::Private, |world| {
        let fixture = Fixture::new(world);
        let spec = fixture.spec(world, image(world));
        let place = world.furnish(&fixture.node, "one", &spec).unwrap();
        place.kill();
        let layers = [packed(&world.path("base")), one_file("other", "x")];
        let other = Layout::new(world.path("other")).image("1", &layers, &[]).parse().unwrap();
        let other = fixture.spec(world, other);
        let mut again = world.place(crate::sys::Kind::Unprivileged);
        again.container = place.container.clone();
        let error = world.furnish_place(&fixture.node, &again, "one", &other).unwrap_err();
        assert!(error.message.contains("is above another image"), "{error}");
    });
}
