//! The root itself, /proc and the like, and what the container is called.

use crate::sys::Kind;
use crate::world::{MAPPED, bind, host_mounts, in_both_worlds, mount_tmpfs, privileged, raw, unmount, with_binds};
use gardend::node::mount::{HostMounts, Options};
use gardend_controller::ports::{NodeErrorKind, Rootfs};
use gardend_controller::record::{BindMode, ContainerSpec, RootfsSource};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

#[test]
fn a_folder_becomes_the_root_writable_and_uncopied() {
    in_both_worlds(|world| {
        let node = world.node();
        let root = world.rootfs("root");
        std::os::unix::fs::chown(&root, Some(MAPPED), Some(MAPPED)).unwrap();
        let place = world.furnish(&node, "one", &raw(&root)).unwrap();
        assert_eq!(
            place.shell("echo inside > /made; cat /proc/self/status | busybox grep -c Name; ls /"),
            (0, "1\nbin\ndev\netc\nmade\nproc\nsys\ntmp\n".into())
        );
        assert_eq!(fs::read_to_string(root.join("made")).unwrap(), "inside\n");
        assert_eq!(fs::metadata(root.join("made")).unwrap().uid(), MAPPED);
        let mounts = place.mounts();
        for inside in [
            "/",
            "/proc",
            "/proc/version",
            "/dev",
            "/dev/pts",
            "/dev/shm",
            "/dev/null",
            "/sys",
            "/etc/hosts",
            "/etc/hostname",
        ] {
            assert_eq!(mounts.iter().filter(|mount| *mount == inside).count(), 1, "{inside} in {mounts:?}");
        }
        assert_eq!(mounts.len(), 10, "nothing of the blank root is left: {mounts:?}");
    });
}

#[test]
fn a_privileged_place_takes_a_folder_too() {
    in_both_worlds(|world| {
        let node = world.node();
        let root = world.rootfs("root");
        let place = world.furnish(&node, "one", &privileged(raw(&root))).unwrap();
        assert_eq!(place.shell("echo x > /made; mount -t tmpfs none /tmp && echo mounted"), (0, "mounted\n".into()));
        assert_eq!(fs::metadata(root.join("made")).unwrap().uid(), 0);
        assert_eq!(place.owner("/etc/hosts"), (0, 0));
    });
}

#[test]
fn mounts_below_the_folder_show_and_are_let_go_with_the_place() {
    in_both_worlds(|world| {
        let node = world.node();
        let root = world.rootfs("root");
        let below = world.make("root/below");
        mount_tmpfs(&below);
        fs::write(below.join("file"), "seen").unwrap();
        let place = world.furnish(&node, "one", &raw(&root)).unwrap();
        assert_eq!(place.read("/below/file"), "seen");
        place.kill();
        unmount(&below).expect("nothing holds it once the init is dead");
    });
}

#[test]
fn missing_folders_are_made_for_the_containers_root() {
    in_both_worlds(|world| {
        let node = world.node();
        let root = world.rootfs("root");
        for name in ["proc", "sys", "dev"] {
            fs::remove_dir(root.join(name)).unwrap();
        }
        let place = world.furnish(&node, "one", &raw(&root)).unwrap();
        assert!(place.path("/proc/1/status").exists());
        for name in ["proc", "sys", "dev"] {
            let made = fs::symlink_metadata(root.join(name)).unwrap();
            assert_eq!((made.uid(), made.gid(), made.mode()), (MAPPED, MAPPED, 0o40755), "{name}");
        }
    });
}

#[test]
fn an_image_whose_proc_leads_elsewhere_misleads_nobody() {
    in_both_worlds(|world| {
        let node = world.node();
        let root = world.rootfs("root");
        fs::remove_dir(root.join("proc")).unwrap();
        for (link, words) in
            [(Some("/etc"), "/proc in the rootfs is a symlink"), (Some("/"), "is a symlink"), (None, "is not a folder")]
        {
            match link {
                Some(link) => symlink(link, root.join("proc")).unwrap(),
                None => fs::write(root.join("proc"), "").unwrap(),
            }
            let before = host_mounts();
            let error = world.furnish(&node, "one", &raw(&root)).err().unwrap();
            assert_eq!(error.kind, NodeErrorKind::Invalid);
            assert!(error.message.contains(words), "{error}");
            assert_eq!(host_mounts(), before);
            fs::remove_file(root.join("proc")).unwrap();
        }
    });
}

