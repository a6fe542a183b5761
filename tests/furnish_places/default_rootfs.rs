//! The default rootfs: copied once, an overlay a container.

use crate::sys::Kind;
use crate::world::{MAPPED, Source, World, in_both_worlds, in_world, mount_tmpfs, privileged, unmount};
use gardend::node::mount::{MountNode, Options};
use gardend_controller::ports::{NodeErrorKind, Rootfs};
use gardend_controller::record::{ContainerSpec, ContainerUid};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;

fn node_on(world: &World, default: &Path) -> MountNode {
    world.node_with(options(default)).unwrap()
}

fn options(default: &Path) -> Options {
    Options { default_rootfs: Some(default.to_owned()), ..Options::default() }
}

/// statfs(2)
const EXT4: rustix::fs::FsWord = 0xef53;

fn kernel() -> (u32, u32) {
    let release = rustix::system::uname();
    let mut numbers = release.release().to_str().unwrap().split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The one copy that there is, by its inode.
fn copies(world: &World) -> Vec<u64> {
    let folder = fs::read_dir(world.path("state/rootfs")).unwrap();
    folder.map(|entry| fs::metadata(entry.unwrap().path().join("root")).unwrap().ino()).collect()
}

#[test]
fn containers_share_a_copy_and_change_only_their_own_layer() {
    in_both_worlds(|world| {
        let default = world.rootfs("default");
        fs::write(default.join("etc/others"), "kept").unwrap();
        chown(default.join("etc/others"), Some(1000), Some(1000)).unwrap();
        let node = node_on(world, &default);
        let one = world.furnish(&node, "one", &ContainerSpec::default()).unwrap();
        let two = world.furnish(&node, "two", &ContainerSpec::default()).unwrap();
        let three = world.furnish(&node, "three", &privileged(ContainerSpec::default())).unwrap();
        // Inside, what was root's is root's.
        assert_eq!(one.shell("stat -c %u:%g / /bin/busybox /etc/others"), (0, "0:0\n0:0\n1000:1000\n".into()));
        assert_eq!(three.shell("stat -c %u:%g / /bin/busybox /etc/others"), (0, "0:0\n0:0\n1000:1000\n".into()));
        assert_eq!(one.owner("/bin/busybox"), (MAPPED, MAPPED));
        assert_eq!(three.owner("/bin/busybox"), (0, 0));
        // Copied up, made, removed, renamed: all in the container's own layer.
        let script = "echo more >> /etc/passwd; echo new > /new; rm /etc/others; mv /bin /bin2; /bin2/ls / /etc";
        assert_eq!(one.shell(script).0, 0);
        assert!(one.read("/etc/passwd").ends_with("more\n"));
        let upper = world.folders.layer(&one.container).join("u");
        for made in ["new", "etc/passwd"] {
            let metadata = fs::metadata(upper.join(made)).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (MAPPED, MAPPED), "{made}");
        }
        assert!(!two.read("/etc/passwd").contains("more") && !two.path("/new").exists());
        assert_eq!(two.read("/etc/others"), "kept");
        assert!(default.join("etc/others").exists() && default.join("bin/busybox").exists());
        // On ext4 and with this kernel or a later one owners are mapped on the way, not copied.
        if rustix::fs::statfs(world.path("state")).unwrap().f_type == EXT4 && kernel() >= (5, 19) {
            let copy = fs::read_dir(world.path("state/rootfs")).unwrap().next().unwrap().unwrap().path();
            assert!(!copy.join("shifted").exists());
        }
        // No path of the host's shows inside.
        assert!(!one.read("/proc/1/mountinfo").contains("state"), "{}", one.read("/proc/1/mountinfo"));
        let mut listed = world.block_on(node.list()).unwrap();
        let mut expected = vec![one.container.clone(), two.container.clone(), three.container.clone()];
        listed.sort();
        expected.sort();
        assert_eq!(listed, expected);
        for place in [&one, &two, &three] {
            place.kill();
            world.block_on(node.release(&place.container)).unwrap();
            world.block_on(node.release(&place.container)).unwrap();
        }
        assert_eq!(world.block_on(node.list()).unwrap(), []);
        assert_eq!(fs::read_dir(world.folders.layers()).unwrap().count(), 0);
    });
}

