//! What is done for each request.

use super::connection::Broken;
use super::processes::{Held, Process, Progress, Starting};
use super::{MAX_PROCESSES, Realm, Server};
use crate::child::{self, Confinement, Start, Stdio};
use crate::descendants;
use crate::packet;
use crate::sys::{self, Target};
use crate::wire::{self, Event, GO, MAX_REQUEST, ProcessKey, Request, SpawnFailure, SpawnSpec};
use rustix::fs::{FileType, fstat};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::getpid;
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Of the limit on open files, kept free of processes: the connection, a packet's descriptors, and
/// the transfers.
const SPARE_FILES: u64 = 64 + super::transfers::MAX_TRANSFERS as u64;
/// A process takes at most so many of init's descriptors.
const FILES_A_PROCESS: u64 = 5;

impl Server {
    /// Does what the packet asks.
    pub(super) fn handle(&mut self, bytes: &[u8], mut fds: Vec<OwnedFd>) -> Result<(), Broken> {
        let request = match wire::decode(bytes)? {
            Request::InFile if fds.is_empty() => return Err(Broken::Protocol("no file beside InFile")),
            Request::InFile => {
                self.has_grown = true;
                match wire::decode(&read_file(fds.remove(0))?)? {
                    Request::InFile => return Err(Broken::Protocol("InFile in a file")),
                    request => request,
                }
            }
            request => request,
        };
        match request {
            Request::Hello { version } => return self.hello(version),
            _ if !self.is_greeted() => return Err(Broken::Protocol("the first request is not Hello")),
            Request::Spawn { key, spec } => {
                let started = self.spawn(Start::Now, key, &spec, fds);
                return started.or_else(|error| self.tell(Event::SpawnFailed { key, error }, Vec::new()));
            }
            Request::Adopt { key, pid, has_terminal } => {
                let adopted = self.adopt(key, pid, has_terminal, fds);
                return adopted.or_else(|error| self.tell(Event::SpawnFailed { key, error }, Vec::new()));
            }
            Request::SpawnHeld { key, spec } => {
                return match self.spawn(Start::WhenReleased, key, &spec, fds) {
                    Ok(()) => self.tell_held(key),
                    Err(error) => self.tell(Event::SpawnFailed { key, error }, Vec::new()),
                };
            }
            Request::Release { key } => self.release(&key),
            Request::Signal { key, signal } => self.signal(&key, signal),
            Request::SignalAll { signal } => self.signal_all(signal),
            Request::Resize { key, columns, rows } => self.resize(&key, columns, rows),
            Request::CloseStdin { key } => self.close_stdin(&key),
            Request::Forget { key } => self.forget(&key),
            Request::IsOccupied { token } => {
                self.reap()?;
                return self.tell(Event::Occupied { token, occupied: !sys::is_childless() }, Vec::new());
            }
            Request::Ping { token } => return self.tell(Event::Pong { token }, Vec::new()),
            Request::InFile => {}
            Request::Transfer { spec } => self.transfers.begin(&spec, fds, &self.inheritance),
        }
        Ok(())
    }

    /// The connection hears of all that runs or has ended. What an earlier one asked for and is
    /// still on its way to its exec will never be: its asker takes it for lost.
    fn hello(&mut self, version: u8) -> Result<(), Broken> {
        if version == 0 {
            return Err(Broken::Protocol("version 0"));
        }
        self.settle_all()?;
        let elders = self.processes.starting.values_mut().filter(|starting| starting.asker != self.connections);
        for starting in elders {
            starting.is_abandoned = true;
            // It may have ended by itself; it is reaped either way.
            let _ = sys::kill(Target::Process(starting.pid), libc::SIGKILL);
        }
        let ceilings = (0..16).filter_map(|resource| sys::limit(resource).ok().map(|(_, hard)| (resource, hard)));
        let hello = Event::Hello { version: version.min(wire::VERSION), ceilings: ceilings.collect() };
        let keys = self.processes.list();
        let Some(connection) = &mut self.connection else { return Ok(()) };
        connection.is_greeted = true;
        connection.send(&hello, Vec::new())?;
        connection.list(keys);
        connection.flush(&mut self.processes)
    }

