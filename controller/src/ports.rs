//! The node as the controller sees it: what it can ask for, in our words.
//!
//! Every method is idempotent unless it says otherwise, has a deadline of its own, and says in its
//! error what was attempted on what. The fakes under [`crate::fake`] and the real adapters pass
//! the same contract tests.

use crate::addresses::Asked;
use crate::record::{
    Addresses, ContainerRecord, ContainerSpec, ContainerUid, ExitStatus, Handle, ImageCredentials, ImageDigest,
    ImageReference, Limits, PortIn, ProcessSpec, ProcessUid, ResolvedImage, RootfsSource, RuleOut, SandboxId,
    SandboxKind, WindowSize,
};
use async_trait::async_trait;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

/// What a port answers when it cannot do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct NodeError {
    /// Of which sort.
    pub kind: NodeErrorKind,
    /// What was attempted on what, what went wrong, what to do. Shown to people.
    pub message: String,
}

/// What can be done about a [`NodeError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeErrorKind {
    /// What was asked for cannot be had (a missing folder, say); asking again will not help.
    Invalid,
    /// A part of the node does not answer (containerd, a shim); asking again may help.
    Unavailable,
    /// What was asked about is not there.
    NotFound,
    /// It would not die within its deadline. Retried for ever.
    Stuck,
    /// Anything else that failed; the place that it failed on is of no further use.
    Failed,
}

impl NodeError {
    /// An error of `kind`.
    pub fn new(kind: NodeErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// A place as it was found on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxSeen {
    /// Which.
    pub id: SandboxId,
    /// Its init runs.
    pub running: bool,
}

/// Places: containerd containers whose task runs garden-init.
#[async_trait]
pub trait Sandboxes: Send + Sync {
    /// Every place of this gardend's that can be found, whole or in part: containerd's containers
    /// and tasks, folders, cgroups. Nothing of anybody else's.
    async fn list(&self) -> Result<Vec<SandboxSeen>, NodeError>;

    /// Makes the place and waits until its init listens. Already so: nothing to do. Half made by
    /// an earlier attempt: an error of kind `Failed` (the caller removes it and takes another).
    async fn ensure(&self, id: &SandboxId, kind: SandboxKind) -> Result<(), NodeError>;

    /// Whether a blank place is as [`Self::ensure`] would make it now, and not one that an earlier
    /// gardend made with other settings.
    async fn is_current(&self, id: &SandboxId, kind: SandboxKind) -> bool;

    /// Writes on the place whose it is, for people who look at the node with containerd's tools.
    async fn label(&self, id: &SandboxId, container: &ContainerUid, handle: &Handle) -> Result<(), NodeError>;

    /// Kills all that runs in the place. On return every process is gone, and with them every
    /// mount. Needs no containerd. A place that is not there is dead.
    ///
    /// # Errors
    /// `Stuck` where something did not die within the deadline (15 s at most).
    async fn kill(&self, id: &SandboxId) -> Result<(), NodeError>;

    /// Removes what is left of a killed place: containerd's objects, shim, cgroup, folders.
    async fn remove(&self, id: &SandboxId) -> Result<(), NodeError>;
}

/// A container's files.
#[async_trait]
pub trait Rootfs: Send + Sync {
    /// Refuses what cannot be had before anything is made: a rootfs that is missing or not a
    /// folder, a bind source that is missing, a limit of the disk that could not be kept.
    async fn check(&self, spec: &ContainerSpec) -> Result<(), NodeError>;

    /// Furnishes a blank place: root, /proc, /dev, /sys, hosts, bind mounts, hostname. `network` is
    /// what hosts and resolv.conf tell of; `None`: the place has its own loopback alone. Not
    /// idempotent and never resumed: a place whose furnishing failed is killed and replaced.
    async fn furnish(
        &self,
        sandbox: &SandboxId,
        container: &ContainerUid,
        handle: &Handle,
        spec: &ContainerSpec,
        network: Option<&NetworkWanted>,
    ) -> Result<(), NodeError>;

    /// Removes what furnishing left on the host for this container (the writable layer). Called
    /// after its place was killed for good.
    async fn release(&self, container: &ContainerUid) -> Result<(), NodeError>;

