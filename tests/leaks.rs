//! The leak census and draining, on real parts: what is planted is found by its name, what lives is
//! nobody's leak however it comes and goes, and a gardend that was drained and stopped has left
//! nothing. Needs root.

#[allow(dead_code, reason = "a part of it is used here")]
#[path = "common/census.rs"]
mod census;
mod cli_support;
#[path = "common/rootfs.rs"]
mod rootfs;
#[allow(dead_code, reason = "a part of it is used here")]
#[path = "common/server.rs"]
mod server;
#[allow(dead_code, reason = "a part of it is used here")]
#[path = "common/wire.rs"]
mod wire;

use cli_support::{Said, finished, gardend_at};
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use server::Server;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gardend with a root file system for its containers.
struct Node {
    server: Server,
    rootfs: String,
}

impl Node {
    fn start(arguments: &[&str]) -> Self {
        let server = Server::start(arguments);
        let rootfs = rootfs::unprivileged(&server.scratch().join("rootfs")).to_str().unwrap().to_owned();
        Self { server, rootfs }
    }

    fn said(&self, args: &[&str]) -> Said {
        let mut command = gardend_at(&self.server.garden.address.to_string(), args);
        command.stdin(std::process::Stdio::null());
        let output = command.output().expect("gardend runs");
        output.into()
    }

    fn create(&self, handle: &str, more: &[&str]) {
        let said = self.said(&[&["create", handle, "--rootfs", &self.rootfs], more].concat());
        assert_eq!(said.status, 0, "{said:?}");
    }

    /// `gardend check --leaks`, with the options that it is served with.
    fn check(&self, more: &[&str]) -> Said {
        let served = self.server.command();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gardend"));
        command.args(["check", "--leaks"]).args(served.get_args().skip(1)).args(more);
        for (name, value) in served.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.output().expect("gardend runs").into()
    }

    fn all(&self) -> Census {
        let said = self.check(&["--all", "--json"]);
        Census { status: said.status, found: serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}")) }
    }

    fn assert_clean(&self) -> Census {
        let all = self.all();
        assert_eq!((all.status, all.leaks()), (0, BTreeSet::new()), "{}", all.found["unseen"]);
        all
    }
}

/// What `gardend check --leaks --all --json` said.
struct Census {
    status: i32,
    found: Value,
}

impl Census {
    /// Kind and name of everything of which this is true.
    fn names(&self, is: impl Fn(&Value) -> bool) -> BTreeSet<(String, String)> {
        let things = self.found["things"].as_array().expect("a list").iter().filter(|thing| is(thing));
        let text = |thing: &Value, key: &str| thing[key].as_str().expect("a text").to_owned();
        things.map(|thing| (text(thing, "kind"), text(thing, "name"))).collect()
    }

    fn leaks(&self) -> BTreeSet<(String, String)> {
        self.names(|thing| thing["owner"] == "nobody")
    }

    fn of(&self, handle: &str) -> BTreeSet<(String, String)> {
        self.names(|thing| thing["handle"] == handle)
    }

