//! The network adapter against the kernel: each test in a network namespace of its own, with a fake
//! outside behind a link, and processes that sleep in namespaces in place of containers.

mod network_support;

use gardend::node::network::{NetworkNode, Options, Policy};
use gardend::node::place::{Folders, InitProcess};
use gardend_controller::ports::{Network, NetworkWanted};
use gardend_controller::record::{
    Addresses, ContainerUid, Handle, IcmpMatch, PortIn, RuleOut, RuleProtocol, SandboxId,
};
use network_support::{
    ELSEWHERE, LONG, NODE, Namespace, OUTSIDE, OUTSIDE6, SHORT, alone, answer, dial, ip, no_way, outside, said, serve,
    tcp,
};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct World {
    outside: Namespace,
    folders: Folders,
    node: NetworkNode,
    _folder: TempDir,
}

impl World {
    async fn new(policy: Policy) -> Self {
        let outside = outside();
        let folder = tempfile::tempdir().unwrap();
        for name in ["state", "run/places"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let folders = Folders::new(folder.path().join("state"), folder.path().join("run"));
        let node = Self::open(&folders, policy);
        node.restore(&Vec::new).await.unwrap();
        Self { outside, folders, node, _folder: folder }
    }

    fn open(folders: &Folders, policy: Policy) -> NetworkNode {
        let pools = vec!["10.80.0.0/16".parse().unwrap(), "fd00:80::/64".parse().unwrap()];
        NetworkNode::open(folders.clone(), Options { policy, pools, ..Options::default() }).unwrap()
    }

    /// A place with the n-th subnet, nothing done to it yet.
    fn place(&self, n: u8) -> (Namespace, NetworkWanted) {
        let namespace = Namespace::new();
        let wanted = NetworkWanted {
            container: ContainerUid::generate(),
            handle: Handle::new(format!("container-{n}")).unwrap(),
            sandbox: SandboxId::generate(),
            addresses: Addresses {
                address: Ipv4Addr::new(10, 80, n, 2),
                subnet: format!("10.80.{n}.0/30").parse().unwrap(),
                gateway: Ipv4Addr::new(10, 80, n, 1),
                ipv6: Some(Ipv6Addr::new(0xfd00, 0x80, 0, 0, 0, 0, n.into(), 2)),
            },
            ports_in: Vec::new(),
            rules_out: Vec::new(),
            bandwidth_rate: 0,
            bandwidth_burst: 0,
        };
        self.move_into(&wanted.sandbox, &namespace);
        (namespace, wanted)
    }

    fn move_into(&self, sandbox: &SandboxId, namespace: &Namespace) {
        let folder = self.folders.place(sandbox);
        std::fs::create_dir_all(&folder).unwrap();
        InitProcess::of_pid(namespace.pid()).unwrap().write(&folder).unwrap();
    }

    async fn ensure(&self, wanted: &NetworkWanted) {
        self.node.ensure(&|| Some(wanted.clone())).await.unwrap();
    }

    async fn container(&self, n: u8, change: impl FnOnce(&mut NetworkWanted)) -> (Namespace, NetworkWanted) {
        let (namespace, mut wanted) = self.place(n);
        change(&mut wanted);
        self.ensure(&wanted).await;
        (namespace, wanted)
    }

    /// Answers connections outside with the address that they come from.
    fn tcp(&self, address: impl Into<IpAddr>, port: u16) {
        tcp(&self.outside, address, port);
    }
}

fn allow(protocol: RuleProtocol, network: Option<IpAddr>, ports: &[(u16, u16)]) -> RuleOut {
    RuleOut {
        protocol,
        networks: network.iter().map(|one| (*one, *one)).collect(),
        ports: ports.to_vec(),
        ..RuleOut::default()
    }
}

fn closed() -> Policy {
    Policy { deny_by_default: true, ..Policy::default() }
}

#[tokio::test]
async fn a_container_has_its_address_its_way_out_and_the_uplinks_mtu() {
    if !alone("a_container_has_its_address_its_way_out_and_the_uplinks_mtu") {
        return;
    }
    let world = World::new(Policy::default()).await;
    let (inside, wanted) = world.container(1, |_| ()).await;
    let link = inside.said("ip -o addr show eth0");
    assert!(link.contains("inet 10.80.1.2/32") && link.contains("inet6 fd00:80::1:2/128"), "{link}");
    assert!(inside.said("ip link show eth0").contains("mtu 1400"), "{}", inside.said("ip link show eth0"));
    assert!(inside.said("ip route").contains("default via 10.80.1.1 dev eth0"), "{}", inside.said("ip route"));
    assert!(inside.said("ip -6 route").contains("default via fe80::1 dev eth0"), "{}", inside.said("ip -6 route"));
    assert!(said("ip", "-d link").contains("alias container-1"));
    let (_place, mut long) = world.place(2);
    long.handle = Handle::new("ü".repeat(500)).unwrap();
    long.rules_out.push(RuleOut { log: true, ..RuleOut::default() });
    world.ensure(&long).await;
    // Twice is as good as once.
    world.ensure(&wanted).await;
}

#[tokio::test]
async fn who_is_let_out_comes_in_the_nodes_name() {
    if !alone("who_is_let_out_comes_in_the_nodes_name") {
        return;
    }
    let world = World::new(Policy::default()).await;
    world.tcp(OUTSIDE, 80);
    world.tcp(OUTSIDE6, 80);
    let (inside, wanted) = world.place(1);
    no_way(&inside, OUTSIDE, 80);
    world.ensure(&wanted).await;
    assert_eq!(dial(&inside, OUTSIDE, 80), NODE.to_string());
    assert_eq!(dial(&inside, OUTSIDE6, 80), "2001:db8:1::1");
    world.node.release(&wanted.container).await.unwrap();
    no_way(&inside, OUTSIDE, 80);
    world.node.release(&wanted.container).await.unwrap();
    let table = said("nft", "list ruleset");
    assert!(!table.contains("10.80.1.2"), "{table}");
}

#[tokio::test]
async fn what_is_denied_is_opened_by_rules_and_by_no_others() {
    if !alone("what_is_denied_is_opened_by_rules_and_by_no_others") {
        return;
    }
    for policy in [
        closed(),
        Policy { deny_networks: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()], ..Policy::default() },
    ] {
        let world = World::new(policy).await;
        for port in [80, 81] {
            world.tcp(OUTSIDE, port);
            world.tcp(ELSEWHERE, port);
            world.tcp(OUTSIDE6, port);
        }
        let (inside, mut wanted) = world.container(1, |_| ()).await;
        let reach = |address: IpAddr, port: u16| inside.run(|| answer(SocketAddr::new(address, port), LONG)).is_ok();
        let started = Instant::now();
        assert!(!reach(OUTSIDE.into(), 80));
        assert!(started.elapsed() < LONG / 2, "it is refused, not dropped");
        assert!(!reach(OUTSIDE6.into(), 80));

        wanted.rules_out = vec![allow(RuleProtocol::Tcp, Some(OUTSIDE.into()), &[(80, 80)])];
        world.ensure(&wanted).await;
        assert!(reach(OUTSIDE.into(), 80));
        assert!(!reach(OUTSIDE.into(), 81) && !reach(ELSEWHERE.into(), 80) && !reach(OUTSIDE6.into(), 80));

        wanted.rules_out = vec![
            RuleOut { networks: vec![(OUTSIDE.into(), ELSEWHERE.into())], log: true, ..RuleOut::default() },
            allow(RuleProtocol::Tcp, Some(OUTSIDE6.into()), &[(80, 80), (90, 99)]),
        ];
        world.ensure(&wanted).await;
        assert!(reach(ELSEWHERE.into(), 81) && reach(OUTSIDE6.into(), 80) && !reach(OUTSIDE6.into(), 81));
        let table = said("nft", "list ruleset");
        assert!(table.contains("log prefix \"container-1 \" accept"), "{table}");

        wanted.rules_out = vec![allow(RuleProtocol::Udp, None, &[])];
        world.ensure(&wanted).await;
        assert!(!reach(OUTSIDE.into(), 80));
        wanted.rules_out = vec![RuleOut::default()];
        world.ensure(&wanted).await;
        assert!(reach(OUTSIDE.into(), 80) && reach(OUTSIDE6.into(), 81));
        wanted.rules_out.clear();
        world.ensure(&wanted).await;
        assert!(!reach(OUTSIDE.into(), 80));
    }
}