    /// Containers for which something is kept on the host.
    async fn list(&self) -> Result<Vec<ContainerUid>, NodeError>;
}

/// An image that is on the node, and stays there.
#[derive(Clone)]
pub struct Pulled {
    /// What the reference means now.
    pub image: ResolvedImage,
    /// Held until the image is recorded as in use: until then it is not collected.
    pub pin: Arc<dyn Any + Send + Sync>,
    /// What had to be fetched for it; 0 where all of it was here.
    pub bytes: u64,
}

/// An image that is on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSeen {
    /// By what names, as containerd's tools show them. None where its name was taken away, or moved
    /// to another image, while it is in use.
    pub names: Vec<String>,
    /// Of its manifest.
    pub digest: ImageDigest,
    /// What its files take on the disk, unpacked. Layers that it shares with others count in each.
    pub bytes: u64,
    /// When a container was last made of it.
    pub last_used: SystemTime,
    /// Whether something uses it, or is about to.
    pub in_use: bool,
}

/// Which images nobody needs any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collect {
    /// As surplus, by somebody who asks again and again: not more often than is of use.
    Routine,
    /// Those beyond the age and the space that the node's options allow, oldest first.
    Surplus,
    /// All that nobody uses.
    Unused,
}

/// How far a pull is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Bytes of layers, packed, that are on the node.
    pub bytes: u64,
    /// Of so many; 0 until that is known.
    pub total: u64,
    /// Layers in all.
    pub layers: u64,
    /// Layers that are unpacked.
    pub unpacked: u64,
}

/// Asked at the instant of a decision: the manifests, and the chains of layers, of all images that
/// are in use.
pub type InUse<'a> = &'a (dyn Fn() -> BTreeSet<ImageDigest> + Send + Sync);

/// Images, from registries and OCI layouts, and what of them is on the node.
#[async_trait]
pub trait Images: Send + Sync {
    /// Sees to it that the image is on the node, and tells what it is. Who asks for what is being
    /// pulled already waits for that. Dropped before it has resolved, a pull that nobody else
    /// waits for is given up. It has no deadline as a whole: it fails where it makes no progress.
    ///
    /// # Errors
    /// `Invalid` where there is no such image, or none for this machine, or it is not what it says
    /// it is, or the credentials do not suffice; `Unavailable` where asking again may help.
    async fn pull(
        &self,
        reference: &ImageReference,
        credentials: Option<&ImageCredentials>,
    ) -> Result<Pulled, NodeError>;

    /// The images of this gardend's that are on the node, the one used last first.
    async fn list(&self, in_use: InUse<'_>) -> Result<Vec<ImageSeen>, NodeError>;

    /// Removes images that nobody uses; answers which. What is in use stays, whatever is asked.
    async fn collect(&self, which: Collect, in_use: InUse<'_>) -> Result<Vec<ImageSeen>, NodeError>;

    /// What [`Images::collect`] would remove now.
    async fn surplus(&self, which: Collect, in_use: InUse<'_>) -> Result<Vec<ImageSeen>, NodeError>;

    /// How far the pull of this image is, where one is under way.
    fn pulling(&self, reference: &ImageReference) -> Option<PullProgress>;
}

/// A process as its init knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSeen {
    /// Which.
    pub uid: ProcessUid,
    /// In the host's pid namespace; 0 once it has ended.
    pub pid: u32,
    /// How it ended, where it has.
    pub exit: Option<ExitStatus>,
}

/// A process that could not be started. Nothing of it remains.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpawnError {
    /// The program is not there.
    #[error("exec: \"{program}\": executable file not found in $PATH")]
    ExecutableNotFound {
        /// As it was asked for.
        program: String,
    },
    /// The program is there but cannot be run.
    #[error("exec: \"{program}\": {reason}")]
    NotExecutable {
        /// As it was asked for.
        program: String,
        /// permission denied, exec format error, missing interpreter, ...
        reason: String,
    },
    /// The container does not know the user.
    #[error("unable to find user {user}: no matching entries in passwd file")]
    UnknownUser {
        /// As it was asked for.
        user: String,
    },
    /// The container does not know the group.
    #[error("unable to find group {group}: no matching entries in group file")]
    UnknownGroup {
        /// As it was asked for.
        group: String,
    },
    /// The working folder cannot be made or entered.
    #[error("working directory {dir}: {reason}")]
    BadDir {
        /// As it was asked for.
        dir: String,
        /// Why.
        reason: String,
    },
    /// A resource limit above what this node can give.
    #[error(
        "rlimit {resource} of {asked} is above the ceiling {ceiling} of this node; ask for less, or give gardend CAP_SYS_RESOURCE"
    )]
    RlimitAboveCeiling {
        /// Which.
        resource: String,
        /// What was asked for.
        asked: u64,
        /// What can be had.
        ceiling: u64,
    },
    /// The whole is larger than one process may be given.
    #[error("the process's path, arguments and environment are {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// What was asked for.
        bytes: usize,
        /// What can be had.
        limit: usize,
    },
    /// Its place does not answer; whether the process started is not known.
    #[error("the container's init does not answer: {reason}")]
    InitGone {
        /// What was seen.
        reason: String,
    },
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

