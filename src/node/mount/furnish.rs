//! Furnishing a blank place, in three countries: trees are taken on the host, an overlay is put
//! together in the workshop, and everything is mounted in the place, where the root is pivoted at
//! the end.
//!
//! Promises: whatever fails, nothing is left on the host but the container's layer: trees go with
//! their descriptors, and the thread is back in its first mount namespace before anyone hears of
//! the result, so that no place is held by it. The place itself is of no more use then.

use super::OnImage;
use super::beneath::{Kind, Root};
use super::entry::{Entry, Home, HostMounts, OwnMounts};
use super::error::{Result, attempting, failed, invalid};
use super::identity;
use super::overlay::Overlays;
use super::owner::Owner;
use super::tree::{Access, Tree, is_folder};
use super::wanted::{Bind, Wanted, look_at_rootfs};
use super::work::Cancelled;
use crate::node::ids::IdMap;
use crate::node::network::Resolver;
use crate::node::sys::{MountChange, make_files_as, set_mount_attributes, unshare_working_folder};
use gardend_controller::ports::{NetworkWanted, NodeError, NodeErrorKind};
use gardend_controller::record::{BindMode, BindOrigin, ContainerUid, Handle, Limits, RootfsSource};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Mounts that a blank place has and a container needs.
const SYSTEM_FOLDERS: [&str; 3] = ["proc", "dev", "sys"];
/// Where a blank place takes its new root.
const NEW_ROOT: &str = "/newroot";

/// Where a runtime shows cgroups.
const CGROUPS: &CStr = c"/sys/fs/cgroup";

/// One furnishing.
pub(super) struct Furnishing {
    pub(super) place: PathBuf,
    pub(super) container: ContainerUid,
    pub(super) handle: Handle,
    pub(super) network: Option<NetworkWanted>,
    pub(super) resolver: Resolver,
    /// Its place is to have no user namespace.
    pub(super) privileged: bool,
    pub(super) limits: Limits,
    pub(super) wanted: Wanted,
    pub(super) host: HostMounts,
    pub(super) map: IdMap,
    pub(super) overlays: Option<Arc<Overlays>>,
    /// Where its own layer is to be, and what it is above where that is an image.
    pub(super) layer: PathBuf,
    pub(super) image: Option<OnImage>,
}

/// The furnishing of a single process: a root of its own in a place that is furnished already.
pub(super) struct ProcessFurnishing {
    pub(super) place: PathBuf,
    pub(super) process: OwnMounts,
    pub(super) wanted: Wanted,
    pub(super) host: HostMounts,
    pub(super) map: IdMap,
    /// As of a container.
    pub(super) layer: PathBuf,
    pub(super) image: Option<OnImage>,
}

/// Does `work` and comes home. For a thread of its own: file owner and umask are not put back.
fn and_back(work: impl FnOnce(&Home) -> Result<()>) -> Result<()> {
    unshare_working_folder().map_err(attempting("giving the mount thread its own working folder"))?;
    rustix::process::umask(Mode::empty());
    let home = Home::of_this_thread()?;
    let result = work(&home);
    home.enter()?;
    result
}

impl ProcessFurnishing {
    /// Does it, on a thread of its own.
    pub(super) fn run(self, cancelled: &Cancelled) -> Result<()> {
        and_back(|home| self.in_all_countries(home, cancelled))
    }

