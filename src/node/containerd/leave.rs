//! What a gardend that does not come back removes of itself in containerd and among the cgroups:
//! what its places had went with them.

use super::cgroups::{TOP, hierarchies};
use super::leases::Collection;
use super::{Containerd, NAMESPACE, failed};
use crate::node::images::LEASE;
use gardend_controller::ports::NodeError;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// containerd collects what nothing holds any more some moments later, and its namespace is empty
/// only then.
const COLLECTS: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(200);

impl Containerd {
    /// Ends our leases, and removes the groups above our places, and containerd's namespace, where
    /// nobody else has something in it. None of our places may be left.
    ///
    /// # Errors
    /// Where containerd does not answer, or a group is in use.
    pub async fn leave(&self) -> Result<(), NodeError> {
        for lease in self.connection.leases(LEASE, self.owner.as_str()).await? {
            self.connection.delete_lease(&lease.id, Collection::Now).await?;
        }
        let deadline = Instant::now() + COLLECTS;
        while !self.connection.remove_empty_namespace(NAMESPACE).await? {
            if Instant::now() >= deadline {
                tracing::info!("containerd's namespace {NAMESPACE} is not empty, and stays: others use it too");
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        self.remove_groups().map_err(|error| failed(format!("cannot remove the cgroups of all places: {error}")))
    }

    fn remove_groups(&self) -> io::Result<()> {
        for hierarchy in hierarchies()? {
            let top = hierarchy.join(TOP);
            remove_group(&top.join(self.owner.as_str()))?;
            match remove_group(&top) {
                // Another gardend's is in it.
                Err(error) if matches!(error.kind(), ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty) => {}
                removed => removed?,
            }
        }
        Ok(())
    }
}

fn remove_group(group: &Path) -> io::Result<()> {
    match fs::remove_dir(group) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(io::Error::new(error.kind(), format!("{}: {error}", group.display())))
        }
        _ => Ok(()),
    }
}