/// What an init tells without being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// A process ended.
    Exited {
        /// Where.
        sandbox: SandboxId,
        /// Which.
        process: ProcessUid,
        /// How.
        status: ExitStatus,
    },
    /// The last process of a place is gone; init alone is left.
    Emptied {
        /// Where.
        sandbox: SandboxId,
    },
    /// An init is gone, and with it all that ran in its place.
    InitGone {
        /// Which.
        sandbox: SandboxId,
        /// What was seen.
        reason: String,
    },
}

/// A signal that Garden knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Signal {
    Terminate,
    Kill,
}

/// What runs in places, by their inits.
#[async_trait]
pub trait Processes: Send + Sync {
    /// Connects to the place's init (or finds the connection made) and takes over every process
    /// that it knows, with its streams. Deadline 1 s.
    async fn connect(&self, sandbox: &SandboxId) -> Result<Vec<ProcessSeen>, NodeError>;

    /// Forgets the connection and the streams of a place that is gone; readers get their end.
    async fn disconnect(&self, sandbox: &SandboxId);

    /// Starts a process; answers its pid on the host, or 0 where it has ended already. NOT idempotent: at most once.
    /// `env` is the container's, below the process's own.
    async fn spawn(
        &self,
        sandbox: &SandboxId,
        process: &ProcessUid,
        env: &[String],
        spec: &ProcessSpec,
    ) -> Result<u32, SpawnError>;

    /// Sends a signal to one process. One that has ended: nothing to do.
    async fn signal(&self, sandbox: &SandboxId, process: &ProcessUid, signal: Signal) -> Result<(), NodeError>;

    /// Sends a signal to every process of the place but its init.
    async fn signal_all(&self, sandbox: &SandboxId, signal: Signal) -> Result<(), NodeError>;

    /// Whether anything but init runs in the place.
    async fn occupied(&self, sandbox: &SandboxId) -> Result<bool, NodeError>;

    /// The exit status is safe in the ledger: once the process's output has been moved too, its
    /// init may forget it.
    async fn acknowledge(&self, sandbox: &SandboxId, process: &ProcessUid) -> Result<(), NodeError>;

    /// Where events come from. One receiver; bounded, so that it must be read.
    fn events(&self) -> tokio::sync::mpsc::Receiver<ProcessEvent>;
}

/// Which of a process's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// A reader's place in a process's output, taken when it attached and used when it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReaderId(pub u64);

/// What flows in and out of processes.
#[async_trait]
pub trait Streams: Send + Sync {
    /// Takes a place in both outputs as of now: the first reader after a time without any gets
    /// what was spooled meanwhile, each further one what comes from now on.
    /// `None` where nothing is known of the process's streams.
    fn attach(&self, process: &ProcessUid) -> Option<ReaderId>;

    /// Gives the place up; what was not read stays for the next one.
    fn detach(&self, process: &ProcessUid, reader: ReaderId);

    /// Moves output into a connected socket (TCP or unix, non-blocking) until the stream's end or
    /// the peer's, then closes it with FIN. Returns when that is done. An unknown process or
    /// reader: closes it at once.
    async fn read(&self, process: &ProcessUid, reader: ReaderId, stream: OutputStream, socket: OwnedFd);

    /// Writes to the process's stdin; waits while its pipe is full. Data after stdin's end, or
    /// for a process that has ended, is discarded.
    async fn write_stdin(&self, process: &ProcessUid, data: &[u8]);

