//! How long furnishing takes. `cargo test --release --test furnish_places -- --ignored --nocapture speed`

use crate::world::{Source, bind, in_world, privileged, raw, with_binds};
use gardend::node::mount::Options;
use gardend_controller::record::{BindMode, ContainerSpec};
use std::time::{Duration, Instant};

#[test]
#[ignore = "a measurement, not a verdict"]
fn speed_of_furnishing() {
    in_world(Source::Shared, |world| {
        let default = world.rootfs("default");
        let node = world.node_with(Options { default_rootfs: Some(default), ..Options::default() }).unwrap();
        let root = world.rootfs("root");
        let volumes: Vec<_> = (0..5).map(|n| world.make(&format!("volume-{n}"))).collect();
        let binds =
            || volumes.iter().enumerate().map(|(n, v)| bind(v, &format!("/v{n}"), BindMode::ReadWrite)).collect();
        let specs = [
            ("raw", raw(&root)),
            ("raw, privileged", privileged(raw(&root))),
            ("raw, 5 bind mounts", with_binds(raw(&root), binds())),
            ("default", ContainerSpec::default()),
            ("default, privileged", privileged(ContainerSpec::default())),
        ];
        for (name, spec) in specs {
            let mut times: Vec<Duration> = (0..200).map(|_| time_one(world, &node, &spec)).collect();
            times.sort();
            println!("furnish {name}: p50 {:?}, p99 {:?}", times[100], times[197]);
        }
    });
}

fn time_one(world: &crate::world::World, node: &gardend::node::mount::MountNode, spec: &ContainerSpec) -> Duration {
    use crate::sys::Kind;
    use gardend_controller::ports::Rootfs;
    let place = world.place(if spec.privileged { Kind::Privileged } else { Kind::Unprivileged });
    let started = Instant::now();
    world.furnish_place(node, &place, "speed", spec).unwrap();
    let took = started.elapsed();
    place.kill();
    world.block_on(node.release(&place.container)).unwrap();
    took
}
