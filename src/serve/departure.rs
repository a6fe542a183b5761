//! What a gardend does that ends for good: on a node that was drained with all that there was, it
//! takes itself away too, so that an uninstall leaves nothing.
//!
//! Whatever cannot be removed is told and left; the rest goes nevertheless.

use gardend::node::containerd::Containerd;
use gardend::node::containerd::managed::Managed;
use gardend::node::images::ImageNode;
use gardend::node::mount::remove_tree;
use gardend::node::network;
use gardend::node::place::Folders;
use gardend_controller::ports::{Collect, Images};
use gardend_controller::{Controller, Drain};
use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long one part may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What of this gardend's there may be on the node.
pub(super) struct Departure {
    pub folders: Folders,
    pub containerd: Option<Arc<Containerd>>,
    pub images: Option<ImageNode>,
    pub network: bool,
}

impl Departure {
    /// Removes it, where the node is drained for that. The controller has been shut down.
    pub async fn of(self, controller: &Controller, managed: Option<Managed>) {
        let view = controller.drain_view();
        let Some(drain @ (Drain::Destroy | Drain::Uninstall)) = view.drain.filter(|_| view.drained()) else {
            // A managed containerd is left running: it is what the containers' shims report to.
            return drop(managed);
        };
        tracing::info!("the node is drained, and what was gardend's own is removed from it");
        if let Some(images) = self.images {
            let nobody = BTreeSet::new;
            attempt("removing images", async move { images.collect(Collect::Unused, &nobody).await }).await;
        }
        if self.network {
            let folders = self.folders.clone();
            attempt("removing links, rules and tables", blocking(move || network::leave(&folders))).await;
        }
        if let Some(containerd) = self.containerd {
            attempt("leaving containerd", async move { containerd.leave().await }).await;
        }
        if let Some(managed) = managed {
            managed.stop().await;
        }
        attempt("removing the folders", blocking(move || remove_folders(&self.folders, drain))).await;
    }
}

async fn attempt<T, E: std::fmt::Display>(what: &str, work: impl Future<Output = Result<T, E>>) {
    match timeout(PATIENCE, work).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "{what} did not succeed; something is left"),
        Err(_) => tracing::warn!("{what} took more than {PATIENCE:?}; something is left"),
    }
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// The run folder as a whole; of the state folder, which tells the next gardend that the node is
/// drained, the ledger stays unless there is to be none.
fn remove_folders(folders: &Folders, drain: Drain) -> io::Result<()> {
    let is_ledger = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(Folders::LEDGER))
    };
    let keeps = |path: &PathBuf| drain == Drain::Destroy && is_ledger(path);
    let removed = [empty(folders.run(), |_| false), empty(folders.state(), keeps)];
    removed.into_iter().collect()
}

fn empty(folder: &Path, keeps: impl Fn(&PathBuf) -> bool) -> io::Result<()> {
    let mut first = Ok(());
    let mut kept = false;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if keeps(&path) {
            kept = true;
            continue;
        }
        let removed = remove_tree(&path);
        first =
            first.and(removed.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))));
    }
    first?;
    // A folder that is mounted, as a pod's are, is left empty.
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::ResourceBusy && !kept => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(drain: Drain) -> Vec<String> {
        let scratch = tempfile::tempdir().unwrap();
        let (state, run) = (scratch.path().join("state"), scratch.path().join("run"));
        for folder in [state.join("blank/x"), run.join("places")] {
            fs::create_dir_all(folder).unwrap();
        }
        for file in [state.join("ledger.db"), state.join("ledger.db.reserve"), run.join("garden.sock")] {
            fs::write(file, "").unwrap();
        }
        remove_folders(&Folders::new(&state, &run), drain).unwrap();
        assert!(!run.exists());
        let Ok(entries) = fs::read_dir(&state) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_drained_gardend_leaves_its_ledger_and_an_uninstalled_one_nothing() {
        assert_eq!(left(Drain::Destroy), ["ledger.db", "ledger.db.reserve"]);
        assert_eq!(left(Drain::Uninstall), [""; 0]);
    }
}
