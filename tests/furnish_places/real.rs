//! The same on places as they really are: made by containerd, every version with every runtime.

use crate::common::containerd::{Cleanup, Host, Version, assert_nothing_left, ctr, pairs, places};
use crate::world::{MAPPED, Place, Source, World, bind, host_mounts, in_world, mount_tmpfs, raw, unmount, with_binds};
use gardend::node::containerd::{Containerd, Runtime};
use gardend::node::mount::{MountNode, Options};
use gardend::node::place::InitProcess;
use gardend_controller::ports::{Rootfs, Sandboxes};
use gardend_controller::record::{BindMode, ContainerSpec, Handle, SandboxId, SandboxKind};
use std::fs;

struct Fixture<'a> {
    world: &'a World,
    version: Version,
    host: Host,
    places: Containerd,
    node: MountNode,
    case: String,
}

impl Fixture<'_> {
    fn furnished(&self, spec: &ContainerSpec) -> Place {
        let id = SandboxId::generate();
        self.world
            .block_on(self.places.ensure(&id, SandboxKind::of(spec)))
            .unwrap_or_else(|error| panic!("{}: {error}", self.case));
        let place = self.place(id);
        let handle = Handle::new("real place").unwrap();
        let furnished = self.world.block_on(self.node.furnish(&place.id, &place.container, &handle, spec, None));
        furnished.unwrap_or_else(|error| panic!("{}: {error}", self.case));
        place
    }

    fn place(&self, id: SandboxId) -> Place {
        let init = InitProcess::read(&self.world.folders.place(&id)).unwrap().expect("init.pid");
        Place::of(id, init.pid, init.open().unwrap().expect("init lives"))
    }

    fn end(&self, place: &Place) {
        self.world.block_on(self.places.kill(&place.id)).unwrap();
    }

    fn remove(&self, place: &Place) {
        self.world.block_on(self.places.remove(&place.id)).unwrap();
        self.world.block_on(self.node.release(&place.container)).unwrap();
    }
}

fn on_every_pair(source: Source, test: impl Fn(&Fixture<'_>) + Send + Sync) {
    for (version, runtime) in pairs() {
        in_world(source, |world| on_pair(world, &version, &runtime, &test));
    }
}

fn on_pair(world: &World, version: &Version, runtime: &Runtime, test: impl Fn(&Fixture<'_>)) {
    let _runtime = world.enter();
    let below = world.path("");
    let cleanup = Cleanup { folders: world.folders.clone(), below: below.clone() };
    let host = Host::start(version, &below);
    let places = places(&world.folders, &host.socket(), runtime);
    let node =
        world.node_with(Options { default_rootfs: Some(world.rootfs("default")), ..Options::default() }).unwrap();
    let case = format!("{} {}", version.name, runtime.name());
    let fixture = Fixture { world, version: version.clone(), host, places, node, case };
    test(&fixture);
    assert_nothing_left(&world.folders, &below);
    // The test's own run folder is a mount below it.
    let mounts = host_mounts();
    drop(fixture);
    drop(cleanup);
    assert_eq!(mounts, host_mounts());
}

#[test]
fn real_places_are_furnished_and_leave_nothing() {
    for source in [Source::Private, Source::Shared] {
        on_every_pair(source, |fixture| {
            let before = host_mounts();
            for privileged in [false, true] {
                let root = fixture.world.rootfs(&format!("root-{privileged}"));
                furnish_one(fixture, &ContainerSpec { privileged, ..raw(&root) });
                furnish_one(fixture, &ContainerSpec { privileged, ..ContainerSpec::default() });
            }
            assert_eq!(before, host_mounts(), "{}", fixture.case);
        });
    }
}

fn furnish_one(fixture: &Fixture<'_>, spec: &ContainerSpec) {
    let case = format!("{}, privileged {}, {:?}", fixture.case, spec.privileged, spec.rootfs);
    let source = fixture.world.make("source");
    mount_tmpfs(&source);
    fs::write(source.join("file"), "seen").unwrap();
    let binds = vec![bind(&source, "/made/rw", BindMode::ReadWrite), bind(&source, "/made/ro", BindMode::ReadOnly)];
    let place = fixture.furnished(&with_binds(spec.clone(), binds));

    let owner = if spec.privileged { 0 } else { MAPPED };
    assert_eq!(place.owner("/made/rw/.."), (owner, owner), "{case}");
    assert_eq!(place.read("/made/ro/file"), "seen", "{case}");
    let (status, text) = place.shell("hostname; ls /; touch /made/rw/x; ls /proc/1/fd > /dev/null && echo procfs");
    assert_eq!((status, &*text), (0, "real place\nbin\ndev\netc\nmade\nproc\nsys\ntmp\nprocfs\n"), "{case}");
    assert_eq!(place.shell("touch /made/ro/x").0, 1, "{case}");
    let mounts = place.mounts();
    for inside in ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/etc/hosts", "/made/rw"] {
        assert_eq!(mounts.iter().filter(|mount| *mount == inside).count(), 1, "{case}: {inside} in {mounts:?}");
    }
    for gone in ["/newroot", "/ctl"] {
        assert!(mounts.iter().all(|mount| !mount.starts_with(gone)), "{case}: {gone} in {mounts:?}");
    }
    if !spec.privileged {
        assert!(
            mounts.iter().any(|mount| mount == "/proc/kcore" || mount == "/proc/keys"),
            "{case}: nothing is masked"
        );
        let (status, text) = place.shell("echo 1 > /proc/sys/kernel/domainname");
        assert!(status != 0 && text.contains("Read-only"), "{case}: {text}");
    }
    // The runtime still knows its way in.
    let exec = ["tasks", "exec", "--exec-id", "probe", place.id.as_str(), "/bin/cat", "/etc/hostname"];
    assert_eq!(ctr(&fixture.version, &fixture.host.socket(), &exec), "real place\n", "{case}");

    fixture.end(&place);
    unmount(&source).unwrap_or_else(|error| panic!("{case}: the source is busy after the kill: {error}"));
    fixture.remove(&place);
}

#[test]
fn places_that_died_half_furnished_leave_nothing() {
    on_every_pair(Source::Shared, |fixture| {
        let source = fixture.world.make("source");
        mount_tmpfs(&source);
        let before = host_mounts();
        let root = fixture.world.rootfs("root");
        let binds =
            vec![bind(&source, "/first", BindMode::ReadWrite), bind(&source, "/etc/passwd", BindMode::ReadOnly)];
        let id = SandboxId::generate();
        fixture.world.block_on(fixture.places.ensure(&id, SandboxKind::Unprivileged)).unwrap();
        let place = fixture.place(id);
        let handle = Handle::new("one").unwrap();
        let spec = with_binds(raw(&root), binds);
        let furnished = fixture.node.furnish(&place.id, &place.container, &handle, &spec, None);
        assert!(fixture.world.block_on(furnished).is_err());
        assert_eq!(host_mounts(), before, "{}", fixture.case);
        fixture.end(&place);
        unmount(&source).unwrap_or_else(|error| panic!("{}: {error}", fixture.case));
        fixture.remove(&place);
    });
}
