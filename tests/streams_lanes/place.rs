//! A place with an init of the tests' own: it speaks the protocol, keeps descriptors and statuses
//! like garden-init, and runs either real programs or threads that write what can be checked.

use garden_init::packet::{Packet, recv, send};
use garden_init::wire::{
    self, Event, Exit, ProcessKey, Request, SOCKET_NAME, SpawnFailure, SpawnSpec, Streams, VERSION,
};
use gardend::node::place::Folders;
use gardend::node::process::{Options, ProcessNode};
use gardend_controller::record::{ProcessSpec, ProcessUid, SandboxId};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives it up.
pub const LONG: Duration = Duration::from_secs(60);

/// A process as this init keeps it.
struct Kept {
    pid: i32,
    exit: Option<Exit>,
    streams: Streams,
    fds: Vec<OwnedFd>,
}

#[derive(Default)]
struct State {
    connection: Option<Arc<OwnedFd>>,
    kept: BTreeMap<ProcessKey, Kept>,
    forgotten: BTreeSet<ProcessKey>,
    held: Vec<OwnedFd>,
}

/// What the threads that write counters look at.
#[derive(Default)]
pub struct Counter {
    /// Stop where you are.
    pub stop: AtomicBool,
    /// Bytes written.
    pub written: AtomicU64,
}

/// A place.
pub struct Place {
    pub sandbox: SandboxId,
    pub run: tempfile::TempDir,
    pub counter: Arc<Counter>,
    state: Arc<Mutex<State>>,
}

impl Place {
    /// One in a folder of its own, on a tmpfs where there is one.
    pub fn new() -> Self {
        let on_tmpfs = std::env::var_os("STREAMS_DIR").map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from);
        Self::in_folder(tempfile::tempdir_in(&on_tmpfs).or_else(|_| tempfile::tempdir()).unwrap())
    }

    /// One in this folder.
    pub fn in_folder(run: tempfile::TempDir) -> Self {
        let sandbox = SandboxId::generate();
        let place = Self { sandbox, run, counter: Arc::default(), state: Arc::default() };
        let folder = place.folders().place(&place.sandbox);
        std::fs::create_dir_all(&folder).unwrap();
        let listener = listener(&folder);
        let (state, counter) = (Arc::clone(&place.state), Arc::clone(&place.counter));
        thread::spawn(move || {
            while let Ok(connection) = accept_with(&listener, SocketFlags::CLOEXEC) {
                let (state, counter) = (Arc::clone(&state), Arc::clone(&counter));
                thread::spawn(move || serve(Arc::new(connection), &state, &counter));
            }
        });
        place
    }

    pub fn folders(&self) -> Folders {
        Folders::new(self.run.path().join("state"), self.run.path())
    }

    pub fn node(&self, options: Options) -> ProcessNode {
        ProcessNode::new(self.folders(), options).unwrap()
    }

    /// Starts a process without anybody asking over the connection.
    pub fn start(&self, process: &ProcessUid, spec: &SpawnSpec) {
        let fds = match spec.tty {
            None => {
                let (stdin_read, stdin_write) = io::pipe().unwrap();
                let (stdout_read, stdout_write) = io::pipe().unwrap();
                let (stderr_read, stderr_write) = io::pipe().unwrap();
                rustix::pipe::fcntl_setpipe_size(&stdout_write, 1 << 20).unwrap();
                vec![
                    stdin_read.into(),
                    stdin_write.into(),
                    stdout_write.into(),
                    stdout_read.into(),
                    stderr_write.into(),
                    stderr_read.into(),
                ]
            }
            Some(_) => {
                let (relay_read, relay_write) = io::pipe().unwrap();
                vec![relay_write.into(), relay_read.into()]
            }
        };
        spawn(&self.state, &self.counter, key(process), spec, fds).unwrap();
    }

    pub fn has_forgotten(&self, process: &ProcessUid) -> bool {
        self.state.lock().unwrap().forgotten.contains(&key(process))
    }

    /// Closes the init's connection, as its death would.
    pub fn hang_up(&self) {
        if let Some(connection) = self.state.lock().unwrap().connection.take() {
            let _ = rustix::net::shutdown(&*connection, rustix::net::Shutdown::Both);
        }
    }

    /// Lets go of what grandchildren hold open.
    pub fn end_grandchildren(&self) {
        self.state.lock().unwrap().held.clear();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counter.stop.store(true, Ordering::SeqCst);
        self.hang_up();
        // Whoever writes to a pipe of ours gets its end now.
        let mut state = self.state.lock().unwrap();
        state.kept.clear();
        state.held.clear();
    }
}