#[test]
fn hosts_and_hostname_are_the_containers_own() {
    in_both_worlds(|world| {
        let node = world.node();
        let root = world.rootfs("root");
        fs::remove_dir_all(root.join("etc")).unwrap();
        let long = format!("zu-lang{}ü", "x".repeat(47));
        for (handle, hostname) in
            [("plain", "plain"), (&*long, &*format!("{}ü", "x".repeat(47))), ("odd name:@+\"'", "odd name:@+\"'")]
        {
            let place = world.furnish(&node, handle, &raw(&root)).unwrap();
            assert_eq!(place.shell("hostname"), (0, format!("{hostname}\n")));
            assert_eq!(place.read("/etc/hostname"), format!("{hostname}\n"));
            assert!(place.read("/etc/hosts").starts_with("127.0.0.1\tlocalhost\n"));
            assert_eq!(place.read("/etc/hosts").contains(hostname), !hostname.contains(' '));
            assert_eq!(place.owner("/etc/hosts"), (MAPPED, MAPPED));
            assert_eq!(place.owner("/etc"), (MAPPED, MAPPED));
            assert_eq!(
                place.shell("echo 1.2.3.4 more >> /etc/hosts; busybox tail -n 1 /etc/hosts"),
                (0, "1.2.3.4 more\n".into())
            );
        }
        assert_eq!(
            fs::read_to_string(root.join("etc/hosts")).unwrap(),
            "",
            "the folder's own file is only a mount point"
        );
        assert_ne!(rustix::system::uname().nodename().to_str(), Ok("plain"));
    });
}

#[test]
fn a_read_only_rootfs_serves_if_it_has_what_is_needed() {
    in_both_worlds(|world| {
        let node = world.node();
        let root = world.rootfs("root");
        fs::write(root.join("etc/hosts"), "").unwrap();
        let seen = world.make("seen");
        rustix::mount::mount_bind(&root, &seen).unwrap();
        let flags = rustix::mount::MountFlags::BIND | rustix::mount::MountFlags::RDONLY;
        rustix::mount::mount_remount(&seen, flags, "").unwrap();
        let place = world.furnish(&node, "one", &raw(&seen)).unwrap();
        assert!(place.read("/etc/hosts").contains("localhost"));
        assert!(!place.path("/etc/hostname").exists(), "nobody asked for it, and it cannot be made");
        assert_eq!(place.shell("touch /x"), (1, "touch: /x: Read-only file system\n".into()));
        place.kill();
        fs::remove_dir(root.join("sys")).unwrap();
        let error = world.furnish(&node, "two", &raw(&seen)).err().unwrap();
        assert_eq!(error.kind, NodeErrorKind::Invalid);
        assert!(error.message.contains("no folder /sys and is on a read-only file system"), "{error}");
        unmount(&seen).unwrap();
    });
}

#[test]
fn a_rootfs_where_nothing_can_run_is_refused() {
    in_both_worlds(|world| {
        let node = world.node();
        let root = world.make("noexec");
        rustix::mount::mount("tmpfs", &root, "tmpfs", rustix::mount::MountFlags::NOEXEC, None).unwrap();
        let error = world.block_on(node.check(&raw(&root))).unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Invalid);
        assert!(error.message.contains("noexec"), "{error}");
        unmount(&root).unwrap();
    });
}

