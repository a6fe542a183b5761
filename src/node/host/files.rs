//! A container's folder, and the links in it that stand for its bind mounts: the port [`Rootfs`]
//! without mounts.
//!
//! A link may lie in the folder that another bind mount leads to; such ones are noted down before
//! they are made, so that the container's end takes them away again. What is in the way of a link is
//! left alone, but for an empty folder and another link.

use super::{all_links, blocking, container, containers, images, paths, root_link};
use crate::node::place::Folders;
use async_trait::async_trait;
use gardend_controller::ports::{NetworkWanted, NodeError, NodeErrorKind, Rootfs};
use gardend_controller::record::{
    BindMode, BindMount, BindOrigin, ContainerSpec, ContainerUid, Handle, RootfsSource, SandboxId,
};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Clone, Debug)]
pub struct HostFiles {
    folders: Folders,
}

impl HostFiles {
    /// Makes the folder of all containers.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn open(folders: Folders) -> io::Result<Self> {
        // Others can pass through, where root starts processes as other users, and not list them.
        fs::DirBuilder::new().recursive(true).mode(0o711).create(containers(&folders))?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(all_links(&folders))?;
        Ok(Self { folders })
    }

    fn links(&self, uid: &ContainerUid) -> PathBuf {
        all_links(&self.folders).join(uid.as_str())
    }
}

#[async_trait]
impl Rootfs for HostFiles {
    async fn check(&self, spec: &ContainerSpec) -> Result<(), NodeError> {
        let spec = spec.clone();
        let checked = tokio::task::spawn_blocking(move || check(&spec)).await;
        checked.unwrap_or_else(|_| Err(NodeError::new(NodeErrorKind::Failed, "gardend is shutting down")))
    }

    async fn furnish(
        &self,
        sandbox: &SandboxId,
        uid: &ContainerUid,
        handle: &Handle,
        spec: &ContainerSpec,
        _network: Option<&NetworkWanted>,
    ) -> Result<(), NodeError> {
        warn_of(handle, spec);
        let (folder, place, notes) =
            (container(&self.folders, uid), root_link(&self.folders, sandbox), self.links(uid));
        let mut binds = spec.bind_mounts.clone();
        // Parents first, so that none is in the way of another.
        binds.sort_by_key(|bind| paths::below(Path::new("/"), &bind.target).components().count());
        blocking(format!("cannot make the folder of container '{handle}'"), move || {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&folder)?;
            symlink(&folder, place)?;
            binds.iter().try_for_each(|bind| link(&folder, &notes, bind))
        })
        .await
    }

    async fn release(&self, uid: &ContainerUid) -> Result<(), NodeError> {
        let (folder, notes) = (container(&self.folders, uid), self.links(uid));
        blocking(format!("cannot remove the folder of container {uid}"), move || {
            unlink_noted(&notes)?;
            remove(&folder)
        })
        .await
    }

    async fn list(&self) -> Result<Vec<ContainerUid>, NodeError> {
        let (folders, notes) = (containers(&self.folders), all_links(&self.folders));
        blocking("cannot list the containers' folders".into(), move || {
            let mut found = Vec::new();
            for folder in [folders, notes] {
                let names = fs::read_dir(folder)?.flatten().map(|entry| entry.file_name());
                found.extend(names.filter_map(|name| ContainerUid::parse(name.to_str()?)));
            }
            found.sort();
            found.dedup();
            Ok(found)
        })
        .await
    }
}

fn check(spec: &ContainerSpec) -> Result<(), NodeError> {
    let invalid = |message| Err(NodeError::new(NodeErrorKind::Invalid, message));
    match &spec.rootfs {
        RootfsSource::Image(image) => return Err(images::refused(&image.reference)),
        RootfsSource::Raw(path) if !path.is_dir() => {
            return invalid(format!("rootfs {} is no folder of this machine", path.display()));
        }
        RootfsSource::Raw(_) | RootfsSource::Default => {}
    }
    for bind in spec.bind_mounts.iter().filter(|bind| bind.origin == BindOrigin::Host) {
        let source = bind.source.display();
        if !bind.source.is_absolute() {
            return invalid(format!("bind mount source {source} is no absolute path"));
        }
        if let Err(error) = fs::metadata(&bind.source) {
            return invalid(format!(
                "bind mount source {source} cannot be used: {error}; create it or correct the path"
            ));
        }
    }
    Ok(())
}