    /// Takes a process that was made outside for one of ours, and lets it go on to its exec.
    fn adopt(&mut self, key: ProcessKey, pid: i32, has_terminal: bool, fds: Vec<OwnedFd>) -> Result<(), SpawnFailure> {
        self.room_for(&key)?;
        let malformed = |reason: &str| SpawnFailure::Malformed { reason: reason.to_owned() };
        let mut fds = fds.into_iter();
        let (Some(pidfd), Some(status)) = (fds.next(), fds.next()) else {
            return Err(malformed("no process beside Adopt"));
        };
        let outer: Vec<_> = fds.collect();
        let wrong_number = |_| malformed("a wrong number of streams beside Adopt");
        let held = if has_terminal {
            Held::Terminal { master: None, relay: outer.try_into().map_err(wrong_number)? }
        } else {
            let [stdin, stdout, stderr] = outer.try_into().map_err(wrong_number)?;
            Held::Pipes { stdin: Some(stdin), outputs: [stdout, stderr] }
        };
        // Only a child's end comes to be known here. One that has ended was reaped by now.
        if pid <= 1 || !sys::is_child(pidfd.as_fd()) {
            return Err(SpawnFailure::System { call: "adopt".into(), errno: libc::ECHILD });
        }
        let failed = |call: &str, error: rustix::io::Errno| SpawnFailure::System {
            call: call.into(),
            errno: error.raw_os_error(),
        };
        rustix::io::ioctl_fionbio(&status, true).map_err(|error| failed("ioctl", error))?;
        packet::send(status.as_fd(), GO, &[])
            .map_err(|_| SpawnFailure::System { call: "send".into(), errno: libc::EPIPE })?;
        let (asker, failure, is_abandoned) = (self.connections, None, false);
        self.processes.begin(key, Starting { asker, pid, pidfd, status, held, failure, is_abandoned, is_held: false });
        Ok(())
    }

    fn room_for(&self, key: &ProcessKey) -> Result<(), SpawnFailure> {
        if self.processes.contains(key) {
            return Err(SpawnFailure::Duplicate);
        }
        if self.processes.len() >= self.most_processes() {
            return Err(SpawnFailure::System { call: "keep one more process".into(), errno: libc::EMFILE });
        }
        Ok(())
    }

    /// Forks. Whether the process gets as far as its exec shows later, in [`Server::settle`].
    fn spawn(
        &mut self,
        start: Start,
        key: ProcessKey,
        spec: &SpawnSpec,
        fds: Vec<OwnedFd>,
    ) -> Result<(), SpawnFailure> {
        self.room_for(&key)?;
        let (stdio, held) = divide(spec.tty, fds)?;
        let flags = SocketFlags::CLOEXEC;
        let (status, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .and_then(|pair| rustix::io::ioctl_fionbio(&pair.0, true).map(|()| pair))
            .map_err(|error| SpawnFailure::System { call: "socketpair".into(), errno: error.raw_os_error() })?;
        let inheritance = self.inheritance;
        let child = sys::fork(|| {
            child::become_process(start, spec, &stdio, &inheritance, &Confinement::default(), far.as_fd());
        });
        let child = child.map_err(|error| SpawnFailure::System {
            call: "clone".into(),
            errno: error.raw_os_error().unwrap_or(libc::EAGAIN),
        })?;
        let starting = Starting {
            asker: self.connections,
            pid: child.pid,
            pidfd: child.pidfd,
            status,
            held,
            failure: None,
            is_abandoned: false,
            is_held: start == Start::WhenReleased,
        };
        self.processes.begin(key, starting);
        Ok(())
    }

    fn tell_held(&mut self, key: ProcessKey) -> Result<(), Broken> {
        let Some(starting) = self.processes.starting.get(&key) else { return Ok(()) };
        let pidfd = starting.pidfd.try_clone().map_err(Broken::Descriptor)?;
        self.tell(Event::Held { key }, vec![pidfd])
    }

    /// What the process is sent has no meaning but that it comes. One that takes nothing has been
    /// killed, which is told as the end that it is.
    fn release(&mut self, key: &ProcessKey) {
        if let Some(starting) = self.processes.starting.get_mut(key).filter(|starting| starting.is_held) {
            let _ = packet::send(starting.status.as_fd(), &[wire::VERSION], &[]);
            starting.is_held = false;
        }
    }

    /// Bounded, so that a new connection and its descriptors always find room.
    fn most_processes(&self) -> usize {
        let by_files = self.open_files.saturating_sub(SPARE_FILES) / FILES_A_PROCESS;
        MAX_PROCESSES.min(usize::try_from(by_files).unwrap_or(MAX_PROCESSES))
    }

    /// Looks how far each process on its way has got.
    pub(super) fn settle_all(&mut self) -> Result<(), Broken> {
        let keys: Vec<_> = self.processes.starting.keys().copied().collect();
        keys.iter().try_for_each(|key| self.settle(key))
    }

    /// Looks how far a process on its way has got; one whose exec has succeeded is made known.
    pub(super) fn settle(&mut self, key: &ProcessKey) -> Result<(), Broken> {
        let Some(starting) = self.processes.starting.get_mut(key) else { return Ok(()) };
        let progress = starting.progress(&mut self.buffer);
        if progress == Progress::Fails {
            // It is about to end anyway, if it is what it says.
            let _ = sys::kill(Target::Process(starting.pid), libc::SIGKILL);
        }
        if progress != Progress::Runs || starting.is_abandoned {
            return Ok(());
        }
        self.has_started(key)
    }

    /// A process on its way is known from now on.
    pub(super) fn has_started(&mut self, key: &ProcessKey) -> Result<(), Broken> {
        let Some(starting) = self.processes.starting.remove(key) else { return Ok(()) };
        let Starting { asker, pid, pidfd, held, .. } = starting;
        // One whose asker is gone shows by Known, when the next has said Hello.
        let is_announced = self.is_greeted() && self.connections == asker;
        let master = match &held {
            Held::Terminal { master: Some(master), .. } => Some(master.try_clone()),
            _ => None,
        };
        self.processes.run(*key, Process { pid, exit: None, held, is_announced });
        if !is_announced {
            return Ok(());
        }
        let master = master.transpose().map_err(Broken::Descriptor)?;
        self.tell(Event::Spawned { key: *key, pid }, [pidfd].into_iter().chain(master).collect())
    }

    /// A child leads its own session and so its own group, once it has come that far.
    fn signal(&self, key: &ProcessKey, signal: i32) {
        let Some(pid) = self.processes.pid(key).filter(|_| is_signal(signal)) else { return };
        if sys::kill(Target::Group(pid), signal).is_err() {
            let _ = sys::kill(Target::Process(pid), signal);
        }
    }

    /// "Everything" is the container only to pid 1.
    fn signal_all(&self, signal: i32) {
        match self.realm {
            _ if !is_signal(signal) => {}
            Realm::Namespace if std::process::id() == 1 => {
                let _ = sys::kill(Target::Everything, signal);
            }
            Realm::Namespace => {}
            Realm::Descendants => descendants::signal_all(getpid(), signal),
        }
    }

    fn resize(&mut self, key: &ProcessKey, columns: u16, rows: u16) {
        if let Some(Process { held: Held::Terminal { master: Some(master), .. }, .. }) = self.processes.get_mut(key) {
            // One that was hung up has no size any more.
            let _ = tcsetwinsize(master, Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 });
        }
    }

