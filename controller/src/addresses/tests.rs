//! The pools against what they promise.

use super::*;
use crate::record::{ContainerStatus, Desired, Origin, PortIn};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

const V4: &str = "10.80.0.0/28";

fn pools_of(v4: &str, v6: Option<&str>) -> AddressSource {
    AddressSource::Pools { v4: v4.parse().unwrap(), v6: v6.map(|v6| v6.parse().unwrap()) }
}

/// Four subnets, two ports, six addresses of IPv6.
fn options() -> NetworkOptions {
    NetworkOptions { addresses: pools_of(V4, Some("fd00:80::/125")), ports: 61001..=61002, external: None }
}

fn asked(text: &str) -> Asked {
    Asked::parse(Some(text)).unwrap()
}

struct Node {
    pools: Pools,
    uids: BTreeMap<u8, ContainerUid>,
}

impl Node {
    fn new(options: &NetworkOptions) -> Self {
        Self { pools: Pools::new(options), uids: BTreeMap::new() }
    }

    fn take(&mut self, who: u8, network: &str) -> Result<Addresses, String> {
        let uid = self.uids.entry(who).or_insert_with(ContainerUid::generate).clone();
        let taken = self.pools.take(&uid, &handle(who), asked(network)).map_err(|error| error.to_string())?;
        Ok(taken.expect("there are pools"))
    }

    fn give_back(&mut self, who: u8) {
        if let Some(uid) = self.uids.remove(&who) {
            self.pools.give_back(&uid);
        }
    }
}

fn handle(who: u8) -> Handle {
    Handle::new(format!("c{who}")).unwrap()
}

fn record(uid: &ContainerUid, who: u8, addresses: Addresses, ports_in: Vec<PortIn>) -> ContainerRecord {
    ContainerRecord {
        uid: uid.clone(),
        handle: handle(who),
        generation: 1,
        desired: Desired::Present,
        spec: crate::record::ContainerSpec::default(),
        properties: BTreeMap::new(),
        grace_time: None,
        stop: None,
        answered: true,
        created_at: std::time::SystemTime::UNIX_EPOCH,
        origin: Origin::Garden,
        sandbox: None,
        addresses: Some(addresses),
        ports_in,
        rules_out: Vec::new(),
        status: ContainerStatus::default(),
    }
}

#[test]
fn who_asks_for_nothing_gets_a_subnet_of_the_pool_and_the_one_given_back_comes_last() {
    let mut node = Node::new(&options());
    let addresses = |n: u8| format!("10.80.0.{n}");
    for (who, first) in [(0, 0), (1, 4)] {
        let got = node.take(who, "").unwrap();
        assert_eq!(got.subnet.to_string(), format!("10.80.0.{first}/30"));
        assert_eq!((got.gateway.to_string(), got.address.to_string()), (addresses(first + 1), addresses(first + 2)));
        assert_eq!(got.ipv6.unwrap().to_string(), format!("fd00:80::{}", 2 + who));
    }
    node.give_back(0);
    for (who, last) in [(2, 10), (3, 14), (4, 2)] {
        assert_eq!(node.take(who, "").unwrap().address.to_string(), addresses(last));
    }
    let error = node.take(5, "").unwrap_err();
    assert!(error.contains("no subnet of the pool 10.80.0.0/28 is free, all 4 are in use"), "{error}");
}

