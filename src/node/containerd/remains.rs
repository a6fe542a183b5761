//! What a place leaves on the host beside containerd's records, and its removal.
//!
//! The folder goes last: for as long as it is there, the place is found and its removal goes on.

use super::Cgroups;
use super::NAMESPACE;
use crate::node::place::Folders;
use gardend_controller::record::SandboxId;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where containerd keeps what its shims run, below its state folder, in 1.6 and 2.x.
const BUNDLES: &str = "io.containerd.runtime.v2.task";

/// Where the runtime keeps its state: ours alone, so that what a killed shim leaves can be removed.
pub(crate) fn runtime_state(folders: &Folders) -> PathBuf {
    folders.run().join("runtime")
}

/// Places of which something is left on the host, by their names.
pub(super) fn list(folders: &Folders, cgroups: &Cgroups) -> io::Result<BTreeSet<SandboxId>> {
    let mut found = cgroups.list()?;
    found.extend(named_in(&folders.places())?);
    found.extend(named_in(&runtime_state(folders).join(NAMESPACE))?);
    Ok(found)
}

/// Removes containerd's bundle of a place that it has no record of any more. It does so itself,
/// unless it was killed in the middle of a create. containerd's state folder is taken to be the
/// one that its socket is in, as it is by default; elsewhere, its next start finds the bundle.
pub(super) fn remove_bundle(socket: &Path, id: &SandboxId) -> io::Result<()> {
    let Some(state) = socket.parent() else { return Ok(()) };
    let bundle = state.join(BUNDLES).join(NAMESPACE).join(id.as_str());
    // A link into containerd's root folder, to what this place alone has there.
    if let Ok(work) = fs::read_link(bundle.join("work"))
        && work.ends_with(Path::new(BUNDLES).join(NAMESPACE).join(id.as_str()))
    {
        remove_folder(&work)?;
    }
    remove_folder(&bundle)
}

/// Removes all else of a place but its cgroups, which went before: the runtime's state, the folder.
pub(super) fn remove(folders: &Folders, id: &SandboxId) -> io::Result<()> {
    remove_folder(&runtime_state(folders).join(NAMESPACE).join(id.as_str()))?;
    remove_folder(&folders.place(id))
}

fn named_in(folder: &Path) -> io::Result<BTreeSet<SandboxId>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        found.extend(entry?.file_name().to_str().and_then(SandboxId::parse));
    }
    Ok(found)
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io::Error::new(error.kind(), format!("{}: {error}", folder.display())))
        }
        _ => Ok(()),
    }
}
