//! Who may declare what, and what gardend may do about it: the chart's rights and policies where
//! containers are declared.

use crate::declared::{is_current, manifest, sleeper};
use crate::rights::with_rights;
use crate::server::Server;
use crate::world::{World, condition, eventually, is_ready};
use gardend_crds::{ConditionStatus, DECLARED_FINALIZER, GardenContainer};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Output;
use std::sync::Arc;

const SHOP: &str = "shop";

/// The chart with containers declared in one namespace, and two authors there: of them `root` holds
/// the right to use what is the node's.
fn prepare(server: &Server, namespace: &str) {
    let templates = ["rbac", "admission", "declared"].map(|name| format!("templates/{name}.yaml"));
    let templates: Vec<&str> = templates.iter().map(String::as_str).collect();
    let text = server.chart(namespace, &templates, &["declared.enabled=true", "declared.namespaces={shop}"]);
    let documents = serde_yaml::Deserializer::from_str(&text);
    let mut items: Vec<Value> = vec![json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SHOP } })];
    items.extend(documents.map(|document| <Value as serde::Deserialize>::deserialize(document).unwrap()));
    let edit = ["get", "list", "watch", "create", "update", "patch", "delete"];
    for (author, verbs) in [("alice", &edit[..]), ("root", &[&edit[..], &["use-host"]].concat())] {
        let rbac = "rbac.authorization.k8s.io";
        let metadata = json!({ "name": author, "namespace": SHOP });
        let rule = json!({ "apiGroups": ["gardend.dev"], "resources": ["gardencontainers"], "verbs": verbs });
        items
            .push(json!({ "apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": metadata, "rules": [rule] }));
        items.push(json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": rbac, "kind": "Role", "name": author },
            "subjects": [{ "apiGroup": rbac, "kind": "User", "name": author }],
        }));
    }
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let applied = server.kubectl_with(&["apply"], &list);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
}