#[test]
fn who_shares_a_subnet_gets_an_address_of_it_and_nobody_gets_anothers() {
    let mut node = Node::new(&options());
    assert_eq!(node.take(0, "10.1.2.0/29").unwrap().address.to_string(), "10.1.2.2");
    assert_eq!(node.take(1, "10.1.2.4/29").unwrap().address.to_string(), "10.1.2.4");
    let third = node.take(2, "10.1.2.0/29").unwrap();
    assert_eq!((third.address.to_string(), third.gateway.to_string()), ("10.1.2.3".into(), "10.1.2.1".into()));
    assert_eq!(
        node.take(3, "10.1.2.4/29").unwrap_err(),
        "network: 10.1.2.4 of 10.1.2.0/29 is already in use by container 'c1'; ask for another, or for 10.1.2.0/29"
    );
    for (who, last) in [(3, 5), (4, 6)] {
        assert_eq!(node.take(who, "10.1.2.0/29").unwrap().address.to_string(), format!("10.1.2.{last}"));
    }
    let error = node.take(5, "10.1.2.0/29").unwrap_err();
    assert!(error.contains("no address of 10.1.2.0/29 is free, all 5 are in use"), "{error}");
    // Also once everybody has left it meanwhile.
    (0..5).for_each(|who| node.give_back(who));
    assert_eq!(node.take(6, "10.1.2.0/29").unwrap().address.to_string(), "10.1.2.2");
    node.give_back(6);
    assert_eq!(node.take(7, "10.1.2.0/29").unwrap().address.to_string(), "10.1.2.4");
}

#[test]
fn a_subnet_that_overlaps_is_refused_with_both_sides() {
    let mut node = Node::new(&options());
    node.take(0, "10.1.2.0/24").unwrap();
    for (network, words) in [
        ("10.80.0.4/30", "10.80.0.4/30 overlaps 10.80.0.0/28, the pool"),
        ("10.0.0.0/8", "10.0.0.0/8 overlaps 10.80.0.0/28, the pool"),
        ("10.1.2.0/25", "10.1.2.0/25 overlaps 10.1.2.0/24, which other containers are in"),
        ("10.1.0.5/16", "10.1.0.0/16 overlaps 10.1.2.0/24"),
    ] {
        let error = node.take(1, network).unwrap_err();
        assert!(error.contains(words), "{network}: {error}");
    }
    node.give_back(0);
    node.take(1, "10.1.0.5/16").unwrap();
}

#[test]
fn in_the_node_s_own_network_everybody_is_at_one_address_and_a_port_is_the_same_on_both_sides() {
    let here = Ipv4Addr::LOCALHOST;
    let mut node = Node::new(&NetworkOptions { addresses: AddressSource::Shared(here), ..options() });
    for who in 0..9 {
        let addresses = node.take(who, "").unwrap();
        assert_eq!((addresses.address, addresses.gateway, addresses.ipv6), (here, here, None));
        assert_eq!(addresses.subnet.to_string(), "127.0.0.1/32");
        node.give_back(who);
    }
    assert!(node.take(0, "10.1.2.0/24").unwrap_err().contains("the node's own network"));
    let port = |host, container| {
        let asked = PortInAsked { host_port: NonZeroU16::new(host), container_port: NonZeroU16::new(container) };
        let numbers = |port: Option<NonZeroU16>| port.map_or(0, NonZeroU16::get);
        node.pools.port(asked).map(|port| (numbers(port.host_port), numbers(port.container_port)))
    };
    assert_eq!(port(0, 0), Ok((0, 0)));
    assert_eq!(port(80, 0), Ok((80, 0)));
    assert_eq!(port(0, 80), Ok((80, 80)));
    assert_eq!(port(80, 80), Ok((80, 80)));
    assert_eq!(port(8080, 80), Err(AddressError::NodesPort { host_port: 8080, container_port: 80 }));
}

#[test]
fn without_an_ipv6_address_there_is_none_of_ipv4_either() {
    let options = NetworkOptions { addresses: pools_of(V4, Some("fd00:80::/127")), ..options() };
    let mut node = Node::new(&options);
    let error = node.take(0, "").unwrap_err();
    assert!(error.contains("no address of the pool fd00:80::/127 is free"), "{error}");
    let Given::Pools { pool6, .. } = &mut node.pools.given else { panic!("these are pools") };
    *pool6 = None;
    let mut seen = BTreeSet::new();
    for who in 0..4 {
        seen.insert(node.take(who, "").unwrap().address);
    }
    assert_eq!(seen.len(), 4, "nothing was lost by the one that failed");
}

