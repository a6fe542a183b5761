//! What goes wrong leaves nothing on the host, and holds nobody up.

use crate::sys::Kind;
use crate::world::{
    Source, bind, host_mounts, in_both_worlds, in_world, mount_tmpfs, privileged, raw, unmount, with_binds,
};
use gardend::node::mount::Options;
use gardend::node::place::InitProcess;
use gardend_controller::ports::{NodeErrorKind, Rootfs};
use gardend_controller::record::{BindMode, ContainerSpec};
use std::fs;
use std::time::{Duration, Instant};

#[test]
fn a_furnishing_that_failed_half_way_leaves_nothing_mounted() {
    in_both_worlds(|world| {
        let (node, root) = (world.node(), world.rootfs("root"));
        let source = world.make("source");
        mount_tmpfs(&source);
        let before = host_mounts();
        for spec in [raw(&root), privileged(raw(&root))] {
            // The first is mounted, the second is refused: a folder on a file.
            let binds =
                vec![bind(&source, "/first", BindMode::ReadWrite), bind(&source, "/etc/passwd", BindMode::ReadWrite)];
            let place = world.place(if spec.privileged { Kind::Privileged } else { Kind::Unprivileged });
            let error = world.furnish_place(&node, &place, "one", &with_binds(spec, binds)).unwrap_err();
            assert_eq!(error.kind, NodeErrorKind::Invalid, "{error}");
            assert_eq!(host_mounts(), before);
            place.kill();
        }
        unmount(&source).expect("nothing holds it once the place is dead");
        assert_eq!(world.block_on(node.list()).unwrap(), []);
    });
}

#[test]
fn a_place_that_is_gone_or_was_never_started_is_an_error() {
    in_both_worlds(|world| {
        let (node, root) = (world.node(), world.rootfs("root"));
        let place = world.place(Kind::Unprivileged);
        place.kill();
        let error = world.furnish_place(&node, &place, "one", &raw(&root)).unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Failed);
        assert!(error.message.contains("is gone"), "{error}");
        fs::remove_file(world.folders.place(&place.id).join("init.pid")).unwrap();
        let error = world.furnish_place(&node, &place, "one", &raw(&root)).unwrap_err();
        assert!(error.message.contains("was never started"), "{error}");
    });
}

#[test]
fn the_hosts_own_namespaces_are_never_taken_for_a_places() {
    in_both_worlds(|world| {
        let (node, root) = (world.node(), world.rootfs("root"));
        let place = world.place(Kind::Privileged);
        // A pid file that names a process which shares the host's UTS namespace, and this one's.
        let child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        InitProcess::of_pid(child.id()).unwrap().write(&world.folders.place(&place.id)).unwrap();
        let error = world.furnish_place(&node, &place, "one", &privileged(raw(&root))).unwrap_err();
        let mut child = child;
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(error.message.contains("is no place"), "{error}");
    });
}

#[test]
fn a_place_is_furnished_once() {
    in_both_worlds(|world| {
        let (node, root) = (world.node(), world.rootfs("root"));
        let place = world.furnish(&node, "one", &raw(&root)).unwrap();
        let mounts = place.mounts();
        let error = world.furnish_place(&node, &place, "one", &raw(&root)).unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Failed);
        assert!(error.message.contains("not blank"), "{error}");
        assert_eq!(place.mounts(), mounts);
    });
}

#[test]
fn a_file_system_that_does_not_answer_holds_nobody_up() {
    in_world(Source::Private, |world| {
        let Some((hung, fuse)) = mount_hung(world) else {
            eprintln!("no /dev/fuse here: a file system that hangs cannot be made");
            return;
        };
        let root = world.rootfs("root");
        let options = Options {
            deadline: Duration::from_millis(300),
            release_deadline: Duration::from_millis(300),
            ..Options::default()
        };
        let node = world.node_with(options).unwrap();
        let spec = with_binds(raw(&root), vec![bind(&hung.join("volume"), "/x", BindMode::ReadWrite)]);
        let started = Instant::now();
        let error = world.block_on(node.check(&spec)).unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Unavailable, "{error}");
        let place = world.place(Kind::Unprivileged);
        let error = world.furnish_place(&node, &place, "one", &spec).unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Unavailable, "{error}");
        let error = world.block_on(node.release(&place.container)).unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Stuck, "its furnishing still hangs: {error}");
        assert!(started.elapsed() < Duration::from_secs(3));
        // Others go on.
        let fine = world.furnish(&node, "two", &raw(&root)).unwrap();
        assert!(fine.path("/proc/1").exists());
        // Without its server the file system answers with errors, and what hung ends.
        drop(fuse);
        let freed = Instant::now();
        while world.block_on(node.release(&place.container)).is_err() {
            assert!(freed.elapsed() < Duration::from_secs(10), "the furnishing that hung has not ended");
        }
        place.kill();
        unmount(&hung).unwrap();
    });
}

/// A FUSE file system whose server never answers.
fn mount_hung(world: &crate::world::World) -> Option<(std::path::PathBuf, fs::File)> {
    use std::os::fd::AsRawFd;
    let server = fs::File::options().read(true).write(true).open("/dev/fuse").ok()?;
    let hung = world.make("hung");
    let data =
        std::ffi::CString::new(format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd())).unwrap();
    rustix::mount::mount("hung", &hung, "fuse", rustix::mount::MountFlags::empty(), &*data).ok()?;
    Some((hung, server))
}

#[test]
fn two_hundred_and_fifty_places_in_a_row_leave_no_mount_behind() {
    in_both_worlds(|world| {
        let default = world.rootfs("default");
        let node = world.node_with(Options { default_rootfs: Some(default), ..Options::default() }).unwrap();
        let root = world.rootfs("root");
        let source = world.make("source");
        let before = host_mounts();
        let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
        let open = descriptors();
        for round in 0..250 {
            let spec = if round % 2 == 0 { raw(&root) } else { ContainerSpec::default() };
            let spec = with_binds(spec, vec![bind(&source, "/source", BindMode::ReadOnly)]);
            let spec = if round % 5 == 0 { privileged(spec) } else { spec };
            let place = world.furnish(&node, &format!("handle-{round}"), &spec).unwrap();
            place.kill();
            world.block_on(node.release(&place.container)).unwrap();
            fs::remove_dir_all(world.folders.place(&place.id)).unwrap();
        }
        assert_eq!(host_mounts(), before);
        // Tests beside this one open some too; a leak would be 250 and more.
        assert!(descriptors() < open + 100, "{} descriptors, {open} before", descriptors());
        assert_eq!(fs::read_dir(world.folders.layers()).unwrap().count(), 0);
    });
}
