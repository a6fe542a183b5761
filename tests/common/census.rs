//! Counts everything that a gardend keeps on the machine, and complains about what has no partner.

use super::server::Server;
use rusqlite::Connection;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A process of the machine.
pub struct Process {
    pub pid: i32,
    pub name: String,
    pub command: String,
    pub cgroups: String,
}

/// All that run; no zombies.
pub fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc is there");
    entries.filter_map(|entry| process(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect()
}

fn process(pid: i32) -> Option<Process> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let stat = read("stat")?;
    if stat[stat.rfind(')')? + 1..].trim_start().starts_with('Z') {
        return None;
    }
    Some(Process {
        pid,
        name: read("comm")?.trim_end().to_owned(),
        command: read("cmdline")?.replace('\0', " "),
        cgroups: read("cgroup")?,
    })
}

/// What a gardend has on the machine. Each set holds the names by which its kind is known.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Folders of places.
    pub places: BTreeSet<String>,
    /// Places whose init runs.
    pub inits: BTreeSet<String>,
    /// Shims that run.
    pub shims: usize,
    /// Places that have a cgroup.
    pub cgroups: BTreeSet<String>,
    /// Mount points of the host below our folders.
    pub mounts: BTreeSet<String>,
    /// containerd's containers and tasks, in our namespace.
    pub containers: BTreeSet<String>,
    pub tasks: BTreeSet<String>,
    /// Leases and snapshots, in our namespace.
    pub leases: BTreeSet<String>,
    pub snapshots: BTreeSet<String>,
    /// Spools and writable layers.
    pub spools: BTreeSet<String>,
    pub layers: BTreeSet<String>,
    /// Places whose link the node has the other end of, as far as a link's name tells them.
    pub links: BTreeSet<String>,
    /// Addresses of containers in the packet filter.
    pub addresses: BTreeSet<String>,
    /// Containers that have a chain of rules of their own there.
    pub chains: BTreeSet<String>,
    /// Elements of its maps of ports in.
    pub ports: usize,
    /// Rows of the ledger.
    pub rows: Rows,
}

/// What the ledger says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Handles of containers, wanted or not.
    pub containers: BTreeSet<String>,
    /// Those that are wanted and whose create was answered.
    pub answered: BTreeSet<String>,
    pub processes: BTreeSet<String>,
    pub places: BTreeSet<String>,
}

impl Census {
    pub fn of(server: &Server) -> Self {
        let owner = owner(server);
        let mark = format!("/gardend/{owner}/");
        let run = format!("{}/", server.run().display());
        let all = processes();
        let place_of = |process: &Process| {
            process.cgroups.lines().find_map(|line| Some(line.split_once(&mark)?.1.split('/').next()?.to_owned()))
        };
        let ctr = |arguments: &[&str]| ctr(server, arguments);
        let filter = Filter::of(&owner);
        Self {
            places: names(&server.run().join("places")),
            inits: all.iter().filter(|process| process.name == "garden-init").filter_map(place_of).collect(),
            shims: all
                .iter()
                .filter(|process| process.name.starts_with("containerd-shim") && process.command.contains(&run))
                .count(),
            cgroups: hierarchies().iter().flat_map(|top| names(&top.join("gardend").join(&owner))).collect(),
            mounts: mounts_below(&server.state()).union(&mounts_below(&server.run())).cloned().collect(),
            containers: ctr(&["containers", "ls", "-q"]),
            tasks: ctr(&["tasks", "ls", "-q"]),
            leases: ctr(&["leases", "ls", "-q"]),
            snapshots: ctr(&["snapshots", "ls"]),
            spools: names(&server.run().join("spool")),
            layers: names(&server.state().join("layers")),
            links: links(&owner),
            addresses: filter.addresses,
            chains: filter.chains,
            ports: filter.ports,
            rows: Rows::of(&server.ledger()),
        }
    }