#[tokio::test]
async fn messages_of_icmp_are_let_out_by_type_and_code() {
    if !alone("messages_of_icmp_are_let_out_by_type_and_code") {
        return;
    }
    let world = World::new(closed()).await;
    let echo = |kind, code| RuleOut {
        protocol: RuleProtocol::Icmp,
        icmp: Some(IcmpMatch { kind, code }),
        ..RuleOut::default()
    };
    let (inside, mut wanted) = world.container(1, |_| ()).await;
    // Each with a number of its own: one that was let out before would be a connection already.
    for (number, (rule, comes)) in
        (1..).zip([(echo(8, None), true), (echo(8, Some(0)), true), (echo(8, Some(1)), false), (echo(13, None), false)])
    {
        wanted.rules_out = vec![rule.clone()];
        world.ensure(&wanted).await;
        assert_eq!(inside.run(|| echo_of(OUTSIDE, number)), comes, "{rule:?}");
    }
}

/// Whether an echo comes back.
fn echo_of(address: Ipv4Addr, number: u8) -> bool {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMP))
            .unwrap();
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(SHORT)).unwrap();
    // Type 8, code 0, the sum of the rest, a number, 0.
    let request = [8, 0, 0xf7, 0xff - number, 0, number, 0, 0];
    if rustix::net::sendto(&socket, &request, SendFlags::empty(), &SocketAddr::new(address.into(), 0)).is_err() {
        return false;
    }
    let deadline = Instant::now() + SHORT;
    let mut answer = [0u8; 128];
    while Instant::now() < deadline {
        let Ok((length, _)) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty()) else { return false };
        // Behind the head of IP.
        if length >= 28 && answer[20] == 0 {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn a_port_leads_in_from_outside_from_the_node_and_from_other_containers() {
    if !alone("a_port_leads_in_from_outside_from_the_node_and_from_other_containers") {
        return;
    }
    let world = World::new(Policy::default()).await;
    let (first, mut one) = world
        .container(1, |wanted| {
            wanted.ports_in.push(PortIn { host_port: 61_001, container_port: 80 });
        })
        .await;
    let (second, _two) = world.container(2, |_| ()).await;
    serve(&first, one.addresses.address, 80, "one");
    assert_eq!(dial(&world.outside, NODE, 61_001), "one");
    assert_eq!(answer(SocketAddr::new(NODE.into(), 61_001), LONG).unwrap(), "one");
    assert_eq!(dial(&second, NODE, 61_001), "one");
    assert_eq!(dial(&first, NODE, 61_001), "one", "by its own port of the node's");
    no_way(&second, one.addresses.address, 80);
    no_way(&world.outside, NODE, 61_002);

    // By UDP as well.
    let server = first.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 80)).unwrap());
    server.set_read_timeout(Some(SHORT)).unwrap();
    world.outside.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", (NODE, 61_001)).unwrap());
    server.recv_from(&mut [0; 8]).unwrap();

    // A connection does not outlive the port that it came by.
    let client = world.outside.run(|| UdpSocket::bind("0.0.0.0:4113").unwrap());
    let send = || client.send_to(b"x", (NODE, 61_001)).unwrap();
    send();
    let (_, peer) = server.recv_from(&mut [0; 8]).unwrap();
    server.send_to(b"y", peer).unwrap();
    send();
    server.recv_from(&mut [0; 8]).unwrap();
    one.ports_in.clear();
    world.ensure(&one).await;
    no_way(&world.outside, NODE, 61_001);
    send();
    assert!(server.recv_from(&mut [0; 8]).is_err());
}

