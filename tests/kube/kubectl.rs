//! What an operator sees with kubectl alone.

use crate::world::{World, is_ready, process, request};
use gardend_controller::record::{BindMode, BindMount, BindOrigin, PortInAsked};

/// A table's rows, without the padding, and without what is another each time.
fn table(text: &str) -> Vec<String> {
    let rows = text.lines().map(|line| line.split_whitespace().map(known).collect::<Vec<_>>().join(" "));
    rows.collect()
}

fn known(word: &str) -> String {
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let is_age = word.strip_suffix('s').is_some_and(|number| number.parse::<u32>().is_ok());
    match word.rsplit_once('-') {
        _ if is_age => "AGE".to_owned(),
        _ if word.len() == 32 && is_hex(word) => "UID".to_owned(),
        Some((stem, hash)) if hash.len() == 12 && is_hex(hash) => format!("{stem}-HASH"),
        _ => word.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_listed_selected_and_waited_for() {
    let mut world = World::new().await;
    let node = world.node().to_owned();
    let mut request = request("Build #1".replace(" #", "_").as_str());
    request.ports_in = vec![PortInAsked { host_port: None, container_port: 8080.try_into().ok() }];
    request.properties.insert("team".into(), "shop".into());
    request.spec.bind_mounts = vec![BindMount {
        source: "/srv/cache".into(),
        target: "/cache".into(),
        mode: BindMode::ReadWrite,
        origin: BindOrigin::Host,
    }];
    request.spec.limits.memory_bytes = 1 << 28;
    let handle = world.controller.create(request).await.unwrap();
    let held = world.controller.run(handle.as_str(), process("sh", "sleep")).await.unwrap();
    let ended = world.controller.run(handle.as_str(), process("check", "exit 3")).await.unwrap();
    ended.outcome().await;
    world.options.policy.properties = std::sync::Arc::new(["team".to_owned()].into());
    world.start();
    let done = |object: &gardend_crds::GardenContainer| {
        is_ready(object) && object.status.as_ref().is_some_and(|status| status.running_processes == Some(1))
    };
    let object = world.wait_for("Build_1", done).await;
    let name = object.metadata.name.clone().unwrap();

    assert_eq!(
        table(&world.kubectl(&["get", "gctr"])),
        [
            "NAME READY STATE NODE PROCESSES IMAGE AGE",
            &format!("build-1-HASH True Ready {node} 1 docker:///busybox:1.36 AGE"),
        ]
    );
    let ip = object.status.as_ref().unwrap().addresses[0].ip.clone();
    assert_eq!(
        table(&world.kubectl(&["get", "gctr", "-o", "wide"])),
        [
            "NAME READY STATE NODE PROCESSES IMAGE AGE IP HANDLE UID",
            &format!("build-1-HASH True Ready {node} 1 docker:///busybox:1.36 AGE {ip} Build_1 UID"),
        ]
    );
    assert_eq!(
        world.kubectl(&["wait", "--for=condition=Ready", &format!("gctr/{name}"), "--timeout=60s"]).trim(),
        format!("gardencontainer.gardend.dev/{name} condition met")
    );

    let here = format!("spec.nodeName={node}");
    let names = |args: &[&str]| world.kubectl(&[&["get", "gctr", "-o", "name"], args].concat());
    let only = format!("gardencontainer.gardend.dev/{name}\n");
    assert_eq!(names(&["--field-selector", &here]), only);
    assert_eq!(names(&["--field-selector", "spec.nodeName=elsewhere"]), "");
    assert_eq!(names(&["-l", "gardend.dev/origin=garden"]), only);
    assert_eq!(names(&["-l", "gardend.dev/origin!=garden"]), "");

    let described = world.kubectl(&["describe", "gctr", &name]);
    let lines: Vec<String> =
        described.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "Labels: app.kubernetes.io/managed-by=gardend",
        "Source: /srv/cache",
        "Target: /cache",
        "Mode: ReadWrite",
        "Handle: Build_1",
        "Image: docker:///busybox:1.36",
        "Memory Bytes: 268435456",
        &format!("Node Name: {node}"),
        "Team: shop",
        "Container Port: 8080",
        "Id: check",
        "Exit Code: 3",
        "Path: exit",
        "State: Exited",
        "Id: sh",
        "State: Running",
        "Running Processes: 1",
        "Phase: Ready",
    ] {
        assert!(lines.iter().any(|found| found == line), "{line} is not in\n{described}");
    }
    let conditions = lines.iter().filter_map(|line| line.strip_prefix("Type: ")).collect::<Vec<_>>();
    assert_eq!(conditions, ["Ready", "SandboxReady", "RootfsReady", "NetworkReady", "Stuck"]);
    drop(held);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_listed_with_what_it_has_and_can_have() {
    let mut world = World::new().await;
    world.create("one").await;
    world.create("two").await;
    world.start();
    let node = world.node().to_owned();
    world
        .eventually("the node tells of both", async |world: &World| {
            let row = table(&world.kubectl(&[
                "get",
                "gnode",
                world.node(),
                "-o",
                "wide",
                "--no-headers",
                "--ignore-not-found",
            ]));
            let wanted = format!("{} True 0.0.1 2 250 false AGE 2.0.0 runc 1.2.3 6.1.0", world.node());
            (row == [wanted]).then_some(()).ok_or_else(|| format!("{row:?}"))
        })
        .await;
    let header = table(&world.kubectl(&["get", "gnode", &node, "-o", "wide"])).remove(0);
    assert_eq!(header, "NAME READY VERSION CONTAINERS CAPACITY DRAINING AGE CONTAINERD RUNTIME KERNEL");
    world.kubectl(&["wait", "--for=condition=Ready", &format!("gnode/{node}"), "--timeout=60s"]);
    world.stop().await;
}