    fn close_stdin(&mut self, key: &ProcessKey) {
        if let Some(Process { held: Held::Pipes { stdin, .. }, .. }) = self.processes.get_mut(key) {
            *stdin = None;
        }
    }

    fn forget(&mut self, key: &ProcessKey) {
        match self.processes.forget(key) {
            Some(Held::Pipes { outputs, .. }) => outputs.into_iter().for_each(|pipe| self.drain.add(pipe)),
            Some(Held::Terminal { master, .. }) => master.into_iter().for_each(|master| self.drain.add(master)),
            None => {}
        }
    }
}

/// The process's own descriptors, and those that init keeps.
fn divide(tty: Option<(u16, u16)>, fds: Vec<OwnedFd>) -> Result<(Stdio, Held), SpawnFailure> {
    let wrong_number = |fds: Vec<OwnedFd>, wanted: &str| SpawnFailure::Malformed {
        reason: format!("{} descriptors beside Spawn; {wanted} are needed", fds.len()),
    };
    if let Some((columns, rows)) = tty {
        let relay = fds.try_into().map_err(|fds| wrong_number(fds, "2"))?;
        return Ok((Stdio::Terminal(columns, rows), Held::Terminal { master: None, relay }));
    }
    let [stdin, stdin_far, stdout, stdout_far, stderr, stderr_far] =
        <[OwnedFd; 6]>::try_from(fds).map_err(|fds| wrong_number(fds, "6"))?;
    let held = Held::Pipes { stdin: Some(stdin_far), outputs: [stdout_far, stderr_far] };
    Ok((Stdio::Pipes([stdin, stdout, stderr]), held))
}

fn read_file(file: OwnedFd) -> Result<Vec<u8>, Broken> {
    let seen = fstat(&file).map_err(|error| Broken::Descriptor(error.into()))?;
    if FileType::from_raw_mode(seen.st_mode) != FileType::RegularFile {
        return Err(Broken::Protocol("what is beside InFile is no file"));
    }
    let bytes = usize::try_from(seen.st_size).unwrap_or(usize::MAX);
    if bytes > MAX_REQUEST {
        return Err(wire::WireError::TooLarge { bytes, limit: MAX_REQUEST }.into());
    }
    let mut request = vec![0; bytes];
    File::from(file).read_exact_at(&mut request, 0).map_err(Broken::Descriptor)?;
    Ok(request)
}

fn is_signal(signal: i32) -> bool {
    (1..=sys::MAX_SIGNAL).contains(&signal)
}
