//! The adapter of CNI against the kernel, with Debian's plugins and with some of our own: each test in a
//! network namespace of its own, with processes that sleep in namespaces in place of containers.

mod network_support;

use gardend::node::network::cni::{self, CniNode};
use gardend::node::network::{Policy, Resolver};
use gardend::node::place::{Folders, InitProcess};
use gardend_controller::Asked;
use gardend_controller::ports::{AttachWanted, Network, NetworkWanted, NodeError, NodeErrorKind};
use gardend_controller::record::{Addresses, ContainerUid, Handle, PortIn, RuleOut, RuleProtocol, SandboxId};
use network_support::{
    ELSEWHERE, NODE, Namespace, OUTSIDE, alone, answer, dial, ip, no_way, outside, said, serve, tcp,
};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// For what must not come.
const SHORT: Duration = Duration::from_millis(300);
/// For what a busy machine may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Folders, configurations and plugins of one node.
struct Machine {
    folder: TempDir,
    folders: Folders,
}

impl Machine {
    fn new(plugins: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["state", "run/places", "conf", "bin", "calls", "leases"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let folders = Folders::new(folder.path().join("state"), folder.path().join("run"));
        let machine = Self { folder, folders };
        machine.configure("1.0.0", plugins);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, version: &str, plugins: &Value) {
        let text = json!({ "cniVersion": version, "name": "test", "plugins": plugins }).to_string();
        let text = text.replace("LEASES", self.path("leases").to_str().unwrap());
        std::fs::write(self.path("conf/10-test.conflist"), text).unwrap();
    }

    /// A plugin of our own: it says what it speaks, writes down how it was called, and does the rest.
    fn plugin(&self, name: &str, rest: &str) {
        let calls = self.path("calls");
        let calls = calls.display();
        let script = format!(
            r#"#!/bin/sh
if [ "$CNI_COMMAND" = VERSION ]; then
  cat >/dev/null; echo '{{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}}'; exit 0
fi
n=$(ls {calls} | wc -l)
env >"{calls}/$n.env"; cat >"{calls}/../stdin"; mv "{calls}/../stdin" "{calls}/$n.$CNI_COMMAND.{name}"
{rest}
"#
        );
        let path = self.path("bin").join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What was called, in order: who was told to do what, in which environment, with what on stdin.
    fn calls(&self) -> Vec<(String, Vec<String>, Value)> {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(self.path("calls")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension != "env"));
        let number = |path: &Path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            name.split('.').next().unwrap().parse::<u32>().unwrap()
        };
        files.sort_by_key(|path| number(path));
        let read = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            let environment = std::fs::read_to_string(path.with_file_name(format!("{}.env", number(path)))).unwrap();
            // The shell's own.
            let shells = ["PWD=", "OLDPWD=", "SHLVL=", "_="];
            let mut environment: Vec<String> = environment.lines().map(str::to_owned).collect();
            environment.retain(|line| !shells.iter().any(|own| line.starts_with(own)));
            environment.sort();
            let call = name.split('.').skip(1).collect::<Vec<_>>().join(" ");
            (call, environment, serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
        };
        files.iter().map(read).collect()
    }

    fn called(&self) -> Vec<String> {
        self.calls().into_iter().map(|(call, ..)| call).collect()
    }

    fn options(&self) -> cni::Options {
        cni::Options {
            conf_dir: self.path("conf"),
            bin_dirs: vec![self.path("bin"), "/opt/cni/bin".into(), "/usr/lib/cni".into()],
            network: None,
            collects: false,
            policy: Policy::default(),
            dns_servers: Vec::new(),
            deadline: PATIENCE,
            undo_deadline: PATIENCE,
            restores: Default::default(),
        }
    }

    fn open(&self, change: impl FnOnce(&mut cni::Options)) -> CniNode {
        let mut options = self.options();
        change(&mut options);
        CniNode::open(self.folders.clone(), options).unwrap()
    }

    async fn start(&self, change: impl FnOnce(&mut cni::Options)) -> CniNode {
        let node = self.open(change);
        node.restore(&Vec::new).await.unwrap();
        node
    }

