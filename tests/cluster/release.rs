//! The one release of gardend in the cluster, and the pod that it has on the node.

use crate::cluster::{Cluster, PATIENCE, done, eventually, source};
use crate::node::Left;
use serde_json::Value;
use std::process::Output;
use std::sync::LazyLock;

/// Where the release is.
pub const NAMESPACE: &str = "gardend";
const NAME: &str = "gardend";
/// gardend's image, by two names of the same content.
pub const TAG: &str = "dev";
pub const OTHER_TAG: &str = "next";

/// gardend, installed by its chart.
pub struct Release<'a> {
    cluster: &'a Cluster,
}

/// gardend's pod.
#[derive(Debug, PartialEq, Eq)]
pub struct GardendPod {
    pub name: String,
    pub image: String,
}

impl<'a> Release<'a> {
    /// The chart with these values.
    pub fn install(cluster: &'a Cluster, values: &[&str]) -> Self {
        let release = Self { cluster };
        release.bring_images();
        release.helm(&[&["install"], Self::arguments().as_slice(), &["--create-namespace"], &sets(values)].concat());
        release
    }

    pub fn upgrade(&self, values: &[&str]) {
        self.helm(&[&["upgrade"], Self::arguments().as_slice(), &sets(values)].concat());
    }

    pub fn rollback(&self) {
        self.helm(&["rollback", NAME, "--namespace", NAMESPACE, "--wait", "--timeout", "180s"]);
    }

    pub fn test(&self) {
        self.helm(&["test", NAME, "--namespace", NAMESPACE, "--timeout", "180s", "--logs"]);
    }

    /// Uninstalls it from a node that it was made to leave before: nothing of it may be there any more.
    pub fn uninstall_leaving_nothing(&self, before: &Left) {
        self.exec(&["gardend", "drain", "--uninstall"]);
        self.uninstall();
        eventually("nothing is left", || {
            let left = Left::on(self.cluster);
            (left == *before).then_some(()).ok_or_else(|| format!("{left:#?}"))
        });
    }

    pub fn uninstall(&self) {
        self.helm_uninstall();
        self.forget();
    }

    /// The release alone; its namespace stays.
    pub fn helm_uninstall(&self) {
        self.helm(&["uninstall", NAME, "--namespace", NAMESPACE, "--wait", "--timeout", "120s"]);
    }

    /// The namespace of a release that is gone.
    pub fn forget(&self) {
        self.cluster.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=180s"]);
    }

    /// The chart with its own values, but for the image, which no registry has.
    fn arguments() -> Vec<&'static str> {
        static WORDS: LazyLock<Vec<String>> = LazyLock::new(|| {
            let chart = source("charts/gardend").display().to_string();
            let (image, policy) = (format!("image.tag={TAG}"), "image.pullPolicy=Never".to_owned());
            let rest = ["--namespace", NAMESPACE, "--wait", "--timeout", "180s", "--set", &image, "--set", &policy];
            [NAME, &chart].into_iter().chain(rest).map(str::to_owned).collect()
        });
        WORDS.iter().map(String::as_str).collect()
    }

    /// What helm prints; it has to succeed.
    fn helm(&self, args: &[&str]) -> String {
        let output = self.try_helm(args);
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        if !output.status.success() {
            panic!("helm {args:?}: {said}\n{}", self.describe());
        }
        said
    }

    fn try_helm(&self, args: &[&str]) -> Output {
        self.cluster.tool("helm").args(args).output().expect("helm runs")
    }

    /// What there is to say where something went wrong.
    pub fn describe(&self) -> String {
        let ask = |args: &[&str]| {
            let output = self.cluster.try_kubectl(args);
            [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat()
        };
        let log = ["--prefix", "--all-containers", "--tail=40", "--ignore-errors", "-n", NAMESPACE];
        [
            ask(&["get", "pods", "-A", "-o", "wide"]),
            ask(&["get", "events", "-n", NAMESPACE]),
            ask(&[&["logs", "daemonset/gardend"], log.as_slice()].concat()),
        ]
        .concat()
    }

    /// The pod that serves, once there is one and no other.
    pub fn pod(&self) -> GardendPod {
        eventually("one pod of gardend's is Ready", || {
            let pods = self.pods();
            let [pod] = pods.as_slice() else { return Err(format!("{} pods", pods.len())) };
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            let ready = conditions.filter(|one| one["type"] == "Ready").all(|one| one["status"] == "True");
            let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| pod.to_string());
            if !ready || pod["metadata"]["deletionTimestamp"].is_string() {
                return Err(self.describe());
            }
            Ok(GardendPod {
                name: text(&pod["metadata"]["name"])?,
                image: text(&pod["spec"]["containers"][0]["image"])?,
            })
        })
    }

    fn pods(&self) -> Vec<Value> {
        let pods = self.cluster.get(&["pods", "-n", NAMESPACE]);
        let of_daemon_set = |pod: &&Value| pod["metadata"]["ownerReferences"][0]["kind"] == "DaemonSet";
        pods["items"].as_array().into_iter().flatten().filter(of_daemon_set).cloned().collect()
    }

    /// What a command in gardend's container prints.
    pub fn exec(&self, args: &[&str]) -> String {
        self.cluster.kubectl(&[&["exec", "-n", NAMESPACE, &self.pod().name, "--"], args].concat())
    }

    fn bring_images(&self) {
        let archive =
            std::env::var("GARDEND_CLUSTER_IMAGE").expect("GARDEND_CLUSTER_IMAGE is set: run `make test-cluster`");
        let names = [TAG, OTHER_TAG].map(|tag| format!("localhost/gardend:{tag}"));
        self.cluster.ctr("k8s.io", &["images", "import", &archive]);
        self.cluster.ctr("k8s.io", &["images", "tag", "--force", &names[0], &names[1]]);
    }
}

impl Drop for Release<'_> {
    /// The next test installs it anew, where this one did not come as far as to uninstall it.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.describe());
            self.try_helm(&["uninstall", NAME, "--namespace", NAMESPACE, "--wait", "--timeout", "180s"]);
            self.cluster.try_kubectl(&["delete", "namespace", NAMESPACE, "--timeout=60s"]);
        }
    }
}

fn sets<'v>(values: &[&'v str]) -> Vec<&'v str> {
    values.iter().flat_map(|value| ["--set", *value]).collect()
}

/// Ends a program of the cluster's as a package's upgrade does, and starts it again.
pub fn restart(program: &str) {
    stop(program);
    start(program);
}

/// SIGTERM, and its end.
pub fn stop(program: &str) {
    let pid = std::fs::read_to_string(format!("/run/cluster/{program}.pid")).expect("it was started");
    let pid = pid.trim();
    done(std::process::Command::new("kill").args(["-TERM", pid]));
    eventually(&format!("{program} ends within {PATIENCE:?}"), || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let ended = stat.is_empty() || stat.contains(") Z ");
        ended.then_some(()).ok_or(stat)
    });
}

/// As it was.
pub fn start(program: &str) {
    done(&mut std::process::Command::new(format!("/run/cluster/{program}.sh")));
}