#[tokio::test]
async fn a_port_that_a_program_of_the_node_listens_on_is_refused() {
    if !alone("a_port_that_a_program_of_the_node_listens_on_is_refused") {
        return;
    }
    let world = World::new(Policy::default()).await;
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = world.node.check_port(port).await.unwrap_err();
    assert!(error.message.contains(&format!("host port {port} is already in use")), "{error}");
    drop(listener);
    world.node.check_port(port).await.unwrap();
}

#[tokio::test]
async fn containers_reach_each_other_within_their_subnet_or_by_a_rule_that_names_the_other() {
    if !alone("containers_reach_each_other_within_their_subnet_or_by_a_rule_that_names_the_other") {
        return;
    }
    let world = World::new(Policy::default()).await;
    let shared = |last: u8| {
        move |wanted: &mut NetworkWanted| {
            wanted.addresses.subnet = "10.99.0.0/24".parse().unwrap();
            wanted.addresses.gateway = Ipv4Addr::new(10, 99, 0, 1);
            wanted.addresses.address = Ipv4Addr::new(10, 99, 0, last);
        }
    };
    let (first, one) = world.container(1, shared(2)).await;
    let (second, _two) = world.container(2, shared(3)).await;
    let (third, mut three) = world.container(3, |_| ()).await;
    serve(&first, one.addresses.address, 80, "one");
    assert_eq!(dial(&second, one.addresses.address, 80), "one");
    no_way(&third, one.addresses.address, 80);
    three.rules_out = vec![RuleOut::default()];
    world.ensure(&three).await;
    no_way(&third, one.addresses.address, 80);
    three.rules_out = vec![allow(RuleProtocol::Tcp, Some(one.addresses.address.into()), &[])];
    world.ensure(&three).await;
    assert_eq!(dial(&third, one.addresses.address, 80), "one");
    assert!(said("ip", "rule").contains("from 10.99.0.0/24"));
    let (_fourth, mut four) = world.place(4);
    four.addresses.subnet = "198.51.100.16/28".parse().unwrap();
    let error = world.node.ensure(&|| Some(four.clone())).await.unwrap_err();
    assert!(error.message.contains("198.51.100.16/28 overlaps 198.51.100.0/24"), "{error}");
}

