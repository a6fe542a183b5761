//! Pid 1: one loop over everything that can happen. Without a pid namespace of its own, the process
//! that all orphans of its container come to.
//!
//! Promises: what runs is reaped, whoever its parent was; a process's status and the outer ends of
//! its streams are kept until gardend has acknowledged them, over any number of connections; a
//! process that hangs on its way to its exec, and a peer that does not read, hold up nobody.
//! It touches no file of the container's after its start ([`crate::child`] does that), and
//! nothing that a peer says ends it.

mod connection;
mod drain;
mod processes;
mod requests;
mod transfers;

use crate::child::{Inheritance, OPEN_FILES, Privileges, is_spared_by_oom};
use crate::packet::Packet;
use crate::sys::{self, ChildSignals};
use crate::wire::{Event, ProcessKey, SOCKET_NAME};
use connection::{Broken, Connection};
use drain::Drain;
use processes::{Processes, Starting};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, chmod, unlink};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with, sockopt,
};
use rustix::process::{DumpableBehavior, geteuid, getpid, set_child_subreaper, set_dumpable_behavior, setsid, umask};
use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use transfers::Transfers;

/// Processes that are kept, running or ended. Beyond it none is started, so that no status is lost.
const MAX_PROCESSES: usize = 65_536;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4;
/// Requests that are done before anything else is looked at.
const REQUESTS_A_TURN: usize = 16;
/// Above this the buffer that a request came in, and what else it took, goes back to the kernel.
const LARGE_REQUEST: usize = 8 * 1024;
/// How long nobody is accepted after that has failed for want of memory or descriptors.
const ACCEPT_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// How it is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the socket is made.
    pub folder: PathBuf,
    /// Who may connect.
    pub peers: Peers,
    /// What the container is.
    pub realm: Realm,
}

/// What everything is, where everything is to be signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Realm {
    /// A pid namespace, of which this is pid 1.
    Namespace,
    /// Whatever descends from this process, whoever its parent is by now.
    Descendants,
}

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Processes outside of our pid namespace: nobody whom we started, whatever its user.
    Outside,
    /// Our own user, and root: where nothing keeps anybody apart.
    SameUser,
    /// For tests.
    Any,
}

/// Why init could not start.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}: {reason}")]
pub struct StartError {
    attempt: String,
    #[source]
    reason: Errno,
}

/// What a turn of the loop waits for.
enum Source {
    Listener,
    Children,
    Connection,
    Starting(ProcessKey),
    /// One of the streams that are read away, by its number there.
    Drained(usize),
    /// A process that moves files has ended.
    Transfer(i32),
}

struct Server {
    peers: Peers,
    realm: Realm,
    listener: OwnedFd,
    children: ChildSignals,
    connection: Option<Connection>,
    /// How many connections there have been: the number of the present one.
    connections: u64,
    processes: Processes,
    drain: Drain,
    transfers: Transfers,
    inheritance: Inheritance,
    /// Init's own limit.
    open_files: u64,
    /// Nobody is accepted for a moment.
    is_pausing: bool,
    /// Has no content between two uses.
    buffer: Vec<u8>,
    /// A request took much memory, which is to go back to the kernel.
    has_grown: bool,
}

/// Serves for ever.
///
/// # Errors
/// Where the start fails; nothing fails later.
pub fn run(options: &Options) -> Result<Infallible, StartError> {
    let mut server = Server::start(options)?;
    loop {
        server.turn();
    }
}

