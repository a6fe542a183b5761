//! The mirror of a node: what happens there shows, and nothing else is written.

use crate::world::{World, condition, eventually, is_ready, process, request};
use gardend_controller::fake::{Call, Fault};
use gardend_controller::ports::NodeErrorKind;
use gardend_controller::record::{ImageReference, RootfsSource};
use gardend_crds::{ConditionStatus, ContainerPhase, GardenContainer, ORIGIN_GARDEN, ORIGIN_LABEL, ProcessState};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

fn running(many: i64) -> impl Fn(&GardenContainer) -> bool {
    move |object| object.status.as_ref().is_some_and(|status| status.running_processes == Some(many))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_shows_from_its_create_to_its_destroy() {
    let mut world = World::new().await;
    world.start();
    world.create("c").await;
    let made = world.wait_for("c", is_ready).await;
    let status = made.status.unwrap();
    assert_eq!((status.phase, status.observed_generation), (Some(ContainerPhase::Ready), made.metadata.generation));
    assert!(made.metadata.finalizers.is_none(), "nothing may keep a namespace from going");

    let sleeper = world.controller.run("c", process("p", "sleep")).await.unwrap();
    let busy = world.wait_for("c", running(1)).await.status.unwrap();
    assert_eq!((busy.processes[0].state, busy.processes[0].path.as_deref()), (ProcessState::Running, Some("sleep")));
    assert!(busy.processes[0].pid.is_some() && busy.processes[0].args.is_none());
    sleeper.signal(gardend_controller::ports::Signal::Kill).await.unwrap();
    let idle = world.wait_for("c", running(0)).await.status.unwrap();
    assert_eq!((idle.processes[0].state, idle.processes[0].exit_code), (ProcessState::Exited, Some(137)));
    // Nothing changed but that: what is so since then still is.
    assert_eq!(idle.conditions, status.conditions);

    world.controller.destroy("c").await.unwrap();
    world.level(0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_level_costs_no_write_and_neither_does_a_start() {
    let mut world = World::new().await;
    for number in 0..5 {
        world.create(&format!("c{number}")).await;
        world.controller.run(&format!("c{number}"), process("p", "true")).await.unwrap().outcome().await;
    }
    world.start();
    world.level(5).await;
    world.stop().await;
    let mark = world.server.audit_mark();
    world.options.resync = Duration::from_millis(500);
    world.start();
    world.level(5).await;
    // Use that changes nothing which is shown, and several full comparisons.
    for _ in 0..20 {
        world.controller.set_property("c0", "secret", "x").await.unwrap();
        world.controller.remove_property("c0", "secret").await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.level(5).await;
    let writes = world.server.writes_since(mark, "gardencontainers", &world.place.namespace);
    assert_eq!(writes, [""; 0]);
    assert_eq!((world.figures().objects_written, world.figures().refused, world.figures().failed), (0, 0, 0));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_delete_or_change_comes_back() {
    let mut world = World::new().await;
    world.start();
    world.create("c").await;
    let first = world.wait_for("c", is_ready).await;
    let name = first.metadata.name.as_deref().unwrap();
    world.containers().delete(name, &DeleteParams::default()).await.unwrap();
    let again = world.wait_for("c", |object| is_ready(object) && object.metadata.uid != first.metadata.uid).await;
    assert_eq!((&again.metadata.name, &again.spec), (&first.metadata.name, &first.spec));

    let merge = |patch: serde_json::Value| Patch::Merge(patch);
    let params = PatchParams::default();
    let forged = json!({ "spec": { "privileged": true }, "metadata": { "annotations": { "note": "kept" } } });
    world.containers().patch(name, &params, &merge(forged)).await.unwrap();
    let unlabelled = json!({ "metadata": { "labels": { ORIGIN_LABEL: null } } });
    world.containers().patch(name, &params, &merge(unlabelled)).await.unwrap();
    let forged = json!({ "status": { "phase": "Stopped" } });
    world.containers().patch_status(name, &params, &merge(forged)).await.unwrap();
    let right = |object: &GardenContainer| {
        let phase = object.status.as_ref().and_then(|status| status.phase);
        !object.spec.privileged && phase == Some(ContainerPhase::Ready)
    };
    let object = world.wait_for("c", right).await;
    // What others add is theirs.
    assert_eq!(object.metadata.annotations.unwrap()["note"], "kept");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_start_strays_of_this_node_go_and_others_stay() {
    let mut world = World::new().await;
    let made = async |name: &str, node: &str, origin: Option<&str>| {
        let spec = json!({ "nodeName": node, "handle": name });
        let mut object = GardenContainer::new(name, serde_json::from_value(spec).unwrap());
        object.metadata.labels = origin.map(|origin| BTreeMap::from([(ORIGIN_LABEL.to_owned(), origin.to_owned())]));
        world.containers().create(&PostParams::default(), &object).await.unwrap();
    };
    let own = world.node().to_owned();
    made("stray", &own, Some(ORIGIN_GARDEN)).await;
    made("declared", &own, None).await;
    made("another", "another-node", Some(ORIGIN_GARDEN)).await;
    world.start();
    let names = eventually("the stray goes", async || {
        let all = world.containers().list(&ListParams::default()).await.unwrap();
        let names: Vec<String> = all.iter().filter_map(|object| object.metadata.name.clone()).collect();
        if names.len() == 2 { Ok(names) } else { Err(format!("{names:?}")) }
    })
    .await;
    assert_eq!(names, ["another", "declared"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_not_prepared_yet_is_waited_for() {
    let server = crate::server::Server::shared();
    let mut world = World::without_namespace(server, &crate::world::unique("late")).await;
    world.create("c").await;
    world.start();
    eventually("the object is refused", async || {
        let figures = world.figures();
        (figures.refused > 0).then_some(()).ok_or_else(|| format!("{figures:?}"))
    })
    .await;
    world.make_namespace().await;
    world.wait_for("c", is_ready).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_clients_describe_in_strange_ways_are_shown_too() {
    let mut world = World::new().await;
    let mut strange = request("ünï code: \"quoted\" & more");
    strange.spec.network = Some("10.200.7.6/24".into());
    strange.spec.limits.memory_bytes = u64::MAX;
    strange.spec.limits.bandwidth_burst = 5;
    strange.grace_time = Some(Duration::from_millis(100_500));
    strange.properties.insert("long".into(), "x".repeat(100_000));
    world.controller.create(strange).await.unwrap();
    world.create(&"h".repeat(1024)).await;
    let mut raw = request("raw");
    raw.spec.rootfs = RootfsSource::Raw("/srv/a b".into());
    raw.spec.privileged = true;
    world.controller.create(raw).await.unwrap();
    for number in 0..60 {
        let spec = process(&format!("p {number} ü"), "exit 5");
        world.controller.run("raw", spec).await.unwrap().outcome().await;
    }
    world.options.policy.properties = std::sync::Arc::new(["long".to_owned()].into());
    world.start();
    world.level(3).await;
    assert_eq!(world.figures().refused, 0);
    let object = world.wait_for("raw", is_ready).await;
    assert_eq!((object.spec.rootfs.as_deref(), object.spec.privileged), (Some("/srv/a b"), true));
    let status = object.status.unwrap();
    assert_eq!((status.processes.len(), status.processes_omitted), (50, Some(10)));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_of_an_object_is_told_as_an_event() {
    let mut world = World::new().await;
    world.start();
    let mut missing = request("missing");
    let image: ImageReference = "docker://missing.example/x:1".parse().unwrap();
    missing.spec.rootfs = RootfsSource::image(image);
    world.controller.create(missing).await.unwrap_err();

    world.create("killed").await;
    let object = world.wait_for("killed", is_ready).await;
    world.controller.run("killed", process("p", "sleep")).await.unwrap();
    let place =
        world.fake.furnished().into_iter().find(|(id, _)| {
            object.status.as_ref().and_then(|status| status.container_id.as_deref()) == Some(id.as_str())
        });
    let (place, _) = place.expect("it lives in a place");
    world.fake.out_of_memory(&place, "cat (pid 7)");
    let oom = world.wait_for("killed", |object| object.status.as_ref().is_some_and(|s| s.last_oom.is_some())).await;
    assert!(oom.status.unwrap().last_oom.unwrap().process.contains("cat (pid 7)"));
    world.fake.kill_init(&place);

    world.create("stuck").await;
    world.fake.fail(Call::Kill, Fault::Before(NodeErrorKind::Stuck), 3);
    world.controller.destroy("stuck").await.unwrap_err();
    world.wait_for("stuck", |object| condition(object, "Stuck") == Some(ConditionStatus::True)).await;

    eventually("events tell of all", async || {
        let events = world.kubectl(&[
            "get",
            "events",
            "-o",
            "jsonpath={range .items[*]}{.type} {.reason} {.note}{.message}{\"\\n\"}{end}",
        ]);
        let wanted = [
            "Warning CreateFailed container 'missing': pulling its image failed",
            "Warning OutOfMemory container 'killed': Out of memory: cat (pid 7)",
            "Warning ProcessLost container 'killed': how process 'p' ended is not known",
            "Warning Stuck container 'stuck'",
        ];
        wanted.iter().all(|words| events.contains(words)).then_some(()).ok_or(events)
    })
    .await;
    let name = object.metadata.name.unwrap();
    let described = world.kubectl(&["describe", "gctr", &name]);
    assert!(described.contains("OutOfMemory"), "{described}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nodes_alone_are_shown_no_container_is() {
    let mut world = World::new().await;
    world.options.detail = gardend::kube::Detail::Nodes;
    world.create("c").await;
    let mark = world.server.audit_mark();
    world.start();
    world
        .eventually("the node counts it", async |world: &World| {
            let node = world.nodes().get_opt(world.node()).await.unwrap();
            let total = node.as_ref().and_then(|node| Some(node.status.as_ref()?.containers.as_ref()?.total));
            (total == Some(1)).then_some(()).ok_or_else(|| format!("{node:?}"))
        })
        .await;
    assert_eq!(world.server.writes_since(mark, "gardencontainers", &world.place.namespace), [""; 0]);
    world.stop().await;
}
