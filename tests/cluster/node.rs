//! The node itself: what runs on it, and what a gardend leaves there.

use crate::cluster::Cluster;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A process, told from a later one of the same pid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Running {
    pub pid: u32,
    /// In clock ticks.
    started: String,
    pub command: String,
}

impl Running {
    /// All on the node.
    pub fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").expect("/proc is there");
        entries.filter_map(|entry| Self::of(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect()
    }

    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
        if fields.next()? == "Z" {
            return None;
        }
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        Some(Self { pid, started: fields.nth(18)?.to_owned(), command })
    }

    /// Those with this in their command line, but for gardend's own client and for what they fork.
    pub fn with(mark: &str) -> Vec<Self> {
        let client = env!("CARGO_BIN_EXE_gardend");
        let ours = |one: &Self| one.command.contains(mark) && !one.command.starts_with(client);
        let mut found: Vec<_> = Self::all().into_iter().filter(ours).collect();
        let pids: BTreeSet<_> = found.iter().map(|one| one.pid).collect();
        found.retain(|one| !one.parent().is_some_and(|parent| pids.contains(&parent)));
        found.sort();
        found
    }

    /// Another, once that has ended.
    fn parent(&self) -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        stat[stat.rfind(')')? + 1..].split_whitespace().nth(1)?.parse().ok()
    }

    /// Its control group, in the hierarchy of memory or in the one of v2.
    pub fn cgroup(&self) -> String {
        let table = fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).unwrap_or_default();
        let wanted = |line: &&str| line.contains(":memory:") || line.starts_with("0::");
        table.lines().find(wanted).and_then(|line| line.rsplit(':').next()).unwrap_or_default().to_owned()
    }
}

/// What a gardend makes on a node, wherever it was asked to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    processes: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    rules: BTreeSet<String>,
    of_containerd: BTreeSet<String>,
    folders: BTreeSet<String>,
}

impl Left {
    /// What there is now.
    pub fn on(cluster: &Cluster) -> Self {
        let lines = |text: String| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        let told = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
            lines(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let of_gardend = |found: BTreeSet<String>, mark: &str| -> BTreeSet<String> {
            found.into_iter().filter(|line| line.contains(mark)).collect()
        };
        let is_ours = |one: &Running| {
            let program = fs::read_link(format!("/proc/{}/exe", one.pid)).unwrap_or_default();
            let named = fs::read_to_string(format!("/proc/{}/comm", one.pid)).unwrap_or_default();
            named.trim() == "garden-init"
                || one.cgroup().starts_with("/gardend")
                || program.starts_with("/var/lib/gardend")
                || one.command.contains("-namespace gardend")
        };
        let containerd = ["containers", "tasks", "snapshots", "leases", "images", "content"].map(|kind| {
            let all = lines(cluster.ctr("gardend", &[kind, "ls"]));
            // The first line is the table's head.
            all.into_iter().filter(|line| !line.starts_with(|c: char| c.is_uppercase())).collect::<BTreeSet<_>>()
        });
        Self {
            processes: Running::all().into_iter().filter(is_ours).map(|one| one.command).collect(),
            cgroups: cgroups(),
            mounts: mounts(),
            links: of_gardend(told("ip", &["-o", "link"]), ": gd"),
            rules: of_gardend(told("nft", &["list", "tables"]), "gardend")
                .union(&of_gardend(told("ip", &["rule"]), "fwmark"))
                .cloned()
                .collect(),
            of_containerd: containerd.into_iter().flatten().collect(),
            folders: ["/run/gardend", "/var/lib/gardend"].iter().flat_map(|folder| names(Path::new(folder))).collect(),
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

/// Mount points of the node below gardend's folders.
fn mounts() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| point.contains("/gardend/")).map(str::to_owned).collect()
}

fn cgroups() -> BTreeSet<String> {
    let tops = names(Path::new("/sys/fs/cgroup"));
    let groups =
        tops.iter().map(|top| Path::new(top).join("gardend")).chain([Path::new("/sys/fs/cgroup/gardend").into()]);
    groups.filter(|group| group.is_dir()).map(|group| group.display().to_string()).collect()
}
