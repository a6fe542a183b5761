//! A containerd of a test's own, and a count of everything that places leave on a machine.

use gardend::node::containerd::{Containerd, Options, OwnerMark, Runtime};
use gardend::node::place::Folders;
use gardend_controller::ports::{NodeError, Sandboxes};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A containerd to test with.
#[derive(Clone, Debug)]
pub struct Version {
    pub name: &'static str,
    pub containerd: PathBuf,
    pub ctr: PathBuf,
}

/// The distribution's, and the pinned one of `make tools`.
pub fn versions() -> Vec<Version> {
    vec![debian(), pinned()]
}

pub fn debian() -> Version {
    let found = |name| in_path(name).unwrap_or_else(|| panic!("{name} is not installed; run `make setup`"));
    Version { name: "debian", containerd: found("containerd"), ctr: found("ctr") }
}

pub fn pinned() -> Version {
    let cache = std::env::var_os("GARDEND_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/gardend"));
    let tools = cache.join("tools");
    assert!(tools.join("containerd").exists(), "{} has no containerd; run `make tools`", tools.display());
    Version { name: "pinned", containerd: tools.join("containerd"), ctr: tools.join("ctr") }
}

/// Every containerd with every runtime.
pub fn pairs() -> Vec<(Version, Runtime)> {
    let runtimes = [Runtime::runc(), Runtime::crun()];
    versions().into_iter().flat_map(|version| runtimes.clone().map(|runtime| (version.clone(), runtime))).collect()
}

fn in_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.exists())
}

/// Folders that root of an unprivileged place can pass through, with a name that leaves a socket room.
pub fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("gd").permissions(Permissions::from_mode(0o711)).tempdir().unwrap()
}

/// The folders of a gardend below one of [`folder`].
pub fn folders(of: &Path) -> Folders {
    Folders::new(of.join("state"), of.join("run"))
}

/// A containerd that is somebody else's: gardend only gets its socket. Ended when dropped.
pub struct Host {
    pub version: Version,
    folder: PathBuf,
    child: Option<Child>,
}

