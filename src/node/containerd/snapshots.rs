//! containerd's snapshots and diff services: layers, unpacked one above the other.
//!
//! A committed snapshot is named by the chain id of its layers, as containerd's own clients name
//! them, so that images share them, and `ctr` finds them.

use super::connection::{Connection, QUICK};
use super::error::{CallError, CallErrorKind};
use super::images::Blob;
use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
    UsageRequest, ViewSnapshotRequest,
};
use containerd_client::types::Mount;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

/// The one that keeps each layer in a folder of its own.
pub(crate) const SNAPSHOTTER: &str = "overlayfs";
/// A layer is unpacked at this rate at the very least, or something hangs.
const SLOWEST_BYTES_A_SECOND: u64 = 256 * 1024;
/// And it has so long whatever its size.
const UNPACKS: Duration = Duration::from_secs(60);
/// Counting a layer's files walks through them.
const COUNTS: Duration = Duration::from_secs(60);

/// Where a snapshot that is being filled is.
pub(crate) struct Mounts(Vec<Mount>);

/// What a snapshot takes, without those below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

impl Mounts {
    /// The folders of a read-only snapshot's layers, the topmost first.
    fn layers(&self) -> Option<Vec<PathBuf>> {
        let [mount] = &self.0[..] else { return None };
        if mount.r#type == "bind" {
            return Some(vec![PathBuf::from(&mount.source)]);
        }
        let lower = mount.options.iter().find_map(|option| option.strip_prefix("lowerdir="))?;
        (mount.r#type == "overlay").then(|| lower.split(':').map(PathBuf::from).collect())
    }
}

impl Connection {
    /// Whether a snapshot is there, whole.
    pub(crate) async fn has_snapshot(&self, key: &str) -> Result<bool, CallError> {
        let stat = StatSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: key.to_owned() };
        let mut client = SnapshotsClient::new(self.channel());
        match self.call(QUICK, || format!("look for snapshot {key}"), client.stat(self.request(stat, QUICK))).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Begins a snapshot above `parent` (empty: above nothing), held by a lease.
    pub(crate) async fn prepare_snapshot(&self, lease: &str, key: &str, parent: &str) -> Result<Mounts, CallError> {
        let prepare = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: HashMap::new(),
        };
        let mut client = SnapshotsClient::new(self.channel());
        let request = self.leased(lease, prepare, QUICK);
        let prepared = self.call(QUICK, || format!("prepare snapshot {key}"), client.prepare(request)).await?;
        Ok(Mounts(prepared.mounts))
    }

    /// Shows a snapshot read-only under a key, held by a lease: the folders of its layers, the
    /// topmost first. What is shown already is found again.
    pub(crate) async fn view_snapshot(&self, lease: &str, key: &str, parent: &str) -> Result<Vec<PathBuf>, CallError> {
        let attempt = || format!("show snapshot {parent}");
        let snapshotter = SNAPSHOTTER.to_owned();
        let mut client = SnapshotsClient::new(self.channel());
        let view = ViewSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: HashMap::new(),
        };
        let mounts = match self.call(QUICK, attempt, client.view(self.leased(lease, view, QUICK))).await {
            Ok(viewed) => viewed.mounts,
            Err(error) if error.kind == CallErrorKind::AlreadyExists => {
                let mounts = MountsRequest { snapshotter, key: key.to_owned() };
                self.call(QUICK, attempt, client.mounts(self.request(mounts, QUICK))).await?.mounts
            }
            Err(error) => return Err(error),
        };
        Mounts(mounts).layers().ok_or_else(|| CallError {
            kind: CallErrorKind::Failed,
            attempt: attempt(),
            reason: "its layers are not in folders; gardend needs containerd's overlayfs snapshotter".into(),
        })
    }

    /// Unpacks a layer; answers the digest of what it is, unpacked.
    pub(crate) async fn apply(&self, layer: &Blob, mounts: &Mounts) -> Result<String, CallError> {
        let deadline = UNPACKS + Duration::from_secs(layer.size / SLOWEST_BYTES_A_SECOND);
        let apply =
            ApplyRequest { diff: Some(layer.descriptor()), mounts: mounts.0.clone(), ..ApplyRequest::default() };
        let mut client = DiffClient::new(self.channel());
        let request = self.request(apply, deadline);
        let applied = self.call(deadline, || format!("unpack layer {}", layer.digest), client.apply(request)).await?;
        Ok(applied.applied.unwrap_or_default().digest)
    }

    /// Makes a snapshot whole, under a name for ever. One of that name that is there is as good.
    pub(crate) async fn commit_snapshot(&self, lease: &str, name: &str, key: &str) -> Result<(), CallError> {
        let commit = CommitSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels: HashMap::new(),
        };
        let mut client = SnapshotsClient::new(self.channel());
        let request = self.leased(lease, commit, COUNTS);
        match self.call(COUNTS, || format!("commit snapshot {name}"), client.commit(request)).await {
            Err(error) if error.kind != CallErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes a snapshot. One that is not there is gone.
    pub(crate) async fn remove_snapshot(&self, key: &str) -> Result<(), CallError> {
        let remove = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: key.to_owned() };
        let mut client = SnapshotsClient::new(self.channel());
        match self.call(QUICK, || format!("remove snapshot {key}"), client.remove(self.request(remove, QUICK))).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// What a snapshot takes, without those below.
    pub(crate) async fn snapshot_usage(&self, key: &str) -> Result<Usage, CallError> {
        let usage = UsageRequest { snapshotter: SNAPSHOTTER.into(), key: key.to_owned() };
        let mut client = SnapshotsClient::new(self.channel());
        let request = self.request(usage, COUNTS);
        let usage = self.call(COUNTS, || format!("measure snapshot {key}"), client.usage(request)).await?;
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(Usage { bytes: count(usage.size), inodes: count(usage.inodes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(ToString::to_string).collect();
        Mount { r#type: kind.into(), source: source.into(), options, ..Mount::default() }
    }

    #[test]
    fn layers_are_found_in_what_the_snapshotter_would_mount() {
        let one = Mounts(vec![mount("bind", "/s/1/fs", &["ro", "rbind"])]);
        assert_eq!(one.layers().unwrap(), [PathBuf::from("/s/1/fs")]);
        let two = Mounts(vec![mount("overlay", "overlay", &["index=off", "lowerdir=/s/2/fs:/s/1/fs"])]);
        assert_eq!(two.layers().unwrap(), [PathBuf::from("/s/2/fs"), PathBuf::from("/s/1/fs")]);
        for other in [vec![], vec![mount("erofs", "/s/1/layer.erofs", &[])], vec![mount("overlay", "overlay", &[])]] {
            assert_eq!(Mounts(other).layers(), None);
        }
    }
}