impl Server {
    fn start(options: &Options) -> Result<Self, StartError> {
        let failed = |attempt: &str| {
            let attempt = attempt.to_owned();
            move |reason: Errno| StartError { attempt, reason }
        };
        let children = sys::take_signals().map_err(|error| failed("cannot take signals")(errno(&error)))?;
        if options.realm == Realm::Descendants {
            set_child_subreaper(Some(getpid())).map_err(failed("cannot become the parent of orphans"))?;
            // A terminal that gardend was started on is none of its matters. It may lead a session already.
            let _ = setsid();
        }
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("cannot become non-dumpable"))?;
        rustix::thread::set_name(c"garden-init").map_err(failed("cannot take its name"))?;
        umask(Mode::from_raw_mode(0o022));
        // The descriptor of a folder that the container is to lose would keep it.
        sys::close_all_but(&[children.as_fd()]);
        let privileges = Privileges::of_this_process().map_err(failed("cannot read its capabilities"))?;
        privileges.raise().map_err(failed("cannot empty its inheritable capabilities"))?;
        let inheritance =
            Inheritance { privileges, open_files: raise_open_files(), is_spared_by_oom: is_spared_by_oom() };
        let path = options.folder.join(SOCKET_NAME);
        let listener = bind_socket(&path).map_err(failed(&format!("cannot listen on {}", path.display())))?;
        rustix::process::chdir("/").map_err(failed("cannot enter /"))?;
        Ok(Self {
            peers: options.peers,
            realm: options.realm,
            listener,
            children,
            connection: None,
            connections: 0,
            processes: Processes::default(),
            drain: Drain::default(),
            transfers: Transfers::default(),
            inheritance,
            open_files: sys::limit(OPEN_FILES).map_or(0, |(soft, _)| soft),
            is_pausing: false,
            buffer: Vec::new(),
            has_grown: false,
        })
    }

    /// Waits until something happens, and does what it asks for.
    fn turn(&mut self) {
        let ready = self.wait();
        self.is_pausing = false;
        // Processes first: what is known of them is up to date when a request speaks of it.
        let drained = ready.iter().filter_map(|source| match source {
            Source::Drained(number) => Some(*number),
            _ => None,
        });
        self.drain.turn(&drained.collect::<Vec<_>>());
        for source in ready {
            let done = match source {
                Source::Starting(key) => self.settle(&key),
                Source::Children => {
                    self.children.clear();
                    self.reap()
                }
                Source::Drained(_) => Ok(()),
                Source::Transfer(pid) => {
                    self.transfers.reap(pid);
                    Ok(())
                }
                Source::Connection => self.serve(),
                Source::Listener => {
                    self.accept();
                    Ok(())
                }
            };
            if done.is_err() {
                // What the peer missed it learns from the answer to its next Hello.
                self.connection = None;
            }
        }
    }

    fn wait(&mut self) -> Vec<Source> {
        let mut sources = Vec::new();
        let mut fds = Vec::new();
        let mut watch = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        for (key, starting) in &self.processes.starting {
            if starting.failure.is_none() && !starting.is_abandoned {
                watch(Source::Starting(*key), starting.status.as_fd(), PollFlags::IN);
            }
        }
        watch(Source::Children, self.children.as_fd(), PollFlags::IN);
        for (number, stream) in self.drain.streams().enumerate() {
            watch(Source::Drained(number), stream, PollFlags::IN);
        }
        for (pid, pidfd) in self.transfers.watched() {
            watch(Source::Transfer(pid), pidfd, PollFlags::IN);
        }
        if let Some(connection) = &self.connection {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, connection.is_reading());
            flags.set(PollFlags::OUT, connection.is_writing());
            watch(Source::Connection, connection.as_fd(), flags);
        }
        if !self.is_pausing {
            watch(Source::Listener, self.listener.as_fd(), PollFlags::IN);
        }
        let timeout = self.is_pausing.then_some(&ACCEPT_PAUSE);
        if poll(&mut fds, timeout).is_err() {
            // Out of memory at worst: the next turn asks again.
            return Vec::new();
        }
        let is_ready = |(_, fd): &(Source, &PollFd<'_>)| !fd.revents().is_empty();
        sources.into_iter().zip(&fds).filter(is_ready).map(|(source, _)| source).collect()
    }

    /// A new connection takes the place of the old one, whose gardend is gone.
    fn accept(&mut self) {
        match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => {
                if self.is_welcome(&socket) {
                    self.connections += 1;
                    self.connection = Some(Connection::new(socket));
                }
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(_) => self.is_pausing = true,
        }
    }

    fn is_welcome(&self, peer: &OwnedFd) -> bool {
        match self.peers {
            Peers::Any => true,
            Peers::Outside => sys::peer_pid(peer.as_fd()).is_ok_and(|pid| pid == 0),
            Peers::SameUser => {
                sockopt::socket_peercred(peer).is_ok_and(|who| who.uid == geteuid() || who.uid.is_root())
            }
        }
    }

    /// Sends what waits, and does what is asked.
    fn serve(&mut self) -> Result<(), Broken> {
        if let Some(connection) = &mut self.connection {
            connection.flush(&mut self.processes)?;
        }
        for _ in 0..REQUESTS_A_TURN {
            let Some(connection) = self.connection.as_ref().filter(|connection| connection.is_reading()) else { break };
            let mut buffer = std::mem::take(&mut self.buffer);
            let fds = match connection.receive(&mut buffer)? {
                None => {
                    self.buffer = buffer;
                    break;
                }
                Some(Packet::End) => return Err(Broken::Protocol("the peer has closed the connection")),
                Some(Packet::Message(fds)) => fds,
            };
            self.has_grown = buffer.len() > LARGE_REQUEST;
            let handled = self.handle(&buffer, fds);
            if std::mem::take(&mut self.has_grown) {
                drop(buffer);
                sys::trim_memory();
            } else {
                self.buffer = buffer;
            }
            handled?;
        }
        Ok(())
    }

    /// Takes every process that has ended, ours and those whose parents were ours.
    fn reap(&mut self) -> Result<(), Broken> {
        let mut result = Ok(());
        let mut has_reaped = false;
        loop {
            match sys::reap() {
                Ok(Some(reaped)) => {
                    has_reaped = true;
                    let told = self.ended(reaped);
                    result = result.and(told);
                }
                Ok(None) => return result,
                // No child is left.
                Err(_) if has_reaped => return result.and_then(|()| self.tell(Event::Emptied, Vec::new())),
                Err(_) => return result,
            }
        }
    }

    fn ended(&mut self, reaped: sys::Reaped) -> Result<(), Broken> {
        let Some(key) = self.processes.reaped(reaped.pid) else { return Ok(()) };
        // It may have reported, or become its program, since that was looked at last.
        let mut settled = self.settle(&key);
        // All that it reported was read. The other end of its socket may be open all the same: in
        // some child of gardend's that is on its way to its own exec.
        let silent = |starting: &Starting| starting.failure.is_none() && !starting.is_abandoned;
        if self.processes.starting.get(&key).is_some_and(silent) {
            settled = settled.and(self.has_started(&key));
        }
        if let Some(starting) = self.processes.starting.remove(&key) {
            let asked_here = !starting.is_abandoned && starting.asker == self.connections;
            return match starting.failure {
                Some(error) if asked_here => self.tell(Event::SpawnFailed { key, error }, Vec::new()),
                _ => settled,
            };
        }
        let Some(process) = self.processes.get_mut(&key) else { return settled };
        process.exit = Some(reaped.exit);
        let is_announced = process.is_announced;
        settled?;
        if is_announced {
            self.tell(Event::Exited { key, exit: reaped.exit }, Vec::new())?;
        }
        Ok(())
    }

    /// Nobody hears it where nobody has said Hello.
    fn tell(&mut self, event: Event, fds: Vec<OwnedFd>) -> Result<(), Broken> {
        match &mut self.connection {
            Some(connection) if connection.is_greeted => connection.send(&event, fds),
            _ => Ok(()),
        }
    }

    fn is_greeted(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.is_greeted)
    }
}

fn bind_socket(path: &Path) -> rustix::io::Result<OwnedFd> {
    match unlink(path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    // Nobody can connect before listen, so that the mode holds from the start.
    chmod(path, Mode::from_raw_mode(0o600))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Init keeps the descriptors of many processes; they get back what it was started with.
fn raise_open_files() -> Option<(u64, u64)> {
    let (soft, hard) = sys::limit(OPEN_FILES).ok()?;
    (soft < hard && sys::set_limit(OPEN_FILES, hard, hard).is_ok()).then_some((soft, hard))
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