/// What this container asks for and does not get.
fn warn_of(handle: &Handle, spec: &ContainerSpec) {
    if let RootfsSource::Raw(path) = &spec.rootfs {
        let rootfs = path.display();
        tracing::warn!(%handle, %rootfs, "its rootfs is not used: its processes run on the machine's own root");
    }
    let writable = spec.bind_mounts.iter().filter(|bind| bind.mode == BindMode::ReadOnly).count();
    if writable > 0 {
        tracing::warn!(%handle, bind_mounts = writable, "read-only bind mounts can be written to");
    }
}

fn link(folder: &Path, notes: &Path, bind: &BindMount) -> io::Result<()> {
    let source = match bind.origin {
        BindOrigin::Host => bind.source.clone(),
        BindOrigin::Container => paths::below(folder, &bind.source),
    };
    let target = paths::below(folder, &bind.target);
    let (Some(parent), Some(name)) = (target.parent(), target.file_name().filter(|_| target != folder.join(""))) else {
        return Err(io::Error::other("a bind mount at / cannot be a link; name a folder below it"));
    };
    fs::create_dir_all(parent)?;
    // Where it is by the links on the way.
    let target = parent.canonicalize()?.join(name);
    if !target.starts_with(folder.canonicalize()?) {
        note(notes, &target)?;
    }
    make_way(&target)?;
    symlink(&source, &target).map_err(|error| {
        let words = format!("bind mount {} cannot be a link to {}: {error}", target.display(), source.display());
        io::Error::new(error.kind(), words)
    })
}

fn make_way(target: &Path) -> io::Result<()> {
    let seen = match fs::symlink_metadata(target) {
        Ok(seen) => seen,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let done = match seen.file_type() {
        kind if kind.is_symlink() => fs::remove_file(target),
        kind if kind.is_dir() => fs::remove_dir(target),
        _ => Err(io::Error::other("a file is there")),
    };
    done.map_err(|error| {
        io::Error::new(error.kind(), format!("{} is in the way of a bind mount: {error}", target.display()))
    })
}

/// Paths end in a NUL, which none can hold.
fn note(notes: &Path, link: &Path) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(notes)?;
    io::Write::write_all(&mut file, &[link.as_os_str().as_bytes(), b"\0"].concat())
}

