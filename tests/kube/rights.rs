//! What gardend's own service account may do, and what nobody but it may: the chart's rules and its
//! admission policy, by tokens that are bound to pods as kubelet's are.

use crate::server::Server;
use crate::world::{World, eventually, is_ready, unique};
use gardend::kube::{Place, connect};
use gardend_crds::{GardenContainer, ORIGIN_GARDEN, ORIGIN_LABEL};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the chart makes of rights and policies.
fn templates(server: &Server, namespace: &str) -> Vec<Value> {
    let text = server.chart(namespace, &["templates/rbac.yaml", "templates/admission.yaml"], &[]);
    let documents = serde_yaml::Deserializer::from_str(&text);
    documents.map(|document| <Value as serde::Deserialize>::deserialize(document).unwrap()).collect()
}

/// On an API server of its own: the policy is for all of a cluster.
#[tokio::test(flavor = "multi_thread")]
async fn the_chart_s_rights_and_policy_are_enough_and_no_more() {
    let server = Arc::new(Server::start());
    let namespace = World::on(Arc::clone(&server)).await.place.namespace;
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": templates(&server, &namespace) });
    let applied = server.kubectl_with(&["apply"], &list);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    mirrored_objects_are_written_by_their_node_s_gardend_and_nobody_else(&server, &namespace).await;
    its_account_may_do_what_it_needs_and_nothing_else(&server, &namespace).await;
    all_is_shown_and_silent_nodes_are_kept(&server, &namespace).await;
}

/// A world whose gardend has no more rights than the chart gives it, in a pod on its node.
pub async fn with_rights(server: &Arc<Server>, namespace: &str) -> World {
    let mut world = World::without_namespace(Arc::clone(server), namespace).await;
    world.place = bound_to_pod(&world).await;
    world
}

/// As kubelet mounts it: a token of the service account, bound to a pod on this node.
async fn bound_to_pod(world: &World) -> Place {
    let (client, namespace, node) = (world.place.client.clone(), &world.place.namespace, world.node());
    let mut machine = Node::default();
    machine.metadata.name = Some(node.to_owned());
    Api::<Node>::all(client.clone()).create(&PostParams::default(), &machine).await.unwrap();
    let spec = json!({
        "nodeName": node,
        "serviceAccountName": "gardend",
        "containers": [{ "name": "gardend", "image": "gardend" }],
    });
    let pod: Pod =
        serde_json::from_value(json!({ "metadata": { "name": format!("gardend-{node}") }, "spec": spec })).unwrap();
    let pod = Api::<Pod>::namespaced(client.clone(), namespace).create(&PostParams::default(), &pod).await.unwrap();
    let (name, uid) = (&pod.metadata.name, &pod.metadata.uid);
    let bound = json!({ "apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid });
    let spec = json!({ "audiences": [], "expirationSeconds": 3600, "boundObjectRef": bound });
    let request: TokenRequest = serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client, namespace);
    let granted = accounts.create_token_request("gardend", &PostParams::default(), &request).await.unwrap();
    let token = granted.status.unwrap().token;
    let admin: Value = serde_yaml::from_str(&std::fs::read_to_string(world.server.kubeconfig()).unwrap()).unwrap();
    let mut config = admin;
    config["users"] = json!([{ "name": "u", "user": { "token": token } }]);
    let file = world.server.path().join(unique("kubeconfig"));
    std::fs::write(&file, config.to_string()).unwrap();
    connect(Some(&file), Some(namespace), world.place.node.clone()).await.unwrap()
}

fn object(name: &str, node: &str, origin: Option<&str>) -> GardenContainer {
    let mut object = GardenContainer::new(name, serde_json::from_value(json!({ "nodeName": node })).unwrap());
    object.metadata.labels = origin.map(|origin| BTreeMap::from([(ORIGIN_LABEL.to_owned(), origin.to_owned())]));
    object
}

fn refused<T: std::fmt::Debug>(answer: kube::Result<T>) -> String {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 || status.code == 422 => status.message.clone(),
        other => panic!("not refused: {other:?}"),
    }
}