fn apply(world: &World, author: &str, name: &str, spec: Value) -> Output {
    let mut object = manifest(world, name, spec);
    object["metadata"]["namespace"] = json!(SHOP);
    world.server.kubectl_with(&["apply", &format!("--as={author}")], &object)
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "taken: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn taken(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The same world, whose objects are where containers are declared.
fn in_shop(mut world: World) -> World {
    world.options.declared = Some(BTreeSet::from([SHOP.to_owned()]));
    world
}

fn shop(world: &World) -> Api<GardenContainer> {
    Api::namespaced(world.place.client.clone(), SHOP)
}

/// On an API server of its own: the policies are for all of a cluster.
#[tokio::test(flavor = "multi_thread")]
async fn who_declares_what_is_for_the_chart_s_policy_and_gardend_has_no_more_than_it_needs() {
    let server = Arc::new(Server::start());
    let namespace = World::on(Arc::clone(&server)).await.place.namespace;
    prepare(&server, &namespace);
    let mut world = in_shop(with_rights(&server, &namespace).await);
    eventually("the policy is in force", async || {
        let output = apply(&world, "alice", "probe", json!({ "privileged": true }));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        world.server.try_kubectl(&["-n", SHOP, "delete", "gctr", "probe", "--ignore-not-found"]);
        said.contains("spec.privileged: ").then_some(()).ok_or(said)
    })
    .await;
    what_is_root_on_the_node_takes_a_right_of_its_own(&world);
    what_says_where_and_whose_it_is_stays(&world);
    gardend_may_read_keep_and_tell(&world).await;

    world.start();
    taken(&apply(&world, "alice", "web", json!({ "processes": sleeper() })));
    let in_shop = ["-n", SHOP, "--as=alice"];
    server.kubectl(&[&in_shop[..], &["wait", "--for=condition=Ready", "--timeout=60s", "gctr/web"]].concat());
    server.kubectl(&[&in_shop[..], &["delete", "gctr", "web", "--timeout=60s"]].concat());
    assert_eq!(world.figures().refused, 0);
    world.stop().await;
    objects_of_a_node_that_is_gone_wait_for_nobody(&server, &namespace).await;
}

fn what_is_root_on_the_node_takes_a_right_of_its_own(world: &World) {
    let mount = json!([{ "source": "/etc", "target": "/host" }]);
    for (name, field, spec) in [
        ("privileged", "spec.privileged: ", json!({ "privileged": true })),
        ("mounts", "spec.bindMounts: ", json!({ "bindMounts": mount })),
        ("folder", "spec.rootfs: ", json!({ "image": null, "rootfs": "/srv" })),
        ("layout", "spec.image: ", json!({ "image": "oci-layout:///srv" })),
    ] {
        let said = refused(&apply(world, "alice", name, spec.clone()));
        assert!(said.contains(field) && said.contains("the verb use-host"), "{said}");
        taken(&apply(world, "root", name, spec.clone()));
        // What was allowed to somebody else is not to be made into something else of the kind.
        let mut other = spec;
        other["properties"] = json!({ "a": "b" });
        assert!(refused(&apply(world, "alice", name, other)).contains(field));
        taken(&world.server.try_kubectl(&["-n", SHOP, "--as=alice", "label", "gctr", name, "team=a"]));
        taken(&world.server.try_kubectl(&["-n", SHOP, "--as=alice", "delete", "gctr", name]));
    }
}

fn what_says_where_and_whose_it_is_stays(world: &World) {
    taken(&apply(world, "alice", "stays", json!({})));
    let said = refused(&apply(world, "alice", "stays", json!({ "nodeName": "another" })));
    assert!(said.contains("spec.nodeName"), "{said}");
    let label = |value: &str| {
        world.server.try_kubectl(&[
            "-n",
            SHOP,
            "--as=root",
            "label",
            "gctr",
            "stays",
            &format!("gardend.dev/origin={value}"),
        ])
    };
    assert!(refused(&label("garden")).contains("gardend.dev/origin"));
    assert!(refused(&label("mine")).contains("is not changed"));
    taken(&world.server.try_kubectl(&["-n", SHOP, "--as=alice", "delete", "gctr", "stays"]));
}

async fn gardend_may_read_keep_and_tell(world: &World) {
    taken(&apply(world, "alice", "kept", json!({})));
    let (api, params) = (shop(world), PatchParams::default());
    let merge = |patch: Value| Patch::Merge(patch);
    let finalizer = merge(json!({ "metadata": { "finalizers": [DECLARED_FINALIZER] } }));
    eventually("the rights are in force", async || {
        api.patch("kept", &params, &finalizer).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    api.patch("kept", &params, &merge(json!({ "metadata": { "finalizers": null } }))).await.unwrap();
    let changed = api.patch("kept", &params, &merge(json!({ "spec": { "privileged": true } }))).await.unwrap_err();
    assert!(changed.to_string().contains("writes no objects"), "{changed}");
    let other = with_rights(&world.server, &world.place.namespace).await;
    let foreign = shop(&other).patch("kept", &params, &finalizer).await.unwrap_err();
    assert!(foreign.to_string().contains("gardend-keeper"), "{foreign}");
    taken(&world.server.try_kubectl(&["-n", SHOP, "delete", "gctr", "kept"]));

    let reviews: Api<SelfSubjectAccessReview> = Api::all(world.place.client.clone());
    let mut may = Vec::new();
    for (group, resource, sub) in [
        ("gardend.dev", "gardencontainers", None),
        ("gardend.dev", "gardencontainers", Some("status")),
        ("", "secrets", None),
        ("", "configmaps", None),
        ("", "pods", None),
        ("events.k8s.io", "events", None),
    ] {
        for namespace in [SHOP, "default"] {
            for verb in ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "use-host"]
            {
                let asked = ResourceAttributes {
                    group: Some(group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource: sub.map(str::to_owned),
                    namespace: Some(namespace.to_owned()),
                    verb: Some(verb.to_owned()),
                    ..ResourceAttributes::default()
                };
                let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(asked), ..Default::default() };
                let review = SelfSubjectAccessReview { spec, ..Default::default() };
                let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
                if answer.status.is_some_and(|status| status.allowed) {
                    may.push(format!("{namespace}: {verb} {resource}{}", sub.map_or("", |_| "/status")));
                }
            }
        }
    }
    let expected = ["list gardencontainers", "watch gardencontainers", "patch gardencontainers"];
    let expected = [&expected[..], &["patch gardencontainers/status", "get secrets", "create events", "patch events"]];
    let expected: Vec<String> = expected.concat().iter().map(|what| format!("{SHOP}: {what}")).collect();
    assert_eq!(may, expected);
}

async fn objects_of_a_node_that_is_gone_wait_for_nobody(server: &Arc<Server>, namespace: &str) {
    let mut keeper = in_shop(with_rights(server, namespace).await);
    let mut other = in_shop(with_rights(server, namespace).await);
    let quick = crate::leases::quick();
    (keeper.options.keeping, other.options.keeping) = (quick.clone(), quick);
    keeper.start();
    eventually("it keeps", async || {
        let held = keeper.kubectl(&["get", "lease", "gardend-keeper", "-o", "jsonpath={.spec.holderIdentity}"]);
        if held == keeper.node() { Ok(()) } else { Err(held) }
    })
    .await;
    other.start();
    taken(&apply(&other, "alice", "goes", json!({})));
    taken(&apply(&other, "alice", "stays", json!({})));
    let found = async |name: &str, wanted: &dyn Fn(&GardenContainer) -> bool| {
        eventually(name, async || {
            let found = shop(&keeper).list(&kube::api::ListParams::default()).await.unwrap().items;
            let found = found.into_iter().find(|object| object.metadata.name.as_deref() == Some(name));
            found.clone().filter(|object| wanted(object)).ok_or_else(|| format!("{found:?}"))
        })
        .await
    };
    let kept = |object: &GardenContainer| object.metadata.finalizers.is_some();
    found("goes", &|object| is_current(object) && is_ready(object) && kept(object)).await;
    found("stays", &|object| is_current(object) && is_ready(object) && kept(object)).await;
    other.stop().await;
    server.kubectl(&["-n", SHOP, "delete", "gctr", "goes", "--wait=false"]);
    found("stays", &|object| condition(object, "Ready") == Some(ConditionStatus::Unknown)).await;
    let freed = found("stays", &|object| !kept(object)).await;
    assert!(freed.metadata.deletion_timestamp.is_none(), "it is its author's");
    server.kubectl(&["-n", SHOP, "wait", "--for=delete", "gctr/goes", "--timeout=60s"]);

    // Back, it goes by what the objects say by now.
    other.start();
    found("stays", &|object| is_ready(object) && kept(object)).await;
    eventually("the container of the other is gone", async || {
        let left = other.controller.declared().len();
        if left == 1 { Ok(()) } else { Err(format!("{left}")) }
    })
    .await;
    other.stop().await;
    keeper.stop().await;
}