fn unlink_noted(notes: &Path) -> io::Result<()> {
    let noted = match fs::read(notes) {
        Ok(noted) => noted,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for link in noted.split(|byte| *byte == 0).filter(|link| !link.is_empty()) {
        let link = Path::new(OsStr::from_bytes(link));
        if fs::symlink_metadata(link).is_ok_and(|seen| seen.is_symlink()) {
            fs::remove_file(link)?;
        }
    }
    fs::remove_file(notes)
}

/// Removes a folder with all in it. No link is followed; folders that their maker closed are opened.
fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_folders(folder)?;
            fs::remove_dir_all(folder)
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn open_folders(folder: &Path) -> io::Result<()> {
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        let mode = fs::symlink_metadata(&folder)?.permissions().mode();
        if mode & 0o700 != 0o700 {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode | 0o700))?;
        }
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &Path, target: &str) -> BindMount {
        let (source, target) = (source.to_owned(), target.into());
        BindMount { source, target, mode: BindMode::ReadWrite, origin: BindOrigin::Host }
    }

    struct World {
        below: tempfile::TempDir,
        files: HostFiles,
        uid: ContainerUid,
        sandbox: SandboxId,
    }

    impl World {
        fn new() -> Self {
            let below = tempfile::tempdir().unwrap();
            let folders = Folders::new(below.path().join("state"), below.path().join("run"));
            let sandbox = SandboxId::generate();
            fs::create_dir_all(folders.place(&sandbox)).unwrap();
            Self { files: HostFiles::open(folders).unwrap(), below, uid: ContainerUid::generate(), sandbox }
        }

        fn volume(&self, name: &str) -> PathBuf {
            let path = self.below.path().join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("name"), name).unwrap();
            path
        }

        async fn furnish(&self, binds: Vec<BindMount>) -> Result<(), NodeError> {
            let spec = ContainerSpec { bind_mounts: binds, ..ContainerSpec::default() };
            self.files.check(&spec).await?;
            self.files.furnish(&self.sandbox, &self.uid, &Handle::new("c").unwrap(), &spec, None).await
        }

        fn path(&self, inside: &str) -> PathBuf {
            paths::below(&container(&self.files.folders, &self.uid), inside)
        }
    }

    #[tokio::test]
    async fn bind_mounts_are_links_and_one_within_another_goes_with_the_container() {
        let world = World::new();
        let (outer, inner) = (world.volume("outer"), world.volume("inner"));
        // As clients give them: in any order.
        world.furnish(vec![bind(&inner, "/data/in"), bind(&outer, "/data"), bind(&outer, "../opt/x")]).await.unwrap();
        assert_eq!(fs::read_to_string(world.path("/data/name")).unwrap(), "outer");
        assert_eq!(fs::read_to_string(world.path("/data/in/name")).unwrap(), "inner");
        assert_eq!(fs::read_to_string(world.path("/opt/x/name")).unwrap(), "outer");
        assert!(fs::symlink_metadata(outer.join("in")).unwrap().is_symlink());
        assert_eq!(world.files.list().await.unwrap(), std::slice::from_ref(&world.uid));
        for _ in 0..2 {
            world.files.release(&world.uid).await.unwrap();
        }
        assert!(!outer.join("in").exists() && inner.join("name").exists() && outer.join("name").exists());
        assert_eq!(world.files.list().await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_is_in_the_way_of_a_link_is_named_and_left() {
        let world = World::new();
        let (outer, inner) = (world.volume("outer"), world.volume("inner"));
        fs::create_dir(outer.join("in")).unwrap();
        fs::write(outer.join("in/kept"), "").unwrap();
        let refused = world.furnish(vec![bind(&outer, "/data"), bind(&inner, "/data/in")]).await.unwrap_err();
        assert!(refused.message.contains("is in the way"), "{refused}");
        world.files.release(&world.uid).await.unwrap();
        assert!(outer.join("in/kept").exists());
    }

    #[tokio::test]
    async fn what_cannot_be_had_is_refused_before_anything_is_made() {
        let world = World::new();
        let missing = world.furnish(vec![bind(Path::new("/no/such/folder"), "/x")]).await.unwrap_err();
        assert_eq!(missing.kind, NodeErrorKind::Invalid);
        let image = ContainerSpec {
            rootfs: RootfsSource::image("docker:///busybox".parse().unwrap()),
            ..ContainerSpec::default()
        };
        let refused = world.files.check(&image).await.unwrap_err();
        assert!(refused.kind == NodeErrorKind::Invalid && refused.message.contains("--backend host"), "{refused}");
        assert_eq!(world.files.list().await.unwrap(), []);
    }

    #[tokio::test]
    async fn folders_that_were_closed_are_removed_too() {
        let world = World::new();
        world.furnish(Vec::new()).await.unwrap();
        let closed = world.path("/closed/deep");
        fs::create_dir_all(&closed).unwrap();
        fs::write(closed.join("file"), "").unwrap();
        for folder in ["/closed/deep", "/closed"] {
            fs::set_permissions(world.path(folder), fs::Permissions::from_mode(0o500)).unwrap();
        }
        open_folders(&world.path("/")).unwrap();
        assert_eq!(fs::metadata(world.path("/closed")).unwrap().permissions().mode() & 0o777, 0o700);
        world.files.release(&world.uid).await.unwrap();
        assert_eq!(world.files.list().await.unwrap(), []);
    }
}