async fn all_is_shown_and_silent_nodes_are_kept(server: &Arc<Server>, namespace: &str) {
    let mut one = with_rights(server, namespace).await;
    let mut other = with_rights(server, namespace).await;
    let quick = crate::leases::quick();
    (one.options.keeping, other.options.keeping) = (quick.clone(), quick);
    one.start();
    // Whoever held it before is gone.
    eventually("one keeps", async || {
        let held = one.kubectl(&["get", "lease", "gardend-keeper", "-o", "jsonpath={.spec.holderIdentity}"]);
        if held == one.node() { Ok(()) } else { Err(held) }
    })
    .await;
    other.start();
    one.create("stays").await;
    other.create("goes").await;
    one.wait_for("stays", is_ready).await;
    one.wait_for("goes", is_ready).await;
    one.controller.destroy("stays").await.unwrap();
    let mut missing = crate::world::request("missing");
    let reference = "docker://missing.example/x:1".parse().unwrap();
    missing.spec.rootfs = gardend_controller::record::RootfsSource::image(reference);
    one.controller.create(missing).await.unwrap_err();
    eventually("the event is written", async || {
        let figures = one.figures();
        (figures.events_written > 0).then_some(()).ok_or_else(|| format!("{figures:?}"))
    })
    .await;
    other.stop().await;
    one.wait_for("goes", crate::leases::is_unknown).await;
    eventually("the other's objects go", async || {
        let (objects, node) = (one.objects().await.len(), one.nodes().get_opt(other.node()).await.unwrap());
        if objects == 0 && node.is_none() { Ok(()) } else { Err(format!("{objects} objects, {node:?}")) }
    })
    .await;
    assert_eq!(one.figures().refused, 0);
    one.stop().await;
}

