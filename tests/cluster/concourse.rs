//! gardend beneath Concourse: a pod that plays the worker, by the values that are there for Concourse's chart.

use crate::cluster::{Cluster, done, source};
use crate::node::Left;
use crate::release::Release;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The values, as a chart would read them.
fn values() -> Value {
    let text = fs::read_to_string(source("charts/gardend/examples/concourse-values.yaml")).expect("they are there");
    serde_yaml::from_str(&text).expect("they are YAML")
}

/// What Concourse's chart makes of them, with the program that plays the worker in its place. The worker makes mounts,
/// and is privileged for that.
fn worker(values: &Value) -> Value {
    let (worker, settings) = (&values["worker"], &values["concourse"]["worker"]);
    let volumes = &settings["baggageclaim"];
    let address = settings["externalGardenUrl"].as_str().and_then(|url| url.strip_prefix("http://"));
    let mut containers = worker["sidecarContainers"].as_array().cloned().expect("there is a sidecar");
    for container in &mut containers {
        container["imagePullPolicy"] = json!("Never");
    }
    containers.push(json!({
        "name": "worker", "image": "localhost/worker:1", "imagePullPolicy": "Never",
        "command": ["/bin/worker", address, volumes["volumes"], volumes["overlaysDir"], "/root"],
        "securityContext": { "privileged": true },
        "volumeMounts": worker["additionalVolumeMounts"],
    }));
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "worker" },
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
            "containers": containers, "volumes": worker["additionalVolumes"],
        },
    })
}

/// An image with the program, and a root for its containers.
fn bring_image(cluster: &Cluster) {
    let program =
        std::env::var("GARDEND_CLUSTER_WORKER").expect("GARDEND_CLUSTER_WORKER is set: run `make test-cluster`");
    let folder = tempfile::tempdir().expect("a folder");
    let at = |path: &str| folder.path().join(path);
    for path in ["image/bin", "image/root/bin", "image/root/tmp"] {
        fs::create_dir_all(at(path)).expect("a folder");
    }
    let busybox = done(Command::new("sh").args(["-c", "command -v busybox"]));
    fs::copy(Path::new(busybox.trim()), at("image/root/bin/busybox")).expect("busybox is there");
    std::os::unix::fs::symlink("busybox", at("image/root/bin/sh")).expect("a link");
    fs::copy(program, at("image/bin/worker")).expect("it was built");
    let archive = at("worker.tar").display().to_string();
    let mut pack = Command::new(source("scripts/image/pack.py"));
    pack.args(["--name", "localhost/worker:1", "--out", &archive, "--layer"]).arg(at("image")).arg("/bin/worker");
    done(&mut pack);
    cluster.ctr("k8s.io", &["images", "import", &archive]);
}

#[test]
fn a_worker_in_a_pod_makes_containers_on_overlays_of_its_own() {
    let cluster = Cluster::take();
    let values = values();
    let group = &values["worker"]["sidecarContainers"][0]["securityContext"]["runAsGroup"];
    let left = Left::on(&cluster);
    let release = Release::install(&cluster, &[&format!("garden.socketGroup={group}")]);
    bring_image(&cluster);
    cluster.apply(&worker(&values));
    let wait =
        ["wait", "--for=jsonpath={.status.containerStatuses[?(@.name==\"worker\")].state.terminated}", "pod/worker"];
    let ended = cluster.try_kubectl(&[wait.as_slice(), &["--timeout=180s"]].concat());
    let log = cluster.kubectl(&["logs", "worker", "--all-containers"]);
    assert!(ended.status.success(), "{log}");
    for line in [
        "the build ended with 3 and said \"from the worker\"",
        "result has \"result\\n\"",
        "made has \"made\\n\"",
        "volumes are unmounted",
    ] {
        assert!(log.contains(line), "{line} is missing:\n{log}\n{}", release.describe());
    }
    // Nothing holds the volumes that the worker has let go.
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains("/var/lib/concourse/volumes"), "{mounts}");
    cluster.kubectl(&["delete", "pod", "worker"]);
    release.uninstall_leaving_nothing(&left);
}
