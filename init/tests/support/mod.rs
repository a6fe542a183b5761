//! A container as small as it can be: garden-init as pid 1 of a pid namespace of its own, in a
//! mount namespace whose root is swapped under it for a folder with busybox, as gardend does it.
//! All of it ends with [`Place`].

#![allow(dead_code, unused_imports, reason = "each test file uses its part")]

mod client;

pub use client::{Client, Outcome, Running, new_key, spec, spec_of, streams, text};

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Long enough for a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(30);

const HOST_ROOT: u32 = 0;
/// Whom gardend has as the root of unprivileged containers.
pub const MAPPED_ROOT: u32 = u32::MAX - 1;

const APPLETS: [&str; 24] = [
    "sh", "true", "false", "cat", "sleep", "id", "env", "pwd", "echo", "kill", "ls", "stat", "stty", "printf", "head",
    "yes", "mkdir", "umount", "rmdir", "grep", "tty", "test", "wc", "seq",
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    alice:x:1000:100:Alice:/home/alice:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\nusers:x:100:\nwheel:x:10:root,alice\naudio:x:63:alice\nnogroup:x:65534:\n";

/// Runs in the place's namespaces, on the host's root at first.
const FURNISH: &str = r#"
set -e
cd "$1"
mount --bind . .
cd "$1"
mount -t proc proc proc
mount -t tmpfs tmpfs dev
mkdir dev/pts
mount -t devpts devpts dev/pts -o newinstance,ptmxmode=0666,mode=0620,gid=5
ln -s pts/ptmx dev/ptmx
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/tty c 5 0
mkdir .old
/bin/busybox pivot_root . .old
cd /
/bin/busybox umount -l /.old
/bin/busybox rmdir /.old
"#;

/// A running container.
pub struct Place {
    base: TempDir,
    unshare: Child,
    /// Init's pid on the host.
    pub init: u32,
}

impl Place {
    /// With a root folder of its own.
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// The same, after `change` has worked on its root folder.
    pub fn start_with(change: impl FnOnce(&Path)) -> Self {
        Self::start_as(HOST_ROOT, change)
    }

    /// In a user namespace, whose root is nobody on the host, as gardend's unprivileged containers
    /// have it.
    pub fn start_unprivileged() -> Self {
        Self::start_as(MAPPED_ROOT, |_| {})
    }

    fn start_as(root: u32, change: impl FnOnce(&Path)) -> Self {
        let base = tempfile::Builder::new().prefix("garden-init-").tempdir().unwrap();
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o711)).unwrap();
        // A copy, since the folder that it was built in need not be open to all.
        fs::copy(binary(), base.path().join("garden-init")).unwrap();
        fs::set_permissions(base.path().join("garden-init"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(base.path().join("ctl")).unwrap();
        make_root(&base.path().join("root"));
        change(&base.path().join("root"));
        let mut command = Command::new("setpriv");
        let mut users = None;
        if root != HOST_ROOT {
            give_away(base.path(), root);
            let holder = UserNamespace::of(root);
            command = Command::new("nsenter");
            command.arg("--user").arg(format!("--target={}", holder.0.id())).args(["--", "setpriv"]);
            users = Some(holder);
        }
        let unshare = command
            // A test that is killed leaves nothing behind either.
            .args(["--pdeathsig", "KILL", "--", "unshare"])
            .args(["--pid", "--mount", "--propagation", "private", "--fork", "--kill-child=KILL", "--"])
            .arg(base.path().join("garden-init"))
            .arg(base.path().join("ctl"))
            .stdin(Stdio::null())
            .stderr(fs::File::create(base.path().join("stderr")).unwrap())
            .spawn()
            .expect("setpriv and unshare, of util-linux, and the rights of root are needed");
        let mut place = Self { base, unshare, init: 0 };
        place.init = place.find_init();
        drop(users);
        place.furnish();
        place
    }

    /// A new connection on which Hello is still to be said.
    pub fn connect(&self) -> Client {
        Client::connect(&self.socket())
    }

    /// A new connection, after Hello.
    pub fn client(&self) -> Client {
        let mut client = self.connect();
        assert!(client.hello().is_empty(), "processes are known already");
        client
    }

    /// On the host.
    pub fn socket(&self) -> PathBuf {
        self.base.path().join("ctl").join(garden_init::wire::SOCKET_NAME)
    }

    /// A file of the container's, on the host.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.base.path().join("root").join(inside.trim_start_matches('/'))
    }

    /// Lets whoever reads a line from this FIFO go on.
    pub fn release(&self, fifo: &str) {
        let opened =
            until(|| fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(self.path(fifo)).ok());
        opened.expect("nobody reads").write_all(b"go\n").unwrap();
    }

    /// A file system that never answers, for as long as its device is open; `None` where the
    /// machine cannot make one.
    pub fn mount_what_hangs(&self, folder: &str) -> Option<fs::File> {
        let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").ok()?;
        let options = "fd=0,rootmode=40000,user_id=0,group_id=0";
        let mounted = Command::new("nsenter")
            .args(["--target", &self.init.to_string(), "--mount", "--root", "--"])
            .args(["/bin/busybox", "mount", "-t", "fuse", "-o", options, "hangs", folder])
            .stdin(device.try_clone().unwrap())
            .status();
        assert!(mounted.unwrap().success());
        Some(device)
    }

    /// How many descriptors init has.
    pub fn init_fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.init)).unwrap().count()
    }

    /// A line of one of init's files in /proc, in kB.
    pub fn init_memory(&self, line: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.init)).unwrap();
        let found = text.lines().find_map(|candidate| candidate.strip_prefix(line)).unwrap();
        found.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
    }

    /// Runs a program in the place's pid namespace alone.
    pub fn run_in_pid_namespace(&self, command: &[&str], environment: &[(&str, &str)]) -> bool {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--target", &self.init.to_string(), "--pid", "--"]).args(command);
        nsenter.envs(environment.iter().copied()).status().unwrap().success()
    }

    /// Whether init is still there.
    pub fn is_alive(&mut self) -> bool {
        self.unshare.try_wait().unwrap().is_none()
    }

    fn find_init(&mut self) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", self.unshare.id());
        let found = until(|| {
            assert!(self.unshare.try_wait().unwrap().is_none(), "init does not start: {}", self.stderr());
            let child = fs::read_to_string(&children).ok()?.trim().parse().ok()?;
            // It is init's own binary once it has a socket.
            self.socket().exists().then_some(child)
        });
        found.unwrap_or_else(|| panic!("init does not start: {}", self.stderr()))
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.base.path().join("stderr")).unwrap_or_default()
    }

    fn furnish(&self) {
        let root = self.base.path().join("root");
        let done = Command::new("nsenter")
            .args(["--target", &self.init.to_string(), "--pid", "--mount", "--", "sh", "-c", FURNISH, "furnish"])
            .arg(&root)
            .status()
            .unwrap();
        assert!(done.success(), "the place could not be furnished");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Its namespaces die with init, and unshare reaps it. Without an init, unshare alone is there.
        match i32::try_from(self.init).ok().and_then(Pid::from_raw) {
            Some(init) => drop(kill_process(init, Signal::KILL)),
            None => drop(self.unshare.kill()),
        }
        let _ = self.unshare.wait();
    }
}

