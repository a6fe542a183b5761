//! The programs of a managed containerd, brought from a pod's image to the host.
//!
//! containerd, its shims and the runtime outlive the pod, and find each other by path: so their
//! programs lie in a folder of the host's, named by what is in them. An image with other programs
//! has another folder; what runs goes on with its own, which goes once nothing runs from it.

use super::super::labels::hex;
use super::{ManagedError, file};
use crate::node::place::Folders;
use crate::own;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where gardend's image has it.
const OF_IMAGE: &str = "/usr/libexec/gardend/containerd";
/// What may lie beside containerd and is found by its name: its shim, and runtimes.
const BESIDE: [&str; 3] = ["containerd-shim-runc-v2", "runc", "crun"];
const UNFINISHED: &str = ".unfinished-";

/// The program to start: the one named, or, where that is a pod's, a copy of it on the host.
///
/// # Errors
/// Where it is not there, or cannot be copied.
pub fn settle(binary: &Path, folders: &Folders) -> Result<PathBuf, ManagedError> {
    if !own::is_away().map_err(file("cannot look at", Path::new("/proc")))? {
        return Ok(binary.to_owned());
    }
    let binary = if binary.is_absolute() { binary } else { Path::new(OF_IMAGE) };
    let missing = |source| ManagedError::Program { binary: binary.to_owned(), source };
    let found = own::file(binary).and_then(|found| found.metadata().map(|_| found)).map_err(missing)?;
    let all = folders.state().join("programs");
    install(&found, &all).map_err(file("cannot bring containerd's programs to", &all))
}

fn install(binary: &Path, all: &Path) -> io::Result<PathBuf> {
    let name = binary.file_name().ok_or_else(|| io::Error::other("containerd's path names no file"))?;
    let beside = BESIDE.iter().map(|name| binary.with_file_name(name)).filter(|path| path.is_file());
    let programs: Vec<PathBuf> = std::iter::once(binary.to_owned()).chain(beside).collect();
    let folder = all.join(version(&programs)?);
    fs::create_dir_all(all)?;
    if !folder.is_dir() {
        let unfinished = all.join(format!("{UNFINISHED}{}", std::process::id()));
        remove_all(&unfinished)?;
        fs::create_dir(&unfinished)?;
        for program in &programs {
            let copy = unfinished.join(program.file_name().unwrap_or(name));
            fs::copy(program, &copy)?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
            // After a power cut a renamed folder must not hold an empty program.
            File::open(&copy)?.sync_all()?;
        }
        fs::rename(&unfinished, &folder)?;
        File::open(all)?.sync_all()?;
    }
    prune(all, &folder)?;
    Ok(folder.join(name))
}

/// By names and content.
fn version(programs: &[PathBuf]) -> io::Result<String> {
    let mut hash = Sha256::new();
    for program in programs {
        let (name, content) = (program.file_name().unwrap_or_default(), fs::read(program)?);
        hash.update(name.as_encoded_bytes());
        hash.update([0]);
        hash.update(content.len().to_le_bytes());
        hash.update(content);
    }
    Ok(hex(&hash.finalize()[..16]))
}

/// Removes every folder but this one and those that something runs from.
fn prune(all: &Path, current: &Path) -> io::Result<()> {
    let used = running_from(all)?;
    for entry in fs::read_dir(all)? {
        let path = entry?.path();
        if path != current && !used.contains(&path) {
            remove_all(&path)?;
        }
    }
    Ok(())
}

fn running_from(all: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let all = all.canonicalize()?;
    let mut used = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        // It may have ended, or be a thread of the kernel's.
        let Ok(program) = fs::read_link(entry?.path().join("exe")) else { continue };
        used.extend(program.parent().filter(|folder| folder.parent() == Some(&all)).map(Path::to_owned));
    }
    Ok(used)
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

    fn image(folder: &Path, content: &str) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("containerd"), content).unwrap();
        fs::write(folder.join("runc"), "runc").unwrap();
        fs::write(folder.join("other"), "of no use").unwrap();
        folder.join("containerd")
    }

    #[test]
    fn programs_are_installed_once_by_what_is_in_them_and_older_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let all = folder.path().canonicalize().unwrap().join("programs");
        let first = install(&image(&folder.path().join("image"), "one"), &all).unwrap();
        let names = |program: &Path| {
            let entries = fs::read_dir(program.parent().unwrap()).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
        };
        assert_eq!(names(&first), ["containerd", "runc"].map(str::to_owned).into());
        assert_eq!(fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o755);

        let made = fs::metadata(&first).unwrap().modified().unwrap();
        assert_eq!(install(&image(&folder.path().join("image"), "one"), &all).unwrap(), first);
        assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), made);

        let second = install(&image(&folder.path().join("image"), "two"), &all).unwrap();
        assert_eq!(fs::read_to_string(&second).unwrap(), "two");
        assert!(!first.exists() && fs::read_dir(&all).unwrap().count() == 1);
    }

    #[test]
    fn what_runs_keeps_its_programs() {
        let folder = tempfile::tempdir().unwrap();
        let all = folder.path().canonicalize().unwrap().join("programs");
        fs::create_dir_all(all.join("old")).unwrap();
        fs::copy("/bin/sleep", all.join("old/sleep")).unwrap();
        let mut running = std::process::Command::new(all.join("old/sleep")).arg("60").spawn().unwrap();
        let current = install(&image(&folder.path().join("image"), "new"), &all).unwrap();
        assert!(all.join("old/sleep").exists());
        running.kill().unwrap();
        running.wait().unwrap();
        assert_eq!(install(&image(&folder.path().join("image"), "new"), &all).unwrap(), current);
        assert!(!all.join("old").exists());
    }
}