    fn kinds(of: &BTreeSet<(String, String)>) -> BTreeSet<&str> {
        of.iter().map(|(kind, _)| kind.as_str()).collect()
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn ctr(server: &Server, namespace: &str, args: &[&str]) -> String {
    let beside = std::env::var_os("GARDEND_CONTAINERD_BINARY").map(|path| Path::new(&path).with_file_name("ctr"));
    let program = beside.filter(|path| path.exists()).unwrap_or_else(|| "ctr".into());
    let socket = server.run().join("containerd/containerd.sock");
    let own = ["--address", socket.to_str().unwrap(), "--namespace", namespace];
    run(program.to_str().unwrap(), &[&own[..], args].concat())
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A folder of a memory or v2 hierarchy, whichever is there.
fn hierarchy() -> PathBuf {
    let candidates = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    candidates.into_iter().find(|folder| folder.join("gardend").is_dir()).expect("a hierarchy with our groups")
}

fn has_network() -> bool {
    std::env::var("GARDEND_NETWORK").map_or(true, |kind| kind != "none")
}

#[test]
fn what_lives_is_no_leak_and_says_whose_it_is() {
    let node = Node::start(&["--pool-size", "2"]);
    node.create("one", &[]);
    assert_eq!(node.said(&["run", "-d", "one", "--", "sleep", "1000"]).status, 0);
    let all = node.assert_clean();
    let own = all.of("one");
    let mut kinds = vec!["container", "task", "init", "network namespace", "cgroup", "socket", "file", "row"];
    if has_network() {
        kinds.extend(["link", "address", "route", "element"]);
    }
    for kind in kinds {
        assert!(Census::kinds(&own).contains(kind), "{kind}: {own:?}");
    }
    let of_gardend = all.names(|thing| thing["owner"] == "gardend");
    assert!(!has_network() || Census::kinds(&of_gardend).is_superset(&["table", "routing rule"].into()));
    eventually("the pool has places of its own", || {
        !node.all().names(|thing| thing["owner"] == "pool" && thing["kind"] == "container").is_empty()
    });
    let table = node.check(&["--all"]);
    assert!(table.stdout.starts_with("KIND") && table.stdout.contains("container one ("), "{table:?}");
    assert_eq!(node.check(&[]).stdout, "", "without --all, nothing is shown where nothing is a leak");
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| {
            for n in 0..25 {
                let handle = format!("churn-{n}");
                node.create(&handle, &[]);
                assert_eq!(node.said(&["run", &handle, "--", "true"]).status, 0);
                assert_eq!(node.said(&["rm", &handle]).status, 0);
            }
        });
        while !churn.is_finished() {
            node.assert_clean();
        }
        churn.join().unwrap();
    });
    drained_and_stopped(node);
}

/// Drains a node with all that there is, stops it, and sees that nothing is left of it.
fn drained_and_stopped(mut node: Node) {
    let before = node.all();
    let said = node.said(&["drain", "--destroy", "--timeout", "1m"]);
    assert_eq!(said.status, 0, "{said:?}");
    assert!(said.stderr.contains("the node is drained"), "{said:?}");
    let after = node.assert_clean();
    assert_eq!(after.names(|thing| thing["owner"] != "gardend"), BTreeSet::new());
    let refused = node.said(&["create", "late", "--rootfs", &node.rootfs]);
    assert!(refused.status == 1 && refused.stderr.contains("being drained"), "{refused:?}");
    node.server.terminate();
    let left: BTreeSet<_> = node.assert_clean().names(|thing| thing["kind"] != "file");
    assert_eq!(left, BTreeSet::new(), "of {:?}", before.found["things"]);
    assert!(!node.server.run().exists());
    let names = |folder: &Path| -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let state = names(&node.server.state());
    assert!(state.iter().all(|name| name.starts_with("ledger.db")), "{state:?}");
    assert!(node.server.containerd().is_none(), "its containerd runs");
    // The next one is drained still, and takes containers once that is ended.
    node.server.restart();
    assert_eq!(node.said(&["create", "late", "--rootfs", &node.rootfs]).status, 1);
    assert!(node.said(&["ping"]).stderr.contains("being drained"));
    assert_eq!(node.said(&["drain", "--undo"]).status, 0);
    node.create("late", &[]);
    assert_eq!(node.said(&["drain", "--uninstall"]).status, 0);
    node.server.terminate();
    assert!(!node.server.run().exists() && !node.server.state().exists());
}