/// All that a place has is its root's, but for what is its users'.
fn give_away(base: &Path, root: u32) {
    let owned_by_root = ["-R", "--from=0:0", &format!("{root}:{root}")].map(str::to_owned);
    let given = Command::new("chown").args(owned_by_root).arg(base).status();
    assert!(given.unwrap().success());
}

/// Held by a process that does nothing else, until another is in it.
struct UserNamespace(Child);

impl UserNamespace {
    /// Root is `root`, and everybody else is who they are.
    fn of(root: u32) -> Self {
        let mut unshare = Command::new("unshare");
        let mut holder = Self(unshare.args(["--user", "--", "cat"]).stdin(Stdio::piped()).spawn().unwrap());
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        let namespace = format!("/proc/{}/ns/user", holder.0.id());
        let is_made = until(|| (fs::read_link(&namespace).ok()? != own).then_some(())).is_some();
        assert!(is_made, "no user namespace is made: {:?}", holder.0.try_wait());
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{map}", holder.0.id()), format!("0 {root} 1\n1 1 65535\n")).unwrap();
        }
        holder
    }
}

impl Drop for UserNamespace {
    fn drop(&mut self) {
        // It reads what nobody writes, and so ends with this process at the latest.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Asks again and again, with pauses, until there is an answer or patience is at its end.
pub fn until<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if start.elapsed() > PATIENCE {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The static one that was built for gardend, where it is named; the ordinary one otherwise.
fn binary() -> PathBuf {
    std::env::var_os("GARDEND_INIT_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_garden-init").into(), PathBuf::from)
}

fn make_root(root: &Path) {
    for folder in ["bin", "sbin", "etc", "proc", "dev", "tmp", "root", "home", "home/alice", "opt"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(root.join("root"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(root.join("home/alice"), Some(1000), Some(100)).unwrap();
    fs::write(root.join("etc/passwd"), PASSWD).unwrap();
    fs::write(root.join("etc/group"), GROUP).unwrap();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::copy(busybox.expect("busybox-static is needed"), root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
}