#[test]
fn a_start_goes_on_behind_the_youngest_and_the_younger_of_two_has_what_both_claim() {
    let before = || Node::new(&options()).take(0, "").unwrap();
    let mut third = before();
    third.subnet = "10.80.0.8/30".parse().unwrap();
    (third.gateway, third.address) = (gateway(third.subnet), "10.80.0.10".parse().unwrap());
    let mut pools = Pools::new(&options());
    let (young, old) = (ContainerUid::generate(), ContainerUid::generate());
    let port = PortIn { host_port: 61001, container_port: 80 };
    pools.take_up(&record(&young, 0, third.clone(), vec![port]));
    pools.take_up(&record(&old, 1, third, vec![port]));
    let mut node = Node { pools, uids: BTreeMap::new() };
    node.pools.give_back(&old);
    for last in [14, 2, 6] {
        assert_eq!(node.take(last, "").unwrap().address.to_string(), format!("10.80.0.{last}"));
    }
    assert!(node.take(9, "").is_err());
    let (uid, handle) = (ContainerUid::generate(), handle(9));
    let error = node.pools.ports.take_this(&uid, &handle, 61001).unwrap_err();
    assert_eq!(
        error.to_string(),
        "host port 61001 is already in use by container 'c0'; ask for another, or for 0 to be given one"
    );
    assert_eq!(node.pools.ports.take(&uid, &handle), Ok(61002));
    node.pools.give_back(&young);
    assert_eq!(node.take(9, "").unwrap().address.to_string(), "10.80.0.10");
    assert_eq!(node.pools.ports.take(&uid, &handle), Ok(61001));
}

#[test]
fn what_was_given_of_another_pool_is_held_and_not_given_of_this_one() {
    let mut pools = Pools::new(&options());
    let addresses = Addresses {
        address: "10.80.0.9".parse().unwrap(),
        subnet: "10.80.0.8/29".parse().unwrap(),
        gateway: "10.80.0.8".parse().unwrap(),
        ipv6: Some("fd00:99::1".parse().unwrap()),
    };
    let uid = ContainerUid::generate();
    pools.take_up(&record(&uid, 0, Addresses { address: "10.80.0.10".parse().unwrap(), ..addresses }, Vec::new()));
    let mut node = Node { pools, uids: BTreeMap::new() };
    for last in [2, 6] {
        assert_eq!(node.take(last, "").unwrap().address.to_string(), format!("10.80.0.{last}"));
    }
    assert!(node.take(9, "").is_err(), "the rest of the pool is under the other subnet");
    node.pools.give_back(&uid);
    assert_eq!(node.take(9, "").unwrap().address.to_string(), "10.80.0.10");
}

#[test]
fn ports_go_round_and_a_given_one_is_nobody_elses() {
    let mut pools = Pools::new(&options());
    let (one, two) = (ContainerUid::generate(), ContainerUid::generate());
    let ports = &mut pools.ports;
    assert_eq!(ports.take(&one, &handle(1)), Ok(61001));
    ports.take_this(&one, &handle(1), 80).unwrap();
    assert!(ports.take_this(&two, &handle(2), 80).is_err());
    ports.give_back(&two, 80);
    assert!(ports.take_this(&two, &handle(2), 80).is_err(), "what is another's is not given back");
    ports.give_back(&one, 61001);
    assert_eq!(ports.take(&two, &handle(2)), Ok(61002));
    assert_eq!(ports.take(&two, &handle(2)), Ok(61001));
    let error = ports.take(&two, &handle(2)).unwrap_err().to_string();
    assert!(error.starts_with("no host port from 61001 to 61002 is free"), "{error}");
    pools.give_back(&one);
    pools.ports.take_this(&two, &handle(2), 80).unwrap();
}

#[derive(Clone, Debug)]
enum Act {
    Take {
        who: u8,
        network: &'static str,
    },
    GiveBack {
        who: u8,
    },
    Port {
        who: u8,
    },
    ThisPort {
        who: u8,
        port: u16,
    },
    /// All of it is built anew from what everybody has.
    Restart,
}