async fn mirrored_objects_are_written_by_their_node_s_gardend_and_nobody_else(server: &Arc<Server>, namespace: &str) {
    let world = with_rights(server, namespace).await;
    let other = with_rights(server, namespace).await;
    let (params, node) = (PostParams::default(), world.node());
    let admin =
        connect(Some(&server.kubeconfig()), Some(&world.place.namespace), world.place.node.clone()).await.unwrap();
    let by_admin: Api<GardenContainer> = Api::namespaced(admin.client, &world.place.namespace);
    let (by_own, by_other) = (world.containers(), other.containers());

    // The policy is in force a moment after it was written.
    eventually("the policy is in force", async || {
        match by_admin
            .create(&PostParams { dry_run: true, ..PostParams::default() }, &object("probe", node, Some(ORIGIN_GARDEN)))
            .await
        {
            Err(kube::Error::Api(status)) if status.message.contains("gardend-mirror") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    eventually("the rights are in force", async || {
        let made = by_own.create(&params, &object("mine", node, Some(ORIGIN_GARDEN))).await;
        made.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let said = refused(by_other.create(&params, &object("forged", node, Some(ORIGIN_GARDEN))).await);
    assert!(
        said.contains(&format!("this gardend is on node {} and writes no objects of {node}", other.node())),
        "{said}"
    );
    let said = refused(by_own.create(&params, &object("declared", node, None)).await);
    assert!(said.contains("writes no objects"), "{said}");
    let said = refused(by_admin.create(&params, &object("forged", node, Some(ORIGIN_GARDEN))).await);
    assert!(said.contains("are written by its gardend alone"), "{said}");

    let merge = |patch: Value| Patch::Merge(patch);
    let patch = PatchParams::default();
    let forged = merge(json!({ "spec": { "privileged": true } }));
    let stolen = merge(json!({ "metadata": { "labels": { ORIGIN_LABEL: null } } }));
    let status = merge(json!({ "status": { "phase": "Gone" } }));
    let unknown = merge(json!({ "status": { "conditions": [{
        "type": "Ready", "status": "Unknown", "reason": "NodeSilent", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }] } }));
    for change in [&forged, &stolen] {
        assert!(refused(by_admin.patch("mine", &patch, change).await).contains("by its gardend alone"));
        assert!(refused(by_other.patch("mine", &patch, change).await).contains("writes no objects of"));
    }
    assert!(refused(by_admin.patch_status("mine", &patch, &status).await).contains("by its gardend alone"));
    by_own.patch_status("mine", &patch, &status).await.unwrap();
    // Not while another holds the Lease, or nobody.
    refused(by_other.patch_status("mine", &patch, &unknown).await);
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "gardend-keeper", "namespace": world.place.namespace },
        "spec": { "holderIdentity": other.node() },
    });
    assert!(server.kubectl_with(&["apply"], &lease).status.success());
    eventually("it may say that the node is silent", async || {
        by_other.patch_status("mine", &patch, &unknown).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let well = merge(json!({ "status": { "conditions": [{
        "type": "Ready", "status": "True", "reason": "Ready", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }] } }));
    assert!(refused(by_other.patch_status("mine", &patch, &well).await).contains("nothing else"));

    // What is declared is others' to write, and what is mirrored anybody's to delete who may.
    by_admin.create(&params, &object("declared", node, None)).await.unwrap();
    by_admin.delete("mine", &DeleteParams::default()).await.unwrap();
}

async fn its_account_may_do_what_it_needs_and_nothing_else(server: &Arc<Server>, namespace: &str) {
    let world = with_rights(server, namespace).await;
    let own = world.place.namespace.clone();
    let verbs = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
    let allowed: BTreeMap<(&str, &str), &[&str]> = BTreeMap::from([
        (("gardend.dev", "gardencontainers"), &["list", "watch", "create", "patch", "delete"][..]),
        (("gardend.dev", "gardencontainers/status"), &["patch"]),
        (("coordination.k8s.io", "leases"), &["get", "list", "create", "update", "patch", "delete"]),
        (("events.k8s.io", "events"), &["create", "patch"]),
        (("gardend.dev", "gardennodes"), &["get", "create", "patch", "delete"]),
        (("gardend.dev", "gardennodes/status"), &["patch"]),
    ]);
    let others = [
        ("", "secrets"),
        ("", "pods"),
        ("", "pods/exec"),
        ("", "configmaps"),
        ("", "nodes"),
        ("", "namespaces"),
        ("", "serviceaccounts/token"),
        ("", "events"),
        ("apps", "daemonsets"),
        ("rbac.authorization.k8s.io", "clusterroles"),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
        ("apiextensions.k8s.io", "customresourcedefinitions"),
    ];
    let reviews: Api<SelfSubjectAccessReview> = Api::all(world.place.client.clone());
    let mut wrong = Vec::new();
    for (group, resource) in allowed.keys().copied().chain(others) {
        for namespace in [own.as_str(), "default"] {
            for verb in verbs {
                let (plain, sub) = resource.split_once('/').map_or((resource, None), |(plain, sub)| (plain, Some(sub)));
                let asked = ResourceAttributes {
                    group: Some(group.to_owned()),
                    resource: Some(plain.to_owned()),
                    subresource: sub.map(str::to_owned),
                    namespace: Some(namespace.to_owned()),
                    verb: Some(verb.to_owned()),
                    ..ResourceAttributes::default()
                };
                let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(asked), ..Default::default() };
                let review = SelfSubjectAccessReview { spec, ..Default::default() };
                let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
                let may = answer.status.is_some_and(|status| status.allowed);
                let everywhere = plain == "gardennodes";
                let listed = allowed.get(&(group, resource)).is_some_and(|verbs| verbs.contains(&verb));
                if may != (listed && (namespace == own || everywhere)) {
                    wrong.push(format!("{verb} {resource}.{group} in {namespace}: {may}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
