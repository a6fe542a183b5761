//! A node whose gardend is silent: its objects say so, and go in the end.

use crate::world::{World, condition, eventually, is_ready};
use gardend::kube::{Keeping, connect};
use gardend_crds::{ConditionStatus, GardenContainer};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use std::time::Duration;

pub fn quick() -> Keeping {
    Keeping {
        renew: Duration::from_millis(500),
        stale: Duration::from_secs(4),
        gone: Duration::from_secs(12),
        look: Duration::from_millis(500),
        candidate: Duration::from_millis(500),
    }
}

/// Two nodes in one namespace.
async fn two_nodes(keeping: &Keeping) -> (World, World) {
    let mut one = World::new().await;
    let server = std::sync::Arc::clone(&one.server);
    let mut other = World::without_namespace(server, &one.place.namespace).await;
    let place = connect(Some(&one.server.kubeconfig()), Some(&one.place.namespace), other.place.node.clone()).await;
    other.place = place.unwrap();
    one.options.keeping = keeping.clone();
    other.options.keeping = keeping.clone();
    (one, other)
}

pub fn is_unknown(object: &GardenContainer) -> bool {
    condition(object, "Ready") == Some(ConditionStatus::Unknown)
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_silent_node_are_unknown_and_right_again_when_it_is_back() {
    let (mut one, mut other) = two_nodes(&Keeping { gone: Duration::from_secs(600), ..quick() }).await;
    one.start();
    other.start();
    one.create("stays").await;
    other.create("silent").await;
    one.wait_for("stays", is_ready).await;
    one.wait_for("silent", is_ready).await;
    other.stop().await;
    let unknown = one.wait_for("silent", is_unknown).await;
    let ready = unknown.status.unwrap().conditions.into_iter().find(|one| one.kind == "Ready").unwrap();
    assert_eq!(ready.reason, "NodeSilent");
    assert!(is_ready(&one.object("stays", |_| true).await.unwrap()), "a node that is well is left alone");
    let node = eventually("the node is unknown too", async || {
        let node = one.nodes().get(other.node()).await.unwrap();
        let conditions = node.status.map(|status| status.conditions).unwrap_or_default();
        let ready = conditions.into_iter().find(|one| one.kind == "Ready");
        ready.filter(|ready| ready.status == ConditionStatus::Unknown).ok_or_else(String::new)
    });
    node.await;
    other.start();
    one.wait_for("silent", is_ready).await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_node_that_is_gone_are_removed_by_whoever_keeps() {
    let (mut one, mut other) = two_nodes(&quick()).await;
    // The one that keeps at first is the one that goes: the other takes over.
    other.start();
    let leases: Api<Lease> = Api::namespaced(one.place.client.clone(), &one.place.namespace);
    let holder = async || {
        let lease = leases.get_opt("gardend-keeper").await.unwrap();
        lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default()
    };
    eventually("it keeps", async || (holder().await == other.node()).then_some(()).ok_or_else(String::new)).await;
    one.start();
    one.create("stays").await;
    other.create("goes").await;
    one.wait_for("goes", is_ready).await;
    one.wait_for("stays", is_ready).await;
    assert_eq!(holder().await, other.node());
    other.stop().await;
    one.wait_for("goes", is_unknown).await;
    assert_eq!(holder().await, one.node());
    one.level(1).await;
    eventually("node and Lease go too", async || {
        let node = one.nodes().get_opt(other.node()).await.unwrap();
        let lease = leases.get_opt(&other.place.node.lease()).await.unwrap();
        if node.is_none() && lease.is_none() { Ok(()) } else { Err(format!("{node:?} {lease:?}")) }
    })
    .await;
    assert!(is_ready(&one.object("stays", |_| true).await.unwrap()));
    one.stop().await;
}
