//! The fake keeps what the ports promise.

mod common;

use common::command;
use gardend_controller::contract::{Contract, Programs, check_all};
use gardend_controller::fake::FakeNode;
use gardend_controller::record::{ContainerSpec, RootfsSource};

#[tokio::test]
async fn the_fake_keeps_what_the_ports_promise() {
    let fake = FakeNode::new();
    let impossible = ContainerSpec { rootfs: RootfsSource::Raw("/missing".into()), ..ContainerSpec::default() };
    let programs = Programs {
        exit: |code| command(&format!("exit {code}")),
        print: |out, err| command(&format!("print {out} {err} 0")),
        cat: || command("cat"),
        sleep: || command("sleep"),
        stubborn: || command("stubborn"),
    };
    let images = ["docker:///busybox", "docker://missing.example/busybox"].map(|text| text.parse().unwrap()).into();
    check_all(&Contract::new(fake.node(), ContainerSpec::default(), impossible, images, programs)).await;
    assert_eq!(fake.violations(), Vec::<String>::new());
    assert!(fake.places().is_empty() && fake.layers().is_empty() && fake.running().is_empty());
}
