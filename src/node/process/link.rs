//! One connection to one init: requests out, answers and events in.
//!
//! An init may be in the hands of its container's root. Whatever it says is decoded within limits
//! and believed only of processes of its own; what makes no sense ends the connection, and with it
//! that container alone. It is read at a bounded rate, and nothing waits for it without a deadline.

use super::{Ends, sys};
use garden_init::packet::{Packet, PacketError, recv, send};
use garden_init::wire::{self, Streams};
use garden_init::wire::{Event, Exit, MAX_PACKET, ProcessKey, Request, SOCKET_NAME, SpawnFailure, VERSION};
use rustix::fs::{MemfdFlags, Mode, OFlags, SeekFrom, memfd_create, open, seek};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
use rustix::process::{Gid, Pid, Uid};
use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long an init may leave a request in its socket's queue.
const SEND_DEADLINE: Duration = Duration::from_secs(5);
/// Processes of one place that are taken over at most; each brings up to three descriptors.
const MAX_KNOWN: usize = 4096;
/// Spawns that one init may leave unanswered.
const MAX_PENDING: usize = 1024;
/// Packets that are read at once, and then a millisecond each `RATE`.
const BURST: f64 = 8192.0;
const RATE: f64 = 50.0;

thread_local! {
    /// For one packet, until it is decoded. With one for each connection, which nearly always waits, 64 KB
    /// a container were most of what gardend needed.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A process that an init told of when it was connected to.
#[derive(Debug)]
pub struct Known {
    pub key: ProcessKey,
    pub pid: i32,
    pub exit: Option<Exit>,
    pub streams: Streams,
    pub fds: Vec<OwnedFd>,
}

/// A spawn that was asked for.
pub struct Pending {
    /// Our ends of its streams.
    pub ends: Ends,
    /// Who waits for the answer.
    pub answer: oneshot::Sender<Result<u32, SpawnFailure>>,
    /// Who waits for the process to be held, and gets its pidfd, where it is to be.
    pub held: Option<oneshot::Sender<OwnedFd>>,
    /// Nobody waits any more, and the caller was told that it failed: it shall not run.
    pub overdue: bool,
}

#[derive(Default)]
struct Waiting {
    spawns: HashMap<ProcessKey, Pending>,
    occupied: HashMap<u64, oneshot::Sender<bool>>,
    token: u64,
    /// Why the connection is gone.
    gone: Option<String>,
}

/// The connection.
pub struct Link {
    socket: AsyncFd<OwnedFd>,
    owner: (Uid, Gid),
    waiting: Mutex<Waiting>,
    /// Cancelled when the connection shall end.
    pub closed: CancellationToken,
}

impl Link {
    /// Connects and takes over what the init knows.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn connect(place: &Path, deadline: Duration) -> Result<(Self, Option<Pid>, Vec<Known>), String> {
        let handshake = async {
            let socket = open_socket(place).await?;
            let peer = sockopt::socket_peercred(&socket).ok();
            let owner = peer.map_or((Uid::ROOT, Gid::ROOT), |peer| (peer.uid, peer.gid));
            let socket =
                sys::watch(socket, sys::BOTH).map_err(|error| format!("its socket cannot be watched: {error}"))?;
            let link = Self { socket, owner, waiting: Mutex::default(), closed: CancellationToken::new() };
            link.send(&Request::Hello { version: VERSION }, &[]).await?;
            let known = link.take_over().await?;
            Ok((link, peer.map(|peer| peer.pid), known))
        };
        // Cancel-safe: descriptors and connection are dropped; init keeps its own.
        timeout(deadline, handshake).await.unwrap_or_else(|_| Err(format!("no answer within {deadline:?}")))
    }

    /// Who the place's root is on the host.
    pub fn owner(&self) -> (Uid, Gid) {
        self.owner
    }

    async fn take_over(&self) -> Result<Vec<Known>, String> {
        match self.receive().await? {
            (Event::Hello { version, .. }, _) if (1..=VERSION).contains(&version) => {}
            (Event::Hello { version, .. }, _) => {
                return Err(format!("it speaks version {version}, we up to {VERSION}"));
            }
            _ => return Err("it did not say hello first".into()),
        }
        let mut known = Vec::new();
        loop {
            match self.receive().await? {
                (Event::Known { key, pid, exit, streams }, fds) => known.push(Known { key, pid, exit, streams, fds }),
                (Event::KnownEnd, _) => return Ok(known),
                _ => return Err("it said something else before it had told what it knows".into()),
            }
            if known.len() > MAX_KNOWN {
                return Err(format!("it claims to know more than {MAX_KNOWN} processes"));
            }
        }
    }

    /// The next message. Cancel-safe: a packet is received whole or stays in the queue.
    ///
    /// # Errors
    /// What is wrong with it or with the connection, in words.
    pub async fn receive(&self) -> Result<(Event, Vec<OwnedFd>), String> {
        loop {
            let mut ready = self.socket.readable().await.map_err(|error| error.to_string())?;
            match BUFFER.with_borrow_mut(|buffer| receive_now(self.socket.as_fd(), buffer)) {
                Some(received) => return received,
                None => ready.clear_ready(),
            }
        }
    }

    /// Sends a request, with descriptors beside it.
    ///
    /// # Errors
    /// Why it did not go out, in words.
    pub async fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), String> {
        let bytes = wire::encode(request).map_err(|error| error.to_string())?;
        self.send_encoded(&bytes, fds).await
    }

    /// Sends a request that is encoded already.
    ///
    /// # Errors
    /// Why it did not go out, in words.
    pub async fn send_encoded(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), String> {
        if bytes.len() > MAX_PACKET {
            let file = in_file(bytes).map_err(|error| format!("the request cannot be put into a file: {error}"))?;
            let in_file = wire::encode(&Request::InFile).map_err(|error| error.to_string())?;
            let fds: Vec<BorrowedFd<'_>> = std::iter::once(file.as_fd()).chain(fds.iter().copied()).collect();
            return self.send_packet(&in_file, &fds).await;
        }
        self.send_packet(bytes, fds).await
    }

    async fn send_packet(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), String> {
        let write = async {
            loop {
                let mut ready = self.socket.writable().await.map_err(|error| error.to_string())?;
                match send(self.socket.as_fd(), bytes, fds) {
                    Err(PacketError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        ready.clear_ready()
                    }
                    other => return other.map_err(|error| error.to_string()),
                }
            }
        };
        // Cancel-safe: a packet goes out whole or not at all.
        timeout(SEND_DEADLINE, write)
            .await
            .unwrap_or_else(|_| Err(format!("it has taken no request for {SEND_DEADLINE:?}")))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a spawn is asked for.
    ///
    /// # Errors
    /// Where the connection is gone, or its init owes too many answers.
    pub fn expect_spawn(&self, key: ProcessKey, pending: Pending) -> Result<(), String> {
        let mut waiting = self.waiting();
        if let Some(reason) = &waiting.gone {
            return Err(reason.clone());
        }
        if waiting.spawns.len() >= MAX_PENDING {
            return Err(format!("it owes {MAX_PENDING} answers already"));
        }
        waiting.spawns.insert(key, pending);
        Ok(())
    }

    /// What was asked for, and is answered now.
    pub fn take_spawn(&self, key: ProcessKey) -> Option<Pending> {
        self.waiting().spawns.remove(&key)
    }

    /// Who waits for a process to be held.
    pub fn take_held(&self, key: ProcessKey) -> Option<oneshot::Sender<OwnedFd>> {
        self.waiting().spawns.get_mut(&key)?.held.take()
    }

    /// The caller has been told that it failed; if it runs after all, it is to be killed.
    pub fn give_up_spawn(&self, key: ProcessKey) {
        if let Some(pending) = self.waiting().spawns.get_mut(&key) {
            pending.overdue = true;
        }
    }

    /// A question for whether anything runs, and where its answer will come.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn expect_occupied(&self) -> Result<(u64, oneshot::Receiver<bool>), String> {
        let mut waiting = self.waiting();
        if let Some(reason) = &waiting.gone {
            return Err(reason.clone());
        }
        // Questions that nobody waits for any more.
        waiting.occupied.retain(|_, answer| !answer.is_closed());
        waiting.token += 1;
        let (answer, answered) = oneshot::channel();
        let token = waiting.token;
        waiting.occupied.insert(token, answer);
        Ok((token, answered))
    }

    /// The answer to it.
    pub fn answer_occupied(&self, token: u64, occupied: bool) {
        if let Some(answer) = self.waiting().occupied.remove(&token) {
            let _ = answer.send(occupied);
        }
    }

    /// Why the connection is gone, if it is.
    pub fn gone(&self) -> Option<String> {
        self.waiting().gone.clone()
    }

    /// The connection is gone: whoever waits learns it. False where that was known.
    pub fn fail(&self, reason: &str) -> bool {
        let mut waiting = self.waiting();
        let first = waiting.gone.is_none();
        if first {
            waiting.gone = Some(reason.to_owned());
        }
        waiting.spawns.clear();
        waiting.occupied.clear();
        self.closed.cancel();
        first
    }
}