    fn in_all_countries(&self, home: &Home, cancelled: &Cancelled) -> Result<()> {
        let entry = Entry::of_process(&self.place, &self.process, &self.map, &self.host)?;
        let own_files = take_own_files(&identity::Files::of(&self.place))?;
        self.host.enter()?;
        let raw = take_raw_root(&self.wanted)?;
        let binds = self.wanted.binds.iter().map(take_bind).collect::<Result<Vec<_>>>()?;
        cancelled.check()?;
        let root = match (raw, &self.image) {
            (Some(root), _) => root,
            (None, Some(OnImage { overlays, layers })) => {
                home.enter()?;
                make_above(&self.layer)?;
                let no_limits = Limits::default();
                overlays.mount_image(&self.layer, layers, entry.owner(), &no_limits, home)?
            }
            (None, None) => return Err(invalid("a process's image must be named")),
        };
        cancelled.check()?;
        entry.enter()?;
        make_files_as(entry.owner().uid, entry.owner().gid)
            .map_err(attempting("making files as the container's root"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = rustix::fs::open("/", flags, Mode::empty()).map_err(attempting("opening the container's root"))?;
        attach_root(&root, above)?;
        fill(&root, &own_files, &self.wanted.binds, &binds, cancelled)?;
        pivot(&root)?;
        if entry.is_alive()? { Ok(()) } else { Err(failed("the process ended while it was being furnished")) }
    }
}

impl Furnishing {
    /// Does it, on a thread of its own.
    pub(super) fn run(self, cancelled: &Cancelled) -> Result<()> {
        and_back(|home| self.in_all_countries(home, cancelled))
    }

    fn in_all_countries(&self, home: &Home, cancelled: &Cancelled) -> Result<()> {
        let entry = Entry::open(&self.place, self.privileged, &self.map, &self.host)?;
        let owner = entry.owner();
        let hostname = identity::hostname(&self.handle);
        let names = identity::Names { hostname, network: self.network.as_ref(), resolver: &self.resolver };
        let files = identity::write_files(&self.place, &names, owner)?;
        let own_files = take_own_files(&files)?;

        self.host.enter()?;
        let raw = take_raw_root(&self.wanted)?;
        let binds = self.wanted.binds.iter().map(take_bind).collect::<Result<Vec<_>>>()?;
        cancelled.check()?;
        let root = match raw {
            Some(root) => root,
            None => {
                home.enter()?;
                self.overlay_root(owner, home)?
            }
        };
        cancelled.check()?;

        entry.enter()?;
        make_files_as(owner.uid, owner.gid).map_err(attempting("making files as the container's root"))?;
        attach_root(&root, open_new_root()?)?;
        fill(&root, &own_files, &self.wanted.binds, &binds, cancelled)?;
        pivot(&root)?;
        if !self.privileged {
            close_cgroups()?;
        }
        rustix::system::sethostname(hostname.as_bytes())
            .map_err(attempting(format!("setting the hostname {hostname}")))?;
        if entry.is_alive()? { Ok(()) } else { Err(failed("the place's init ended while it was being furnished")) }
    }

    fn overlay_root(&self, owner: Owner, home: &Home) -> Result<Tree> {
        if let Some(OnImage { overlays, layers }) = &self.image {
            return overlays.mount_image(&self.layer, layers, owner, &self.limits, home);
        }
        let overlays = self
            .overlays
            .as_ref()
            .ok_or_else(|| invalid("this server has no default rootfs; start gardend with --default-rootfs"))?;
        overlays.mount(&self.container, owner, &self.limits)
    }
}

/// Makes the folders above a process's layer. Those of others that are removed meanwhile may take
/// the uppermost along.
fn make_above(layer: &Path) -> Result<()> {
    let Some(above) = layer.parent() else { return Ok(()) };
    let mut made = std::fs::create_dir_all(above);
    for _ in 0..8 {
        match made {
            Err(error) if error.kind() == io::ErrorKind::NotFound => made = std::fs::create_dir_all(above),
            _ => break,
        }
    }
    made.map_err(attempting(format!("making {}", above.display())))
}

fn take_raw_root(wanted: &Wanted) -> Result<Option<Tree>> {
    let RootfsSource::Raw(path) = &wanted.rootfs else { return Ok(None) };
    // Once more: it may have gone since it was checked.
    look_at_rootfs(path)?;
    take(path, Access::AsItIs).map(Some)
}

/// With where each is to be.
type OwnFiles = Vec<(&'static str, Tree)>;

fn take_own_files(files: &identity::Files) -> Result<OwnFiles> {
    [("/etc/hosts", &files.hosts), ("/etc/hostname", &files.hostname), ("/etc/resolv.conf", &files.resolv_conf)]
        .into_iter()
        // A container without a network keeps what its rootfs says of name servers.
        .filter(|(_, source)| source.exists())
        .map(|(target, source)| Ok((target, take(source, Access::AsItIs)?)))
        .collect()
}

/// All that the root shows beside its own files. `trees` go with `binds`.
fn fill(
    root: &Tree,
    own_files: &OwnFiles,
    binds: &[Bind],
    trees: &[Option<Tree>],
    cancelled: &Cancelled,
) -> Result<()> {
    move_system_folders(root)?;
    for (target, tree) in own_files {
        mount_own_file(root, Path::new(target), tree)?;
    }
    for (bind, tree) in binds.iter().zip(trees) {
        cancelled.check()?;
        mount_bind(root, bind, tree.as_ref())?;
    }
    Ok(())
}

fn take(path: &Path, access: Access) -> Result<Tree> {
    Tree::of(path, access).map_err(attempting(format!("taking the mounts of {}", path.display())))
}

/// `None` for what can only be taken once the container's root is there.
fn take_bind(bind: &Bind) -> Result<Option<Tree>> {
    match bind.origin {
        BindOrigin::Host => Tree::of(&bind.source, access(bind)).map(Some).map_err(|error| source_error(bind, &error)),
        BindOrigin::Container => Ok(None),
    }
}

fn access(bind: &Bind) -> Access {
    match bind.mode {
        BindMode::ReadOnly => Access::ReadOnly,
        BindMode::ReadWrite => Access::AsItIs,
    }
}

fn source_error(bind: &Bind, error: &io::Error) -> NodeError {
    let (source, of) = (
        bind.source.display(),
        match bind.origin {
            BindOrigin::Host => "on the host",
            BindOrigin::Container => "in the container",
        },
    );
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            invalid(format!("bind mount source {source} does not exist {of}; create it or correct the path"))
        }
        _ => failed(format!("taking bind mount source {source} {of}: {error}")),
    }
}

fn open_new_root() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(NEW_ROOT, flags, Mode::empty()) {
        Err(Errno::NOENT) => Err(failed(format!("the place is not blank: it has no {NEW_ROOT}"))),
        result => result.map_err(attempting(format!("opening {NEW_ROOT} in the place"))),
    }
}

