//! The rootfs that every blank place shares: garden-init and mount points, read-only.
//!
//! It lies in `<state-dir>/blank/<hash of its content>/`. A newer gardend with another init makes
//! another folder, so that places that run keep the one they were started from. It is written
//! beside and renamed into its place: it is whole or not there. What no place uses any more is
//! removed by [`Blank::prune`].
//!
//! Root of an unprivileged place, which is nobody on the host, must reach it: every folder on the
//! way needs to be searchable by others, which [`super::check`] looks at.

use crate::node::containerd::labels::hex;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// pid 1 of every place, static.
static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/garden-init"));
/// Its name in the rootfs, as the OCI spec's arguments have it.
const INIT_NAME: &str = "garden-init";
/// Mount points: a place's new root, what the runtime mounts, and the place's own folder.
const MOUNT_POINTS: [&str; 6] = ["newroot", "proc", "dev", "sys", "ctl", "tmp"];
/// Changed whenever the mount points or modes are, so that the hash is.
const LAYOUT: u8 = 1;
/// What an interrupted install leaves begins with this.
const UNFINISHED: &str = ".new-";

/// garden-init, as this gardend brings it along.
pub fn init_program() -> &'static [u8] {
    INIT
}

/// A blank rootfs that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blank {
    all: PathBuf,
    path: PathBuf,
}

impl Blank {
    /// Makes the rootfs of this gardend's version below `state`, or finds it made.
    ///
    /// # Errors
    /// Where the state folder cannot be written.
    pub fn install(state: &Path) -> io::Result<Self> {
        let all = state.join("blank");
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&all)?;
        let path = all.join(version());
        if !is_whole(&path) {
            let unfinished = all.join(format!("{UNFINISHED}{}", std::process::id()));
            remove_all(&unfinished)?;
            write(&unfinished)?;
            // A damaged one is put aside under the places that run on it, not taken from them.
            let damaged = all.join(format!("{UNFINISHED}{}-damaged", std::process::id()));
            remove_all(&damaged)?;
            match fs::rename(&path, &damaged) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => fs::rename(&unfinished, &path)?,
            }
            remove_all(&damaged)?;
            fs::File::open(&all)?.sync_all()?;
        }
        Ok(Self { all, path })
    }

    /// The rootfs of new places.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// garden-init in it.
    pub fn init(&self) -> PathBuf {
        self.path.join(INIT_NAME)
    }

    /// Removes every other version but these, and what interrupted installs left.
    ///
    /// # Errors
    /// Where the folder cannot be read, or an entry not be removed.
    pub fn prune(&self, in_use: &BTreeSet<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(&self.all)? {
            let path = entry?.path();
            if path != self.path && !in_use.contains(&path) {
                remove_all(&path)?;
            }
        }
        Ok(())
    }
}

fn version() -> String {
    let mut hash = Sha256::new();
    hash.update([LAYOUT]);
    hash.update(INIT);
    hex(&hash.finalize()[..16])
}

fn is_whole(path: &Path) -> bool {
    MOUNT_POINTS.iter().all(|name| path.join(name).is_dir())
        && fs::read(path.join(INIT_NAME)).is_ok_and(|content| content == INIT)
}

fn write(path: &Path) -> io::Result<()> {
    let folder = |path: &Path| {
        fs::DirBuilder::new().create(path)?;
        // Set apart from the making: the process's umask is of no account here.
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    };
    folder(path)?;
    for name in MOUNT_POINTS {
        folder(&path.join(name))?;
    }
    let mut init = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(path.join(INIT_NAME))?;
    io::Write::write_all(&mut init, INIT)?;
    init.set_permissions(fs::Permissions::from_mode(0o555))?;
    // After a power cut a renamed folder must not hold an empty init.
    init.sync_all()?;
    fs::File::open(path)?.sync_all()
}

fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_whole_and_searchable_by_others() {
        let state = tempfile::tempdir().unwrap();
        let blank = Blank::install(state.path()).unwrap();
        let init = fs::metadata(blank.path().join(INIT_NAME)).unwrap();
        assert_eq!((init.len(), init.permissions().mode() & 0o777), (INIT.len() as u64, 0o555));
        for name in MOUNT_POINTS.iter().chain(&["."]) {
            assert_eq!(fs::metadata(blank.path().join(name)).unwrap().permissions().mode() & 0o777, 0o755, "{name}");
        }
        let made = init.modified().unwrap();
        assert_eq!(Blank::install(state.path()).unwrap(), blank);
        assert_eq!(fs::metadata(blank.path().join(INIT_NAME)).unwrap().modified().unwrap(), made);
    }

    #[test]
    fn a_damaged_one_is_made_again() {
        let state = tempfile::tempdir().unwrap();
        let blank = Blank::install(state.path()).unwrap();
        let init = blank.path().join(INIT_NAME);
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&init, "cut off").unwrap();
        fs::remove_dir(blank.path().join("newroot")).unwrap();
        Blank::install(state.path()).unwrap();
        assert!(is_whole(blank.path()));
        assert_eq!(fs::read_dir(state.path().join("blank")).unwrap().count(), 1);
    }

    #[test]
    fn older_versions_stay_while_they_are_used() {
        let state = tempfile::tempdir().unwrap();
        let blank = Blank::install(state.path()).unwrap();
        let all = state.path().join("blank");
        let (used, unused, torn) = (all.join("used"), all.join("unused"), all.join(format!("{UNFINISHED}7")));
        for path in [&used, &unused, &torn] {
            write(path).unwrap();
        }
        blank.prune(&[used.clone()].into()).unwrap();
        assert!(used.is_dir() && blank.path().is_dir() && !unused.exists() && !torn.exists());
    }
}