/// How fast an init is listened to.
pub struct Pace {
    burst: f64,
    rate: f64,
    tokens: f64,
    last: Instant,
}

impl Pace {
    /// For every packet.
    pub fn packets() -> Self {
        Self::new(BURST, RATE)
    }

    /// For events that cost others something.
    pub fn events() -> Self {
        Self::new(4096.0, 2.0)
    }

    fn new(burst: f64, rate: f64) -> Self {
        Self { burst, rate, tokens: burst, last: Instant::now() }
    }

    /// Waits where too much came at once.
    pub async fn step(&mut self) {
        self.tokens -= 1.0;
        while self.tokens < 0.0 {
            let now = Instant::now();
            let elapsed = (now - self.last).as_secs_f64() * 1000.0;
            self.last = now;
            self.tokens = (self.tokens + elapsed * self.rate).min(self.burst);
            if self.tokens < 0.0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

/// Connects to the socket in the place's folder, by way of the folder's descriptor: the path as a
/// whole may be longer than a socket's address can hold.
async fn open_socket(place: &Path) -> Result<OwnedFd, String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = open(place, flags, Mode::empty())
        .map_err(|error| format!("its folder {} cannot be opened: {error}", place.display()))?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET_NAME}", folder.as_raw_fd()))
        .map_err(|error| error.to_string())?;
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(|error| format!("no socket can be made: {error}"))?;
        match connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            // Its queue of connections is full: it may be busy. The caller's deadline ends this.
            Err(Errno::AGAIN) => sleep(Duration::from_millis(10)).await,
            Err(Errno::INTR) => {}
            Err(error) => return Err(format!("{}/{SOCKET_NAME}: {error}", place.display())),
        }
    }
}

/// The packet that is there, where there is one.
fn receive_now(socket: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> Option<Result<(Event, Vec<OwnedFd>), String>> {
    Some(match recv(socket, buffer) {
        Ok(Packet::Message(fds)) => wire::decode(buffer).map(|event| (event, fds)).map_err(|error| error.to_string()),
        Ok(Packet::End) => Err("it has closed its connection".into()),
        Err(error) if error.would_block() => return None,
        Err(error) => Err(error.to_string()),
    })
}

fn in_file(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let file = std::fs::File::from(memfd_create("request", MemfdFlags::CLOEXEC)?);
    std::io::Write::write_all(&mut &file, bytes)?;
    let file = OwnedFd::from(file);
    seek(&file, SeekFrom::Start(0))?;
    Ok(file)
}
