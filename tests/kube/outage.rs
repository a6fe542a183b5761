//! The API server freezes, dies and comes back, and nobody on the node notices.

use crate::declared::{apply, main_restarted, object, sleeper};
use crate::server::Server;
use crate::world::{World, eventually, in_time, is_ready, process};
use gardend_controller::ports::Signal;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How soon everything is right again, once the API server is.
const LEVEL_AGAIN: Duration = Duration::from_secs(30);

/// Creates, runs and destroys; how long each took.
async fn use_garden(world: &World, name: &str, times: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for number in 0..times {
        let handle = format!("{name}-{number}");
        let begin = Instant::now();
        in_time(world.create(&handle)).await;
        let process = in_time(world.controller.run(&handle, process("p", "true"))).await.unwrap();
        in_time(process.outcome()).await;
        in_time(world.controller.destroy(&handle)).await.unwrap();
        took.push(begin.elapsed());
    }
    took.sort();
    took
}

async fn level_within(world: &World, since: Instant, handle: &str, objects: usize) {
    world.wait_for(handle, is_ready).await;
    world.level(objects).await;
    let took = since.elapsed();
    assert!(took < LEVEL_AGAIN, "level only after {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_or_killed_api_server_delays_nothing_and_has_everything_when_it_is_back() {
    let server = Arc::new(Server::start());
    let mut world = World::on(Arc::clone(&server)).await;
    let before = use_garden(&world, "without", 100).await;
    world.options.declared = Some(BTreeSet::from([world.place.namespace.clone()]));
    world.start();
    apply(&world, "kept", json!({ "processes": sleeper() }));
    object(&world, "kept", |object| main_restarted(object) == Some(0)).await;
    world.create("before").await;
    world.create("goes").await;
    world.wait_for("goes", is_ready).await;
    world.wait_for("before", is_ready).await;

    server.signal("kube-apiserver", "STOP");
    world.create("while-frozen").await;
    world.controller.destroy("goes").await.unwrap();
    let frozen = use_garden(&world, "frozen", 100).await;
    // A call that waited for the API server would take its deadline, seconds.
    let (worst_before, worst) = (before[before.len() - 1], frozen[frozen.len() - 1]);
    assert!(worst < worst_before * 3 + Duration::from_secs(2), "{worst:?} frozen, {worst_before:?} without");
    eventually("the gauge tells", async || world.figures().away.then_some(()).ok_or_else(String::new)).await;
    server.signal("kube-apiserver", "CONT");
    level_within(&world, Instant::now(), "while-frozen", 2).await;
    assert!(!world.figures().away);

    server.signal("kube-apiserver", "KILL");
    world.create("while-dead").await;
    world.controller.destroy("before").await.unwrap();
    use_garden(&world, "dead", 20).await;
    // What is declared is kept running by the node alone.
    let kept = format!("{}.kept", world.place.namespace);
    in_time(world.controller.attach(&kept, "main").await.unwrap().signal(Signal::Kill)).await.unwrap();
    eventually("its process is started again", async || {
        let uid = world.controller.declared().remove(0).uid;
        let processes = world.controller.view(&uid).unwrap().declared.unwrap().processes;
        if processes[0].restarts == 1 { Ok(()) } else { Err(format!("{processes:?}")) }
    })
    .await;
    eventually("the gauge tells", async || world.figures().away.then_some(()).ok_or_else(String::new)).await;
    let again = Arc::clone(&server);
    tokio::task::spawn_blocking(move || again.restart_apiserver()).await.unwrap();
    level_within(&world, Instant::now(), "while-dead", 2).await;
    object(&world, "kept", |object| main_restarted(object) == Some(1)).await;
    world.stop().await;
}