#[test]
fn a_place_that_died_is_replaced_on_the_same_layer() {
    in_both_worlds(|world| {
        let node = node_on(world, &world.rootfs("default"));
        let first = world.furnish(&node, "one", &ContainerSpec::default()).unwrap();
        assert_eq!(first.shell("echo kept > /kept; rm /etc/passwd").0, 0);
        first.kill();
        let mut second = world.place(Kind::Unprivileged);
        second.container = first.container.clone();
        world.furnish_place(&node, &second, "one", &ContainerSpec::default()).unwrap();
        assert_eq!(second.read("/kept"), "kept\n");
        assert!(!second.path("/etc/passwd").exists());
    });
}

#[test]
fn a_copy_is_made_once_and_again_only_when_the_original_changed() {
    in_both_worlds(|world| {
        let default = world.rootfs("default");
        let node = node_on(world, &default);
        let first = copies(world);
        let place = world.furnish(&node, "one", &ContainerSpec::default()).unwrap();
        assert_eq!(place.shell("echo mine > /mine").0, 0);
        place.kill();
        drop(node);
        drop(node_on(world, &default));
        assert_eq!(copies(world), first, "nothing changed, nothing copied");

        fs::write(default.join("etc/added"), "").unwrap();
        let node = node_on(world, &default);
        assert_eq!(copies(world).len(), 2, "a layer is above the old copy");
        let mut again = world.place(Kind::Unprivileged);
        again.container = place.container.clone();
        world.furnish_place(&node, &again, "one", &ContainerSpec::default()).unwrap();
        assert_eq!(again.read("/mine"), "mine\n");
        assert!(!again.path("/etc/added").exists(), "its layer stays above what it was made on");
        let fresh = world.furnish(&node, "two", &ContainerSpec::default()).unwrap();
        assert!(fresh.path("/etc/added").exists());
        for place in [again, fresh] {
            place.kill();
            world.block_on(node.release(&place.container)).unwrap();
        }
        drop(node);
        fs::create_dir_all(world.path("state/rootfs/0123456789abcdef/root.partial/half")).unwrap();
        drop(node_on(world, &default));
        assert_eq!(copies(world).len(), 1, "what nobody uses goes, and what a crash left");
    });
}

#[test]
fn a_tar_gzipped_or_not_serves_as_well() {
    in_both_worlds(|world| {
        let default = world.rootfs("default");
        for (flags, name) in [("-cf", "rootfs.tar"), ("-czf", "rootfs.tgz")] {
            let tar = world.path(name);
            let made = Command::new("tar").arg("-C").arg(&default).args([flags]).arg(&tar).arg(".").status().unwrap();
            assert!(made.success());
            let node = node_on(world, &tar);
            let place = world.furnish(&node, "one", &ContainerSpec::default()).unwrap();
            assert_eq!(place.shell("id -u; cat /etc/passwd"), (0, "0\nroot:x:0:0:root:/:/bin/sh\n".into()));
            place.kill();
            world.block_on(node.release(&place.container)).unwrap();
        }
    });
}

#[test]
fn what_cannot_be_a_default_rootfs_is_refused_at_the_start() {
    in_both_worlds(|world| {
        let text = world.path("text");
        fs::write(&text, "no tar").unwrap();
        let root = world.rootfs("default");
        let tar = world.path("cut.tar");
        assert!(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status().unwrap().success());
        fs::File::options().write(true).open(&tar).unwrap().set_len(100_000).unwrap();
        for (path, kind, words) in [
            (world.path("missing"), NodeErrorKind::Invalid, "does not exist; correct --default-rootfs"),
            (text, NodeErrorKind::Invalid, "is no tar; give a folder, a tar or a gzipped tar"),
            (tar, NodeErrorKind::Failed, "the archive ends in the middle of it"),
            ("/dev/null".into(), NodeErrorKind::Invalid, "neither a folder nor a tar"),
            (world.path(""), NodeErrorKind::Invalid, "contains gardend's own state"),
        ] {
            let error = world.node_with(options(&path)).err().unwrap();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains(words), "{error}");
            let left: Vec<_> = fs::read_dir(world.path("state/rootfs")).map(|list| list.collect()).unwrap_or_default();
            for folder in left {
                assert_eq!(fs::read_dir(folder.unwrap().path()).unwrap().count(), 0, "nothing half-made is left");
            }
        }
        let error = world.block_on(world.node().check(&ContainerSpec::default())).unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Invalid);
        assert!(error.message.contains("--default-rootfs"), "{error}");
    });
}

