//! The cluster that all tests share, and the one release of gardend in it.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// For whatever has to come true, on a slow machine too.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// Where start.sh keeps what is the cluster's.
const STATE: &str = "/run/cluster";
/// How long a [`sleeper`] sleeps: told from the pause of a sandbox by its command line.
pub const SLEEP: &str = "2147480000";
/// The one node.
pub const NODE: &str = "node1";

/// A real cluster of one node. It ends with the node that the tests run on.
pub struct Cluster {
    tools: PathBuf,
    containerd: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

/// A file or folder of the sources.
pub fn source(path: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join(path)
}

fn told(name: &str) -> PathBuf {
    std::env::var_os(name).unwrap_or_else(|| panic!("{name} is set: run `make test-cluster`")).into()
}

impl Cluster {
    /// The cluster, for one test at a time.
    pub fn take() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        static STARTED: OnceLock<()> = OnceLock::new();
        // A test that failed has left the cluster as good as it found it.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let (tools, containerd) = (told("GARDEND_CLUSTER_TOOLS"), told("GARDEND_CLUSTER_CONTAINERD"));
        STARTED.get_or_init(|| {
            done(Command::new(source("tests/cluster/start.sh")).arg(&tools).arg(&containerd));
        });
        Self { tools, containerd, _turn: turn }
    }

    /// What kubectl prints; it has to succeed.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let output = self.try_kubectl(args);
        assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("kubectl prints text")
    }

    pub fn try_kubectl(&self, args: &[&str]) -> Output {
        self.tool("kubectl").args(args).output().expect("kubectl runs")
    }

    /// What kubectl tells as JSON.
    pub fn get(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[&["get", "-o", "json"], args].concat())).expect("kubectl prints JSON")
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &Value) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), manifest.to_string()).expect("it can be written");
        self.kubectl(&["apply", "-f", &file.path().to_string_lossy()]);
    }

    /// A program of the tools', told where the cluster is.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(self.tools.join(name));
        command.env("KUBECONFIG", Path::new(STATE).join("kubeconfig")).env("HOME", STATE).stdin(Stdio::null());
        command
    }

    /// What ctr prints of the node's containerd, in this namespace.
    pub fn ctr(&self, namespace: &str, args: &[&str]) -> String {
        let mut command = Command::new(self.containerd.join("ctr"));
        done(command.args(["-a", "/run/containerd/containerd.sock", "-n", namespace]).args(args))
    }
}

/// A pod of somebody else's, which sleeps.
pub fn sleeper(name: &str) -> Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "localhost/busybox:1", "imagePullPolicy": "Never",
                "command": ["sleep", SLEEP],
            }],
        },
    })
}

/// What a program prints; it has to succeed.
pub fn done(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{said}{complained}", output.status);
    said.into_owned()
}

/// Waits until this comes true, and fails with why it does not.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) => assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