pub fn listener(folder: &Path) -> OwnedFd {
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(folder.join(SOCKET_NAME)).unwrap()).unwrap();
    listen(&listener, 16).unwrap();
    listener
}

fn say(connection: &OwnedFd, event: &Event, fds: &[BorrowedFd<'_>]) {
    let _ = send(connection.as_fd(), &wire::encode(event).unwrap(), fds);
}

fn serve(connection: Arc<OwnedFd>, state: &Arc<Mutex<State>>, counter: &Arc<Counter>) {
    let mut buffer = Vec::new();
    while let Ok(Packet::Message(mut fds)) = recv(connection.as_fd(), &mut buffer) {
        let mut request = wire::decode::<Request>(&buffer).unwrap();
        if request == Request::InFile {
            let mut bytes = Vec::new();
            File::from(fds.remove(0)).read_to_end(&mut bytes).unwrap();
            request = wire::decode(&bytes).unwrap();
        }
        match request {
            Request::Hello { .. } => {
                let mut state = state.lock().unwrap();
                state.connection = Some(Arc::clone(&connection));
                say(&connection, &Event::Hello { version: VERSION, ceilings: Vec::new() }, &[]);
                for (key, kept) in &state.kept {
                    let event = Event::Known { key: *key, pid: kept.pid, exit: kept.exit, streams: kept.streams };
                    say(&connection, &event, &kept.fds.iter().map(AsFd::as_fd).collect::<Vec<_>>());
                }
                say(&connection, &Event::KnownEnd, &[]);
            }
            Request::Spawn { key, spec } => match spawn(state, counter, key, &spec, fds) {
                Ok((pid, beside)) => {
                    let fds: Vec<_> = beside.iter().map(AsFd::as_fd).collect();
                    say(&connection, &Event::Spawned { key, pid }, &fds);
                }
                Err(error) => say(&connection, &Event::SpawnFailed { key, error }, &[]),
            },
            Request::Signal { key, signal } => {
                if let Some(kept) = state.lock().unwrap().kept.get(&key)
                    && let (Some(pid), Some(signal)) = (Pid::from_raw(kept.pid), Signal::from_named_raw(signal))
                    && pid != getpid()
                {
                    let _ = kill_process(pid, signal);
                }
            }
            Request::CloseStdin { key } => {
                if let Some(kept) = state.lock().unwrap().kept.get_mut(&key)
                    && kept.streams == (Streams::Pipes { stdin: true })
                {
                    kept.streams = Streams::Pipes { stdin: false };
                    kept.fds.remove(0);
                }
            }
            Request::Forget { key } => {
                let mut state = state.lock().unwrap();
                state.kept.remove(&key);
                state.forgotten.insert(key);
            }
            Request::IsOccupied { token } => {
                let occupied = state.lock().unwrap().kept.values().any(|kept| kept.exit.is_none());
                say(&connection, &Event::Occupied { token, occupied }, &[]);
            }
            Request::Ping { token } => say(&connection, &Event::Pong { token }, &[]),
            Request::SignalAll { .. } | Request::Resize { .. } | Request::InFile | Request::Transfer { .. } => {}
        }
    }
}

/// Programs: `counter BYTES` writes a counter stream to stdout; with a second argument it leaves a
/// grandchild that holds stdout open. Anything else is run.
fn spawn(
    state: &Arc<Mutex<State>>,
    counter: &Arc<Counter>,
    key: ProcessKey,
    spec: &SpawnSpec,
    fds: Vec<OwnedFd>,
) -> Result<(i32, Vec<OwnedFd>), SpawnFailure> {
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or(SpawnFailure::Malformed { reason: "too few descriptors".into() });
    let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap();
    if spec.tty.is_some() {
        let (relay_write, relay_read) = (next()?, next()?);
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = File::options().read(true).write(true).open(name).unwrap();
        let mut termios = rustix::termios::tcgetattr(&slave).unwrap();
        termios.make_raw();
        rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &termios).unwrap();
        let copy = master.try_clone().unwrap();
        let kept = Kept {
            pid: getpid().as_raw_nonzero().get(),
            exit: None,
            streams: Streams::Terminal,
            fds: vec![master, relay_write, relay_read],
        };
        state.lock().unwrap().kept.insert(key, kept);
        count(Arc::clone(state), Arc::clone(counter), key, spec, slave);
        return Ok((getpid().as_raw_nonzero().get(), vec![pidfd(getpid()), copy]));
    }
    let (stdin, stdin_write, stdout) = (next()?, next()?, next()?);
    let (stdout_read, stderr, stderr_read) = (next()?, next()?, next()?);
    let streams = Streams::Pipes { stdin: true };
    let kept = |pid| Kept { pid, exit: None, streams, fds: vec![stdin_write, stdout_read, stderr_read] };
    if text(&spec.path) == "counter" {
        let pid = getpid().as_raw_nonzero().get();
        state.lock().unwrap().kept.insert(key, kept(pid));
        if spec.args.len() > 1 {
            state.lock().unwrap().held.push(stdout.try_clone().unwrap());
        }
        count(Arc::clone(state), Arc::clone(counter), key, spec, File::from(stdout));
        return Ok((pid, vec![pidfd(getpid())]));
    }
    let mut command = Command::new(text(&spec.path));
    command.args(spec.args.iter().map(text)).stdin(stdin).stdout(stdout).stderr(Stdio::from(stderr));
    command
        .envs(spec.env.iter().filter_map(|pair| text(pair).split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))));
    let child = command.spawn();
    // The command holds the process's ends of the pipes.
    drop(command);
    let mut child = child.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => SpawnFailure::NotFound,
        errno => SpawnFailure::Exec { errno: errno.unwrap_or(0), exists: true },
    })?;
    let pid = i32::try_from(child.id()).unwrap();
    let running = pidfd(Pid::from_child(&child));
    state.lock().unwrap().kept.insert(key, kept(pid));
    let state = Arc::clone(state);
    thread::spawn(move || {
        let status = child.wait().unwrap();
        let exit = match status.code() {
            Some(code) => Exit::Code(code as u8),
            None => Exit::Signal(status.signal().unwrap() as u8),
        };
        ended(&state, key, exit);
    });
    Ok((pid, vec![running]))
}