#[test]
fn a_closed_root_owned_folder_serves_an_unprivileged_place() {
    in_both_worlds(|world| {
        let node = world.node();
        let root = world.rootfs("root");
        for name in ["proc", "sys", "dev"] {
            fs::remove_dir(root.join(name)).unwrap();
        }
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
        let place = world.furnish(&node, "one", &raw(&root)).unwrap();
        assert!(place.path("/proc/1/status").exists());
        assert_eq!(place.owner("/dev"), (MAPPED, MAPPED));
    });
}

#[test]
fn the_wrong_kind_of_place_is_refused_and_left_as_it_is() {
    in_both_worlds(|world| {
        let node = world.node();
        let root = world.rootfs("root");
        for (kind, spec) in [(Kind::Privileged, raw(&root)), (Kind::Unprivileged, privileged(raw(&root)))] {
            let place = world.place(kind);
            let error = world.furnish_place(&node, &place, "one", &spec).unwrap_err();
            assert_eq!(error.kind, NodeErrorKind::Failed);
            assert!(error.message.contains("user namespace"), "{error}");
            assert!(place.path("/newroot").exists());
        }
    });
}

#[test]
fn paths_of_clients_can_be_those_of_another_mount_namespace() {
    in_both_worlds(|world| {
        let (root, default) = (world.rootfs("root"), world.rootfs("default"));
        let (seen_root, volume) = (world.make("seen"), world.make("volume"));
        let other = OtherMounts::with(&[(&root, &seen_root)], &volume);
        let host_mounts = HostMounts::Of(other.path.clone());
        let node =
            world.node_with(Options { host_mounts, default_rootfs: Some(default), ..Options::default() }).unwrap();
        let spec = with_binds(raw(&seen_root), vec![bind(&volume.join("there"), "/volume", BindMode::ReadOnly)]);
        world.block_on(node.check(&spec)).unwrap();
        let place = world.furnish(&node, "one", &spec).unwrap();
        assert_eq!(place.read("/volume/file"), "of another namespace");
        assert_eq!(place.shell("hostname"), (0, "one\n".into()));
        let spec = ContainerSpec { rootfs: RootfsSource::Default, ..spec };
        let place = world.furnish(&node, "two", &spec).unwrap();
        assert_eq!(place.read("/volume/file"), "of another namespace");
        assert!(world.block_on(world.node().check(&spec)).is_err(), "here the path means nothing");
        // A pid file that names a process of the host's is not believed.
        let options = Options { host_mounts: HostMounts::Of(place.path_of_mounts()), ..Options::default() };
        let node = world.node_with(options).unwrap();
        let error = world.furnish_place(&node, &place, "three", &raw(&root)).unwrap_err();
        assert!(error.message.contains("is no place: its mnt namespace is the host's"), "{error}");
    });
}

/// A mount namespace that is not the test's, alive as long as this.
struct OtherMounts {
    path: std::path::PathBuf,
    _end: std::sync::mpsc::Sender<()>,
}

impl OtherMounts {
    /// With these bind mounts, and a tmpfs on `volume` that holds `there/file`.
    fn with(binds: &[(&Path, &Path)], volume: &Path) -> Self {
        let (end, ended) = std::sync::mpsc::channel();
        let (told, tells) = std::sync::mpsc::channel();
        let binds: Vec<_> = binds.iter().map(|(from, to)| (from.to_path_buf(), to.to_path_buf())).collect();
        let volume = volume.to_owned();
        std::thread::spawn(move || {
            gardend::node::sys::unshare_mounts().unwrap();
            use rustix::mount::MountPropagationFlags as Flags;
            rustix::mount::mount_change("/", Flags::PRIVATE | Flags::REC).unwrap();
            for (from, to) in binds {
                rustix::mount::mount_bind(from, to).unwrap();
            }
            mount_tmpfs(&volume);
            fs::create_dir(volume.join("there")).unwrap();
            fs::write(volume.join("there/file"), "of another namespace").unwrap();
            told.send(rustix::thread::gettid()).unwrap();
            let _ = ended.recv();
        });
        let thread = tells.recv().unwrap().as_raw_nonzero();
        Self { path: format!("/proc/self/task/{thread}/ns/mnt").into(), _end: end }
    }
}