#[tokio::test]
async fn the_node_reaches_containers_and_they_do_not_reach_it() {
    if !alone("the_node_reaches_containers_and_they_do_not_reach_it") {
        return;
    }
    for open in [false, true] {
        let world = World::new(Policy { allow_host_access: open, ..Policy::default() }).await;
        let (inside, wanted) = world.container(1, |_| ()).await;
        serve(&inside, wanted.addresses.address, 80, "one");
        assert_eq!(answer(SocketAddr::new(wanted.addresses.address.into(), 80), LONG).unwrap(), "one");
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let reach = |address: Ipv4Addr| {
            inside.run(|| TcpStream::connect_timeout(&SocketAddr::new(address.into(), port), SHORT).is_ok())
        };
        assert_eq!(reach(NODE), open);
        assert_eq!(reach(wanted.addresses.gateway), open);
    }
}

#[tokio::test]
async fn who_sends_in_anothers_name_is_not_heard() {
    if !alone("who_sends_in_anothers_name_is_not_heard") {
        return;
    }
    let world = World::new(Policy::default()).await;
    let (inside, _wanted) = world.container(1, |_| ()).await;
    let (_second, two) = world.container(2, |_| ()).await;
    let heard = world.outside.run(|| UdpSocket::bind((OUTSIDE, 99)).unwrap());
    heard.set_read_timeout(Some(SHORT)).unwrap();
    let send = |from: IpAddr| inside.run(|| UdpSocket::bind((from, 0)).unwrap().send_to(b"x", (OUTSIDE, 99)).map(drop));
    send(Ipv4Addr::UNSPECIFIED.into()).unwrap();
    heard.recv_from(&mut [0; 8]).unwrap();
    inside.ip(&format!("addr add {}/32 dev eth0", two.addresses.address));
    inside.ip("addr add 192.0.2.1/32 dev eth0");
    for other in [two.addresses.address, Ipv4Addr::new(192, 0, 2, 1)] {
        // The kernel may tell at once.
        let _ = send(other.into());
        assert!(heard.recv_from(&mut [0; 8]).is_err(), "{other} was heard");
    }
}

