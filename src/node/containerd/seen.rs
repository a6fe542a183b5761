//! What containerd holds in our namespace, for whoever counts it. Nothing is changed.

use super::connection::{Connection, MAX_ANSWER, QUICK, SLOW};
use super::error::CallError;
use super::images::Named;
use super::labels::{GROUP, OWNER, OwnerMark};
use super::leases::Lease;
use super::snapshots::SNAPSHOTTER;
use crate::node::images::LEASE;
use containerd_client::services::v1::ListTasksRequest;
use containerd_client::services::v1::snapshots::ListSnapshotsRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use std::collections::BTreeSet;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct ContainerdSeen {
    /// Our containers: their ids, and the groups whose shims they share.
    pub containers: Vec<(String, Option<String>)>,
    /// Other gardends' on the same containerd.
    pub others: BTreeSet<String>,
    /// Tasks, whoever's.
    pub tasks: Vec<String>,
    /// Our leases.
    pub leases: Vec<Lease>,
    /// Images, whoever's.
    pub images: Vec<Named>,
    /// Snapshots, whoever's.
    pub snapshots: Vec<String>,
}

impl Connection {
    /// Asks for all of it.
    pub(crate) async fn seen(&self, owner: &OwnerMark) -> Result<ContainerdSeen, CallError> {
        let all = self.list_all_containers().await?;
        let is_ours = |labels: &std::collections::HashMap<String, String>| {
            labels.get(OWNER).is_some_and(|mark| mark == owner.as_str())
        };
        let (ours, theirs): (Vec<_>, Vec<_>) = all.into_iter().partition(|seen| is_ours(&seen.labels));
        Ok(ContainerdSeen {
            containers: ours.into_iter().map(|seen| (seen.id, seen.labels.get(GROUP).cloned())).collect(),
            others: theirs.into_iter().map(|seen| seen.id).collect(),
            tasks: self.task_ids().await?,
            leases: self.leases(LEASE, owner.as_str()).await?,
            images: self.images().await?,
            snapshots: self.snapshot_names().await?,
        })
    }

    async fn task_ids(&self) -> Result<Vec<String>, CallError> {
        let mut client = TasksClient::new(self.channel()).max_decoding_message_size(MAX_ANSWER);
        let request = self.request(ListTasksRequest::default(), SLOW);
        let listed = self.call(SLOW, || "list tasks".into(), client.list(request)).await?;
        Ok(listed.tasks.into_iter().map(|task| task.id).collect())
    }

    async fn snapshot_names(&self) -> Result<Vec<String>, CallError> {
        let list = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.into(), ..ListSnapshotsRequest::default() };
        let request = self.request(list, QUICK);
        let mut client = SnapshotsClient::new(self.channel());
        let collect = async {
            let mut stream = client.list(request).await?.into_inner();
            let mut names = Vec::new();
            while let Some(some) = stream.message().await? {
                names.extend(some.info.into_iter().map(|info| info.name));
            }
            Ok(tonic::Response::new(names))
        };
        self.call(QUICK, || "list snapshots".into(), collect).await
    }
}