#[test]
fn what_is_planted_is_found_by_its_name_and_what_is_others_is_not() {
    let mut node = Node::start(&["--pool-size", "0", "--places-per-shim", "1"]);
    node.create("kept", &[]);
    node.create("lost", &[]);
    assert_eq!(node.said(&["run", "-d", "lost", "--", "sleep", "1000"]).status, 0);
    let before = node.assert_clean();
    let lost: BTreeSet<_> = before.of("lost").into_iter().filter(|(kind, _)| kind != "row").collect();
    node.server.kill();
    let idle = node.assert_clean();
    assert_eq!(idle.of("kept"), before.of("kept"), "a stopped gardend's containers are its own");

    // A container without its records: all that it has is nobody's.
    let ledger = rusqlite::Connection::open(node.server.ledger()).unwrap();
    ledger
        .execute_batch(
            "UPDATE processes SET uid = '00000000000000000000000000000001', container = '00000000000000000000000000000002';
             DELETE FROM sandboxes WHERE container = (SELECT uid FROM containers WHERE handle = 'lost');
             DELETE FROM containers WHERE handle = 'lost';",
        )
        .unwrap();
    drop(ledger);
    let owner = owner_of(&node);
    let mut undo = Undo::default();
    let mut planted: BTreeSet<(String, String)> = lost;
    let mut plant = |kind: &str, name: &str| planted.extend([(kind.to_owned(), name.to_owned())]);
    plant("row", "processes 00000000000000000000000000000001");
    let id = "deadbeefdeadbeefdeadbeefdeadbeef";
    for folder in
        [node.server.run().join("places"), node.server.run().join("spool"), node.server.state().join("layers")]
    {
        fs::create_dir_all(folder.join(id)).unwrap();
        plant("file", folder.join(id).to_str().unwrap());
    }
    let point = node.server.run().join("places").join(id).join("point");
    fs::create_dir(&point).unwrap();
    run("mount", &["-t", "tmpfs", "planted", point.to_str().unwrap()]);
    undo.push(&["umount", point.to_str().unwrap()]);
    plant("mount", point.to_str().unwrap());
    let group = hierarchy().join("gardend").join(&owner).join(id);
    fs::create_dir(&group).unwrap();
    plant("cgroup", group.to_str().unwrap());
    let others_group = hierarchy().join("gardend").join("0123456789abcdef");
    fs::create_dir_all(&others_group).unwrap();
    undo.push(&["rmdir", others_group.to_str().unwrap()]);
    let chain = "ab".repeat(32);
    let lease = format!("gardend-{owner}-use-{chain}");
    ctr(&node.server, "gardend", &["leases", "create", "--id", &lease, &format!("gardend.dev/lease={owner}")]);
    plant("lease", &lease);
    let snapshot = format!("gardend-{owner}-use-{}", "cd".repeat(32));
    ctr(&node.server, "gardend", &["snapshots", "prepare", &snapshot]);
    plant("snapshot", &snapshot);
    let label = |owner: &str| format!("gardend.dev/owner={owner}");
    for (namespace, name, label) in [
        ("gardend", "planted", label(&owner)),
        ("gardend", "others", label("0123456789abcdef")),
        ("other", "planted", label(&owner)),
    ] {
        let rootfs = ["containers", "create", "--label", &label, "--rootfs", &node.rootfs, name, "true"];
        ctr(&node.server, namespace, &rootfs);
    }
    plant("container", "planted");
    ctr(&node.server, "gardend", &["snapshots", "prepare", "others"]);
    if has_network() {
        let link = format!("gd{}deadbeef0", &owner[..4]);
        // Not of gardend's naming.
        let others = format!("gx{}", std::process::id());
        run("ip", &["link", "add", &link, "type", "veth", "peer", "name", &others]);
        undo.push(&["ip", "link", "delete", &others]);
        for end in [&link, &others] {
            run("ip", &["link", "set", end, "up"]);
        }
        run("ip", &["address", "add", "10.250.1.1/32", "dev", &link]);
        run("ip", &["route", "add", "10.250.1.2/32", "dev", &link, "protocol", "103"]);
        for (kind, name) in [("link", link.as_str()), ("address", "10.250.1.1"), ("route", "10.250.1.2")] {
            plant(kind, name);
        }
        let rules = idle.names(|thing| thing["kind"] == "routing rule");
        let first = rules.iter().find_map(|(_, name)| name.split(' ').nth(1)?.parse::<u32>().ok()).unwrap();
        let priority = (first + 1).to_string();
        run("ip", &["rule", "add", "from", "10.250.0.0/16", "priority", &priority, "prohibit"]);
        undo.push(&["ip", "rule", "delete", "from", "10.250.0.0/16", "priority", &priority]);
        plant("routing rule", &format!("ipv4 {priority} from 10.250.0.0/16 Prohibit"));
        let table = format!("gardend_{owner}");
        run("nft", &["add", "element", "inet", &table, "containers4", "{ 10.250.1.2 }"]);
        plant("element", &format!("{table} containers4 10.250.1.2"));
        run("nft", &["add", "chain", "inet", &table, &format!("out_{id}")]);
        plant("chain", &format!("{table} out_{id}"));
    }

    let found = node.all();
    assert_eq!(found.status, 1);
    let leaks = found.leaks();
    // An address that the kernel gives each link by itself goes with it.
    let by_kernel = |(kind, name): &&(String, String)| kind == "address" && name.starts_with("fe80:");
    let more: Vec<_> = leaks.difference(&planted).filter(|leak| !by_kernel(leak)).collect();
    let less: Vec<_> = planted.difference(&leaks).collect();
    assert!(more.is_empty() && less.is_empty(), "also found: {more:#?}\nnot found: {less:#?}");
    assert_eq!(found.of("kept"), before.of("kept"));
    let shown = node.check(&[]);
    assert!(shown.status == 1 && shown.stderr.contains(" leaks"), "{shown:?}");
    assert!(shown.stdout.lines().skip(1).all(|line| line.ends_with("nobody")), "{}", shown.stdout);

    // What gardend cannot know of goes by who planted it.
    drop(undo);
    ctr(&node.server, "gardend", &["containers", "delete", "planted", "others"]);
    ctr(&node.server, "gardend", &["leases", "delete", &lease]);
    ctr(&node.server, "gardend", &["snapshots", "delete", &snapshot, "others"]);
    ctr(&node.server, "other", &["containers", "delete", "planted"]);
    // The rest is swept by the next gardend, but for the row that nobody reads.
    let ledger = rusqlite::Connection::open(node.server.ledger()).unwrap();
    ledger.execute("DELETE FROM processes", []).unwrap();
    drop(ledger);
    node.server.restart();
    eventually("what was planted is swept", || {
        let left = node.all().leaks();
        eprintln!("left: {left:?}");
        left.is_empty()
    });
    assert_eq!(node.said(&["run", "kept", "--", "true"]).status, 0);
    drained_and_stopped(node);
}