#[tokio::test]
async fn without_our_table_nothing_passes_until_it_is_put_back_and_connections_go_on() {
    if !alone("without_our_table_nothing_passes_until_it_is_put_back_and_connections_go_on") {
        return;
    }
    let world = World::new(Policy::default()).await;
    said("nft", "add table inet others");
    let mut disturbed = world.node.disturbed();
    world.tcp(OUTSIDE, 80);
    let (inside, wanted) = world
        .container(1, |wanted| {
            wanted.ports_in.push(PortIn { host_port: 61_001, container_port: 80 });
            wanted.rules_out.push(RuleOut { log: true, ..RuleOut::default() });
        })
        .await;
    serve(&inside, wanted.addresses.address, 80, "one");
    let all = || vec![wanted.clone()];
    let before = said("nft", "list ruleset");

    // Somebody else's change is none of ours.
    world.node.restore(&all).await.unwrap();
    assert_eq!(said("nft", "list ruleset"), before);
    assert!(disturbed.try_recv().is_err());

    said("nft", "flush ruleset");
    tokio::time::timeout(Duration::from_secs(2), disturbed.recv()).await.unwrap().unwrap();
    no_way(&inside, OUTSIDE, 80);
    world.node.restore(&all).await.unwrap();
    assert_eq!(dial(&inside, OUTSIDE, 80), NODE.to_string());
    assert_eq!(dial(&world.outside, NODE, 61_001), "one");

    // A single element, a chain's rule, a rule of the table's own, a route: each is put back.
    let table =
        said("nft", "list tables").lines().find(|line| line.contains("gardend_")).unwrap().replace("table ", "");
    let now = said("nft", "list ruleset");
    for damage in [
        format!("delete element {table} containers4 {{ 10.80.1.2 }}"),
        format!("flush chain {table} forward"),
        format!("flush chain {table} out_{}", wanted.container),
        format!("add rule {table} out_{} drop", wanted.container),
        format!("flush map {table} sources4"),
    ] {
        let status = Command::new("nft").arg(&damage).status().unwrap();
        assert!(status.success(), "{damage}");
        assert_ne!(said("nft", "list ruleset"), now);
        world.node.restore(&all).await.unwrap();
        assert_eq!(said("nft", "list ruleset"), now, "{damage}");
    }
    ip("route del 10.80.1.2");
    ip("rule flush");
    ip("rule add pref 32766 lookup main");
    world.node.restore(&all).await.unwrap();
    assert_eq!(dial(&inside, OUTSIDE, 80), NODE.to_string());
    assert_eq!(said("ip", "rule").matches("10.80.0.0/16").count(), 2, "{}", said("ip", "rule"));
}

#[tokio::test]
async fn another_gardend_takes_over_what_is_there_and_removes_what_nobody_wants() {
    if !alone("another_gardend_takes_over_what_is_there_and_removes_what_nobody_wants") {
        return;
    }
    let world = World::new(Policy::default()).await;
    let (inside, wanted) = world.container(1, |_| ()).await;
    let (_gone, two) = world
        .container(2, |wanted| {
            wanted.ports_in.push(PortIn { host_port: 61_001, container_port: 80 });
            wanted.rules_out.push(RuleOut::default());
        })
        .await;
    let listener = world.outside.run(|| TcpListener::bind((OUTSIDE, 80)).unwrap());
    let mut stream = inside.run(|| TcpStream::connect((OUTSIDE, 80)).unwrap());
    let (mut far, _) = listener.accept().unwrap();
    let before = said("nft", "list ruleset");

    let next = World::open(&world.folders, Policy::default());
    next.restore(&|| vec![wanted.clone(), two.clone()]).await.unwrap();
    assert_eq!(said("nft", "list ruleset"), before);
    next.restore(&|| vec![wanted.clone()]).await.unwrap();
    let after = said("nft", "list ruleset");
    assert!(!after.contains("10.80.2.2") && !after.contains("61001") && !after.contains("out_"), "{after}");
    assert!(!said("ip", "link").contains("container-2"));

    stream.write_all(b"still").unwrap();
    far.set_read_timeout(Some(SHORT)).unwrap();
    let mut heard = [0; 5];
    far.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still");
}

#[tokio::test]
async fn whoever_has_an_address_next_does_not_go_on_with_its_connections() {
    if !alone("whoever_has_an_address_next_does_not_go_on_with_its_connections") {
        return;
    }
    let world = World::new(closed()).await;
    let heard = world.outside.run(|| UdpSocket::bind((OUTSIDE, 99)).unwrap());
    heard.set_read_timeout(Some(SHORT)).unwrap();
    let send = |from: &Namespace| {
        // The same two ends each time, so that it is the same connection to the kernel.
        let _ = from.run(|| UdpSocket::bind("0.0.0.0:5000").unwrap().send_to(b"x", (OUTSIDE, 99)));
        heard.recv_from(&mut [0; 8]).map(|(_, peer)| peer)
    };
    let (first, one) = world.container(1, |wanted| wanted.rules_out.push(RuleOut::default())).await;
    let back = send(&first).unwrap();
    // Answered, it is established.
    world.outside.run(|| heard.send_to(b"y", back).unwrap());
    send(&first).unwrap();
    world.node.release(&one.container).await.unwrap();
    drop(first);
    let (second, _) = world.container(1, |_| ()).await;
    assert!(send(&second).is_err());
}