    /// A place, nothing done to it yet.
    fn place(&self, handle: &str) -> (Namespace, AttachWanted) {
        let namespace = Namespace::new();
        let wanted = AttachWanted {
            container: ContainerUid::generate(),
            handle: Handle::new(handle).unwrap(),
            sandbox: SandboxId::generate(),
            asked: Asked::OfThePool,
            ports_in: Vec::new(),
            bandwidth_rate: 0,
            bandwidth_burst: 0,
        };
        let folder = self.folders.place(&wanted.sandbox);
        std::fs::create_dir_all(&folder).unwrap();
        InitProcess::of_pid(namespace.pid()).unwrap().write(&folder).unwrap();
        (namespace, wanted)
    }

    /// Nothing of any container is left, but for the addresses that leases remember as the last.
    fn assert_clean(&self) {
        let names = |folder: &str| -> Vec<String> {
            let Ok(entries) = std::fs::read_dir(self.path(folder)) else { return Vec::new() };
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let leases: Vec<String> =
            names("leases/test").into_iter().filter(|name| name.starts_with(|c: char| c.is_ascii_digit())).collect();
        assert!(leases.is_empty(), "leases: {leases:?}");
        for folder in ["state/cni", "run/cni/netns", "run/cni/turns"] {
            assert!(names(folder).is_empty(), "{folder}: {:?}", names(folder));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.path("run/cni").to_str().unwrap()), "{mounts}");
        let links = said("ip", "-o link");
        assert!(!links.contains("veth"), "{links}");
        let rules = said("iptables", "-t nat -S");
        assert!(!rules.contains("CNI-DN-") && !rules.contains("10.90."), "{rules}");
    }
}

async fn attach(node: &CniNode, wanted: &AttachWanted) -> Result<Addresses, NodeError> {
    let found = Mutex::new(None);
    let attached = node.attach(&|| Some(wanted.clone()), &|addresses| *found.lock().unwrap() = Some(addresses)).await;
    assert_eq!(found.into_inner().unwrap(), attached.as_ref().ok().cloned());
    attached
}

fn network(wanted: &AttachWanted, addresses: &Addresses) -> NetworkWanted {
    NetworkWanted {
        container: wanted.container.clone(),
        handle: wanted.handle.clone(),
        sandbox: wanted.sandbox.clone(),
        addresses: addresses.clone(),
        ports_in: wanted.ports_in.clone(),
        rules_out: Vec::new(),
        bandwidth_rate: wanted.bandwidth_rate,
        bandwidth_burst: wanted.bandwidth_burst,
    }
}

async fn ensure(node: &CniNode, wanted: &NetworkWanted) -> Result<(), NodeError> {
    node.ensure(&|| Some(wanted.clone())).await
}

async fn networked(node: &CniNode, wanted: &AttachWanted) -> NetworkWanted {
    let network = network(wanted, &attach(node, wanted).await.unwrap());
    ensure(node, &network).await.unwrap();
    network
}

