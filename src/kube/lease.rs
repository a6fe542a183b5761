//! Leases: a node's own, renewed for as long as its gardend runs.

use super::backoff::{about, backoff};
use super::client::{FIELD_MANAGER, Place, Trouble, ask};
use super::gauges::{Gauges, count};
use super::options::Keeping;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Tells the Leases of nodes from others.
pub(super) const NODE_LEASE_LABEL: &str = "gardend.dev/lease";

/// Renews the node's Lease, until the end. It is not part of the mirror's bucket: objects that wait
/// must not make a node look dead.
pub(super) async fn keep_own(place: Place, keeping: Keeping, gauges: Arc<Gauges>) {
    let leases: Api<Lease> = Api::namespaced(place.client.clone(), &place.namespace);
    let mut failures = 0;
    loop {
        let wait = match renew(&leases, &place, &keeping).await {
            Ok(()) => {
                failures = 0;
                about(keeping.renew)
            }
            Err(trouble) => {
                failures += 1;
                count(&gauges.lease_failed);
                tracing::debug!(%trouble, failures, "the node's Lease was not renewed");
                backoff(failures).max(Duration::from_millis(200))
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn renew(leases: &Api<Lease>, place: &Place, keeping: &Keeping) -> Result<(), Trouble> {
    let name = place.node.lease();
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": name, "labels": { NODE_LEASE_LABEL: "node" } },
        "spec": {
            "holderIdentity": place.node.as_str(),
            "leaseDurationSeconds": keeping.stale.as_secs().max(1),
            "renewTime": MicroTime(Timestamp::now()),
        },
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    ask(leases.patch(&name, &params, &Patch::Apply(&lease))).await.map(|_| ())
}
