//! The life of containers: create, destroy, list, properties, stop.

mod common;

use common::{Machine, command, handles, named, request, sleep};
use gardend_controller::fake::{Call, Fault};
use gardend_controller::ports::NodeErrorKind;
use gardend_controller::record::{ContainerSpec, CreateRequest, ExitStatus, Properties, RootfsSource, Stage, StopMode};
use gardend_controller::{Error, Options, Outcome};
use std::time::Duration;

#[test]
fn a_container_is_made_runs_a_process_and_leaves_nothing() {
    let machine = Machine::new();
    machine.life(async |garden| {
        assert_eq!(garden.create(request("c")).await.unwrap().as_str(), "c");
        let process = garden.run("c", command("exit 7")).await.unwrap();
        assert_eq!(process.outcome().await, Outcome::Exited(ExitStatus::Code(7)));
        drop(process);
        garden.destroy("c").await.unwrap();
        sleep(1.0).await;
        machine.assert_converged().await;
        assert!(machine.fake.places().is_empty());
    });
}
