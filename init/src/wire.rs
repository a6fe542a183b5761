//! The words between gardend and garden-init.
//!
//! Transport: one `SOCK_SEQPACKET` connection over the unix socket [`SOCKET_NAME`] in the place's
//! own folder. One packet is one message: a byte that names the protocol's version, then the
//! postcard encoding of [`Request`] (to init) or [`Event`] (from init). Descriptors travel beside
//! it by `SCM_RIGHTS`, in the order that each message documents.
//! A request that is larger than [`MAX_PACKET`] goes as [`Request::InFile`], with the encoded
//! request in a memfd (at most [`MAX_REQUEST`] bytes).
//!
//! Evolution: variants and trailing messages are only ever appended, never changed; what changes
//! shape gets a new variant. [`Event::Hello`] tells which version an init speaks, and a newer
//! gardend sends an older init only what that version knows.

use serde::{Deserialize, Serialize};

/// The version of this file.
pub const VERSION: u8 = 1;
/// The socket's name in the place's folder, which init sees as [`CONTROL_DIR`].
pub const SOCKET_NAME: &str = "init.sock";
/// Where the blank rootfs shows the place's folder.
pub const CONTROL_DIR: &str = "/ctl";
/// The largest packet either side sends.
pub const MAX_PACKET: usize = 64 * 1024;
/// The largest request, by whatever way.
pub const MAX_REQUEST: usize = 4 * 1024 * 1024;
/// Descriptors beside one message, at most.
pub const MAX_FDS: usize = 8;

/// What init sends over the status socket of a process that it has adopted.
pub const GO: &[u8] = b"go";

/// A process, as gardend names it: 16 bytes (its uid).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessKey(pub [u8; 16]);

/// What gardend says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First on every connection. Answered by [`Event::Hello`], one [`Event::Known`] for each
    /// process that init knows, and [`Event::KnownEnd`]. A new connection replaces the old one.
    /// What an earlier connection asked for and has not reached its exec is killed and never known,
    /// so that what is not in the list will not run later.
    Hello {
        /// The highest version that the sender speaks.
        version: u8,
    },
    /// The request is in the one descriptor beside (a memfd, from offset 0 to its end).
    InFile,
    /// Start a process. Beside it, for a process without a terminal, six descriptors:
    /// stdin read, stdin write, stdout write, stdout read, stderr write, stderr read
    /// (the child gets the first of each pair, init keeps the second until [`Request::Forget`]).
    /// Pipes whose user and group the container knows are given to the process's user, so that
    /// `/dev/stdout` can be opened by name.
    /// With a terminal, two: the relay pipe's write end and its read end (init keeps both; it is
    /// gardend that moves bytes from the terminal into the relay).
    /// Answered by [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn {
        /// The process's name from now on. One that is known already: `SpawnFailed(Duplicate)`.
        key: ProcessKey,
        /// What to run.
        spec: SpawnSpec,
    },
    /// Signal a process (and its group: a process is the leader of its own session).
    Signal {
        /// Which; one that is unknown or has ended is ignored.
        key: ProcessKey,
        /// As in signal(7).
        signal: i32,
    },
    /// Signal everything in the pid namespace but init.
    SignalAll {
        /// As in signal(7).
        signal: i32,
    },
    /// Give a terminal a new size (raises SIGWINCH).
    Resize {
        /// Which; one without a terminal is ignored.
        key: ProcessKey,
        /// Characters.
        columns: u16,
        /// Characters.
        rows: u16,
    },
    /// Close init's copy of the stdin pipe's write end. A terminal's is left.
    CloseStdin {
        /// Which.
        key: ProcessKey,
    },
    /// Status and output are safe: drop the process's descriptors and its status. What a
    /// surviving grandchild still writes is read and discarded from then on, so that it does not
    /// die of SIGPIPE. Ignored for a process that runs.
    Forget {
        /// Which.
        key: ProcessKey,
    },
    /// Answered by [`Event::Occupied`].
    IsOccupied {
        /// Echoed.
        token: u64,
    },
    /// Is init there?
    Ping {
        /// Echoed in [`Event::Pong`].
        token: u64,
    },
    /// Take a process that was made outside ([`crate::enter`]), and is a child by now, for one of
    /// its own. Beside it: its pidfd, init's end of its status socket, over which it is told to go on
    /// ([`GO`]), and what init keeps of its streams: stdin write, stdout read, stderr read, or
    /// with a terminal the relay's write end and read end.
    /// Answered by [`Event::Spawned`] or [`Event::SpawnFailed`].
    Adopt {
        /// The process's name from now on.
        key: ProcessKey,
        /// In init's pid namespace.
        pid: i32,
        /// It makes a terminal for itself.
        has_terminal: bool,
    },
    /// Move files. Beside it two descriptors: the end of a pipe that the tar stream is read from
    /// or written to, and a seqpacket socket over which [`TransferReport`]s come. Init closes its
    /// copies of both at once, so that their other ends tell when it is over; there is no event.
    Transfer {
        /// What to move.
        spec: TransferSpec,
    },
    /// As [`Request::Spawn`], but the process waits, before it does anything at all, until
    /// [`Request::Release`]. Answered by [`Event::Held`] first. It is held by the connection that
    /// asked for it: with another [`Request::Hello`] it is killed, like all that has not reached
    /// its exec, so that what was never released never runs.
    SpawnHeld {
        /// As in [`Request::Spawn`].
        key: ProcessKey,
        /// What to run.
        spec: SpawnSpec,
    },
    /// Let a held process go on. One that is not held is left alone.
    Release {
        /// Which.
        key: ProcessKey,
    },
}