/// The new root is put on or beside the old one, once the place's mounts have lost their peers: none of
/// the host's hears of what follows.
fn attach_root(root: &Tree, target: OwnedFd) -> Result<()> {
    let change = MountChange { private: true, recursive: true, ..MountChange::default() };
    set_mount_attributes(CWD, c"/", &change).map_err(attempting("making the place's mounts private"))?;
    root.attach(target).map_err(attempting("attaching the container's root"))
}

fn move_system_folders(root: &Tree) -> Result<()> {
    for name in SYSTEM_FOLDERS {
        let target = Root::new(root).own_folder(name).map_err(|error| match error {
            Errno::LOOP => invalid(format!("/{name} in the rootfs is a symlink; make it a folder, or remove it")),
            Errno::ROFS => {
                invalid(format!("the rootfs has no folder /{name} and is on a read-only file system; make the folder"))
            }
            error => failed(format!("opening /{name} in the rootfs: {error}")),
        })?;
        if !is_folder(&target).map_err(attempting(format!("looking at /{name} in the rootfs")))? {
            return Err(invalid(format!("/{name} in the rootfs is not a folder; make it one, or remove it")));
        }
        let (source, flags) = (format!("/{name}"), MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH);
        move_mount(CWD, source, &target, "", flags).map_err(attempting(format!("moving the place's /{name}")))?;
    }
    Ok(())
}

/// An image may be such that one of our own files has no place in it; it is left as it is then,
/// since nobody asked for the file.
fn mount_own_file(root: &Tree, target: &Path, tree: &Tree) -> Result<()> {
    let shown = target.display();
    let point = match Root::new(root).open_or_make(target, Kind::File) {
        Err(error @ (Errno::ROFS | Errno::NOTDIR | Errno::LOOP | Errno::NOENT | Errno::ACCESS | Errno::PERM)) => {
            tracing::debug!(target = %shown, %error, "left as the rootfs has it");
            return Ok(());
        }
        result => result.map_err(attempting(format!("opening {shown} in the container")))?,
    };
    if is_folder(&point).map_err(attempting(format!("looking at {shown} in the container")))? {
        tracing::debug!(target = %shown, "left as the rootfs has it: a folder");
        return Ok(());
    }
    tree.attach(point).map_err(attempting(format!("mounting {shown}")))
}

