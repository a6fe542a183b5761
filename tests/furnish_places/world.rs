//! What every test stands in: folders, a rootfs of busybox, a mount namespace of the test's own
//! (shared, as on a host with systemd, or private), and places in it.

use crate::sys::{self, Kind};
use gardend::node::ids::IdMap;
use gardend::node::mount::{MountNode, Options};
use gardend::node::place::{Folders, InitProcess};
use gardend_controller::ports::{NodeError, Rootfs};
use gardend_controller::record::{
    BindMode, BindMount, BindOrigin, ContainerSpec, ContainerUid, Handle, RootfsSource, SandboxId,
};
use rustix::mount::{MountPropagationFlags, mount_change};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Root of an unprivileged container, on the host.
pub const MAPPED: u32 = 4_294_967_294;

/// The propagation of the mounts that the test's gardend sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Shared,
    Private,
}

/// See the module.
pub struct World {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    pub folders: Folders,
}

/// Runs a test in a mount namespace of its own, of each propagation.
pub fn in_both_worlds(test: impl Fn(&World) + Send + Sync) {
    for source in [Source::Private, Source::Shared] {
        in_world(source, &test);
    }
}

/// Runs a test in a mount namespace of its own, on a thread of its own; checks that it leaves no
/// mount there.
pub fn in_world(source: Source, test: impl Fn(&World) + Send + Sync) {
    let run = || {
        gardend::node::sys::unshare_mounts().expect("these tests need root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        if source == Source::Shared {
            mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).unwrap();
        }
        let world = World::new();
        let before = host_mounts();
        test(&world);
        assert_eq!(before, host_mounts(), "mounts were left ({source:?})");
        unmount(world.folders.run()).expect("nothing holds the run folder");
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(run).join() {
            eprintln!("in the world of {source:?} mounts");
            std::panic::resume_unwind(panic);
        }
    });
}

