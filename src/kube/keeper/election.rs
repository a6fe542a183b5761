//! Who holds the cluster's own Lease. Whoever writes it first with the version that was read.

use crate::kube::client::{Place, Trouble, ask};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use std::time::Duration;
use tokio::time::Instant;

/// The cluster's own Lease.
const NAME: &str = "gardend-keeper";

pub(super) struct Election {
    leases: Api<Lease>,
    node: String,
    duration: Duration,
    /// The version of the Lease that was last seen, and since when it is that one.
    seen: Option<(String, Instant)>,
    renewed_at: Option<Instant>,
}

impl Election {
    pub(super) fn new(place: &Place, duration: Duration) -> Self {
        let leases = Api::namespaced(place.client.clone(), &place.namespace);
        Self { leases, node: place.node.as_str().to_owned(), duration, seen: None, renewed_at: None }
    }

    /// Whether it is this one, from now on for as long as the Lease goes.
    pub(super) async fn stand(&mut self) -> Result<bool, Trouble> {
        let asked_at = Instant::now();
        let elected = match ask(self.leases.get_opt(NAME)).await? {
            None => self.write(None).await?,
            Some(lease) if self.may_take(&lease) => self.write(Some(lease)).await?,
            Some(_) => false,
        };
        self.renewed_at = elected.then_some(asked_at);
        Ok(elected)
    }

    /// Whether that still holds. Work that takes long asks in between.
    pub(super) async fn still(&mut self) -> Result<bool, Trouble> {
        match self.renewed_at {
            Some(at) if at.elapsed() < self.duration / 4 => Ok(true),
            _ => self.stand().await,
        }
    }

    /// Ours, nobody's, or one that was not renewed while we looked.
    fn may_take(&mut self, lease: &Lease) -> bool {
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or("");
        if holder.is_empty() || holder == self.node {
            return true;
        }
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        match &self.seen {
            Some((seen, since)) if *seen == version => since.elapsed() > self.duration,
            _ => {
                self.seen = Some((version, Instant::now()));
                false
            }
        }
    }

    async fn write(&self, before: Option<Lease>) -> Result<bool, Trouble> {
        let now = MicroTime(Timestamp::now());
        let spec = before.as_ref().and_then(|lease| lease.spec.as_ref());
        let kept = spec.filter(|spec| spec.holder_identity.as_deref() == Some(&self.node));
        let transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                resource_version: before.as_ref().and_then(|lease| lease.metadata.resource_version.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.node.clone()),
                lease_duration_seconds: Some(i32::try_from(self.duration.as_secs().max(1)).unwrap_or(i32::MAX)),
                acquire_time: kept.and_then(|spec| spec.acquire_time.clone()).or_else(|| Some(now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(if before.is_some() && kept.is_none() { transitions + 1 } else { transitions }),
                ..LeaseSpec::default()
            }),
        };
        let params = PostParams::default();
        let written = match before {
            Some(_) => ask(self.leases.replace(NAME, &params, &lease)).await,
            None => ask(self.leases.create(&params, &lease)).await,
        };
        match written {
            Ok(_) => Ok(true),
            // Somebody else was faster.
            Err(Trouble::Conflict(_)) => Ok(false),
            Err(trouble) => Err(trouble),
        }
    }
}
