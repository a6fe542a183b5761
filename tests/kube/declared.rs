//! Containers that are declared by `kubectl apply`, from their apply to their delete.

use crate::world::{World, condition, eventually, in_time, is_ready};
use gardend_controller::ports::Signal;
use gardend_crds::{ConditionStatus, DECLARED_FINALIZER, GardenContainer, GardenContainerStatus, ProcessState};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A node that makes what is declared in its namespace.
async fn declaring() -> World {
    let mut world = World::new().await;
    world.options.declared = Some(BTreeSet::from([world.place.namespace.clone()]));
    world
}

pub fn manifest(world: &World, name: &str, spec: Value) -> Value {
    let mut whole = json!({ "nodeName": world.node(), "image": "docker:///busybox:1.36" });
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    whole.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    json!({
        "apiVersion": "gardend.dev/v1alpha1", "kind": "GardenContainer",
        "metadata": { "name": name, "namespace": world.place.namespace }, "spec": whole,
    })
}

pub fn apply(world: &World, name: &str, spec: Value) {
    let output = world.server.kubectl_with(&["apply"], &manifest(world, name, spec));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub fn sleeper() -> Value {
    json!([{ "name": "main", "path": "sleep", "env": [{ "name": "A", "value": "b" }] }])
}

fn wait_ready(world: &World, name: &str) {
    world.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", &format!("gctr/{name}")]);
}

pub async fn object(world: &World, name: &str, wanted: impl Fn(&GardenContainer) -> bool) -> GardenContainer {
    eventually(name, async || {
        let found = world.containers().get_opt(name).await.unwrap();
        found.filter(&wanted).ok_or_else(|| world.kubectl(&["get", "gctr", "-o", "yaml"]))
    })
    .await
}

fn reason(object: &GardenContainer, kind: &str) -> String {
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    conditions.filter(|one| one.kind == kind).map(|one| one.reason.clone()).collect()
}

fn is(kind: &'static str, why: &'static str) -> impl Fn(&GardenContainer) -> bool {
    move |object| reason(object, kind) == why
}

pub fn is_current(object: &GardenContainer) -> bool {
    let observed = object.status.as_ref().and_then(|status| status.observed_generation);
    condition(object, "Current") == Some(ConditionStatus::True) && observed == object.metadata.generation
}

async fn gone(world: &World, name: &str) {
    eventually("the object goes", async || match world.containers().get_opt(name).await.unwrap() {
        None => Ok(()),
        Some(object) => Err(format!("{object:?}")),
    })
    .await;
}

/// How often its process `main`, which runs, was started again.
pub fn main_restarted(object: &GardenContainer) -> Option<i64> {
    let processes = object.status.iter().flat_map(|status| &status.processes);
    let mut running = processes.filter(|process| process.id == "main" && process.state == ProcessState::Running);
    running.next()?.restarts
}

fn status(object: GardenContainer) -> GardenContainerStatus {
    object.status.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_applied_edited_and_deleted() {
    let mut world = declaring().await;
    world.start();
    let limits = json!({ "memoryBytes": 64 << 20 });
    let spec = json!({ "processes": sleeper(), "ports": [{ "containerPort": 80 }], "limits": limits,
        "properties": { "a": "1", "b": "2" } });
    apply(&world, "web", spec);
    wait_ready(&world, "web");
    world.kubectl(&["wait", "--for=condition=ProcessesRunning", "--timeout=60s", "gctr/web"]);
    let made = object(&world, "web", is_current).await;
    assert_eq!(made.metadata.finalizers.as_deref(), Some(&[DECLARED_FINALIZER.to_owned()][..]));
    let handle = format!("{}.web", world.place.namespace);
    let first = status(made);
    assert_eq!((first.addresses.len(), first.ports[0].container_port), (1, 80));
    let process = first.processes.iter().find(|process| process.id == "main").unwrap();
    assert_eq!((process.restarts, process.pid.is_some()), (Some(0), true));
    // It is no picture of a client's, and no client's to end.
    assert!(world.objects().await.is_empty());
    let refused = world.controller.destroy(&handle).await.unwrap_err().to_string();
    assert!(refused.contains("delete gctr web"), "{refused}");

    let spec = json!({ "processes": sleeper(), "ports": [{ "containerPort": 81 }],
        "limits": { "memoryBytes": 128 << 20 }, "properties": { "a": "3" } });
    apply(&world, "web", spec.clone());
    let edited = status(object(&world, "web", is_current).await);
    assert_eq!((&edited.uid, edited.ports[0].container_port), (&first.uid, 81));
    let pid = |status: &GardenContainerStatus| status.processes[0].pid;
    assert_eq!(pid(&edited), pid(&first), "what runs goes on");
    let limits: Vec<u64> = world.fake.limits().iter().map(|(_, limits)| limits.memory_bytes).collect();
    assert_eq!(limits.last(), Some(&(128 << 20)));
    let properties = world.controller.info(&handle).unwrap().properties;
    assert_eq!((properties.get("a").map(String::as_str), properties.get("b")), (Some("3"), None));

    let mark = world.server.audit_mark();
    let mut other = spec;
    other["image"] = json!("docker:///alpine:3");
    apply(&world, "web", other);
    let again = status(object(&world, "web", |object| is_current(object) && is_ready(object)).await);
    assert_ne!(again.uid, first.uid);
    let log = std::fs::read_to_string(world.server.audit_log()).unwrap();
    let said = &log[mark as usize..];
    assert!(said.contains("this cannot be changed in place: image"), "the condition said so beforehand");

    world.kubectl(&["delete", "gctr", "web", "--timeout=60s"]);
    assert!(world.controller.declared().is_empty() && world.fake.places().is_empty());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_gardend_was_away_is_made_so_and_what_did_not_is_left_alone() {
    let mut world = declaring().await;
    world.start();
    for name in ["same", "edited", "deleted", "forced"] {
        apply(&world, name, json!({ "processes": sleeper() }));
    }
    for name in ["same", "edited", "deleted", "forced"] {
        object(&world, name, |object| is_current(object) && reason(object, "ProcessesRunning") == "Running").await;
    }
    let same = object(&world, "same", is_ready).await;
    world.stop().await;
    apply(&world, "edited", json!({ "processes": sleeper(), "properties": { "now": "so" } }));
    apply(&world, "new", json!({}));
    world.kubectl(&["delete", "gctr", "deleted", "forced", "--wait=false"]);
    // Somebody takes the finalizer away: nobody is left to say that the container goes.
    let freed = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    world.containers().patch("forced", &PatchParams::default(), &freed).await.unwrap();
    gone(&world, "forced").await;
    assert_eq!(world.controller.declared().len(), 4, "what runs goes on");
    world.start();
    gone(&world, "deleted").await;
    object(&world, "new", |object| is_current(object) && is_ready(object)).await;
    object(&world, "edited", is_current).await;
    eventually("the one without an object goes", async || {
        let left = world.controller.declared();
        if left.len() == 3 { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    let after = object(&world, "same", is_ready).await;
    assert_eq!(after.status, same.status);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_says_why_and_nothing_is_half_made() {
    let mut world = declaring().await;
    world.start();
    world.create("taken").await;
    let places = world.fake.places().len();
    apply(&world, "late", json!({ "handle": "taken" }));
    let refused = object(&world, "late", is("Ready", "HandleTaken")).await;
    assert_eq!((condition(&refused, "Ready"), refused.metadata.generation), (Some(ConditionStatus::False), Some(1)));
    apply(&world, "bad", json!({ "image": "docker:///UPPER" }));
    let bad = object(&world, "bad", is("Ready", "InvalidSpec")).await;
    let conditions = &bad.status.as_ref().unwrap().conditions;
    assert!(conditions.iter().any(|one| one.message.starts_with("spec.image: ")), "{conditions:?}");
    assert!(bad.metadata.finalizers.is_none(), "nothing is to be waited for");
    assert_eq!(world.fake.places().len(), places);

    // A bad edit leaves what runs as it is.
    apply(&world, "good", json!({}));
    let good = object(&world, "good", is_ready).await;
    apply(&world, "good", json!({ "image": "docker:///UPPER" }));
    let kept = object(&world, "good", is("Current", "InvalidSpec")).await;
    assert!(is_ready(&kept));
    assert_eq!(status(kept).uid, status(good).uid);

    world.controller.drain(gardend_controller::Drain::Refuse).await.unwrap();
    apply(&world, "refused", json!({}));
    object(&world, "refused", is("Ready", "Draining")).await;
    world.controller.undrain().await.unwrap();
    object(&world, "refused", is_ready).await;
    world.controller.destroy("taken").await.unwrap();
    object(&world, "late", is_ready).await;
    apply(&world, "bad", json!({}));
    object(&world, "bad", is_ready).await;

    // No object waits for a node that has nothing of it any more, and may not come back.
    world.controller.drain(gardend_controller::Drain::Destroy).await.unwrap();
    for name in ["late", "refused"] {
        object(&world, name, |object| is("Ready", "Draining")(object) && object.metadata.finalizers.is_none()).await;
    }
    world.kubectl(&["delete", "gctr", "late", "--timeout=60s"]);
    world.controller.undrain().await.unwrap();
    object(&world, "refused", |object| is_ready(object) && object.metadata.finalizers.is_some()).await;
    world.kubectl(&["delete", "gctr", "--all", "--timeout=60s"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_is_started_again_and_that_is_told() {
    let mut world = declaring().await;
    world.start();
    let once = json!({ "name": "once", "path": "true", "restartPolicy": "OnFailure" });
    let main = json!({ "name": "main", "path": "sleep" });
    apply(&world, "web", json!({ "processes": [main, once] }));
    let runs = |object: &GardenContainer| condition(object, "ProcessesRunning") == Some(ConditionStatus::True);
    object(&world, "web", runs).await;
    let handle = format!("{}.web", world.place.namespace);
    let process = world.controller.attach(&handle, "main").await.unwrap();
    in_time(process.signal(Signal::Kill)).await.unwrap();
    let restarted = |object: &GardenContainer| runs(object) && main_restarted(object) == Some(1);
    let web = status(object(&world, "web", restarted).await);
    let main = web.processes.iter().find(|process| process.id == "main").unwrap();
    assert_eq!(main.last_end.as_ref().unwrap().exit_code, Some(137));
    let once = web.processes.iter().find(|process| process.id == "once").unwrap();
    assert_eq!((once.restarts, once.last_end.as_ref().unwrap().exit_code), (Some(0), Some(0)));
    let events: Api<Event> = Api::namespaced(world.place.client.clone(), &world.place.namespace);
    eventually("the event is there", async || {
        let all = events.list(&ListParams::default()).await.unwrap();
        let found = all.iter().any(|event| {
            let about = event.regarding.as_ref().and_then(|about| about.name.as_deref());
            about == Some("web") && event.reason.as_deref() == Some("ProcessRestarted")
        });
        found.then_some(()).ok_or_else(|| format!("{} events", all.items.len()))
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_reach_the_container_and_nothing_else() {
    let mut world = declaring().await;
    world.start();
    let from = |key: &str| json!({ "secretKeyRef": { "name": "s", "key": key } });
    let env = json!([{ "name": "TOKEN", "valueFrom": from("token") }]);
    let main = json!([{ "name": "main", "path": "sleep", "env": [{ "name": "OTHER", "valueFrom": from("other") }] }]);
    apply(&world, "web", json!({ "env": env, "processes": main, "imagePullSecrets": [{ "name": "pull" }] }));
    let missing = object(&world, "web", is("Ready", "SecretMissing")).await;
    assert!(missing.metadata.finalizers.is_none() && world.fake.places().is_empty());

    let secrets: Api<Secret> = Api::namespaced(world.place.client.clone(), &world.place.namespace);
    let config = json!({ "auths": { "docker.io": { "username": "alice", "password": "pl4nted-pull" } } }).to_string();
    for (name, data) in [
        ("s", json!({ "token": "pl4nted-token", "other": "pl4nted-other" })),
        ("pull", json!({ ".dockerconfigjson": config })),
    ] {
        let secret: Secret =
            serde_json::from_value(json!({ "metadata": { "name": name }, "stringData": data })).unwrap();
        secrets.create(&PostParams::default(), &secret).await.unwrap();
    }
    let made =
        object(&world, "web", |object| is_ready(object) && reason(object, "ProcessesRunning") == "Running").await;
    assert!(!serde_json::to_string(&made).unwrap().contains("pl4nted"));
    let declared = world.controller.declared().remove(0).declaration;
    assert_eq!(declared.processes[0].spec.env, ["OTHER=pl4nted-other"]);
    assert!(!declared.source.contains("pl4nted"));
    let pulled = world.fake.credentials();
    assert_eq!(pulled.last().map(|known| known.password.as_str()), Some("pl4nted-pull"));
    let events = world.kubectl(&["get", "events", "-o", "yaml"]);
    assert!(!events.contains("pl4nted"));
    world.stop().await;
}