fn ipam() -> Value {
    json!({ "type": "host-local", "dataDir": "LEASES", "ranges": [[{ "subnet": "10.90.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] })
}

fn ptp() -> Value {
    json!({ "type": "ptp", "ipMasq": true, "ipam": ipam() })
}

fn bridge() -> Value {
    json!({ "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipam": ipam() })
}

fn portmap() -> Value {
    json!({ "type": "portmap", "capabilities": { "portMappings": true } })
}

fn shaper() -> Value {
    json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } })
}

fn to(address: Ipv4Addr) -> RuleOut {
    let networks = vec![(address.into(), address.into())];
    RuleOut { protocol: RuleProtocol::Tcp, networks, ports: vec![(80, 80)], ..RuleOut::default() }
}

fn port(host_port: u16, container_port: u16) -> PortIn {
    PortIn { host_port, container_port }
}

#[tokio::test]
async fn a_chain_of_ptp_portmap_and_bandwidth_is_all_that_garden_asks_for() {
    if !alone("a_chain_of_ptp_portmap_and_bandwidth_is_all_that_garden_asks_for") {
        return;
    }
    let outside = outside();
    tcp(&outside, OUTSIDE, 80);
    tcp(&outside, ELSEWHERE, 80);
    let machine = Machine::new(&json!([ptp(), portmap(), shaper()]));
    let denied = |options: &mut cni::Options| options.policy.deny_by_default = true;
    let node = machine.start(denied).await;
    let (inside, mut wanted) = machine.place("c");
    wanted.ports_in.push(port(8080, 80));
    (wanted.bandwidth_rate, wanted.bandwidth_burst) = (4 << 20, 1 << 20);
    let mut network = networked(&node, &wanted).await;
    assert_eq!(attach(&node, &wanted).await.unwrap(), network.addresses, "it keeps what it has");
    assert_eq!(network.addresses.subnet.to_string(), "10.90.0.0/24");
    assert!(inside.said("ip -o addr show eth0").contains(&network.addresses.address.to_string()));
    assert!(inside.run(|| answer(SocketAddr::new(OUTSIDE.into(), 80), SHORT)).is_err());
    network.rules_out.push(to(OUTSIDE));
    ensure(&node, &network).await.unwrap();
    assert_eq!(dial(&inside, OUTSIDE, 80), NODE.to_string());
    no_way(&inside, ELSEWHERE, 80);
    let (rate, burst) = node.bandwidth(&wanted.sandbox).await.unwrap();
    assert_eq!(rate, 4 << 20);
    assert!(burst.abs_diff(1 << 20) < 1 << 12, "{burst}");

    serve(&inside, network.addresses.address, 80, "inside");
    assert_eq!(dial(&outside, NODE, 8080), "inside");
    network.ports_in.push(port(8081, 80));
    ensure(&node, &network).await.unwrap();
    for leads in [8080, 8081] {
        assert_eq!(dial(&outside, NODE, leads), "inside");
        assert_eq!(answer(SocketAddr::new(NODE.into(), leads), PATIENCE).unwrap(), "inside");
    }

    // Another gardend, and others that flush our table.
    drop(node);
    let node = machine.open(denied);
    node.restore(&|| vec![network.clone()]).await.unwrap();
    let tables = said("nft", "list tables");
    let ours = tables.lines().find(|line| line.contains("gardend_cni_")).unwrap();
    said("nft", &format!("delete {ours}"));
    assert!(!said("nft", "list tables").contains("gardend_cni_"));
    node.restore(&|| vec![network.clone()]).await.unwrap();
    assert_eq!(dial(&inside, OUTSIDE, 80), NODE.to_string());
    no_way(&inside, ELSEWHERE, 80);
    assert_eq!(dial(&outside, NODE, 8081), "inside");
    assert_eq!(attach(&node, &wanted).await.unwrap(), network.addresses);

    // Its place dies first, as at a destroy.
    drop(inside);
    for _ in 0..2 {
        node.release(&wanted.container).await.unwrap();
    }
    machine.assert_clean();
    let error = ensure(&node, &network).await.unwrap_err();
    assert!(error.message.contains("attached to no network"), "{error}");
    assert_eq!(node.bandwidth(&wanted.sandbox).await.unwrap_err().kind, NodeErrorKind::NotFound);
}

#[tokio::test]
async fn what_a_bridge_does_not_do_is_done_beside_it() {
    if !alone("what_a_bridge_does_not_do_is_done_beside_it") {
        return;
    }
    let outside = outside();
    tcp(&outside, OUTSIDE, 80);
    let machine = Machine::new(&json!([bridge()]));
    let node = machine.start(|_| ()).await;
    let (first, mut one) = machine.place("one");
    one.ports_in.push(port(8080, 80));
    (one.bandwidth_rate, one.bandwidth_burst) = (4 << 20, 1 << 20);
    let (second, two) = machine.place("two");
    let (one_network, two_network) = (networked(&node, &one).await, networked(&node, &two).await);
    assert_eq!(node.bandwidth(&one.sandbox).await.unwrap().0, 4 << 20);
    assert!(first.said("tc qdisc show dev eth0").contains("tbf"));
    assert_eq!(node.bandwidth(&two.sandbox).await.unwrap(), (0, 0));
    serve(&first, one_network.addresses.address, 80, "one");
    assert_eq!(dial(&outside, NODE, 8080), "one");
    assert_eq!(dial(&second, NODE, 8080), "one");
    assert_eq!(dial(&second, one_network.addresses.address, 80), "one", "they are on one bridge");
    assert_eq!(dial(&first, OUTSIDE, 80), NODE.to_string());
    let listener = std::net::TcpListener::bind((NODE, 81)).unwrap();
    no_way(&first, NODE, 81);
    drop(listener);

    // One goes; the other stays.
    node.restore(&|| vec![two_network.clone()]).await.unwrap();
    no_way(&outside, NODE, 8080);
    assert_eq!(dial(&second, OUTSIDE, 80), NODE.to_string());
    node.release(&two.container).await.unwrap();
    ip("link del cni0");
    machine.assert_clean();
}

#[tokio::test]
async fn each_plugin_is_called_as_the_specification_has_it() {
    if !alone("each_plugin_is_called_as_the_specification_has_it") {
        return;
    }
    let result = r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"10.90.0.7/24","gateway":"10.90.0.1","interface":0}],"dns":{"nameservers":["192.0.2.53"]}}"#;
    let capable = json!({ "portMappings": true, "bandwidth": true, "ips": true, "mac": true, "dns": true, "aliases": true, "cgroupPath": true, "else": true });
    let machine = Machine::new(&json!([]));
    machine.configure(
        "1.1.0",
        &json!([
            { "type": "one", "own": { "a": 1 }, "capabilities": { "ips": true, "bandwidth": false } },
            { "type": "two", "capabilities": capable }
        ]),
    );
    machine.plugin("one", &format!("[ $CNI_COMMAND = ADD ] && echo '{result}'; exit 0"));
    machine.plugin("two", &format!("[ $CNI_COMMAND = ADD ] && echo '{result}'; exit 0"));
    let node = machine.start(|options| options.dns_servers = vec!["192.0.2.1".parse().unwrap()]).await;
    let (_inside, mut wanted) = machine.place("a handle");
    wanted.asked = Asked::parse(Some("10.90.0.7/24")).unwrap();
    wanted.ports_in.push(port(80, 8080));
    wanted.bandwidth_rate = 1_000_000;
    // The result names no interface of the node's; bandwidth and ports are the second plugin's.
    let mut network = networked(&node, &wanted).await;
    network.ports_in.push(port(81, 8081));
    ensure(&node, &network).await.unwrap();
    network.rules_out.push(RuleOut::default());
    let refused = ensure(&node, &network).await.unwrap_err();
    assert_eq!(refused.kind, NodeErrorKind::Invalid);
    assert!(refused.message.contains("names no interface of the node's"), "{refused}");
    network.rules_out.clear();
    let resolver = Resolver { plugins: Some(machine.folders.clone()), ..Resolver::default() };
    assert_eq!(resolver.resolv_conf(Some(&network)), "nameserver 192.0.2.53\n");
    // The next gardend asks whether all is as it was made.
    drop(node);
    let node = machine.open(|_| ());
    node.restore(&|| vec![network.clone()]).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while machine.called().last().is_none_or(|call| call != "CHECK two") {
        assert!(Instant::now() < deadline, "{:?}", machine.called());
        tokio::task::yield_now().await;
    }
    // Whoever changes the configuration changes nothing for those that are attached.
    machine.configure("1.1.0", &json!([{ "type": "three" }]));
    node.release(&wanted.container).await.unwrap();
    machine.assert_clean();

    let calls = machine.calls();
    let order = ["ADD one", "ADD two", "DEL two", "ADD two", "CHECK one", "CHECK two", "DEL two", "DEL one"];
    assert_eq!(calls.iter().map(|(call, ..)| call.as_str()).collect::<Vec<_>>(), order);
    let bin = machine.path("bin");
    for (call, environment, _) in &calls {
        let netns = machine.path("run/cni/netns").join(wanted.sandbox.as_str());
        let mut expected = vec![
            format!("CNI_ARGS=IgnoreUnknown=1;GARDEN_HANDLE=a handle;GARDEND_UID={}", wanted.container),
            format!("CNI_COMMAND={}", call.split(' ').next().unwrap()),
            format!("CNI_CONTAINERID={}", wanted.sandbox),
            "CNI_IFNAME=eth0".to_owned(),
            format!("CNI_NETNS={}", netns.display()),
            format!("CNI_PATH={}:/opt/cni/bin:/usr/lib/cni", bin.display()),
            format!("PATH={}", std::env::var("PATH").unwrap()),
        ];
        expected.sort();
        assert_eq!(*environment, expected, "{call}");
    }
    let result: Value = serde_json::from_str(result).unwrap();
    let first = |previous: Option<&Value>| {
        let mut stdin = json!({ "name": "test", "cniVersion": "1.1.0", "type": "one", "own": { "a": 1 }, "runtimeConfig": { "ips": ["10.90.0.7/24"] } });
        if let Some(previous) = previous {
            stdin["prevResult"] = previous.clone();
        }
        stdin
    };
    assert_eq!(calls[0].2, first(None));
    for same in [4, 7] {
        assert_eq!(calls[same].2, first(Some(&result)), "{}", calls[same].0);
    }
    let told = &calls[1].2["runtimeConfig"];
    let mapping = |host: u16, inside: u16| {
        ["tcp", "udp"].map(|protocol| json!({ "hostPort": host, "containerPort": inside, "protocol": protocol }))
    };
    assert_eq!(told["portMappings"], json!(mapping(80, 8080)));
    assert_eq!(told["ips"], json!(["10.90.0.7/24"]));
    assert_eq!(
        told["bandwidth"],
        json!({ "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000 })
    );
    assert_eq!(told["dns"], json!({ "servers": ["192.0.2.1"], "searches": [], "options": [] }));
    assert_eq!(told["aliases"], json!(["a handle"]));
    assert!(
        told["mac"].as_str().unwrap().starts_with("0a:67:") && told["cgroupPath"].as_str().unwrap().starts_with('/')
    );
    assert_eq!(told.as_object().unwrap().len(), 7, "{told}");
    assert_eq!(calls[1].2["prevResult"], result);
    assert_eq!(calls[2].2["runtimeConfig"]["portMappings"], json!(mapping(80, 8080)), "they go as they came");
    let both: Vec<Value> = mapping(80, 8080).into_iter().chain(mapping(81, 8081)).collect();
    for later in [3, 5, 6] {
        assert_eq!(calls[later].2["runtimeConfig"]["portMappings"], json!(both), "{}", calls[later].0);
        assert_eq!(calls[later].2["prevResult"], result);
    }
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_and_undone() {
    if !alone("what_cannot_be_kept_is_refused_and_undone") {
        return;
    }
    let _outside = outside();
    let machine = Machine::new(&json!([{ "type": "dummy" }]));
    let result =
        r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"10.90.0.7/24"}]}"#;
    machine.plugin("dummy", &format!("[ $CNI_COMMAND = ADD ] && echo '{result}'; exit 0"));
    let closed = machine.start(|options| options.policy.deny_by_default = true).await;
    let open = machine.start(|_| ()).await;
    let asked = |network| Asked::parse(Some(network)).unwrap();
    let (_inside, plain) = machine.place("c");
    for (node, wanted, words) in [
        (&closed, plain.clone(), "--deny-by-default"),
        (&open, AttachWanted { bandwidth_rate: 1000, ..plain.clone() }, "capability bandwidth"),
        (&open, AttachWanted { asked: asked("10.90.0.7/24"), ..plain.clone() }, "capability ips"),
        (&open, AttachWanted { asked: asked("10.90.0.0/24"), ..plain.clone() }, "capability ipRanges"),
    ] {
        let error = attach(node, &wanted).await.unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Invalid, "{error}");
        assert!(error.message.contains(words), "{error}");
        machine.assert_clean();
    }
    let mut wanted = network(&plain, &attach(&open, &plain).await.unwrap());
    ensure(&open, &wanted).await.unwrap();
    wanted.ports_in.push(port(80, 80));
    let error = ensure(&open, &wanted).await.unwrap_err();
    assert!(error.kind == NodeErrorKind::Invalid && error.message.contains("a port in cannot be kept"), "{error}");
    open.release(&plain.container).await.unwrap();
    machine.assert_clean();
}

