//! gardend with a containerd of its own, from its image: on the node, and outside of its pod.

use crate::cluster::Cluster;
use crate::garden::{self, counting, garden};
use crate::node::{Left, Running};
use crate::release::{NAMESPACE, Release};
use std::fs;

/// The containerd that gardend manages.
fn containerd() -> Option<Running> {
    Running::with("/run/gardend/containerd/config.toml").into_iter().next()
}

#[test]
fn a_managed_containerd_and_its_containers_outlive_gardends_pod() {
    let cluster = Cluster::take();
    let left = Left::on(&cluster);
    let release = Release::install(&cluster, &["containerd.mode=managed"]);
    garden::create("managed");
    let processes = counting("managed", "counting", "mark-managed");
    let before = containerd().expect("a containerd of gardend's runs");
    let program = fs::read_link(format!("/proc/{}/exe", before.pid)).expect("it runs");
    assert!(program.starts_with("/var/lib/gardend/"), "{}", program.display());
    assert!(before.cgroup().starts_with("/gardend/"), "{}", before.cgroup());

    let pod = release.pod();
    cluster.kubectl(&["delete", "pod", "-n", NAMESPACE, &pod.name, "--wait=true", "--timeout=180s"]);
    assert_ne!(release.pod().name, pod.name);
    garden::serves();
    assert_eq!(containerd(), Some(before));
    assert_eq!(Running::with("mark-managed"), processes);
    assert_eq!(garden(&["run", "managed", "--", "/bin/sh", "-c", "echo well"]), "well\n");
    garden::create("another");
    release.uninstall_leaving_nothing(&left);
    assert_eq!(containerd(), None);
}
