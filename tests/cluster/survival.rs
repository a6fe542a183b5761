//! What lives on while gardend, and what it stands on, is exchanged beneath it.

use crate::cluster::{Cluster, NODE, SLEEP, done, eventually, sleeper};
use crate::garden::{self, STATUS, attach, counting, follow, garden, gardend, is_whole, tell_to_end};
use crate::node::{Left, Running};
use crate::release::{NAMESPACE, OTHER_TAG, Release, TAG, restart, start, stop};
use serde_json::Value;
use std::fs;
use std::process::Command;
use std::thread::JoinHandle;

/// A container with one process that somebody follows and one that nobody does, and a pod of somebody else's.
struct Lives<'a> {
    cluster: &'a Cluster,
    handle: &'a str,
    followed: JoinHandle<Vec<u8>>,
    processes: Vec<Running>,
    visitor: Vec<Running>,
}

const FOLLOWED: &str = "mark-followed";
const ALONE: &str = "mark-alone";
const VISITOR: &str = "visitor";

impl<'a> Lives<'a> {
    fn begin(cluster: &'a Cluster, handle: &'a str) -> Self {
        cluster.apply(&sleeper(VISITOR));
        cluster.kubectl(&["wait", "--for=condition=Ready", "pod/visitor", "--timeout=180s"]);
        garden::create(handle);
        counting(handle, "followed", FOLLOWED);
        counting(handle, "alone", ALONE);
        let followed = follow(handle, "followed");
        Self { cluster, handle, followed, processes: Self::processes(), visitor: Running::with(SLEEP) }
    }

    fn processes() -> Vec<Running> {
        [Running::with(FOLLOWED), Running::with(ALONE)].concat()
    }

    /// Everything is what it was.
    fn go_on(&self, through: &str) {
        assert_eq!(Self::processes(), self.processes, "through {through}");
        assert_eq!(Running::with(SLEEP), self.visitor, "through {through}");
        let visitor = self.cluster.get(&["pod", VISITOR]);
        assert_eq!(visitor["status"]["containerStatuses"][0]["restartCount"], 0, "through {through}");
        assert_eq!(garden(&["run", self.handle, "--", "/bin/sh", "-c", "echo well"]), "well\n", "through {through}");
    }

    /// Both processes end as they should, and nothing that they wrote is missing. The pod stays.
    fn end(self) {
        tell_to_end(self.handle, FOLLOWED);
        is_whole(&self.followed.join().expect("it was followed to its end"));
        tell_to_end(self.handle, ALONE);
        let (output, status) = attach(self.handle, "alone");
        assert_eq!(status, Some(STATUS));
        is_whole(&output);
        garden(&["rm", self.handle]);
    }
}

/// The visitor goes.
fn leave(cluster: &Cluster) {
    cluster.kubectl(&["delete", "pod", VISITOR, "--timeout=180s"]);
    eventually("the pod's process has ended", || {
        let found = Running::with(SLEEP);
        found.is_empty().then_some(()).ok_or_else(|| format!("{found:?}"))
    });
}

fn conditions(object: &Value) -> Vec<(&str, &str)> {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter_map(|one| Some((one["type"].as_str()?, one["status"].as_str()?))).collect()
}

#[test]
fn an_upgrade_and_a_rollback_change_gardend_alone_and_an_uninstall_leaves_nothing() {
    let cluster = Cluster::take();
    let before = Left::on(&cluster);
    let release = Release::install(&cluster, &[]);
    assert_eq!(release.pod().image, format!("localhost/gardend:{TAG}"));
    release.test();
    let lives = Lives::begin(&cluster, "upgraded");

    // Seen by kubectl, in gardend's own root by exec, and on the node apart from pods.
    eventually("kubectl shows the container and its node", || {
        let containers = cluster.get(&["gctr", "-n", NAMESPACE]);
        let found =
            containers["items"].as_array().into_iter().flatten().find(|one| one["spec"]["handle"] == "upgraded");
        let ready = found.is_some_and(|one| conditions(one).contains(&("Ready", "True")));
        let nodes = cluster.get(&["gnode"]);
        let node = nodes["items"].as_array().into_iter().flatten().find(|one| one["metadata"]["name"] == NODE);
        let ready = ready && node.is_some_and(|one| conditions(one).contains(&("Ready", "True")));
        ready.then_some(()).ok_or_else(|| format!("{containers}\n{nodes}"))
    });
    assert!(release.exec(&["gardend", "--version"]).starts_with("gardend "));
    assert!(lives.processes.iter().all(|one| one.cgroup().starts_with("/gardend/")), "{:?}", lives.processes);

    let first = release.pod();
    release.upgrade(&[&format!("image.tag={OTHER_TAG}"), "podAnnotations.test=upgrade"]);
    let second = release.pod();
    assert_ne!(first.name, second.name);
    assert_eq!(second.image, format!("localhost/gardend:{OTHER_TAG}"));
    lives.go_on("an upgrade");

    release.rollback();
    assert_eq!(release.pod().image, first.image);
    lives.go_on("a rollback");
    let visitor = lives.visitor.clone();
    lives.end();

    garden::create("left");
    release.uninstall_leaving_nothing(&before);
    assert_eq!(Running::with(SLEEP), visitor);
    leave(&cluster);
}