/// What init says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Answer to [`Request::Hello`].
    Hello {
        /// The version that will be spoken: the lower of both sides' highest.
        version: u8,
        /// Highest file-size-independent limits that children can be given: (resource number as
        /// in getrlimit(2), hard limit), for all sixteen.
        ceilings: Vec<(u32, u64)>,
    },
    /// A process that was started over an earlier connection. Beside it its descriptors, as
    /// [`Streams`] tells.
    Known {
        /// Which.
        key: ProcessKey,
        /// In init's pid namespace; 0 once it has ended.
        pid: i32,
        /// How it ended, if it has.
        exit: Option<Exit>,
        /// Which descriptors are beside.
        streams: Streams,
    },
    /// After the last [`Event::Known`].
    KnownEnd,
    /// A process runs (its exec has succeeded). Beside it: its pidfd, and then the descriptors
    /// that only init had: with a terminal, the pty's master.
    Spawned {
        /// Which.
        key: ProcessKey,
        /// In init's pid namespace.
        pid: i32,
    },
    /// Nothing was started, nothing remains of it; the descriptors that came with it are closed.
    SpawnFailed {
        /// Which.
        key: ProcessKey,
        /// Why.
        error: SpawnFailure,
    },
    /// A process ended. Sent once a connection; kept until [`Request::Forget`].
    Exited {
        /// Which.
        key: ProcessKey,
        /// How.
        exit: Exit,
    },
    /// The last process but init is gone. Sent at each such moment.
    Emptied,
    /// Answer to [`Request::IsOccupied`].
    Occupied {
        /// As asked.
        token: u64,
        /// Something but init runs.
        occupied: bool,
    },
    /// Answer to [`Request::Ping`].
    Pong {
        /// As asked.
        token: u64,
    },
    /// A process waits for [`Request::Release`]. Beside it: its pidfd.
    Held {
        /// Which.
        key: ProcessKey,
    },
}

/// Which descriptors travel beside [`Event::Known`], in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Streams {
    /// None are left.
    None,
    /// Without a terminal: stdin's write end (where `stdin`), stdout's and stderr's read ends.
    Pipes {
        /// Stdin has not been closed.
        stdin: bool,
    },
    /// With a terminal: its master, the relay's write end, the relay's read end.
    Terminal,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// With this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnSpec {
    /// A path, or a name looked up in the PATH of `env`.
    pub path: Vec<u8>,
    /// Arguments after the program's own name.
    pub args: Vec<Vec<u8>>,
    /// `K=V`, the later wins; HOME, USER and PATH are added where unset.
    pub env: Vec<Vec<u8>>,
    /// Empty: the user's home. Made where missing, owned by the user.
    pub dir: Vec<u8>,
    /// Empty: root. `name`, `uid`, `uid:gid`, `name:group`.
    pub user: String,
    /// (resource number as in getrlimit(2), soft and hard limit).
    pub rlimits: Vec<(u32, u64)>,
    /// A terminal of this size (columns, rows).
    pub tty: Option<(u16, u16)>,
    /// Capabilities, as bit sets, that a process of root is given (effective, permitted and
    /// bounding; inheritable and ambient empty). Another user's process gets only the bounding.
    pub capabilities: u64,
}

