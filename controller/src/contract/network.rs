//! What the port of networks promises. A limit of bandwidth, which the node reads back, is how the
//! checks see whether a place has its link.

use super::{Contract, Place};
use crate::ports::{NetworkWanted, NodeErrorKind};
use crate::record::{Addresses, ContainerUid, ExitStatus, IcmpMatch, PortIn, RuleOut, RuleProtocol};
use std::any::Any;

/// Bytes a second, and at once, of the networks here.
const RATE: u64 = 4 << 20;
const BURST: u64 = 1 << 20;

/// What the checks of networks need.
pub struct NetworkChecks {
    /// Where two containers can be, in subnets of their own.
    pub addresses: [Addresses; 2],
    /// A program of the node listens on the port that is answered, until the rest is dropped.
    pub occupy: Box<dyn Fn() -> (u16, Box<dyn Any + Send>) + Send + Sync>,
}

impl Place<'_> {
    /// A network for it that has some of everything.
    pub(super) fn network(&self, addresses: &Addresses) -> NetworkWanted {
        let [.., last] = addresses.address.octets();
        let host_port = 61001 + u16::from(last);
        let networks = vec![("192.0.2.1".parse().expect("it is one"), "192.0.2.9".parse().expect("it is one"))];
        let tcp = RuleOut { protocol: RuleProtocol::Tcp, ports: vec![(80, 80), (8000, 8999)], ..RuleOut::default() };
        let icmp = Some(IcmpMatch { kind: 8, code: Some(0) });
        NetworkWanted {
            container: self.uid.clone(),
            handle: self.handle.clone(),
            sandbox: self.id.clone(),
            addresses: addresses.clone(),
            ports_in: vec![PortIn { host_port, container_port: 80 }],
            rules_out: vec![
                RuleOut { networks, log: true, ..tcp },
                RuleOut { protocol: RuleProtocol::Icmp, icmp, ..RuleOut::default() },
                RuleOut::default(),
            ],
            bandwidth_rate: RATE,
            bandwidth_burst: BURST,
        }
    }

    /// Whether it has a link, by the limit that its network was given.
    pub(super) async fn linked(&self) -> bool {
        match self.contract.node.network.bandwidth(&self.id).await {
            Ok((rate, burst)) => {
                assert!(rate == RATE && burst >= BURST, "{rate} and {burst} are not what was asked for");
                true
            }
            Err(error) => {
                assert_eq!(error.kind, NodeErrorKind::NotFound, "{error}");
                false
            }
        }
    }
}

/// Every check, one after the other.
pub async fn check_all(contract: &Contract, checks: &NetworkChecks) {
    a_network_is_made_any_number_of_times(contract, checks).await;
    nothing_is_made_of_a_network_that_is_not_wanted(contract, checks).await;
    a_container_takes_its_network_to_its_next_place(contract, checks).await;
    the_whole_is_made_what_is_wanted_and_nothing_else(contract, checks).await;
    a_port_that_a_program_listens_on_is_refused(contract, checks).await;
}

/// And released as often.
pub async fn a_network_is_made_any_number_of_times(contract: &Contract, checks: &NetworkChecks) {
    let network = &contract.node.network;
    let place = contract.place_of(&contract.spec, ContainerUid::generate(), Some(&checks.addresses[0])).await;
    let mut wanted = place.network(&checks.addresses[0]);
    network.check_rules(&wanted.rules_out).await.expect("these can be kept");
    assert!(place.linked().await);
    // From whatever it is: with another port, without rules, and as it was.
    wanted.ports_in.push(PortIn { host_port: 60990, container_port: 60990 });
    wanted.rules_out.clear();
    for _ in 0..2 {
        network.ensure(&|| Some(wanted.clone())).await.expect("it is made");
        network.ensure(&|| Some(place.network(&checks.addresses[0]))).await.expect("it is made");
        assert!(place.linked().await);
    }
    // It works as one without.
    let uid = place.spawn(&(contract.programs.exit)(3)).await;
    assert_eq!(contract.exit_of(&uid).await, ExitStatus::Code(3));
    let uid = place.uid.clone();
    place.remove().await;
    for uid in [uid, ContainerUid::generate()] {
        network.release(&uid).await.expect("what is not there is released");
    }
}

/// Neither where there was none, nor where there is one.
pub async fn nothing_is_made_of_a_network_that_is_not_wanted(contract: &Contract, checks: &NetworkChecks) {
    let network = &contract.node.network;
    let bare = contract.place().await;
    let place = contract.place_of(&contract.spec, ContainerUid::generate(), Some(&checks.addresses[0])).await;
    let refused = network.ensure(&|| None).await.expect_err("it is not wanted");
    assert_eq!(refused.kind, NodeErrorKind::NotFound, "{refused}");
    assert!(!bare.linked().await && place.linked().await);
    bare.remove().await;
    assert!(place.linked().await, "another's release leaves it alone");
    place.remove().await;
}

/// With the first still recorded as its network.
pub async fn a_container_takes_its_network_to_its_next_place(contract: &Contract, checks: &NetworkChecks) {
    let node = &contract.node;
    let uid = ContainerUid::generate();
    let first = contract.place_of(&contract.spec, uid.clone(), Some(&checks.addresses[0])).await;
    node.sandboxes.kill(&first.id).await.expect("it is killed");
    node.processes.disconnect(&first.id).await;
    assert!(!first.linked().await);
    // Its place is gone, which is no error.
    node.network.restore(&|| vec![first.network(&checks.addresses[0])]).await.expect("there is nothing to do");
    let second = contract.place_of(&contract.spec, uid, Some(&checks.addresses[0])).await;
    assert!(second.linked().await);
    node.sandboxes.remove(&first.id).await.expect("it is removed");
    assert!(second.linked().await);
    second.remove().await;
}

/// What is there and wanted stays, what is not wanted goes, what is missing comes.
pub async fn the_whole_is_made_what_is_wanted_and_nothing_else(contract: &Contract, checks: &NetworkChecks) {
    let network = &contract.node.network;
    let [one, two] = &checks.addresses;
    let first = contract.place_of(&contract.spec, ContainerUid::generate(), Some(one)).await;
    let second = contract.place_of(&contract.spec, ContainerUid::generate(), Some(two)).await;
    let all = || vec![first.network(one), second.network(two)];
    for _ in 0..2 {
        network.restore(&all).await.expect("it is in order");
        assert!(first.linked().await && second.linked().await);
    }
    network.restore(&|| vec![first.network(one)]).await.expect("it is in order");
    assert!(first.linked().await && !second.linked().await);
    network.restore(&Vec::new).await.expect("it is in order");
    assert!(!first.linked().await && !second.linked().await);
    network.restore(&all).await.expect("it is in order");
    assert!(first.linked().await && second.linked().await);
    first.remove().await;
    second.remove().await;
}

/// As long as it does.
pub async fn a_port_that_a_program_listens_on_is_refused(contract: &Contract, checks: &NetworkChecks) {
    let network = &contract.node.network;
    let (port, program) = (checks.occupy)();
    let refused = network.check_port(port).await.expect_err("a program has it");
    assert_eq!(refused.kind, NodeErrorKind::Invalid, "{refused}");
    assert!(refused.message.contains(&port.to_string()) && refused.message.contains("already"), "{refused}");
    drop(program);
    network.check_port(port).await.expect("nobody has it any more");
}