    /// Ends stdin, of a pipe; a terminal's is left open. A second end is harmless.
    async fn close_stdin(&self, process: &ProcessUid);

    /// Gives the terminal a new size; a process without one ignores it.
    async fn resize(&self, process: &ProcessUid, size: WindowSize);

    /// Removes what was spooled for a process whose record goes.
    async fn forget(&self, process: &ProcessUid);

    /// Removes spools of processes other than these (after a restart).
    async fn retain(&self, processes: &[ProcessUid]);
}

/// Files that could not be moved, or not all of them. What was moved before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilesError {
    /// The container does not know the user.
    #[error("unable to find user {user}: no matching entries in passwd file")]
    UnknownUser {
        /// As it was asked for.
        user: String,
    },
    /// The container does not know the group.
    #[error("unable to find group {group}: no matching entries in group file")]
    UnknownGroup {
        /// As it was asked for.
        group: String,
    },
    /// Something could not be done to a file of the container's.
    #[error("cannot {action} {path}: {reason}")]
    File {
        /// "open", "make the folder", ...
        action: String,
        /// Which.
        path: String,
        /// As the C library has it: "Permission denied", "No such file or directory", ...
        reason: String,
    },
    /// The stream is no tar stream, or a broken one.
    #[error("{0}")]
    Stream(String),
    /// What moved the files was killed: the container was destroyed or stopped, most often.
    #[error("it was ended before it was done: the container was stopped or destroyed, or has no memory left")]
    Killed,
    /// The container's init does not answer, or what moves the files does not go on.
    #[error("the container does not answer: {reason}")]
    NoAnswer {
        /// What was seen.
        reason: String,
    },
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

/// A tar stream that flows.
pub struct FileStream {
    /// Our end of a pipe, non-blocking: the stream is written to it (and ended by closing it), or
    /// read from it. Closing it early ends the whole.
    pub pipe: OwnedFd,
    /// How it ended, once that is known. Of a stream into a container: after the pipe was closed,
    /// or at once where it cannot go on. Of one out of a container: after its last byte; without
    /// an `Ok` what was read is not all there is. Without a deadline, since a stream may flow for
    /// as long as its client likes: whoever waits for it alone sets one.
    pub outcome: Pin<Box<dyn Future<Output = Result<(), FilesError>> + Send>>,
}

/// A container's files, moved by processes of its own that are none of its processes: they count
/// for nobody, and a stop leaves them alone unless it kills.
#[async_trait]
pub trait Files: Send + Sync {
    /// Unpacks a tar stream (which may be compressed by gzip) as `user` (empty: root) into a
    /// folder, which is made where it is missing. On return it has begun.
    async fn stream_in(&self, sandbox: &SandboxId, user: &str, destination: &str) -> Result<FileStream, FilesError>;

    /// Packs a file, a folder, or (`source` ends in a slash) a folder's contents. On return the
    /// source was found to be there, and readable by the user.
    async fn stream_out(&self, sandbox: &SandboxId, user: &str, source: &str) -> Result<FileStream, FilesError>;
}

/// What the node holds containers to, and what it killed because of that.
#[async_trait]
pub trait Resources: Send + Sync {
    /// Refuses limits that this node cannot keep, before anything is made (`Invalid`). Those of the
    /// disk are [`Rootfs::check`]'s.
    async fn check(&self, spec: &ContainerSpec) -> Result<(), NodeError>;

    /// Puts a container's limits in force on its place, before anything but init runs there, or later
    /// where a limit of the same kind is in force already. Idempotent. Init is not subject to them.
    async fn limit(&self, sandbox: &SandboxId, spec: &ContainerSpec) -> Result<(), NodeError>;

    /// The limits in force, read back from the node: what was asked for, in the steps that the
    /// node can keep. Zero where there is none.
    async fn in_force(
        &self,
        sandbox: &SandboxId,
        container: &ContainerUid,
        spec: &ContainerSpec,
    ) -> Result<Limits, NodeError>;

    /// What the kernel has killed in the place for want of memory, since the place was made. From
    /// then on [`Resources::oom_events`] tells of the place.
    async fn oom(&self, sandbox: &SandboxId) -> Result<OomSeen, NodeError>;

    /// Places in which something may have been killed for want of memory: a look at
    /// [`Resources::oom`] tells. One receiver. Some may be lost.
    fn oom_events(&self) -> tokio::sync::mpsc::Receiver<SandboxId>;
}