#[test]
fn a_state_folder_that_cannot_carry_overlays_is_refused_with_the_remedy() {
    in_both_worlds(|world| {
        let default = world.rootfs("default");
        for name in ["lower", "upper", "work"] {
            world.make(name);
        }
        let options_text = format!(
            "lowerdir={},upperdir={},workdir={}",
            world.path("lower").display(),
            world.path("upper").display(),
            world.path("work").display()
        );
        let state = world.path("state");
        let data = std::ffi::CString::new(options_text).unwrap();
        rustix::mount::mount("overlay", &state, "overlay", rustix::mount::MountFlags::empty(), &*data).unwrap();
        let error = world.node_with(options(&default)).err().unwrap();
        assert!(error.message.contains("--state-dir on a file system that can carry overlays"), "{error}");
        assert_eq!(fs::read_dir(state.join("layers")).unwrap().count(), 0);
        unmount(&state).unwrap();
    });
}

#[test]
fn where_owners_cannot_be_mapped_by_the_kernel_a_shifted_copy_serves() {
    in_both_worlds(|world| {
        // An idmapped mount of what is idmapped already is refused by the kernel: this stands for
        // file systems that cannot map owners at all.
        let default = world.rootfs("default");
        fs::write(default.join("etc/others"), "").unwrap();
        chown(default.join("etc/others"), Some(1000), Some(1000)).unwrap();
        let state = world.path("state");
        crate::world::mount_without_id_maps(&state);
        let node = node_on(world, &default);
        let key = fs::read_dir(state.join("rootfs")).unwrap().next().unwrap().unwrap().path();
        assert!(key.join("shifted").is_dir(), "the second copy was made at the start");
        let place = world.furnish(&node, "one", &ContainerSpec::default()).unwrap();
        assert_eq!(place.shell("stat -c %u:%g / /bin/busybox /etc/others"), (0, "0:0\n0:0\n1000:1000\n".into()));
        assert_eq!(place.shell("echo more >> /etc/passwd"), (0, String::new()));
        let upper = world.folders.layer(&place.container).join("u/etc/passwd");
        assert_eq!(fs::metadata(upper).unwrap().uid(), MAPPED);
        place.kill();
        let open = world.furnish(&node, "two", &privileged(ContainerSpec::default())).unwrap();
        assert_eq!(open.shell("stat -c %u:%g /"), (0, "0:0\n".into()));
        open.kill();
        drop(node);
        unmount(&state).unwrap();
    });
}

#[test]
fn gardends_own_mounts_keep_no_file_system_of_the_hosts_busy() {
    in_both_worlds(|world| {
        let other = world.make("other");
        mount_tmpfs(&other);
        let node = node_on(world, &world.rootfs("default"));
        unmount(&other).expect("a gardend that runs holds none of the host's mounts");
        drop(node);
    });
}

#[test]
fn a_layer_that_a_stranger_filled_is_released() {
    in_world(Source::Private, |world| {
        let node = node_on(world, &world.rootfs("default"));
        let place = world.furnish(&node, "one", &ContainerSpec::default()).unwrap();
        let script =
            "i=0; while [ $i -lt 300 ]; do mkdir d; busybox chmod 700 .; cd d || exit 1; i=$((i+1)); done; touch x";
        assert_eq!(place.shell(&format!("cd /tmp; {script}; busybox chmod 000 /tmp")), (0, String::new()));
        place.kill();
        world.block_on(node.release(&place.container)).unwrap();
        assert_eq!(fs::read_dir(world.folders.layers()).unwrap().count(), 0);
    });
}

#[test]
fn a_folder_that_is_no_containers_is_not_listed() {
    in_world(Source::Private, |world| {
        let node = world.node();
        assert_eq!(world.block_on(node.list()).unwrap(), []);
        let uid = ContainerUid::generate();
        fs::create_dir_all(world.folders.layer(&uid)).unwrap();
        fs::create_dir_all(world.folders.layers().join("lost+found")).unwrap();
        assert_eq!(world.block_on(node.list()).unwrap(), [uid]);
    });
}
