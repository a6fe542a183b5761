//! The backend `host`: containers as plain processes in folders, for development on machines without
//! containerd, cgroups or root. Nothing keeps them apart, from each other or from the machine
//! ([`NOT_ISOLATED`]).
//!
//! A container is a folder `<state-dir>/host/containers/<uid>`, where its processes begin and below
//! which the names lie that clients give for working folders, files and bind mounts; and a
//! garden-init (`--on-host`), an ordinary process that is the parent of them all, by the same
//! protocol as elsewhere ([`super::process`]). So processes, their output and their statuses survive
//! gardend, and a container ends as a whole.
//!
//! `places` starts and kills those inits, `files` makes folders and links, `processes` puts what
//! clients ask for into the host's terms, `figures`, `network` and `images` say what there is and
//! what there is not.

mod figures;
mod files;
mod images;
mod kill;
mod network;
mod paths;
mod places;
mod processes;
mod users;

pub use figures::Figures;
pub use files::HostFiles;
pub use images::NoImages;
pub use network::HostNetwork;
pub use places::HostPlaces;
pub use processes::HostProcesses;

use super::place::Folders;
use gardend_controller::ports::{NodeError, NodeErrorKind};
use gardend_controller::record::{ContainerUid, SandboxId};
use std::io;
use std::path::PathBuf;

/// What this backend does not keep apart, for people.
pub const NOT_ISOLATED: &str = "files (processes run on this machine's own root, and read-only bind mounts can be \
     written to), users (root of a container is gardend's own user), processes, the network (no rules out, ports are \
     the machine's own), and limits (of memory, processors, processes, disk and bandwidth)";

/// Below the state folder, what is this backend's alone.
pub const STATE_FOLDER: &str = "host";

/// Where things lie, beside what [`Folders`] tells.
///
/// ```text
/// <state-dir>/host/containers/<uid>/   a container's folder
/// <state-dir>/host/links/<uid>         the links that stand for its bind mounts and lie outside of it
/// <run-dir>/places/<sandbox>/root      a link to the folder of the container that has the place
/// ```
fn containers(folders: &Folders) -> PathBuf {
    folders.host_containers()
}

fn container(folders: &Folders, uid: &ContainerUid) -> PathBuf {
    containers(folders).join(uid.as_str())
}

fn all_links(folders: &Folders) -> PathBuf {
    folders.state().join(STATE_FOLDER).join("links")
}

fn root_link(folders: &Folders, id: &SandboxId) -> PathBuf {
    folders.place(id).join("root")
}

fn failed(message: impl Into<String>) -> NodeError {
    NodeError::new(NodeErrorKind::Failed, message)
}

/// Runs short file system work beside the async threads.
async fn blocking<T: Send + 'static>(
    doing: String,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, NodeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(failed(format!("{doing}: {error}"))),
        Err(_) => Err(failed(format!("{doing}: cut short, gardend is shutting down"))),
    }
}