    /// What does not belong together, where `live` is the number of containers that there should be
    /// and `blank` how many places may be kept ready beside them.
    pub fn complaints(&self, live: usize, blank: usize) -> Vec<String> {
        let mut found = Vec::new();
        let mut same = |what: &str, these: &BTreeSet<String>| {
            let more: Vec<_> = these.difference(&self.places).collect();
            let less: Vec<_> = self.places.difference(these).collect();
            if !more.is_empty() {
                found.push(format!("{what} without a place's folder: {more:?}"));
            }
            if !less.is_empty() {
                found.push(format!("places' folders without {what}: {less:?}"));
            }
        };
        same("running inits", &self.inits);
        same("cgroups", &self.cgroups);
        same("containerd containers", &self.containers);
        same("containerd tasks", &self.tasks);
        same("rows", &self.rows.places);
        if self.places.len() < live || self.places.len() > live + blank {
            found.push(format!("{} places for {live} containers and at most {blank} blank ones", self.places.len()));
        }
        if self.rows.containers.len() != live {
            found.push(format!("{live} containers, and rows of {:?}", self.rows.containers));
        }
        if self.shims > self.places.len() {
            found.push(format!("{} shims for {} places", self.shims, self.places.len()));
        }
        let networks = if has_networks() { live } else { 0 };
        for (what, count) in [("links", self.links.len()), ("addresses let through", self.addresses.len())] {
            if count != networks {
                found.push(format!("{count} {what} for {networks} networks"));
            }
        }
        let strange: Vec<_> =
            self.links.iter().filter(|link| !self.places.iter().any(|id| id.starts_with(*link))).collect();
        if !strange.is_empty() {
            found.push(format!("links without a place's folder: {strange:?}"));
        }
        if live == 0 && (self.ports > 0 || !self.chains.is_empty()) {
            found.push(format!("{} ports in and chains of rules of nobody: {:?}", self.ports, self.chains));
        }
        for point in &self.mounts {
            if !self.places.iter().any(|place| point.contains(place.as_str())) {
                found.push(format!("mount {point}"));
            }
        }
        for (what, names) in [("leases", &self.leases), ("snapshots", &self.snapshots), ("layers", &self.layers)] {
            if !names.is_empty() {
                found.push(format!("{what}: {names:?}"));
            }
        }
        let orphans: Vec<_> = self.spools.difference(&self.rows.processes).collect();
        if !orphans.is_empty() {
            found.push(format!("spools of processes that have no row: {orphans:?}"));
        }
        if live == 0 && !self.rows.processes.is_empty() {
            found.push(format!("rows of processes without a container: {:?}", self.rows.processes));
        }
        found
    }
}

/// Waits until everything has its partner, with so many live containers and at most so many blank places.
pub fn settles(server: &Server, live: usize, blank: usize) {
    let limit = Duration::from_secs(40);
    let end = Instant::now() + limit;
    loop {
        let complaints = Census::of(server).complaints(live, blank);
        if complaints.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "not settled within {limit:?}:\n  {}", complaints.join("\n  "));
        std::thread::sleep(Duration::from_millis(300));
    }
}

impl Rows {
    /// Reads a ledger, which may be in use: gardend lets nobody else open it, so it is a copy that
    /// is read. Taken while it is written to, a copy may be torn: then it is taken again.
    pub fn of(ledger: &Path) -> Self {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match Self::of_copy(ledger) {
                Ok(rows) => return rows,
                Err(error) => assert!(Instant::now() < end, "{}: {error}", ledger.display()),
            }
        }
    }

    fn of_copy(ledger: &Path) -> rusqlite::Result<Self> {
        let copies = tempfile::tempdir().expect("a temporary folder");
        for name in ["ledger.db", "ledger.db-wal"] {
            // No log beside a ledger that was closed well.
            let _ = fs::copy(ledger.with_file_name(name), copies.path().join(name));
        }
        let copy = Connection::open(copies.path().join("ledger.db"))?;
        let column = |query: &str| -> rusqlite::Result<BTreeSet<String>> {
            copy.prepare(query)?.query_map([], |row| row.get(0))?.collect()
        };
        Ok(Self {
            containers: column("SELECT handle FROM containers")?,
            answered: column(
                "SELECT handle FROM containers
                 WHERE json_extract(record, '$.answered') AND json_extract(record, '$.desired') = 'present'",
            )?,
            processes: column("SELECT uid FROM processes")?,
            places: column("SELECT id FROM sandboxes")?,
        })
    }
}

