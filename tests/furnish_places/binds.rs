//! Bind mounts.

use crate::world::{
    MAPPED, Source, World, bind, in_both_worlds, in_world, mount_tmpfs, privileged, raw, unmount, with_binds,
};
use gardend_controller::ports::{NodeErrorKind, Rootfs};
use gardend_controller::record::{BindMode, BindMount, BindOrigin};
use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use BindMode::{ReadOnly, ReadWrite};

fn volume(world: &World, name: &str) -> std::path::PathBuf {
    let volume = world.make(name);
    fs::write(volume.join("file"), name).unwrap();
    chown(&volume, Some(MAPPED), Some(MAPPED)).unwrap();
    volume
}

#[test]
fn folders_and_files_show_where_they_were_asked_for() {
    in_both_worlds(|world| {
        let (node, root) = (world.node(), world.rootfs("root"));
        let (one, two) = (volume(world, "one"), volume(world, "two"));
        let spec = with_binds(
            raw(&root),
            vec![
                bind(&one, "/made/for/it", ReadWrite),
                bind(&two.join("file"), "/made/a/file", ReadWrite),
                bind(&two, "relative", ReadWrite),
                bind(&one, "/tmp", ReadWrite),
                bind(&two.join("file"), "/etc/passwd", ReadOnly),
                bind(&one.join("file"), "/dev/one", ReadOnly),
            ],
        );
        world.block_on(node.check(&spec)).unwrap();
        let place = world.furnish(&node, "one", &spec).unwrap();
        for (path, content) in [
            ("/made/for/it/file", "one"),
            ("/made/a/file", "two"),
            ("/relative/file", "two"),
            ("/tmp/file", "one"),
            ("/etc/passwd", "two"),
            ("/dev/one", "one"),
        ] {
            assert_eq!(place.read(path), content, "{path}");
        }
        assert_eq!(place.shell("touch /made/for/it/new && cat /made/a/file"), (0, "two".into()));
        assert!(one.join("new").exists());
        for made in ["made", "made/for", "made/for/it", "made/a", "made/a/file", "relative"] {
            use std::os::unix::fs::MetadataExt;
            let metadata = fs::symlink_metadata(root.join(made)).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (MAPPED, MAPPED), "{made}");
        }
        assert!(fs::symlink_metadata(root.join("made/a/file")).unwrap().is_file());
    });
}

#[test]
fn read_only_is_read_only_all_the_way_down() {
    in_both_worlds(|world| {
        let (node, root) = (world.node(), world.rootfs("root"));
        let one = volume(world, "one");
        let below = world.make("one/below");
        mount_tmpfs(&below);
        chown(&below, Some(MAPPED), Some(MAPPED)).unwrap();
        let deeper = world.make("one/below/deeper");
        mount_tmpfs(&deeper);
        for spec in [raw(&root), privileged(raw(&root))] {
            let spec = with_binds(spec, vec![bind(&one, "/ro", ReadOnly), bind(&one, "/rw", ReadWrite)]);
            let place = world.furnish(&node, "one", &spec).unwrap();
            for path in ["/ro/x", "/ro/below/x", "/ro/below/deeper/x"] {
                let (status, text) = place.shell(&format!("touch {path}"));
                assert_eq!(status, 1, "{path}");
                assert!(text.contains("Read-only file system"), "{path}: {text}");
            }
            assert_eq!(place.shell("touch /rw/x /rw/below/x"), (0, String::new()));
        }
        fs::write(below.join("host"), "").expect("the host's own mount stays writable");
        unmount(&deeper).unwrap();
        unmount(&below).unwrap();
    });
}

#[test]
fn a_later_mount_of_the_hosts_does_not_come_in_and_none_of_ours_goes_out() {
    in_world(Source::Shared, |world| {
        let (node, root) = (world.node(), world.rootfs("root"));
        let one = volume(world, "one");
        let below = world.make("one/below");
        let spec = privileged(with_binds(raw(&root), vec![bind(&one, "/one", ReadWrite)]));
        let place = world.furnish(&node, "one", &spec).unwrap();
        mount_tmpfs(&below);
        fs::write(below.join("late"), "").unwrap();
        assert!(!place.path("/one/below/late").exists());
        assert_eq!(place.shell("mkdir /one/inner && mount -t tmpfs none /one/inner && touch /one/inner/x").0, 0);
        assert!(one.join("inner").exists() && !one.join("inner/x").exists());
        unmount(&below).unwrap();
    });
}