#[tokio::test]
async fn a_plugin_that_fails_is_named_with_what_it_said_and_undone() {
    if !alone("a_plugin_that_fails_is_named_with_what_it_said_and_undone") {
        return;
    }
    let _outside = outside();
    let machine = Machine::new(&json!([ptp(), { "type": "late" }]));
    let node = machine.start(|options| options.deadline = Duration::from_secs(2)).await;
    let (inside, wanted) = machine.place("c");
    let error = attach(&node, &wanted).await.unwrap_err().to_string();
    assert!(
        error.contains("plugin late: VERSION: there is no such program in") && error.contains("--cni-bin-dir"),
        "{error}"
    );
    let add = |rest: &str| format!("[ $CNI_COMMAND = ADD ] || exit 0; {rest}");
    for (rest, words) in [
        (
            r#"echo '{"cniVersion":"1.0.0","code":107,"msg":"no room","details":"for this one"}'; exit 1"#,
            "plugin late: ADD: no room (code 107): for this one",
        ),
        ("echo nonsense; exit 0", "plugin late: ADD: its answer is no JSON as CNI has it"),
        ("echo oops >&2; exit 3", "plugin late: ADD: it ended with status 3: oops"),
        ("exit 4", "it ended with status 4, without a word"),
        ("head -c 2000000 /dev/zero", "its answer is longer than"),
        ("sleep 1000 & echo $! >$CNI_PATH_FILE; wait", "plugin late: ADD: it was not done within 2 s, and was killed"),
    ] {
        let rest = rest.replace("$CNI_PATH_FILE", machine.path("sleeper").to_str().unwrap());
        machine.plugin("late", &add(&rest));
        let error = attach(&node, &wanted).await.unwrap_err().to_string();
        assert!(error.contains(words), "{rest}: {error}");
        machine.assert_clean();
        assert!(inside.said("ip -o link show eth0").is_empty(), "the first plugin's link is gone");
    }
    let sleeper = std::fs::read_to_string(machine.path("sleeper")).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let runs = || {
        std::fs::read_to_string(format!("/proc/{}/cmdline", sleeper.trim())).is_ok_and(|line| line.contains("sleep"))
    };
    while runs() {
        assert!(Instant::now() < deadline, "what it started was killed with it");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_plugin_that_does_not_let_go_is_asked_again() {
    if !alone("a_plugin_that_does_not_let_go_is_asked_again") {
        return;
    }
    let _outside = outside();
    let machine = Machine::new(&json!([ptp(), { "type": "holds" }]));
    let result = "p=$(cat CALLS/*.ADD.holds | tail -1); echo \"$p\" | jq .prevResult"
        .replace("CALLS", machine.path("calls").to_str().unwrap());
    let let_go = machine.path("let-go");
    let rest = format!(
        "if [ $CNI_COMMAND = ADD ]; then {result}; exit 0; fi; [ -e {} ] || {{ echo '{{\"code\":11,\"msg\":\"later\"}}'; exit 1; }}",
        let_go.display()
    );
    machine.plugin("holds", &rest);
    let node = machine.start(|_| ()).await;
    let (inside, wanted) = machine.place("c");
    networked(&node, &wanted).await;
    drop(inside);
    let error = node.release(&wanted.container).await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Stuck);
    assert!(error.message.contains("plugin holds: DEL: later (code 11)"), "{error}");
    let error = node.restore(&Vec::new).await.unwrap_err();
    assert!(error.message.contains("plugin holds"), "{error}");
    std::fs::write(&let_go, "").unwrap();
    node.restore(&Vec::new).await.unwrap();
    machine.assert_clean();
}

#[tokio::test]
async fn after_a_reboot_leases_are_given_back_without_the_namespace() {
    if !alone("after_a_reboot_leases_are_given_back_without_the_namespace") {
        return;
    }
    let _outside = outside();
    let machine = Machine::new(&json!([{ "type": "seen" }, { "type": "next" }]));
    machine.plugin(
        "seen",
        "exec /usr/lib/cni/host-local <CALLS/$n.$CNI_COMMAND.seen"
            .replace("CALLS", machine.path("calls").to_str().unwrap())
            .as_str(),
    );
    machine.plugin(
        "next",
        "[ $CNI_COMMAND = ADD ] && jq .prevResult <CALLS/$n.ADD.next; exit 0"
            .replace("CALLS", machine.path("calls").to_str().unwrap())
            .as_str(),
    );
    machine.configure("1.0.0", &json!([{ "type": "seen", "ipam": ipam() }, { "type": "next" }]));
    let node = machine.start(|_| ()).await;
    let (inside, wanted) = machine.place("c");
    networked(&node, &wanted).await;
    drop((inside, node));
    // What a reboot leaves: no mounts, no run folder.
    let netns = machine.path("run/cni/netns").join(wanted.sandbox.as_str());
    assert!(Command::new("umount").arg(netns).status().unwrap().success());
    std::fs::remove_dir_all(machine.path("run/cni")).unwrap();
    machine.start(|_| ()).await;
    machine.assert_clean();
    let calls = machine.calls();
    let (call, environment, stdin) = calls.iter().rev().nth(1).unwrap();
    assert_eq!(call, "DEL next");
    assert!(environment.contains(&"CNI_NETNS=".to_owned()), "{environment:?}");
    assert_eq!(stdin["prevResult"]["ips"][0]["address"], "10.90.0.2/24");
}

#[tokio::test]
async fn a_gardend_that_is_killed_while_plugins_work_leaves_nothing_behind() {
    const TEST: &str = "a_gardend_that_is_killed_while_plugins_work_leaves_nothing_behind";
    if !alone(TEST) {
        return;
    }
    if let Some(folder) = std::env::var_os("GARDEND_TEST_KILLED") {
        // The gardend that will be killed.
        let at = |name: &str| Path::new(&folder).join(name);
        let options = cni::Options {
            conf_dir: at("conf"),
            bin_dirs: vec![at("bin"), "/usr/lib/cni".into()],
            network: None,
            collects: false,
            policy: Policy::default(),
            dns_servers: Vec::new(),
            deadline: PATIENCE,
            undo_deadline: PATIENCE,
            restores: Default::default(),
        };
        let node = CniNode::open(Folders::new(at("state"), at("run")), options).unwrap();
        let [container, sandbox] = ["container", "sandbox"].map(|name| std::fs::read_to_string(at(name)).unwrap());
        let wanted = AttachWanted {
            container: serde_json::from_value(json!(container)).unwrap(),
            handle: Handle::new("c").unwrap(),
            sandbox: serde_json::from_value(json!(sandbox)).unwrap(),
            asked: Asked::OfThePool,
            ports_in: vec![port(8080, 80)],
            bandwidth_rate: 0,
            bandwidth_burst: 0,
        };
        let _ = attach(&node, &wanted).await;
        return;
    }
    let _outside = outside();
    let machine = Machine::new(&json!([ptp(), portmap(), { "type": "works" }]));
    let working = machine.path("working");
    // It would go on, and make more, if it were not ended.
    machine.plugin(
        "works",
        &format!("[ $CNI_COMMAND = ADD ] || exit 0; echo $$ >{0}.new; mv {0}.new {0}; sleep 1000", working.display()),
    );
    let (_inside, wanted) = machine.place("c");
    std::fs::write(machine.path("container"), wanted.container.to_string()).unwrap();
    std::fs::write(machine.path("sandbox"), wanted.sandbox.to_string()).unwrap();
    let mut killed = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST])
        .env("GARDEND_TEST_KILLED", machine.folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !working.exists() {
        assert!(Instant::now() < deadline, "the plugin is not called");
        assert!(killed.try_wait().unwrap().is_none(), "it ended before it could be killed");
        std::thread::yield_now();
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let plugin = std::fs::read_to_string(&working).unwrap();
    assert!(Path::new("/proc").join(plugin.trim()).exists(), "the plugin goes on without its gardend");
    assert!(said("iptables", "-t nat -S").contains("CNI-DN-"));
    machine.start(|_| ()).await;
    machine.assert_clean();
    let stat = std::fs::read_to_string(Path::new("/proc").join(plugin.trim()).join("stat"));
    assert!(stat.is_err() || stat.unwrap().contains(") Z "), "it is ended");
}

#[tokio::test]
async fn plugins_collect_only_where_the_network_is_gardends_alone() {
    if !alone("plugins_collect_only_where_the_network_is_gardends_alone") {
        return;
    }
    let _outside = outside();
    let machine = Machine::new(&json!([]));
    let result = r#"{"cniVersion":"1.1.0","ips":[{"address":"10.90.0.7/24"}]}"#;
    machine.configure("1.1.0", &json!([{ "type": "one" }]));
    machine.plugin("one", &format!("[ $CNI_COMMAND = ADD ] && echo '{result}'; exit 0"));
    let node = machine.start(|_| ()).await;
    let (_inside, wanted) = machine.place("c");
    let network = networked(&node, &wanted).await;
    drop(node);
    let node = machine.open(|options| options.collects = true);
    node.restore(&|| vec![network.clone()]).await.unwrap();
    let calls = machine.calls();
    let collected: Vec<_> = calls.iter().filter(|(call, ..)| call == "GC one").collect();
    let [(_, environment, stdin)] = collected.as_slice() else { panic!("{:?}", machine.called()) };
    assert!(
        environment.iter().all(|line| ["CNI_COMMAND=", "CNI_PATH=", "PATH="].iter().any(|own| line.starts_with(own))),
        "{environment:?}"
    );
    let valid = json!([{ "containerID": wanted.sandbox.to_string(), "ifname": "eth0" }]);
    assert_eq!(
        *stdin,
        json!({ "name": "test", "cniVersion": "1.1.0", "type": "one", "cni.dev/valid-attachments": valid })
    );
}