/// A container's network as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkWanted {
    /// Whose.
    pub container: ContainerUid,
    /// By what name; it stands in the kernel's log before each connection that is logged.
    pub handle: Handle,
    /// The place that has it at present.
    pub sandbox: SandboxId,
    /// Where it is.
    pub addresses: Addresses,
    /// What leads to it.
    pub ports_in: Vec<PortIn>,
    /// What it may reach.
    pub rules_out: Vec<RuleOut>,
    /// Bytes a second, each way; 0: no limit.
    pub bandwidth_rate: u64,
    /// Bytes that may go at once; 0: as many as suit the rate.
    pub bandwidth_burst: u64,
}

impl NetworkWanted {
    /// What a container's record asks for; `None` as long as it has no place or no addresses.
    pub fn of(record: &ContainerRecord) -> Option<Self> {
        Some(Self {
            container: record.uid.clone(),
            handle: record.handle.clone(),
            sandbox: record.sandbox.clone()?,
            addresses: record.addresses.clone()?,
            ports_in: record.ports_in.clone(),
            rules_out: record.rules_out.clone(),
            bandwidth_rate: record.spec.limits.bandwidth_rate,
            bandwidth_burst: record.spec.limits.bandwidth_burst,
        })
    }
}

/// A place that is to be given a link and addresses by the node's network itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachWanted {
    /// Whose.
    pub container: ContainerUid,
    /// By what name.
    pub handle: Handle,
    /// Which.
    pub sandbox: SandboxId,
    /// What its client asks for.
    pub asked: Asked,
    /// What leads to it from the beginning.
    pub ports_in: Vec<PortIn>,
    /// Bytes a second, each way; 0: no limit.
    pub bandwidth_rate: u64,
    /// Bytes that may go at once; 0: as many as suit the rate.
    pub bandwidth_burst: u64,
}

/// A question that is answered with what is wanted at the moment when it is asked: a look into the
/// controller's memory, without I/O.
pub type WantedNow<'a, T> = &'a (dyn Fn() -> T + Send + Sync);

/// Links, addresses, ports in, rules out.
///
/// Fails closed: what is not in force yet, or any more, lets nothing through.
///
/// [`Network::ensure`], [`Network::release`] and [`Network::restore`] exclude each other, and ask
/// what is wanted once they have their turn. So an answer is never older than what was done before:
/// of two changes at once neither undoes the other, and nothing is put back that was released.
#[async_trait]
pub trait Network: Send + Sync {
    /// Refuses a rule that the node cannot keep, before anything is recorded (`Invalid`).
    async fn check_rules(&self, rules: &[RuleOut]) -> Result<(), NodeError>;

    /// Refuses a port of the node's that a program on the node listens on (`Invalid`).
    async fn check_port(&self, host_port: u16) -> Result<(), NodeError>;

    /// Gives a place its link and addresses, where the node's network says itself what they are
    /// ([`AddressSource::Node`](crate::AddressSource::Node)); asked before [`Network::ensure`], which
    /// wants to know them. Idempotent: what a place was given it keeps. What its container had in
    /// another place is taken away before. `found` is told before anybody else has a turn with this
    /// container: a write to the controller's memory, without I/O.
    ///
    /// # Errors
    /// `NotFound` where it is not wanted any more. Whatever was begun is undone, or by the next
    /// [`Network::release`], [`Network::restore`] or the next call of this. By default `Invalid`.
    async fn attach(
        &self,
        wanted: WantedNow<'_, Option<AttachWanted>>,
        _found: &(dyn Fn(Addresses) + Send + Sync),
    ) -> Result<Addresses, NodeError> {
        let asked = wanted().map_or_else(String::new, |wanted| format!("of container '{}' ", wanted.handle));
        let message = format!("the address {asked}is not this network's to give");
        Err(NodeError::new(NodeErrorKind::Invalid, message))
    }