/// How gardend marks what it shares a place with others for (src/node/containerd/labels.rs, `OwnerMark`).
fn owner(server: &Server) -> String {
    let path = |folder: PathBuf| folder.canonicalize().expect("the folder is there").display().to_string();
    let hash = Sha256::digest(format!("{}\0{}", path(server.state()), path(server.run())));
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether containers have networks here.
fn has_networks() -> bool {
    std::env::var("GARDEND_NETWORK").map_or(true, |kind| kind != "none")
}

/// A program's output as JSON; nothing where it fails.
fn told(program: &str, arguments: &[&str]) -> Value {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn list(of: &Value) -> &[Value] {
    of.as_array().map_or(&[], Vec::as_slice)
}

/// Of the links of one owner, what their names say of their places (src/node/network/names.rs).
fn links(owner: &str) -> BTreeSet<String> {
    if !has_networks() {
        return BTreeSet::new();
    }
    let prefix = format!("gd{}", &owner[..4]);
    let all = told("ip", &["-j", "link", "show"]);
    let names = list(&all).iter().filter_map(|link| link["ifname"].as_str()?.strip_prefix(&prefix));
    names.map(ToOwned::to_owned).collect()
}

/// What an owner's table of the packet filter holds of containers.
#[derive(Default)]
struct Filter {
    addresses: BTreeSet<String>,
    chains: BTreeSet<String>,
    ports: usize,
}

impl Filter {
    fn of(owner: &str) -> Self {
        let mut found = Self::default();
        if !has_networks() {
            return found;
        }
        let table = told("nft", &["-j", "list", "table", "inet", &format!("gardend_{owner}")]);
        for entry in list(&table["nftables"]) {
            let elements = |kind: &str| list(&entry[kind]["elem"]);
            match entry["set"]["name"].as_str().or(entry["map"]["name"].as_str()) {
                Some("containers4") => {
                    found.addresses.extend(elements("set").iter().filter_map(Value::as_str).map(ToOwned::to_owned));
                }
                Some("ports4" | "ports6") => found.ports += elements("map").len(),
                _ => {}
            }
            if let Some(chain) = entry["chain"]["name"].as_str().and_then(|name| name.strip_prefix("out_")) {
                found.chains.insert(chain.to_owned());
            }
        }
        found
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeSet::new() };
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn mount_table() -> Vec<(String, String)> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc is there");
    let line = |line: &str| {
        let (point, kind) = line.split_once(" - ")?;
        Some((point.split(' ').nth(4)?.to_owned(), kind.split(' ').next()?.to_owned()))
    };
    table.lines().filter_map(line).collect()
}

fn hierarchies() -> BTreeSet<PathBuf> {
    let table = mount_table().into_iter();
    table.filter(|(_, kind)| kind == "cgroup" || kind == "cgroup2").map(|(point, _)| point.into()).collect()
}

/// The mount points of the host below a folder.
pub fn mounts_below(folder: &Path) -> BTreeSet<String> {
    let prefix = format!("{}/", folder.display());
    mount_table().into_iter().map(|(point, _)| point).filter(|point| point.starts_with(&prefix)).collect()
}

/// Names that containerd's own tool prints, one a line.
fn ctr(server: &Server, arguments: &[&str]) -> BTreeSet<String> {
    let beside = std::env::var_os("GARDEND_CONTAINERD_BINARY").map(|path| Path::new(&path).with_file_name("ctr"));
    let program = beside.filter(|path| path.exists()).unwrap_or_else(|| "ctr".into());
    let output = Command::new(program)
        .arg("--address")
        .arg(server.run().join("containerd/containerd.sock"))
        .args(["--namespace", "gardend", "--timeout", "10s"])
        .args(arguments)
        .output()
        .expect("ctr runs");
    assert!(output.status.success(), "ctr {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text.lines().filter_map(|line| line.split_ascii_whitespace().next());
    names.filter(|name| *name != "KEY").map(ToOwned::to_owned).collect()
}
