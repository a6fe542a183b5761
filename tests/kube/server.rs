//! A real API server of the tests' own: started by the script, ended when nobody uses it any more.

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// For whatever has to come true, on a slow machine too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// etcd and kube-apiserver with gardend's definitions.
pub struct Server {
    folder: tempfile::TempDir,
    tools: PathBuf,
}

fn source(path: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join(path)
}

impl Server {
    /// The one that tests share, for as long as one of them runs.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start());
        *shared = Arc::downgrade(&server);
        server
    }

    /// One of a test's own, which may be stopped and killed.
    pub fn start() -> Self {
        let tools = std::env::var_os("GARDEND_KUBE_TOOLS").expect("GARDEND_KUBE_TOOLS is set: run `make test-kube`");
        let folder = tempfile::tempdir().expect("a folder");
        let server = Self { folder, tools: tools.into() };
        let start =
            Command::new(source("tests/kube/start-apiserver.sh")).arg(&server.tools).arg(server.path()).output();
        let start = start.expect("the script runs");
        assert!(start.status.success(), "{}", String::from_utf8_lossy(&start.stderr));
        let (containers, nodes) = (source("crds/gardencontainers.yaml"), source("crds/gardennodes.yaml"));
        server.kubectl(&["apply", "-f", &containers.to_string_lossy(), "-f", &nodes.to_string_lossy()]);
        server.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
        // Discovery follows a moment later.
        eventually("kubectl knows the kinds", || {
            let known = server.try_kubectl(&["get", "gctr,gnode"]);
            known.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&known.stderr).into_owned())
        });
        server
    }

    /// What helm makes of these templates of the chart's.
    pub fn chart(&self, namespace: &str, templates: &[&str], values: &[&str]) -> String {
        let mut helm = Command::new(self.tools.join("helm"));
        helm.args(["template", "gardend"]).arg(source("charts/gardend"));
        helm.args(["--namespace", namespace, "--kube-version", "1.37"]).env("HOME", self.path());
        helm.args(templates.iter().flat_map(|name| ["--show-only", name]));
        let output = helm.args(values.iter().flat_map(|value| ["--set", value])).output().expect("helm runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("YAML")
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.path().join("kubeconfig")
    }

    /// What kubectl prints; it has to succeed.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let output = self.try_kubectl(args);
        assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("kubectl prints text")
    }

    pub fn try_kubectl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(self.tools.join("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        command.env("HOME", self.path()).stdin(Stdio::null()).output().expect("kubectl runs")
    }

    /// Writes a manifest to a file and hands it to kubectl.
    pub fn kubectl_with(&self, args: &[&str], manifest: &Value) -> Output {
        let file = tempfile::NamedTempFile::new_in(self.path()).expect("a file");
        fs::write(file.path(), manifest.to_string()).expect("it can be written");
        let path = file.path().to_string_lossy().into_owned();
        self.try_kubectl(&[args, &["-f", &path]].concat())
    }

    pub fn signal(&self, program: &str, signal: &str) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.pid(program)).status().expect("kill runs");
        assert!(status.success(), "{program} is not there");
    }

    fn pid(&self, program: &str) -> String {
        let pid = fs::read_to_string(self.path().join(format!("{program}.pid"))).expect("it was started");
        pid.trim().to_owned()
    }

    /// For how long a program of it has had processors.
    pub fn cpu_seconds(&self, program: &str) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid(program))).expect("it runs");
        // See proc_pid_stat(5): behind the name, utime and stime are the 12th and 13th.
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
        (ticks(11) + ticks(12)) as f64 / rustix::param::clock_ticks_per_second() as f64
    }

    /// The size of etcd's database.
    pub fn etcd_bytes(&self) -> u64 {
        fs::metadata(self.path().join("etcd/member/snap/db")).expect("etcd has a database").len()
    }

    /// Starts a killed API server again, where and as it was.
    pub fn restart_apiserver(&self) {
        let status = Command::new(self.path().join("kube-apiserver.sh")).status().expect("the script runs");
        assert!(status.success());
        eventually("the API server is ready again", || {
            let ready = self.try_kubectl(&["get", "--raw", "/readyz"]);
            ready.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&ready.stderr).into_owned())
        });
    }

    /// Where the audit log ends now.
    pub fn audit_mark(&self) -> u64 {
        fs::metadata(self.audit_log()).map_or(0, |metadata| metadata.len())
    }

    pub fn audit_log(&self) -> PathBuf {
        self.path().join("log/audit.log")
    }

    /// Writes that the API server has noted since, of one resource and (where it has one) namespace.
    pub fn writes_since(&self, mark: u64, resource: &str, namespace: &str) -> Vec<String> {
        let mut file = BufReader::new(fs::File::open(self.audit_log()).expect("there is an audit log"));
        file.seek(SeekFrom::Start(mark)).expect("it can be sought in");
        let lines = file.lines().map_while(Result::ok);
        let events = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        let wanted = |event: &Value| {
            let object = &event["objectRef"];
            event["stage"] == "ResponseComplete"
                && object["resource"] == resource
                && object["namespace"].as_str().is_none_or(|name| name == namespace)
                && ["create", "update", "patch", "delete", "deletecollection"].iter().any(|verb| event["verb"] == *verb)
        };
        events.filter(wanted).map(|event| format!("{} {}", event["verb"], event["requestURI"])).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stop = Command::new(source("tests/kube/stop.sh")).arg(self.path()).output().expect("the script runs");
        let words = String::from_utf8_lossy(&stop.stderr).into_owned();
        if !stop.status.success() && !std::thread::panicking() {
            panic!("the API server was not ended: {words}");
        }
    }
}

/// Waits until this comes true, and fails with why it does not.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) => assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
