//! Network namespaces of places, kept under a name of their own (`<run-dir>/cni/netns/`) until plugins
//! have undone what they did there: most can only as long as it is there, and a place's own is gone with
//! its init.

use crate::node::network::links::Inside;
use rustix::mount::UnmountFlags;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Gives a place's network namespace a name. It may have it already.
pub(super) fn keep(inside: &Inside, name: &Path) -> io::Result<()> {
    let namespace = inside.namespace();
    if is_kept(name) {
        let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        if identity(rustix::fs::stat(name)?) == identity(rustix::fs::fstat(namespace)?) {
            return Ok(());
        }
        let_go(name)?;
    }
    std::fs::File::options().write(true).create(true).truncate(false).open(name)?;
    rustix::mount::mount_bind(format!("/proc/self/fd/{}", namespace.as_raw_fd()), name)?;
    Ok(())
}

/// The name, where it stands for a namespace.
pub(super) fn kept(name: &Path) -> Option<PathBuf> {
    is_kept(name).then(|| name.to_owned())
}

#[allow(
    clippy::unnecessary_cast,
    clippy::useless_conversion,
    reason = "not every architecture has it as the same type"
)]
fn is_kept(name: &Path) -> bool {
    rustix::fs::statfs(name).is_ok_and(|system| system.f_type == libc::NSFS_MAGIC)
}

/// Takes the name away.
pub(super) fn let_go(name: &Path) -> io::Result<()> {
    while is_kept(name) {
        rustix::mount::unmount(name, UnmountFlags::DETACH)?;
    }
    match std::fs::remove_file(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