/// Commands that undo what was planted where nobody else takes it away, however the test ends. What they
/// would undo may be gone by then.
#[derive(Default)]
struct Undo(Vec<Vec<String>>);

impl Undo {
    fn push(&mut self, command: &[&str]) {
        self.0.push(command.iter().map(ToString::to_string).collect());
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for command in self.0.iter().rev() {
            let _ = Command::new(&command[0]).args(&command[1..]).output();
        }
    }
}

/// As it stands in the names of its cgroups.
fn owner_of(node: &Node) -> String {
    let groups = node.all().names(|thing| thing["kind"] == "cgroup" && thing["owner"] == "gardend");
    let (_, path) = groups.iter().next().expect("a group above all places");
    path.rsplit('/').next().unwrap().to_owned()
}

#[test]
fn a_signal_drains_and_a_wait_ends_with_the_last_container() {
    let mut node = Node::start(&["--pool-size", "1"]);
    node.create("one", &[]);
    kill_process(node.server.pid(), Signal::USR1).unwrap();
    eventually("the node is drained by SIGUSR1", || node.said(&["ping"]).stderr.contains("being drained"));
    let refused = node.said(&["create", "two", "--rootfs", &node.rootfs]);
    assert!(refused.stderr.contains("being drained"), "{refused:?}");
    node.server.kill();
    node.server.restart();
    let in_vain = node.said(&["drain", "--wait", "--timeout", "1s"]);
    assert_eq!(in_vain.status, 1);
    assert!(in_vain.stderr.contains("not drained in time; left are 1 container"), "{in_vain:?}");
    let waiting = gardend_at(&node.server.garden.address.to_string(), &["drain", "--wait"]).spawn().unwrap();
    assert_eq!(node.said(&["run", "one", "--", "true"]).status, 0, "what there is can be used");
    assert_eq!(node.said(&["rm", "one"]).status, 0);
    assert!(waiting.wait_with_output().unwrap().status.success());
    node.server.terminate();
    assert!(node.server.run().exists(), "a drain that destroys nothing leaves gardend where it is");
    node.server.add_arguments(&["--min-free-memory", "1024G"]);
    node.server.restart();
    assert_eq!(node.said(&["drain", "--undo"]).status, 0);
    let refused = node.said(&["create", "three", "--rootfs", &node.rootfs]);
    assert!(refused.stderr.contains("bytes of memory are available; create it on another node"), "{refused:?}");
    assert_eq!(finished(gardend_at("127.0.0.1:1", &["drain"])).status, 1);
}