    /// Makes one container's network what it shall be, from whatever it is: link, addresses,
    /// routes, ports in, rules out, bandwidth. Idempotent. On return all of it is in force.
    ///
    /// # Errors
    /// `NotFound` where it is not wanted any more: nothing was done.
    async fn ensure(&self, wanted: WantedNow<'_, Option<NetworkWanted>>) -> Result<(), NodeError>;

    /// Takes one container's network away, after its place was killed and once it is no answer to
    /// what is wanted any more. On return nothing leads to its addresses and ports, and nothing
    /// more leaves from them. Idempotent. What another has by now, be it the same address or port,
    /// is left alone.
    async fn release(&self, container: &ContainerUid) -> Result<(), NodeError>;

    /// Makes the whole node's network that of these containers and of no others: at the start,
    /// and at each look of the sweeper. What is as it shall be stays undisturbed, connections
    /// included; what others changed or removed is put back; what nobody wants is removed. One
    /// whose place is gone is left to [`Network::ensure`]; and what [`Network::attach`] gave and is gone
    /// comes with the container's next place.
    ///
    /// The answer names every container that is wanted and whose place is made, those too whose
    /// first `ensure` is still to come.
    ///
    /// # Errors
    /// Those that could not be made, which are cut off until the next time, are named. All others
    /// are as they shall be.
    async fn restore(&self, wanted: WantedNow<'_, Vec<NetworkWanted>>) -> Result<(), NodeError>;

    /// What is asked of a place's links at present, read back from the kernel: bytes a second and
    /// burst, zero where there is no limit.
    ///
    /// # Errors
    /// `NotFound` where the place is gone, or has no link.
    async fn bandwidth(&self, sandbox: &SandboxId) -> Result<(u64, u64), NodeError>;

    /// The node's rules may have been changed by others: time for [`Network::restore`]. One receiver.
    fn disturbed(&self) -> tokio::sync::mpsc::Receiver<()>;
}

/// See [`Resources::oom`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OomSeen {
    /// Processes that were killed, so far.
    pub kills: u64,
    /// The last of them and why, in words, where the node can tell.
    pub last: Option<String>,
}

/// A container, or a process in it, that figures are asked of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Where it runs.
    pub sandbox: SandboxId,
    /// Which.
    pub container: ContainerUid,
    /// What its files are.
    pub rootfs: RootfsSource,
    /// The one that is asked of. One without limits of its own has its container's figures.
    pub process: Option<ProcessUid>,
}

/// What a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory.
    pub memory: MemoryUsage,
    /// Processor time.
    pub cpu: CpuUsage,
    /// Processes and threads.
    pub pids: PidUsage,
    /// Files.
    pub disk: DiskUsage,
    /// Network; `None` for a container that has none but its own loopback.
    pub network: Option<NetworkUsage>,
}

/// See [`Usage`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// The kernel's figures, in bytes and events, by its own names (`total_rss`, `anon`, ...). Which
    /// there are depends on the version of cgroups.
    pub stat: BTreeMap<String, u64>,
    /// What counts towards a limit: all but file pages that can be dropped at any time.
    pub toward_limit: u64,
}

/// See [`Usage`]. In nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CpuUsage {
    pub total: u64,
    pub user: u64,
    pub system: u64,
}

/// See [`Usage`]. Without init, which no limit counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidUsage {
    /// Now.
    pub current: u64,
    /// At most; 0 where there is no limit.
    pub max: u64,
}

/// See [`Usage`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// With what it shares with others.
    pub total_bytes: u64,
    /// With what it shares with others.
    pub total_inodes: u64,
    /// Its own.
    pub exclusive_bytes: u64,
    /// Its own.
    pub exclusive_inodes: u64,
}

/// See [`Usage`]. In bytes, as the container sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NetworkUsage {
    pub received: u64,
    pub sent: u64,
}

/// What containers use.
#[async_trait]
pub trait Metrics: Send + Sync {
    /// One answer for each, in their order. One whose place is gone is `NotFound`, and harms none
    /// of the others.
    async fn usage(&self, of: Vec<Measured>) -> Vec<Result<Usage, NodeError>>;

    /// What the node has left for containers. Deadline 5 s, by whoever asks.
    async fn headroom(&self) -> Result<Headroom, NodeError>;
}

/// What a node has left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headroom {
    /// The machine's memory that can be had without swapping; `None` where that is not known.
    pub memory: Option<Room>,
    /// Each file system that gardend and its containers write to, by a folder on it.
    pub disks: Vec<(String, Room)>,
}

/// How much of something is left, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// So much.
    pub free: u64,
    /// Of so much.
    pub total: u64,
}
