//! The fake keeps what the ports promise.

mod common;

use common::command;
use gardend_controller::contract::{Contract, NetworkChecks, Programs, check_all};
use gardend_controller::fake::FakeNode;
use gardend_controller::record::{Addresses, ContainerSpec, RootfsSource};
use std::any::Any;

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
    let network = NetworkChecks { addresses: ["10.80.0.0", "10.80.0.4"].map(addresses), occupy: occupy(fake.clone()) };
    let contract =
        Contract::new(fake.node(), ContainerSpec::default(), impossible, images, programs).with_network(network);
    check_all(&contract).await;
    assert_eq!(fake.violations(), Vec::<String>::new());
    assert!(fake.places().is_empty() && fake.layers().is_empty() && fake.running().is_empty());
    assert!(fake.networks().is_empty());
}

fn addresses(subnet: &str) -> Addresses {
    let subnet = format!("{subnet}/30").parse::<ipnet::Ipv4Net>().unwrap();
    let [gateway, address] = *subnet.hosts().collect::<Vec<_>>() else { panic!("a /30 has two") };
    Addresses { address, subnet, gateway, ipv6: None }
}

/// A port that a program listens on as long as this is kept.
struct Occupied(FakeNode, u16);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.listen(self.1, false);
    }
}

fn occupy(fake: FakeNode) -> Box<dyn Fn() -> (u16, Box<dyn Any + Send>) + Send + Sync> {
    Box::new(move || {
        fake.listen(8080, true);
        (8080, Box::new(Occupied(fake.clone(), 8080)))
    })
}
