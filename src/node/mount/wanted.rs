//! What a spec asks of mount work, checked before anything is made.
//!
//! Bind mounts are made parents first (stable by the depth of their targets, otherwise as given),
//! so that a mount never hides another that was asked for, unless both have the same target: then
//! the later one is seen.

use super::beneath::clean;
use super::error::{Result, attempting, invalid};
use gardend_controller::record::{BindMode, BindMount, BindOrigin, ContainerSpec, ProcessImage, RootfsSource};
use rustix::fs::{FileType, StatVfsMountFlags};
use rustix::io::Errno;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) rootfs: RootfsSource,
    pub(super) binds: Vec<Bind>,
}

/// One bind mount, its target cleaned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bind {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
    pub(super) mode: BindMode,
    pub(super) origin: BindOrigin,
}

/// Whether the server has a default rootfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DefaultRootfs {
    Set,
    NotSet,
}

impl Wanted {
    /// Reads a spec; looks at no file.
    pub(super) fn of(spec: &ContainerSpec, default: DefaultRootfs) -> Result<Self> {
        match &spec.rootfs {
            RootfsSource::Default if default == DefaultRootfs::NotSet => {
                return Err(invalid(
                    "no rootfs was asked for and this server has no default one; name one (raw:///path), \
                     or start gardend with --default-rootfs",
                ));
            }
            RootfsSource::Default | RootfsSource::Image(_) => {}
            RootfsSource::Raw(path) => host_path("rootfs", path)?,
        }
        let mut binds = spec.bind_mounts.iter().map(Bind::of).collect::<Result<Vec<_>>>()?;
        binds.sort_by_key(|bind| bind.target.components().count());
        Ok(Self { rootfs: spec.rootfs.clone(), binds })
    }

    /// Reads what a process asks for; looks at no file.
    pub(super) fn of_process(image: &ProcessImage) -> Result<Self> {
        let (rootfs, bind_mounts) = (image.rootfs.clone(), image.bind_mounts.clone());
        Self::of(&ContainerSpec { rootfs, bind_mounts, ..ContainerSpec::default() }, DefaultRootfs::NotSet)
    }

    /// Looks whether what it names on the host is there, in the calling thread's mount namespace.
    pub(super) fn look(&self) -> Result<()> {
        if let RootfsSource::Raw(path) = &self.rootfs {
            look_at_rootfs(path)?;
        }
        for bind in self.binds.iter().filter(|bind| bind.origin == BindOrigin::Host) {
            let source = bind.source.display();
            match rustix::fs::stat(&bind.source) {
                Ok(_) => {}
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    return Err(invalid(format!(
                        "bind mount source {source} does not exist on the host; create it or correct the path"
                    )));
                }
                Err(Errno::LOOP) => return Err(invalid(format!("bind mount source {source} is a loop of symlinks"))),
                Err(error) => return Err(attempting(format!("looking at bind mount source {source}"))(error)),
            }
        }
        Ok(())
    }
}

impl Bind {
    fn of(bind: &BindMount) -> Result<Self> {
        let (source, target) = (bind.source.display(), bind.target.display());
        match bind.origin {
            BindOrigin::Host => host_path("bind mount source", &bind.source)?,
            BindOrigin::Container => no_nul("bind mount source", &bind.source)?,
        }
        no_nul("bind mount target", &bind.target)?;
        if bind.target.as_os_str().is_empty() {
            return Err(invalid(format!("the bind mount of {source} has no target; name a path in the container")));
        }
        let cleaned = clean(&bind.target);
        if cleaned == Path::new("/") {
            return Err(invalid(format!(
                "bind mount target {target} of {source} is the container's root; give that folder as the rootfs instead"
            )));
        }
        Ok(Self { source: bind.source.clone(), target: cleaned, mode: bind.mode, origin: bind.origin })
    }
}

