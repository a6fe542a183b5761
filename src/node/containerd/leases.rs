//! containerd's leases service: what keeps its garbage collection off.

use super::connection::{Connection, QUICK};
use super::error::{CallError, CallErrorKind};
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, Resource};
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// What a lease that is made with it loses its force after.
const EXPIRE: &str = "containerd.io/gc.expire";

/// How long deleting a lease may take where containerd is to have collected by then.
const COLLECTS: Duration = Duration::from_secs(60);

/// Whether containerd shall have collected its garbage when the answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Collection {
    /// It will, some time.
    Later,
    /// Before the answer.
    Now,
}

/// A lease that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Unique in the namespace.
    pub id: String,
    /// What is written on it.
    pub labels: HashMap<String, String>,
}

impl Connection {
    /// Makes a lease. One that is there is left as it is.
    pub(crate) async fn create_lease(
        &self,
        id: &str,
        mut labels: HashMap<String, String>,
        expires: Option<SystemTime>,
    ) -> Result<(), CallError> {
        if let Some(time) = expires {
            labels.insert(EXPIRE.into(), humantime::format_rfc3339_seconds(time).to_string());
        }
        let request = self.request(CreateRequest { id: id.to_owned(), labels }, QUICK);
        let mut client = LeasesClient::new(self.channel());
        match self.call(QUICK, || format!("create lease {id}"), client.create(request)).await {
            Err(error) if error.kind != CallErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Puts a snapshot under a lease, and with it those below. It need not be there yet.
    pub(crate) async fn hold_snapshot(&self, lease: &str, snapshotter: &str, key: &str) -> Result<(), CallError> {
        self.hold_resource(lease, format!("snapshots/{snapshotter}"), key).await
    }

    /// Puts a blob under a lease, and with it what its labels refer to. It need not be there yet.
    pub(crate) async fn hold_content(&self, lease: &str, digest: &str) -> Result<(), CallError> {
        self.hold_resource(lease, "content".to_owned(), digest).await
    }

    async fn hold_resource(&self, lease: &str, kind: String, id: &str) -> Result<(), CallError> {
        let resource = Some(Resource { id: id.to_owned(), r#type: kind });
        let request = self.request(AddResourceRequest { id: lease.to_owned(), resource }, QUICK);
        let mut client = LeasesClient::new(self.channel());
        self.call(QUICK, || format!("hold {id} by lease {lease}"), client.add_resource(request)).await.map(drop)
    }

    /// Ends a lease. One that is not there has ended.
    pub(crate) async fn delete_lease(&self, id: &str, collection: Collection) -> Result<(), CallError> {
        let (sync, deadline) = match collection {
            Collection::Later => (false, QUICK),
            Collection::Now => (true, COLLECTS),
        };
        let request = self.request(DeleteRequest { id: id.to_owned(), sync }, deadline);
        let mut client = LeasesClient::new(self.channel());
        match self.call(deadline, || format!("delete lease {id}"), client.delete(request)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// All leases of our namespace whose label has this value.
    pub(crate) async fn leases(&self, label: &str, value: &str) -> Result<Vec<Lease>, CallError> {
        let filters = vec![format!("labels.\"{label}\"==\"{value}\"")];
        let request = self.request(ListRequest { filters }, QUICK);
        let mut client = LeasesClient::new(self.channel());
        let listed = self.call(QUICK, || format!("list leases labelled {label}={value}"), client.list(request)).await?;
        Ok(listed.leases.into_iter().map(|lease| Lease { id: lease.id, labels: lease.labels }).collect())
    }
}
