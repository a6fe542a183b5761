//! The other side of the protocol, as plainly as can be.

use super::PATIENCE;
use garden_init::packet::{self, Packet};
use garden_init::wire::{self, Event, Exit, ProcessKey, Request, SpawnFailure, SpawnSpec, Streams};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A connection to an init.
pub struct Client {
    pub socket: OwnedFd,
    /// Received while something else was waited for.
    early: VecDeque<(Event, Vec<OwnedFd>)>,
    /// On the host, user and group (whoever gives them away must have both in its namespace); this
    /// process's own where nobody is named.
    pub pipes_belong_to: Option<u32>,
}

/// A process without a terminal, and gardend's ends of its streams.
pub struct Running {
    pub key: ProcessKey,
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub stdin: Option<File>,
    pub stdout: File,
    pub stderr: File,
}

/// How a process ended, and what it wrote.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
}

/// A shell that runs `script`.
pub fn spec(script: &str) -> SpawnSpec {
    spec_of(&["/bin/sh", "-c", script])
}

/// A program and its arguments.
pub fn spec_of(command: &[&str]) -> SpawnSpec {
    SpawnSpec {
        path: command[0].into(),
        args: command[1..].iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        capabilities: u64::MAX,
        ..SpawnSpec::default()
    }
}

/// One that nobody has had before in this test.
pub fn new_key() -> ProcessKey {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut key = [0; 16];
    key[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    ProcessKey(key)
}

impl Client {
    pub fn connect(path: &Path) -> Self {
        Self::try_connect(path).expect("init listens")
    }

    /// `None` where nobody listens.
    pub fn try_connect(path: &Path) -> Option<Self> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(path).unwrap()).ok()?;
        Some(Self { socket, early: VecDeque::new(), pipes_belong_to: None })
    }

    pub fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) {
        packet::send(self.socket.as_fd(), &wire::encode(request).unwrap(), fds).unwrap();
    }

    /// What comes next; `None` where the connection is closed or patience is at its end.
    pub fn next(&mut self) -> Option<(Event, Vec<OwnedFd>)> {
        self.early.pop_front().or_else(|| self.receive(PATIENCE))
    }

    /// What comes within this time.
    pub fn receive(&mut self, within: Duration) -> Option<(Event, Vec<OwnedFd>)> {
        let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
        if poll(&mut ready, Some(&Timespec::try_from(within).unwrap())).unwrap() == 0 {
            return None;
        }
        let mut buffer = Vec::new();
        match packet::recv(self.socket.as_fd(), &mut buffer) {
            Ok(Packet::Message(fds)) => Some((wire::decode(&buffer).unwrap(), fds)),
            _ => None,
        }
    }

    /// Whether init has closed the connection, after whatever it still said.
    pub fn is_closed(&mut self) -> bool {
        while self.next().is_some() {}
        let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
        poll(&mut ready, Some(&Timespec::default())).unwrap() == 1
    }

    /// The first for which `pick` has an answer; the others are kept.
    pub fn wait_for<T>(&mut self, mut pick: impl FnMut(&Event, &mut Vec<OwnedFd>) -> Option<T>) -> T {
        for at in 0..self.early.len() {
            let (event, fds) = &mut self.early[at];
            if let Some(answer) = pick(event, fds) {
                self.early.remove(at);
                return answer;
            }
        }
        loop {
            let (event, mut fds) = self.receive(PATIENCE).expect("init says nothing more");
            if let Some(answer) = pick(&event, &mut fds) {
                return answer;
            }
            self.early.push_back((event, fds));
        }
    }

    /// Says Hello; what init knows.
    pub fn hello(&mut self) -> Vec<(Event, Vec<OwnedFd>)> {
        self.send(&Request::Hello { version: wire::VERSION }, &[]);
        let mut known = Vec::new();
        match self.next() {
            Some((Event::Hello { version: wire::VERSION, ceilings }, _)) => assert_eq!(ceilings.len(), 16),
            other => panic!("{other:?} instead of Hello"),
        }
        loop {
            match self.next() {
                Some((Event::KnownEnd, _)) => return known,
                Some((event @ Event::Known { .. }, fds)) => known.push((event, fds)),
                other => panic!("{other:?} among what is known"),
            }
        }
    }

    /// Sends Spawn, by a file where it is large; gardend's ends come back.
    pub fn ask(&mut self, key: ProcessKey, spec: &SpawnSpec) -> [File; 3] {
        self.ask_by(&Request::Spawn { key, spec: spec.clone() })
    }

    /// Sends SpawnHeld, and waits until the process is held; its pidfd comes back, too.
    pub fn hold(&mut self, key: ProcessKey, spec: &SpawnSpec) -> (OwnedFd, [File; 3]) {
        let streams = self.ask_by(&Request::SpawnHeld { key, spec: spec.clone() });
        let pidfd = self.wait_for(|event, fds| (*event == Event::Held { key }).then(|| fds.remove(0)));
        (pidfd, streams)
    }

    fn ask_by(&mut self, request: &Request) -> [File; 3] {
        let [(stdin_read, stdin), (stdout, stdout_write), (stderr, stderr_write)] =
            [(); 3].map(|()| std::io::pipe().unwrap());
        for pipe in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
            std::os::unix::fs::fchown(pipe, self.pipes_belong_to, self.pipes_belong_to).unwrap();
        }
        let fds = [
            stdin_read.as_fd(),
            stdin.as_fd(),
            stdout_write.as_fd(),
            stdout.as_fd(),
            stderr_write.as_fd(),
            stderr.as_fd(),
        ];
        self.send_by_size(request, &fds);
        [OwnedFd::from(stdin).into(), OwnedFd::from(stdout).into(), OwnedFd::from(stderr).into()]
    }

    /// In a file where it does not fit into a packet.
    pub fn send_by_size(&self, request: &Request, fds: &[BorrowedFd<'_>]) {
        let bytes = wire::encode(request).unwrap();
        if bytes.len() <= wire::MAX_PACKET {
            return packet::send(self.socket.as_fd(), &bytes, fds).unwrap();
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let all: Vec<_> = [file.as_fd()].into_iter().chain(fds.iter().copied()).collect();
        self.send(&Request::InFile, &all);
    }

    /// Spawns and waits until it runs, or has failed.
    pub fn try_spawn(&mut self, spec: &SpawnSpec) -> Result<Running, SpawnFailure> {
        let key = new_key();
        let [stdin, stdout, stderr] = self.ask(key, spec);
        let (pid, pidfd) = self.wait_for(|event, fds| match event {
            Event::Spawned { key: spawned, pid } if *spawned == key => Some(Ok((*pid, fds.remove(0)))),
            Event::SpawnFailed { key: failed, error } if *failed == key => Some(Err(error.clone())),
            _ => None,
        })?;
        Ok(Running { key, pid, pidfd, stdin: Some(stdin), stdout, stderr })
    }

    pub fn spawn(&mut self, spec: &SpawnSpec) -> Running {
        self.try_spawn(spec).unwrap()
    }

    /// Closes its stdin, waits for its end, reads its output and forgets it.
    pub fn finish(&mut self, mut running: Running) -> Outcome {
        running.stdin = None;
        self.send(&Request::CloseStdin { key: running.key }, &[]);
        let exit = self.exit_of(running.key);
        let outcome = Outcome { exit, stdout: text(&mut running.stdout), stderr: text(&mut running.stderr) };
        self.send(&Request::Forget { key: running.key }, &[]);
        outcome
    }

    pub fn run(&mut self, spec: &SpawnSpec) -> Outcome {
        let running = self.spawn(spec);
        self.finish(running)
    }

    /// What a script that succeeds writes.
    pub fn output(&mut self, spec: &SpawnSpec) -> String {
        let outcome = self.run(spec);
        assert_eq!((outcome.exit, outcome.stderr.as_str()), (Exit::Code(0), ""), "{outcome:?}");
        outcome.stdout
    }

    pub fn exit_of(&mut self, key: ProcessKey) -> Exit {
        self.wait_for(|event, _| match event {
            Event::Exited { key: exited, exit } if *exited == key => Some(*exit),
            _ => None,
        })
    }

    pub fn wait_until_empty(&mut self) {
        self.wait_for(|event, _| matches!(event, Event::Emptied).then_some(()));
    }

    pub fn is_occupied(&mut self) -> bool {
        self.send(&Request::IsOccupied { token: 7 }, &[]);
        self.wait_for(|event, _| match event {
            Event::Occupied { token: 7, occupied } => Some(*occupied),
            _ => None,
        })
    }

    /// After this all that was sent before has been done.
    pub fn ping(&mut self) {
        static TOKEN: AtomicU64 = AtomicU64::new(100);
        let asked = TOKEN.fetch_add(1, Ordering::Relaxed);
        self.send(&Request::Ping { token: asked }, &[]);
        self.wait_for(|event, _| matches!(event, Event::Pong { token } if *token == asked).then_some(()));
    }

    /// Spawns with a terminal; the master comes back, and the relay's ends.
    pub fn spawn_with_terminal(&mut self, spec: &SpawnSpec) -> (ProcessKey, File) {
        let key = new_key();
        let (relay_read, relay_write) = std::io::pipe().unwrap();
        self.send(&Request::Spawn { key, spec: spec.clone() }, &[relay_write.as_fd(), relay_read.as_fd()]);
        let master = self.wait_for(|event, fds| match event {
            Event::Spawned { key: spawned, .. } if *spawned == key => Some(fds.remove(1)),
            Event::SpawnFailed { error, .. } => panic!("{error:?}"),
            _ => None,
        });
        (key, master.into())
    }
}

/// To the end of the stream.
pub fn text(stream: &mut File) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// The streams of one that is known.
pub fn streams(event: &Event) -> Streams {
    match event {
        Event::Known { streams, .. } => *streams,
        other => panic!("{other:?} is not Known"),
    }
}