#[tokio::test]
async fn a_place_that_is_replaced_hands_its_address_on() {
    if !alone("a_place_that_is_replaced_hands_its_address_on") {
        return;
    }
    let world = World::new(Policy::default()).await;
    world.tcp(OUTSIDE, 80);
    let (first, mut wanted) = world.container(1, |_| ()).await;
    let next = Namespace::new();
    wanted.sandbox = SandboxId::generate();
    world.move_into(&wanted.sandbox, &next);
    world.ensure(&wanted).await;
    assert_eq!(dial(&next, OUTSIDE, 80), NODE.to_string());
    no_way(&first, OUTSIDE, 80);
}

#[tokio::test]
async fn bandwidth_is_limited_both_ways_and_read_back() {
    if !alone("bandwidth_is_limited_both_ways_and_read_back") {
        return;
    }
    let world = World::new(Policy::default()).await;
    let (inside, mut wanted) = world
        .container(1, |wanted| {
            wanted.bandwidth_rate = 1_000_000;
            wanted.bandwidth_burst = 100_000;
        })
        .await;
    let (rate, burst) = world.node.bandwidth(&wanted.sandbox).await.unwrap();
    assert_eq!(rate, 1_000_000);
    assert!(burst.abs_diff(100_000) <= 1, "{burst}");
    assert!(inside.said("tc qdisc show dev eth0").contains("tbf"));

    // 600 kB: a tenth at once, the rest in half a second.
    let listener = inside.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).unwrap());
    let mut far = TcpStream::connect((wanted.addresses.address, 80)).unwrap();
    let (mut near, _) = listener.accept().unwrap();
    for (from, to) in [(&mut near, &mut far)] {
        for _ in 0..2 {
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let started = Instant::now();
            let sender = std::thread::spawn(move || from.write_all(&[7; 600_000]).unwrap());
            to.read_exact(&mut vec![0; 600_000]).unwrap();
            sender.join().unwrap();
            assert!(started.elapsed() > Duration::from_millis(350), "{:?}", started.elapsed());
        }
    }
    wanted.bandwidth_rate = 0;
    world.ensure(&wanted).await;
    assert_eq!(world.node.bandwidth(&wanted.sandbox).await.unwrap(), (0, 0));
    assert!(!inside.said("tc qdisc show dev eth0").contains("tbf"));
}

#[tokio::test]
async fn many_containers_cost_the_same_each() {
    if !alone("many_containers_cost_the_same_each") {
        return;
    }
    let world = World::new(Policy::default()).await;
    let rules = || {
        let table = said("nft", "-a list ruleset");
        table.lines().filter(|line| line.contains("# handle")).count()
    };
    let without = rules();
    let mut kept = Vec::new();
    let mut took = Vec::new();
    for n in 1..=60 {
        let (namespace, wanted) = world.place(n);
        let started = Instant::now();
        world.ensure(&wanted).await;
        took.push(started.elapsed());
        kept.push((namespace, wanted));
    }
    let median = |some: &[Duration]| {
        let mut some = some.to_vec();
        some.sort_unstable();
        some[some.len() / 2]
    };
    let (first, last) = (median(&took[..20]), median(&took[40..]));
    assert_eq!(rules(), without, "no rule here is a container's");
    let started = Instant::now();
    world.node.restore(&|| kept.iter().map(|(_, wanted)| wanted.clone()).collect()).await.unwrap();
    let look = started.elapsed();
    let mut released = Vec::new();
    for (_, wanted) in &kept {
        let started = Instant::now();
        world.node.release(&wanted.container).await.unwrap();
        released.push(started.elapsed());
    }
    println!("ensure: first 20 {first:?}, last 20 {last:?}; release {:?}; a look at 60 {look:?}", median(&released));
}