/// Why a process was not started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpawnFailure {
    /// No such program (ENOENT on the path, or nowhere in PATH).
    NotFound,
    /// The program is there; execve(2) failed with this errno.
    Exec {
        /// errno.
        errno: i32,
        /// The file exists, so that ENOENT speaks of its interpreter.
        exists: bool,
    },
    /// No such user in /etc/passwd (or none such, and no number).
    UnknownUser,
    /// No such group in /etc/group.
    UnknownGroup {
        /// The group's name, as asked.
        group: String,
    },
    /// The folder could not be made or entered.
    Dir {
        /// As resolved.
        dir: Vec<u8>,
        /// errno.
        errno: i32,
    },
    /// A resource limit above the ceiling.
    Rlimit {
        /// As in getrlimit(2).
        resource: u32,
        /// Asked.
        asked: u64,
        /// The ceiling.
        ceiling: u64,
    },
    /// The key is taken.
    Duplicate,
    /// Something else: the system call, and its errno.
    System {
        /// "fork", "setgroups", "openpty", ...
        call: String,
        /// errno.
        errno: i32,
    },
    /// The request makes no sense (wrong number of descriptors, NUL bytes, ...).
    Malformed {
        /// What was wrong.
        reason: String,
    },
}

/// Files to move between the container and a tar stream, by a process that is none of the
/// container's: it is not asked after by [`Request::IsOccupied`], and no signal but KILL ends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferSpec {
    /// Where to.
    pub direction: Direction,
    /// As in [`SpawnSpec::user`].
    pub user: String,
    /// In: the folder to unpack into, made where missing, owned by the user. Out: what to pack; one
    /// that ends in a slash is the contents of a folder. Relative to the user's home.
    pub path: Vec<u8>,
    /// As in [`SpawnSpec::capabilities`].
    pub capabilities: u64,
}

/// Where files move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// Out of a stream, which may be compressed by gzip, into the container.
    In,
    /// Out of the container into a stream.
    Out,
}

/// How far a transfer has got. The end of its socket without `Done` or `Failed`: it was killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferReport {
    /// It has begun: user and path are there. No byte was written before.
    Ready,
    /// All of it is moved.
    Done,
    /// It has ended early; what was unpacked stays.
    Failed(TransferFailure),
}

/// Why a transfer has ended early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferFailure {
    /// No such user in /etc/passwd (or none such, and no number).
    UnknownUser,
    /// No such group in /etc/group.
    UnknownGroup {
        /// The group's name, as asked.
        group: String,
    },
    /// Something could not be done to a file of the container's.
    File {
        /// "open", "make the folder", ...
        action: String,
        /// Which, as it was named.
        path: Vec<u8>,
        /// errno.
        errno: i32,
    },
    /// The stream is none, or broken.
    Stream {
        /// What was wrong.
        reason: String,
    },
    /// Something else: the system call, and its errno.
    System {
        /// "clone", "setgroups", ...
        call: String,
        /// errno.
        errno: i32,
    },
    /// The request makes no sense (wrong number of descriptors, NUL bytes, ...).
    Malformed {
        /// What was wrong.
        reason: String,
    },
}

/// A message that could not be encoded or understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Over [`MAX_REQUEST`] (or a packet over [`MAX_PACKET`]).
    #[error("message of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A version that this side does not speak.
    #[error("message of protocol version {0}; this side speaks up to {VERSION}")]
    Version(u8),
    /// Not the encoding of a message, or bytes are left over.
    #[error("malformed message: {0}")]
    Malformed(String),
}

/// Encodes a message with its version byte.
///
/// # Errors
/// [`WireError::TooLarge`] over [`MAX_REQUEST`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let bytes = postcard::to_extend(message, vec![VERSION]).map_err(|e| WireError::Malformed(e.to_string()))?;
    if bytes.len() > MAX_REQUEST {
        return Err(WireError::TooLarge { bytes: bytes.len(), limit: MAX_REQUEST });
    }
    Ok(bytes)
}

/// Decodes what [`encode`] made. Whole or not at all; garbage is an error, never a panic.
///
/// # Errors
/// Each of [`WireError`].
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, WireError> {
    if bytes.len() > MAX_REQUEST {
        return Err(WireError::TooLarge { bytes: bytes.len(), limit: MAX_REQUEST });
    }
    let (&version, body) = bytes.split_first().ok_or_else(|| WireError::Malformed("empty".into()))?;
    if version == 0 || version > VERSION {
        return Err(WireError::Version(version));
    }
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(WireError::Malformed(format!("{} bytes left over", rest.len()))),
        Err(error) => Err(WireError::Malformed(error.to_string())),
    }
}