fn mount_bind(root: &Tree, bind: &Bind, tree: Option<&Tree>) -> Result<()> {
    let taken;
    let tree = match tree {
        Some(tree) => tree,
        None => {
            taken = take_inside(root, bind)?;
            &taken
        }
    };
    let (source, target) = (bind.source.display(), bind.target.display());
    let look = |error: io::Error| failed(format!("looking at bind mount {source} on {target}: {error}"));
    let folder = tree.is_folder().map_err(look)?;
    let point = open_or_make(root, &bind.target, if folder { Kind::Folder } else { Kind::File })?;
    match (folder, is_folder(&point).map_err(look)?) {
        (true, false) => {
            return Err(invalid(format!(
                "bind mount source {source} is a folder, and {target} in the container is not"
            )));
        }
        (false, true) => {
            return Err(invalid(format!(
                "bind mount target {target} is a folder in the container, and its source {source} is not"
            )));
        }
        (true, true) => refuse_root(root, &point, &bind.target)?,
        (false, false) => {}
    }
    tree.attach(point).map_err(|error| failed(format!("mounting {source} on {target} in the container: {error}")))
}

/// Clones a part of the container's own root, which the calling thread can see by now.
fn take_inside(root: &Tree, bind: &Bind) -> Result<Tree> {
    let file = Root::new(root).open(&bind.source).map_err(|error| source_error(bind, &error.into()))?;
    Tree::of_file(file, access(bind)).map_err(|error| source_error(bind, &error))
}

fn refuse_root(root: &Tree, target: &OwnedFd, path: &Path) -> Result<()> {
    let path = path.display();
    match Root::new(root).is(target).map_err(attempting(format!("looking at {path} in the container")))? {
        true => Err(invalid(format!("{path} leads to the container's root itself; nothing can be mounted there"))),
        false => Ok(()),
    }
}

fn open_or_make(root: &Tree, path: &Path, kind: Kind) -> Result<OwnedFd> {
    let shown = path.display();
    Root::new(root).open_or_make(path, kind).map_err(|error| match error {
        Errno::NOTDIR => invalid(format!("a part of the path {shown} is a file in the container; nothing can be mounted there")),
        Errno::LOOP => invalid(format!(
            "{shown} leads through a loop of symlinks, or into /proc's links, in the container; nothing can be mounted there"
        )),
        Errno::ROFS => invalid(format!("{shown} is missing in the container and cannot be made: its file system is read-only")),
        Errno::NAMETOOLONG => invalid(format!("{shown} is too long a path")),
        // /proc and /sys take no new files.
        Errno::NOENT | Errno::ACCESS | Errno::PERM => {
            NodeError::new(NodeErrorKind::Invalid, format!("{shown} is missing in the container and cannot be made: {error}"))
        }
        error => failed(format!("opening {shown} in the container: {error}")),
    })
}

/// The new root becomes `/` of every process of the place, its init and this thread among them;
/// the old one, and all that is only there, goes out of sight.
/// On cgroup v1 runtimes leave the folder that the hierarchies are mounted in writable.
fn close_cgroups() -> Result<()> {
    let change = MountChange { read_only: true, ..MountChange::default() };
    match set_mount_attributes(CWD, CGROUPS, &change) {
        // Shown in another way, or not at all.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(()),
        set => set.map_err(attempting("making the place's cgroups read-only")),
    }
}

fn pivot(root: &Tree) -> Result<()> {
    rustix::process::fchdir(root.as_fd()).map_err(attempting("entering the container's root"))?;
    rustix::process::pivot_root(".", ".").map_err(attempting("pivoting into the container's root"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(attempting("detaching the blank root"))
}
