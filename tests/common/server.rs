//! A gardend of a test's own: its folders, port and containerd, started, killed, started again,
//! and at the end taken away with everything that it made. Ends only what it started.

use super::wire::Garden;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Bounds the time from start to "ready", a cold containerd included.
const READY: Duration = Duration::from_secs(60);

/// Bounds the time from start to giving up, where it cannot serve.
const REFUSED: Duration = Duration::from_secs(25);

/// How many servers this program has had.
static SERVERS: AtomicUsize = AtomicUsize::new(0);

/// A gardend, running or not, and its folders.
pub struct Server {
    folder: tempfile::TempDir,
    /// How many of this program's came before.
    number: usize,
    arguments: Vec<String>,
    listen: String,
    child: Option<Child>,
    /// Where it serves, or served last.
    pub garden: Garden,
    /// From start to "ready", the last time.
    pub start_took: Duration,
}

impl Server {
    /// A server that is not started yet.
    pub fn new(arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("gf").permissions(Permissions::from_mode(0o711)).tempdir();
        let server = Self {
            folder: folder.expect("a temporary folder"),
            number: SERVERS.fetch_add(1, Ordering::Relaxed),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            listen: "127.0.0.1:0".into(),
            child: None,
            garden: Garden { address: SocketAddr::from(([127, 0, 0, 1], 1)) },
            start_took: Duration::ZERO,
        };
        fs::create_dir(server.state()).expect("a state folder");
        fs::create_dir(server.run()).expect("a run folder");
        server
    }

    /// A server that serves.
    pub fn start(arguments: &[&str]) -> Self {
        let mut server = Self::new(arguments);
        server.restart();
        server
    }

    /// Further arguments, from the next start on.
    #[allow(dead_code, reason = "for tests with other settings after a restart")]
    pub fn add_arguments(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
    }

    /// A folder of the test's, beside the server's own.
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub fn ledger(&self) -> PathBuf {
        self.state().join("ledger.db")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The end of what gardend wrote to stderr.
    pub fn log_end(&self) -> String {
        let content = fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(&content[content.len().saturating_sub(20_000)..]).into_owned()
    }

    /// `gardend serve` as this server is started.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gardend"));
        command
            .args(["serve", "--listen", &self.listen, "--state-dir"])
            .arg(self.state())
            .arg("--run-dir")
            .arg(self.run())
            .args(self.apart())
            .args(&self.arguments);
        // Not what the machine's own gardend reads.
        command.env("GARDEND_CONFIG", "/dev/null");
        for (name, _) in std::env::vars() {
            // Which containerd and runtime are used, and that there is no network, may be chosen from
            // outside, and nothing else.
            let chosen = match name.as_str() {
                "GARDEND_RUNTIME" | "GARDEND_NETWORK" => true,
                "GARDEND_CONTAINERD_BINARY" => !self.arguments.iter().any(|argument| argument == "--containerd"),
                _ => false,
            };
            if name.starts_with("GARDEND_") && name != "GARDEND_CONFIG" && !chosen {
                command.env_remove(name);
            }
        }
        command
    }

    /// Addresses and ports that no other server of this program has: they run in one network.
    fn apart(&self) -> Vec<String> {
        if std::env::var("GARDEND_NETWORK").is_ok_and(|kind| kind == "none") {
            return Vec::new();
        }
        let ports = 10_000 + 100 * self.number;
        let pool = format!("10.{}.0.0/16", 80 + self.number);
        ["--network-pool", &pool, "--host-ports", &format!("{ports}-{}", ports + 99)].map(ToOwned::to_owned).into()
    }

    /// Starts it, on the same address as before, and waits until it serves.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.log()).expect("a log file");
        let begin = Instant::now();
        let mut child =
            self.command().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().expect("gardend starts");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        self.child = Some(child);
        let (ready, is_ready) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(address) = ready_address(&line) {
                    let _ = ready.send(address);
                }
            }
        });
        match is_ready.recv_timeout(READY) {
            Ok(address) => {
                self.start_took = begin.elapsed();
                self.garden = Garden { address };
                self.listen = address.to_string();
            }
            Err(reason) => panic!("gardend is not ready ({reason}); its log ends:\n{}", self.log_end()),
        }
    }

    /// Runs it where it cannot serve: its status and all that it said.
    pub fn refused(&self) -> (ExitStatus, String) {
        refused(self.command())
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it runs"))
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// SIGTERM; how it ended and how long that took.
    pub fn terminate(&mut self) -> (ExitStatus, Duration) {
        let begin = Instant::now();
        kill_process(self.pid(), Signal::TERM).expect("a child can be signalled");
        let mut child = self.child.take().expect("it runs");
        let end = begin + Duration::from_secs(30);
        while Instant::now() < end {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                return (status, begin.elapsed());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        panic!("gardend did not end within 30 s of SIGTERM; its log ends:\n{}", self.log_end());
    }

    /// The process of the containerd that it manages.
    pub fn containerd(&self) -> Option<Pid> {
        let run = format!("{}/", self.run().display());
        super::census::processes().into_iter().find_map(|process| {
            let ours = process.name == "containerd" && process.command.contains(&run);
            ours.then(|| Pid::from_raw(process.pid)).flatten()
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("gardend's log ends:\n{}", self.log_end());
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let script =
            PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("scripts/teardown.sh");
        let output = Command::new(script).arg(self.state()).arg(self.run()).output().expect("the teardown runs");
        if !output.status.success() && !std::thread::panicking() {
            panic!("teardown: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Runs a gardend that must give up by itself: its status and all that it said.
pub fn refused(mut command: Command) -> (ExitStatus, String) {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let pid = Pid::from_child(&child);
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = is_done.recv_timeout(REFUSED) else {
        let _ = kill_process(pid, Signal::KILL);
        panic!("gardend did not give up within {REFUSED:?}");
    };
    let output = output.expect("a child can be waited for");
    let said = [output.stdout, output.stderr].concat();
    (output.status, String::from_utf8_lossy(&said).into_owned())
}

/// The address in a line such as "ready on 127.0.0.1:7777".
fn ready_address(line: &str) -> Option<SocketAddr> {
    let words = line.split(|c: char| c.is_whitespace() || c == '/' || c == '"').filter(|_| line.contains("ready"));
    words.filter_map(|word| word.trim_end_matches(['.', ',']).parse().ok()).next()
}