impl Host {
    /// Starts one with its files in `folder`, and returns when it listens.
    pub fn start(version: &Version, folder: &Path) -> Self {
        let folder = folder.join("host");
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o711)).unwrap();
        let (root, state, socket) = (folder.join("root"), &folder, folder.join("containerd.sock"));
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.runtime\", \"io.containerd.cri.v1.images\", \"io.containerd.nri.v1.nri\"]\n\
             [grpc]\n address = {socket:?}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\n path = {:?}\n",
            folder.join("opt")
        );
        fs::write(folder.join("config.toml"), config).unwrap();
        let mut host = Self { version: version.clone(), folder, child: None };
        host.restart();
        host
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it (again).
    pub fn restart(&mut self) {
        assert!(self.child.is_none());
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log")).unwrap();
        let own = self.version.containerd.parent().unwrap().display().to_string();
        let child = Command::new(&self.version.containerd)
            .arg("--config")
            .arg(self.folder.join("config.toml"))
            .env("PATH", format!("{own}:{}", std::env::var("PATH").unwrap()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        eventually(Duration::from_secs(30), "containerd listens", || UnixStream::connect(self.socket()).is_ok());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs `ctr` in gardend's namespace.
pub fn ctr(version: &Version, socket: &Path, arguments: &[&str]) -> String {
    let output = Command::new(&version.ctr)
        .args(["--address", socket.to_str().unwrap(), "--namespace", "gardend"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "ctr {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A gardend's places on a containerd.
pub fn places(folders: &Folders, socket: &Path, runtime: &Runtime) -> Containerd {
    let options = Options { runtime: runtime.clone(), ..Options::default() };
    Containerd::open(folders.clone(), socket, options).unwrap()
}

/// Everything on the machine that belongs to one gardend's places, by kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Census(pub BTreeMap<&'static str, Vec<String>>);

impl Census {
    /// Counts. `below` is the folder that all of the test's files are in.
    pub fn take(folders: &Folders, below: &Path) -> Self {
        let owner = OwnerMark::of(folders.state(), folders.run()).unwrap();
        let mark = format!("/gardend/{owner}/");
        let mut found = BTreeMap::<_, Vec<String>>::new();
        let mut count = |kind, what: String| found.entry(kind).or_default().push(what);
        for (pid, command, cgroup) in processes() {
            if command.contains("containerd-shim") && command.contains(below.to_str().unwrap()) {
                count("shim", format!("{pid} {command}"));
            }
            if cgroup.contains(&mark) {
                count("process in a place", format!("{pid} {command}"));
            }
        }
        let hierarchies = gardend::node::containerd::hierarchies().unwrap();
        for entry in hierarchies.iter().flat_map(|h| entries(&h.join("gardend").join(owner.as_str()))) {
            if entry.is_dir() {
                count("cgroup", entry.display().to_string());
            }
        }
        for entry in entries(&folders.places()) {
            count("folder", entry.display().to_string());
        }
        for entry in entries(&folders.run().join("runtime/gardend")) {
            count("runtime state", entry.display().to_string());
        }
        for state in [below.join("host"), folders.run().join("containerd")] {
            for entry in entries(&state.join("io.containerd.runtime.v2.task/gardend")) {
                count("bundle", entry.display().to_string());
            }
        }
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
            if line.split(' ').nth(4).is_some_and(|point| Path::new(point).starts_with(below)) {
                count("mount", line.to_owned());
            }
        }
        Self(found)
    }

    pub fn count(&self, kind: &str) -> usize {
        self.0.get(kind).map_or(0, Vec::len)
    }
}

/// Waits until nothing of the places is left: shims end a moment after their last place.
pub fn assert_nothing_left(folders: &Folders, below: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let census = Census::take(folders, below);
        if census == Census::default() {
            return;
        }
        assert!(Instant::now() < deadline, "left over: {census:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends everything that is left of a test, so that one that fails leaves nothing either.
pub struct Cleanup {
    pub folders: Folders,
    pub below: PathBuf,
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let Ok(owner) = OwnerMark::of(self.folders.state(), self.folders.run()) else { return };
        let mark = format!("/gardend/{owner}/");
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let mut left = processes();
            left.retain(|(_, command, cgroup)| {
                let shim = command.contains("containerd-shim") && command.contains(self.below.to_str().unwrap());
                shim || cgroup.contains(&mark)
            });
            if left.is_empty() || Instant::now() > end {
                break;
            }
            left.iter().for_each(|(pid, _, _)| kill(*pid));
            std::thread::sleep(Duration::from_millis(20));
        }
        for hierarchy in gardend::node::containerd::hierarchies().unwrap_or_default() {
            let parent = hierarchy.join("gardend").join(owner.as_str());
            for place in entries(&parent) {
                let _ = fs::remove_dir(place);
            }
            let _ = fs::remove_dir(&parent);
        }
    }
}

/// A shell script that can be run at once. Written by another process: ours might be forked by
/// another thread while the file is open for writing, and could not be executed then.
pub fn script(path: &Path, text: &str) {
    let write = r#"printf '#!/bin/sh\n%s\n' "$1" >"$0" && chmod 755 "$0""#;
    let status = Command::new("/bin/sh").arg("-c").arg(write).arg(path).arg(text).status().unwrap();
    assert!(status.success(), "cannot write {}", path.display());
}

pub fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Pid, command line and cgroups of every process that is not a zombie.
pub fn processes() -> Vec<(u32, String, String)> {
    entries(Path::new("/proc"))
        .iter()
        .filter_map(|path| {
            let pid = path.file_name()?.to_str()?.parse().ok()?;
            let command = String::from_utf8_lossy(&fs::read(path.join("cmdline")).ok()?).replace('\0', " ");
            let cgroup = fs::read_to_string(path.join("cgroup")).ok()?;
            (!command.is_empty()).then_some((pid, command, cgroup))
        })
        .collect()
}

pub fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

pub fn eventually(deadline: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !holds() {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Removes every place, as the sweeper would: again while containerd says that it may help.
pub async fn remove_all(places: &Containerd) {
    for seen in places.list().await.unwrap() {
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(error) = places.remove(&seen.id).await {
            assert!(may_help(&error) && Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

pub fn may_help(error: &NodeError) -> bool {
    error.kind == gardend_controller::ports::NodeErrorKind::Unavailable
}