#[test]
fn processes_live_through_restarts_of_gardends_pod_of_containerd_and_of_kubelet() {
    let cluster = Cluster::take();
    let left = Left::on(&cluster);
    let release = Release::install(&cluster, &[]);
    let lives = Lives::begin(&cluster, "restarted");

    let before = release.pod();
    cluster.kubectl(&["delete", "pod", "-n", NAMESPACE, &before.name, "--wait=true", "--timeout=180s"]);
    assert_ne!(release.pod().name, before.name);
    garden::serves();
    lives.go_on("a deletion of gardend's pod");

    restart("containerd");
    // What needs containerd is refused, or waits, until it is back.
    eventually("containers are made again", || {
        let create =
            gardend(&["create", "after", "--rootfs", &garden::rootfs("after")]).output().expect("gardend runs");
        create.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&create.stderr).into_owned())
    });
    garden(&["rm", "after"]);
    lives.go_on("a restart of containerd");

    let pod = release.pod();
    let renewed = || cluster.get(&["lease", NODE, "-n", "kube-node-lease"])["spec"]["renewTime"].clone();
    stop("kubelet");
    let last = renewed();
    start("kubelet");
    eventually("kubelet looks after the node again", || {
        let node = cluster.get(&["node", NODE]);
        let back = renewed() != last && conditions(&node).contains(&("Ready", "True"));
        back.then_some(()).ok_or_else(|| node["status"].to_string())
    });
    assert_eq!(release.pod(), pod);
    // It tells of the node before it has found the node's pods again.
    eventually("kubelet knows its pods", || {
        let exec = cluster.try_kubectl(&["exec", "-n", NAMESPACE, &pod.name, "--", "gardend", "ping"]);
        exec.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&exec.stderr).into_owned())
    });
    lives.go_on("a restart of kubelet");
    lives.end();
    release.uninstall_leaving_nothing(&left);
    leave(&cluster);
}

#[test]
fn after_a_restart_of_the_machine_containers_are_made_again_and_their_processes_are_lost() {
    let cluster = Cluster::take();
    let left = Left::on(&cluster);
    let release = Release::install(&cluster, &[]);
    garden::create("old");
    counting("old", "counting", "mark-old");
    garden(&["run", "old", "--", "/bin/sh", "-c", "echo kept >/tmp/file"]);

    reboot();
    release.pod();
    garden::serves();
    assert!(Running::with("mark-old").is_empty());
    assert!(garden::handles().contains("old"));
    eventually("the container is made again", || {
        let run = gardend(&["run", "old", "--", "/bin/sh", "-c", "cat /tmp/file"]).output().expect("gardend runs");
        (run.stdout == b"kept\n").then_some(()).ok_or_else(|| String::from_utf8_lossy(&run.stderr).into_owned())
    });
    let (_, status) = attach("old", "counting");
    assert_ne!(status, Some(STATUS), "it did not end by itself");
    eventually("kubectl tells that the process is lost", || {
        let containers = cluster.get(&["gctr", "-n", NAMESPACE]);
        let processes = &containers["items"][0]["status"]["processes"];
        let lost = processes.as_array().into_iter().flatten().find(|one| one["id"] == "counting");
        lost.filter(|one| one["state"] == "Lost").map(drop).ok_or_else(|| containers.to_string())
    });
    release.uninstall_leaving_nothing(&left);
}

/// All that ends with a machine's restart ends: what runs in pods and places, containerd, kubelet, the
/// run folders, cgroups, rules; and the boot that gardend knows is not this one.
fn reboot() {
    stop("kubelet");
    stop("containerd");
    let below = |one: &Running| ["/kubepods", "/gardend"].iter().any(|top| one.cgroup().starts_with(top));
    let of_containers = |one: &Running| below(one) || one.command.contains("containerd-shim");
    eventually("everything has ended", || {
        let running: Vec<_> = Running::all().into_iter().filter(of_containers).collect();
        for one in &running {
            // It may have ended just now.
            let _ = Command::new("kill").args(["-KILL", &one.pid.to_string()]).output();
        }
        if running.is_empty() { Ok(()) } else { Err(format!("{running:?}")) }
    });
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    for point in points.filter(|point| point.starts_with("/run/containerd/") || point.starts_with("/run/gardend/")) {
        done(Command::new("umount").args(["--lazy", point]));
    }
    for folder in ["/run/gardend", "/run/containerd"] {
        fs::remove_dir_all(folder).expect("it can be removed");
    }
    for top in fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        for group in ["kubepods", "gardend"].map(|name| top.path().join(name)).iter().filter(|group| group.is_dir()) {
            done(Command::new("find").arg(group).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"]));
        }
    }
    let tables = done(Command::new("nft").args(["list", "tables"]));
    for table in tables.lines().filter(|table| table.contains("gardend")) {
        done(Command::new("nft").arg("delete").args(table.split(' ')));
    }
    // The kernel's own cannot be another: what is mounted over a file of /proc keeps user namespaces
    // from a /proc of their own.
    let ledger = rusqlite::Connection::open("/var/lib/gardend/ledger.db").expect("nobody has it open");
    let changed = ledger.execute("UPDATE meta SET value = 'before' WHERE key = 'boot_id'", []).expect("it is a ledger");
    assert_eq!(changed, 1);
    drop(ledger);
    start("containerd");
    start("kubelet");
}