/// What a raw rootfs must be.
pub(super) fn look_at_rootfs(path: &Path) -> Result<()> {
    let shown = path.display();
    let stat = match rustix::fs::stat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => {
            return Err(invalid(format!("rootfs {shown} does not exist on the host; create it or correct the path")));
        }
        Err(Errno::LOOP) => return Err(invalid(format!("rootfs {shown} is a loop of symlinks"))),
        Err(error) => return Err(attempting(format!("looking at rootfs {shown}"))(error)),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(invalid(format!(
            "rootfs {shown} is not a folder; give the folder of an unpacked root file system"
        )));
    }
    let file_system = rustix::fs::statvfs(path).map_err(attempting(format!("looking at rootfs {shown}")))?;
    if file_system.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return Err(invalid(format!(
            "rootfs {shown} is on a file system mounted noexec, so nothing in it could run; remount it with exec"
        )));
    }
    Ok(())
}

fn host_path(what: &str, path: &Path) -> Result<()> {
    no_nul(what, path)?;
    if path.is_absolute() {
        return Ok(());
    }
    let shown = path.display();
    Err(invalid(format!(
        "{what} {shown:?} is not an absolute path; give it from / on the host",
        shown = shown.to_string()
    )))
}

fn no_nul(what: &str, path: &Path) -> Result<()> {
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(invalid(format!("{what} {:?} holds a NUL byte", path.display().to_string())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gardend_controller::ports::NodeErrorKind;

    fn bind(source: &str, target: &str) -> BindMount {
        BindMount { source: source.into(), target: target.into(), mode: BindMode::ReadWrite, origin: BindOrigin::Host }
    }

    fn raw(rootfs: &str, bind_mounts: Vec<BindMount>) -> ContainerSpec {
        ContainerSpec { rootfs: RootfsSource::Raw(rootfs.into()), bind_mounts, ..ContainerSpec::default() }
    }

    fn refusal(spec: &ContainerSpec) -> String {
        let error = Wanted::of(spec, DefaultRootfs::NotSet).and_then(|wanted| wanted.look()).unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Invalid, "{error}");
        error.message
    }

    #[test]
    fn parents_come_first_and_the_rest_stays_as_given() {
        let spec = raw("/", vec![bind("/1", "/a/b/c"), bind("/2", "x"), bind("/3", "/a/./b"), bind("/4", "/x")]);
        let wanted = Wanted::of(&spec, DefaultRootfs::NotSet).unwrap();
        let order: Vec<_> =
            wanted.binds.iter().map(|bind| (bind.source.to_str().unwrap(), bind.target.to_str().unwrap())).collect();
        assert_eq!(order, [("/2", "/x"), ("/4", "/x"), ("/3", "/a/b"), ("/1", "/a/b/c")]);
    }

    #[test]
    fn what_cannot_be_had_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let missing = folder.path().join("missing");
        let (file, missing, folder) =
            (file.to_str().unwrap(), missing.to_str().unwrap(), folder.path().to_str().unwrap());
        for (spec, words) in [
            (ContainerSpec::default(), "--default-rootfs"),
            (raw(missing, vec![]), "does not exist on the host"),
            (raw(file, vec![]), "is not a folder"),
            (raw("relative", vec![]), "not an absolute path"),
            (raw("", vec![]), "not an absolute path"),
            (raw("/a\0b", vec![]), "NUL"),
            (raw(folder, vec![bind(missing, "/x")]), "does not exist on the host"),
            (raw(folder, vec![bind("here", "/x")]), "not an absolute path"),
            (raw(folder, vec![bind(folder, "/")]), "the container's root"),
            (raw(folder, vec![bind(folder, "/x/../..")]), "the container's root"),
            (raw(folder, vec![bind(folder, "")]), "has no target"),
        ] {
            let message = refusal(&spec);
            assert!(message.contains(words), "{message}");
        }
        let good = raw(folder, vec![bind(file, "/proc/x"), bind(folder, "../../y")]);
        Wanted::of(&good, DefaultRootfs::NotSet).unwrap().look().unwrap();
    }
}