fn any_act() -> impl Strategy<Value = Act> {
    let network = prop::sample::select(vec![
        "",
        "",
        "10.1.2.0/29",
        "10.1.2.4/29",
        "10.1.2.6/29",
        "10.1.2.0/30",
        "10.1.2.8/29",
        "10.1.0.0/16",
        "10.80.0.0/30",
    ]);
    let who = || 0..8_u8;
    prop_oneof![
        6 => (who(), network).prop_map(|(who, network)| Act::Take { who, network }),
        3 => who().prop_map(|who| Act::GiveBack { who }),
        2 => who().prop_map(|who| Act::Port { who }),
        2 => (who(), 61000..61004_u16).prop_map(|(who, port)| Act::ThisPort { who, port }),
        1 => Just(Act::Restart),
    ]
}

/// What one has, as it was told.
#[derive(Default)]
struct Told {
    addresses: Option<Addresses>,
    ports: BTreeSet<u16>,
}

fn apply(node: &mut Node, told: &mut BTreeMap<u8, Told>, act: Act) {
    match act {
        Act::Take { who, network } => {
            if told.get(&who).is_none_or(|told| told.addresses.is_none())
                && let Ok(addresses) = node.take(who, network)
            {
                told.entry(who).or_default().addresses = Some(addresses);
            }
        }
        Act::GiveBack { who } => {
            told.remove(&who);
            node.give_back(who);
        }
        Act::Port { who } | Act::ThisPort { who, .. } => {
            let uid = node.uids.entry(who).or_insert_with(ContainerUid::generate).clone();
            let ports = &mut node.pools.ports;
            let port = match act {
                Act::ThisPort { port, .. } => ports.take_this(&uid, &handle(who), port).map(|()| port),
                _ => ports.take(&uid, &handle(who)),
            };
            told.entry(who).or_default().ports.extend(port);
        }
        Act::Restart => {
            node.pools = Pools::new(&options());
            for (who, told) in told {
                let ports_in = told.ports.iter().map(|port| PortIn { host_port: *port, container_port: 1 }).collect();
                let mut record = record(&node.uids[who], *who, any_addresses(), ports_in);
                record.addresses = told.addresses.clone();
                node.pools.take_up(&record);
            }
        }
    }
}

fn any_addresses() -> Addresses {
    let subnet = "10.9.9.0/30".parse().unwrap();
    Addresses { address: nth(subnet), subnet, gateway: gateway(subnet), ipv6: None }
}

fn nth(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(gateway(subnet)) + 1)
}

proptest! {
    #[test]
    fn nothing_is_anybodys_twice_and_nothing_is_lost(acts in prop::collection::vec(any_act(), 0..60)) {
        let mut node = Node::new(&options());
        let mut told = BTreeMap::new();
        for act in acts {
            apply(&mut node, &mut told, act);
            let all: Vec<&Addresses> = told.values().filter_map(|told| told.addresses.as_ref()).collect();
            for (at, one) in all.iter().enumerate() {
                prop_assert!(one.subnet.contains(&one.address) && one.subnet.contains(&one.gateway));
                prop_assert!(![one.gateway, one.subnet.network(), one.subnet.broadcast()].contains(&one.address));
                for other in &all[at + 1..] {
                    prop_assert!(one.address != other.address && one.ipv6 != other.ipv6);
                    prop_assert!(one.subnet == other.subnet || !asked::overlap(one.subnet, other.subnet));
                    prop_assert!(one.subnet != other.subnet || !V4.parse::<Ipv4Net>().unwrap().contains(&one.subnet));
                }
            }
            let ports: Vec<u16> = told.values().flat_map(|told| told.ports.clone()).collect();
            prop_assert_eq!(ports.len(), ports.iter().collect::<BTreeSet<_>>().len());
        }
        (0..8).for_each(|who| node.give_back(who));
        for who in 0..4 {
            prop_assert!(node.take(who, "").is_ok(), "a subnet of the pool was lost");
            prop_assert!(node.pools.ports.take(&node.uids[&who], &handle(who)).is_ok() == (who < 2), "a port was lost");
        }
    }
}