/// The mount table of the calling thread.
pub fn host_mounts() -> String {
    fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let folders = Folders::new(folder.path().join("state"), folder.path().join("run"));
        fs::create_dir(folder.path().join("run")).unwrap();
        // As /run is.
        mount_tmpfs(&folder.path().join("run"));
        for name in ["state", "run/places", "blank/newroot", "blank/proc", "blank/dev", "blank/sys"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { folder, runtime, folders }
    }

    /// A path of the test's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder of the test's own, made now.
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A rootfs with busybox, and with whatever else is called for.
    pub fn rootfs(&self, name: &str) -> PathBuf {
        let root = self.make(name);
        for folder in ["bin", "etc", "tmp", "proc", "dev", "sys"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        // By another process: a descriptor open for writing, inherited by a place that another test
        // starts just now, would make the file "busy" for exec.
        let copied = Command::new("cp").arg("/bin/busybox").arg(root.join("bin/busybox")).status().unwrap();
        assert!(copied.success(), "busybox-static is installed");
        for applet in ["sh", "cat", "ls", "touch", "stat", "hostname", "id", "mount", "mkdir", "rm", "mv"] {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
        root
    }

    pub fn node(&self) -> MountNode {
        self.node_with(Options::default()).unwrap()
    }

    pub fn node_with(&self, options: Options) -> Result<MountNode, NodeError> {
        MountNode::new(self.folders.clone(), options)
    }

    /// For what wants a runtime outside of a future.
    pub fn enter(&self) -> tokio::runtime::EnterGuard<'_> {
        self.runtime.enter()
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// A blank place.
    pub fn place(&self, kind: Kind) -> Place {
        let id = SandboxId::generate();
        let folder = self.folders.place(&id);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        let (pid, pidfd) = sys::start_place(&self.path("blank"), kind, &IdMap::garden().as_text()).unwrap();
        InitProcess::of_pid(pid).unwrap().write(&folder).unwrap();
        Place { id, pid, pidfd, container: ContainerUid::generate() }
    }

    /// Furnishes a new place; the handle is `handle`.
    pub fn furnish(&self, node: &MountNode, handle: &str, spec: &ContainerSpec) -> Result<Place, NodeError> {
        let place = self.place(if spec.privileged { Kind::Privileged } else { Kind::Unprivileged });
        self.furnish_place(node, &place, handle, spec).map(|()| place)
    }

    /// Furnishes a place.
    pub fn furnish_place(
        &self,
        node: &MountNode,
        place: &Place,
        handle: &str,
        spec: &ContainerSpec,
    ) -> Result<(), NodeError> {
        let handle = Handle::new(handle).unwrap();
        self.block_on(node.furnish(&place.id, &place.container, &handle, spec, None))
    }
}

impl Drop for World {
    /// What a test that failed left mounted would keep its folder from being removed.
    fn drop(&mut self) {
        let mounts = host_mounts();
        let points = mounts.lines().rev().filter_map(|line| line.split(' ').nth(4));
        for point in points.filter(|point| Path::new(point).starts_with(self.folder.path())) {
            let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// A place, killed at the end of the test at the latest.
pub struct Place {
    pub id: SandboxId,
    pub pid: u32,
    pub container: ContainerUid,
    pidfd: OwnedFd,
}

impl Place {
    /// One that somebody else made.
    pub fn of(id: SandboxId, pid: u32, pidfd: OwnedFd) -> Self {
        Self { id, pid, container: ContainerUid::generate(), pidfd }
    }

    /// A path in the container's root, as the host can open it.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path} in the container: {error}"))
    }

    /// Owner and group on the host.
    pub fn owner(&self, path: &str) -> (u32, u32) {
        let metadata = fs::symlink_metadata(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        (metadata.uid(), metadata.gid())
    }

    /// Runs a shell script inside, as the container's root, in all its namespaces.
    pub fn shell(&self, script: &str) -> (i32, String) {
        let output = Command::new("nsenter")
            .args(["-t", &self.pid.to_string(), "-m", "-u", "-p", "-i", "-n"])
            .args(if self.has_user_namespace() { &["-U", "-S", "0", "-G", "0"][..] } else { &[] })
            .args(["/bin/sh", "-c", &format!("{{ {script}\n}} 2>&1")])
            .env("PATH", "/bin:/usr/bin:/sbin:/usr/sbin")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap_or(-1), text)
    }

    fn has_user_namespace(&self) -> bool {
        fs::metadata(format!("/proc/{}/ns/user", self.pid)).unwrap().ino()
            != fs::metadata("/proc/self/ns/user").unwrap().ino()
    }

    /// Mount points, as the container sees them.
    pub fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid)).unwrap();
        table.lines().map(|line| line.split(' ').nth(4).unwrap().to_owned()).collect()
    }

    /// The file of its mount namespace.
    pub fn path_of_mounts(&self) -> PathBuf {
        format!("/proc/{}/ns/mnt", self.pid).into()
    }

    pub fn kill(&self) {
        sys::kill(&self.pidfd);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An unprivileged container on this folder.
pub fn raw(root: &Path) -> ContainerSpec {
    ContainerSpec { rootfs: RootfsSource::Raw(root.to_owned()), ..ContainerSpec::default() }
}

/// The same, privileged.
pub fn privileged(spec: ContainerSpec) -> ContainerSpec {
    ContainerSpec { privileged: true, ..spec }
}

/// The same, with these bind mounts.
pub fn with_binds(spec: ContainerSpec, bind_mounts: Vec<BindMount>) -> ContainerSpec {
    ContainerSpec { bind_mounts, ..spec }
}

pub fn bind(source: &Path, target: &str, mode: BindMode) -> BindMount {
    BindMount { source: source.to_owned(), target: target.into(), mode, origin: BindOrigin::Host }
}

/// Mounts an empty tmpfs, in the test's own namespace.
pub fn mount_tmpfs(at: &Path) {
    rustix::mount::mount("tmpfs", at, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
}

/// Unmounts what must be busy with nothing.
pub fn unmount(at: &Path) -> rustix::io::Result<()> {
    rustix::mount::unmount(at, rustix::mount::UnmountFlags::empty())
}

/// Covers a folder with a file system on which the kernel cannot map owners.
pub fn mount_without_id_maps(at: &Path) {
    // Of the file systems that can carry an overlay's upper folder, ramfs knows no idmapped mounts.
    rustix::mount::mount("ramfs", at, "ramfs", rustix::mount::MountFlags::empty(), None).unwrap();
}
