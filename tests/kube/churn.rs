//! However much happens on a node, what is written is bounded, and in the end it is right.

use crate::server::eventually as blocking_eventually;
use crate::world::{World, process};
use std::time::{Duration, Instant};

const CONTAINERS: usize = 500;
const AT_ONCE: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_live_a_moment_cost_no_more_than_the_bucket_and_leave_no_object() {
    let mut world = World::new().await;
    let (rate, burst) = (5, 20);
    world.options.writes_per_second = rate.try_into().unwrap();
    world.options.write_burst = burst.try_into().unwrap();
    world.options.settle = Duration::from_secs(1);
    world.options.node_settle = Duration::from_secs(10);
    world.create("stays").await;
    let mark = world.server.audit_mark();
    let begin = Instant::now();
    world.start();
    let one = async |number: usize| {
        let handle = format!("short-{number}");
        world.create(&handle).await;
        world.controller.run(&handle, process("p", "true")).await.unwrap().outcome().await;
        // Long enough to be seen, and not a second.
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.controller.destroy(&handle).await.unwrap();
    };
    for first in (0..CONTAINERS).step_by(AT_ONCE) {
        futures_util::future::join_all((first..first + AT_ONCE).map(one)).await;
    }
    world.level(1).await;
    let took = begin.elapsed().as_secs_f64();
    let most = f64::from(burst) + took * f64::from(rate);
    let written = blocking_eventually("the audit log has the last write", || {
        let mut written = world.server.writes_since(mark, "gardencontainers", &world.place.namespace);
        // Objects of nodes have no namespace.
        let own = format!("/{}", world.node());
        let nodes = world.server.writes_since(mark, "gardennodes", "").into_iter();
        written.extend(nodes.filter(|write| write.contains(&own)));
        let figures = world.figures();
        let told = figures.objects_written + figures.statuses_written + figures.objects_deleted;
        if written.len() as u64 >= told { Ok(written.len()) } else { Err(format!("{} of {told}", written.len())) }
    });
    assert!(written as f64 <= most + 1.0, "{written} writes in {took} s; {most} were allowed");
    assert!(written >= 3, "nothing was shown at all");
    assert_eq!(world.objects().await[0].spec.handle.as_deref(), Some("stays"));
    eprintln!("{CONTAINERS} containers in {took:.1} s: {written} writes of at most {most:.0}");
    world.stop().await;
}