#[test]
fn mounts_in_one_another_all_show_whatever_their_order() {
    in_both_worlds(|world| {
        let (node, root) = (world.node(), world.rootfs("root"));
        let (outer, inner, innermost) = (volume(world, "outer"), volume(world, "inner"), volume(world, "innermost"));
        let spec = with_binds(
            raw(&root),
            vec![
                bind(&innermost, "/data/inner/most", ReadWrite),
                bind(&inner, "/data/inner", ReadWrite),
                bind(&outer, "/data", ReadWrite),
            ],
        );
        let place = world.furnish(&node, "one", &spec).unwrap();
        assert_eq!(place.read("/data/file"), "outer");
        assert_eq!(place.read("/data/inner/file"), "inner");
        assert_eq!(place.read("/data/inner/most/file"), "innermost");
        assert!(outer.join("inner").is_dir(), "the mount point is made in the outer volume");
    });
}

#[test]
fn a_path_of_the_containers_own_can_be_a_source() {
    in_both_worlds(|world| {
        let (node, root) = (world.node(), world.rootfs("root"));
        let one = volume(world, "one");
        symlink("/etc", root.join("link")).unwrap();
        let inside = |source: &str, target: &str, mode| BindMount {
            source: source.into(),
            target: target.into(),
            mode,
            origin: BindOrigin::Container,
        };
        let binds = vec![
            bind(&one, "/one", ReadWrite),
            inside("/one", "/again/here", ReadOnly),
            inside("../../link/passwd", "/pw", ReadWrite),
        ];
        let place = world.furnish(&node, "one", &with_binds(raw(&root), binds)).unwrap();
        assert_eq!(place.read("/again/here/file"), "one");
        assert_eq!(place.shell("touch /again/here/x").0, 1);
        assert_eq!(place.read("/pw"), fs::read_to_string(root.join("etc/passwd")).unwrap());
        let missing = with_binds(raw(&root), vec![inside("/missing", "/x", ReadOnly)]);
        let error = world.furnish(&node, "two", &missing).err().unwrap();
        assert_eq!(error.kind, NodeErrorKind::Invalid);
        assert!(error.message.contains("/missing does not exist in the container"), "{error}");
    });
}

