//! Containers that are declared by kubectl, on a real containerd.

use crate::cluster::{Cluster, NODE, eventually};
use crate::garden::{self, garden, gardend};
use crate::node::{Left, Running};
use crate::release::{NAMESPACE, Release};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const NAME: &str = "web";
/// What Garden clients call it.
const HANDLE: &str = "gardend.web";
/// In the command line of its process, which tells it from all others on the node.
const MARK: &str = "mark-declared";

/// On a root of the node's own, which takes the right that an administrator has.
fn manifest(root: &str, memory: i64, word: &str) -> Value {
    json!({
        "apiVersion": "gardend.dev/v1alpha1", "kind": "GardenContainer",
        "metadata": { "name": NAME, "namespace": NAMESPACE },
        "spec": {
            "nodeName": NODE, "rootfs": root, "limits": { "memoryBytes": memory }, "env": [{ "name": "WORD", "value": word }],
            "processes": [{
                "name": "main", "path": "/bin/sh",
                "args": ["-c", format!(": {MARK}; while :; do usleep 50000; done")],
            }],
        },
    })
}

fn object(cluster: &Cluster) -> Value {
    cluster.get(&["gctr", "-n", NAMESPACE, NAME])
}

/// Waits for what kubectl shows.
fn shows(cluster: &Cluster, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let found = object(cluster);
        if wanted(&found) { Ok(found) } else { Err(found.to_string()) }
    })
}

fn holds(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let generation = &object["metadata"]["generation"];
    conditions
        .filter(|one| one["type"] == kind)
        .any(|one| one["status"] == "True" && one["observedGeneration"] == *generation)
}

fn is_well(object: &Value) -> bool {
    ["Ready", "ProcessesRunning", "Current"].iter().all(|kind| holds(object, kind))
}

/// Its process as kubectl shows it, by the pid that the node has for it.
fn process(object: &Value) -> (u32, i64) {
    let mut all = object["status"]["processes"].as_array().into_iter().flatten();
    let process = all.find(|process| process["id"] == "main").unwrap_or_else(|| panic!("no main: {object}"));
    let number = |field: &str| process[field].as_i64().unwrap_or_else(|| panic!("{field}: {process}"));
    (u32::try_from(number("pid")).expect("a pid"), number("restarts"))
}

fn finalizers(object: &Value) -> &Value {
    &object["metadata"]["finalizers"]
}

/// What the groups that a process is in, from the top, allow of something.
fn bounds(one: &Running, hierarchy_v1: &str, file_v1: &str, file_v2: &str) -> Vec<String> {
    let (tops, files) = (["/sys/fs/cgroup".to_owned(), format!("/sys/fs/cgroup/{hierarchy_v1}")], [file_v2, file_v1]);
    let group = one.cgroup();
    let mut groups: Vec<&str> = Path::new(&group).ancestors().filter_map(Path::to_str).collect();
    groups.reverse();
    let read = |group: &&str| {
        let mut found = tops.iter().zip(files).map(|(top, file)| fs::read_to_string(format!("{top}{group}/{file}")));
        found.find_map(Result::ok).map(|text| text.trim().to_owned())
    };
    groups.iter().filter_map(read).collect()
}

fn memory(one: &Running) -> Vec<String> {
    bounds(one, "memory", "memory.limit_in_bytes", "memory.max")
}

#[test]
fn a_container_that_kubectl_declares_is_kept_as_declared_and_an_uninstall_strands_no_object() {
    let cluster = Cluster::take();
    let before = Left::on(&cluster);
    let release =
        Release::install(&cluster, &["declared.enabled=true", "containers.memoryMax=3GiB", "containers.cpuMax=1.5"]);
    let root = garden::rootfs(HANDLE);
    cluster.apply(&manifest(&root, 64 << 20, "one"));
    cluster.kubectl(&["wait", "--for=condition=Ready", "-n", NAMESPACE, "gctr/web", "--timeout=120s"]);
    let made = shows(&cluster, "it is as declared", is_well);
    let running = Running::with(MARK);
    assert_eq!(running.iter().map(|one| one.pid).collect::<Vec<_>>(), [process(&made).0]);
    assert_eq!(finalizers(&made), &json!(["gardend.dev/declared"]));
    let together = (3_u64 << 30).to_string();
    assert!(memory(&running[0]).contains(&together), "{:?}", memory(&running[0]));
    let processors = bounds(&running[0], "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(processors.iter().any(|bound| bound.starts_with("150000")), "{processors:?}");

    // Garden clients use it, and do not end it.
    assert_eq!(garden(&["run", HANDLE, "--", "/bin/sh", "-c", "echo $WORD"]), "one\n");
    let refused = gardend(&["rm", HANDLE]).output().expect("gardend runs");
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && words.contains("kubectl") && words.contains("delete gctr web"), "{words}");

    // What can be changed in place is; the rest makes it anew.
    cluster.apply(&manifest(&root, 96 << 20, "one"));
    shows(&cluster, "the limit is in force", is_well);
    assert_eq!(Running::with(MARK), running, "what runs goes on");
    assert!(memory(&running[0]).contains(&(96_u64 << 20).to_string()), "{:?}", memory(&running[0]));
    cluster.apply(&manifest(&root, 96 << 20, "two"));
    let again = shows(&cluster, "another environment is in force", is_well);
    assert_ne!(again["status"]["uid"], made["status"]["uid"]);
    assert_eq!(garden(&["run", HANDLE, "--", "/bin/sh", "-c", "echo $WORD"]), "two\n");

    // Its process is started again.
    garden(&["run", HANDLE, "--", "/bin/busybox", "killall", "-9", "sh"]);
    shows(&cluster, "the process runs again", |object| is_well(object) && process(object).1 == 1);

    // An uninstall that cleans nothing up leaves it running, and the object waiting for nobody.
    let running = Running::with(MARK);
    release.helm_uninstall();
    assert_eq!(Running::with(MARK), running);
    assert_eq!(finalizers(&object(&cluster)), &Value::Null);

    // The next gardend goes on with it, and one that cleans up takes it along.
    let release = Release::install(&cluster, &["declared.enabled=true", "cleanup.enabled=true"]);
    let kept = shows(&cluster, "it is kept again", |object| is_well(object) && finalizers(object).is_array());
    assert_eq!((Running::with(MARK), process(&kept).0), (running.clone(), running[0].pid));
    assert!(!memory(&running[0]).contains(&together), "a bound that is not wished any more goes");
    cluster.kubectl(&["delete", "gctr", "-n", NAMESPACE, NAME, "--timeout=120s"]);
    assert_eq!(Running::with(MARK), []);
    cluster.apply(&manifest(&root, 64 << 20, "three"));
    shows(&cluster, "another is as declared", is_well);
    release.helm_uninstall();
    assert_eq!(Running::with(MARK), []);
    let left = object(&cluster);
    assert_eq!(finalizers(&left), &Value::Null);
    assert!(!holds(&left, "Ready"), "{left}");
    cluster.kubectl(&["delete", "gctr", "-n", NAMESPACE, NAME, "--timeout=20s"]);
    release.forget();
    eventually("nothing is left", || {
        let left = Left::on(&cluster);
        (left == before).then_some(()).ok_or_else(|| format!("{left:#?}"))
    });
}