fn pidfd(pid: Pid) -> OwnedFd {
    pidfd_open(pid, PidfdFlags::empty()).unwrap()
}

fn ended(state: &Mutex<State>, key: ProcessKey, exit: Exit) {
    let connection = {
        let mut state = state.lock().unwrap();
        if let Some(kept) = state.kept.get_mut(&key) {
            kept.exit = Some(exit);
        }
        state.connection.clone()
    };
    if let Some(connection) = connection {
        say(&connection, &Event::Exited { key, exit }, &[]);
    }
}

fn count(state: Arc<Mutex<State>>, counter: Arc<Counter>, key: ProcessKey, spec: &SpawnSpec, mut out: File) {
    let total: u64 = String::from_utf8(spec.args[0].clone()).unwrap().parse().unwrap();
    thread::spawn(move || {
        let mut written = 0;
        while written < total && !counter.stop.load(Ordering::SeqCst) {
            let bytes = counters(written, (total - written).min(64 << 10));
            if out.write_all(&bytes).is_err() {
                break;
            }
            written += bytes.len() as u64;
            counter.written.store(written, Ordering::SeqCst);
        }
        drop(out);
        ended(&state, key, Exit::Code(7));
    });
}

/// The part of a counter stream from `offset` on.
pub fn counters(offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; (offset % 8 + length).next_multiple_of(8) as usize];
    for (number, word) in (offset / 8..).zip(bytes.chunks_exact_mut(8)) {
        word.copy_from_slice(&number.to_le_bytes());
    }
    bytes.drain(..(offset % 8) as usize);
    bytes.truncate(length as usize);
    bytes
}

/// Checks a counter stream as it comes.
#[derive(Default)]
pub struct Checker {
    pub seen: u64,
}

impl Checker {
    pub fn check(&mut self, bytes: &[u8]) {
        let expected = counters(self.seen, bytes.len() as u64);
        if bytes != expected {
            let at = bytes.iter().zip(&expected).position(|(byte, expected)| byte != expected);
            panic!("other bytes than were written, from byte {} on", self.seen + at.unwrap_or(0) as u64);
        }
        self.seen += bytes.len() as u64;
    }

    /// Reads to the end.
    pub fn drain(&mut self, from: &mut impl Read) -> io::Result<()> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(()),
                bytes => self.check(&buffer[..bytes]),
            }
        }
    }
}

pub fn key(process: &ProcessUid) -> ProcessKey {
    let digits = process.as_str();
    ProcessKey(std::array::from_fn(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap()))
}

/// What to run: a program and its arguments.
pub fn spec(path: &str, args: &[&str]) -> ProcessSpec {
    ProcessSpec {
        path: path.into(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..ProcessSpec::default()
    }
}

/// A connection: the server's end and the client's.
pub fn connection() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    (server.into(), client)
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