#[test]
fn targets_of_the_other_type_and_impossible_ones_are_refused() {
    in_both_worlds(|world| {
        let (node, root) = (world.node(), world.rootfs("root"));
        let one = volume(world, "one");
        symlink("/", root.join("to-root")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for (source, target, words) in [
            (one.clone(), "/etc/passwd", "is a folder, and /etc/passwd in the container is not"),
            (one.join("file"), "/etc", "/etc is a folder in the container, and its source"),
            (one.clone(), "/etc/passwd/x", "a part of the path /etc/passwd/x is a file in the container"),
            (one.clone(), "/to-root", "leads to the container's root itself"),
            (one.clone(), "/loop/x", "loop of symlinks"),
            (one.clone(), "/proc/self/root/x", "loop of symlinks, or into /proc's links"),
            (one.clone(), "/proc/missing", "cannot be made"),
            (one.clone(), "/sys/missing", "read-only"),
        ] {
            let spec = with_binds(raw(&root), vec![bind(&source, target, ReadWrite)]);
            world.block_on(node.check(&spec)).unwrap();
            let error = world.furnish(&node, "one", &spec).err().unwrap_or_else(|| panic!("{target} was mounted"));
            assert_eq!(error.kind, NodeErrorKind::Invalid, "{target}: {error}");
            assert!(error.message.contains(words), "{target}: {error}");
        }
    });
}

#[test]
fn no_target_leads_out_of_the_container() {
    in_both_worlds(|world| {
        let (node, root) = (world.node(), world.rootfs("root"));
        let (one, outside) = (volume(world, "one"), world.make("outside"));
        symlink(&outside, root.join("absolute")).unwrap();
        symlink("../outside", root.join("relative")).unwrap();
        symlink("/../../../outside/made", root.join("dangling")).unwrap();
        let spec = with_binds(
            raw(&root),
            vec![
                bind(&one, "/absolute/a", ReadWrite),
                bind(&one, "/relative/b", ReadWrite),
                bind(&one, "/dangling", ReadWrite),
                bind(&one, "/../../../../outside/c", ReadWrite),
                bind(&one.join("file"), "/x/../../../outside/d", ReadWrite),
            ],
        );
        let place = world.furnish(&node, "one", &spec).unwrap();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert_eq!(place.read("/outside/b/file"), "one");
        assert_eq!(place.read("/outside/made/file"), "one");
        assert_eq!(place.read("/outside/d"), "one");
        let as_seen = outside.strip_prefix("/").unwrap();
        assert!(root.join(as_seen).join("a").is_dir(), "the absolute symlink means a path inside");
    });
}

#[test]
fn a_symlink_that_another_container_swaps_meanwhile_leads_nowhere() {
    in_world(Source::Shared, |world| {
        let (node, root) = (world.node(), world.rootfs("root"));
        let (one, outside) = (volume(world, "one"), world.make("outside"));
        let shared = world.make("root/shared");
        fs::create_dir(shared.join("a")).unwrap();
        symlink(&outside, shared.join("b")).unwrap();
        let _swapper = Swapper::start(&shared);
        let mut mounted = 0;
        for round in 0..60 {
            let spec = with_binds(raw(&root), vec![bind(&one, &format!("/shared/a/{round}/x"), ReadWrite)]);
            // Refused or mounted inside; never outside.
            if let Ok(place) = world.furnish(&node, "one", &spec) {
                let mounts = place.mounts();
                let seen = mounts.iter().find(|mount| mount.ends_with(&format!("/{round}/x"))).expect("mounted");
                assert!(seen.starts_with("/shared/") || seen.starts_with(outside.to_str().unwrap()), "{seen}");
                mounted += 1;
            }
        }
        assert!(mounted > 0);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    });
}

/// Exchanges the names `a` and `b` in a folder all the time, until it is dropped.
struct Swapper(std::sync::Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Swapper {
    fn start(folder: &Path) -> Self {
        let end = std::sync::Arc::new(AtomicBool::new(false));
        let (ended, handle) = (end.clone(), fs::File::open(folder).unwrap());
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(&handle, "a", &handle, "b", rustix::fs::RenameFlags::EXCHANGE);
            }
        });
        Self(end, Some(thread))
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(std::thread::JoinHandle::join);
    }
}

#[test]
fn a_source_that_went_after_the_check_is_refused_in_the_same_words() {
    in_both_worlds(|world| {
        let (node, root) = (world.node(), world.rootfs("root"));
        let spec = with_binds(raw(&root), vec![bind(Path::new("/gardend-test-missing"), "/x", ReadWrite)]);
        let checked = world.block_on(node.check(&spec)).unwrap_err();
        let furnished = world.furnish(&node, "one", &spec).err().unwrap();
        assert_eq!((checked.kind, &checked.message), (NodeErrorKind::Invalid, &furnished.message));
        assert_eq!(
            checked.message,
            "bind mount source /gardend-test-missing does not exist on the host; create it or correct the path"
        );
        assert!(!root.join("x").exists());
    });
}

#[test]
fn what_was_mounted_can_be_unmounted_the_moment_that_the_init_is_dead() {
    in_both_worlds(|world| {
        let (node, root) = (world.node(), world.rootfs("root"));
        let source = world.make("busy");
        for round in 0..20 {
            mount_tmpfs(&source);
            let mode = if round % 2 == 0 { ReadOnly } else { ReadWrite };
            let spec = with_binds(raw(&root), vec![bind(&source, "/busy", mode)]);
            let place = world.furnish(&node, "one", &spec).unwrap();
            place.kill();
            unmount(&source).unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
    });
}
